package sim

import (
	"slices"
	"time"

	"odmr/engine/session"
	"odmr/internal/mail"
	"odmr/queue"
)

// onItsWay is something that is in the log, and not known to be durable.
type onItsWay struct {
	outcome chan error
	durable func(err error) // tells the ledger, and after a while the loop
}

// Committed implements queue.Waiter.
func (o *onItsWay) Committed(err error) { o.outcome <- err }

func newOnItsWay(durable func(err error)) onItsWay { return onItsWay{make(chan error, 1), durable} }

// commit is a message that is being committed. Those of one connection are put in line in their order, one behind the other,
// and wait for the disk together.
type commit struct {
	conn      *conn
	ticket    uint32
	in        queue.Incoming
	data      []byte
	envelopes []mail.Envelope
	kept      []mail.Envelope // the same, for the ledger
	onItsWay
}

func (m *commit) submit() { m.in.Submit(m.data, m.envelopes, m) }

// Where Pebble would begin another memtable, the first of which has 256 KiB, it waits for the log: so the disk is slow only
// while there is room. writtenMost is how many octets may have been written since the last one began, callOctets what a call
// takes besides a body at the most.
const (
	writtenMost = 160 << 10
	callOctets  = 512
)

func (c *conn) commit(a *session.Action) {
	if c.in.in == nil || c.in.busy {
		c.w.fail(RuleProtocol, "%v: commit without a message", c)
		return
	}
	m := &commit{conn: c, ticket: a.Ticket, in: c.in.in, data: a.Data, envelopes: a.Envelopes}
	m.onItsWay = newOnItsWay(m.isDurable)
	for _, env := range a.Envelopes { // they are the machine's again once it has its answer
		env.Recipients = slices.Clone(env.Recipients)
		m.kept = append(m.kept, env)
	}
	c.commits = append(c.commits, m)
	c.in = incoming{} // the next message may come in meanwhile
	c.inflight++
	if c.committing {
		c.w.meet("a message behind one that is being committed")
		if era := c.era; !c.h.s.calm && c.w.chance(8) {
			c.w.after(c.w.soon()/4, func() {
				if c.h.era == era {
					c.h.crash(c.w.chance(2))
				}
			})
		}
	}
	c.nextCommit()
}

// nextCommit puts the oldest of the connection's messages in line.
func (c *conn) nextCommit() {
	if len(c.commits) == 0 || c.committing && c.h.s.bug != BugOvertakes {
		return
	}
	c.committing = true
	m := c.commits[0]
	c.commits = c.commits[1:]
	c.inflight++
	if !c.h.s.calm && c.w.chance(4) { // those before it, of other connections, take their time
		era := c.era
		c.w.after(c.w.within(200*time.Millisecond), func() {
			if c.h.era == era && c.h.up {
				c.submitCommit(m)
			}
		})
		return
	}
	c.submitCommit(m)
}

func (c *conn) submitCommit(m *commit) {
	c.h.submit(&job{what: "Commit", commit: m, way: &m.onItsWay, run: m.submit,
		told: func() { c.h.submitted(m) },
		torn: func() { c.h.ledger.committed(m.kept, true) },
		done: func() {
			c.inflight--
			c.committing = false
			c.nextCommit()
			if c.gone {
				c.retireRecord()
			}
		},
	})
}

// submitted waits for the disk with m.
func (h *host) submitted(m *commit) {
	if h.s.bug == BugUnsynced {
		h.reply(m, nil)
	}
	h.awaitDisk(&m.onItsWay)
}

// isDurable is the outcome of a message.
func (m *commit) isDurable(err error) {
	h := m.conn.h
	if err == nil {
		h.ledger.committed(m.kept, false)
		h.w.after(0, h.poke)
	}
	if h.s.bug != BugUnsynced {
		h.reply(m, err)
	}
}

// awaitDisk waits for the disk: now, or when it is not slow any more.
func (h *host) awaitDisk(o *onItsWay) {
	h.waiting = append(h.waiting, o)
	if !h.slow {
		h.synced()
	}
}

// synced takes the outcomes of all that waits for the disk.
func (h *host) synced() {
	waiting := h.waiting
	h.waiting = nil
	for _, o := range waiting {
		o.durable(<-o.outcome)
	}
}

// reply tells the machine, after a while.
func (h *host) reply(m *commit, err error) {
	era := h.era
	h.w.after(h.w.soon(), func() {
		if h.era != era || !h.up {
			return
		}
		c := m.conn
		c.inflight--
		r := session.Result{}
		if err != nil {
			r.Refusal = ingestRefusal(err)
		}
		c.answer(m.ticket, r)
		if c.gone {
			c.retireRecord()
			return
		}
		c.run()
	})
}

// slowDown makes the disk slow now and then, before a message is put in line: it is in the log, and not durable.
func (h *host) slowDown(m *commit) {
	if h.written += len(m.data); h.slow && h.written > writtenMost {
		h.speedUp()
	}
	if h.slow || h.s.calm || h.written > writtenMost || !h.w.chance(5) {
		return
	}
	h.slow = true
	h.w.trace("the disk is slow")
	h.w.meet("a slow disk")
	h.disk.HoldSyncs()
	disk := h.disk
	d := h.w.within(30 * time.Millisecond)
	if h.w.chance(8) {
		d = h.w.within(4 * time.Second)
	}
	h.w.after(d, func() {
		if h.disk == disk {
			h.speedUp()
		}
	})
	if h.w.chance(12) {
		h.w.after(h.w.within(d), func() {
			if h.disk == disk && h.slow {
				h.crash(true)
			}
		})
	}
}

// speedUp ends that.
func (h *host) speedUp() {
	if !h.slow {
		return
	}
	h.slow = false
	h.disk.LetSyncs()
	h.w.trace("the disk is not slow any more, %d calls waited", len(h.waiting))
	if len(h.waiting) > 1 {
		h.w.meet("calls that wait for the disk together")
	}
	h.synced()
}

// drown is what becomes of all that waits for the disk when the process dies: nobody hears of them.
func (h *host) drown() {
	h.slow = false
	h.disk.LetSyncs()
	for _, o := range h.waiting {
		<-o.outcome
	}
	h.waiting = nil
}
