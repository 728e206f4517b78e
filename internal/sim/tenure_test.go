package sim

import (
	"slices"
	"time"

	"odmr/engine/session"
	"odmr/internal/account"
	"odmr/internal/mail"
	"odmr/queue"
)

// How long a session waits for those that make way, and how often it tries.
const (
	patience     = 10 * time.Second
	maxTakeovers = 3
)

// policy is what an operator has set about how the sessions of a customer follow each other.
type policy struct {
	takeover bool
	interval time.Duration // a session that took over keeps its place for so long
	linger   time.Duration
	wait     time.Duration
	atrn     time.Duration // least time between two ATRN that bring all there is
	code     int           // what those that come too soon are answered
}

func (w *world) newPolicy() policy {
	return policy{
		takeover: !w.chance(4),
		interval: []time.Duration{0, 10 * time.Second, 5 * time.Minute}[w.rng.IntN(3)],
		linger:   []time.Duration{0, 0, 30 * time.Second, time.Hour}[w.rng.IntN(4)],
		wait:     []time.Duration{0, 0, 20 * time.Second}[w.rng.IntN(3)],
		atrn:     []time.Duration{0, time.Minute, 10 * time.Minute}[w.rng.IntN(3)],
		code:     []int{453, 450}[w.rng.IntN(2)],
	}
}

// smallMessage is how large a message may be on the wire to go first, where small ones do.
const smallMessage = 700

// request is an ATRN on its way to a lease.
type request struct {
	ticket  uint32
	wanted  []string
	domains []string
	tries   int
	lease   queue.Lease
	waiting int64
	refusal *mail.Refusal
	serial  uint64           // of the patience that it has with others
	took    bool             // others made way for it
	account *account.Account // as it was when the request was looked at
	small   bool
	linger  time.Duration
	asked   *asked // as the ledger remembers it
}

func (c *conn) acquire(a *session.Action) {
	q := &request{ticket: a.Ticket, wanted: append([]string{}, a.Domains...)}
	if c.drain.releasing { // the last lease is on its way back
		c.drain.again = q
		return
	}
	if c.drain.lease != nil || c.account == "" {
		c.w.fail(RuleProtocol, "%v: a lease is asked for twice, or by nobody", c)
		return
	}
	c.atrnAt = c.w.now
	c.claim(q)
}

// claim asks for the lease, if need be after others have made way.
func (c *conn) claim(q *request) {
	h := c.h
	var err error
	if q.domains, err = h.authorize(c.account, q.wanted); err != nil {
		c.refuse(q, account.AccessRefusal(err))
		return
	}
	if q.account, err = h.dir.Lookup(c.account); err != nil {
		c.refuse(q, account.AccessRefusal(err))
		return
	}
	if r := c.onHold(); r != nil {
		c.w.meet("ATRN of a customer on vacation")
		c.refuse(q, r)
		return
	}
	if r := c.tooSoon(q); r != nil {
		c.refuse(q, r)
		return
	}
	q.small, q.linger = q.account.Policy.SmallFirst == account.On, h.policy.linger
	switch q.account.Policy.Linger {
	case 0:
	case account.Off:
		q.linger = 0
	default:
		q.linger = q.account.Policy.Linger
	}
	if h.s.calm {
		q.linger = 0
	}
	var inTheWay []*conn
	for _, o := range h.conns {
		if o.drain.lease != nil && slices.ContainsFunc(o.drain.visit.domains, func(d string) bool { return slices.Contains(q.domains, d) }) {
			inTheWay = append(inTheWay, o)
		}
	}
	patient := !h.s.calm && (q.linger > 0 || h.policy.wait > 0)
	if !patient && !slices.ContainsFunc(q.domains, func(d string) bool { return h.store.Counts(d).Messages > 0 }) {
		c.refuse(q, c.noMail(q))
		return
	}
	for _, o := range inTheWay {
		keeps := o.drain.took != 0 && c.w.now-o.drain.took < int64(h.policy.interval)
		if !o.ended && !o.drain.releasing && (!h.policy.takeover || keeps) || q.tries >= maxTakeovers {
			c.refuse(q, acquireRefusal(queue.ErrBusy))
			return
		}
	}
	if len(inTheWay) > 0 {
		c.wait(q, inTheWay)
		return
	}
	run := func() {
		if q.lease, err = h.store.Acquire(q.domains); err != nil {
			q.lease, q.refusal = nil, acquireRefusal(err)
			return
		}
		if q.small {
			q.lease.SmallFirst(smallMessage)
		}
		if q.waiting = q.lease.Waiting().Messages; q.waiting == 0 && !patient {
			q.lease.Release()
			q.lease, q.refusal = nil, c.noMail(q)
		}
	}
	c.submit(&job{what: "ATRN", run: run, discard: func() {
		if q.lease != nil {
			q.lease.Release()
		}
	}}, func() { c.acquired(q) })
}

