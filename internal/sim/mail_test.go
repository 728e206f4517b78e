package sim

import (
	"time"

	"odmr/engine/session"
	"odmr/internal/mail"
	"odmr/queue"
)

// incoming is the message that a connection is handing in.
type incoming struct {
	in    queue.Incoming
	busy  bool // a worker is in Append
	abort bool // once it is not
}

func (m *incoming) discard() {
	switch {
	case m.in == nil:
	case m.busy:
		m.abort = true
	default:
		m.in.Abort()
		*m = incoming{}
	}
}

func (c *conn) begin(a *session.Action) {
	c.in.discard()
	if c.in.in != nil {
		c.w.fail(RuleProtocol, "%v: a message within a message", c)
		return
	}
	in, err := c.h.store.Begin(a.Size)
	if err != nil {
		c.answer(a.Ticket, session.Result{Refusal: ingestRefusal(err)})
		return
	}
	c.in = incoming{in: in}
	c.answer(a.Ticket, session.Result{ID: in.ID()})
}

func (c *conn) append(a *session.Action) {
	in, data, ticket := c.in.in, a.Data, a.Ticket
	if in == nil || c.in.busy {
		c.w.fail(RuleProtocol, "%v: append without a message", c)
		return
	}
	c.in.busy = true
	c.h.written += len(data)
	var err error
	c.submit(&job{what: "Append", run: func() { err = in.Append(data) }}, func() {
		c.in.busy = false
		if c.in.abort || c.ended {
			c.in.discard()
		}
		r := session.Result{}
		if err != nil {
			r.Refusal = ingestRefusal(err)
		}
		c.answer(ticket, r)
	})
}

// routeResult is the answer to ActRoute.
func routeResult(domain string, ok bool, err error) session.Result {
	switch {
	case err != nil:
		return session.Result{Refusal: &mail.Refusal{Code: 451, Enhanced: "4.4.3", Text: "Directory unavailable", Cause: err}}
	case !ok:
		return session.Result{Refusal: &mail.Refusal{Code: 550, Enhanced: "5.1.2", Text: "No mail is held here for this domain"}}
	}
	return session.Result{Domain: domain}
}

// drain is the lease of a connection and all that came out of it.
type drain struct {
	visit     *visit
	lease     queue.Lease
	busy      bool  // calls on a lease do not overlap here
	took      int64 // when others made way for it
	linger    time.Duration
	expects   uint32 // ticket of ActAwait
	releasing bool
	again     *request // came before the last lease was back
	blocked   *request // waits for others to make way
	want      *job
	then      func()
	queued    []settlement
	online    []string // domains whose customer answers for itself
	held      map[uint32]*message
	handle    uint32
}

// message is one that the machine may send.
type message struct {
	entry    *entry
	delivery queue.Delivery
	users    int  // the machine, and each piece of the output
	read     bool // its body was begun
	idle     bool // the machine does not want the body any more
}

func (m *message) leave() {
	if m.users--; m.users == 0 {
		m.delivery.Body.Close()
	}
}

// settlement is an outcome on its way to the store.
type settlement struct {
	ticket uint32
	entry  *entry
	queue.Settlement
}

func (c *conn) turn() {
	if c.drain.lease == nil {
		c.w.fail(RuleProtocol, "%v: turn without a lease", c)
		return
	}
	cfg := c.h.reversed
	cfg.Linger = c.drain.linger
	m := session.NewReversed(&cfg, c.drain.lease.Domains())
	if f := c.h.refusals[c.account]; f != nil {
		m.Resume(f)
	}
	c.sess = m
	c.turned, c.reversed = true, true
	c.drain.visit.reversed = true
	c.online()
}

// leaseStep begins the next call on the lease, if there is one to be made.
func (c *conn) leaseStep() {
	d := &c.drain
	if d.lease == nil || d.busy {
		return
	}
	switch {
	case d.want != nil:
		j, then := d.want, d.then
		d.want, d.busy = nil, true
		c.submit(j, then)
	case len(d.queued) > 0:
		d.busy = true
		n := len(d.queued)
		if c.w.chance(3) { // package engine takes all, another driver might not
			n = c.w.between(1, n)
		}
		flying := d.queued[:n:n]
		d.queued = d.queued[n:]
		c.settleNow(flying)
	case c.ended || d.releasing:
		d.busy = true
		c.releaseNow()
	}
}

