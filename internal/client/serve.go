package client

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strconv"
	"strings"

	"odmr/internal/mail"
)

// server is a Customer after the turn: an SMTP server for one session (RFC 5321).
type server struct {
	*wire
	name  string
	offer Offer
	hook  Hook
	recv  Receiver
	stats Stats

	greeted      bool // EHLO or HELO accepted
	extended     bool // it was EHLO: extensions may be used
	transactions int
	tx           *transaction // nil outside of a mail transaction
}

// transaction is one mail transaction; a reset drops it whole.
type transaction struct {
	env     *mail.Envelope
	sink    Sink
	octets  int64
	chunks  bool  // BDAT has begun it
	failure error // why the content cannot be accepted
}

// errCut ends the session because the Hook asked for it.
var errCut = errors.New("cut by the hook")

// errHook marks a message that the Hook refused.
var errHook = errors.New("refused by the hook")

// errQuit ends the session in order.
var errQuit = errors.New("quit")

// Serve answers as an SMTP server until the provider says QUIT, and does not close the
// connection. A connection that ends otherwise is ErrLost (also when the Hook cut it),
// with Stats saying how far it came.
func (c *Customer) Serve(r Receiver) (Stats, error) { return c.wire.serve(c.opts, r) }

// Answer is an SMTP server for one connection that was accepted elsewhere, and closes it: the
// MTA behind a program that relays a reversed session. It returns what Serve returns.
func Answer(ctx context.Context, conn net.Conn, opts Options, r Receiver) (Stats, error) {
	if opts.Name == "" {
		opts.Name = "localhost"
	}
	w := newWire(ctx, conn, opts.Timeout, opts.Transcript)
	defer w.close()
	return w.serve(opts, r)
}

func (w *wire) serve(opts Options, r Receiver) (Stats, error) {
	s := &server{wire: w, name: opts.Name, offer: opts.Offer, hook: opts.Hook, recv: r}
	err := s.run()
	s.drop()
	if errors.Is(err, errQuit) {
		return s.stats, nil
	}
	if errors.Is(err, errCut) {
		w.hangUp()
		err = fmt.Errorf("%w: %w", ErrLost, err)
	}
	return s.stats, err
}

func (s *server) run() error {
	// RFC 2645 5.3: the customer speaks first.
	if s.pending() {
		s.breach("the provider spoke before our greeting")
	}
	if err := s.answer(Event{Point: AtGreeting}, "220 "+s.name+" ESMTP odmr customer ready"); err != nil {
		return err
	}
	for {
		line, err := s.readLine()
		if err != nil {
			return err
		}
		if err := s.perform(string(line)); err != nil {
			return err
		}
	}
}

func (s *server) perform(line string) error {
	verb, arg, _ := strings.Cut(line, " ")
	ev := Event{Transaction: s.transactions, Line: line}
	switch strings.ToUpper(verb) {
	case "EHLO":
		ev.Point = AtEHLO
		return s.hello(ev, append([]string{s.name}, s.offer.Lines()...))
	case "HELO":
		ev.Point = AtHELO
		return s.hello(ev, []string{s.name})
	case "MAIL":
		ev.Point = AtMAIL
		return s.mail(ev, arg)
	case "RCPT":
		ev.Point = AtRCPT
		return s.rcpt(ev, arg)
	case "DATA":
		ev.Point = AtDATA
		return s.data(ev)
	case "BDAT":
		ev.Point = AtBDAT
		return s.bdat(ev, arg)
	case "RSET":
		ev.Point = AtRSET
		s.drop()
		return s.answer(ev, "250 2.0.0 reset")
	case "NOOP":
		ev.Point = AtNOOP
		return s.answer(ev, "250 2.0.0 nothing done")
	case "QUIT":
		return s.quit(ev)
	}
	s.breach("unknown command %.40q", line)
	return s.say("500 5.5.2 unknown command")
}

func (s *server) hello(ev Event, lines []string) error {
	s.alone(ev.Point) // RFC 2920 3.1: EHLO is the last of its group
	usual := "250 " + strings.Join(lines, "\n250 ")
	reply, err := s.consult(ev, usual)
	if err != nil {
		return err
	}
	if reply.positive() {
		s.drop()
		s.greeted, s.extended = true, ev.Point == AtEHLO
	}
	return s.finish(reply)
}

