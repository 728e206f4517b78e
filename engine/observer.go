package engine

import "time"

// State is where a session stands, as metrics count it.
type State uint8

const (
	StateNone     State = iota // before the connection, and after it
	StateSMTP                  // SMTP server
	StateLMTP                  // LMTP server
	StateLogin                 // ODMR, not authenticated yet
	StateProvider              // ODMR, authenticated
	StateWait                  // ODMR, authenticated: ATRN waits for mail
	StateReversed              // after the turn: mail goes out
	StateLinger                // after the turn: all is collected, and mail that comes goes out at once
	StateClosing               // the last reply was queued; waiting for the peer to take it
	NumStates                  // not a state: how many there are
)

var stateNames = [NumStates]string{"none", "smtp", "lmtp", "login", "provider", "wait", "reversed", "linger", "closing"}

func (s State) String() string {
	if s < NumStates {
		return stateNames[s]
	}
	return "unknown"
}

// Outcome says what became of a message, as metrics count it.
type Outcome uint8

const (
	Accepted  Outcome = iota // in: durable, 250 was sent
	Refused                  // in: not taken
	Delivered                // out: every pending recipient was delivered
	Deferred                 // out: some recipient stays queued
	Failed                   // out: some recipient was refused for good, none stays queued
	Held                     // out: the bounce shield holds some recipient, none stays queued
	NumOutcomes
)

var outcomeNames = [NumOutcomes]string{"accepted", "refused", "delivered", "deferred", "failed", "held"}

func (o Outcome) String() string {
	if o < NumOutcomes {
		return outcomeNames[o]
	}
	return "unknown"
}

// Observer is told what happens, for metrics. Calls come from many goroutines at once,
// event loops among them: an Observer must be quick and must not block.
type Observer interface {
	// SessionState says that a session went from one state to another; it begins and ends with StateNone.
	SessionState(from, to State)
	// SessionRefused says that a connection over MaxSessions was turned away.
	SessionRefused()
	// LimitHit says that a connection or a login was turned away because of a limit.
	LimitHit(l Limit)
	// ATRN says that an ATRN was answered: 250, 450, 451, 453.
	ATRN(code int)
	// Takeover says that a session was asked to make way for another one of its customer.
	Takeover()
	// Withdrawn says that a session was ended because its customer may not collect any more.
	Withdrawn()
	// Auth says that a SASL exchange ended: 235, 421 (over a limit), 454, 501, 504, 535.
	Auth(code int)
	// MessageIn counts an incoming message (Accepted, Refused) and its octets in wire form.
	MessageIn(outcome Outcome, octets int64)
	// MessageOut counts a settled message (Delivered, Deferred, Failed, Held) and its octets in wire form.
	MessageOut(outcome Outcome, octets int64)
	// ShieldFired says that a customer's server refused so much that what it refused is held.
	ShieldFired()
	// Octets counts what a session's socket brought and took.
	Octets(in, out int64)
	// Commit says how long the store took to make a message durable.
	Commit(d time.Duration)
	// Settle says how long the store took to settle a batch of n messages.
	Settle(d time.Duration, n int)
	// LoopLag says how late an event loop, counted from 0, came to its tick.
	LoopLag(loop int, d time.Duration)
	// TLSBegan says that a handshake was completed, with the version as in crypto/tls.
	TLSBegan(version uint16)
	// TLSFailed says that a handshake failed, or that the peer left or took too long during one.
	TLSFailed()
	// TLSEnded says that a session under TLS ended: once for each TLSBegan.
	TLSEnded()
	// Panic says that a panic was caught; it ended one session.
	Panic()
}

// NopObserver looks away.
type NopObserver struct{}

func (NopObserver) SessionState(State, State)  {}
func (NopObserver) SessionRefused()            {}
func (NopObserver) LimitHit(Limit)             {}
func (NopObserver) ATRN(int)                   {}
func (NopObserver) Takeover()                  {}
func (NopObserver) Withdrawn()                 {}
func (NopObserver) Auth(int)                   {}
func (NopObserver) MessageIn(Outcome, int64)   {}
func (NopObserver) MessageOut(Outcome, int64)  {}
func (NopObserver) ShieldFired()               {}
func (NopObserver) Octets(int64, int64)        {}
func (NopObserver) Commit(time.Duration)       {}
func (NopObserver) Settle(time.Duration, int)  {}
func (NopObserver) LoopLag(int, time.Duration) {}
func (NopObserver) TLSBegan(uint16)            {}
func (NopObserver) TLSFailed()                 {}
func (NopObserver) TLSEnded()                  {}
func (NopObserver) Panic()                     {}
