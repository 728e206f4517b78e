package engine

import (
	"context"
	"runtime/debug"
	"sync/atomic"
	"time"

	"github.com/panjf2000/gnet/v2"

	"odmr/engine/session"
)

// What a message of 4 KiB costs in lock-step (20 connections, each command awaits its reply), about 80 us of processor time on two processors, by profile:
//
//	the four replies, and what the kernel does for their receiver meanwhile    27 %
//	the four reads                                                              6
//	epoll                                                                       5
//	the log: syncing it 11, writing it 4                                       15
//	into log and memtable: 3 for memory touched first                           9
//	memtables on their way to the disk                                          9
//	goroutines and threads that start, wait and wake each other                10
//	the machines                                                                5
//
// Tried and not taken, old and new in turns on a machine that was not all quiet, means of messages a second and us of each:
//
//   - A lane's workers stay, up to four, so that none is made for each burst and grows its stack (3 % of the profile), and a reply goes out by write and
//     not writev. Eight rounds: 11,890 at 82.6 before, 11,860 at 80.1 with both. But odmrbench drain 128,967 and 138,394 messages a second before,
//     123,352 and 130,414 with them, and the p99 of mixed (8,000 a second) 51 and 38 ms before, 63 and 59 ms with them.
//   - Commits on the loop itself, three rounds: 10,960 at 90, by workers that stay 11,340 at 82. And they may block.
//   - gnet's poller without its map of connections (build tag poll_opt), five rounds: 12,660 at 76 against 12,160 at 79. But
//     there registrations hold a pointer, and a socket could not be paused.

// loop is what one gnet event loop owns. Except for inbox and ticking it is touched on that loop only.
type loop struct {
	eng      *Engine
	index    int
	el       gnet.EventLoop
	epfd     int // gnet's epoll instance; -1 if it was not found
	inbox    inbox
	ticking  atomic.Bool // a tick was posted and not handled yet
	spare    []event
	wheel    wheel
	conns    map[uint64]*conn
	lastID   uint64
	unasked  []uint64       // connections that the directory is still to be asked for
	out      session.Output // of the machine being called; empty between calls
	result   session.Result // of the action that it is told of; empty between calls
	stuck    holders        // hold bodies that they cannot write now
	idle     holders        // hold bodies otherwise, longest without movement first
	commits  lane           // one worker, so that a session's messages are put in line in the order in which they came
	settles  lane           // one worker: it only puts outcomes in the log, and more would contend for that
	small    buffers
	large    buffers
	record   []byte   // where a TLS record's plain text is gathered
	iov      [][]byte // of cipherQueue; empty between calls
	stopping bool
	cutting  bool
}

func newLoop(e *Engine, index int) *loop {
	lp := &loop{
		eng:    e,
		index:  index,
		epfd:   -1,
		conns:  make(map[uint64]*conn),
		small:  buffers{size: bufferSize},
		large:  buffers{size: plainSize},
		record: make([]byte, 0, maxRecord),
	}
	lp.commits.init(e, "commit", 1)
	lp.settles.init(e, "settle", 1)
	lp.wheel.init(now())
	lp.stuck.init()
	lp.idle.init()
	lp.inbox.wake = func() error { return lp.el.Execute(context.Background(), lp) }
	return lp
}

// now is the machines' clock.
func now() session.Time { return time.Now().UnixNano() }

// newID returns an id that was never used: a counter, with the loop's index in its low 8 bits.
func (lp *loop) newID() uint64 {
	lp.lastID++
	return lp.lastID*maxLoops + uint64(lp.index)
}

// Run handles what the inbox holds. gnet calls it on the loop (gnet.Runnable).
func (lp *loop) Run(context.Context) error {
	events := lp.inbox.take(lp.spare)
	for i := range events {
		lp.handle(&events[i])
		events[i] = event{}
	}
	if lp.spare = events[:0]; cap(lp.spare) > 4096 { // a burst; let the memory go
		lp.spare = nil
	}
	return nil
}

func (lp *loop) handle(ev *event) {
	switch ev.kind {
	case evTick:
		lp.tick(ev.at)
	case evReclaim:
		lp.reclaim(now())
	case evRecheck:
		lp.recheckAll(ev.conn, uint64(ev.n))
	case evRecheckMore:
		lp.recheckSome()
	case evStop:
		lp.stopping = true
		lp.each((*conn).stop)
	case evCut:
		lp.cutting = true
		lp.each(func(c *conn, now session.Time) { c.abandon("server is shutting down") })
	default:
		c := lp.conns[ev.conn]
		if c == nil {
			lp.orphan(ev)
			return
		}
		lp.enter(c, func(c *conn, now session.Time) { c.event(now, ev) })
	}
}

// orphan takes an event whose connection's record is gone: only a grant can be that late, for a
// record stays until its jobs are back.
func (lp *loop) orphan(ev *event) {
	if ev.kind == evGrant || ev.kind == evRoom {
		lp.eng.prefetch.charge(-ev.n)
	}
	ev.discard()
}

func (lp *loop) each(fn func(*conn, session.Time)) {
	for _, c := range lp.conns {
		lp.enter(c, fn)
	}
}

// tick fires the timers that are due. The time since the tick was posted is the loop's lag.
func (lp *loop) tick(posted time.Time) {
	lp.ticking.Store(false)
	lp.eng.cfg.Observer.LoopLag(lp.index, time.Since(posted))
	lp.wheel.advance(now(), func(t *timer) { lp.enter(t.c, (*conn).tick) })
	lp.reclaim(now())
	if len(lp.unasked) > 0 && !lp.eng.cfg.Directory.NonBlocking() {
		lp.recheckSome()
	}
}

// enter runs fn for c outside of gnet's callbacks and closes the socket if that is what came of it.
func (lp *loop) enter(c *conn, fn func(*conn, session.Time)) {
	if lp.call(c, fn) == gnet.Close {
		_ = lp.el.Close(c.gc) // calls OnClose
	}
	lp.forget(c)
}

// call runs fn for c and says what is to become of the socket. A panic ends the session, not the process.
func (lp *loop) call(c *conn, fn func(*conn, session.Time)) gnet.Action {
	lp.guard(c, fn)
	c.place()
	if c.phase == phaseGone {
		return gnet.None
	}
	if c.doomed {
		c.unsend()
		return gnet.Close
	}
	lp.wheel.set(&c.timer, c.deadline())
	return gnet.None
}

func (lp *loop) guard(c *conn, fn func(*conn, session.Time)) {
	defer func() {
		if p := recover(); p != nil {
			lp.panicked(c, p)
		}
	}()
	fn(c, now())
}

func (lp *loop) panicked(c *conn, p any) {
	lp.eng.panics.Add(1)
	lp.eng.cfg.Observer.Panic()
	c.log(lp.eng.log.Error()).Interface("panic", p).Bytes("stack", debug.Stack()).Msg("panic in a session")
	lp.out.Reset()
	// Whatever is wrong, the socket is closed in the end.
	c.doomed = true
	defer func() { _ = recover() }()
	c.crashed()
}

// forget drops c's record once its socket is closed and nothing is in flight for it.
func (lp *loop) forget(c *conn) {
	if c.phase != phaseGone || c.inflight > 0 || c.forgotten {
		return
	}
	c.forgotten = true
	delete(lp.conns, c.id)
	c.logEnd()
	lp.eng.records.done()
}
