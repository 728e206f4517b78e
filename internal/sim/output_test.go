package sim

import (
	"io"

	"odmr/codec"
	"odmr/queue"
)

// output is what a connection still has to write, in order.
type output struct {
	pieces []*piece
	size   int // octets of pieces that are no bodies
	bodies int // pieces that are
}

// piece is a run of octets, or a body.
type piece struct {
	octets []byte
	msg    *message // the message whose body it is
	plain  bool     // without dot-stuffing
	un     codec.Unstuffer
	begun  bool
	fetch  bool          // a worker is reading
	seg    queue.Segment // where octets come from
}

func (o *output) empty() bool { return len(o.pieces) == 0 }

func (o *output) write(b []byte) {
	if len(b) == 0 {
		return
	}
	o.size += len(b)
	o.pieces = append(o.pieces, &piece{octets: append([]byte{}, b...)})
}

// drop gives everything up. What a worker has is given back when it returns.
func (o *output) drop(c *conn) {
	for _, p := range o.pieces {
		if p.msg != nil && !p.fetch {
			c.retire(p)
		}
	}
	o.pieces, o.size, o.bodies = nil, 0, 0
}

// flush writes what the line takes.
func (c *conn) flush() {
	if c.gone {
		return
	}
	written, blocked := 0, false
	for !c.queue.empty() && !blocked && !c.doomed {
		p := c.queue.pieces[0]
		if len(p.octets) == 0 {
			if p.msg != nil && !c.load(p) {
				break
			}
			if len(p.octets) == 0 {
				c.queue.pieces = c.queue.pieces[1:]
				continue
			}
		}
		n := c.line.down.write(p.octets)
		p.octets = p.octets[n:]
		if p.msg == nil {
			c.queue.size -= n
		}
		written += n
		blocked = n == 0
	}
	if written > 0 && !c.ended && c.opened {
		c.sess.Progress(c.w.now)
	}
	switch {
	case !blocked || c.queue.bodies == 0:
		c.takeBy = 0
	case written > 0 || c.takeBy == 0:
		c.takeBy = c.w.now + int64(dataBlock)
	}
}

// load puts the next octets of a body into p. It is false while a worker reads them; no octets: that was all.
func (c *conn) load(p *piece) bool {
	if p.fetch {
		return false
	}
	body := p.msg.delivery.Body
	if !p.begun {
		p.begun = true
		if p.msg.read { // it goes out once more, for further recipients
			body.Rewind(0)
		}
		p.msg.read = true
	}
	p.seg.Release()
	seg, ok, err := body.Ready()
	if ok || err != nil {
		return c.use(p, seg, err)
	}
	p.fetch = true
	c.submit(&job{what: "body", run: func() { seg, err = body.Next() }, discard: func() {
		seg.Release()
		c.retire(p)
	}}, func() {
		p.fetch = false
		if c.gone {
			seg.Release()
			c.retire(p)
			return
		}
		c.use(p, seg, err)
	})
	return false
}

// use takes a segment that was read.
func (c *conn) use(p *piece, seg queue.Segment, err error) bool {
	switch {
	case err == io.EOF:
		c.queue.bodies--
		c.retire(p)
		p.msg = nil
		return true
	case err != nil:
		c.abandon("reading a body failed")
		return false
	}
	p.seg = seg
	p.octets = seg.Data
	if p.plain {
		c.w.meet("a body without its stuffing")
		p.octets = p.un.Append(nil, seg.Data)
	}
	if len(p.octets) == 0 {
		return c.load(p)
	}
	return true
}

// retire gives back what p holds of its body.
func (c *conn) retire(p *piece) {
	p.seg.Release()
	p.octets = nil
	p.msg.leave()
}
