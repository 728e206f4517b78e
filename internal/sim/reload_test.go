package sim

import (
	"slices"
	"time"

	"odmr/engine/session"
	"odmr/internal/account"
	"odmr/internal/bounce"
	"odmr/internal/mail"
	"odmr/queue"
)

// directory is the accounts file, which an operator changes while sessions run.
type directory struct{ *account.Table }

// register makes the directory what the customers are now.
func (s *Sim) register() error {
	var all []*account.Account
	for _, c := range s.customers {
		a := *c.account
		a.Domains = slices.Sorted(slices.Values(c.domains))
		a.Policy = c.policy
		c.account = &a
		all = append(all, &a)
	}
	t, err := account.NewTable(all...)
	if err == nil {
		s.host.dir.Table = t
	}
	return err
}

// newAccountPolicy is what an operator may have set for one customer.
func (w *world) newAccountPolicy() account.Policy {
	p := account.Policy{}
	if w.chance(4) {
		p.SmallFirst = account.On
	}
	if w.chance(5) {
		p.QuotaMessages = int64(w.between(1, 12))
	}
	if w.chance(8) {
		p.QuotaBytes = int64(w.between(1000, 60_000))
	}
	if w.chance(6) {
		p.Linger = []time.Duration{account.Off, time.Minute}[w.rng.IntN(2)]
	}
	if w.chance(6) {
		p.ATRNInterval = []time.Duration{account.Off, 5 * time.Minute}[w.rng.IntN(2)]
	}
	if w.chance(5) {
		p.Bounce = []account.Switch{account.On, account.SwitchedOff}[w.rng.IntN(2)]
	}
	if w.chance(8) {
		p.Retention = []time.Duration{10 * time.Minute, 10 * 24 * time.Hour}[w.rng.IntN(2)]
	}
	return p
}

// reload is an operator who changes the accounts: a domain goes from one customer to another, or is nobody's for a while;
// a customer goes on vacation or comes back; limits change.
func (s *Sim) reload() {
	w := s.w
	from, to := s.customers[w.rng.IntN(len(s.customers))], s.customers[w.rng.IntN(len(s.customers))]
	switch kind := w.rng.IntN(6); {
	case kind == 0 && len(s.orphans) > 0:
		to.domains = append(to.domains, s.orphans...)
		s.orphans = nil
	case kind == 0 && len(from.domains) > 1:
		s.orphans = append(s.orphans, s.take(from))
	case kind <= 2 && from != to: // they exchange domains: the new owner may be collecting the other at this moment
		a, b := s.take(from), s.take(to)
		from.domains, to.domains = append(from.domains, b), append(to.domains, a)
		w.meet("domains exchanged")
	case kind == 3 && from != to && len(from.domains) > 1:
		to.domains = append(to.domains, s.take(from))
		w.meet("a domain moved")
	case kind == 4 && from.policy.Hold == account.On:
		from.policy.Hold = account.SwitchedOff
	case kind == 4 && w.chance(2):
		from.policy.Hold = account.On
	default:
		hold := from.policy.Hold
		from.policy = w.newAccountPolicy()
		from.policy.Hold = hold
	}
	s.reloaded()
}

// take takes a domain from a customer.
func (s *Sim) take(c *customer) string {
	i := s.w.rng.IntN(len(c.domains))
	d := c.domains[i]
	c.domains = slices.Delete(slices.Clone(c.domains), i, i+1)
	s.ledger.movedAt[d] = s.w.now
	return d
}

// reloaded has the server read the accounts, and ask again whether sessions may go on.
func (s *Sim) reloaded() {
	if err := s.register(); err != nil {
		s.w.fail(RuleStore, "accounts: %v", err)
		return
	}
	for _, c := range s.customers {
		s.w.trace("%s has %v, %v", c.account.Name, c.account.Domains, c.policy)
	}
	for _, c := range slices.Clone(s.host.conns) {
		era := c.era
		s.w.after(s.w.soon(), func() {
			if c.era == s.host.era && era == c.era && s.host.up {
				c.recheck()
			}
		})
	}
}

// may says whether the customer may still collect what it has the lease of.
func (c *conn) may(domains []string) *mail.Refusal {
	if _, err := c.h.dir.Authorize(c.account, domains); err != nil {
		return account.AccessRefusal(err)
	}
	return c.onHold()
}

func (c *conn) onHold() *mail.Refusal {
	if a, err := c.h.dir.Lookup(c.account); err != nil || a.Policy.Hold == account.On {
		return &mail.Refusal{Code: 450, Text: "ATRN request refused: collecting is paused for this account"}
	}
	return nil
}

