package sim

import (
	"context"
	"slices"
	"strings"
	"time"

	"github.com/rs/zerolog"

	"odmr/internal/account"
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
		Policy: h.policyOf,
		Held:   func(domain string) (bool, error) { return h.dir.Collectable(domain) },
		Now:    func() time.Time { return time.Unix(0, h.w.now) },
		Wake:   h.sending.wake,
	})
}

func (w *world) newKeeping() bounce.Policy {
	return bounce.Policy{
		Retention:   []time.Duration{20 * time.Minute, 2 * time.Hour, 5 * 24 * time.Hour}[w.rng.IntN(3)],
		DelayNotice: []time.Duration{0, 5 * time.Minute}[w.rng.IntN(2)],
		Bounce:      !w.chance(6),
	}
}

// report lets the reporter do its work, as long as it has some; and sometimes the server dies in the middle of it.
func (h *host) report() {
	if !h.up || h.stopping {
		return
	}
	h.speedUp()
	if !h.s.calm && h.w.chance(12) && h.tearable(writtenMost/2) {
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
	stage   queue.Stage
	verdict queue.Verdict
	reports []queue.Message
	news    []*recipient // of whom is told while others wait
}

// Review implements queue.Reviewer.
func (s reviewed) Review(domain string, stage queue.Stage, seqs []uint64, decide func(*queue.Reviewed) queue.Decision) error {
	if domain == mail.OutboundDomain {
		return s.reviewReports(stage, seqs, decide)
	}
	var list []decision
	err := s.Store.Review(domain, stage, seqs, func(e *queue.Reviewed) queue.Decision {
		r := s.h.ledger.find(e.Envelope.ReversePath, e.Envelope.Recipients[0].Address)
		news := s.h.ledger.untold(e.Envelope)
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
		if d.Verdict != queue.Update || stage != queue.Partial {
			news = nil
		}
		list = append(list, decision{r.letter.entry(domain), stage, d.Verdict, d.Messages, news})
		return d
	})
	for i := range list {
		for j := range list[i].reports {
			s.h.written += callOctets + len(list[i].reports[j].Body)
		}
	}
	if err == nil {
		s.h.ledger.reviewed(list, s.h.tearing)
	}
	return err
}

// untold are those that the sender of an entry is to be told of while others wait.
func (l *ledger) untold(env *mail.Envelope) (rs []*recipient) {
	for i := range env.Recipients {
		if p := &env.Recipients[i]; env.Untold() && (p.State == mail.Failed || p.State == mail.Relayed) {
			rs = append(rs, l.find(env.ReversePath, p.Address))
		}
	}
	return rs
}

// reviewed says what the reporter decided, durably, or, with unsure, perhaps.
func (l *ledger) reviewed(list []decision, unsure bool) {
	for _, d := range list {
		e := d.entry
		l.w.trace("reviewed %v: %d unsure=%v", e, d.verdict, unsure)
		for i := range d.reports {
			l.answered(e, &d.reports[i], unsure)
			l.reportMade(e, &d.reports[i], unsure)
		}
		l.maySay(&d)
		for _, r := range d.news {
			l.suppose(r) // as above
			r.bounced, r.told = true, r.told || unsure
			l.w.meet("a report while others wait")
		}
		if d.verdict == queue.Update && d.stage == queue.Waiting {
			l.mayBeLate(e)
		}
		if d.verdict != queue.Drop {
			continue
		}
		stays := slices.ContainsFunc(e.recipients(), func(r *recipient) bool { return r.state == mail.Held })
		switch {
		case stays: // until an operator has decided
		case unsure:
			e.maybeLeft = true
		default:
			e.left = true
		}
		if d.stage == queue.Settled { // a torn settlement had been made, then
			for _, r := range e.recipients() {
				l.suppose(r)
			}
		}
		silent := !l.host.promised(e.domain).Bounce
		for _, r := range e.recipients() {
			if silent && !r.bounced && r.state != mail.Held && r.state != mail.Delivered {
				r.silenced, r.told = true, r.told || unsure
				l.w.meet("mail that failed without a report")
			}
			r.bounced = r.bounced || stays && r.state != mail.Held
			if r.state == mail.Pending {
				r.unsure = r.unsure || unsure
				r.expired = true
				l.w.meet("expired mail")
				if !unsure {
					r.state = mail.Failed
				}
				l.mayExpire(e)
			}
		}
	}
}

// mayExpire says what is wrong with that an entry expires.
func (l *ledger) mayExpire(e *entry) {
	h := l.host
	if a, err := h.dir.Owner(e.domain); err == nil && a.Policy.Hold == account.On {
		l.w.fail(RuleKept, "%v expired while its customer is on vacation", e)
	}
	if waited, p := time.Duration(l.w.now-e.arrived), h.promised(e.domain); waited < p.Retention {
		l.w.fail(RuleKept, "%v expired after %v, the retention is %v", e, waited, p.Retention)
	}
}

// maySay says what is wrong with a decision of which senders are told, or not, as an operator has it.
func (l *ledger) maySay(d *decision) {
	p := l.host.promised(d.entry.domain)
	switch waited := time.Duration(l.w.now - d.entry.arrived); {
	case p.Bounce || d.verdict == queue.Keep || d.verdict == queue.Update && d.stage == queue.Waiting:
	case len(d.reports) > 0:
		l.w.fail(RuleReport, "the sender of %v is told of it although nobody is to be", d.entry)
	case d.verdict == queue.Drop && waited < p.Retention:
		l.w.fail(RuleKept, "%v, of which nobody is told, is discarded after %v, the retention is %v", d.entry, waited, p.Retention)
	}
}

// mayBeLate says what is wrong with that its sender is told that an entry waits.
func (l *ledger) mayBeLate(e *entry) {
	h := l.host
	if a, err := h.dir.Owner(e.domain); err == nil && a.Policy.Hold == account.On {
		l.w.fail(RuleReport, "the delay of %v is reported while its customer is on vacation", e)
	}
	if waited, p := time.Duration(l.w.now-e.arrived), h.promised(e.domain); p.DelayNotice == 0 || waited < p.DelayNotice {
		l.w.fail(RuleReport, "the delay of %v is reported after %v, not %v", e, waited, p.DelayNotice)
	}
}

// answered says that a report came into being, perhaps: one for a domain that is held here is a letter like others.
func (l *ledger) answered(e *entry, m *queue.Message, unsure bool) {
	if m.Envelope.Domain == mail.OutboundDomain {
		return
	}
	a := e.letter.answer
	if a == nil || m.Envelope.Recipients[0].Address != a.rcpts[0].address || m.Envelope.ReversePath != "" {
		l.w.fail(RuleReport, "a report on %v goes from %q to %+v", e, m.Envelope.ReversePath, m.Envelope.Recipients)
		return
	}
	l.w.meet("a report to a customer")
	for _, old := range a.entries {
		if !old.unsure {
			l.w.fail(RuleReport, "a second report on %v", e)
			return
		}
		old.absent = true // or what it is about would not be there any more
	}
	a.entries = nil
	to := &m.Envelope.Recipients[0]
	r := a.rcpts[0]
	a.content, a.utf8, r.notify, r.orcpt, r.acked = m.Body, m.Envelope.SMTPUTF8, to.Notify, to.ORcpt, !unsure
	l.committed([]mail.Envelope{m.Envelope}, unsure)
	l.read(m.Body, &m.Envelope, func(about *recipient, action string) {
		if about.told = about.told || unsure; !unsure {
			about.reported(action, mail.ID(len(about.reports[action])+1))
		}
	})
}

// read reads a report: whom it is about, and what happened.
func (l *ledger) read(body []byte, env *mail.Envelope, fn func(about *recipient, action string)) {
	var about *recipient
	for _, line := range strings.Split(string(body), "\r\n") {
		if address, ok := strings.CutPrefix(line, "Final-Recipient: rfc822; "); ok {
			if about = l.find(env.Recipients[0].Address, address); about == nil {
				l.w.fail(RuleReport, "a report is about %q", address)
				return
			}
			if len(env.Recipients) != 1 || env.Recipients[0].Address != about.letter.from {
				l.w.fail(RuleReport, "a report about %v goes to %+v", about, env.Recipients)
			}
		}
		if action, ok := strings.CutPrefix(line, "Action: "); ok && about != nil {
			fn(about, action)
		}
	}
	if about == nil {
		l.w.fail(RuleReport, "a report is about nobody")
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
	if r.state == mail.Failed && r.letter.from != "" && dsn.Due(r.notify, dsn.Failed) && !r.silenced {
		due = 1
	}
	relayed := 0
	if r.state == mail.Relayed && r.letter.from != "" && !r.silenced {
		relayed = 1
	}
	failed, delayed := len(r.reports["failed"]), len(r.reports["delayed"])
	switch {
	case r.unsure, r.told:
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
	for range 24 {
		if s.w.found != nil {
			return
		}
		s.w.now += int64(11 * time.Minute)
		h.decide()
		h.report()
		h.sending.pass()
	}
	s.ledger.finalOutbound()
	for _, t := range s.ledger.letters {
		for _, r := range t.rcpts {
			s.ledger.finalReports(r)
		}
	}
	if err := h.raw.List("", func(e queue.Entry) bool {
		// The last reports to customers wait for their next calls.
		if r := s.ledger.find(e.Envelope.ReversePath, e.Envelope.Recipients[0].Address); r == nil || r.letter.about == nil {
			s.w.fail(RuleReport, "left is %+v", e.Envelope)
		}
		return true
	}); err != nil {
		s.w.fail(RuleStore, "list: %v", err)
	}
}
