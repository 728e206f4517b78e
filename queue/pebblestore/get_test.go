package pebblestore

import (
	"errors"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"

	"odmr/internal/mail"
	"odmr/queue"
	"odmr/queue/conformance"
	"odmr/queue/pebblestore/crashfs"
)

// TestDiskFailsToReadBodies: a disk that fails to read for a while has damaged nothing. What it does not give is asked for again,
// in its place in line: bodies that stand beside their entry, and those that stand alone. Found by the simulator, seed 54611.
func TestDiskFailsToReadBodies(t *testing.T) {
	disk := crashfs.New()
	opts := testOptions(t, disk.FS())
	seen := &events{t: t, lenient: true} // Pebble reads a table's statistics by itself, and says so when it cannot
	opts.Events = seen
	s, err := Open("queue", opts.Still())
	if err != nil {
		t.Fatal(err)
	}
	sizes := []int{1300, 300_000, 700, 6000, 1300}
	for _, size := range sizes {
		putTest(t, s, size, "a.example")
	}
	if err := errors.Join(s.db.Flush(), s.Close()); err != nil {
		t.Fatal(err)
	}
	if s, err = Open("queue", opts.Still()); err != nil {
		t.Fatal(err)
	}
	collect := func(l queue.Lease, messages int) []queue.Delivery {
		ds, err := l.Next(nil, queue.Limit{Messages: messages, Bytes: 10 << 20})
		if err != nil && !errors.Is(err, crashfs.ErrInjected) {
			t.Fatal(err)
		}
		return ds
	}
	lease := func() queue.Lease {
		l, err := s.Acquire([]string{"a.example"})
		if err != nil {
			t.Fatal(err)
		}
		return l
	}
	l := lease() // reads all entries, and the body of one
	l.SmallFirst(800)
	for _, d := range collect(l, 1) {
		d.Body.Close()
	}
	l.Release()
	l = lease()
	disk.FailReads()
	ds := collect(l, 10)
	disk.MendReads()
	for more := collect(l, 10); len(more) > 0; more = collect(l, 10) {
		ds = append(ds, more...)
	}
	if len(ds) != len(sizes) {
		t.Fatalf("%d deliveries", len(ds))
	}
	for i, d := range ds {
		body, err := conformance.ReadBody(d.Body)
		if err != nil || len(body) != sizes[i] {
			t.Errorf("delivery %d has %d octets, want %d: %v", i, len(body), sizes[i], err)
		}
	}
	l.Release()
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	for _, err := range seen.problems {
		if !errors.Is(err, crashfs.ErrInjected) || strings.Contains(err.Error(), "stays in the queue") {
			t.Errorf("event: %v", err)
		}
	}
}

// A lease that passes over what cannot be read hands out the rest, in order, and leaves those to a later one; they are not
// taken for damaged.
func TestPassOver(t *testing.T) {
	mem := vfs.NewMem()
	opts := testOptions(t, mem)
	s := mustOpen(t, "queue", opts)
	sizes := []int{100, 9000, 50, 20_000, 100}
	var ids []mail.ID
	for _, size := range sizes {
		ids = append(ids, putTest(t, s, size, "a.example"))
	}
	if err := errors.Join(s.db.Flush(), s.Close()); err != nil {
		t.Fatal(err)
	}
	var broken atomic.Bool
	opts.FS = errorfs.Wrap(mem, errorfs.InjectorFunc(func(op errorfs.Op) error {
		if broken.Load() && op.Kind == errorfs.OpFileReadAt && strings.HasSuffix(op.Path, ".blob") { // where the larger bodies stand
			return errorfs.ErrInjected
		}
		return nil
	}))
	opts.CacheSize = 1
	s = mustOpen(t, "queue", opts)
	drain := func(passOver bool) (got, unread []mail.ID, err error) {
		l, err := s.Acquire([]string{"a.example"})
		if err != nil {
			t.Fatal(err)
		}
		defer l.Release()
		if passOver {
			l.PassOver(func(id mail.ID, err error) {
				if !errors.Is(err, errorfs.ErrInjected) {
					t.Error(err)
				}
				unread = append(unread, id)
			})
		}
		for {
			ds, err := l.Next(nil, queue.Limit{Messages: 2, Bytes: 1 << 20})
			for _, d := range ds {
				got = append(got, d.Envelope.ID)
				d.Body.Close()
			}
			if err != nil || len(ds) == 0 {
				return got, unread, err
			}
		}
	}
	for range 2 {
		broken.Store(true)
		if got, _, err := drain(false); !errors.Is(err, errorfs.ErrInjected) || len(got) != 1 {
			t.Fatalf("without passing over: %v, %v", got, err)
		}
		got, unread, err := drain(true)
		if err != nil || !slices.Equal(got, []mail.ID{ids[0], ids[2], ids[4]}) || !slices.Equal(unread, []mail.ID{ids[1], ids[3]}) {
			t.Errorf("got %v, passed over %v, %v; of %v", got, unread, err, ids)
		}
		broken.Store(false)
		if got, unread, err := drain(true); err != nil || !slices.Equal(got, ids) || len(unread) > 0 {
			t.Errorf("when it can be read: got %v, passed over %v, %v; of %v", got, unread, err, ids)
		}
	}
}
