package pebblestore

import (
	"errors"
	"testing"

	"odmr/queue"
	"odmr/queue/conformance"
	"odmr/queue/pebblestore/crashfs"
)

// TestDiskFailsToReadBodies: a disk that fails to read for a while has damaged nothing. What it does not give is asked for again,
// in its place in line: bodies that stand beside their entry, and those that stand alone. Found by the simulator, seed 54611.
func TestDiskFailsToReadBodies(t *testing.T) {
	disk := crashfs.New()
	opts := testOptions(t, disk.FS())
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
}
