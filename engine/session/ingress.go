package session

import (
	"time"

	"odmr/codec"
	"odmr/internal/mail"
)

// Ingress is the server side of SMTP (RFC 5321) and LMTP (RFC 2033): it takes mail in.
//
// What arrives goes through three layers: Input decides whether octets are content (DATA, a BDAT
// chunk) or a command line; the command table (ingress_command.go) decides whether a command
// may come now and what it does; the transaction (ingress_transaction.go) gathers one
// message and is dropped as a whole.
//
// At most one action that the dialogue must wait for is in flight (wait). There are two exceptions: with an
// ActAppend content goes on being read into a second buffer meanwhile, but no command is handled
// before its Done; and with ActCommits the next messages come in (ingress_commits.go).
type Ingress struct {
	cfg  *IngressConfig
	peer IngressPeer

	tx    *ingressTransaction // the message being handed in; nil between messages
	spare *ingressTransaction // a dropped one whose memory is used again

	name   []byte       // what the client calls itself, for the Received field
	origin *mail.Origin // what it said by XFORWARD for the next message; nil: nothing
	due    Time         // when the peer must have made its next move
	idleAt Time         // when spare is let go
	now    Time         // of the running call

	commits ingressQueue

	chunk  ingressChunk
	pace   ingressPace // of the content
	ticket uint32      // the last one used
	errors int         // 5xx replies since the last accepted message
	// orphans is how many commands behind a MAIL that was refused may still be out of sequence without being
	// errors: a client that pipelines (RFC 2920) had to send them before it knew.
	orphans int

	state    ingressState
	wait     ingressWait
	hello    codec.Verb // EHLO, HELO or LHLO
	skipping bool       // in the rest of a line that is too long
	early    bool       // the last command would have begun content and was refused
	secure   bool       // under TLS
	stopping bool
	closed   bool
}

// ingressState is where the dialogue stands. Legal transitions:
//
//	hello -> ready                          EHLO, HELO, LHLO
//	ready -> mail -> rcpt                   MAIL, RCPT accepted
//	rcpt  -> data | bdat                    DATA, first BDAT
//	mail, rcpt, data, bdat -> ready         the transaction is dropped: committed, refused, RSET, EHLO
type ingressState uint8

const (
	ingressHello ingressState = iota // nothing but a greeting has been said
	ingressReady                     // between messages
	ingressMail                      // a sender, no recipient yet
	ingressRcpt                      // a recipient at least
	ingressData                      // what arrives is content
	ingressBdat                      // a chunk was taken, and was not the last
)

// ingressWait is what the dialogue waits for.
type ingressWait uint8

const (
	ingressNoWait     ingressWait = iota
	ingressWaitBegin              // then MAIL is answered
	ingressWaitRoute              // then RCPT is answered
	ingressWaitAppend             // both buffers are full, or the content is complete
	ingressWaitOrder              // until commits in flight are answered
	ingressWaitTLS                // then the dialogue begins anew
)

// ingressChunk is the BDAT chunk being read.
type ingressChunk struct {
	reading bool
	last    bool
	size    int64  // octets of the whole chunk
	left    int64  // octets still to come
	refusal *reply // not nil: the octets are swallowed, then this is the reply
}

const (
	// ingressReplyBurst is how many octets of replies one Input may produce before it lets the driver
	// write them: a peer that pipelines 64 KiB of EHLOs would else fill a megabyte.
	ingressReplyBurst = 16 << 10
	// ingressIdleRelease is how long a session that does nothing keeps the buffers of its last message.
	ingressIdleRelease = 10 * time.Second
	// ingressKeptBuffer is the largest content buffer kept for the next message, in octets.
	ingressKeptBuffer = 16 << 10
)

var _ Session = (*Ingress)(nil)

// NewIngress returns the machine of one incoming session. cfg is shared and kept.
func NewIngress(cfg *IngressConfig, peer IngressPeer) *Ingress {
	return &Ingress{cfg: cfg, peer: peer}
}

// Start greets.
func (s *Ingress) Start(now Time, out *Output) {
	s.now = now
	protocol := "ESMTP"
	if s.cfg.Mode == IngressLMTP {
		protocol = "LMTP"
	}
	out.Reply = appendGreeting(out.Reply, s.cfg.Hostname, protocol)
	s.expect(s.cfg.CommandTimeout)
}

// Input takes commands and content.
func (s *Ingress) Input(now Time, b []byte, out *Output) int {
	s.now = now
	if s.wait == ingressWaitTLS && !s.closed { // a driver that lets octets in clear come here makes them harmless
		s.end(out, replyEarlyTLS, "data behind STARTTLS")
		return len(b)
	}
	n := 0
	for n < len(b) && !s.closed && s.wait == ingressNoWait && len(out.Reply) < ingressReplyBurst {
		took, mark, ahead := 0, len(out.Reply), len(s.commits.list)
		switch {
		case s.chunk.reading:
			took = s.readChunk(b[n:], out)
			s.paced(took, out)
		case s.state == ingressData:
			took = s.readData(b[n:], out)
			s.paced(took, out)
		case s.tx != nil && s.tx.lent != nil: // no command before the store has answered
			s.wait = ingressWaitAppend
		default:
			took = s.readLine(b[n:], out)
		}
		s.hold(mark, ahead, out)
		if took == 0 {
			break
		}
		n += took
		s.beginTLS(n == len(b), out)
		s.rest(out)
	}
	return n
}

