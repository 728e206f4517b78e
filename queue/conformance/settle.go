package conformance

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"odmr/internal/mail"
	"odmr/queue"
)

var settleScenarios = []scenario{
	{"delivered mail is gone for good", deliveredGone},
	{"deferred mail waits for the next lease", deferredWaits},
	{"failed mail is kept apart", failedKept},
	{"recipients are settled one by one", recipientsOneByOne},
	{"untouched mail is as before", untouched},
	{"in doubt is remembered", inDoubt},
	{"one body for several domains", sharedBody},
	{"several settlements at once", severalAtOnce},
	{"settling what was not handed out", notHandedOut},
	{"many deferred among many delivered", manyDeferred},
}

func deliveredGone(t *testing.T, s *suite) {
	for i, size := range bodySizes {
		s.put(t, content(i, size), "a.example")
	}
	l := s.acquire(t, "a.example")
	ds := next(t, l, many)
	settle(t, l, ds, mail.OutcomeDelivered)
	if again := next(t, l, many); len(again) != 0 {
		t.Fatal("handed out again")
	}
	l.Release()
	gone := func() {
		t.Helper()
		wantCounts(t, "totals", s.Store.Totals(), queue.Counts{})
		wantCounts(t, "counts", s.Store.Counts("a.example"), queue.Counts{})
		for _, d := range ds {
			_, err := s.Store.Show(d.Envelope.ID)
			wantError(t, "Show", err, queue.ErrNotFound)
			_, err = s.Store.Open(d.Envelope.ID)
			wantError(t, "Open", err, queue.ErrNotFound)
		}
		l := s.acquire(t, "a.example")
		defer l.Release()
		if ds := next(t, l, many); len(ds) != 0 {
			t.Fatal("still there")
		}
		if n := Clean(t, s.Store); n != (queue.Checked{}) {
			t.Fatalf("left behind: %+v", n)
		}
	}
	gone()
	s.restart(t)
	gone()
}

func deferredWaits(t *testing.T, s *suite) {
	a := s.put(t, content(1, 500), "a.example")
	b := s.put(t, content(2, 2*mail.ChunkSize), "a.example")
	for round := range 3 {
		l := s.acquire(t, "a.example")
		ds := next(t, l, many)
		if !slices.Equal(ids(ds), []mail.ID{a, b}) {
			t.Fatalf("round %d: %v", round, ids(ds))
		}
		for _, d := range ds {
			if d.Envelope.Attempts != uint32(round) {
				t.Fatalf("round %d: Attempts %d", round, d.Envelope.Attempts)
			}
			if round > 0 && d.Envelope.Recipients[0].Reply != "451 4.3.0 later" {
				t.Fatalf("Reply %q", d.Envelope.Recipients[0].Reply)
			}
		}
		settle(t, l, ds, mail.OutcomeDeferred)
		if ds := next(t, l, many); len(ds) != 0 {
			t.Fatal("handed out again by the same lease")
		}
		l.Release()
		wantCounts(t, "totals", s.Store.Totals(), queue.Counts{Messages: 2, Bytes: 500 + 2*mail.ChunkSize})
		if round == 1 {
			s.restart(t)
		}
	}
}

