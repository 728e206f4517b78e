package pebblestore

import (
	"sync/atomic"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"
)

// testPace is a pace with a clock that stands until it is set, which counts what flushes rest.
func testPace() (p *pace, at *time.Time, rested *atomic.Int64) {
	at, rested = new(time.Time), new(atomic.Int64)
	*at = time.Unix(1_700_000_000, 0)
	p = &pace{now: func() time.Time { return *at }, sleep: func(d time.Duration) { rested.Add(int64(d)) }, before: *at}
	return p, at, rested
}

// TestPace: a flush rests for half the time that its memtable took to become full, and no longer than half a second; not if another is
// full, and no more once another is.
func TestPace(t *testing.T) {
	const memtable = 32 << 20
	for _, c := range []struct {
		name        string
		after, want time.Duration
		input       int
		hurried     bool // another became full half-way
	}{
		{name: "busy", after: 400 * time.Millisecond, want: 200 * time.Millisecond, input: 1},
		{name: "quiet", after: time.Hour, want: longestFlush, input: 1},
		{name: "two memtables", after: 400 * time.Millisecond, input: 2},
		{name: "another full half-way", after: 400 * time.Millisecond, want: 100 * time.Millisecond, input: 1, hurried: true},
		{name: "clock set back", after: -time.Hour, input: 1},
	} {
		t.Run(c.name, func(t *testing.T) {
			p, at, rested := testPace()
			*at = at.Add(c.after)
			p.begin(pebble.FlushInfo{Input: c.input, InputBytes: memtable})
			f, err := paced{vfs.NewMem(), p}.Create("1.blob", flushCategory)
			if err != nil {
				t.Fatal(err)
			}
			block := make([]byte, 48<<10)
			for written := 0; written < memtable; written += len(block) {
				if c.hurried && written >= memtable/2 {
					p.hurry()
				}
				if n, err := f.Write(block); n != len(block) || err != nil {
					t.Fatal(n, err)
				}
			}
			if got := time.Duration(rested.Load()); got < c.want*98/100 || got > c.want*102/100 {
				t.Errorf("rested for %v, want %v", got, c.want)
			}
			if err := f.Close(); err != nil {
				t.Fatal(err)
			}
		})
	}
}

// TestOnlyFlushesAreHeldUp: files of the log and of compactions rest for nothing.
func TestOnlyFlushesAreHeldUp(t *testing.T) {
	p, at, rested := testPace()
	*at = at.Add(time.Second)
	p.begin(pebble.FlushInfo{Input: 1, InputBytes: 1 << 20})
	for _, category := range []vfs.DiskWriteCategory{"pebble-wal", "pebble-compaction", "pebble-blob-file-rewrite", vfs.WriteCategoryUnspecified} {
		f, err := paced{vfs.NewMem(), p}.Create("1", category)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := f.Write(make([]byte, 4<<20)); err != nil {
			t.Fatal(err)
		}
		if rested.Load() != 0 {
			t.Errorf("%s rested", category)
		}
	}
}

// TestFlushKeepsPace: what Pebble flushes goes through it, and arrives whole.
func TestFlushKeepsPace(t *testing.T) {
	c := newClock()
	s := mustOpen(t, t.TempDir(), Options{Now: c.now, Events: &events{t: t}, Ballast: -1})
	var rested atomic.Int64
	s.pace.sleep = func(d time.Duration) { rested.Add(int64(d)) } // nothing was flushed yet
	put := func(messages int) {
		for range messages {
			putTest(t, s, 16<<10, "a.example")
		}
	}
	put(256) // Pebble's first memtables are small
	if err := s.db.Flush(); err != nil {
		t.Fatal(err)
	}
	rested.Store(0)
	put(64)
	c.set(c.now().Add(time.Minute))
	if err := s.db.Flush(); err != nil {
		t.Fatal(err)
	}
	if got := time.Duration(rested.Load()); got < longestFlush/2 || got > longestFlush {
		t.Errorf("a flush of 1 MiB rested for %v", got)
	}
}