// recheck ends a session whose customer may not collect any more: what is on its way may arrive, and nothing more is begun.
func (c *conn) recheck() {
	d := &c.drain
	if d.lease == nil || c.ended || c.closing || d.releasing {
		return
	}
	r := c.may(d.lease.Domains())
	if r == nil {
		return
	}
	c.w.trace("%v may not collect any more: %d", c, r.Code)
	c.w.meet("a session that may not go on")
	d.visit.stopped = true
	if c.h.s.bug == BugGoesOn {
		return
	}
	if ticket := d.expects; ticket != 0 {
		d.expects = 0
		c.answer(ticket, session.Result{Refusal: r})
	} else if c.reversed {
		c.sess.Stop(c.w.now, &c.out)
		c.carryOut()
	}
	c.run()
}

// policyOf is what holds for the mail of one domain, as the reporter is told.
func (h *host) policyOf(domain string) (bounce.Policy, error) {
	p := h.promised(domain)
	switch h.s.bug {
	case BugVacation:
		p.Hold = false
	case BugTells:
		p.Bounce = true
	}
	return p, nil
}

// promised is what the operator has set for the mail of one domain: for its account, or for all.
func (h *host) promised(domain string) bounce.Policy {
	p := h.keeping
	a, err := h.dir.Owner(domain)
	if err != nil { // nobody's, or of reports
		return p
	}
	if a.Policy.Retention != 0 {
		p.Retention = a.Policy.Retention
	}
	switch a.Policy.DelayNotice {
	case 0:
	case account.Off:
		p.DelayNotice = 0
	default:
		p.DelayNotice = a.Policy.DelayNotice
	}
	if a.Policy.Bounce != account.AsServer {
		p.Bounce = a.Policy.Bounce == account.On
	}
	p.Hold = a.Policy.Hold == account.On
	return p
}

// overQuota refuses a message for which there is no room in what may be held for a, as package engine does. ahead is what imports
// have on their way, which may be there already and be counted twice: then the ledger does not look at it.
func (h *host) overQuota(a *account.Account, size int64, ahead func(domain string) (queue.Counts, bool)) *mail.Refusal {
	var messages, bytes, coming int64
	for _, d := range a.Domains {
		n := h.store.Counts(d)
		messages, bytes = messages+n.Messages+n.Failed+n.Held, bytes+n.Bytes+n.Kept
		if ahead != nil {
			c, _ := ahead(d)
			messages, bytes, coming = messages+c.Messages, bytes+c.Bytes, coming+c.Messages
		}
	}
	q := &a.Policy
	over := q.QuotaMessages > 0 && messages >= q.QuotaMessages || q.QuotaBytes > 0 && bytes+max(size, 1) > q.QuotaBytes
	if h.s.bug == BugNoQuota {
		over = false
	}
	if coming == 0 {
		h.ledger.quota(a, size, over)
	}
	if !over {
		return nil
	}
	h.w.meet("mail over a quota")
	return &mail.Refusal{Code: 452, Enhanced: "4.2.2", Text: "Too much mail is held for this recipient, try again later"}
}

// quota compares a decision with what is held at the least and at the most. Nothing is on its way while it is made but what
// the disk has not yet: that may exceed the quota.
func (l *ledger) quota(a *account.Account, size int64, over bool) {
	var least, most, leastBytes, mostBytes int64
	for _, d := range a.Domains {
		for _, e := range l.queues[d] {
			if e.absent || e.left || !e.kept() {
				continue
			}
			most, mostBytes = most+1, mostBytes+e.wire
			if !e.uncertain() {
				least, leastBytes = least+1, leastBytes+e.wire
			}
		}
	}
	q := &a.Policy
	is := func(messages, bytes int64) bool {
		return q.QuotaMessages > 0 && messages >= q.QuotaMessages || q.QuotaBytes > 0 && bytes+max(size, 1) > q.QuotaBytes
	}
	if !over && is(least, leastBytes) || over && !is(most, mostBytes) {
		l.w.fail(RuleQuota, "%s: %d..%d messages, %d..%d octets are held, the quota is %d and %d: refused %v", a.Name, least, most, leastBytes, mostBytes,
			q.QuotaMessages, q.QuotaBytes, over)
	}
}

// kept says whether the store has the entry: something is to be delivered, decided or reported.
func (e *entry) kept() bool {
	return slices.ContainsFunc(e.recipients(), func(r *recipient) bool { return r.state != mail.Delivered && (!r.bounced || r.told) })
}

// uncertain says whether the entry may be gone, or never have been there.
func (e *entry) uncertain() bool {
	return e.unsure || e.settling || e.maybeLeft || slices.ContainsFunc(e.recipients(), func(r *recipient) bool { return r.unsure || r.told })
}

// domainsOf are the domains of that account now.
func (h *host) domainsOf(name string) []string {
	if a, err := h.dir.Lookup(name); err == nil {
		return a.Domains
	}
	return nil
}
