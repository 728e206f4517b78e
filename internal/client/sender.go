package client

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"time"

	"odmr/internal/mail"
)

// Protocol is what a Sender speaks.
type Protocol uint8

const (
	SMTP Protocol = iota // RFC 5321
	LMTP                 // RFC 2033: a reply for each recipient after the content
)

// Transfer says how a Sender gives the content.
type Transfer uint8

const (
	ByDATA Transfer = iota
	ByBDAT          // RFC 3030, in chunks of SenderOptions.Chunk octets
)

// SenderOptions say how a Sender behaves.
type SenderOptions struct {
	Name       string        // EHLO argument; empty: "localhost"
	Protocol   Protocol      //
	Transfer   Transfer      //
	Chunk      int           // octets of one BDAT; 0: 64 KiB
	Timeout    time.Duration // how long the server may be silent; 0: for ever
	LockStep   bool          // do not pipeline, even where it is offered
	Transcript Transcript
}

// Message is what a Sender hands in. Of Envelope it uses ReversePath, Body, SMTPUTF8, Ret,
// EnvID, Size and Recipients.
type Message struct {
	Envelope mail.Envelope
	// Content in lines that end in CRLF, not dot-stuffed. A missing last CRLF is added with DATA.
	Content io.Reader
}

// Receipt is what the server said to one message.
type Receipt struct {
	Mail       Reply
	Recipients []Reply // to RCPT, in order
	// Final is the reply to the content, one for each accepted recipient with LMTP, else one.
	// Empty where no content was asked for.
	Final []Reply
}

// Accepted reports whether the server took responsibility for every recipient.
func (r *Receipt) Accepted() bool {
	for _, x := range r.Recipients {
		if !x.Positive() {
			return false
		}
	}
	for _, x := range r.Final {
		if !x.Positive() {
			return false
		}
	}
	return r.Mail.Positive() && len(r.Final) > 0
}

// Refusal is the first reply that refused something, as an error, or nil.
func (r *Receipt) Refusal() error {
	if !r.Mail.Positive() {
		return &Error{Command: "MAIL", Reply: r.Mail}
	}
	for _, x := range r.Recipients {
		if !x.Positive() {
			return &Error{Command: "RCPT", Reply: x}
		}
	}
	for _, x := range r.Final {
		if !x.Positive() {
			return &Error{Command: "content", Reply: x}
		}
	}
	return nil
}

// Sender is an MX host's connection to the server.
type Sender struct {
	*wire
	opts SenderOptions
	exts map[string]string
	copy []byte // buffer for content
}

// DialSender connects, reads the greeting and says EHLO or LHLO. ctx bounds the connection's whole life.
func DialSender(ctx context.Context, addr string, opts SenderOptions) (*Sender, error) {
	var d net.Dialer
	conn, err := d.DialContext(ctx, "tcp", addr)
	if err != nil {
		return nil, err
	}
	return NewSender(ctx, conn, opts)
}

// NewSender does the same on conn, which it owns from now on, also when it fails.
func NewSender(ctx context.Context, conn net.Conn, opts SenderOptions) (*Sender, error) {
	if opts.Name == "" {
		opts.Name = "localhost"
	}
	if opts.Chunk <= 0 {
		opts.Chunk = 64 << 10
	}
	s := &Sender{wire: newWire(ctx, conn, opts.Timeout, opts.Transcript), opts: opts}
	if err := s.hello(); err != nil {
		_ = s.close()
		return nil, err
	}
	return s, nil
}

func (s *Sender) hello() error {
	if _, err := s.expect("greeting", 220); err != nil {
		return err
	}
	verb := "EHLO "
	if s.opts.Protocol == LMTP {
		verb = "LHLO "
	}
	r, err := s.command(verb+s.opts.Name, 250)
	if err != nil {
		return err
	}
	s.exts = parseExtensions(r)
	if _, ok := s.exts["CHUNKING"]; !ok && s.opts.Transfer == ByBDAT {
		return errors.New("the server does not offer CHUNKING")
	}
	return nil
}

// Extension returns the parameters of an extension that the server offers.
func (s *Sender) Extension(keyword string) (params string, ok bool) {
	params, ok = s.exts[strings.ToUpper(keyword)]
	return params, ok
}

// Send hands one message in. An error means that the connection is of no more use; what the
// server refused is in the Receipt. A 421 ends the session as the server's way of saying so.
func (s *Sender) Send(m *Message) (*Receipt, error) {
	var rec Receipt
	accepted, err := s.envelope(&m.Envelope, &rec)
	if err != nil {
		return &rec, err
	}
	if accepted == 0 {
		// Nothing was begun if MAIL was refused, but a transaction without recipients must go.
		if _, err := s.command("RSET", 250); err != nil {
			return &rec, err
		}
		return &rec, nil
	}
	if s.opts.Transfer == ByBDAT {
		return &rec, s.sendChunks(m, accepted, &rec)
	}
	return &rec, s.sendData(m, accepted, &rec)
}

