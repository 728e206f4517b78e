// Package session holds the protocol state machines of the server: Ingress (SMTP and
// LMTP server, RFC 5321, RFC 2033), Provider (ODMR before the turn, RFC 2645) and
// Reversed (SMTP client after the turn).
//
// A machine is pure: octets and completions in, reply octets and actions out. It has no
// socket, no clock, no disk, no goroutine and no lock; it never blocks and never panics
// on what a peer sends. It imports codec and internal/mail only.
//
// Contract with the driver (package engine):
//
//   - All calls for one machine come from one event loop, never two at once.
//   - After each call the driver performs Output: it walks Acts in order and writes Reply
//     once. Where an action concerns the octet stream (ActBody, ActTurn, ActStartTLS,
//     ActClose) its At says before which octet of Reply it stands.
//   - Every action with a ticket is answered by exactly one Done with that ticket, in any
//     order, perhaps at once (but never from within the call that emitted it), unless the
//     connection has ended, in which case none come.
//   - Input consumes what it can and returns how many octets; it consumes nothing while an
//     action that it must wait for is in flight. The driver keeps the rest, calls Input
//     again after Done or when more has arrived, and never with an empty slice. A return of
//     0 without a pending action means "need more". A return between 0 and len(b) without a
//     pending action means "write Reply first, then call again with the rest": a machine may stop
//     early so that a peer that pipelines without reading cannot make Reply grow.
//   - Slices handed to a machine are valid during the call only, except where said otherwise.
//     Output and what it points to belong to the driver until the next call.
//   - Deadline is asked after each call; the driver calls Tick when it has passed.
package session

import (
	"time"

	"odmr/internal/mail"
)

// Time is Unix time in nanoseconds, always given by the driver.
type Time = int64

// Never is the Deadline of a machine that waits for nothing.
const Never Time = 1<<63 - 1

// Session is one protocol state machine.
type Session interface {
	// Start begins the dialogue: a server's greeting, a client's timer.
	Start(now Time, out *Output)
	// Input consumes octets from the peer and returns how many.
	Input(now Time, b []byte, out *Output) int
	// Done brings the outcome of the action with that ticket. Result is valid during the call only.
	Done(now Time, ticket uint32, r *Result, out *Output)
	// Tick says that Deadline has passed.
	Tick(now Time, out *Output)
	// Deadline is when Tick is due, or Never.
	Deadline() Time
	// Progress says that the peer took some of the octets that were waiting for it.
	Progress(now Time)
	// Stop asks for an orderly end: the running transaction may finish, then 421 (server) or QUIT (client).
	Stop(now Time, out *Output)
	// End says that the connection is gone or about to be closed by the driver. Only ActSettle
	// and ActDiscard may be emitted, and no Done will come. It is the last call.
	End(now Time, out *Output)
}

// Yielder is a machine of a session that may hold a lease, which another session of the same customer may ask for, or which its
// customer may have no right to any more.
type Yielder interface {
	// Yield asks for the lease: the machine gives ActRelease or ActClose, and waits for the peer in neither case.
	Yield(now Time, why Cause, out *Output)
}

// Cause is why a machine is asked for its lease.
type Cause uint8

const (
	CauseTakenOver Cause = iota // a newer session of the customer is to have it
	CauseWithdrawn              // the customer may not collect its domains any more
)

func (c Cause) String() string {
	if c == CauseWithdrawn {
		return "the account may not collect any more"
	}
	return "taken over by a newer session"
}

// TLSPolicy says what a server machine allows in clear text.
type TLSPolicy uint8

const (
	TLSOptional TLSPolicy = iota // everything
	TLSForLogin                  // everything but AUTH, which is not offered either
	TLSForAll                    // NOOP, EHLO (LHLO), STARTTLS and QUIT only (RFC 3207 4)
)

// Reasons of an ActClose that are limits of a session, for a driver that counts them.
const (
	ReasonErrors    = "too many errors"
	ReasonCommands  = "too many commands without a login"
	ReasonLogins    = "too many failed logins"
	ReasonLoginTime = "no login in time"
	ReasonTooSlow   = "too slow within a message"
)

// Output is what a machine wants done. The driver empties and reuses it.
type Output struct {
	Reply []byte   // octets for the peer, in order
	Acts  []Action // in order
}

// Reset empties o and keeps its memory, letting go of what the actions point to.
func (o *Output) Reset() {
	o.Reply = o.Reply[:0]
	clear(o.Acts)
	o.Acts = o.Acts[:0]
}

// Kind says what an Action asks for.
type Kind uint8

