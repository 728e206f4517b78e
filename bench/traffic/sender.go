package traffic

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"

	"odmr/bench/letters"
)

// Protocol is what a Sender speaks.
type Protocol uint8

const (
	SMTP Protocol = iota
	LMTP
)

// Transfer is how a Sender gives content, and how far ahead of the replies it runs.
type Transfer uint8

const (
	// LockStep waits for every reply (DATA).
	LockStep Transfer = iota
	// Data sends MAIL, RCPT and DATA in one write, and the next group behind the final dot (RFC 2920).
	Data
	// Chunks sends whole transactions back to back, BDAT LAST (RFC 3030), up to Window of them unanswered.
	Chunks
)

func (t Transfer) String() string { return [...]string{"lock-step", "data", "bdat"}[t] }

// UnmarshalText lets Transfer be a flag.
func (t *Transfer) UnmarshalText(text []byte) error {
	for v := LockStep; v <= Chunks; v++ {
		if v.String() == string(text) {
			*t = v
			return nil
		}
	}
	return fmt.Errorf("%q is none of lock-step, data, bdat", text)
}

// Counter is what others may look at while the traffic goes on.
type Counter struct {
	Messages atomic.Int64 // answered with 250
	Octets   atomic.Int64 // of their content
	Refused  atomic.Int64 // answered otherwise
}

// Letter is one message to be sent.
type Letter struct {
	ID        uint64
	Recipient string
	Since     time.Time // from when its latency counts; zero: from when it is sent
}

// SenderOptions say how a Sender works.
type SenderOptions struct {
	Protocol Protocol
	Transfer Transfer
	Window   int // messages unanswered at a time, with Chunks; 0: 16
	Stock    *letters.Stock
	Sizes    letters.Sizes
	Ledger   *letters.Ledger // nil: nobody keeps book
	Counter  *Counter
	Latency  *hdrhistogram.Histogram // microseconds; this Sender's own; nil: none
}

// Sender is an MX with one connection.
type Sender struct {
	*wire
	opts    SenderOptions
	pending []pending // unanswered, oldest first
	head    int
	refusal string // the first one
}

// pending is a message on its way.
type pending struct {
	letter Letter
	text   *letters.Text
	since  time.Time
	step   step
	failed bool
}

// step says which reply a message waits for.
type step uint8

const (
	atMail step = iota
	atRcpt
	atData
	atEnd
)

// DialSender connects to addr and says hello.
func DialSender(ctx context.Context, addr string, opts SenderOptions) (*Sender, error) {
	var d net.Dialer
	conn, err := d.DialContext(ctx, "tcp", addr)
	if err != nil {
		return nil, err
	}
	s := newSender(newWire(ctx, conn, 16<<10), opts)
	if _, err = s.want("greeting", 220); err == nil {
		hello := "EHLO mx.bench.example"
		if opts.Protocol == LMTP {
			hello = "LHLO mx.bench.example"
		}
		_, err = s.ask(hello, 250)
	}
	if err != nil {
		s.close()
		return nil, err
	}
	return s, nil
}

func newSender(w *wire, opts SenderOptions) *Sender {
	if opts.Window <= 0 {
		opts.Window = 16
	}
	if opts.Counter == nil {
		opts.Counter = new(Counter)
	}
	return &Sender{wire: w, opts: opts}
}

// Refusal is the first reply that refused a message, or "".
func (s *Sender) Refusal() string { return s.refusal }

// Latency is the histogram that was given.
func (s *Sender) Latency() *hdrhistogram.Histogram { return s.opts.Latency }

// Close closes the connection without a word.
func (s *Sender) Close() { s.close() }

// Quit says QUIT and closes the connection.
func (s *Sender) Quit() error {
	_, err := s.ask("QUIT", 221)
	s.close()
	return err
}

// Run sends what next gives until it gives no more, and returns when all is answered.
func (s *Sender) Run(next func() (Letter, bool)) error {
	more := true
	for {
		for more && s.room() {
			var l Letter
			if l, more = next(); more {
				if err := s.begin(l); err != nil {
					return err
				}
			}
		}
		if len(s.pending) == s.head {
			return s.flush()
		}
		if err := s.advance(); err != nil {
			return err
		}
	}
}

// Send sends one message and waits for its reply.
func (s *Sender) Send(l Letter) error {
	if err := s.Post(l); err != nil {
		return err
	}
	return s.Until(time.Time{})
}

// Post sends one message as soon as there is room for it, and does not wait for its reply: Until does.
func (s *Sender) Post(l Letter) error {
	for !s.room() {
		if err := s.advance(); err != nil {
			return err
		}
	}
	if err := s.begin(l); err != nil {
		return err
	}
	return s.flush()
}