func (s *server) quit(ev Event) error {
	ev.Point = AtQUIT
	s.alone(ev.Point)
	s.stats.Quit = true
	if err := s.answer(ev, "221 2.0.0 goodbye"); err != nil {
		return err
	}
	if err := s.flush(); err != nil {
		return err
	}
	return errQuit
}

// offered is what may be used now: nothing after HELO.
func (s *server) offered() Offer {
	if s.extended {
		return s.offer
	}
	return Offer{}
}

func (s *server) mail(ev Event, arg string) error {
	s.lockstep(ev.Point)
	env, refusal := parseMail(arg, s.offered())
	switch {
	case !s.greeted:
		s.breach("MAIL before EHLO")
		refusal = &mail.Refusal{Code: 503, Enhanced: "5.5.1", Text: "EHLO first"}
	case s.tx != nil:
		s.breach("MAIL inside a transaction")
		refusal = &mail.Refusal{Code: 503, Enhanced: "5.5.1", Text: "nested MAIL"}
	case s.offer.MailMax > 0 && s.transactions >= s.offer.MailMax:
		s.breach("more than LIMITS MAILMAX=%d messages", s.offer.MailMax)
		refusal = &mail.Refusal{Code: 452, Enhanced: "4.5.3", Text: "too many messages in this session"}
	case refusal != nil:
		s.breach("%s: %.200q", refusal.Text, ev.Line)
	}
	usual := "250 2.1.0 sender ok"
	if refusal != nil {
		usual = refusalText(refusal)
	}
	reply, err := s.consult(ev, usual)
	if err != nil {
		return err
	}
	if refusal == nil && reply.positive() {
		s.tx = &transaction{env: env}
		s.transactions++
	}
	return s.finish(reply)
}

func (s *server) rcpt(ev Event, arg string) error {
	s.lockstep(ev.Point)
	r, refusal := parseRcpt(arg, s.offered())
	var verdict error
	switch {
	case s.tx == nil:
		// A pipelined RCPT behind a refused MAIL is no breach.
		verdict = &mail.Refusal{Code: 503, Enhanced: "5.5.1", Text: "MAIL first"}
	case refusal != nil:
		s.breach("%s: %.200q", refusal.Text, ev.Line)
		verdict = refusal
	case s.offer.RcptMax > 0 && len(s.tx.env.Recipients) >= s.offer.RcptMax:
		s.breach("more than LIMITS RCPTMAX=%d recipients", s.offer.RcptMax)
		verdict = &mail.Refusal{Code: 452, Enhanced: "4.5.3", Text: "too many recipients"}
	default:
		if judge, ok := s.recv.(RecipientChecker); ok {
			verdict = judge.Recipient(s.tx.env, r)
		}
	}
	usual := "250 2.1.5 recipient ok"
	if verdict != nil {
		usual = refusalText(verdict)
	}
	reply, err := s.consult(ev, usual)
	if err != nil {
		return err
	}
	if verdict == nil && reply.positive() {
		s.tx.env.Recipients = append(s.tx.env.Recipients, r)
	}
	return s.finish(reply)
}

// begin asks the Receiver for the sink of the running transaction.
func (s *server) begin() error {
	switch {
	case s.tx == nil:
		return &mail.Refusal{Code: 503, Enhanced: "5.5.1", Text: "MAIL first"}
	case len(s.tx.env.Recipients) == 0:
		return &mail.Refusal{Code: 554, Enhanced: "5.5.1", Text: "no valid recipients"}
	}
	sink, err := s.recv.Begin(s.tx.env)
	s.tx.sink = sink
	return err
}

