package client

import (
	"bytes"
	"fmt"
	"strings"
)

// answering is a reply on its way out.
type answering struct {
	text string // lines separated by "\n", each with its code
	cut  Cut
}

func (a answering) positive() bool { return strings.HasPrefix(a.text, "2") }

// consult asks the Hook what to answer, waits if it says so, and cuts if it says so.
func (s *server) consult(ev Event, usual string) (answering, error) {
	a := answering{text: usual}
	if s.hook == nil {
		return a, nil
	}
	r := s.hook(ev)
	if r.Delay > 0 {
		// What is due to the peer already must not wait with it.
		if err := s.flush(); err != nil {
			return a, err
		}
		if err := s.sleep(r.Delay); err != nil {
			return a, err
		}
	}
	if r.Cut == CutBefore {
		_ = s.flush()
		return a, fmt.Errorf("%w before the answer at %v", errCut, ev.Point)
	}
	if r.Cut == CutReset {
		s.reset()
		return a, fmt.Errorf("%w by a reset at %v", errCut, ev.Point)
	}
	if r.Reply != "" {
		a.text = r.Reply
	}
	a.cut = r.Cut
	return a, nil
}

// finish writes a reply and cuts the line behind it if the Hook said so.
func (s *server) finish(a answering) error {
	if err := s.say(a.text); err != nil {
		return err
	}
	if a.cut != CutAfter {
		return nil
	}
	if err := s.flush(); err != nil {
		return err
	}
	return fmt.Errorf("%w after %.40q", errCut, a.text)
}

// answer is consult and finish for commands that change nothing.
func (s *server) answer(ev Event, usual string) error {
	a, err := s.consult(ev, usual)
	if err != nil {
		return err
	}
	return s.finish(a)
}

// say queues a reply of one or more lines, the hyphens of all but the last put in.
func (s *server) say(text string) error {
	for {
		line, rest, more := strings.Cut(text, "\n")
		if more && len(line) > 3 {
			line = line[:3] + "-" + line[4:]
		}
		if err := s.writeLine(line); err != nil {
			return err
		}
		if !more {
			return nil
		}
		text = rest
	}
}

func (s *server) breach(format string, args ...any) {
	if len(s.stats.Breaches) < maxBreaches {
		s.stats.Breaches = append(s.stats.Breaches, fmt.Sprintf(format, args...))
	}
}

// alone notes a breach if the peer went on without waiting for the answer to a command
// that ends a pipelined group.
func (s *server) alone(p Point) {
	if s.pending() {
		s.breach("octets behind %v before its reply", p)
	}
}

// lockstep notes a breach if the peer pipelines without being allowed to. BDAT's own octets
// follow at once, so behind it nothing can be said.
func (s *server) lockstep(p Point) {
	if p != AtBDAT && !s.offered().Pipelining && s.pending() {
		s.breach("octets behind %v though PIPELINING was not offered", p)
	}
}

// put passes content on, unless the message is lost already.
func (s *server) put(b []byte) {
	tx := s.tx
	tx.octets += int64(len(b))
	if tx.failure != nil || len(b) == 0 {
		return
	}
	if s.offer.Size > 0 && tx.octets > s.offer.Size {
		tx.failure = tooBig()
		return
	}
	if _, err := tx.sink.Write(b); err != nil {
		tx.failure = err
	}
}

// atBody lets the Hook see the content pass by.
func (s *server) atBody() error {
	if s.hook == nil {
		return nil
	}
	a, err := s.consult(Event{Point: AtBody, Transaction: s.transactions, Octets: s.tx.octets}, "")
	if err == nil && a.cut == CutAfter {
		err = fmt.Errorf("%w inside the body", errCut)
	}
	return err
}

// takeChunk takes the n octets of a BDAT.
func (s *server) takeChunk(n int64) error {
	s.note(Peer, "%d octets of content", n)
	for left := n; left > 0; {
		b, err := s.window()
		if err != nil {
			return err
		}
		if int64(len(b)) > left {
			b = b[:left]
		}
		s.put(b)
		left -= int64(len(b))
		s.discard(len(b))
		if err := s.atBody(); err != nil {
			return err
		}
	}
	return nil
}

// takeDotted takes the content behind 354 up to the lone dot, undoing the dot-stuffing
// (RFC 5321 4.5.2).
func (s *server) takeDotted() error {
	var d dotReader
	before := s.tx.octets
	for !d.done() {
		b, err := s.window()
		if err != nil {
			return err
		}
		n := d.feed(b, s.put)
		s.discard(n)
		if err := s.atBody(); err != nil {
			return err
		}
	}
	s.note(Peer, "%d octets of content", s.tx.octets-before)
	if s.transcript != nil {
		s.transcript(Peer, ".")
	}
	return nil
}

// dotState is what the octets so far end with.
type dotState uint8

const (
	atLineStart dotState = iota // start of the content, or CRLF
	inLine
	afterCR
	afterDot   // a dot at the start of a line, held back
	afterDotCR // the same and CR, both held back
	dotDone    // CRLF.CRLF
)

// dotReader undoes dot-stuffing over any cutting of the input. Only CRLF ends a line, so only
// CRLF.CRLF ends the content.
type dotReader struct{ state dotState }

func (d *dotReader) done() bool { return d.state == dotDone }

var (
	crlfDot = []byte("\r\n.")
	loneCR  = []byte("\r")
)

// feed consumes b up to the end of the content, gives what is content to put (in pieces
// that alias b) and returns how many octets were consumed.
func (d *dotReader) feed(b []byte, put func([]byte)) (n int) {
	for n < len(b) && d.state != dotDone {
		c := b[n]
		switch d.state {
		case atLineStart:
			if c == '.' {
				d.state = afterDot
				n++
				continue
			}
			n += d.run(b[n:], put)
		case inLine, afterCR:
			n += d.run(b[n:], put)
		case afterDot:
			if c == '\r' {
				d.state = afterDotCR
				n++
				continue
			}
			n += d.run(b[n:], put) // the stuffed dot itself is dropped
		case afterDotCR:
			if c == '\n' {
				d.state = dotDone
				n++
				continue
			}
			put(loneCR)
			d.state = afterCR
		}
	}
	return n
}

// run passes on at least one octet of b, up to and including the next CRLF that a dot follows.
func (d *dotReader) run(b []byte, put func([]byte)) (n int) {
	n, d.state = lineRun(b, d.state)
	put(b[:n])
	return n
}

// lineRun finds the longest start of b, which is not empty, in which no line after the first begins
// with a dot, and the state (atLineStart, inLine or afterCR) that it leaves. state is what went before.
func lineRun(b []byte, state dotState) (n int, next dotState) {
	n = len(b)
	if state == afterCR && b[0] == '\n' {
		n = 1
	} else if i := bytes.Index(b, crlfDot); i >= 0 {
		n = i + 2
	}
	switch {
	case b[n-1] == '\n' && (n >= 2 && b[n-2] == '\r' || n == 1 && state == afterCR):
		return n, atLineStart
	case b[n-1] == '\r':
		return n, afterCR
	}
	return n, inLine
}