func failedKept(t *testing.T, s *suite) {
	id := s.put(t, content(1, 700), "a.example")
	later := s.put(t, content(2, 20), "a.example")
	l := s.acquire(t, "a.example")
	settle(t, l, next(t, l, queue.Limit{Messages: 1}), mail.OutcomeFailed)
	l.Release()
	check := func() {
		t.Helper()
		wantCounts(t, "counts", s.Store.Counts("a.example"), queue.Counts{Messages: 1, Bytes: 20, Failed: 1, Kept: 700})
		l := s.acquire(t, "a.example")
		ds := next(t, l, many)
		if !slices.Equal(ids(ds), []mail.ID{later}) {
			t.Fatalf("deliverable: %v, want %v", ids(ds), later)
		}
		closeBodies(ds)
		l.Release()
		es, err := s.Store.Show(id)
		if err != nil || len(es) != 1 {
			t.Fatalf("Show: %d, %v", len(es), err)
		}
		if r := es[0].Envelope.Recipients[0]; r.State != mail.Failed || r.Reply != "550 5.1.1 no" {
			t.Fatalf("recipient %+v", r)
		}
		var listed []mail.ID
		if err := s.Store.List("a.example", func(e queue.Entry) bool { listed = append(listed, e.Envelope.ID); return true }); err != nil {
			t.Fatal(err)
		}
		if !slices.Equal(listed, []mail.ID{id, later}) {
			t.Fatalf("List: %v", listed)
		}
		b, err := s.Store.Open(id)
		if err != nil {
			t.Fatal(err)
		}
		wantBody(t, b, content(1, 700)) // the bounce needs it
		Clean(t, s.Store)
	}
	check()
	s.restart(t)
	check()
}

func recipientsOneByOne(t *testing.T, s *suite) {
	body := content(1, 100)
	id := s.putEnvelopes(t, body, envelope("a.example", 100, "r0", "r1", "r2", "r3"))
	const x, d, f, u = mail.OutcomeDelivered, mail.OutcomeDeferred, mail.OutcomeFailed, mail.OutcomeUntouched
	for round, step := range []struct {
		status [4]mail.OutcomeStatus
		states string // afterwards, or "gone"
	}{
		{[4]mail.OutcomeStatus{x, d, f, u}, "DPFP"},
		// A settled recipient stays as it is, whatever is said of it.
		{[4]mail.OutcomeStatus{f, d, x, x}, "DPFD"},
		{[4]mail.OutcomeStatus{u, x, u, u}, "DDFD"},
	} {
		l := s.acquire(t, "a.example")
		ds := next(t, l, many)
		if len(ds) != 1 {
			t.Fatalf("round %d: %d deliveries", round, len(ds))
		}
		wantBody(t, ds[0].Body, body)
		st := queue.Settlement{Key: ds[0].Key}
		for _, status := range step.status {
			st.Outcomes = append(st.Outcomes, mail.Outcome{Status: status, Reply: fmt.Sprint("reply ", round)})
		}
		if err := l.Settle([]queue.Settlement{st}); err != nil {
			t.Fatal(err)
		}
		l.Release()
		es, err := s.Store.Show(id)
		if err != nil || len(es) != 1 {
			t.Fatal(len(es), err)
		}
		var states strings.Builder
		for _, r := range es[0].Envelope.Recipients {
			states.WriteByte("PDF"[r.State])
		}
		if states.String() != step.states {
			t.Fatalf("round %d: %s, want %s", round, states.String(), step.states)
		}
	}
	es, _ := s.Store.Show(id)
	for i, want := range []string{"reply 0", "reply 2", "reply 0", "reply 1"} {
		if got := es[0].Envelope.Recipients[i].Reply; got != want {
			t.Errorf("recipient %d: %q, want %q", i, got, want)
		}
	}
	wantCounts(t, "counts", s.Store.Counts("a.example"), queue.Counts{Failed: 1, Kept: 100})

	// All delivered, though not at once: the entry is gone.
	s.putEnvelopes(t, body, envelope("b.example", 100, "r0", "r1"))
	for i := range 2 {
		l := s.acquire(t, "b.example")
		ds := next(t, l, many)
		closeBodies(ds)
		os := []mail.Outcome{{Status: u}, {Status: u}}
		os[i].Status = x
		if err := l.Settle([]queue.Settlement{{Key: ds[0].Key, Outcomes: os}}); err != nil {
			t.Fatal(err)
		}
		l.Release()
	}
	wantCounts(t, "counts", s.Store.Counts("b.example"), queue.Counts{})
}

