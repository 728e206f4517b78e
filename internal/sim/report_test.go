package sim

import (
	"bytes"
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/rs/zerolog"

	"odmr/internal/bounce"
	"odmr/internal/dsn"
	"odmr/internal/mail"
	"odmr/queue"
)

// RuleReport: every recipient that failed or expired gets exactly the report that is due, and no other one any.
const RuleReport Rule = "report"

// newReporter makes the reporter of one life of the server.
func (h *host) newReporter() *bounce.Reporter {
	return bounce.New(bounce.Config{
		Store: reviewed{h.store, h}, Hostname: "odmr.example", Logger: zerolog.Nop(),
		Policy: func(domain string) (bounce.Policy, error) {
			p := h.keeping
			if domain == mail.OutboundDomain { // the smarthost has time
				p.Retention = 30 * 24 * time.Hour
			}
			return p, nil
		},
		Held: func(domain string) (bool, error) { return h.dir.Collectable(domain) },
		Now:  func() time.Time { return time.Unix(0, h.w.now) },
	})
}

func (w *world) newKeeping() bounce.Policy {
	return bounce.Policy{
		Retention:   []time.Duration{20 * time.Minute, 2 * time.Hour, 5 * 24 * time.Hour}[w.rng.IntN(3)],
		DelayNotice: []time.Duration{0, 5 * time.Minute}[w.rng.IntN(2)],
		Bounce:      true,
	}
}

// report lets the reporter do its work, as long as it has some; and sometimes the server dies in the middle of it.
func (h *host) report() {
	if !h.up {
		return
	}
	if !h.s.calm && h.w.chance(12) {
		if err := h.raw.Sync(); err != nil {
			h.w.fail(RuleStore, "sync: %v", err)
		}
		h.disk.TearLog(int64(h.w.rng.IntN(1 << h.w.between(4, 14))))
		h.tearing = true
		h.w.meet("a torn review")
		h.reporter.Pass(context.Background())
		h.tearing, h.torn = false, true
		h.crash(true)
		return
	}
	for range 20 {
		if !h.reporter.Pass(context.Background()) {
			break
		}
	}
	h.poke()
}

// reviewed is the store as the reporter sees it; the ledger sees what it decides.
type reviewed struct {
	queue.Store
	h *host
}

// decision is one that a reporter made.
type decision struct {
	entry   *entry
	verdict queue.Verdict
}

// Review implements queue.Reviewer.
func (s reviewed) Review(domain string, stage queue.Stage, seqs []uint64, decide func(*queue.Reviewed) queue.Decision) error {
	if domain == mail.OutboundDomain {
		return s.Store.Review(domain, stage, seqs, decide)
	}
	var list []decision
	err := s.Store.Review(domain, stage, seqs, func(e *queue.Reviewed) queue.Decision {
		r := s.h.ledger.find(e.Envelope.Recipients[0].Address)
		d := decide(e)
		switch s.h.s.bug {
		case BugTwoReports:
			d.Messages = append(d.Messages, d.Messages...)
		case BugNoReport:
			d.Messages = nil
		}
		if r == nil || r.letter.entry(domain) == nil {
			s.h.w.fail(RulePhantom, "reviewed is mail for %q, which was never taken", e.Envelope.Recipients[0].Address)
			return d
		}
		list = append(list, decision{r.letter.entry(domain), d.Verdict})
		return d
	})
	if err == nil {
		s.h.ledger.reviewed(list, s.h.tearing)
	}
	return err
}

// reviewed says what the reporter decided, durably, or, with unsure, perhaps.
func (l *ledger) reviewed(list []decision, unsure bool) {
	for _, d := range list {
		e := d.entry
		l.w.trace("reviewed %v: %d unsure=%v", e, d.verdict, unsure)
		if d.verdict != queue.Drop {
			continue
		}
		if unsure {
			e.maybeLeft = true
		} else {
			e.left = true
		}
		for _, r := range e.recipients() {
			if r.state == mail.Pending {
				r.unsure = r.unsure || unsure
				r.expired = true
				l.w.meet("expired mail")
				if !unsure {
					r.state = mail.Failed
				}
			}
		}
	}
}

