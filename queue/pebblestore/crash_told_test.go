package pebblestore

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	"odmr/internal/mail"
	"odmr/queue"
)

// crashReports is the queue of the reports that reviews leave.
const crashReports = "reports.example"

func crashReportFor(id mail.ID, domain string, recipient int) string {
	return fmt.Sprintf("%v.%s.%d@%s", id, domain, recipient, crashReports)
}

// toldState is what a recipient is once a review has told of it.
func toldState(state mail.RecipientState, stage queue.Stage) mail.RecipientState {
	switch {
	case state == mail.Failed, state == mail.Pending && stage != queue.Partial:
		return mail.Bounced
	case state == mail.Relayed:
		return mail.Delivered
	}
	return state
}

// crashReview has some entries of a domain be at their end, but for what an operator is to decide; or, at the stage Partial, tells of what has failed
// of them so far. There is a report on each recipient that is told of.
func crashReview(t *testing.T, s *Store, h *history, domain string, stage queue.Stage) {
	var seqs []uint64
	if err := s.Walk(domain, stage, 0, func(k queue.Key, _ *mail.Envelope) bool {
		seqs = append(seqs, k.Seq)
		return len(seqs) < 3
	}); err != nil {
		t.Error(err)
	}
	began := h.tick()
	var spans []*span
	err := s.Review(domain, stage, seqs, func(r *queue.Reviewed) queue.Decision {
		report := benchEnvelope(crashReports, 4)
		report.Recipients = nil
		e := h.entry(r.Envelope.ID, domain)
		for i := range r.Envelope.Recipients {
			state := r.Envelope.Recipients[i].State
			to := toldState(state, stage)
			if to == state {
				continue
			}
			// Entered here, where nobody else can change it: in the order of the log.
			c := h.change(e, i, to)
			c.told, c.began = true, began
			spans = append(spans, &c.span)
			report.Recipients = append(report.Recipients, mail.Recipient{Address: crashReportFor(r.Envelope.ID, domain, i)})
		}
		if len(report.Recipients) == 0 {
			t.Errorf("%v in %s is reviewed at stage %d, and nothing is to be told: %+v", r.Envelope.ID, domain, stage, r.Envelope.Recipients)
		}
		d := queue.Decision{Verdict: queue.Drop, Messages: []queue.Message{{Envelope: report, Body: []byte("xx\r\n")}}}
		if stage == queue.Partial {
			r.Envelope.Told()
			d.Verdict = queue.Update
		}
		return d
	})
	if err != nil && !errors.Is(err, queue.ErrBusy) {
		t.Error(err)
	}
	if err != nil { // nothing was done
		for _, sp := range spans {
			*sp = span{never, never}
		}
		return
	}
	h.end(spans...)
	h.mu.Lock()
	defer h.mu.Unlock()
	h.met[[...]string{"expired", "a report at the end", "a report while others wait"}[stage]] += len(spans)
}

// states are those that a recipient may have.
func states(changes []*change, crash span) []mail.RecipientState {
	may := []mail.RecipientState{mail.Pending}
	for _, c := range changes {
		switch {
		case c.done(crash):
			may = []mail.RecipientState{c.to}
		case c.perhaps(crash):
			may = append(may, c.to)
		}
	}
	return may
}

// final says of a state that it is a recipient's last.
func final(state mail.RecipientState) bool { return state == mail.Delivered || state == mail.Bounced }

// mayBeGone says whether the entry may have left the queue, isGone whether it must have.
func (e *crashEntry) mayBeGone(crash span) bool {
	return !e.removal.notYet(crash) || !slices.ContainsFunc(e.changes, func(c []*change) bool {
		return !slices.ContainsFunc(states(c, crash), final)
	})
}

func (e *crashEntry) isGone(crash span) bool {
	return e.removal.done(crash) || !slices.ContainsFunc(e.changes, func(c []*change) bool {
		return slices.ContainsFunc(states(c, crash), func(s mail.RecipientState) bool { return !final(s) })
	})
}

