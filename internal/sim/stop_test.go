package sim

import (
	"slices"
	"time"
)

// stop ends the process in order: nobody is let in any more, running transactions may finish within a grace, and what is left
// then is cut.
func (h *host) stop() {
	if !h.up || h.stopping {
		return
	}
	h.stopping = true
	h.w.trace("server stops")
	h.w.meet("an orderly stop")
	for _, c := range slices.Clone(h.conns) {
		c.stop()
	}
	era := h.era
	alive := func() bool { return h.up && h.era == era }
	h.w.after(h.w.within(time.Minute), func() {
		if !alive() {
			return
		}
		for _, c := range slices.Clone(h.conns) {
			h.w.meet("a session cut by a stop")
			c.hangUp("server is shutting down")
		}
	})
	var look func()
	look = func() {
		switch {
		case !alive():
		case len(h.conns) > 0 || len(h.jobs) > 0:
			h.w.after(100*time.Millisecond, look)
		default:
			h.stopped()
		}
	}
	look()
}

// stop asks for an orderly end of one session.
func (c *conn) stop() {
	if !c.opened { // it has not been greeted
		c.hangUp("server is shutting down")
		return
	}
	if !c.ended && !c.closing && !c.gone {
		c.sess.Stop(c.w.now, &c.out)
		c.carryOut()
	}
	c.run()
}

// stopped closes the store. Nothing that was done is in doubt by that.
func (h *host) stopped() {
	h.speedUp()
	h.w.trace("server has stopped")
	for d, v := range h.ledger.leased {
		h.w.fail(RuleLease, "%v has the lease of %s, and the server has stopped", v, d)
	}
	if err := h.raw.Close(); err != nil {
		h.w.fail(RuleStore, "close: %v", err)
	}
	h.up, h.stopping = false, false
	clear(h.refusals)
	h.w.after(h.w.within(10*time.Minute), h.start)
}
