package pebblestore

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"

	"odmr/internal/mail"
	"odmr/queue"
)

// A block that cannot be read hides what it held, and nothing behind it: the store opens, says that something is lost, and from
// where to where; lists, walks and leases show the rest.
func TestBrokenBlock(t *testing.T) {
	const messages, most = 900, 400 // most: that one block holds
	whole := vfs.NewMem()
	opts := testOptions(t, whole)
	s := mustOpen(t, "queue", opts)
	for range messages {
		putTest(t, s, 50, "a.example")
	}
	putTest(t, s, 50, "z.example")
	if err := errors.Join(s.db.Flush(), s.Close()); err != nil {
		t.Fatal(err)
	}
	names, err := whole.List("queue")
	if err != nil {
		t.Fatal(err)
	}
	hidden := 0
	for _, name := range names {
		if !strings.HasSuffix(name, ".sst") {
			continue
		}
		for place := range 10 {
			fs := broken(t, whole, name, place, 10)
			seen := &events{t: t, lenient: true}
			opts := opts
			opts.FS, opts.Events, opts.CacheSize = fs, seen, 8<<20
			s, err := Open("queue", opts.Still())
			if err != nil {
				if place < 9 { // behind the blocks is what says where they are
					t.Errorf("%s, place %d: %v", name, place, err)
				}
				continue
			}
			hidden += brokenStore(t, s, seen, fmt.Sprintf("%s, place %d", name, place), messages-most)
			if err := s.Close(); err != nil {
				t.Error(err)
			}
		}
	}
	if hidden == 0 {
		t.Error("no entry was ever hidden: nothing was tested")
	}
}

// brokenStore looks at a store of which a block is broken, and says how many entries cannot be seen.
func brokenStore(t *testing.T, s *Store, seen *events, what string, least int) (hidden int) {
	t.Helper()
	listed, z := 0, false
	if err := s.List("", func(e queue.Entry) bool { listed++; z = z || e.Envelope.Domain == "z.example"; return true }); err != nil {
		t.Errorf("%s: list: %v", what, err)
	}
	hidden = least + 400 + 1 - listed
	if listed < least || !z && hidden == 0 {
		t.Errorf("%s: %d are listed", what, listed)
	}
	walked := 0
	for _, d := range []string{"a.example", "z.example"} {
		if err := s.Walk(d, queue.Waiting, 0, func(queue.Key, *mail.Envelope) bool { walked++; return true }); err != nil {
			t.Errorf("%s: walk: %v", what, err)
		}
	}
	if walked != listed {
		t.Errorf("%s: %d are walked over, %d listed", what, walked, listed)
	}
	violations := 0
	checked, err := s.Check(context.Background(), nil, func(v queue.Violation) { violations++ })
	if err != nil || int(checked.Entries) != listed {
		t.Errorf("%s: check: %v, %d entries, %d listed", what, err, checked.Entries, listed)
	}
	if problems, _, _ := seen.counts(); hidden > 0 && (violations == 0 || problems == 0) {
		t.Errorf("%s: %d are hidden, and nobody says so: %d violations, %d events", what, hidden, violations, problems)
	}
	brokenLease(t, s, what)
	return hidden
}

// brokenLease looks at what a session is handed: all that stands before the first place that cannot be read.
func brokenLease(t *testing.T, s *Store, what string) {
	t.Helper()
	first := uint64(0) // the last entry before that place
	for _, g := range s.gaps.list {
		if _, seq, ok := parseEntryKey(g.from, spaceEntry); ok && string(g.from[1:len(g.from)-9]) == "a.example" {
			first = seq
		} else if g.from[0] != spaceEntry { // bodies are damaged, and passed over
			return
		}
	}
	var want, got []uint64
	if err := s.Walk("a.example", queue.Waiting, 0, func(k queue.Key, _ *mail.Envelope) bool {
		if k.Seq <= first || first == 0 {
			want = append(want, k.Seq)
		}
		return true
	}); err != nil {
		t.Fatal(err)
	}
	l, err := s.Acquire([]string{"a.example"})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Release()
	for {
		ds, err := l.Next(nil, queue.Limit{Messages: 70, Bytes: 1 << 20})
		for i := range ds {
			got = append(got, ds[i].Key.Seq)
			ds[i].Body.Close()
		}
		if err != nil || len(ds) == 0 {
			break
		}
	}
	if len(s.gaps.list) == 0 && len(got) < len(want) { // a body alone
		return
	}
	if !slices.Equal(got, want) {
		t.Errorf("%s: a lease hands out %d messages, %d stand before what cannot be read", what, len(got), len(want))
	}
}

// What one walk of a passage could not see to the end says nothing about the next: where the disk fails then, it says so.
func TestPassageBeginsAnew(t *testing.T) {
	var failing atomic.Bool
	mem := vfs.NewMem()
	opts := testOptions(t, errorfs.Wrap(mem, errorfs.InjectorFunc(func(op errorfs.Op) error {
		if failing.Load() && op.Kind == errorfs.OpFileReadAt && strings.HasSuffix(op.Path, ".sst") {
			return errorfs.ErrInjected
		}
		return nil
	})))
	seen := &events{t: t, lenient: true} // Pebble reads a table's statistics by itself
	opts.Events, opts.CacheSize = seen, 1
	s := mustOpen(t, "queue", opts)
	for range 2000 { // of more than one block
		putTest(t, s, 50, "a.example")
	}
	if err := s.db.Flush(); err != nil {
		t.Fatal(err)
	}
	p, err := s.passReporting([]byte{spaceEntry}, []byte{spaceHeld + 1})
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	p.done, p.broken = true, maxBroken // as behind so many places, the last of which reaches to the end
	failing.Store(true)
	for seq, ok := uint64(0), p.First(); p.Error() == nil; ok = p.Next() { // to the first block that was not read yet
		if !ok {
			t.Fatalf("the walk ended behind %d entries, and says nothing of the disk", seq)
		}
		seq++
	}
	if !errors.Is(p.Error(), errorfs.ErrInjected) || p.broken != 0 {
		t.Error(p.Error(), p.broken)
	}
	failing.Store(false)
}

// broken is a copy of the store with an octet changed at that part of a file.
func broken(t *testing.T, from *vfs.MemFS, name string, place, of int) vfs.FS {
	t.Helper()
	to := vfs.NewMem()
	if _, err := vfs.Clone(from, to, "queue", "queue"); err != nil {
		t.Fatal(err)
	}
	path := to.PathJoin("queue", name)
	f, err := to.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	b, err := io.ReadAll(f)
	if err == nil {
		err = f.Close()
	}
	if err != nil {
		t.Fatal(err)
	}
	b[len(b)*place/of] ^= 0x40
	w, err := to.Create(path, vfs.WriteCategoryUnspecified)
	if err != nil {
		t.Fatal(err)
	}
	_, err = w.Write(b)
	if err := errors.Join(err, w.Close()); err != nil {
		t.Fatal(err)
	}
	return to
}