// settleNow has the store record outcomes.
func (c *conn) settleNow(flying []settlement) {
	d, l := &c.drain, c.h.ledger
	lease := d.lease
	list := make([]queue.Settlement, len(flying))
	for i := range flying {
		list[i] = flying[i].Settlement
	}
	era := c.era
	o := newOnItsWay(func(err error) {
		for i := range flying {
			flying[i].entry.settling = false
			if err == nil {
				l.settled(flying[i].entry, flying[i].Outcomes, false)
			} else {
				l.unsettled(flying[i].entry, d.visit)
			}
		}
		if err != nil {
			c.w.trace("%v: Settle: failed", c)
		}
		c.w.after(c.w.soon(), func() {
			if c.h.up && c.h.era == era {
				c.settled(flying, err)
			}
		})
	})
	c.inflight++
	c.submit(&job{what: "Settle", way: &o, run: func() { lease.SettleTo(list, &o) },
		torn: func() {
			for i := range flying {
				l.settled(flying[i].entry, flying[i].Outcomes, true)
			}
		},
		told: func() {
			for i := range flying {
				flying[i].entry.settling = true
			}
			if c.h.slow {
				c.w.meet("settlements that wait for a slow disk")
			}
			c.h.awaitDisk(&o)
		}}, func() {})
}

// settled tells the machine which outcomes are durable.
func (c *conn) settled(flying []settlement, err error) {
	c.inflight--
	c.drain.busy = false
	for i := range flying {
		r := session.Result{}
		if err != nil {
			r.Refusal = &mail.Refusal{Code: 451, Enhanced: "4.3.0", Text: "Local error in processing", Cause: err}
		} else {
			c.learn(&flying[i])
		}
		c.answer(flying[i].ticket, r)
	}
	c.leaseStep()
	if c.gone {
		c.retireRecord()
		return
	}
	c.run()
}

// fetchMore asks for messages, now and then for less than the machine would like, as when memory is short.
func (c *conn) fetchMore(a *session.Action) {
	d := &c.drain
	if d.lease == nil || d.want != nil || d.releasing {
		c.w.fail(RuleProtocol, "%v: prefetch without a lease, or within a prefetch", c)
		return
	}
	limit := queue.Limit{Messages: max(a.Messages, 1), Bytes: a.Size}
	if a.Size > 64<<10 && c.w.chance(3) {
		limit.Bytes = 64 << 10
	}
	lease, ticket := d.lease, a.Ticket
	var ds []queue.Delivery
	var err error
	d.want = &job{what: "Next", run: func() { ds, err = lease.Next(nil, limit) }, discard: func() {
		for i := range ds {
			ds[i].Body.Close()
		}
	}}
	d.then = func() {
		d.busy = false
		r := session.Result{Items: c.hold(ds)}
		if err != nil && len(r.Items) == 0 {
			r.Refusal = &mail.Refusal{Code: 451, Enhanced: "4.3.0", Text: "Local error in processing", Cause: err}
		}
		c.answer(ticket, r)
	}
	c.leaseStep()
}

// hold takes what a prefetch brought.
func (c *conn) hold(ds []queue.Delivery) []session.Item {
	d := &c.drain
	var items []session.Item
	for i := range ds {
		m := &message{delivery: ds[i], users: 1}
		m.entry = c.h.ledger.handedOut(d.visit, ds[i].Key, &ds[i].Envelope)
		if m.entry == nil || c.ended || d.releasing {
			m.leave()
			continue
		}
		if d.held == nil {
			d.held = map[uint32]*message{}
		}
		d.handle++
		d.held[d.handle] = m
		items = append(items, session.Item{Handle: d.handle, Envelope: &m.delivery.Envelope})
	}
	return items
}

func (c *conn) writeBody(a *session.Action) {
	m := c.drain.held[a.Item]
	if m == nil {
		c.w.fail(RuleProtocol, "%v: body of no message", c)
		return
	}
	m.users++
	c.queue.bodies++
	c.queue.pieces = append(c.queue.pieces, &piece{msg: m, plain: a.Plain})
}

func (c *conn) settle(a *session.Action) {
	d := &c.drain
	m := d.held[a.Item]
	if m == nil {
		c.w.fail(RuleProtocol, "%v: settlement of no message", c)
		return
	}
	delete(d.held, a.Item)
	c.h.s.bug.settling(a)
	c.h.ledger.judge(d.visit, m.entry, a)
	if c.drain.lease == nil {
		c.w.fail(RuleLease, "%v settles %v after its lease is gone", d.visit, m.entry)
		return
	}
	if c.h.stopping && c.h.s.bug == BugStopForgets {
		c.unload(m)
		return
	}
	d.queued = append(d.queued, settlement{a.Ticket, m.entry, queue.Settlement{Key: m.delivery.Key, Outcomes: a.Outcomes, InDoubt: a.InDoubt}})
	c.unload(m)
	c.leaseStep()
}

// unload gives up the body for the machine; the output may still have it.
func (c *conn) unload(m *message) {
	if !m.idle {
		m.idle = true
		m.leave()
	}
}

// closeDrain gives back what the machine holds.
func (c *conn) closeDrain() {
	d := &c.drain
	d.want, d.expects, d.blocked, d.again = nil, 0, nil, nil
	for handle, m := range d.held { // the order does not matter: nothing is said
		delete(d.held, handle)
		c.unload(m)
	}
}