// envelope gives MAIL and RCPT, in one write where the server pipelines (RFC 2920), and
// returns how many recipients were accepted.
func (s *Sender) envelope(env *mail.Envelope, rec *Receipt) (accepted int, err error) {
	_, pipelining := s.exts["PIPELINING"]
	pipelining = pipelining && !s.opts.LockStep
	if err := s.writeLine("MAIL " + MailArgument(env, s.exts)); err != nil {
		return 0, err
	}
	if !pipelining {
		if rec.Mail, err = s.next(); err != nil || !rec.Mail.Positive() {
			return 0, err
		}
	}
	for i := range env.Recipients {
		if err := s.writeLine("RCPT " + RcptArgument(&env.Recipients[i], s.exts)); err != nil {
			return 0, err
		}
		if pipelining {
			continue
		}
		r, err := s.next()
		if err != nil {
			return 0, err
		}
		rec.Recipients = append(rec.Recipients, r)
	}
	if pipelining {
		if rec.Mail, err = s.next(); err != nil {
			return 0, err
		}
		for range env.Recipients {
			r, err := s.next()
			if err != nil {
				return 0, err
			}
			rec.Recipients = append(rec.Recipients, r)
		}
	}
	for _, r := range rec.Recipients {
		if r.Positive() {
			accepted++
		}
	}
	if !rec.Mail.Positive() {
		accepted = 0
	}
	return accepted, nil
}

// next reads one reply; 421 is an error (RFC 5321 3.8).
func (s *Sender) next() (Reply, error) {
	if err := s.flush(); err != nil {
		return Reply{}, err
	}
	r, err := s.readReply()
	if err == nil && r.Code == 421 {
		err = &Error{Command: "session", Reply: r}
	}
	return r, err
}

// final reads the reply or replies to the content.
func (s *Sender) final(accepted int, rec *Receipt) error {
	n := 1
	if s.opts.Protocol == LMTP {
		n = accepted // RFC 2033 4.2
	}
	for range n {
		r, err := s.next()
		if err != nil {
			return err
		}
		rec.Final = append(rec.Final, r)
	}
	return nil
}

func (s *Sender) sendData(m *Message, accepted int, rec *Receipt) error {
	if err := s.writeLine("DATA"); err != nil {
		return err
	}
	r, err := s.next()
	if err != nil {
		return err
	}
	if r.Code != 354 {
		rec.Final = []Reply{r}
		return nil
	}
	d := dotWriter{w: s.wire}
	n, err := io.CopyBuffer(struct{ io.Writer }{&d}, m.Content, s.buffer())
	if err != nil {
		return err
	}
	s.note(Us, "%d octets of content", n)
	if err := d.finish(); err != nil {
		return err
	}
	return s.final(accepted, rec)
}

func (s *Sender) buffer() []byte {
	if s.copy == nil {
		s.copy = make([]byte, s.opts.Chunk)
	}
	return s.copy
}

func (s *Sender) sendChunks(m *Message, accepted int, rec *Receipt) error {
	buf := s.buffer()
	for {
		n, err := io.ReadFull(m.Content, buf)
		last := errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF)
		if err != nil && !last {
			return err
		}
		line := fmt.Sprintf("BDAT %d", n)
		if last {
			line += " LAST"
		}
		if err := s.writeLine(line); err != nil {
			return err
		}
		s.note(Us, "%d octets of content", n)
		if err := s.writeAll(buf[:n]); err != nil {
			return err
		}
		if last {
			return s.final(accepted, rec)
		}
		r, err := s.next()
		if err != nil {
			return err
		}
		if !r.Positive() {
			rec.Final = []Reply{r}
			_, err := s.command("RSET", 250) // RFC 3030 2: the transaction is spoilt, not over
			return err
		}
	}
}

// Command sends any line and returns the reply, whatever its code.
func (s *Sender) Command(line string) (Reply, error) {
	if err := s.writeLine(line); err != nil {
		return Reply{}, err
	}
	if err := s.flush(); err != nil {
		return Reply{}, err
	}
	return s.readReply()
}

// Quit says QUIT and closes the connection.
func (s *Sender) Quit() error {
	_, err := s.command("QUIT", 221)
	if cerr := s.close(); err == nil {
		err = cerr
	}
	return err
}

// Close closes the connection without a word.
func (s *Sender) Close() error { return s.close() }

// dotWriter dot-stuffs what is written (RFC 5321 4.5.2) and ends it with the lone dot.
type dotWriter struct {
	w     *wire
	state dotState
}

func (d *dotWriter) Write(p []byte) (int, error) {
	total := len(p)
	for len(p) > 0 {
		if d.state == atLineStart && p[0] == '.' {
			if err := d.w.writeAll([]byte{'.'}); err != nil {
				return 0, err
			}
		}
		n, next := lineRun(p, d.state)
		if err := d.w.writeAll(p[:n]); err != nil {
			return 0, err
		}
		d.state = next
		p = p[n:]
	}
	return total, nil
}

func (d *dotWriter) finish() error {
	if d.state != atLineStart {
		if err := d.w.writeAll([]byte("\r\n")); err != nil {
			return err
		}
	}
	return d.w.writeLine(".")
}