func (s *server) data(ev Event) error {
	if s.tx != nil && s.tx.chunks {
		s.breach("DATA after BDAT") // RFC 3030 2
		s.drop()
		return s.say("503 5.5.1 DATA after BDAT")
	}
	s.alone(ev.Point) // RFC 2920 3.1: DATA is the last of its group
	failure := s.begin()
	usual := "354 go ahead, end with a dot"
	if failure != nil {
		usual = refusalText(failure)
	}
	reply, err := s.consult(ev, usual)
	if err != nil {
		return err
	}
	if err := s.finish(reply); err != nil {
		return err
	}
	if !strings.HasPrefix(reply.text, "354") {
		s.refuse()
		return nil
	}
	if s.tx == nil {
		s.tx = &transaction{env: &mail.Envelope{}}
	}
	s.tx.failure = failure
	if err := s.takeDotted(); err != nil {
		return err
	}
	return s.conclude(Event{Point: AtDot, Transaction: s.transactions, Line: "."})
}

func (s *server) bdat(ev Event, arg string) error {
	s.lockstep(ev.Point)
	num, lastWord, hasLast := strings.Cut(arg, " ")
	n, err := strconv.ParseInt(num, 10, 63)
	if err != nil || n < 0 || (hasLast && !strings.EqualFold(lastWord, "LAST")) || !s.offered().Chunking {
		s.breach("BDAT that cannot be understood or was not offered: %.40q", ev.Line)
		// How many octets follow is unknown, so nothing that comes next can be trusted.
		_ = s.say("501 5.5.4 syntax: BDAT size [LAST]")
		return fmt.Errorf("%w: %.40q", ErrBadReply, ev.Line)
	}
	if s.tx == nil {
		s.tx = &transaction{env: &mail.Envelope{}}
	}
	if !s.tx.chunks {
		s.tx.chunks = true
		s.tx.failure = s.begin()
	}
	ev.Octets = s.tx.octets
	early, err := s.consult(ev, "")
	if err != nil {
		return err
	}
	if early.text != "" && !early.positive() && s.tx.failure == nil {
		s.tx.failure = errHook
	}
	if err := s.takeChunk(n); err != nil {
		return err
	}
	ev.Octets = s.tx.octets
	switch {
	case early.text != "" && !early.positive():
		if hasLast {
			s.refuse()
		}
		return s.finish(early)
	case hasLast:
		ev.Point = AtDot
		return s.conclude(ev)
	case s.tx.failure != nil:
		return s.say(refusalText(s.tx.failure)) // RFC 3030 4.2: every chunk is refused from here on
	}
	ev.Point = AtChunk
	reply, err := s.consult(ev, "250 2.0.0 chunk taken")
	if err != nil {
		return err
	}
	if !reply.positive() {
		s.tx.failure = errHook
	}
	return s.finish(reply)
}

// conclude answers a message whose content has come whole.
func (s *server) conclude(ev Event) error {
	tx := s.tx
	ev.Octets = tx.octets
	usual := "250 2.0.0 message taken"
	if tx.failure != nil {
		usual = refusalText(tx.failure)
	}
	reply, err := s.consult(ev, usual)
	if err != nil {
		return err
	}
	if tx.failure != nil || !reply.positive() {
		s.refuse()
		return s.finish(reply)
	}
	sink := tx.sink
	tx.sink = nil
	if err := sink.Commit(); err != nil {
		s.refuse()
		reply.text = refusalText(err)
		return s.finish(reply)
	}
	ev.Point = AtCommitted
	after, err := s.consult(ev, reply.text)
	if err != nil {
		return err
	}
	if after.positive() {
		s.stats.Messages++
		s.stats.Octets += tx.octets
	} else {
		s.stats.Refused++
	}
	s.tx = nil
	if after.cut == CutNone {
		after.cut = reply.cut
	}
	return s.finish(after)
}

// refuse drops a message that got as far as its content.
func (s *server) refuse() {
	if s.tx == nil {
		return
	}
	if s.tx.failure == nil {
		s.tx.failure = errHook
	}
	s.drop()
}

// drop forgets the running transaction.
func (s *server) drop() {
	if s.tx == nil {
		return
	}
	if s.tx.failure != nil {
		s.stats.Refused++
	}
	if s.tx.sink != nil {
		s.tx.sink.Abort()
	}
	s.tx = nil
}

func tooBig() *mail.Refusal {
	return &mail.Refusal{Code: 552, Enhanced: "5.3.4", Text: "message too big"}
}