const (
	// ActBegin announces an incoming message of about Size octets. Result: Refusal, or ID.
	ActBegin Kind = iota + 1
	// ActRoute asks whether mail for Domain is held here. Domain is in lower-case as far as it is
	// ASCII; it may hold U-labels, which the driver turns into A-labels. Size is what MAIL declared (0: nothing). Result:
	// Refusal (550 5.1.2, 451 4.4.3, 552 5.3.4, over a quota 452 4.2.2 or 552 5.2.2) or nil with Domain, the customer
	// domain in lower-case A-labels (empty: as asked), and MaxSize.
	// Data is the recipient's address as written, Null says that the reverse-path is null. A recipient may be
	// refused, too (550 5.1.1), and Each asks to be asked for every further one of the domain.
	ActRoute
	// ActAppend stores Data (mail.ChunkSize octets of body in wire form), not yet durable.
	// The machine must not touch Data until Done. Result: Refusal or nil.
	ActAppend
	// ActCommit makes the message durable: Data is the last piece of the body, Envelopes has one
	// entry per customer domain. Both must stay untouched until Done. The capacity of Data is what the message takes in
	// memory until then. Result: Refusal or nil.
	ActCommit
	// ActDiscard forgets the message begun. Reason says why its content is refused, if the machine did that. It has no ticket. From End it may come while an
	// ActBegin or ActAppend is still under way (never an ActCommit): it takes effect after that.
	ActDiscard

	// ActAuth starts (Mechanism set) or continues (Mechanism empty) a SASL exchange with the
	// decoded response Data; HasData tells an absent initial response from an empty one. Result:
	// Refusal (421: which ends the session), or Challenge to send on, or AuthDone with Account.
	ActAuth
	// ActAuthAbort gives up the running SASL exchange ("*"). It has no ticket.
	ActAuthAbort
	// ActAcquire asks for the lease of Domains (lower-case, not checked for access; empty means all
	// of Account's). Result: Refusal 450, 451, 453 without enhanced code as RFC 2645 5.2.1 says, or
	// nil with Domains and Waiting: the lease is then held by the connection. Where Waiting is 0 Wait says how long
	// mail may be waited for before ATRN is answered; 0: the session is turned with nothing in hand, and lingers.
	ActAcquire
	// ActStartTLS begins a TLS handshake after Reply[:At] has been written in clear; nothing follows
	// it in Reply. No ticket: the driver tells the machine by Done with ticket 0 once the handshake
	// is complete, and calls nothing else before that, except End if it fails. Octets that had arrived in
	// clear by then must never reach the machine.
	ActStartTLS
	// ActTurn makes the Reversed machine of the leased domains take over after Reply[:At].
	// It is the last action of a Provider.
	ActTurn

	// ActPrefetch asks for up to Messages deliveries whose first segments take about Size octets.
	// Result: Items (none: dry for now) or Refusal (the store failed).
	ActPrefetch
	// ActBody writes the body of Item at this place of the stream, in wire form, or with
	// the dot-stuffing taken out if Plain. If the store fails half-way the driver closes the
	// connection: there is no other safe way out (RFC 5321 4.1.1.4). It may come more than once for
	// one Item: recipients beyond what the customer takes at a time (RFC 5321 4.5.3.1.10) go in a
	// further transaction, for which the driver opens the body anew.
	ActBody
	// ActSettle records Outcomes (parallel to the envelope's recipients) of Item, which is gone for
	// the machine. Outcomes is retained. Reason, if any, is for the log. Result: Refusal if the
	// settlement could not be made durable.
	ActSettle

	// ActUnload says that the body of Item is not asked for any more, while its ActSettle is yet to come. No ticket.
	ActUnload
	// ActAlarm says that the bounce shield has fired, and why: what was refused is settled as held. No ticket.
	ActAlarm
	// ActAwait asks to be told once mail is there that an ActPrefetch would bring. Done says no more than that, and may
	// come for nothing. Result: nil, or Refusal 450, 451 as for ActAcquire: the customer may not collect it any more, or
	// nobody can say so; then nothing more may be sent. There is one at a time, with no ActPrefetch or ActSettle in flight; none comes after ActRelease.
	ActAwait
	// ActRelease gives the lease back, once the settlements asked for are durable, with all Items that were not
	// settled. Only their Done may still come: what was asked for otherwise may stay without. It has no ticket.
	ActRelease

	// ActClose closes the connection after Reply[:At] has been written; Reason is for the log.
	ActClose
)

// Action is one thing that a machine wants done. Which fields count depends on Kind.
type Action struct {
	Kind      Kind
	Ticket    uint32 // answered by exactly one Done; 0 where the Kind has none
	At        int    // octets of Output.Reply that go before this action
	Item      uint32 // ActBody, ActUnload, ActSettle: the Item's Handle
	Messages  int    // ActPrefetch
	Size      int64  // ActBegin, ActRoute, ActPrefetch: octets
	Plain     bool   // ActBody
	Null      bool   // ActRoute
	HasData   bool   // ActAuth
	InDoubt   bool   // ActSettle
	Domain    string // ActRoute
	Mechanism string // ActAuth
	Reason    string // ActClose, ActSettle, ActDiscard, ActAlarm
	Data      []byte // ActAppend, ActCommit, ActAuth, ActRoute
	Domains   []string
	Envelopes []mail.Envelope // ActCommit
	Outcomes  []mail.Outcome  // ActSettle
}

// Result is the outcome of one action. Which fields count depends on the action's Kind.
type Result struct {
	Refusal   *mail.Refusal // nil: it worked
	ID        mail.ID       // ActBegin
	Challenge []byte        // ActAuth: decoded challenge to send on; may be empty
	AuthDone  bool          // ActAuth: the exchange succeeded
	Account   string        // ActAuth: the authenticated account
	Domain    string        // ActRoute: the customer domain; empty: as asked
	Each      bool          // ActRoute: ask again for the next recipient of this domain
	MaxSize   int64         // ActRoute: octets of content that are taken for Domain; 0: as for all
	Domains   []string      // ActAcquire: the leased domains
	Waiting   int64         // ActAcquire: messages waiting
	Wait      time.Duration // ActAcquire: how long to wait for the first one
	Items     []Item        // ActPrefetch
}

// Item is a message that the driver holds ready for a Reversed machine.
type Item struct {
	Handle   uint32         // names it in ActBody and ActSettle
	Envelope *mail.Envelope // valid until ActSettle of this Item
}
