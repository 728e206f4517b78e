package traffic

import (
	"bytes"
	"fmt"
	"time"

	"odmr/bench/letters"
	"odmr/codec"
)

// Offer is what a customer's (or a sink's) SMTP server offers in reply to EHLO.
type Offer uint8

const (
	// OfferNothing makes the sender go in lock-step.
	OfferNothing Offer = iota
	// OfferPipelining is PIPELINING (RFC 2920): DATA in groups.
	OfferPipelining
	// OfferChunking is PIPELINING and CHUNKING (RFC 3030).
	OfferChunking
)

func (o Offer) String() string { return [...]string{"data", "pipelining", "chunking"}[o] }

// UnmarshalText lets Offer be a flag.
func (o *Offer) UnmarshalText(text []byte) error {
	for v := OfferNothing; v <= OfferChunking; v++ {
		if v.String() == string(text) {
			*o = v
			return nil
		}
	}
	return fmt.Errorf("%q is none of data, pipelining, chunking", text)
}

var offers = [...]string{
	OfferNothing:    "250-customer.bench.example\r\n250-SIZE 0\r\n250 8BITMIME\r\n",
	OfferPipelining: "250-customer.bench.example\r\n250-PIPELINING\r\n250-SIZE 0\r\n250 8BITMIME\r\n",
	OfferChunking:   "250-customer.bench.example\r\n250-PIPELINING\r\n250-CHUNKING\r\n250-SIZE 0\r\n250 8BITMIME\r\n",
}

// ServeOptions say how the SMTP server of a customer works.
type ServeOptions struct {
	Offer   Offer
	Ledger  *letters.Ledger // nil: what arrives is looked at and not kept book of
	Counter *Counter
	// Pace is how long the server takes over each message, before its reply; nil: no time. Replies that are due
	// before it go out with it, as a unit (RFC 2920 3.2): the server writes when it has to read on, and not in between.
	Pace     func() time.Duration
	OnMail   func(first bool) // told of each MAIL; may be nil
	OnLetter func(id uint64)  // told of each message that the Ledger took; may be nil
	Divide   uint64           // >0: order is checked; ids of one customer have the same remainder
	Until    time.Time        // when the customer leaves, as after Leave; zero: it stays until QUIT
}

// server is the state of one session.
type server struct {
	*wire
	o      ServeOptions
	judge  letters.Judge
	lastID map[uint64]uint64 // highest number so far, by remainder
	octets int64
	mails  int
	lmtp   bool
	rcpts  int
	open   bool // MAIL was answered, and its message is not at its end
	quit   bool
}

const ok = "250 2.0.0 ok\r\n"

// serve answers as an SMTP server until QUIT or until it leaves (nil), or the end of the connection (ErrLost).
func (c *wire) serve(o ServeOptions) error {
	if o.Counter == nil {
		o.Counter = new(Counter)
	}
	s := &server{wire: c, o: o}
	if o.Divide > 0 {
		s.lastID = map[uint64]uint64{}
	}
	c.serving.Store(true)
	if !o.Until.IsZero() {
		if err := c.conn.SetReadDeadline(o.Until); err != nil {
			return err
		}
	}
	for !s.quit {
		line, err := s.command()
		if err != nil {
			return err
		}
		if line == nil {
			return s.leave()
		}
		if err := s.obey(line); err != nil {
			return err
		}
	}
	return s.flush()
}

// command waits for the next line; nil means that none is there and the customer is to leave.
func (s *server) command() ([]byte, error) {
	for {
		if line := s.line(); line != nil {
			return line, nil
		}
		if !s.open && s.r == s.w && s.due() {
			return nil, nil
		}
		if err := s.more(); err != nil {
			return nil, err
		}
	}
}

// more writes what is due and reads.
func (s *server) more() error {
	if err := s.flush(); err != nil {
		return err
	}
	if err := s.fill(); err != nil {
		return s.late(err)
	}
	return nil
}