// crashReportProblems: a recipient is told of, and there is one report on it, or neither.
func crashReportProblems(s *Store, h *history, crash span, found map[string]mail.Envelope) (problems []string) {
	reports := map[string]int{}
	if err := s.List(crashReports, func(e queue.Entry) bool {
		for i := range e.Envelope.Recipients {
			reports[e.Envelope.Recipients[i].Address]++
		}
		return true
	}); err != nil {
		return []string{fmt.Sprintf("list of reports: %v", err)}
	}
	for _, m := range h.messages {
		for domain, e := range m.entries {
			env, there := found[fmt.Sprint(m.id, domain)]
			for i, changes := range e.changes {
				n, told := reports[crashReportFor(m.id, domain, i)], 0
				for _, c := range changes {
					switch {
					case !c.told || c.notYet(crash):
					case c.done(crash), there && env.Recipients[i].State == c.to, !there && e.removal.notYet(crash) && m.commit.done(crash):
						told = 1
					case !there: // it was removed, or never was there
						told = n
					}
				}
				if n != told || n > 1 {
					problems = append(problems, fmt.Sprintf("%d reports on recipient %d of %v in %s, want %d; it is there: %v, changes %v", n, i, m.id, domain, told, there, changes))
				}
			}
		}
	}
	return problems
}

// crashStamps is how many stamps the senders have in common.
const crashStamps = 12

// crashPick are some stamps, which another message may have used before.
func crashPick(rng *rand.Rand) (stamps []queue.Stamp) {
	for _, n := range rng.Perm(crashStamps)[:1+rng.IntN(2)] {
		stamps = append(stamps, stampOf(n))
	}
	return stamps
}

// crashCommitOnce commits m tied to stamps.
func crashCommitOnce(t *testing.T, s *Store, h *history, m *crashMessage, commit func() error) {
	stamps := m.stamps
	h.begin(&m.commit)
	err := commit()
	h.end(&m.commit)
	if errors.Is(err, queue.ErrStamped) {
		h.mu.Lock()
		m.commit, m.stamps = span{never, never}, nil
		h.met["a message that was there"]++
		h.mu.Unlock()
	} else if err != nil {
		t.Error(err)
	}
	// Whoever is told that a stamp is there may forget the message.
	began := h.tick()
	there, failed := s.Stamped(stamps)
	if failed != nil {
		t.Error(failed)
		return
	}
	ended := h.tick()
	h.mu.Lock()
	defer h.mu.Unlock()
	for i, yes := range there {
		if yes {
			h.stamped[stamps[i]] = append(h.stamped[stamps[i]], span{began, ended})
		}
	}
	if !slices.Contains(there, true) {
		t.Errorf("a commit said %v, and none of its stamps is there", err)
	}
}

// crashStampProblems: a stamp is there if the message is that it came with, and of two messages with one stamp only one is.
func crashStampProblems(s *Store, h *history, crash span, found map[string]mail.Envelope) (problems []string) {
	stamps := make([]queue.Stamp, crashStamps)
	for n := range stamps {
		stamps[n] = stampOf(n)
	}
	there, err := s.Stamped(stamps)
	if err != nil {
		return []string{fmt.Sprintf("stamps: %v", err)}
	}
	for n, stamp := range stamps {
		sure, perhaps := 0, 0
		for _, m := range h.messages {
			if !slices.Contains(m.stamps, stamp) || m.commit.notYet(crash) {
				continue
			}
			present, gone := false, false
			for domain, e := range m.entries {
				_, ok := found[fmt.Sprint(m.id, domain)]
				present, gone = present || ok, gone || e.mayBeGone(crash)
			}
			switch {
			case m.commit.done(crash), present:
				sure++
			case gone:
				perhaps++
			}
		}
		said := slices.ContainsFunc(h.stamped[stamp], func(sp span) bool { return sp.done(crash) })
		switch {
		case sure > 1:
			problems = append(problems, fmt.Sprintf("%d messages came in with stamp %d", sure, n))
		case !there[n] && (sure > 0 || said):
			problems = append(problems, fmt.Sprintf("stamp %d is not there, %d messages with it are, it was said to be there: %v", n, sure, said))
		case there[n] && sure+perhaps == 0:
			problems = append(problems, fmt.Sprintf("stamp %d is there, and no message that came in with it", n))
		}
	}
	return problems
}
