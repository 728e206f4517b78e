package engine

import (
	"time"

	"odmr/engine/session"
	"odmr/internal/mail"
	"odmr/queue"
)

const (
	// ingestMost is what one incoming message holds in memory at the most: the piece being stored and
	// the piece being filled.
	ingestMost = 2 * mail.LastPiece
	// ingestLeast is what any incoming message is charged: Received field, envelope, small change.
	ingestLeast = 4 << 10
)

// incoming is the message that a session is handing in.
type incoming struct {
	in     queue.Incoming
	busy   bool  // a worker is in Append or Commit
	abort  bool  // to be aborted once it is not
	charge int64 // octets of ingest memory taken
	fed    int64 // octets that came in since it began
	began  session.Time
}

// begin announces a message to the store.
func (c *conn) begin(now session.Time, a *session.Action) {
	e := c.lp.eng
	c.in.discard(e)
	if c.in.busy { // the machine would have two messages at once
		c.abandon("message begun within a message")
		return
	}
	charge := int64(mail.LastPiece) // size unknown
	if a.Size > 0 {
		charge = min(a.Size, mail.LastPiece)
	}
	charge = max(charge, ingestLeast)
	if !e.ingest.reserve(charge) {
		c.answer(a.Ticket, session.Result{Refusal: c.notTaken(errIngestMemory)})
		return
	}
	in, err := e.cfg.Store.Begin(a.Size)
	if err != nil {
		e.ingest.charge(-charge)
		c.answer(a.Ticket, session.Result{Refusal: c.notTaken(err)})
		return
	}
	c.in = incoming{in: in, charge: charge, began: now}
	c.answer(a.Ticket, session.Result{ID: in.ID()})
}

// notTaken counts and logs a message that is not taken, and says why to the client.
func (c *conn) notTaken(err error) *mail.Refusal {
	r := ingestRefusal(err)
	c.stats.refused++
	c.lp.eng.cfg.Observer.MessageIn(Refused, 0)
	// The log of a full disk must not be what fills it.
	c.log(c.lp.eng.sparse.Warn()).Int("code", r.Code).Err(err).Msg("message refused")
	return r
}

// contentRefused counts and logs a message whose content the machine refuses.
func (c *conn) contentRefused(reason string) {
	c.stats.refused++
	c.lp.eng.cfg.Observer.MessageIn(Refused, 0)
	c.log(c.lp.eng.sparse.Info()).Str("reason", reason).Msg("content refused")
}

// grew counts n octets from the peer. Who announced less than it sends is charged for what it can
// hold at the most.
func (m *incoming) grew(e *Engine, n int64) {
	if m.in == nil {
		return
	}
	if m.fed += n; m.fed > m.charge && m.charge < ingestMost {
		m.recharge(e, ingestMost)
	}
}

func (m *incoming) recharge(e *Engine, n int64) {
	e.ingest.charge(n - m.charge)
	m.charge = n
}

// discard forgets the message, after the call in flight if there is one. A message whose commit is
// in flight is not discarded by that: Abort after Commit means nothing, and is not called.
func (m *incoming) discard(e *Engine) {
	switch {
	case m.in == nil:
	case m.busy:
		m.abort = true
	default:
		m.in.Abort()
		m.over(e)
	}
}

// over gives back the memory.
func (m *incoming) over(e *Engine) {
	e.ingest.charge(-m.charge)
	*m = incoming{}
}

func (c *conn) append(a *session.Action) {
	if c.in.in == nil || c.in.busy {
		c.abandon("append without a message")
		return
	}
	c.in.busy = true
	c.submit(&c.lp.eng.writes, &appendJob{ticket: a.Ticket, in: c.in.in, data: a.Data})
}

func (c *conn) appended(j *appendJob) {
	c.in.busy = false
	if c.in.abort || c.ended {
		c.in.discard(c.lp.eng)
	}
	var r session.Result
	if j.err != nil {
		r.Refusal = c.notTaken(j.err)
	}
	c.answer(j.ticket, r)
}

func (c *conn) commit(a *session.Action) {
	if c.in.in == nil || c.in.busy {
		c.abandon("commit without a message")
		return
	}
	// The next message may come in meanwhile.
	c.in.recharge(c.lp.eng, max(int64(cap(a.Data)), ingestLeast)) // now it is known
	j := &commitJob{ticket: a.Ticket, in: c.in.in, msg: c.in, data: a.Data, envelopes: a.Envelopes}
	c.in = incoming{}
	c.submit(&c.lp.commits, j)
}

// committed tells the machine, if it is still there. A message that became durable after its client
// had left stays: the client will send it again, which is RFC 5321 4.5.4.1's price for never losing one.
func (c *conn) committed(now session.Time, j *commitJob) {
	e, took := c.lp.eng, time.Duration(now-j.msg.began)
	c.told = true
	j.msg.over(e)
	var r session.Result
	if j.err != nil {
		r.Refusal = c.notTaken(j.err)
	} else {
		c.stats.accepted++
		e.cfg.Observer.Commit(j.took)
		c.logAccepted(j, took)
	}
	c.answer(j.ticket, r)
}
