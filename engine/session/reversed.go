package session

import (
	"time"

	"odmr/codec"
	"odmr/internal/mail"
)

// ReversedConfig is what the operator sets for Reversed machines. It is copied by
// NewReversed; a zero field means its default.
type ReversedConfig struct {
	Hostname string // what EHLO says; must not be empty

	// PrefetchMessages and PrefetchBytes bound what one session holds fetched ahead of what it
	// has sent: a number of messages, and the octets of their first segments (a longer body
	// counts as mail.LastPiece). One message is always allowed.
	PrefetchMessages int
	PrefetchBytes    int64
	// Prefetches is how many prefetches may be in flight at once, each for half of that.
	Prefetches int

	// WindowMessages and WindowBytes bound the messages that were begun and whose settlement
	// is not durable yet, and their octets on the wire: after a crash never more is sent
	// again than that. One message is always allowed.
	WindowMessages int
	WindowBytes    int64

	// MaxRefusals is how many 4xx and 5xx replies in a row, without a message accepted in
	// between, the session takes before it says QUIT: Postfix drops a client with 421 after 20.
	// Negative means no bound.
	MaxRefusals int

	// ShieldRefusals is how many of the last ShieldWindow messages may be refused for good before the session stops,
	// and holds what was refused; 0 switches the bounce shield off. See reversed_shield.go.
	ShieldRefusals int
	ShieldWindow   int
	// Linger is how long the session stays once everything is collected, for mail that comes; 0: it does not. KeepAlive
	// is the silence after which it says NOOP meanwhile.
	Linger    time.Duration
	KeepAlive time.Duration

	Timeouts ReversedTimeouts
}

// ReversedTimeouts are the waits of RFC 5321 4.5.3.2 on the client's side. Zero means the value of
// internal/mail. Each counts from the reply before, or from the last sign that the peer was reading.
type ReversedTimeouts struct {
	Greeting time.Duration // for the 220 after the turn
	Envelope time.Duration // for the reply to EHLO, HELO, MAIL, RCPT, RSET
	DataInit time.Duration // for the reply to DATA
	DataDone time.Duration // for the reply to the final dot or the last chunk; Progress moves it
	Quit     time.Duration // for the reply to QUIT
}

// Defaults of ReversedConfig.
const (
	ReversedPrefetchMessages = 256
	ReversedPrefetchBytes    = 2 << 20
	ReversedPrefetches       = 1
	ReversedWindowMessages   = 256
	ReversedWindowBytes      = 4 << 20
	ReversedMaxRefusals      = 18
	ReversedShieldWindow     = 30
	ReversedShieldRefusals   = 20 // of that window; what the operator's flag says, for zero is off here
)

// Bounds that are not an operator's business.
const (
	// reversedFirstWindow is how many messages a session has in flight before it knows its peer.
	reversedFirstWindow = 4
	// reversedLeastWindow is what the window shrinks to: one on the way while one is being settled.
	reversedLeastWindow = 2
	// reversedLag is the time between a transaction and its final reply from which on the window
	// shrinks: what is in flight is what would be in doubt.
	reversedLag = Time(5 * time.Second)
	// reversedLittle is how few octets a prefetch must bring, with fewer messages than asked for, to be taken as
	// the last of the queue. A driver that is short of memory gives less than asked for, but more than that.
	reversedLittle = 32 << 10
	// reversedMaxRcpts is how many recipients one transaction has where the peer says nothing: what
	// every server must take (RFC 5321 4.5.3.1.8).
	reversedMaxRcpts = 100
)

// ReversedStats counts what one session did.
type ReversedStats struct {
	Messages     int64 // messages taken by the customer for at least one recipient
	Delivered    int64 // recipients with a final 2xx
	Deferred     int64 // recipients with a 4xx
	Held         int64 // recipients with a 5xx that the bounce shield holds
	Failed       int64 // recipients with a 5xx, or that could not be sent to this customer at all
	InDoubt      int64 // messages handed over whole that got no final reply
	Misrouted    int64 // messages not sent because they are not this session's, or cannot be written safely
	EightBit     int64 // 8-bit messages sent although 8BITMIME was not offered
	Bytes        int64 // octets of content accepted, once per transaction
	Transactions int64 // MAIL commands
	Refusals     int64 // 4xx and 5xx replies of any kind
	Resets       int64 // RSET commands
	Window       int64 // the widest the window grew, in messages
}