// Until takes replies until that moment, or until all are there if it is zero.
func (s *Sender) Until(t time.Time) error {
	if err := s.conn.SetReadDeadline(t); err != nil {
		return err
	}
	for len(s.pending) > s.head {
		if err := s.advance(); errors.Is(err, os.ErrDeadlineExceeded) {
			break
		} else if err != nil {
			return err
		}
	}
	if !t.IsZero() {
		time.Sleep(time.Until(t))
	}
	return s.conn.SetReadDeadline(time.Time{})
}

// room reports whether another message may be begun now.
func (s *Sender) room() bool {
	inFlight := len(s.pending) - s.head
	switch s.opts.Transfer {
	case Chunks:
		return inFlight < s.opts.Window
	case Data: // the next group rides behind the final dot of the one before
		return inFlight == 0 || inFlight == 1 && s.pending[s.head].step == atEnd
	default:
		return inFlight == 0
	}
}

// begin gathers the commands of a message.
func (s *Sender) begin(l Letter) error {
	if s.head > 64 && s.head*2 > len(s.pending) {
		s.pending = append(s.pending[:0], s.pending[s.head:]...)
		s.head = 0
	}
	p := pending{letter: l, since: l.Since}
	if p.since.IsZero() {
		p.since = time.Now()
	}
	p.text = s.opts.Stock.Text(l.ID, s.opts.Sizes.Of(l.ID))
	s.out = append(s.out, "MAIL FROM:<sender@bench.example>\r\n"...)
	if s.opts.Transfer != LockStep {
		s.rcpt(&p)
	}
	switch s.opts.Transfer {
	case Data:
		s.out = append(s.out, "DATA\r\n"...)
	case Chunks:
		s.out = append(s.out, "BDAT "...)
		s.out = strconv.AppendInt(s.out, int64(p.text.Size()), 10)
		s.out = append(s.out, " LAST\r\n"...)
		s.out = p.text.AppendFirst(s.out, l.ID)
		if err := s.put(p.text.Plain); err != nil {
			return err
		}
	}
	s.pending = append(s.pending, p)
	return nil
}

func (s *Sender) rcpt(p *pending) {
	s.out = append(s.out, "RCPT TO:<"...)
	s.out = append(s.out, p.letter.Recipient...)
	s.out = append(s.out, ">\r\n"...)
}

// advance takes one reply, and those behind it that have come already.
func (s *Sender) advance() error {
	for {
		if err := s.answer(); err != nil {
			return err
		}
		if s.r == s.w || len(s.pending) == s.head {
			return nil
		}
	}
}

// answer takes one reply and does what it allows.
func (s *Sender) answer() error {
	rep, err := s.reply()
	if err != nil {
		return err
	}
	p := &s.pending[s.head]
	ok := rep.Code/100 == 2
	if p.step == atData {
		ok = rep.Code == 354
	}
	if !ok {
		if !p.failed && s.refusal == "" {
			s.refusal = string(rep.Raw)
		}
		p.failed = true
		if rep.Code == 421 {
			return &Error{At: "message", Code: 421, Text: string(rep.Text)}
		}
	}
	switch p.step {
	case atMail:
		p.step = atRcpt
		if s.opts.Transfer == LockStep {
			s.rcpt(p)
		}
	case atRcpt:
		switch s.opts.Transfer {
		case Chunks:
			p.step = atEnd
		case LockStep:
			s.out = append(s.out, "DATA\r\n"...)
			fallthrough
		default:
			p.step = atData
		}
	case atData:
		if rep.Code != 354 {
			s.settle(p)
			return nil
		}
		p.step = atEnd
		s.out = p.text.AppendFirst(s.out, p.letter.ID)
		if err := s.put(p.text.Wire); err != nil {
			return err
		}
		s.out = append(s.out, ".\r\n"...)
	case atEnd:
		s.settle(p)
	}
	return nil
}

// settle notes what became of the oldest message.
func (s *Sender) settle(p *pending) {
	s.head++
	if p.failed {
		s.opts.Counter.Refused.Add(1)
		return
	}
	s.opts.Counter.Messages.Add(1)
	s.opts.Counter.Octets.Add(int64(p.text.Size()))
	if s.opts.Ledger != nil {
		s.opts.Ledger.Acked(p.letter.ID)
	}
	if s.opts.Latency != nil {
		_ = s.opts.Latency.RecordValue(max(1, time.Since(p.since).Microseconds()))
	}
}
