package engine

import (
	"context"
	"net/netip"
	"runtime/pprof"
	"strconv"
	"time"

	"github.com/panjf2000/gnet/v2"
	"github.com/rs/xid"

	"odmr/engine/session"
)

// handler is what gnet calls. Every callback comes on the loop of its connection.
type handler struct {
	gnet.BuiltinEventEngine
	eng *Engine
}

// arrival is what an accepted connection brings along into its loop.
type arrival struct {
	role   Role
	tls    bool
	remote netip.AddrPort
	// counted says that it is in addresses, proxied that its address is a balancer's.
	counted, proxied bool

	opened bool // OnOpen was called; gnet does not say otherwise
}

// probe is a connection to nobody, with which a loop is found before anybody connects.
type probe struct {
	index int // that the loop will have
	el    gnet.EventLoop
	epfd  int
	noFd  error
	ended chan struct{}
}

// OnOpen makes the record of a connection and starts its dialogue.
func (h *handler) OnOpen(gc gnet.Conn) ([]byte, gnet.Action) {
	switch ctx := gc.Context().(type) {
	case *probe:
		ctx.el = gc.EventLoop()
		pprof.SetGoroutineLabels(pprof.WithLabels(context.Background(), pprof.Labels("loop", strconv.Itoa(ctx.index))))
		ctx.epfd, ctx.noFd = pollerOf(gc)
		return nil, gnet.None
	case *arrival:
		ctx.opened = true
		return nil, h.open(gc, ctx)
	}
	return nil, gnet.Close
}

func (h *handler) open(gc gnet.Conn, a *arrival) gnet.Action {
	lp := h.eng.byLoop[gc.EventLoop()]
	c := &conn{
		id: lp.newID(), lp: lp, gc: gc, fd: gc.Fd(), xid: xid.New(),
		role: a.role, implicit: a.tls, remote: a.remote, opened: now(),
	}
	c.out.lp, c.timer.c, c.holding.c = lp, c, c
	c.identity.Addr = a.remote
	c.counted = a.counted
	if a.proxied {
		c.headerBy = c.opened + session.Time(proxyTime)
	}
	gc.SetContext(c)
	lp.conns[c.id] = c
	h.eng.records.add()
	c.setState([...]State{SMTP: StateSMTP, LMTP: StateLMTP, ODMR: StateLogin}[a.role])
	if lp.cutting {
		c.abandon("server is shutting down")
	}
	if a.proxied {
		return lp.call(c, func(*conn, session.Time) {}) // the header comes first
	}
	return lp.call(c, (*conn).open)
}

// OnTraffic handles octets from the peer.
func (h *handler) OnTraffic(gc gnet.Conn) gnet.Action {
	c, ok := gc.Context().(*conn)
	if !ok {
		return gnet.Close
	}
	return c.lp.call(c, (*conn).traffic)
}

// OnClose handles the closing of the socket, whoever closed it.
func (h *handler) OnClose(gc gnet.Conn, err error) gnet.Action {
	switch ctx := gc.Context().(type) {
	case *probe:
		close(ctx.ended)
	case *conn:
		ctx.lp.call(ctx, func(c *conn, now session.Time) { c.gone(now, err) })
		ctx.lp.forget(ctx)
	}
	return gnet.None
}

// tick wakes every loop for its timers, unless it has not come to the last tick yet.
func (e *Engine) tick() {
	t := time.NewTicker(tickInterval)
	defer t.Stop()
	for {
		select {
		case <-e.tickless:
			return
		case at := <-t.C:
			for _, lp := range e.loops {
				if lp.ticking.CompareAndSwap(false, true) {
					lp.inbox.post(event{kind: evTick, at: at})
				}
			}
		}
	}
}