type reversedState uint8

// The states, in the order in which they are passed through. From each, reversedClosed may follow.
const (
	reversedGreeting reversedState = iota // waits for the customer's 220 (RFC 2645 5.3)
	reversedHello                         // waits for the reply to EHLO or HELO
	reversedMail                          // mail goes out
	reversedLinger                        // all is collected; waits for mail, and goes back to reversedMail
	reversedQuit                          // waits for the reply to QUIT
	reversedClosed                        // ActClose was emitted, or the connection is gone
)

var reversedStateNames = [...]string{"greeting", "hello", "mail", "linger", "quit", "closed"}

type reversedEnding uint8

// Why no further message is begun.
const (
	reversedRunning   reversedEnding = iota
	reversedWindingUp                // those begun are finished, then QUIT
	reversedBroken                   // the store failed: nothing more may be handed over
)

// Reversed is the SMTP client after the turn (RFC 2645 5.3, RFC 5321): it drains the
// queues of the leased domains into the customer's server.
//
// It works in one of three ways, as the EHLO reply allows: in lock-step; with PIPELINING
// (RFC 2920) a message's MAIL, RCPT and DATA in one group that rides behind the final dot of
// the message before; with CHUNKING too (RFC 3030) whole transactions back to back in a
// window. In each of them the replies that are due stand in one FIFO (reversedPipe),
// and a reply concerns the command at its head and no other.
//
// A message's outcome counts once its transaction has got its last reply; it is settled at
// once then. What had no last reply when the session ends is put back: without a trace
// if its body was not handed over, in doubt if it was. Nothing fails for good but by a 5xx
// of the customer or because this customer's server cannot take it (RFC 1870 6.1, RFC 6531 3.5).
//
// It must never write an octet before the customer's 220, start TLS, begin a body before 354,
// let a reply settle another message than its own, or send a message of a domain that the
// session has no lease of.
type Reversed struct {
	cfg     ReversedConfig
	domains map[string]struct{}
	domain  string // the last one found in domains
	stats   ReversedStats
	peer    string
	reason  string

	state  reversedState
	ending reversedEnding
	caps   reversedCaps
	base   Time // the last reply, the last sign that the peer reads, or when the only command due was written
	ticket uint32

	pipe      reversedPipe
	cur       *reversedTx // lock-step: the transaction being written
	sync      bool        // DATA is unanswered: nothing may be written behind it (RFC 2920 3.1)
	forwarded bool        // XFORWARD was said for an earlier transaction
	believed  bool        // XFORWARD was taken once
	needReset bool        // the peer may have a transaction open

	ready   reversedList // fetched and not wholly sent, in order
	fetches []reversedFetch
	asked   reversedAmount // by fetches
	held    reversedAmount // fetched, first body not emitted
	dry     bool           // the last prefetch brought little or nothing
	plenty  bool           // the last prefetch brought what was asked for
	drained bool           // a prefetch made with nothing in the pipe brought nothing
	unread  bool           // the store failed to read: no further prefetch

	window   int            // messages, adapted
	limited  bool           // the window held back a message since it last grew
	shrunk   Time           // when the window last shrank
	inflight reversedAmount // begun, settlement not durable
	settles  reversedSettles
	errors   int // 4xx and 5xx in a row
	shield   reversedShield
	junk     int // NOOP and RSET since the last message accepted

	awaited  uint32 // the ActAwait in flight; 0: none
	lingerBy Time   // when lingering ends; 0: it has not begun yet
	worked   int64  // transactions when it began
	released bool   // ActRelease was given
	nothing  bool   // was left to be collected when that was last asked for
	bye      bool   // QUIT was answered
	leaving  bool   // the peer said 421: it takes nothing more

	seq      uint64
	lastText string
	scratch  []byte
	outcomes []mail.Outcome // slab: what is left of it
	slab     int            // its size when it was made
	freeMsg  *reversedMsg
	freeTx   *reversedTx
}

