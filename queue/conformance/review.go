package conformance

import (
	"slices"
	"testing"
	"time"

	"odmr/internal/mail"
	"odmr/queue"
)

var reviewScenarios = []scenario{
	{"a failed entry leaves with its report", reviewReports},
	{"a review that keeps an entry brings nothing into being", reviewKeeps},
	{"a waiting entry is changed and goes out as before", reviewUpdates},
	{"waiting entries of a leased domain are out of reach", reviewBusy},
	{"sessions are kept off during a review", reviewKeepsOff},
	{"what is gone is passed over", reviewPassesOver},
	{"one body for several domains is reviewed", reviewShared},
	{"entries are walked in order", reviewWalks},
	{"reports for the outside have a queue of their own", reviewOutbound},
	{"what was delivered to who sends no reports is kept for one", reviewRelayed},
	{"bad messages change nothing", reviewBadMessage},
	{"what failed is told while other recipients wait", reviewPartial},
	{"what failed is told within a session", reviewPartialLeased},
	{"a settlement waits for a review of its entry", reviewPartialInTurn},
	{"what may not become of a partial entry", reviewPartialOnly},
}

// message is a report for domain, of which the store has no entry yet.
func message(domain, body string) queue.Message {
	env := envelope(domain, len(body))
	env.ReversePath = ""
	return queue.Message{Envelope: env, Body: []byte(body)}
}

// fail makes everything that waits in domain fail.
func (s *suite) fail(t *testing.T, domain string) {
	t.Helper()
	l := s.acquire(t, domain)
	settle(t, l, next(t, l, many), mail.OutcomeFailed)
	l.Release()
}

// places are those of the entries at that stage.
func (s *suite) places(t *testing.T, domain string, stage queue.Stage) (seqs []uint64) {
	t.Helper()
	err := s.Store.Walk(domain, stage, 0, func(k queue.Key, env *mail.Envelope) bool {
		if k.Domain != domain || env.Domain != domain {
			t.Fatalf("walk of %s: %+v %s", domain, k, env.Domain)
		}
		seqs = append(seqs, k.Seq)
		return true
	})
	if err != nil {
		t.Fatal(err)
	}
	return seqs
}

func (s *suite) review(t *testing.T, domain string, stage queue.Stage, decide func(*queue.Reviewed) queue.Decision) {
	t.Helper()
	if err := s.Store.Review(domain, stage, s.places(t, domain, stage), decide); err != nil {
		t.Fatalf("Review: %v", err)
	}
}

func reviewReports(t *testing.T, s *suite) {
	for i, size := range bodySizes {
		s.put(t, content(i, size), "a.example")
	}
	waiting := s.put(t, content(90, 40), "b.example")
	s.fail(t, "a.example")
	i := 0
	s.review(t, "a.example", queue.Settled, func(r *queue.Reviewed) queue.Decision {
		b, err := r.Open()
		if err != nil {
			t.Fatal(err)
		}
		wantBody(t, b, content(i, bodySizes[i]))
		if r.Envelope.Recipients[0].State != mail.Failed {
			t.Fatalf("recipient %+v", r.Envelope.Recipients[0])
		}
		i++
		return queue.Decision{Verdict: queue.Drop, Messages: []queue.Message{message("b.example", string(content(100+i, 50)))}}
	})
	if i != len(bodySizes) {
		t.Fatalf("%d asked about", i)
	}
	check := func() {
		t.Helper()
		wantCounts(t, "a.example", s.Store.Counts("a.example"), queue.Counts{})
		wantCounts(t, "b.example", s.Store.Counts("b.example"), queue.Counts{Messages: int64(i + 1), Bytes: int64(40 + 50*i)})
		l := s.acquire(t, "b.example")
		defer l.Release()
		ds := next(t, l, many)
		defer closeBodies(ds)
		if len(ds) != i+1 || ds[0].Envelope.ID != waiting {
			t.Fatalf("waiting: %v", ids(ds))
		}
		for n, d := range ds[1:] { // behind what was there, in order
			if d.Envelope.ReversePath != "" || d.Envelope.ID <= waiting {
				t.Fatalf("report %+v", d.Envelope)
			}
			wantBody(t, d.Body, content(101+n, 50))
		}
		Clean(t, s.Store)
	}
	check()
	s.restart(t)
	check()
}