// smarthost takes the reports for the outside, as the one behind --smarthost does; and in bad weather refuses to.
func (h *host) smarthost() {
	if !h.up || !h.s.calm && h.w.chance(3) {
		return
	}
	lease, err := h.raw.Acquire([]string{mail.OutboundDomain})
	if err != nil {
		h.w.fail(RuleLease, "the outbound queue: %v", err)
		return
	}
	defer lease.Release()
	for {
		ds, err := lease.Next(nil, queue.Limit{Messages: 16, Bytes: 1 << 20})
		if err != nil {
			h.w.fail(RuleStore, "the outbound queue: %v", err)
		}
		if len(ds) == 0 || err != nil {
			return
		}
		var settle []queue.Settlement
		for i := range ds {
			h.take(&ds[i])
			outcomes := make([]mail.Outcome, len(ds[i].Envelope.Recipients))
			if !h.s.calm && h.w.chance(5) {
				outcomes[0].Status = mail.OutcomeDeferred
			}
			settle = append(settle, queue.Settlement{Key: ds[i].Key, Outcomes: outcomes})
		}
		if err := lease.Settle(settle); err != nil {
			h.w.fail(RuleStore, "the outbound queue: %v", err)
			return
		}
	}
}

// take reads a report.
func (h *host) take(d *queue.Delivery) {
	var body bytes.Buffer
	for {
		seg, ok, err := d.Body.Ready()
		if !ok && err == nil {
			seg, err = d.Body.Next()
		}
		if err != nil {
			break
		}
		body.Write(seg.Data)
		seg.Release()
	}
	d.Body.Close()
	env := &d.Envelope
	if env.ReversePath != "" {
		h.w.fail(RuleReport, "a report comes from %q", env.ReversePath)
	}
	var about *recipient
	for _, line := range strings.Split(body.String(), "\r\n") {
		if address, ok := strings.CutPrefix(line, "Final-Recipient: rfc822; "); ok {
			if about = h.ledger.find(address); about == nil {
				h.w.fail(RuleReport, "a report is about %q", address)
				return
			}
			if len(env.Recipients) != 1 || env.Recipients[0].Address != about.letter.from {
				h.w.fail(RuleReport, "a report about %v goes to %+v", about, env.Recipients)
			}
		}
		if action, ok := strings.CutPrefix(line, "Action: "); ok && about != nil {
			h.w.trace("report: %v %s", about, action)
			h.w.meet("a report: " + action)
			about.reported(action, env.ID)
		}
	}
	if about == nil {
		h.w.fail(RuleReport, "a report is about nobody")
	}
}

// reported notes a report; one that comes once more, after a crash, is the same.
func (r *recipient) reported(action string, id mail.ID) {
	if r.reports == nil {
		r.reports = map[string][]mail.ID{}
	}
	if !slices.Contains(r.reports[action], id) {
		r.reports[action] = append(r.reports[action], id)
	}
}

// finalReports looks at the reports on one recipient.
func (l *ledger) finalReports(r *recipient) {
	due := 0
	if r.state == mail.Failed && r.letter.from != "" && dsn.Due(r.notify, dsn.Failed) {
		due = 1
	}
	relayed := 0
	if r.state == mail.Relayed && r.letter.from != "" {
		relayed = 1
	}
	failed, delayed := len(r.reports["failed"]), len(r.reports["delayed"])
	switch {
	case r.unsure:
	case failed != due:
		l.w.fail(RuleReport, "%v, state %d, expired %v, notify %d: %d reports on its failure, %d are due", r, r.state, r.expired, r.notify, failed, due)
	case len(r.reports["relayed"]) != relayed:
		l.w.fail(RuleReport, "%v, state %d, notify %d: %d reports on its delivery, %d are due", r, r.state, r.notify, len(r.reports["relayed"]), relayed)
	case delayed > 1, delayed == 1 && (r.letter.from == "" || !dsn.Due(r.notify, dsn.Delayed)):
		l.w.fail(RuleReport, "%v, notify %d: %d reports on its delay", r, r.notify, delayed)
	}
}

// reportAll goes on until nothing is left that anybody should be told about.
func (s *Sim) reportAll() {
	h := s.host
	s.over = true
	for range 12 {
		if s.w.found != nil {
			return
		}
		s.w.now += int64(11 * time.Minute)
		h.decide()
		h.report()
		h.smarthost()
	}
	for _, t := range s.ledger.letters {
		for _, r := range t.rcpts {
			s.ledger.finalReports(r)
		}
	}
	if c := h.raw.Totals(); c != (queue.Counts{}) && s.w.found == nil {
		s.w.fail(RuleReport, "left is %s", fmt.Sprintf("%+v", c))
	}
}
