package conformance

import (
	"context"
	"errors"
	"slices"
	"testing"

	"odmr/internal/mail"
	"odmr/queue"
)

var adminScenarios = []scenario{
	{"domains are listed in order", domainsInOrder},
	{"entries are listed oldest first", listOldestFirst},
	{"show and open by id", showAndOpen},
	{"remove", remove},
	{"remove from a leased domain", removeLeased},
	{"check counts and can be stopped", checkCounts},
}

func domainsInOrder(t *testing.T, s *suite) {
	for i, d := range []string{"b.example", "a.example", "ab.example", "a.example"} {
		s.put(t, content(i, 10), d)
	}
	l := s.acquire(t, "empty.example") // leased, but no entries
	defer l.Release()
	var names []string
	counts := map[string]queue.Counts{}
	walk := func(stop int) {
		names = nil
		if err := s.Store.Domains(func(d string, c queue.Counts) bool {
			names = append(names, d)
			counts[d] = c
			return len(names) != stop
		}); err != nil {
			t.Fatal(err)
		}
	}
	walk(0)
	if !slices.Equal(names, []string{"a.example", "ab.example", "b.example"}) {
		t.Fatalf("%v", names)
	}
	wantCounts(t, "a.example", counts["a.example"], queue.Counts{Messages: 2, Bytes: 20})
	if walk(2); len(names) != 2 {
		t.Fatalf("not stopped: %v", names)
	}
}

func listOldestFirst(t *testing.T, s *suite) {
	want := map[string][]mail.ID{}
	for i := range 12 {
		d := []string{"b.example", "a.example"}[i%2]
		want[d] = append(want[d], s.put(t, content(i, 10), d))
	}
	l := s.acquire(t, "a.example")
	defer l.Release()
	ds := next(t, l, many)
	settle(t, l, ds[2:4], mail.OutcomeFailed) // stay in their place of the list
	closeBodies(ds)
	list := func(domain string, stop int) (got []mail.ID) {
		t.Helper()
		if err := s.Store.List(domain, func(e queue.Entry) bool {
			if e.Leased != (e.Envelope.Domain == "a.example") {
				t.Errorf("%s: Leased %v", e.Envelope.Domain, e.Leased)
			}
			got = append(got, e.Envelope.ID)
			return len(got) != stop
		}); err != nil {
			t.Fatal(err)
		}
		return got
	}
	for d := range want {
		if got := list(d, 0); !slices.Equal(got, want[d]) {
			t.Fatalf("%s: %v, want %v", d, got, want[d])
		}
	}
	if got := list("", 0); !slices.Equal(got, slices.Concat(want["a.example"], want["b.example"])) {
		t.Fatalf("all: %v", got)
	}
	if got := list("", 7); len(got) != 7 {
		t.Fatalf("not stopped: %v", got)
	}
	if got := list("c.example", 0); got != nil {
		t.Fatalf("unknown domain: %v", got)
	}
}

func showAndOpen(t *testing.T, s *suite) {
	body := content(1, mail.ChunkSize+1)
	id := s.put(t, body, "a.example", "b.example")
	es, err := s.Store.Show(id)
	if err != nil || len(es) != 2 {
		t.Fatal(len(es), err)
	}
	for _, e := range es {
		if e.Envelope.ID != id || e.Leased {
			t.Fatalf("%+v", e)
		}
	}
	b, err := s.Store.Open(id)
	if err != nil {
		t.Fatal(err)
	}
	wantBody(t, b, body)
	_, err = s.Store.Show(id + 1)
	wantError(t, "Show", err, queue.ErrNotFound)
	_, err = s.Store.Open(id - 1)
	wantError(t, "Open", err, queue.ErrNotFound)
}

