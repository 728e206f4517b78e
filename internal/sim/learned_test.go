package sim

import (
	"fmt"
	"time"

	"odmr/engine/session"
	"odmr/internal/account"
	"odmr/internal/mail"
	"odmr/internal/recipients"
)

// learnedLifetime is how long it is remembered that a customer has no such mailbox.
const learnedLifetime = 3 * time.Hour

// mailbox is what is known of one.
type mailbox struct {
	closed  bool // the customer's server does not know it
	unknown struct {
		at      int64 // when it said so last; 0: never
		account string
		era     int
	}
}

// box is the mailbox of that address.
func (l *ledger) box(address string) *mailbox {
	b := l.boxes[address]
	if b == nil {
		b = &mailbox{}
		l.boxes[address] = b
	}
	return b
}

func boxAddress(n int, domain string) string { return fmt.Sprintf("box%d@%s", n, domain) }

// unknownTo is a customer's server that has no such mailbox, or has one again.
func (s *server) unknownTo(k *call, r *recipient) bool {
	if !r.lasting() {
		return false
	}
	b := k.c.s.ledger.box(r.address)
	if k.manner.calm {
		b.closed = false
	} else if k.w.chance(2 * k.c.s.boxes) {
		b.closed = !b.closed
	}
	if b.closed {
		k.w.trace("%v does not know %v, %s", s.visit, r, r.address)
		b.unknown.at, b.unknown.account, b.unknown.era = k.w.now, s.visit.account.Name, s.visit.era
		k.w.meet("a recipient that the customer does not know")
	}
	return b.closed
}

// lasting says whether others may write to the same address.
func (r *recipient) lasting() bool { return r.address[0] == 'b' }

// route answers ActRoute, as package engine does.
func (c *conn) route(a *session.Action) {
	h := c.h
	owner, err := h.dir.Owner(a.Domain)
	switch {
	case err != nil:
		c.answer(a.Ticket, routeResult(a.Domain, false, nil))
		return
	case h.learned.Unknown(owner.Name, a.Domain, a.Data, c.w.now):
		h.ledger.refusedUnknown(owner, string(a.Data), a.Domain)
		c.answer(a.Ticket, session.Result{Refusal: &mail.Refusal{Code: 550, Enhanced: "5.1.1", Text: "The customer's server knows no such recipient"}})
		return
	}
	r := routeResult(a.Domain, true, nil)
	r.Refusal = h.overQuota(owner, a.Size, nil)
	r.Each = h.learned.Any(a.Domain)
	c.answer(a.Ticket, r)
}

// learn takes what the customer's server said of the recipients of a message whose outcome is durable.
func (c *conn) learn(s *settlement) {
	for i, r := range s.entry.recipients() {
		o := &s.Outcomes[i]
		if c.h.s.bug == BugLearnsAll && o.Status == mail.OutcomeFailed {
			o.Rcpt = mail.RcptUnknown
		}
		if o.Rcpt != mail.RcptUnsaid && r.lasting() {
			c.w.trace("%v learns of %v, %s: %d", c.drain.visit, r, r.address, o.Rcpt)
		}
		switch o.Rcpt {
		case mail.RcptAccepted:
			if c.h.s.bug != BugKeepsLearned {
				c.h.learned.Accept(r.domain, r.address)
			}
		case mail.RcptUnknown:
			c.h.learned.Learn(c.account, r.domain, r.address, c.w.now)
		}
	}
}

// online says that the customer answers for its recipients itself; offline ends that.
func (c *conn) online() {
	c.drain.online = c.drain.lease.Domains()
	c.h.learned.Online(c.drain.online)
}

func (c *conn) offline() {
	if c.drain.online != nil {
		c.h.learned.Offline(c.drain.online)
		c.drain.online = nil
	}
}

// tookRecipient says that a customer's server took the recipient: whatever it said before is over.
func (l *ledger) tookRecipient(v *visit, r *recipient) {
	if r.lasting() && !v.manner.liar {
		r.took = l.w.now
		l.w.trace("%v takes %v, %s", v, r, r.address)
	}
}

// acceptedBox says that the server has it durably that the mailbox exists.
func (l *ledger) acceptedBox(r *recipient) {
	if b := l.boxes[r.address]; b != nil && r.took > b.unknown.at {
		b.unknown.at = 0
	}
}

// refusedUnknown looks at a recipient that is refused because its customer's server does not know it.
func (l *ledger) refusedUnknown(owner *account.Account, address, domain string) {
	b := l.boxes[address]
	l.w.meet("a recipient refused because of what was learned")
	switch {
	case b == nil || b.unknown.at == 0:
		l.w.fail(RuleUnknown, "%s was refused, and its customer has not said that it does not know it, or took it since", address)
	case b.unknown.account != owner.Name:
		l.w.fail(RuleUnknown, "%s was refused because of what %s said, and is %s's", address, b.unknown.account, owner.Name)
	case l.w.now-b.unknown.at > int64(learnedLifetime+settleMost):
		l.w.fail(RuleUnknown, "%s was refused %v after its customer said that it does not know it", address, time.Duration(l.w.now-b.unknown.at))
	case l.turned(domain):
		l.w.fail(RuleUnknown, "%s was refused while its customer collects", address)
	}
}

// settleMost is how long a refusal may wait to be settled: the bounce shield keeps it back until the queue is dry.
const settleMost = 12 * time.Hour

// turned says whether a session that has the domain has been turned.
func (l *ledger) turned(domain string) bool {
	v := l.leased[domain]
	return v != nil && v.reversed
}

func newLearned() *recipients.Table {
	return recipients.NewTable(recipients.Limits{Lifetime: learnedLifetime, PerDomain: 2})
}