func untouched(t *testing.T, s *suite) {
	id := s.put(t, content(1, 10), "a.example")
	l := s.acquire(t, "a.example")
	settle(t, l, next(t, l, many), mail.OutcomeUntouched)
	if ds := next(t, l, many); len(ds) != 0 {
		t.Fatal("handed out twice by one lease")
	}
	l.Release()
	l = s.acquire(t, "a.example")
	defer l.Release()
	ds := next(t, l, many)
	if len(ds) != 1 || ds[0].Envelope.ID != id || ds[0].Envelope.Attempts != 0 || ds[0].Envelope.Recipients[0].Reply != "" {
		t.Fatalf("%+v", ds)
	}
	closeBodies(ds)
}

func inDoubt(t *testing.T, s *suite) {
	s.put(t, content(1, 10), "a.example")
	for round := range 3 {
		l := s.acquire(t, "a.example")
		ds := next(t, l, many)
		closeBodies(ds)
		if ds[0].Envelope.InDoubt != (round > 0) {
			t.Fatalf("round %d: InDoubt %v", round, ds[0].Envelope.InDoubt)
		}
		// Once in doubt, it stays so: a later clear refusal does not take the first back.
		st := queue.Settlement{Key: ds[0].Key, Outcomes: outcomes(ds[0], mail.OutcomeDeferred, "451 4.4.2 lost"), InDoubt: round == 0}
		if err := l.Settle([]queue.Settlement{st}); err != nil {
			t.Fatal(err)
		}
		l.Release()
		s.restart(t)
	}
}

func sharedBody(t *testing.T, s *suite) {
	domains := []string{"a.example", "b.example", "c.example"}
	for _, size := range []int{0, 900, 2*mail.ChunkSize + 3} {
		body := content(size, size)
		id := s.put(t, body, domains...)
		for i, d := range []string{"b.example", "c.example", "a.example"} {
			es, err := s.Store.Show(id)
			if err != nil || len(es) != len(domains)-i {
				t.Fatalf("Show: %d entries, %v", len(es), err)
			}
			l := s.acquire(t, d)
			ds := next(t, l, many)
			if len(ds) != 1 || len(ds[0].Envelope.Recipients) != 1 || ds[0].Envelope.Recipients[0].Address != "user@"+d {
				t.Fatalf("%s: %+v", d, ds)
			}
			wantBody(t, ds[0].Body, body)
			settle(t, l, ds, mail.OutcomeDelivered)
			l.Release()
			if i == 1 {
				s.restart(t)
			}
			Clean(t, s.Store)
		}
		_, err := s.Store.Open(id)
		wantError(t, "Open after the last", err, queue.ErrNotFound)
	}
	// Both of the last entries in one settlement; and one failed, which keeps the body.
	id := s.put(t, content(5, 500), domains...)
	l := s.acquire(t, domains...)
	ds := next(t, l, many)
	settle(t, l, ds[:1], mail.OutcomeFailed)
	settle(t, l, ds[1:], mail.OutcomeDelivered)
	l.Release()
	b, err := s.Store.Open(id)
	if err != nil {
		t.Fatal(err)
	}
	wantBody(t, b, content(5, 500))
	s.put(t, content(6, 600), "x.example", "y.example")
	l = s.acquire(t, "x.example", "y.example")
	settle(t, l, next(t, l, many), mail.OutcomeDelivered)
	l.Release()
	if n := Clean(t, s.Store); n.Bodies != 1 || n.Entries != 1 {
		t.Fatalf("left: %+v", n)
	}
}

func severalAtOnce(t *testing.T, s *suite) {
	for i := range 30 {
		s.put(t, content(i, 100*i), []string{"a.example", "b.example"}[i%2])
	}
	l := s.acquire(t, "a.example", "b.example")
	ds := next(t, l, many)
	var ts []queue.Settlement
	for i, d := range ds {
		d.Body.Close()
		ts = append(ts, queue.Settlement{Key: d.Key, Outcomes: outcomes(d, mail.OutcomeStatus(i%3), "reply")})
	}
	if err := l.Settle(ts); err != nil {
		t.Fatal(err)
	}
	l.Release()
	got := s.Store.Totals()
	wantCounts(t, "totals", got, queue.Counts{Messages: 10, Bytes: got.Bytes, Failed: 10, Kept: got.Kept})
	s.restart(t)
	wantCounts(t, "after a restart", s.Store.Totals(), got)
}

