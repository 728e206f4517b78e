package conformance

import (
	"slices"
	"testing"

	"odmr/internal/mail"
	"odmr/queue"
)

var heldScenarios = []scenario{
	{"held mail waits for an operator", heldWaits},
	{"released mail has its old place in line", releasedInOrder},
	{"released during a session", releasedLeased},
	{"held mail that is bounced", heldBounced},
	{"held recipients beside others", heldBesideOthers},
	{"held in several domains", heldInSeveral},
	{"many are released at once", manyReleased},
	{"held mail outlives a review of what waits", heldOutlives},
}

// deliverable hands out all that waits in domain and puts it back.
func (s *suite) deliverable(t *testing.T, domain string) []mail.ID {
	t.Helper()
	l := s.acquire(t, domain)
	defer l.Release()
	ds := next(t, l, many)
	closeBodies(ds)
	return ids(ds)
}

// hold lets a session of domain hold the messages that it is handed first.
func (s *suite) hold(t *testing.T, domain string, messages int) {
	t.Helper()
	l := s.acquire(t, domain)
	defer l.Release()
	settle(t, l, next(t, l, queue.Limit{Messages: messages, Bytes: 1 << 40}), mail.OutcomeHeld)
}

func heldWaits(t *testing.T, s *suite) {
	id := s.put(t, content(1, 700), "a.example")
	later := s.put(t, content(2, 20), "a.example")
	s.hold(t, "a.example", 1)
	check := func() {
		t.Helper()
		wantCounts(t, "counts", s.Store.Counts("a.example"), queue.Counts{Messages: 1, Bytes: 20, Held: 1, Kept: 700})
		wantCounts(t, "totals", s.Store.Totals(), queue.Counts{Messages: 1, Bytes: 20, Held: 1, Kept: 700})
		if got := s.deliverable(t, "a.example"); !slices.Equal(got, []mail.ID{later}) {
			t.Fatalf("deliverable: %v, want %v", got, later)
		}
		es, err := s.Store.Show(id)
		if err != nil || len(es) != 1 || es[0].Envelope.Recipients[0].State != mail.Held || es[0].Envelope.Recipients[0].Reply != "550 5.1.1 nobody" {
			t.Fatalf("Show: %+v, %v", es, err)
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
		wantBody(t, b, content(1, 700))
		Clean(t, s.Store)
	}
	check()
	s.restart(t)
	check()
	if n, err := s.Store.Remove("", id); n != 1 || err != nil {
		t.Fatal(n, err)
	}
	wantCounts(t, "totals", s.Store.Totals(), queue.Counts{Messages: 1, Bytes: 20})
}

func releasedInOrder(t *testing.T, s *suite) {
	var all []mail.ID
	for i := range 6 {
		all = append(all, s.put(t, content(i, 100*i), "a.example"))
	}
	s.hold(t, "a.example", 4)
	s.restart(t)
	for _, i := range []int{2, 0} {
		if n, err := s.Store.Release("", all[i]); n != 1 || err != nil {
			t.Fatal(n, err)
		}
		Clean(t, s.Store)
	}
	want := []mail.ID{all[0], all[2], all[4], all[5]}
	if got := s.deliverable(t, "a.example"); !slices.Equal(got, want) {
		t.Fatalf("%v, want %v", got, want)
	}
	n, err := s.Store.Release("a.example", all[0])
	if n != 0 {
		t.Fatal("released twice")
	}
	wantError(t, "a second release", err, queue.ErrNotFound)
	_, err = s.Store.Release("b.example", all[1])
	wantError(t, "a release elsewhere", err, queue.ErrNotFound)
	_, err = s.Store.Release("", all[5]+1)
	wantError(t, "a release of nothing", err, queue.ErrNotFound)
	s.restart(t)
	if got := s.deliverable(t, "a.example"); !slices.Equal(got, want) {
		t.Fatalf("after a restart %v, want %v", got, want)
	}
	l := s.acquire(t, "a.example")
	settle(t, l, next(t, l, many), mail.OutcomeDelivered)
	l.Release()
	wantCounts(t, "totals", s.Store.Totals(), queue.Counts{Held: 2, Kept: 400})
}

func releasedLeased(t *testing.T, s *suite) {
	var all []mail.ID
	for i := range 5 {
		all = append(all, s.put(t, content(i, 10), "a.example"))
	}
	l := s.acquire(t, "a.example")
	ds := next(t, l, queue.Limit{Messages: 3, Bytes: 1 << 40})
	settle(t, l, ds[1:], mail.OutcomeHeld)
	for _, d := range ds[1:] {
		if n, err := s.Store.Release("", d.Envelope.ID); n != 1 || err != nil {
			t.Fatal(n, err)
		}
	}
	wantCounts(t, "Waiting", l.Waiting(), queue.Counts{Messages: 4, Bytes: 40})
	told := make(chan bool, 10)
	l.Notify(func() { told <- true })
	if len(told) != 1 {
		t.Fatal("not told of what was released before")
	}
	// In its old place as far as this lease goes: before what it has not handed out yet.
	if got := next(t, l, queue.Limit{Messages: 1}); !slices.Equal(ids(got), all[1:2]) {
		t.Fatalf("%v, want %v", ids(got), all[1:2])
	} else {
		settle(t, l, got, mail.OutcomeDelivered)
	}
	l.Release() // the rest is for the next one
	Clean(t, s.Store)
	ds[0].Body.Close()
	want := []mail.ID{all[0], all[2], all[3], all[4]}
	if got := s.deliverable(t, "a.example"); !slices.Equal(got, want) {
		t.Fatalf("%v, want %v", got, want)
	}
	s.restart(t)
	if got := s.deliverable(t, "a.example"); !slices.Equal(got, want) {
		t.Fatalf("after a restart %v, want %v", got, want)
	}
}

func heldBounced(t *testing.T, s *suite) {
	id := s.put(t, content(1, 700), "a.example")
	s.hold(t, "a.example", 1)
	if n, err := s.Store.Bounce("", id); n != 1 || err != nil {
		t.Fatal(n, err)
	}
	check := func() {
		t.Helper()
		wantCounts(t, "totals", s.Store.Totals(), queue.Counts{Failed: 1, Kept: 700})
		es, err := s.Store.Show(id)
		if err != nil || len(es) != 1 || es[0].Envelope.Recipients[0].State != mail.Failed {
			t.Fatalf("Show: %+v, %v", es, err)
		}
		if got := s.deliverable(t, "a.example"); len(got) != 0 {
			t.Fatalf("deliverable: %v", got)
		}
		Clean(t, s.Store)
	}
	check()
	s.restart(t)
	check()
	_, err := s.Store.Release("", id)
	wantError(t, "a release of what was bounced", err, queue.ErrNotFound)
}

func heldBesideOthers(t *testing.T, s *suite) {
	const x, d, f, h, u = mail.OutcomeDelivered, mail.OutcomeDeferred, mail.OutcomeFailed, mail.OutcomeHeld, mail.OutcomeUntouched
	id := s.putEnvelopes(t, content(1, 100), envelope("a.example", 100, "w", "x", "y", "z"))
	states := func(want ...mail.RecipientState) {
		t.Helper()
		es, err := s.Store.Show(id)
		if err != nil {
			t.Fatal(err)
		}
		for i, r := range es[0].Envelope.Recipients {
			if r.State != want[i] {
				t.Fatalf("recipient %d is %d, want %d", i, r.State, want[i])
			}
		}
		Clean(t, s.Store)
	}
	s.collectEach(t, x, d, h, f) // deliverable still
	states(mail.Delivered, mail.Pending, mail.Held, mail.Failed)
	wantCounts(t, "counts", s.Store.Counts("a.example"), queue.Counts{Messages: 1, Bytes: 100, Untold: 1})
	if n, err := s.Store.Release("", id); n != 1 || err != nil {
		t.Fatal(n, err)
	}
	states(mail.Delivered, mail.Pending, mail.Pending, mail.Failed)
	s.collectEach(t, u, h, d, u)
	if n, err := s.Store.Bounce("", id); n != 1 || err != nil { // while another one is pending
		t.Fatal(n, err)
	}
	states(mail.Delivered, mail.Failed, mail.Pending, mail.Failed)
	s.collectEach(t, u, u, h, u)
	wantCounts(t, "counts", s.Store.Counts("a.example"), queue.Counts{Held: 1, Kept: 100, Untold: 1})
	if n, err := s.Store.Bounce("a.example", id); n != 1 || err != nil {
		t.Fatal(n, err)
	}
	states(mail.Delivered, mail.Failed, mail.Failed, mail.Failed)
	wantCounts(t, "counts", s.Store.Counts("a.example"), queue.Counts{Failed: 1, Kept: 100})
}

func heldInSeveral(t *testing.T, s *suite) {
	body := content(1, 2*mail.ChunkSize)
	id := s.put(t, body, "a.example", "b.example", "c.example")
	s.hold(t, "a.example", 1)
	s.hold(t, "b.example", 1)
	l := s.acquire(t, "c.example")
	settle(t, l, next(t, l, many), mail.OutcomeDelivered)
	l.Release()
	Clean(t, s.Store)
	if n, err := s.Store.Bounce("b.example", id); n != 1 || err != nil {
		t.Fatal(n, err)
	}
	if n, err := s.Store.Release("", id); n != 1 || err != nil {
		t.Fatal(n, err)
	}
	wantCounts(t, "totals", s.Store.Totals(), queue.Counts{Messages: 1, Bytes: int64(len(body)), Failed: 1, Kept: int64(len(body))})
	l = s.acquire(t, "a.example")
	ds := next(t, l, many)
	wantBody(t, ds[0].Body, body)
	settle(t, l, ds, mail.OutcomeHeld)
	told := make(chan bool, 10)
	l.Notify(func() { told <- true })
	if n, err := s.Store.Release("", id); n != 1 || err != nil || len(told) != 1 {
		t.Fatalf("%d, %v, %d told of the release", n, err, len(told))
	}
	settle(t, l, next(t, l, many), mail.OutcomeDelivered)
	l.Release()
	Clean(t, s.Store)
}

// manyReleased releases more than a store may want to remember one by one, with and without a session there.
func manyReleased(t *testing.T, s *suite) {
	const n = 700
	var all []mail.ID
	for i := range n {
		all = append(all, s.put(t, content(i, 10), "a.example"))
	}
	s.hold(t, "a.example", n)
	last := s.put(t, content(n, 10), "a.example")
	l := s.acquire(t, "a.example")
	ds := next(t, l, many)
	if !slices.Equal(ids(ds), []mail.ID{last}) {
		t.Fatalf("%v", ids(ds))
	}
	for i := n - 1; i >= 50; i-- {
		if k, err := s.Store.Release("", all[i]); k != 1 || err != nil {
			t.Fatal(k, err)
		}
	}
	some := next(t, l, queue.Limit{Messages: 100, Bytes: 1 << 40}) // of those that it was told of
	if len(some) != 100 || !slices.IsSorted(ids(some)) {
		t.Fatalf("%d: %v", len(some), ids(some))
	}
	settle(t, l, some, mail.OutcomeDelivered)
	settle(t, l, ds, mail.OutcomeDeferred)
	for l.Waiting().Messages > 0 { // what it says to be waiting it hands out
		ds := next(t, l, queue.Limit{Messages: 100, Bytes: 1 << 40})
		if len(ds) == 0 {
			t.Fatalf("%+v wait, and are not handed out", l.Waiting())
		}
		closeBodies(ds)
	}
	l.Release()
	for i := range 50 {
		if k, err := s.Store.Release("", all[i]); k != 1 || err != nil {
			t.Fatal(k, err)
		}
	}
	Clean(t, s.Store)
	want := slices.DeleteFunc(append(all, last), func(id mail.ID) bool { return slices.Contains(ids(some), id) })
	if got := s.deliverable(t, "a.example"); !slices.Equal(got, want) {
		t.Fatalf("%d deliverable, want %d", len(got), len(want))
	}
}

// heldOutlives lets what waits beside a held recipient come to its end, as retention does.
func heldOutlives(t *testing.T, s *suite) {
	for _, verdict := range []queue.Verdict{queue.Update, queue.Drop} {
		id := s.putEnvelopes(t, content(1, 100), envelope("a.example", 100, "x", "y"))
		l := s.acquire(t, "a.example")
		ds := next(t, l, many)
		ds[0].Body.Close()
		if err := l.Settle([]queue.Settlement{{Key: ds[0].Key, Outcomes: []mail.Outcome{
			{Status: mail.OutcomeDeferred, Reply: "451 later"}, {Status: mail.OutcomeHeld, Reply: "550 nobody"},
		}}}); err != nil {
			t.Fatal(err)
		}
		l.Release()
		if err := s.Store.Review("a.example", queue.Waiting, []uint64{ds[0].Key.Seq}, func(r *queue.Reviewed) queue.Decision {
			if verdict == queue.Update {
				r.Envelope.Recipients[0].State = mail.Failed
			}
			return queue.Decision{Verdict: verdict}
		}); err != nil {
			t.Fatal(err)
		}
		want := queue.Counts{Held: 1, Kept: 100}
		if verdict == queue.Update {
			want.Untold = 1
		}
		wantCounts(t, "totals", s.Store.Totals(), want)
		Clean(t, s.Store)
		s.restart(t)
		wantCounts(t, "totals", s.Store.Totals(), want)
		if n, err := s.Store.Release("", id); n != 1 || err != nil {
			t.Fatal(n, err)
		}
		l = s.acquire(t, "a.example")
		ds = next(t, l, many)
		if len(ds) != 1 || ds[0].Envelope.Recipients[0].State == mail.Pending || ds[0].Envelope.Recipients[1].State != mail.Pending {
			t.Fatalf("%+v", ds)
		}
		settle(t, l, ds, mail.OutcomeDelivered)
		l.Release()
		if verdict == queue.Update { // the one that had failed waits for its report
			wantCounts(t, "totals", s.Store.Totals(), queue.Counts{Failed: 1, Kept: 100})
			if n, err := s.Store.Remove("", id); n != 1 || err != nil {
				t.Fatal(n, err)
			}
		}
		wantCounts(t, "totals", s.Store.Totals(), queue.Counts{})
		Clean(t, s.Store)
	}
}
