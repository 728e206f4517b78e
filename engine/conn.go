package engine

import (
	"fmt"
	"io"
	"net/netip"
	"time"

	"github.com/panjf2000/gnet/v2"
	"github.com/rs/xid"
	"golang.org/x/sys/unix"

	"odmr/engine/session"
	"odmr/internal/account"
)

const (
	// inputLook is how many octets from a client its machine sees at a time: gnet copies what it shows where that is
	// in two places, and of a client that runs ahead a machine takes one message at a time. Longer than any line.
	inputLook = 16 << 10
	// maxReplies is how many octets of replies may wait for a client before its commands are left unread.
	maxReplies = 64 << 10
	// flushTime bounds how long a closing connection may take its last octets, lingerTime how long it may
	// then take to close its side, lingerOctets how much it may send meanwhile. Without the latter two the
	// kernel would answer octets that nobody read with a reset, and that can destroy the last reply.
	flushTime    = 10 * time.Second
	lingerTime   = 2 * time.Second
	lingerOctets = 1 << 20
)

// phase is where a connection stands. It only moves forward.
type phase uint8

const (
	phaseOpen   phase = iota // the machine runs
	phaseFlush               // the machine has ended; the last octets are on their way
	phaseLinger              // our side is closed; waiting for the peer's
	phaseGone                // the socket is closed; calls in flight may still come back
)

// answer is the outcome of an action, on its way to the machine.
type answer struct {
	ticket uint32
	result session.Result
}

// conn is the record of one connection: its socket, its machine, and all that it holds. It belongs to
// one loop and is touched there only.
type conn struct {
	id       uint64
	lp       *loop
	gc       gnet.Conn
	fd       int
	xid      xid.ID
	role     Role
	implicit bool // TLS from the first octet
	remote   netip.AddrPort
	balancer netip.AddrPort // where the connection itself comes from if that is not remote
	state    State
	phase    phase

	sess       session.Session
	turned     bool // the machine was exchanged and has not been started
	everTurned bool
	closing    bool // the machine asked to close, or ended in a panic
	ended      bool // the machine has had its End
	broken     bool // the machine panicked: it must not be called again
	doomed     bool // the socket is to be closed as soon as control returns to the loop
	reason     string

	answers   []answer // results for the machine, those before answered given already
	answered  int
	inflight  int // jobs and grants on their way
	forgotten bool

	tls     *secure // nil in clear text
	out     output
	watched bool // entered in writable
	told    bool // what became of a message is among what is to be written
	blocked bool // the kernel takes no more for now
	again   bool // evAgain is on its way
	paused  bool // the socket is not being read
	holding place
	pace    takingPace
	takeBy  session.Time // when the peer must have taken some of a body; 0: none is waiting
	closeBy session.Time
	timer   timer

	identity account.Peer // what logins rest on; after a change of it: offer
	account  string
	exchange account.Exchange
	attempt  *attempt     // the login that exchange is
	late     *answer      // to be given to the machine at lateAt
	lateAt   session.Time // 0: there is none
	counted  bool         // in addresses
	joined   bool         // in accounts
	headerBy session.Time // when a PROXY header must have come; 0: none is awaited
	in       incoming
	drain    drain

	opened   session.Time
	closed   session.Time
	lingered int
	stats    stats
}

// stats counts for the line at the session's end.
type stats struct {
	in, out                     int64 // octets
	accepted, refused           int64 // messages in
	delivered, deferred, failed int64 // messages out
	held                        int64 // messages out that the bounce shield holds
}

// open makes the machine and starts the dialogue, unless TLS comes first.
func (c *conn) open(now session.Time) {
	c.sess = c.lp.eng.newSession(c)
	if c.implicit {
		c.beginTLS(now, true)
		return
	}
	c.start(now)
	c.run(now)
}

// start begins the dialogue.
func (c *conn) start(now session.Time) {
	c.offer()
	if m, ok := c.sess.(interface{ Secured() }); ok && c.tls != nil {
		m.Secured()
	}
	c.sess.Start(now, &c.lp.out)
	c.carryOut(now)
	if c.lp.stopping && c.phase == phaseOpen && !c.closing {
		c.sess.Stop(now, &c.lp.out)
		c.carryOut(now)
	}
}

// traffic handles octets from the peer.
func (c *conn) traffic(now session.Time) {
	if c.headerBy != 0 {
		c.proxyHeader(now)
		return
	}
	if c.phase != phaseOpen {
		c.swallow()
		return
	}
	before := c.stats.out
	c.run(now)
	if c.stats.out == before {
		c.acknowledge()
	}
}

