package sim

import (
	"slices"
	"time"

	"odmr/engine/session"
	"odmr/internal/account"
)

// conn is the server's end of a line: it does for a machine what package engine does, in virtual time.
type conn struct {
	h    *host
	w    *world
	line *line
	role role
	era  int
	sess session.Session
	out  session.Output

	answers    []answer
	inflight   int
	opened     bool
	turned     bool // the machine was exchanged and has not been started
	reversed   bool
	closing    bool // the machine asked to close
	committing bool // a message is on its way into line
	doomed     bool // without another word
	ended      bool // the machine has had its End
	gone       bool // the line is no more
	timerAt    int64
	takeBy     int64
	heard      int64 // octets that the reversed machine consumed

	account  string
	atrnAt   int64 // when it last asked for its mail
	hurried  bool  // that was too soon
	exchange account.Exchange
	in       incoming
	commits  []*commit // not in line yet, in their order
	drain    drain
	queue    output
}

type answer struct {
	ticket uint32
	result session.Result
}

func (c *conn) open() {
	if c.gone {
		return
	}
	c.opened = true
	if p, ok := c.sess.(*session.Provider); ok {
		p.Offer(c.h.auth.Mechanisms(account.Peer{}))
	}
	c.sess.Start(c.w.now, &c.out)
	c.carryOut()
	if c.h.stopping {
		c.stop()
	}
	c.run()
}

// arrived implements party.
func (c *conn) arrived() {
	if c.ended || c.gone {
		c.line.up.take(len(c.line.up.inbox))
		return
	}
	c.run()
}

// room implements party.
func (c *conn) room() {
	if !c.gone {
		c.run()
	}
}

// lost implements party.
func (c *conn) lost(reset bool) {
	if c.gone || c.era != c.h.era || !c.h.up {
		return
	}
	if !reset && !c.ended && c.opened {
		c.run() // what came before the end was there before it
	}
	c.hangUp("line lost")
}

// hangUp ends the connection at once.
func (c *conn) hangUp(why string) {
	if c.gone {
		return
	}
	c.w.trace("%v is gone: %s", c, why)
	c.gone = true
	c.finish()
	c.queue.drop(c)
	c.line.shut()
	c.retireRecord()
}

// retireRecord forgets a connection that is gone once nothing is in flight for it.
func (c *conn) retireRecord() {
	if c.inflight == 0 && c.drain.lease == nil {
		c.h.forget(c)
	}
}

// finish gives the machine its End. Settlements still go to the store, and the lease is released after them.
func (c *conn) finish() {
	if c.ended {
		return
	}
	c.ended = true
	c.out.Reset()
	if c.opened {
		c.sess.End(c.w.now, &c.out)
	}
	for i := range c.out.Acts {
		switch a := &c.out.Acts[i]; a.Kind {
		case session.ActSettle, session.ActDiscard:
			c.perform(a)
		default:
			c.w.fail(RuleProtocol, "%v: End wants action %d", c, a.Kind)
		}
	}
	c.out.Reset()
	if m, ok := c.sess.(*session.Reversed); ok {
		f := m.Refusals()
		c.h.refusals[c.account] = &f
		if m.Dry() || c.h.s.bug == BugCutCounts {
			c.h.note(c.account, c.drain.visit.domains, c.atrnAt)
		}
	}
	c.answers, c.exchange = nil, nil
	c.in.discard()
	c.closeDrain()
	c.leaseStep()
}

// buried gives back what the connection of a dead process holds. Its machine is dead, too: it is not told.
func (c *conn) buried() {
	c.gone, c.ended = true, true
	c.queue.drop(c)
	for handle, m := range c.drain.held {
		delete(c.drain.held, handle)
		c.unload(m)
	}
	if c.drain.lease != nil {
		c.drain.lease.Release()
	}
	if c.in.in != nil && !c.in.busy {
		c.in.in.Abort()
	}
}

// run calls the machine until it has nothing to do, and writes what came of it.
func (c *conn) run() {
	if !c.opened {
		return
	}
	for range 1000 {
		if c.gone || c.ended {
			break
		}
		if c.closing {
			c.w.trace("%v closes", c)
			c.finish()
			break
		}
		if !c.work() {
			break
		}
	}
	c.flush()
	if c.ended && !c.gone && (c.doomed || c.queue.empty() || c.queue.bodies > 0) {
		// What is left of a message must not go out any more: nobody would hear the reply.
		c.hangUp("closed")
	}
	c.arm()
}

// work makes one call of the machine; false if there is none to be made.
func (c *conn) work() bool {
	now := c.w.now
	switch {
	case c.turned:
		c.turned = false
		c.sess.Start(now, &c.out)
	case len(c.answers) > 0:
		a := c.answers[0]
		c.answers = c.answers[1:]
		c.sess.Done(now, a.ticket, &a.result, &c.out)
	default:
		return c.input(now)
	}
	c.carryOut()
	return true
}

// input gives the machine some of what came in.
func (c *conn) input(now int64) bool {
	b := c.line.up.inbox
	if len(b) == 0 || !c.reversed && c.queue.size > 64<<10 {
		return false
	}
	if len(b) > 1 && c.w.chance(4) { // any cutting of the input is the same dialogue
		b = b[:c.w.between(1, len(b))]
	}
	n := c.sess.Input(now, slices.Clone(b), &c.out)
	if n == 0 && len(b) < len(c.line.up.inbox) {
		if len(c.out.Acts) > 0 || len(c.out.Reply) > 0 {
			c.carryOut()
			return true
		}
		b = c.line.up.inbox
		n = c.sess.Input(now, slices.Clone(b), &c.out)
	}
	if c.reversed {
		c.hear(n)
	}
	c.line.up.take(n)
	any := len(c.out.Acts) > 0 || len(c.out.Reply) > 0
	c.carryOut()
	return any || n > 0
}