// obey answers one command. Verbs are told apart by their first letters: the other end is known.
func (s *server) obey(line []byte) error {
	if len(line) < 4 {
		return s.strange(line)
	}
	switch string(line[:4]) {
	case "MAIL":
		if s.due() {
			return s.leave()
		}
		s.open = true
		if s.o.OnMail != nil {
			s.o.OnMail(s.mails == 0)
		}
		s.mails++
		s.rcpts = 0
		s.out = append(s.out, ok...)
	case "RCPT":
		s.rcpts++
		s.out = append(s.out, ok...)
	case "BDAT":
		return s.bdat(line)
	case "DATA":
		return s.data()
	case "EHLO", "LHLO", "HELO":
		s.lmtp = line[0] == 'L'
		if line[0] == 'H' {
			s.out = append(s.out, "250 customer.bench.example\r\n"...)
		} else {
			s.out = append(s.out, offers[s.o.Offer]...)
		}
	case "RSET":
		s.open = false
		s.out = append(s.out, ok...)
	case "NOOP":
		s.out = append(s.out, ok...)
	case "QUIT":
		s.out = append(s.out, "221 2.0.0 bye\r\n"...)
		s.quit = true
	default:
		return s.strange(line)
	}
	return nil
}

func (s *server) strange(line []byte) error {
	return fmt.Errorf("the server sent a command that nobody asked for: %q", line[:min(len(line), 80)])
}

// bdat takes one chunk.
func (s *server) bdat(line []byte) error {
	size, last, err := codec.ParseBDAT(line[min(len(line), 5):])
	if err != nil {
		return s.strange(line)
	}
	for size > 0 {
		if s.r == s.w {
			if err := s.more(); err != nil {
				return err
			}
		}
		n := min(int64(s.w-s.r), size)
		s.take(s.in[s.r : s.r+int(n)])
		s.r += int(n)
		size -= n
	}
	if !last {
		s.out = append(s.out, ok...)
		return nil
	}
	return s.end()
}

var crlfDot = []byte("\r\n.")

// data takes the content behind DATA up to the line that is a dot, and undoes dot-stuffing. s.in
// keeps the last octets before a possible line start, so that the pattern is never cut in two.
func (s *server) data() error {
	s.out = append(s.out, "354 go on\r\n"...)
	start := true // at the very start of the content, which is the start of a line
	for {
		b := s.in[s.r:s.w]
		at := 0 // where a dot at a line's start would be
		if !start {
			i := bytes.Index(b, crlfDot)
			if i < 0 { // all but a possible beginning of the pattern is content
				if keep := len(b) - 2; keep > 0 {
					s.take(b[:keep])
					s.r += keep
				}
				if err := s.more(); err != nil {
					return err
				}
				continue
			}
			at = i + 2
		}
		if len(b) < at+3 {
			if start && len(b) > 0 && b[0] != '.' {
				start = false
				continue
			}
			if err := s.more(); err != nil {
				return err
			}
			continue
		}
		switch {
		case start && b[0] != '.':
			start = false
		case b[at+1] == '\r' && b[at+2] == '\n':
			s.take(b[:at])
			s.r += at + 3
			return s.end()
		default: // a stuffed dot
			s.take(b[:at])
			s.r += at + 1
			start = false
		}
	}
}

// take looks at a piece of content.
func (s *server) take(p []byte) {
	s.judge.Write(p)
	s.octets += int64(len(p))
}

// end takes note of a whole message and answers.
func (s *server) end() error {
	if s.o.Ledger != nil {
		if id, ok := s.o.Ledger.Arrived(&s.judge); ok {
			s.order(id)
			if s.o.OnLetter != nil {
				s.o.OnLetter(id)
			}
		}
	}
	s.judge.Reset()
	s.open = false
	if s.o.Pace != nil {
		if wait := s.o.Pace(); wait > 0 {
			time.Sleep(wait)
		}
	}
	s.o.Counter.Octets.Add(s.octets)
	s.o.Counter.Messages.Add(1)
	s.octets = 0
	s.out = append(s.out, ok...)
	for i := 1; s.lmtp && i < s.rcpts; i++ { // RFC 2033 4.2
		s.out = append(s.out, ok...)
	}
	return nil
}

// order checks that numbers of one domain only grow.
func (s *server) order(id uint64) {
	if s.o.Divide == 0 {
		return
	}
	rest := id % s.o.Divide
	if last, seen := s.lastID[rest]; seen && id < last {
		s.o.Ledger.Disordered(id)
		return
	}
	s.lastID[rest] = id
}