// acknowledge says at once that what came was read, where further replies are due and nothing went out that said so:
// behind fetchmail, which writes line by line, Nagle's algorithm holds the next line back until then.
func (c *conn) acknowledge() {
	if m, ok := c.sess.(*session.Reversed); ok && m.Due() && c.phase == phaseOpen && !c.doomed {
		_ = unix.SetsockoptInt(c.fd, unix.IPPROTO_TCP, unix.TCP_QUICKACK, 1)
	}
}

// swallow reads what comes in after the end.
func (c *conn) swallow() {
	n, _ := c.gc.Discard(-1)
	if c.lingered += n; c.lingered > lingerOctets {
		c.doomed = true
	}
}

// event handles what came through the inbox.
func (c *conn) event(now session.Time, ev *event) {
	switch ev.kind {
	case evDone:
		c.inflight--
		c.complete(now, ev.job)
	case evGrant:
		c.inflight--
		c.granted(ev.n)
	case evRoom:
		c.inflight--
		c.roomFor(ev.n)
	case evMail:
		c.mailCame(now)
	case evYield:
		c.yield(now, uint64(ev.n))
	case evDoubt:
		c.recheck(now)
	case evFreed:
		c.freed()
	case evWritable:
		c.blocked = false
	case evAgain:
		c.again = false
	case evShake:
		if c.tls.shaking() && c.phase == phaseOpen {
			c.tls.wire.fetch(&c.tls.queue)
		}
	}
	c.leaseStep()
	c.run(now)
}

// stop asks for an orderly end.
func (c *conn) stop(now session.Time) {
	if c.headerBy != 0 || c.tls.shaking() { // nothing that could be said would be understood
		c.abandon("server is shutting down")
		return
	}
	if c.phase == phaseOpen && !c.closing {
		c.sess.Stop(now, &c.lp.out)
		c.carryOut(now)
	}
	c.run(now)
}

// tick handles the passing of the deadline.
func (c *conn) tick(now session.Time) {
	if now < c.deadline() {
		return
	}
	switch c.phase {
	case phaseOpen:
		if c.headerBy != 0 {
			c.noProxyHeader("no PROXY header in time")
			return
		}
		if c.tls.shaking() {
			c.shakeFailed(errSlow)
			return
		}
		if c.deliverLate(now) && now < c.deadline() {
			c.run(now)
			return
		}
		if c.takeBy != 0 && now >= c.takeBy {
			c.abandon("peer took nothing of a message in time")
			return
		}
		c.sess.Tick(now, &c.lp.out)
		c.carryOut(now)
		c.run(now)
	case phaseFlush, phaseLinger:
		c.doomed = true
	}
}

func (c *conn) deadline() session.Time {
	switch c.phase {
	case phaseOpen:
		if c.headerBy != 0 {
			return c.headerBy
		}
		if c.tls.shaking() {
			return c.tls.by
		}
		by := c.sess.Deadline()
		if c.takeBy != 0 {
			by = min(by, c.takeBy)
		}
		if c.lateAt != 0 {
			by = min(by, c.lateAt)
		}
		return by
	case phaseFlush, phaseLinger:
		return c.closeBy
	}
	return session.Never
}

// run calls the machine until it has nothing to do, writes what came of it, and reads on if replies had
// been in the way.
func (c *conn) run(now session.Time) {
	for c.phase == phaseOpen && !c.doomed {
		gated := c.work(now)
		if c.closing {
			c.close(now)
			break
		}
		if !c.patient() {
			c.flush(now)
		}
		if !gated || c.out.pending > maxReplies {
			break
		}
	}
	switch c.phase {
	case phaseOpen:
		if !c.doomed {
			c.throttle()
		}
	case phaseFlush:
		c.flush(now)
		if c.out.empty() && c.tls.goodbyeOnce() {
			c.flush(now)
		}
		if c.out.drained() && !c.doomed {
			c.linger(now)
		}
	}
}

// patient reports whether replies wait for that to the message which they were for: their client has pipelined on to its end, and has all
// of them in one piece then (RFC 2920 3.2 (2)), for half as many system calls at both ends. By the letter of (7) they would go out as soon as
// nothing more has come in, lest both sides wait for each other; but this client has gone on without them.
func (c *conn) patient() bool {
	m, ok := c.sess.(*session.Ingress)
	return ok && m.Committing() && !c.told && c.out.pending <= bufferSize
}

// close ends the session: the machine has said its last word.
func (c *conn) close(now session.Time) {
	c.unsend()
	c.finish(now)
	c.phase = phaseFlush
	c.closeBy = now + session.Time(flushTime)
	c.setState(StateClosing)
	// What is left of a message must not go out any more: nobody would hear the reply to it, and
	// the customer would be given it again. Cut short it is none (RFC 5321 4.1.1.4).
	if c.out.bodies > 0 {
		c.doomed = true
	}
}