var _ Session = (*Reversed)(nil)

// NewReversed returns the machine for one session that holds the lease of domains
// (lower-case A-labels). Neither argument is kept.
func NewReversed(cfg *ReversedConfig, domains []string) *Reversed {
	r := &Reversed{cfg: cfg.withDefaults(), domains: make(map[string]struct{}, len(domains))}
	for _, d := range domains {
		r.domains[d] = struct{}{}
	}
	r.window = min(reversedFirstWindow, r.cfg.WindowMessages)
	r.stats.Window = int64(r.window)
	return r
}

func (c ReversedConfig) withDefaults() ReversedConfig {
	reversedDefault(&c.PrefetchMessages, ReversedPrefetchMessages)
	reversedDefault(&c.PrefetchBytes, ReversedPrefetchBytes)
	reversedDefault(&c.Prefetches, ReversedPrefetches)
	reversedDefault(&c.WindowMessages, ReversedWindowMessages)
	reversedDefault(&c.WindowBytes, ReversedWindowBytes)
	reversedDefault(&c.ShieldWindow, ReversedShieldWindow)
	reversedDefault(&c.KeepAlive, ReversedKeepAlive)
	reversedDefault(&c.Timeouts.Greeting, mail.TimeoutGreeting)
	reversedDefault(&c.Timeouts.Envelope, mail.TimeoutEnvelope)
	reversedDefault(&c.Timeouts.DataInit, mail.TimeoutDataInit)
	reversedDefault(&c.Timeouts.DataDone, mail.TimeoutDataDone)
	reversedDefault(&c.Timeouts.Quit, mail.TimeoutQuit)
	if c.MaxRefusals == 0 {
		c.MaxRefusals = ReversedMaxRefusals
	}
	return c
}

func reversedDefault[T int | int64 | time.Duration](v *T, d T) {
	if *v <= 0 {
		*v = d
	}
}

// Due reports whether the customer has replies to give.
func (r *Reversed) Due() bool { return r.pipe.len() > 0 }

// Stats returns the counters so far.
func (r *Reversed) Stats() ReversedStats { return r.stats }

// State names the state for logs and metrics: greeting, hello, mail, linger, quit or closed.
func (r *Reversed) State() string { return reversedStateNames[r.state] }

// PeerName is the name that the customer's server gave in its reply to EHLO or HELO.
func (r *Reversed) PeerName() string { return r.peer }

// Extensions names the way of working and what the customer's server offered, for the log.
func (r *Reversed) Extensions() string { return r.caps.String() }

// EndReason says why the session ended, or ends; empty while it runs.
func (r *Reversed) EndReason() string { return r.reason }

// Start waits for the customer's 220 (RFC 2645 5.3); nothing is written before it.
func (r *Reversed) Start(now Time, out *Output) {
	r.await(now, reversedAwait{kind: awaitGreeting})
}

// Input takes replies. It leaves octets behind only where a reply is not whole yet.
func (r *Reversed) Input(now Time, b []byte, out *Output) int {
	taken := 0
	for taken < len(b) {
		if r.state == reversedClosed {
			return len(b)
		}
		rep, n, err := codec.NextReply(b[taken:], mail.MaxReplyLine, mail.MaxReplyLines)
		if err != nil {
			r.close(out, "protocol error: "+err.Error())
			return len(b)
		}
		if n == 0 {
			break
		}
		taken += n
		r.reply(now, &rep, out)
		// After each reply, so that the dialogue does not depend on how the input was cut.
		r.pump(now, out)
	}
	return taken
}

// Done takes the outcome of a prefetch or a settlement, or that mail has come.
func (r *Reversed) Done(now Time, ticket uint32, res *Result, out *Output) {
	if r.fetched(ticket, res) || r.settled(ticket, res) || r.arrived(ticket, res) {
		r.pump(now, out)
	}
}

