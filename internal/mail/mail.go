// Package mail holds the values that every room shares: the envelope of a held
// message, its recipients, what became of them, refusals, queue ids and limits.
//
// It has next to no behaviour, imports the standard library only, and must never
// learn about sockets, disks or clocks.
package mail

// BodyType is the BODY parameter of MAIL FROM (RFC 6152).
type BodyType uint8

const (
	Body7Bit     BodyType = iota // BODY=7BIT, or no BODY parameter
	Body8BitMIME                 // BODY=8BITMIME
)

// Return is the RET parameter of MAIL FROM (RFC 3461 4.3).
type Return uint8

const (
	ReturnUnset   Return = iota
	ReturnFull           // RET=FULL
	ReturnHeaders        // RET=HDRS
)

// Notify is the NOTIFY parameter of RCPT TO (RFC 3461 4.1), a set of bits.
// The zero value means that the parameter was absent.
type Notify uint8

const (
	NotifyNever Notify = 1 << iota
	NotifySuccess
	NotifyFailure
	NotifyDelay
)

// Envelope is the RFC 5321 envelope of one queue entry: a message as far as it
// concerns one customer domain. A message for several customer domains has one
// body and one Envelope per domain, each with that domain's recipients only.
type Envelope struct {
	ID          ID          // the message's queue id; the same in the entries of all its domains
	Domain      string      // customer domain, lower-case A-labels; every recipient is in it
	Arrived     int64       // when the final reply was due: Unix time in nanoseconds
	ReversePath string      // without angle brackets; empty is the null reverse-path
	Body        BodyType    // as declared by the sender
	SMTPUTF8    bool        // RFC 6531: some header or path needs SMTPUTF8
	Ret         Return      // RFC 3461
	EnvID       string      // RFC 3461 ENVID, xtext as received; empty if absent
	Client      string      // address of the MX that handed the message in
	Origin      *Origin     // the client that the MX had it from, as far as the MX says (XFORWARD); nil: nothing is known
	Size        int64       // octets of content, not dot-stuffed (what SIZE= says, RFC 1870)
	WireSize    int64       // octets as stored: CRLF lines, dot-stuffed, without the final dot
	Stuffed     bool        // some line was dot-stuffed, so WireSize > Size
	EightBit    bool        // some octet is >= 0x80
	Recipients  []Recipient // at least one, in the order in which they were given
	Attempts    uint32      // how often delivery of this entry ended without settling it
	InDoubt     bool        // its final dot (or last chunk) went out once and no reply came
	// DelayNotified says that the sender was told of the delay (RFC 3461 4.1, NOTIFY=DELAY); nobody is told twice.
	DelayNotified bool
}

// Origin is what an MX says with XFORWARD of the client that handed it the message. Values are decoded; an empty
// one is not known. At most MaxOriginValue octets each.
type Origin struct {
	Name   string // host name, from reverse and forward DNS
	Addr   string // IP address without port; IPv6 without a prefix
	Port   string
	Proto  string // SMTP, ESMTP
	Helo   string // what it said in HELO or EHLO
	Ident  string // queue id there
	Source string // LOCAL or REMOTE
}

// Recipient is one forward-path of an Envelope and what became of it so far.
type Recipient struct {
	Address string         // forward-path without angle brackets, as received
	Notify  Notify         // RFC 3461
	ORcpt   string         // RFC 3461 ORCPT as received (addr-type;xtext); empty if absent
	State   RecipientState // Pending until settled
	Reply   string         // the customer's last reply about this recipient, for log and bounce
}

// RecipientState says what became of a recipient. Legal transitions:
// Pending -> Pending (deferred), Pending -> Delivered, Pending -> Relayed, Pending -> Failed, Pending -> Held; by an
// operator's decision Held -> Pending and Held -> Failed; once the sender knows, Failed -> Bounced and Relayed -> Delivered;
// and at the end of its time Pending -> Bounced, where the entry stays for a held one.
type RecipientState uint8

const (
	Pending   RecipientState = iota // waits for the customer's next session
	Delivered                       // the customer took responsibility (2xx)
	Failed                          // the customer refused for good (5xx); kept for its bounce
	Held                            // refused for good by a server that refuses nearly everything: an operator decides
	Relayed                         // delivered, and its sender is to be told so, as the customer's server will not (RFC 3461 5.2.2)
	Bounced                         // failed, and done with: its sender was told, or was not to be
)

// Untold says whether something became of some recipient, while others wait or are held, that its sender is yet to be told.
func (e *Envelope) Untold() bool {
	open, news := false, false
	for i := range e.Recipients {
		switch e.Recipients[i].State {
		case Pending, Held:
			open = true
		case Failed, Relayed:
			news = true
		}
	}
	return open && news
}

// Told notes that there is nothing left to be told of what became of the recipients.
func (e *Envelope) Told() {
	for i := range e.Recipients {
		switch r := &e.Recipients[i]; r.State {
		case Failed:
			r.State = Bounced
		case Relayed:
			r.State = Delivered
		}
	}
}

// Outcome is what one delivery attempt brought for one recipient.
type Outcome struct {
	Status OutcomeStatus
	Rcpt   RcptVerdict // what was said to RCPT alone
	Reply  string      // the reply that decided, "550 5.1.1 no such user", at most MaxReplyKept octets
	// Relayed says of a delivered recipient that its sender wants to hear of it (NOTIFY=SUCCESS), and that the customer's
	// server sends no reports: so we have to (RFC 3461 5.2.2).
	Relayed bool
}

// RcptVerdict is what a server says of a recipient, whatever becomes of the message.
type RcptVerdict uint8

const (
	RcptUnsaid   RcptVerdict = iota
	RcptAccepted             // 2xx to RCPT
	RcptUnknown              // 550 5.1.1 to RCPT, in an ordinary session: it has no such mailbox
)

// OutcomeStatus classifies an Outcome.
type OutcomeStatus uint8

const (
	OutcomeDelivered OutcomeStatus = iota // 2xx for the message: done
	OutcomeDeferred                       // 4xx, or the session ended first: stays queued
	OutcomeFailed                         // 5xx: marked failed and kept for the bounce
	OutcomeHeld                           // 5xx of a server that refuses nearly everything: kept for an operator's decision
	OutcomeUntouched                      // was not tried (already settled, or the session ended before)
)

// Refusal is an error on its way to the wire: code, enhanced code and public text.
// Cause is for the log only and never reaches the peer.
type Refusal struct {
	Code     int    // RFC 5321 reply code, 4xx or 5xx
	Enhanced string // RFC 3463, "4.3.1"; empty where none is sent (ATRN's own replies)
	Text     string // public, one line of printable ASCII
	Cause    error  // log only; may be nil
}

func (r *Refusal) Error() string {
	if r.Cause != nil {
		return r.Text + ": " + r.Cause.Error()
	}
	return r.Text
}

func (r *Refusal) Unwrap() error { return r.Cause }

// Temporary reports whether the refusal invites another try (4xx).
func (r *Refusal) Temporary() bool { return r.Code >= 400 && r.Code < 500 }