// noMail is the answer where nothing waits.
func (c *conn) noMail(q *request) *mail.Refusal {
	c.h.note(c.account, q.domains, c.w.now)
	q.asked.dry = true
	return &mail.Refusal{Code: 453, Text: "You have no mail"}
}

func (c *conn) refuse(q *request, r *mail.Refusal) {
	c.w.trace("%v: ATRN %d", c, r.Code)
	c.answer(q.ticket, session.Result{Refusal: r})
}

// wait has others make way, and waits for them.
func (c *conn) wait(q *request, inTheWay []*conn) {
	c.w.trace("%v waits for %v", c, inTheWay)
	for _, o := range inTheWay {
		lease := o.drain.lease
		c.w.after(c.w.soon(), func() {
			if o.drain.lease == lease {
				o.yield()
			}
		})
	}
	q.tries++
	q.took = true
	q.serial++
	c.drain.blocked = q
	serial := q.serial
	c.w.after(patience, func() {
		if c.drain.blocked == q && q.serial == serial && !c.gone {
			c.drain.blocked = nil
			c.refuse(q, acquireRefusal(queue.ErrBusy))
			c.run()
		}
	})
}

// freed goes on with those that waited for a lease.
func (h *host) freed() {
	for _, c := range slices.Clone(h.conns) {
		if q := c.drain.blocked; q != nil && !c.ended {
			c.drain.blocked = nil
			c.claim(q)
			c.run()
		}
	}
}

// acquired takes the outcome of a request.
func (c *conn) acquired(q *request) {
	if q.refusal != nil {
		c.refuse(q, q.refusal)
		return
	}
	d := &c.drain
	d.lease, d.took, d.releasing = q.lease, 0, false
	if q.took {
		d.took = c.w.now
	}
	v := c.h.s.newVisit(c, q)
	d.visit, q.asked.visit = v, v
	c.h.ledger.leasedBy(v, q.lease.Domains())
	c.w.trace("%v has the lease of %v, waiting %d", v, q.lease.Domains(), q.waiting)
	r := session.Result{Domains: q.lease.Domains(), Waiting: q.waiting}
	if d.linger = q.linger; q.waiting == 0 && d.linger == 0 {
		r.Wait = c.h.policy.wait
	}
	c.answer(q.ticket, r)
}

// yield makes way for another session of the customer.
func (c *conn) yield() {
	if c.gone || c.ended || c.closing || c.drain.releasing {
		return
	}
	c.w.trace("%v makes way", c)
	c.w.meet("a takeover")
	y, ok := c.sess.(session.Yielder)
	if !ok || c.turned {
		c.abandon("taken over")
	} else {
		y.Yield(c.w.now, session.CauseTakenOver, &c.out)
		c.carryOut()
	}
	if c.closing && c.reversed { // nothing of a message may reach the customer on this line any more
		c.doomed = true
		c.line.down.flying = nil
	}
	c.run()
}

// await waits for mail.
func (c *conn) await(a *session.Action) {
	d := &c.drain
	if d.lease == nil || d.busy || d.want != nil || len(d.queued) > 0 || d.expects != 0 || d.releasing || len(d.held) > 0 {
		c.w.fail(RuleProtocol, "%v waits for mail without a lease, or while it is in use", c)
		return
	}
	d.expects = a.Ticket
	c.w.after(c.w.soon(), c.h.poke)
}