// Tick ends the session when the customer was silent for too long. What was not finally
// answered stays queued.
func (r *Reversed) Tick(now Time, out *Output) {
	if now < r.Deadline() {
		return
	}
	if r.pipe.len() == 0 {
		r.lingered(now, out)
		return
	}
	r.close(out, "timeout waiting for the reply to "+r.pipe.head().kind.String())
}

// Deadline is when Tick is due. Nothing is due while the store is what is waited for.
func (r *Reversed) Deadline() Time {
	switch {
	case r.state == reversedClosed:
		return Never
	case r.pipe.len() == 0 && r.state == reversedLinger:
		return r.lingerDeadline()
	case r.pipe.len() == 0:
		return Never
	}
	t := r.cfg.Timeouts.Envelope
	switch r.pipe.head().kind {
	case awaitGreeting:
		t = r.cfg.Timeouts.Greeting
	case awaitData:
		t = r.cfg.Timeouts.DataInit
	case awaitFinal, awaitChunk, awaitLoneDot:
		t = r.cfg.Timeouts.DataDone
	case awaitQuit:
		t = r.cfg.Timeouts.Quit
	}
	return r.base + Time(t)
}

// Progress moves the deadline: the customer is reading, so its reply cannot be due yet.
func (r *Reversed) Progress(now Time) { r.base = max(r.base, now) }

// Stop begins no further message; QUIT follows those in flight.
func (r *Reversed) Stop(now Time, out *Output) {
	if r.state == reversedGreeting {
		r.close(out, "stopped before the greeting") // nothing may be written before it
		return
	}
	r.wake()
	r.wind(reversedWindingUp, "stopped")
	r.pump(now, out)
}

// End settles what was partly answered or is in doubt; all else is pending as before.
func (r *Reversed) End(now Time, out *Output) {
	if r.reason == "" {
		r.reason = "connection lost in state " + r.State()
	}
	r.state = reversedClosed
	r.abandon(out)
	r.abandonBack(out)
}

// wind makes sure that no further message is begun. The first reason stays.
func (r *Reversed) wind(how reversedEnding, reason string) {
	r.ending = max(r.ending, how)
	if r.reason == "" {
		r.reason = reason
	}
}

// close ends the session at once. What is due is settled by End.
func (r *Reversed) close(out *Output, reason string) {
	if r.state == reversedClosed {
		return
	}
	if r.reason == "" {
		r.reason = reason
	}
	if reason == "" {
		reason = r.reason
	}
	r.state = reversedClosed
	out.Acts = append(out.Acts, Action{Kind: ActClose, At: len(out.Reply), Reason: reason})
}

// quit says QUIT and waits for 221 (RFC 5321 4.1.1.10).
func (r *Reversed) quit(now Time, out *Output, reason string) {
	if r.reason == "" {
		r.reason = reason
	}
	out.Reply = append(out.Reply, "QUIT\r\n"...)
	r.state = reversedQuit
	r.await(now, reversedAwait{kind: awaitQuit})
}

// pump does all that can be done now.
func (r *Reversed) pump(now Time, out *Output) {
	for r.state == reversedMail && r.step(now, out) {
	}
	r.fetch(out)
	r.finish(now, out)
}

// finish says QUIT once nothing is in the pipe and nothing can come into it, and the
// settlements are durable, so that the session's end confirms that all it did is kept.
func (r *Reversed) finish(now Time, out *Output) {
	if r.state != reversedMail || r.pipe.len() > 0 || r.cur != nil {
		return
	}
	if r.ending != reversedRunning {
		r.putAside(out)
	}
	r.judge(out)
	switch {
	case r.settles.open > 0:
	case r.ending != reversedRunning:
		r.quit(now, out, r.reason)
	case r.ready.head == nil && r.drained && len(r.fetches) == 0:
		r.nothing = !r.unread
		if r.cfg.Linger > 0 && !r.unread {
			r.linger(now, out)
			return
		}
		r.quit(now, out, "queue is dry")
	}
}