// hear counts what the reversed machine has read.
func (c *conn) hear(n int) {
	c.heard += int64(n)
	if v := c.drain.visit; v != nil {
		v.heard = c.heard
	}
}

// tick handles the passing of the deadline.
func (c *conn) tick() {
	if c.gone || c.era != c.h.era || !c.h.up {
		return
	}
	c.timerAt = session.Never
	if c.w.now < c.deadline() {
		c.arm()
		return
	}
	if c.ended {
		c.hangUp("does not take the last octets")
		return
	}
	if c.takeBy != 0 && c.w.now >= c.takeBy {
		c.hangUp("peer took nothing of a message in time")
		return
	}
	c.sess.Tick(c.w.now, &c.out)
	c.carryOut()
	c.run()
}

func (c *conn) deadline() int64 {
	by := session.Never
	if !c.ended {
		by = c.sess.Deadline()
	}
	if c.takeBy != 0 {
		by = min(by, c.takeBy)
	}
	return by
}

// arm sets the timer.
func (c *conn) arm() {
	if by := c.deadline(); !c.gone && by < c.timerAt {
		c.timerAt = by
		c.w.at(by, c.tick)
	}
}

// carryOut performs what the machine wants, in order, and empties the Output.
func (c *conn) carryOut() {
	out := &c.out
	at := 0
	for i := range out.Acts {
		a := &out.Acts[i]
		switch a.Kind {
		case session.ActBody, session.ActTurn, session.ActStartTLS, session.ActClose:
			c.queue.write(out.Reply[at:a.At])
			at = a.At
		}
		c.perform(a)
		if c.closing || c.gone {
			at = len(out.Reply)
			break
		}
	}
	c.queue.write(out.Reply[at:])
	out.Reset()
	c.flush()
}

// perform is package engine's switch over actions.
func (c *conn) perform(a *session.Action) {
	switch a.Kind {
	case session.ActBegin:
		c.begin(a)
	case session.ActRoute:
		c.route(a)
	case session.ActAppend:
		c.append(a)
	case session.ActCommit:
		c.commit(a)
	case session.ActDiscard:
		c.in.discard()
	case session.ActAuth:
		c.authenticate(a)
	case session.ActAuthAbort:
		c.exchange = nil
	case session.ActAcquire:
		c.acquire(a)
	case session.ActTurn:
		c.turn()
	case session.ActPrefetch:
		c.fetchMore(a)
	case session.ActBody:
		c.writeBody(a)
	case session.ActSettle:
		c.settle(a)
	case session.ActUnload:
		if m := c.drain.held[a.Item]; m != nil {
			c.unload(m)
		}
	case session.ActAlarm:
		c.drain.visit.alarmed = true
		c.w.meet("the shield")
		c.w.trace("%v: shield: %s", c.drain.visit, a.Reason)
	case session.ActAwait:
		c.await(a)
	case session.ActRelease:
		c.release()
	case session.ActClose:
		c.closing = true
		c.w.trace("%v: %s", c, a.Reason)
	default:
		c.w.fail(RuleProtocol, "%v: action %d", c, a.Kind)
	}
}

// answer queues the result of an action for the machine.
func (c *conn) answer(ticket uint32, r session.Result) {
	if !c.ended {
		c.answers = append(c.answers, answer{ticket, r})
	}
}

// submit hands a job to a worker; then is called when it is back.
func (c *conn) submit(j *job, then func()) {
	c.inflight++
	j.conn = c
	j.done = func() {
		c.inflight--
		then()
		c.leaseStep()
		if c.gone {
			c.retireRecord()
			return
		}
		c.run()
	}
	c.h.submit(j)
}

// authenticate makes one step of a login.
func (c *conn) authenticate(a *session.Action) {
	if a.Mechanism != "" {
		x, err := c.h.auth.Start(a.Mechanism, account.Peer{})
		if err != nil {
			c.answer(a.Ticket, session.Result{Refusal: account.AuthRefusal(err)})
			return
		}
		c.exchange = x
	}
	x, ticket := c.exchange, a.Ticket
	if x == nil {
		c.answer(ticket, session.Result{Refusal: account.AuthRefusal(account.ErrMechanism)})
		return
	}
	var response []byte
	if a.HasData {
		response = append([]byte{}, a.Data...)
	}
	var challenge []byte
	var done bool
	var err error
	c.submit(&job{what: "AUTH", run: func() { challenge, done, err = x.Next(response) }}, func() {
		switch {
		case c.ended || c.exchange != x:
		case err != nil:
			c.exchange = nil
			c.answer(ticket, session.Result{Refusal: account.AuthRefusal(err)})
		case done:
			c.exchange, c.account = nil, x.Account()
			c.answer(ticket, session.Result{AuthDone: true, Account: c.account})
		default:
			c.answer(ticket, session.Result{Challenge: challenge})
		}
	})
}

// abandon ends a connection whose driver cannot go on.
func (c *conn) abandon(why string) {
	c.w.trace("%v abandoned: %s", c, why)
	c.closing, c.doomed = true, true
}

// dataBlock is how long a peer may take nothing of a message (RFC 5321 4.5.3.2.5).
const dataBlock = 3 * time.Minute