// poke tells those that wait for mail if there is some, and now and then if there is none.
func (h *host) poke() {
	if !h.up {
		return
	}
	for _, c := range slices.Clone(h.conns) {
		d := &c.drain
		if d.expects == 0 || c.ended || d.releasing || d.lease.Waiting().Messages == 0 && !h.w.chance(20) {
			continue
		}
		ticket := d.expects
		h.w.meet(map[bool]string{true: "mail for a session that stayed", false: "mail for an ATRN that waited"}[c.reversed])
		d.expects = 0
		r := c.may(d.lease.Domains())
		if h.s.bug == BugGoesOn {
			r = nil
		}
		c.answer(ticket, session.Result{Refusal: r})
		c.run()
	}
}

// release gives the lease back once its settlements are durable, and all that came out of it at once.
func (c *conn) release() {
	if c.drain.lease == nil || c.drain.releasing {
		c.w.fail(RuleProtocol, "%v gives a lease back twice, or none", c)
		return
	}
	c.drain.releasing = true
	if !c.reversed { // nothing came in time
		c.h.note(c.account, c.drain.visit.domains, c.w.now)
		c.h.ledger.waited(c.account, c.drain.visit.domains)
	}
	c.closeDrain()
	c.leaseStep()
}

// releaseNow gives the lease back.
func (c *conn) releaseNow() {
	d := &c.drain
	v, lease := d.visit, d.lease
	c.submit(&job{what: "Release", run: lease.Release, told: func() { c.h.ledger.released(v) }}, func() {
		d.lease, d.busy, d.releasing = nil, false, false
		c.offline()
		if q := d.again; q != nil && !c.ended {
			d.again = nil
			c.claim(q)
		}
		era := c.era
		c.w.after(0, func() {
			if c.h.up && c.h.era == era {
				c.h.freed()
			}
		})
	})
}

// decide is an operator who looks at what is held.
func (h *host) decide() {
	if !h.up {
		return
	}
	h.speedUp()
	var held []queue.Entry
	if err := h.raw.List("", func(e queue.Entry) bool {
		for i := range e.Envelope.Recipients {
			if e.Envelope.Recipients[i].State == mail.Held && !e.Leased {
				e.Envelope.Recipients = slices.Clone(e.Envelope.Recipients)
				held = append(held, e)
				break
			}
		}
		return true
	}); err != nil {
		h.w.fail(RuleStore, "list: %v", err)
	}
	for i := range held {
		env := &held[i].Envelope
		if !h.s.calm && h.w.chance(3) {
			continue
		}
		release := h.w.chance(2) && !h.s.over
		do, state := h.raw.Bounce, mail.Failed
		if release {
			do, state = h.raw.Release, mail.Pending
		}
		n, err := do(env.Domain, env.ID)
		if err != nil || n != 1 {
			h.w.fail(RuleStore, "decision about %v in %s: %d, %v", env.ID, env.Domain, n, err)
			return
		}
		h.ledger.decided(env, state)
	}
	h.poke()
}

// decided says what an operator made of the held recipients of a message.
func (l *ledger) decided(env *mail.Envelope, state mail.RecipientState) {
	for i := range env.Recipients {
		r := l.find(env.ReversePath, env.Recipients[i].Address)
		if r == nil {
			l.w.fail(RuleStore, "held is %q, to whom nobody wrote", env.Recipients[i].Address)
			return
		}
		if env.Recipients[i].State == mail.Held {
			l.w.trace("%v is decided upon: %d", r, state)
			l.w.meet(map[bool]string{true: "held mail released", false: "held mail bounced"}[state == mail.Pending])
			if r.state != mail.Held && !r.unsure {
				l.w.fail(RuleStore, "%v is held, settled was %d", r, r.state)
			}
			r.state = state
			e := r.letter.entry(r.domain)
			e.back, e.unsure, e.queued = true, false, l.w.now
		}
	}
}
