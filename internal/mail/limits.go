package mail

import "time"

// Limits that are the same everywhere. What an operator may want to change is a flag
// (internal/config) with one of these as its default.
const (
	// MaxCommandLine is the longest command line taken, in octets with CRLF. RFC 5321 4.5.3.1.4 asks
	// for 512, and MAIL and RCPT grow by the extensions' parameters (DSN +1000, SMTPUTF8, SIZE, AUTH +500).
	MaxCommandLine = 4096
	// MaxATRNLine is the longest ATRN line, in octets with CRLF: a customer with hundreds of domains.
	MaxATRNLine = 8192
	// MaxAuthLine is the longest line of a SASL exchange, in octets with CRLF (RFC 4954 4).
	MaxAuthLine = 12288
	// MaxReplyLine is the longest reply line taken from a customer's server; RFC 5321 4.5.3.1.5 says 512,
	// and filters with long explanations exceed it.
	MaxReplyLine = 4096
	// MaxReplyLines is how many lines one reply may have; EHLO replies of well-known servers have about 20.
	MaxReplyLines = 128
	// MaxReplyKept is how many octets of a customer's reply are kept for log and bounce.
	MaxReplyKept = 512
	// MaxOriginValue is how many octets of an XFORWARD attribute are kept; a host name is the longest of them.
	MaxOriginValue = 255
	// MaxPath is the longest path in octets (RFC 5321 4.5.3.1.3), without angle brackets.
	MaxPath = 254
	// MaxLocalPart is RFC 5321 4.5.3.1.1's 64, widened for the VERP and SRS senders that exceed it in practice.
	MaxLocalPart = 128
	// MaxDomain is the longest domain in octets (RFC 5321 4.5.3.1.2 says 255 with the root's dot, DNS 253 without).
	MaxDomain = 253
	// MaxRecipients is how many recipients one message may have; RFC 5321 4.5.3.1.8 asks for 100 at least.
	MaxRecipients = 1000
	// MaxReceived is how many Received fields a message may bear before it counts as looping (RFC 5321 6.3).
	MaxReceived = 50
	// MaxErrors is how many refused commands a session may collect before it is ended with 421, unless the operator says otherwise.
	MaxErrors = 20
	// MaxReturned is how many octets of a message go back to its sender with a report (RFC 3461 4.3 lets a RET=FULL be
	// cut down to the header); what a stranger sent to many must not come back as a flood.
	MaxReturned = 64 << 10
	// ChunkSize is how many octets of a body are stored as one value, and so the unit of streaming.
	ChunkSize = 256 << 10
	// LastPiece is how many octets the last value of a body may have, which may be its only one: so much more that it
	// is never a crumb. Mail of 256 KiB with the trace field that we add is one value, and one search.
	LastPiece = ChunkSize + 32<<10
)

// Time-outs of RFC 5321 4.5.3.2, and those that only this protocol has.
const (
	// TimeoutGreeting bounds the wait for the customer's 220 after the turn (4.5.3.2.1).
	TimeoutGreeting = 5 * time.Minute
	// TimeoutEnvelope bounds the wait for the reply to EHLO, MAIL and RCPT (4.5.3.2.2, 4.5.3.2.3).
	TimeoutEnvelope = 5 * time.Minute
	// TimeoutDataInit bounds the wait for the reply to DATA (4.5.3.2.4).
	TimeoutDataInit = 2 * time.Minute
	// TimeoutDataBlock bounds the time in which a peer must take a piece of the body (4.5.3.2.5).
	TimeoutDataBlock = 3 * time.Minute
	// TimeoutDataDone bounds the wait for the reply to the final dot (4.5.3.2.6); content filters take minutes.
	TimeoutDataDone = 10 * time.Minute
	// TimeoutCommand is how long a server waits for the client's next command (4.5.3.2.7).
	TimeoutCommand = 5 * time.Minute
	// TimeoutQuit bounds the wait for the reply to QUIT: nothing depends on it.
	TimeoutQuit = 30 * time.Second
	// TimeoutLogin is how long a client on the ODMR port may take until it is authenticated.
	TimeoutLogin = 2 * time.Minute
	// MaxATRNWait bounds how long the reply to ATRN may wait for mail: some clients give up after 30 s.
	MaxATRNWait = 25 * time.Second
	// TimeoutHandshake is how long a TLS handshake may take: two exchanges over a bad line.
	TimeoutHandshake = 30 * time.Second
)