func notHandedOut(t *testing.T, s *suite) {
	for i := range 3 {
		s.put(t, content(i, 10), "a.example")
	}
	s.put(t, content(9, 10), "b.example")
	l := s.acquire(t, "a.example")
	defer l.Release()
	ds := next(t, l, queue.Limit{Messages: 1})
	closeBodies(ds)
	ok := queue.Settlement{Key: ds[0].Key, Outcomes: outcomes(ds[0], mail.OutcomeDelivered, "250 ok")}
	with := func(f func(*queue.Settlement)) queue.Settlement { b := ok; f(&b); return b }
	for name, ts := range map[string][]queue.Settlement{
		"a number not handed out": {ok, with(func(b *queue.Settlement) { b.Key.Seq++ })},
		"a domain not leased":     {ok, with(func(b *queue.Settlement) { b.Key.Domain = "b.example" })},
		"twice in one":            {ok, ok},
		"too few outcomes":        {with(func(b *queue.Settlement) { b.Outcomes = nil })},
		"too many outcomes":       {with(func(b *queue.Settlement) { b.Outcomes = append(slices.Clone(b.Outcomes), b.Outcomes...) })},
	} {
		if l.Settle(ts) == nil || SettleTo(l, ts) == nil {
			t.Errorf("%s: settled", name)
		}
		wantCounts(t, name, s.Store.Totals(), queue.Counts{Messages: 4, Bytes: 40}) // nothing was settled
	}
	if err := errors.Join(l.Settle(nil), SettleTo(l, nil)); err != nil {
		t.Fatal(err)
	}
	if err := l.Settle([]queue.Settlement{ok}); err != nil {
		t.Fatal(err)
	}
	wantError(t, "a second time", l.Settle([]queue.Settlement{ok}), queue.ErrNotHandedOut)
	wantError(t, "a third time", SettleTo(l, []queue.Settlement{ok}), queue.ErrNotHandedOut)
}

// manyDeferred leaves more behind than a store may want to remember one by one.
func manyDeferred(t *testing.T, s *suite) {
	var want []mail.ID
	for i := range 1200 {
		id := s.put(t, content(i, 20), "a.example")
		if i%2 == 0 {
			want = append(want, id)
		}
	}
	drain := func(keep func(i int) bool) []mail.ID {
		t.Helper()
		l := s.acquire(t, "a.example")
		defer l.Release()
		var seen []mail.ID
		var kept, gone []queue.Delivery
		for {
			ds := next(t, l, queue.Limit{Messages: 100, Bytes: 1 << 30})
			if len(ds) == 0 {
				break
			}
			for _, d := range ds {
				if keep(len(seen)) {
					kept = append(kept, d)
				} else {
					gone = append(gone, d)
				}
				seen = append(seen, d.Envelope.ID)
			}
			if len(seen)%200 == 0 {
				slices.Reverse(kept) // settlements come in any order
				settle(t, l, kept, mail.OutcomeDeferred)
				kept = nil
			}
		}
		settle(t, l, gone, mail.OutcomeDelivered)
		settle(t, l, kept, mail.OutcomeDeferred)
		return seen
	}
	drain(func(i int) bool { return i%2 == 0 })
	for round := range 2 {
		if got := drain(func(int) bool { return true }); !slices.Equal(got, want) {
			t.Fatalf("round %d: %d messages, want %d; or another order", round, len(got), len(want))
		}
	}
	Clean(t, s.Store)
	if got := drain(func(i int) bool { return i >= len(want)-50 }); !slices.Equal(got, want) {
		t.Fatalf("%d messages, want %d", len(got), len(want))
	}
	if got := drain(func(int) bool { return false }); !slices.Equal(got, want[len(want)-50:]) {
		t.Fatalf("%d messages, want the last 50", len(got))
	}
}
