package pebblestore

import (
	"slices"
	"testing"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"

	"odmr/internal/mail"
	"odmr/queue"
)

// placesRig is a store and one domain in it.
type placesRig struct {
	t *testing.T
	s *Store
}

func newPlacesRig(t *testing.T) *placesRig {
	return &placesRig{t, mustOpen(t, "queue", testOptions(t, vfs.NewMem()))}
}

func (r *placesRig) put(n int) (all []mail.ID) {
	for range n {
		all = append(all, putTest(r.t, r.s, 100, "a.example"))
	}
	return all
}

func (r *placesRig) lease() queue.Lease {
	r.t.Helper()
	l, err := r.s.Acquire([]string{"a.example"})
	if err != nil {
		r.t.Fatal(err)
	}
	return l
}

// next wants exactly these messages, and so many iterators made for them.
func (r *placesRig) next(l queue.Lease, want []mail.ID, scans int64) []queue.Delivery {
	r.t.Helper()
	before := r.s.scans.Load()
	ds, err := l.Next(nil, queue.Limit{Messages: 1000, Bytes: 1 << 20})
	if err != nil {
		r.t.Fatal(err)
	}
	var got []mail.ID
	for _, d := range ds {
		got = append(got, d.Envelope.ID)
		d.Body.Close()
	}
	if !slices.Equal(got, want) {
		r.t.Fatalf("got %v, want %v", got, want)
	}
	if n := r.s.scans.Load() - before; n != scans {
		r.t.Fatalf("%d iterators, want %d", n, scans)
	}
	return ds
}

// A short queue that came in lately is read without an iterator, while it waits for its customer and while
// a session stays for it; and nothing is made for an empty one.
func TestShortQueueNeedsNoIterator(t *testing.T) {
	r := newPlacesRig(t)
	for range 3 { // the domain is forgotten in between
		ids := r.put(maxPlaces)
		l := r.lease()
		ds := r.next(l, ids, 0)
		r.next(l, nil, 0)
		collect(t, l, ds)
		for range 2 { // for the session that stays
			ids = r.put(2)
			collect(t, l, r.next(l, ids, 0))
		}
		mustClean(t, r.s)
		l.Release()
		if r.s.remembered != 0 {
			t.Fatalf("%d places are remembered of an empty store", r.s.remembered)
		}
	}
}

// More than are remembered are read in a row, what comes then is remembered again; limits hold in the middle.
func TestLongQueueIsReadInARow(t *testing.T) {
	r := newPlacesRig(t)
	ids := r.put(maxPlaces + 3)
	mustClean(t, r.s)
	l := r.lease()
	defer l.Release()
	collect(t, l, r.next(l, ids, 1))
	ids = r.put(5)
	for i := range ids { // one by one
		ds, err := l.Next(nil, queue.Limit{Messages: 1, Bytes: 1})
		if err != nil || len(ds) != 1 || ds[0].Envelope.ID != ids[i] {
			t.Fatalf("%d: %v, %v", i, ds, err)
		}
		mustClean(t, r.s)
		collect(t, l, ds)
	}
	if n := r.s.scans.Load(); n != 1 {
		t.Fatalf("%d iterators, want 1", n)
	}
}

// What is remembered may be gone, be held, or come back; what was deferred or given back comes with the next lease,
// before what came later.
func TestPlacesAreOnlyHints(t *testing.T) {
	r := newPlacesRig(t)
	ids := r.put(5)
	if _, err := r.s.Remove("", ids[1]); err != nil {
		t.Fatal(err)
	}
	l := r.lease()
	ds := r.next(l, []mail.ID{ids[0], ids[2], ids[3], ids[4]}, 0)
	outcome := func(i int, status mail.OutcomeStatus) {
		t.Helper()
		if err := l.Settle([]queue.Settlement{{Key: ds[i].Key, Outcomes: []mail.Outcome{{Status: status}}}}); err != nil {
			t.Fatal(err)
		}
	}
	outcome(0, mail.OutcomeDeferred)
	outcome(1, mail.OutcomeHeld)
	outcome(2, mail.OutcomeDelivered)
	l.Release() // ids[4] is given back
	mustClean(t, r.s)
	late := r.put(2)
	l = r.lease()
	r.next(l, append([]mail.ID{ids[0], ids[4]}, late...), 0)
	if n, err := r.s.Release("", ids[2]); n != 1 || err != nil {
		t.Fatal(n, err)
	}
	r.next(l, ids[2:3], 0)
	l.Release()
	mustClean(t, r.s)
	l = r.lease()
	defer l.Release()
	r.next(l, append([]mail.ID{ids[0], ids[2], ids[4]}, late...), 0)
}

// A start knows no places; the bound over all domains makes new ones forgotten, and the mail is found all the same.
func TestPlacesThatAreNotKnown(t *testing.T) {
	fs := vfs.NewMem()
	r := &placesRig{t, mustOpen(t, "queue", testOptions(t, fs))}
	ids := r.put(2)
	if err := r.s.Close(); err != nil {
		t.Fatal(err)
	}
	r.s = mustOpen(t, "queue", testOptions(t, fs))
	ids = append(ids, r.put(1)...)
	mustClean(t, r.s)
	l := r.lease()
	collect(t, l, r.next(l, ids, 1))
	collect(t, l, r.next(l, r.put(2), 0))
	l.Release()

	r.s.mu.Lock()
	r.s.remembered += maxPlacesAll
	r.s.mu.Unlock()
	ids = r.put(2)
	r.s.mu.Lock()
	r.s.remembered -= maxPlacesAll
	r.s.mu.Unlock()
	ids = append(ids, r.put(1)...)
	mustClean(t, r.s)
	l = r.lease()
	defer l.Release()
	collect(t, l, r.next(l, ids, 1))
}

// A record that cannot be read is passed over among known places, too, and stays.
func TestPlacesOfADamagedRecord(t *testing.T) {
	opts := testOptions(t, vfs.NewMem())
	ev := opts.Events.(*events)
	ev.lenient = true
	s, err := Open("queue", opts)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	r := &placesRig{t, s}
	ids := r.put(3)
	key, rec := entryOf(t, s, ids[1], "a.example")
	if err := s.db.Set(key, rec[:len(rec)-1], pebble.Sync); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		l := r.lease()
		r.next(l, []mail.ID{ids[0], ids[2]}, 0)
		if l.Waiting().Messages != 0 {
			t.Fatalf("%v wait", l.Waiting())
		}
		l.Release()
	}
	if n, _, _ := ev.counts(); n != 2 {
		t.Fatalf("%d reports of corruption, want 2", n)
	}
}