// unsend closes the socket for good if a message is about to be in doubt: the customer will be given it again. What of it is still here, or in
// the kernel, which would send it when the line comes back, must not reach a server that would take it then.
func (c *conn) unsend() {
	if m, ok := c.sess.(*session.Reversed); ok && !c.broken && !c.ended && m.Unsure() {
		c.reset()
	}
}

// reset closes the socket as soon as control returns to the loop, and has the kernel drop what the peer has not got.
func (c *conn) reset() {
	_ = unix.SetsockoptLinger(c.fd, unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: 1, Linger: 0})
	c.doomed = true
}

// linger closes our side and waits for the peer to do the same.
func (c *conn) linger(now session.Time) {
	c.phase = phaseLinger
	c.closeBy = now + session.Time(lingerTime)
	c.setPaused(false)
	c.swallow()
	if err := unix.Shutdown(c.fd, unix.SHUT_WR); err != nil {
		c.doomed = true
	}
}

// work calls the machine until it is quiescent. It reports whether input was left unread because replies
// have not been taken.
func (c *conn) work(now session.Time) (gated bool) {
	if c.tls.shaking() {
		c.shake()
		return false
	}
	for !c.closing && !c.doomed {
		switch {
		case c.turned:
			c.turned = false
			c.sess.Start(now, &c.lp.out)
		case c.answered < len(c.answers):
			c.nextAnswer(now)
		// A client that does not take its replies is not listened to. After the turn replies must be heard even
		// while the customer is not reading: it may be waiting for us to do so.
		case c.out.pending > maxReplies && !c.everTurned:
			return true
		default:
			if !c.receive(now) {
				return false
			}
			continue
		}
		c.carryOut(now)
	}
	return false
}

// nextAnswer gives the machine the oldest result.
func (c *conn) nextAnswer(now session.Time) {
	a := &c.answers[c.answered]
	ticket := a.ticket
	c.lp.result = a.result
	*a = answer{}
	if c.answered++; c.answered == len(c.answers) {
		c.answers, c.answered = c.answers[:0], 0
	}
	c.sess.Done(now, ticket, &c.lp.result, &c.lp.out)
	c.lp.result = session.Result{}
}

// receive gives the machine what came in. It reports whether anything came of it.
func (c *conn) receive(now session.Time) bool {
	if c.tls != nil {
		return !c.tls.shaking() && c.receiveTLS(now)
	}
	if c.gc.InboundBuffered() == 0 {
		return false
	}
	if c.look(now, inputLook) {
		return true
	}
	// What waits for an answer needs no more octets; what does not may need all of them.
	return c.inflight == 0 && c.gc.InboundBuffered() > inputLook && c.look(now, -1)
}

// look gives the machine at most that many of the octets that came in; -1 stands for all. After the turn
// it sees all at once, for a reply of many lines is parsed whole.
func (c *conn) look(now session.Time, most int) bool {
	if most > c.gc.InboundBuffered() || c.everTurned {
		most = -1
	}
	b, err := c.gc.Peek(most)
	if err != nil || len(b) == 0 {
		return false
	}
	n := c.sess.Input(now, b, &c.lp.out)
	if n > 0 { // gnet's Discard(0) would discard everything
		_, _ = c.gc.Discard(n)
		c.received(n)
		c.in.grew(c.lp.eng, int64(n))
	}
	return c.carryOut(now) || n > 0
}

// received and sent count octets of the socket.
func (c *conn) received(n int) {
	c.stats.in += int64(n)
	c.lp.eng.cfg.Observer.Octets(int64(n), 0)
}

func (c *conn) sent(n int64) {
	c.stats.out += n
	c.lp.eng.cfg.Observer.Octets(0, n)
}

// flush writes what the socket takes.
func (c *conn) flush(now session.Time) {
	if c.out.drained() || c.blocked || c.again || c.doomed {
		return
	}
	f := c.out.flush(c.fd, c.retire)
	c.told = c.told && !c.out.drained()
	c.sent(f.n)
	if f.n > 0 {
		c.holding.moved = now
	}
	if f.n > 0 && c.phase == phaseOpen && !c.closing && !c.tls.shaking() {
		c.sess.Progress(now)
	}
	switch { // RFC 5321 4.5.3.2.5
	case !f.blocked || c.out.bodies == 0:
		c.takeBy = 0
	case f.n > 0 || c.takeBy == 0:
		c.takeBy = now + session.Time(c.lp.eng.cfg.Timeouts.DataBlock)
	}
	c.paced(now, &f)
	switch {
	case f.err != nil:
		c.abandon("write: " + f.err.Error())
	case f.blocked:
		c.blocked = true
		if !c.watched {
			c.watched = true
			if err := c.lp.eng.writable.watch(c.fd, c.id); err != nil {
				c.abandon(err.Error())
			}
		}
	case f.again:
		c.again = true
		c.lp.inbox.post(event{kind: evAgain, conn: c.id})
	}
	if s := c.out.wants(); s != nil && !c.doomed {
		c.load(s)
	}
}

