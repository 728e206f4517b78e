package engine

import (
	"time"

	"odmr/engine/session"
)

// Memory that is held for a peer that does not read is lent, not given. While somebody waits in the
// budget's line,
//
//   - a connection that cannot write (the kernel takes no more, or its own next body waits in that line)
//     gives up all the bodies that it holds, begun or not, at once;
//   - one that could, but has not moved for reclaimIdle, for its customer is silent, likewise.
//
// A body that was given up is read again, from the octet where it stood, when the socket takes octets
// and it is first in the stream: then it asks for memory like everybody else, and what is granted goes to the kernel
// as soon as it is read. So each grant makes somebody's mail move, and a session cannot keep
// memory from the others by being slow.

// reclaimIdle is how long a connection whose socket is writable may keep bodies while others wait: longer
// than customers near by take to answer, so that those in full flow need not read twice.
const reclaimIdle = 200 * time.Millisecond

// holders is a list of connections, kept in the order in which they were added last.
type holders struct{ head place }

// place is a connection's account of the bodies that it holds, and where it stands in a list of holders.
type place struct {
	octets     int64        // of prefetch memory: of bodies held ready and of those in the output
	moved      session.Time // when bodies came, or octets went, last
	listed     session.Time // moved, when it was put in its place
	next, prev *place
	in         *holders
	c          *conn
}

func (l *holders) init() { l.head.next, l.head.prev = &l.head, &l.head }

// first is the connection that was added before all others, or nil.
func (l *holders) first() *conn { return l.head.next.c }

func (l *holders) add(p *place) {
	p.unlink()
	p.in, p.prev, p.next = l, l.head.prev, &l.head
	p.prev.next, p.next.prev = p, p
}

func (p *place) unlink() {
	if p.in == nil {
		return
	}
	p.prev.next, p.next.prev = p.next, p.prev
	p.in, p.next, p.prev = nil, nil, nil
}

// charge corrects what the connection holds by n octets.
func (c *conn) charge(n int64) {
	c.holding.octets += n
	c.lp.eng.prefetch.charge(n)
}

// place puts c where it belongs among those that hold bodies. It is called after all that happens to c.
func (c *conn) place() {
	p, lp := &c.holding, c.lp
	switch {
	case p.octets == 0 || c.phase == phaseGone:
		p.unlink()
	case c.blocked || c.drain.awaits != nil:
		if lp.eng.prefetch.pressed() {
			c.giveUp()
		} else if p.in != &lp.stuck {
			lp.stuck.add(p)
		}
	case p.in != &lp.idle || p.listed != p.moved:
		p.listed = p.moved
		lp.idle.add(p)
	}
}

// reclaim makes connections give up bodies as long as somebody waits for memory.
func (lp *loop) reclaim(now session.Time) {
	for lp.eng.prefetch.pressed() {
		c := lp.stuck.first()
		if c == nil {
			if c = lp.idle.first(); c == nil || now-c.holding.moved < session.Time(reclaimIdle) {
				return
			}
		}
		c.giveUp()
	}
}

// giveUp puts away all bodies except those that a worker has. What that one brings is looked at when it comes.
func (c *conn) giveUp() {
	c.holding.unlink()
	var freed int64
	for i := c.out.head; i < len(c.out.pieces); i++ {
		if s := c.out.pieces[i].src; s != nil && !s.fetch && !s.away {
			c.out.giveUp(s)
			s.body.Rewind(s.body.Size() - s.left)
			freed += s.charge
			s.charge = 0
		}
	}
	for _, h := range c.drain.held {
		if h.charge > 0 {
			h.body.Rewind(0)
			freed += h.charge
			h.charge = 0
		}
	}
	if freed > 0 {
		c.lp.eng.reclaimed.Add(freed)
		c.charge(-freed)
	}
}

// load has the next segment of s read, once there is memory for it.
func (c *conn) load(s *source) {
	budget := &c.lp.eng.prefetch
	switch {
	case !s.away:
		if c.blocked && budget.pressed() {
			return // not ahead of need; asked for again when the socket is writable
		}
	case c.blocked || c.drain.awaits != nil:
		return
	default:
		want := bodyCharge(s.left)
		if !budget.reserve(waiter{c.lp, c.id, evRoom, want}) {
			c.drain.awaits = s
			c.inflight++
			return
		}
		c.take(s, want)
	}
	c.fetch(s)
}

// take gives s the memory that it asked for.
func (c *conn) take(s *source, n int64) {
	s.charge = n
	c.holding.octets += n
	s.body.Rewind(s.body.Size() - s.left) // another place of the stream may have read it meanwhile
}

// roomFor takes the memory that a body waited for.
func (c *conn) roomFor(n int64) {
	s := c.drain.awaits
	c.drain.awaits = nil
	if s == nil || s.retired {
		c.lp.eng.prefetch.charge(-n)
		return
	}
	c.take(s, n)
	c.fetch(s)
}

// fetch has a worker read the next segment of s.
func (c *conn) fetch(s *source) {
	s.fetch = true
	c.submit(&c.lp.eng.reads, &fetchJob{src: s, body: s.body})
}
