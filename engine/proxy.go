package engine

import (
	"odmr/codec"
	"odmr/engine/session"
)

// A connection from Limits.ProxyNetworks begins with a PROXY header, before anything else, TLS included. Until
// it is there nothing else of the session is: no machine, no greeting. The address in it then is the
// client's, for limits, trust and logs alike. From elsewhere a header is what any other nonsense is: a
// client that could send one could be anybody.

// proxyHeader takes the header, once it is whole, and begins the session.
func (c *conn) proxyHeader(now session.Time) {
	b, err := c.gc.Peek(-1)
	if err != nil || len(b) == 0 {
		return
	}
	h, n, err := codec.NextProxyHeader(b)
	switch {
	case err != nil:
		c.noProxyHeader("no PROXY header from a balancer's address")
		return
	case n == 0:
		return
	}
	_, _ = c.gc.Discard(n)
	c.received(n)
	c.headerBy = 0
	if h.Source.IsValid() {
		c.balancer, c.remote = c.remote, h.Source
		c.identity.Addr = h.Source
	}
	var limit Limit
	if limit, c.counted = c.lp.eng.enter(now, c.role, c.remote.Addr()); limit != LimitNone {
		c.refuse(now, limit)
		return
	}
	c.open(now)
	if c.phase == phaseOpen && !c.doomed {
		c.run(now) // what came along with the header
	}
}

// noProxyHeader ends a connection that is none.
func (c *conn) noProxyHeader(reason string) {
	c.lp.eng.cfg.Observer.LimitHit(LimitProxy)
	c.abandon(reason)
}

// refuse ends a session that is over a limit before it begins.
func (c *conn) refuse(now session.Time, limit Limit) {
	if !c.implicit {
		c.out.write(c.lp.eng.refusals[limit])
	}
	c.because("over a limit: " + limit.String())
	c.closing = true
	c.run(now)
}