// Done goes on where the dialogue waited.
func (s *Ingress) Done(now Time, ticket uint32, r *Result, out *Output) {
	if ticket == 0 {
		s.tlsBegan(now, out)
		return
	}
	if s.closed {
		return
	}
	s.now = now
	s.pace = ingressPace{since: now}
	if s.doneCommit(ticket, r, out) {
		s.rest(out)
		return
	}
	mark, ahead := len(out.Reply), len(s.commits.list)
	switch {
	case s.tx == nil:
		return
	case s.tx.lent != nil && ticket == s.tx.appending:
		s.doneAppend(r, out)
	case ticket != s.ticket:
		return
	case s.wait == ingressWaitBegin:
		s.doneBegin(r, out)
	case s.wait == ingressWaitRoute:
		s.doneRoute(r, out)
	}
	s.hold(mark, ahead, out)
	s.rest(out)
}

// Tick ends a session whose peer is silent, and lets go of memory that an idle one does not need.
func (s *Ingress) Tick(now Time, out *Output) {
	if s.closed || s.busy() {
		return
	}
	s.now = now
	if s.spare != nil && now >= s.idleAt {
		s.letGo()
	}
	if now >= s.due {
		s.end(out, replyTimeout, "peer is silent") // RFC 5321 4.5.3.2.7
	}
}

// Deadline is when the peer must have moved; there is none while the store has to.
func (s *Ingress) Deadline() Time {
	switch {
	case s.closed || s.busy():
		return Never
	case s.spare != nil:
		return min(s.due, s.idleAt)
	}
	return s.due
}

// Ordering reports whether the machine takes no input until the commits in flight are done, or a piece of a long message is
// stored: what came behind them, QUIT perhaps, must not overtake them.
func (s *Ingress) Ordering() bool { return s.wait == ingressWaitOrder || s.wait == ingressWaitAppend }

// Committing reports whether messages are on their way to the disk. Of what was said before that the client waits for nothing: it has
// gone on to the end of the content since.
func (s *Ingress) Committing() bool { return len(s.commits.list) > 0 }

// busy reports whether it is the store that has to move.
func (s *Ingress) busy() bool { return s.wait != ingressNoWait || s.Committing() }

// Progress changes nothing: what a server waits for is the peer's next command.
func (s *Ingress) Progress(Time) {}

// Stop lets the running transaction finish, then says 421.
func (s *Ingress) Stop(now Time, out *Output) {
	s.now = now
	s.stopping = true
	s.rest(out)
}

// End forgets the message begun. Of those that are being committed the store decides.
func (s *Ingress) End(now Time, out *Output) {
	s.now = now
	s.closed = true
	if s.tx != nil && s.tx.begun {
		out.Acts = append(out.Acts, Action{Kind: ActDiscard})
	}
	s.tx = nil
	s.commits = ingressQueue{}
	s.letGo()
}

// rest ends the session where a stop was asked for and nothing runs any more (RFC 5321 3.8).
func (s *Ingress) rest(out *Output) {
	if s.stopping && !s.closed && s.tx == nil && !s.chunk.reading && len(s.commits.list) == 0 {
		s.end(out, replyShutdown, "stop")
	}
}

// expect gives the peer d for its next move.
func (s *Ingress) expect(d time.Duration) { s.due = s.now + Time(d) }

// say replies.
func (s *Ingress) say(out *Output, r *reply) {
	out.Reply = r.appendTo(out.Reply)
	s.expect(s.cfg.CommandTimeout)
}

// refuse replies to a command that is refused, or ends the session if there were too many.
// Temporary refusals are not the client's errors.
func (s *Ingress) refuse(out *Output, r *reply) {
	if s.isTooMany(r.Code) {
		s.end(out, replyTooManyErrors, ReasonErrors)
		return
	}
	s.say(out, r)
}

// isTooMany counts a refusal and reports whether it was one too many.
func (s *Ingress) isTooMany(code int) bool {
	if code >= 500 {
		s.errors++
	}
	return s.errors >= s.cfg.MaxErrors
}

// end replies and closes. The transaction is forgotten by End.
func (s *Ingress) end(out *Output, r *reply, reason string) {
	out.Reply = r.appendTo(out.Reply)
	out.Acts = append(out.Acts, Action{Kind: ActClose, At: len(out.Reply), Reason: reason})
	s.closed = true
}

// nextTicket names the next action.
func (s *Ingress) nextTicket() uint32 {
	if s.ticket++; s.ticket == 0 {
		s.ticket++
	}
	return s.ticket
}

// readLine handles one command line.
func (s *Ingress) readLine(b []byte, out *Output) int {
	if s.skipping {
		n, done := codec.SkipLine(b)
		if done {
			s.skipping = false
			s.badLine(out, codec.ErrLineTooLong)
		}
		return n
	}
	line, n, err := codec.NextLine(b, mail.MaxCommandLine)
	switch {
	case err != nil && len(s.commits.list) > 0:
		s.wait = ingressWaitOrder
		return 0
	case err == codec.ErrLineTooLong:
		s.skipping = true
		return s.readLine(b, out)
	case err != nil:
		s.badLine(out, err)
	case n > 0:
		verb, arg := codec.ParseCommand(line)
		if !s.command(verb, arg, out) {
			return 0
		}
	}
	return n
}

// badLine refuses a line that cannot be a command.
func (s *Ingress) badLine(out *Output, err error) {
	if s.early {
		s.end(out, replyEarlyContent, "content before 354")
		return
	}
	s.refuse(out, replyLine(err))
}