func reviewKeeps(t *testing.T, s *suite) {
	s.put(t, content(1, 70), "a.example")
	s.fail(t, "a.example")
	s.review(t, "a.example", queue.Settled, func(*queue.Reviewed) queue.Decision { return queue.Decision{} })
	err := s.Store.Review("a.example", queue.Settled, s.places(t, "a.example", queue.Settled), func(*queue.Reviewed) queue.Decision {
		return queue.Decision{Messages: []queue.Message{message("b.example", "x\r\n")}}
	})
	if err == nil {
		t.Fatal("a report that would be made again and again was taken")
	}
	wantCounts(t, "totals", s.Store.Totals(), queue.Counts{Failed: 1, Kept: 70})
}

func reviewUpdates(t *testing.T, s *suite) {
	body := content(1, 300)
	first := s.put(t, body, "a.example")
	second := s.put(t, content(2, 300), "a.example")
	s.review(t, "a.example", queue.Waiting, func(r *queue.Reviewed) queue.Decision {
		r.Envelope.DelayNotified = true
		return queue.Decision{Verdict: queue.Update, Messages: []queue.Message{message("a.example", "late\r\n")}}
	})
	s.restart(t)
	l := s.acquire(t, "a.example")
	ds := next(t, l, many)
	if len(ds) != 4 || !slices.Equal(ids(ds)[:2], []mail.ID{first, second}) {
		t.Fatalf("handed out %v", ids(ds))
	}
	for i, d := range ds {
		if d.Envelope.DelayNotified != (i < 2) {
			t.Fatalf("%d: DelayNotified %v", i, d.Envelope.DelayNotified)
		}
	}
	settle(t, l, ds, mail.OutcomeDelivered)
	l.Release()
	if n := Clean(t, s.Store); n != (queue.Checked{}) {
		t.Fatalf("left behind: %+v", n)
	}
}

func reviewBusy(t *testing.T, s *suite) {
	s.put(t, content(1, 70), "a.example")
	s.put(t, content(2, 70), "a.example")
	l := s.acquire(t, "a.example")
	settle(t, l, next(t, l, queue.Limit{Messages: 1}), mail.OutcomeFailed)
	drop := func(*queue.Reviewed) queue.Decision { return queue.Decision{Verdict: queue.Drop} }
	err := s.Store.Review("a.example", queue.Waiting, s.places(t, "a.example", queue.Waiting), drop)
	wantError(t, "review under a lease", err, queue.ErrBusy)
	// What has failed is nobody's but the reporter's.
	s.review(t, "a.example", queue.Settled, drop)
	wantCounts(t, "totals", s.Store.Totals(), queue.Counts{Messages: 1, Bytes: 70})
	settle(t, l, next(t, l, many), mail.OutcomeDelivered)
	l.Release()
	wantCounts(t, "totals", s.Store.Totals(), queue.Counts{})
}

func reviewKeepsOff(t *testing.T, s *suite) {
	s.put(t, content(1, 70), "a.example")
	got := make(chan int)
	s.review(t, "a.example", queue.Waiting, func(*queue.Reviewed) queue.Decision {
		go func() {
			l, err := s.Store.Acquire([]string{"a.example"})
			if err != nil {
				t.Error(err)
				close(got)
				return
			}
			ds, err := l.Next(nil, many)
			if err != nil {
				t.Error(err)
			}
			l.Release()
			got <- len(ds)
		}()
		select {
		case <-got:
			t.Error("a session got the domain within the review")
		case <-time.After(20 * time.Millisecond):
		}
		return queue.Decision{Verdict: queue.Drop}
	})
	if n := <-got; n != 0 {
		t.Fatalf("the session found %d messages", n)
	}
}