func remove(t *testing.T, s *suite) {
	id := s.put(t, content(1, mail.ChunkSize*2), "a.example", "b.example", "c.example")
	other := s.put(t, content(2, 10), "a.example")
	steps := []struct {
		domain  string
		removed int
		err     error
	}{
		{"d.example", 0, queue.ErrNotFound},
		{"b.example", 1, nil},
		{"b.example", 0, queue.ErrNotFound},
		{"", 2, nil},
		{"", 0, queue.ErrNotFound},
	}
	for _, c := range steps {
		n, err := s.Store.Remove(c.domain, id)
		if n != c.removed || !errors.Is(err, c.err) {
			t.Fatalf("Remove %q: %d, %v", c.domain, n, err)
		}
		Clean(t, s.Store)
	}
	wantCounts(t, "totals", s.Store.Totals(), queue.Counts{Messages: 1, Bytes: 10})
	s.restart(t)
	_, err := s.Store.Open(id)
	wantError(t, "Open", err, queue.ErrNotFound)
	l := s.acquire(t, "a.example", "b.example", "c.example")
	ds := next(t, l, many)
	if !slices.Equal(ids(ds), []mail.ID{other}) {
		t.Fatalf("%v", ids(ds))
	}
	settle(t, l, ds, mail.OutcomeFailed)
	l.Release()
	// What is kept for its bounce can be removed as well.
	if n, err := s.Store.Remove("a.example", other); n != 1 || err != nil {
		t.Fatal(n, err)
	}
	wantCounts(t, "totals", s.Store.Totals(), queue.Counts{})
	// So can what was deferred, between two leases.
	gone := s.put(t, content(3, 30), "a.example")
	stays := s.put(t, content(4, 40), "a.example")
	l = s.acquire(t, "a.example")
	settle(t, l, next(t, l, many), mail.OutcomeDeferred)
	l.Release()
	if n, err := s.Store.Remove("", gone); n != 1 || err != nil {
		t.Fatal(n, err)
	}
	l = s.acquire(t, "a.example")
	wantCounts(t, "Waiting", l.Waiting(), queue.Counts{Messages: 1, Bytes: 40})
	ds = next(t, l, many)
	if !slices.Equal(ids(ds), []mail.ID{stays}) {
		t.Fatalf("%v", ids(ds))
	}
	closeBodies(ds)
	l.Release()
}

func removeLeased(t *testing.T, s *suite) {
	id := s.put(t, content(1, 100), "a.example", "b.example")
	l := s.acquire(t, "a.example")
	for _, d := range []string{"a.example", ""} {
		n, err := s.Store.Remove(d, id)
		if n != 0 || !errors.Is(err, queue.ErrBusy) {
			t.Fatalf("Remove %q: %d, %v", d, n, err)
		}
	}
	if n, err := s.Store.Remove("b.example", id); n != 1 || err != nil {
		t.Fatal(n, err)
	}
	ds := next(t, l, many)
	wantBody(t, ds[0].Body, content(1, 100))
	settle(t, l, ds, mail.OutcomeDelivered)
	l.Release()
	if n := Clean(t, s.Store); n != (queue.Checked{}) {
		t.Fatalf("left: %+v", n)
	}
}

func checkCounts(t *testing.T, s *suite) {
	s.put(t, content(1, 100), "a.example", "b.example")
	s.put(t, content(2, 2*mail.ChunkSize), "a.example")
	if n := Clean(t, s.Store); n.Domains != 2 || n.Entries != 3 || n.Bodies != 2 {
		t.Fatalf("%+v", n)
	}
	for i := range 1100 {
		s.put(t, nil, []string{"c.example", "d.example"}[i%2])
	}
	var last, all int64
	if _, err := s.Store.Check(context.Background(), func(done, total int64) {
		if done < last {
			t.Errorf("progress went back from %d to %d", last, done)
		}
		last, all = done, total
	}, func(v queue.Violation) { t.Error(v) }); err != nil {
		t.Fatal(err)
	}
	if last == 0 || all == 0 {
		t.Errorf("no progress was reported")
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	_, err := s.Store.Check(ctx, nil, func(v queue.Violation) { t.Error(v) })
	wantError(t, "a stopped check", err, context.Canceled)
}
