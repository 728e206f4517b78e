package conformance

import (
	"testing"
	"time"

	"odmr/internal/mail"
	"odmr/queue"
)

const (
	fails  = mail.OutcomeFailed
	defers = mail.OutcomeDeferred
	holds  = mail.OutcomeHeld
)

// settleEach settles one delivery, recipient by recipient.
func settleEach(t *testing.T, l queue.Lease, d queue.Delivery, status ...mail.OutcomeStatus) {
	t.Helper()
	d.Body.Close()
	st := queue.Settlement{Key: d.Key}
	for _, s := range status {
		st.Outcomes = append(st.Outcomes, mail.Outcome{Status: s, Reply: "a reply"})
	}
	if err := l.Settle([]queue.Settlement{st}); err != nil {
		t.Fatal(err)
	}
}

// collectEach hands the one message of a.example out and settles it.
func (s *suite) collectEach(t *testing.T, status ...mail.OutcomeStatus) {
	t.Helper()
	l := s.acquire(t, "a.example")
	defer l.Release()
	ds := next(t, l, many)
	if len(ds) != 1 {
		t.Fatalf("%d deliveries", len(ds))
	}
	settleEach(t, l, ds[0], status...)
}

// tell is what a reporter does with partial entries: a report into b.example for each.
func tell(r *queue.Reviewed) queue.Decision {
	for i := range r.Envelope.Recipients {
		if p := &r.Envelope.Recipients[i]; p.State == mail.Failed {
			p.State = mail.Bounced
		}
	}
	return queue.Decision{Verdict: queue.Update, Messages: []queue.Message{message("b.example", "a report\r\n")}}
}

func (s *suite) wantStates(t *testing.T, id mail.ID, want ...mail.RecipientState) {
	t.Helper()
	es, err := s.Store.Show(id)
	if err != nil || len(es) != 1 {
		t.Fatal(es, err)
	}
	for i, r := range es[0].Envelope.Recipients {
		if r.State != want[i] {
			t.Fatalf("recipient %d is %d, want %d", i, r.State, want[i])
		}
	}
	Clean(t, s.Store)
}

func reviewPartial(t *testing.T, s *suite) {
	report := queue.Counts{Messages: 1, Bytes: 10}
	for _, restart := range []func(*testing.T){func(*testing.T) {}, s.restart} {
		id := s.putEnvelopes(t, content(1, 100), envelope("a.example", 100, "x", "y", "z"))
		s.collectEach(t, defers, fails, holds)
		restart(t)
		wantCounts(t, "counts", s.Store.Counts("a.example"), queue.Counts{Messages: 1, Bytes: 100, Untold: 1})
		s.review(t, "a.example", queue.Partial, tell)
		restart(t)
		s.wantStates(t, id, mail.Pending, mail.Bounced, mail.Held)
		wantCounts(t, "counts", s.Store.Counts("a.example"), queue.Counts{Messages: 1, Bytes: 100})
		wantCounts(t, "reports", s.Store.Counts("b.example"), report)
		s.review(t, "a.example", queue.Partial, tell) // has nothing to tell
		wantCounts(t, "reports", s.Store.Counts("b.example"), report)

		s.collectEach(t, fails, mail.OutcomeUntouched, mail.OutcomeUntouched) // held now, and something to be told again
		restart(t)
		wantCounts(t, "counts", s.Store.Counts("a.example"), queue.Counts{Held: 1, Kept: 100, Untold: 1})
		s.review(t, "a.example", queue.Partial, tell)
		s.wantStates(t, id, mail.Bounced, mail.Bounced, mail.Held)
		wantCounts(t, "counts", s.Store.Counts("a.example"), queue.Counts{Held: 1, Kept: 100})
		if n, err := s.Store.Release("", id); n != 1 || err != nil {
			t.Fatal(n, err)
		}
		s.collectEach(t, mail.OutcomeUntouched, mail.OutcomeUntouched, mail.OutcomeDelivered)
		restart(t)
		wantCounts(t, "counts", s.Store.Counts("a.example"), queue.Counts{})
		l := s.acquire(t, "b.example")
		settle(t, l, next(t, l, many), mail.OutcomeDelivered)
		l.Release()
		if n := Clean(t, s.Store); n != (queue.Checked{}) {
			t.Fatalf("left behind: %+v", n)
		}
	}
}