func reviewPassesOver(t *testing.T, s *suite) {
	id := s.put(t, content(1, 70), "a.example")
	s.put(t, content(2, 70), "a.example")
	s.fail(t, "a.example")
	seqs := s.places(t, "a.example", queue.Settled)
	if _, err := s.Store.Remove("", id); err != nil {
		t.Fatal(err)
	}
	asked := 0
	decide := func(r *queue.Reviewed) queue.Decision {
		asked++
		return queue.Decision{Verdict: queue.Drop}
	}
	for _, stage := range []queue.Stage{queue.Waiting, queue.Settled, queue.Settled} { // not at that stage; there; gone
		if err := s.Store.Review("a.example", stage, append(seqs, seqs...), decide); err != nil {
			t.Fatal(err)
		}
	}
	if asked != 1 {
		t.Fatalf("asked %d times", asked)
	}
	if err := s.Store.Review("nobody.example", queue.Settled, []uint64{1}, decide); err != nil {
		t.Fatal(err)
	}
	if n := Clean(t, s.Store); n != (queue.Checked{}) {
		t.Fatalf("left behind: %+v", n)
	}
}

func reviewShared(t *testing.T, s *suite) {
	drop := func(*queue.Reviewed) queue.Decision { return queue.Decision{Verdict: queue.Drop} }
	for _, size := range []int{100, 2*mail.ChunkSize + 5} {
		body := content(size, size)
		s.put(t, body, "a.example", "b.example")
		s.fail(t, "a.example")
		s.review(t, "a.example", queue.Settled, drop)
		l := s.acquire(t, "b.example")
		ds := next(t, l, many)
		wantBody(t, ds[0].Body, body) // the other customer's is untouched
		settle(t, l, ds, mail.OutcomeDeferred)
		l.Release()
		s.review(t, "b.example", queue.Waiting, drop)
		if n := Clean(t, s.Store); n != (queue.Checked{}) {
			t.Fatalf("left behind: %+v", n)
		}
	}
}

func reviewWalks(t *testing.T, s *suite) {
	for i := range 10 {
		s.put(t, content(i, 30), "a.example")
	}
	all := s.places(t, "a.example", queue.Waiting)
	if len(all) != 10 || !slices.IsSorted(all) {
		t.Fatalf("places %v", all)
	}
	l := s.acquire(t, "a.example")
	ds := next(t, l, queue.Limit{Messages: 6, Bytes: 1 << 20})
	settle(t, l, ds[:2], mail.OutcomeDelivered)
	settle(t, l, ds[2:4], mail.OutcomeDeferred)
	settle(t, l, ds[4:], mail.OutcomeFailed)
	want := append(slices.Clone(all[2:4]), all[6:]...)
	for _, when := range []string{"under the lease", "after it"} {
		if got := s.places(t, "a.example", queue.Waiting); !slices.Equal(got, want) {
			t.Fatalf("%s: waiting %v, want %v", when, got, want)
		}
		if got := s.places(t, "a.example", queue.Settled); !slices.Equal(got, all[4:6]) {
			t.Fatalf("%s: settled %v, want %v", when, got, all[4:6])
		}
		l.Release()
	}
	var got []uint64
	err := s.Store.Walk("a.example", queue.Waiting, all[3]+1, func(k queue.Key, _ *mail.Envelope) bool {
		got = append(got, k.Seq)
		return len(got) < 2
	})
	if err != nil || !slices.Equal(got, all[6:8]) {
		t.Fatalf("from a place on: %v %v, want %v", got, err, all[6:8])
	}
	if got := s.places(t, "nobody.example", queue.Waiting); len(got) != 0 {
		t.Fatalf("nobody has %v", got)
	}
}