// takingPace is how much a peer took since when, of messages that are more than its socket holds, and without having answered one.
type takingPace struct {
	since session.Time // 0: nothing waits for it
	taken int64
}

// paced ends a session whose peer takes so little, now and then, that a message never comes to its end, while its body stays in memory.
func (c *conn) paced(now session.Time, f *flushed) {
	l, p := &c.lp.eng.cfg.Limits, &c.pace
	over := p.since != 0 && f.n > 0 && now-p.since >= session.Time(l.RateWindow)
	p.taken += f.n
	switch {
	// Not where the last of a message is through: cut off then, it would come again and be as slow.
	case over && c.out.bodies > 0 && l.LeastRate > 0 && float64(p.taken) < float64(l.LeastRate)*l.RateWindow.Seconds():
		c.lp.eng.cfg.Observer.LimitHit(LimitTooSlow)
		c.abandon(session.ReasonTooSlow)
	case !f.blocked && !f.again || c.out.bodies == 0: // it is we who have nothing for it
		*p = takingPace{}
	case p.since == 0 || over:
		*p = takingPace{since: now}
	}
}

// submit hands j to a worker.
func (c *conn) submit(l *lane, j job) {
	c.inflight++
	l.submit(c.lp, c.id, j)
}

// abandon closes the socket without another word.
func (c *conn) abandon(reason string) {
	c.doomed = true
	c.because(reason)
}

// because notes why the session ended; the first reason counts.
func (c *conn) because(reason string) {
	if c.reason == "" {
		c.reason = reason
	}
}

// crashed ends a session whose machine panicked.
func (c *conn) crashed() {
	c.broken, c.closing = true, true
	c.because("panic")
	c.lastWord("421 4.3.0 Internal error, closing connection\r\n")
}

// lastWord closes the socket after one more reply, as far as the kernel takes it at once. A client is
// told; a customer whose server we talk to is not, for whatever we said could become part of a message.
func (c *conn) lastWord(reply string) {
	if c.phase == phaseOpen && !c.everTurned && c.out.bodies == 0 && !c.tls.shaking() {
		c.out.write([]byte(reply))
		c.sent(c.out.flush(c.fd, c.retire).n)
	}
	c.doomed = true
}

// gone handles the closing of the socket.
func (c *conn) gone(now session.Time, err error) {
	switch {
	case err == nil || err == io.EOF:
		c.because("connection closed by peer")
	default:
		c.because(fmt.Sprintf("connection lost: %v", err))
	}
	c.phase, c.closed = phaseGone, now
	c.gc, c.fd = nil, -1
	c.timer.unlink()
	c.lp.eng.sessions.Add(-1)
	c.setState(StateNone)
	c.finish(now)
	c.out.drop(c.retire)
	c.tls.close()
}

// finish gives the machine its End and gives back everything but the output. Settlements still go
// to the store, and the lease is released after them.
func (c *conn) finish(now session.Time) {
	if c.ended {
		return
	}
	c.ended = true
	if !c.broken && c.sess != nil {
		c.lp.guard(c, (*conn).end)
	}
	c.attempt.leave()
	c.answers, c.answered, c.exchange, c.attempt = nil, 0, nil, nil
	c.late, c.lateAt, c.headerBy = nil, 0, 0
	c.leaveLimits()
	c.noteCollected()
	c.in.discard(c.lp.eng)
	c.closeDrain()
	c.leaseStep()
}

func (c *conn) end(now session.Time) {
	out := &c.lp.out
	c.sess.End(now, out)
	for i := range out.Acts {
		switch a := &out.Acts[i]; a.Kind {
		case session.ActSettle, session.ActDiscard:
			c.perform(now, a)
		}
	}
	out.Reset()
	if m, ok := c.sess.(*session.Reversed); ok {
		c.lp.eng.histories.remember(c.account, m)
	}
}

func (c *conn) setState(s State) {
	if s != c.state {
		c.lp.eng.cfg.Observer.SessionState(c.state, s)
		c.state = s
	}
}
