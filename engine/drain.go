package engine

import (
	"sync/atomic"
	"time"

	"odmr/engine/session"
	"odmr/internal/mail"
	"odmr/queue"
)

// drain is the lease of a session and all that came out of it. Of the calls on a lease one Next and one Settle may
// be in flight at a time; the others wait here.
type drain struct {
	lease   *heldLease          // of tenure
	mine    map[string]struct{} // the leased domains
	joined  bool                // shares the prefetch memory
	want    *nextJob            // waits for its turn, or for memory
	waiting bool                // want waits for memory: a grant is on its way
	awaits  *source             // waits for memory: its grant is on its way
	queued  []settlement        // wait for their turn
	flying  []settlement        // in flight
	calls   leaseCalls          // in flight
	held    map[uint32]*held
	handle  uint32   // the last one given out
	online  []string // domains whose customer answers for itself; see recipients.go
	tenancy
}

// leaseCalls is a set of calls on a lease.
type leaseCalls uint8

const (
	callNext leaseCalls = 1 << iota
	callSettle
	callRelease
)

// heldLease is a lease, and the number of calls that are in flight.
type heldLease struct {
	queue.Lease
	calls atomic.Int32
}

// discard ends a call whose connection has no loop any more; the last of them releases the lease.
func (l *heldLease) discard() {
	if l.calls.Add(-1) == 0 {
		l.Release()
	}
}

// held is a message that the machine may send.
type held struct {
	delivery queue.Delivery
	body     sharedBody
	idle     bool         // the body was given up
	charge   int64        // octets of prefetch memory; 0 once the output has them, or once they were given up
	taken    session.Time // when its body was asked for, else when it was fetched
}

// settlement is an outcome on its way to the store.
type settlement struct {
	ticket uint32
	queue.Settlement
	msg    *held
	reason string
}

// leaseStep begins the next calls on the lease, if there are any to be made. What is read next does not wait for
// outcomes to be durable, nor they for it. Release comes last and alone.
func (c *conn) leaseStep() {
	d := &c.drain
	if d.lease == nil || d.calls&callRelease != 0 {
		return
	}
	e := c.lp.eng
	if d.want != nil && !d.waiting && d.calls&callNext == 0 {
		j := d.want
		d.want = nil
		if d.lease.Waiting().Messages > 0 {
			c.call(&e.reads, callNext, j)
		} else { // as at the end of each session, and of each run of mail that comes to one that stays: no worker need look
			e.prefetch.charge(-j.reserved)
			c.answer(j.ticket, session.Result{})
		}
	}
	if len(d.queued) > 0 && d.calls&callSettle == 0 {
		d.queued, d.flying = d.flying[:0], d.queued
		j := &settleJob{lease: d.lease, settlements: make([]queue.Settlement, len(d.flying))}
		for i := range d.flying {
			j.settlements[i] = d.flying[i].Settlement
		}
		c.call(&c.lp.settles, callSettle, j)
	}
	if (c.ended || d.releasing) && d.calls == 0 {
		c.call(&e.writes, callRelease, &releaseJob{lease: d.lease})
	}
}

// call hands a call on the lease to a worker.
func (c *conn) call(l *lane, which leaseCalls, j job) {
	c.drain.calls |= which
	c.drain.lease.calls.Add(1)
	c.submit(l, j)
}

// called notes that a call on the lease is back.
func (c *conn) called(which leaseCalls) {
	c.drain.calls &^= which
	c.drain.lease.calls.Add(-1)
}

// fetchMore asks for messages, within this session's share of the memory.
func (c *conn) fetchMore(a *session.Action) {
	d := &c.drain
	if d.lease == nil || d.want != nil || d.releasing {
		c.abandon("prefetch without a lease, or within a prefetch")
		return
	}
	e := c.lp.eng
	share := e.prefetch.share(a.Size)
	// Next goes over its limit by one segment at the most.
	reserved := share + mail.LastPiece + lookahead
	d.want = &nextJob{
		ticket: a.Ticket, lease: d.lease, reserved: reserved,
		limit: queue.Limit{Messages: max(a.Messages, 1), Bytes: share},
	}
	if !e.prefetch.reserve(waiter{c.lp, c.id, evGrant, reserved}) {
		d.waiting = true
		c.inflight++
	}
	c.leaseStep()
}

// granted takes the memory that a prefetch waited for.
func (c *conn) granted(n int64) {
	c.drain.waiting = false
	if c.ended || c.drain.releasing || c.drain.lease == nil || c.drain.want == nil {
		c.drain.want = nil
		c.lp.eng.prefetch.charge(-n)
	}
}