func reviewOutbound(t *testing.T, s *suite) {
	s.put(t, content(1, 70), "a.example")
	s.fail(t, "a.example")
	report := message(mail.OutboundDomain, "report\r\n")
	report.Envelope.Recipients = []mail.Recipient{{Address: "sender@elsewhere.example", Notify: mail.NotifyNever}}
	s.review(t, "a.example", queue.Settled, func(*queue.Reviewed) queue.Decision {
		return queue.Decision{Verdict: queue.Drop, Messages: []queue.Message{report}}
	})
	s.restart(t)
	Clean(t, s.Store)
	for _, domain := range []string{"a.example", "elsewhere.example"} {
		wantCounts(t, domain, s.Store.Counts(domain), queue.Counts{}) // no customer's quota knows of it
	}
	l := s.acquire(t, mail.OutboundDomain)
	ds := next(t, l, many)
	if len(ds) != 1 || ds[0].Envelope.Recipients[0].Address != "sender@elsewhere.example" {
		t.Fatalf("outbound: %+v", ds)
	}
	settle(t, l, ds, mail.OutcomeDelivered)
	l.Release()
	wantCounts(t, "totals", s.Store.Totals(), queue.Counts{})
}

func reviewBadMessage(t *testing.T, s *suite) {
	s.put(t, content(1, 70), "a.example")
	s.fail(t, "a.example")
	for name, spoil := range map[string]func(*queue.Message){
		"too large": func(m *queue.Message) {
			m.Body = content(1, mail.ChunkSize+1)
			m.Envelope.WireSize = int64(len(m.Body))
		},
		"of wrong size": func(m *queue.Message) { m.Envelope.WireSize++ },
		"for nobody":    func(m *queue.Message) { m.Envelope.Recipients[0].State = mail.Failed },
		"elsewhere":     func(m *queue.Message) { m.Envelope.Recipients[0].Address = "user@c.example" },
		"no domain":     func(m *queue.Message) { m.Envelope.Domain = "" },
	} {
		m := message("b.example", "report\r\n")
		spoil(&m)
		err := s.Store.Review("a.example", queue.Settled, s.places(t, "a.example", queue.Settled), func(*queue.Reviewed) queue.Decision {
			return queue.Decision{Verdict: queue.Drop, Messages: []queue.Message{m}}
		})
		if err == nil {
			t.Errorf("%s: taken", name)
		}
		wantCounts(t, name, s.Store.Totals(), queue.Counts{Failed: 1, Kept: 70})
	}
}

func reviewRelayed(t *testing.T, s *suite) {
	body := content(1, 80)
	s.putEnvelopes(t, body, envelope("a.example", len(body), "r0", "r1"))
	s.put(t, content(2, 80), "a.example")
	settle := func(l queue.Lease, d queue.Delivery, outcomes ...mail.Outcome) {
		t.Helper()
		d.Body.Close()
		if err := l.Settle([]queue.Settlement{{Key: d.Key, Outcomes: outcomes}}); err != nil {
			t.Fatal(err)
		}
	}
	relayed := mail.Outcome{Status: mail.OutcomeDelivered, Reply: "250 ok", Relayed: true}
	l := s.acquire(t, "a.example")
	ds := next(t, l, many)
	settle(l, ds[0], relayed, mail.Outcome{Status: mail.OutcomeDeferred})
	settle(l, ds[1], relayed)
	l.Release()
	wantCounts(t, "counts", s.Store.Counts("a.example"), queue.Counts{Messages: 1, Bytes: 80, Failed: 1, Kept: 80, Untold: 1})
	s.restart(t)
	l = s.acquire(t, "a.example")
	ds = next(t, l, many)
	if len(ds) != 1 || ds[0].Envelope.Recipients[0].State != mail.Relayed {
		t.Fatalf("the deferred one: %+v", ds)
	}
	settle(l, ds[0], mail.Outcome{}, mail.Outcome{Status: mail.OutcomeDelivered})
	l.Release()
	n := 0
	s.review(t, "a.example", queue.Settled, func(r *queue.Reviewed) queue.Decision {
		if r.Envelope.Recipients[0].State != mail.Relayed {
			t.Errorf("%+v", r.Envelope.Recipients)
		}
		n++
		return queue.Decision{Verdict: queue.Drop}
	})
	if c := Clean(t, s.Store); n != 2 || c != (queue.Checked{}) {
		t.Fatalf("%d were reviewed, left behind: %+v", n, c)
	}
}