// reviewPartialLeased tells of a recipient while a session is about to settle the others.
func reviewPartialLeased(t *testing.T, s *suite) {
	id := s.putEnvelopes(t, content(1, 100), envelope("a.example", 100, "x", "y"))
	s.collectEach(t, fails, defers)
	l := s.acquire(t, "a.example")
	ds := next(t, l, many)
	s.review(t, "a.example", queue.Partial, tell)
	s.wantStates(t, id, mail.Bounced, mail.Pending)
	settleEach(t, l, ds[0], mail.OutcomeUntouched, fails)
	s.wantStates(t, id, mail.Bounced, mail.Failed)
	l.Release()
	wantCounts(t, "counts", s.Store.Counts("a.example"), queue.Counts{Failed: 1, Kept: 100})
	s.review(t, "a.example", queue.Partial, tell)
	wantCounts(t, "reports", s.Store.Counts("b.example"), queue.Counts{Messages: 1, Bytes: 10})
	if n, err := s.Store.Remove("", id); n != 1 || err != nil {
		t.Fatal(n, err)
	}
	id = s.putEnvelopes(t, content(1, 100), envelope("a.example", 100, "x", "y"))
	s.collectEach(t, fails, defers)
	if n, err := s.Store.Remove("", id); n != 1 || err != nil { // with its mark
		t.Fatal(n, err)
	}
	wantCounts(t, "counts", s.Store.Counts("a.example"), queue.Counts{})
	Clean(t, s.Store)
}

// reviewPartialInTurn lets a session settle an entry while it is being reviewed: neither undoes what the other did.
func reviewPartialInTurn(t *testing.T, s *suite) {
	id := s.putEnvelopes(t, content(1, 100), envelope("a.example", 100, "x", "y", "z"))
	s.collectEach(t, fails, defers, defers)
	l := s.acquire(t, "a.example")
	ds := next(t, l, many)
	settled := make(chan struct{})
	s.review(t, "a.example", queue.Partial, func(r *queue.Reviewed) queue.Decision {
		go func() {
			defer close(settled)
			ds[0].Body.Close()
			outcomes := []mail.Outcome{{Status: mail.OutcomeUntouched}, {Status: fails}, {Status: defers}}
			if err := l.Settle([]queue.Settlement{{Key: ds[0].Key, Outcomes: outcomes}}); err != nil {
				t.Error(err)
			}
		}()
		select {
		case <-settled:
			t.Error("an entry was settled within its review")
		case <-time.After(20 * time.Millisecond):
		}
		return tell(r)
	})
	<-settled
	l.Release()
	s.wantStates(t, id, mail.Bounced, mail.Failed, mail.Pending)
	wantCounts(t, "counts", s.Store.Counts("a.example"), queue.Counts{Messages: 1, Bytes: 100, Untold: 1})
}

func reviewPartialOnly(t *testing.T, s *suite) {
	id := s.putEnvelopes(t, content(1, 100), envelope("a.example", 100, "x", "y"))
	s.collectEach(t, fails, defers)
	seqs := s.places(t, "a.example", queue.Partial)
	for name, decide := range map[string]func(*queue.Reviewed) queue.Decision{
		"dropped":    func(*queue.Reviewed) queue.Decision { return queue.Decision{Verdict: queue.Drop} },
		"not told":   func(*queue.Reviewed) queue.Decision { return queue.Decision{Verdict: queue.Update} },
		"kept, told": func(r *queue.Reviewed) queue.Decision { d := tell(r); d.Verdict = queue.Keep; return d },
		"ended": func(r *queue.Reviewed) queue.Decision {
			r.Envelope.Recipients[1].State = mail.Bounced
			return tell(r)
		},
	} {
		if err := s.Store.Review("a.example", queue.Partial, seqs, decide); err == nil {
			t.Errorf("%s: was carried out", name)
		}
		s.wantStates(t, id, mail.Failed, mail.Pending)
	}
	s.review(t, "a.example", queue.Partial, func(*queue.Reviewed) queue.Decision { return queue.Decision{} })
	wantCounts(t, "totals", s.Store.Totals(), queue.Counts{Messages: 1, Bytes: 100, Untold: 1})
}