// fetched takes the messages that a prefetch brought.
func (c *conn) fetched(now session.Time, j *nextJob) {
	e, d := c.lp.eng, &c.drain
	c.called(callNext)
	items := make([]session.Item, 0, len(j.deliveries))
	var used int64
	for i := range j.deliveries {
		dl := &j.deliveries[i]
		if _, ok := d.mine[dl.Key.Domain]; !ok || dl.Envelope.Domain != dl.Key.Domain {
			// Never seen, and never to be sent: it is not this customer's.
			c.log(e.log.Error()).Str("domain", dl.Key.Domain).Stringer("queue_id", dl.Envelope.ID).Msg("store handed out a foreign message")
			dl.Body.Close()
			continue
		}
		if c.ended || d.releasing {
			dl.Body.Close()
			continue
		}
		h := &held{delivery: *dl, charge: bodyCharge(dl.Body.Size()), taken: now}
		h.body = sharedBody{LeasedBody: dl.Body, users: 1}
		used += h.charge
		if d.held == nil {
			d.held = make(map[uint32]*held)
		}
		d.handle++
		d.held[d.handle] = h
		items = append(items, session.Item{Handle: d.handle, Envelope: &h.delivery.Envelope})
	}
	c.holding.octets += used
	c.holding.moved = now
	e.prefetch.charge(used - j.reserved)
	r := session.Result{Items: items}
	if j.err != nil {
		c.log(e.log.Error()).Err(j.err).Msg("reading the queue failed")
		if len(items) == 0 {
			r.Refusal = &mail.Refusal{Code: 451, Enhanced: "4.3.0", Text: "Local error in processing", Cause: j.err}
		}
	}
	c.answer(j.ticket, r)
}

// bodyCharge is what a body of size octets takes in memory at the most.
func bodyCharge(size int64) int64 {
	return min(size, mail.LastPiece+lookahead)
}

// writeBody puts a body into the output. Asked for again, it is read again once the first is through.
func (c *conn) writeBody(a *session.Action) {
	h := c.drain.held[a.Item]
	if h == nil {
		c.abandon("body of no message asked for")
		return
	}
	h.body.users++
	s := &source{body: &h.body, plain: a.Plain, charge: h.charge, away: h.charge == 0}
	h.charge = 0
	c.out.body(s)
}

// retire takes a body that the output is done with.
func (c *conn) retire(s *source) {
	c.out.retire(s)
	s.retired = true
	if !s.fetch { // else a worker has the body: closed when it is back
		c.closeBody(s)
	}
}

func (c *conn) closeBody(s *source) {
	s.body.leave()
	c.charge(-s.charge)
	s.charge = 0
}

// segment takes the piece of a body that a worker fetched.
func (c *conn) segment(j *fetchJob) {
	s := j.src
	if s.retired {
		s.fetch = false
		j.seg.Release()
	} else {
		c.out.fetched(s, j.seg, j.err)
	}
	c.sourceBack(s)
}

// sourceBack looks at a body that came back from a worker.
func (c *conn) sourceBack(s *source) {
	switch {
	case s.retired:
		c.closeBody(s)
	case s.broken != nil:
		// RFC 5321 4.1.1.4: a message cut short must not be taken for a whole one.
		c.log(c.lp.eng.log.Error()).Err(s.broken).Msg("reading a body failed")
		c.abandon("reading a body failed")
	}
}

// settle queues an outcome; the message is gone for the machine.
func (c *conn) settle(_ session.Time, a *session.Action) {
	d := &c.drain
	h := d.held[a.Item]
	if h == nil {
		c.abandon("settlement of no message")
		return
	}
	delete(d.held, a.Item)
	c.pace = takingPace{}
	c.letGo(h) // its body, if it was never asked for
	d.queued = append(d.queued, settlement{
		ticket:     a.Ticket,
		Settlement: queue.Settlement{Key: h.delivery.Key, Outcomes: a.Outcomes, InDoubt: a.InDoubt},
		msg:        h,
		reason:     a.Reason,
	})
	c.leaseStep()
}

// letGo gives up the body of a message that is gone for the machine; the output may still have it.
func (c *conn) letGo(h *held) {
	if h.idle {
		return
	}
	h.idle = true
	h.body.leave()
	c.charge(-h.charge)
	h.charge = 0
}

// settled tells the machine which outcomes are durable.
func (c *conn) settled(now session.Time, j *settleJob) {
	e, d := c.lp.eng, &c.drain
	c.called(callSettle)
	var refusal *mail.Refusal
	if j.err != nil {
		refusal = &mail.Refusal{Code: 451, Enhanced: "4.3.0", Text: "Local error in processing", Cause: j.err}
		c.log(e.log.Error()).Err(j.err).Int("messages", len(d.flying)).Msg("settling failed")
	} else {
		e.cfg.Observer.Settle(j.took, len(d.flying))
	}
	for i := range d.flying {
		s := &d.flying[i]
		if j.err == nil {
			c.learn(now, s)
			c.logSettled(s, time.Duration(now-s.msg.taken))
		}
		c.answer(s.ticket, session.Result{Refusal: refusal})
		*s = settlement{}
	}
	d.flying = d.flying[:0]
}

// closeDrain gives back what the machine holds, and waits for no mail. The lease follows once its settlements are durable.
func (c *conn) closeDrain() {
	d := &c.drain
	d.expects, d.blocked = 0, nil
	if d.tenure != nil {
		d.tenure.of.ends(d.tenure)
	}
	for handle, h := range d.held {
		delete(d.held, handle)
		c.letGo(h)
	}
	if d.want != nil && !d.waiting {
		c.lp.eng.prefetch.charge(-d.want.reserved)
		d.want = nil
	}
	if d.joined {
		d.joined = false
		c.lp.eng.prefetch.leave()
	}
}
