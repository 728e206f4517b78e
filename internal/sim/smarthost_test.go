package sim

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"sync/atomic"
	"time"

	"odmr/codec"
	"odmr/internal/mail"
)

// smarthost is the server that takes the reports for the outside, in whatever mood it is. It is the other end of
// package outbound's connections: what is written to one is answered at once, on the same goroutine.
type smarthost struct {
	h     *host
	w     *world
	mood  mood
	until int64 // when its mood changes
	offer []string
	now   *smartSession // nil: none is open
	last  *handover     // the latest
}

// mood is how the smarthost is for a while.
type mood uint8

const (
	moodGood    mood = iota
	moodFickle       // anything at any moment
	moodDown         // nobody listens
	moodBusy         // 421 for a greeting
	moodLogin        // the login is wrong
	moodLater        // nobody can log in now
	moodNoMail       // it takes no mail now
	moodNobody       // nor ever from us
	moodNoRelay      // not for other domains
	moodPolicy       // nor anything, it says, in words that may mean us or the recipient
	moodGrey         // no recipient yet
	moods
)

var moodNames = [...]string{"good", "fickle", "down", "busy", "wrong login", "login later", "no mail now", "no mail ever", "no relay", "policy", "grey"}

func (m mood) String() string { return moodNames[m] }

// wake has the smarthost be in another mood now and then; in calm weather it is good.
func (m *smarthost) wake() {
	switch {
	case m.h.s.calm:
		m.mood, m.offer = moodGood, []string{"8BITMIME", "SIZE 10000000", "SMTPUTF8", "DSN", "AUTH PLAIN"}
	case m.w.now >= m.until:
		m.mood = moodGood
		if !m.w.chance(3) {
			if m.mood = mood(m.w.rng.IntN(int(moods))); m.w.chance(3) {
				m.mood = moodFickle
			}
		}
		m.until = m.w.now + int64(m.w.within([]time.Duration{time.Minute, time.Hour, 12 * time.Hour, 4 * 24 * time.Hour}[m.w.rng.IntN(4)]))
		m.offer = []string{"AUTH PLAIN"}
		for _, x := range []string{"8BITMIME", "SIZE 10000000", "SMTPUTF8", "DSN"} {
			if !m.w.chance(3) {
				m.offer = append(m.offer, x)
			}
		}
		m.w.trace("smarthost: %v", m.mood)
		m.w.meet("a smarthost: " + m.mood.String())
	}
}

// dial is how package outbound reaches it.
func (m *smarthost) dial(context.Context, string, string) (net.Conn, error) {
	m.wake()
	m.h.sending.dialled()
	if m.mood == moodDown || m.mood == moodFickle && m.w.chance(8) {
		m.h.sending.failed("nobody listens")
		return nil, errors.New("connection refused")
	}
	m.now = &smartSession{m: m, w: m.w}
	if m.now.broken("the greeting") {
		return m.now, nil
	}
	if m.mood == moodBusy {
		m.h.sending.failed("421")
		m.now.leave()
	} else {
		m.now.say(220, "smart.example")
	}
	return m.now, nil
}

// handover is one report on its way to the smarthost, and what is to be recorded of it.
type handover struct {
	to   string
	want mail.OutcomeStatus
	// doubt: all of it came, and no reply was said. begun: it was the report, or its recipient, and not the server, that failed.
	doubt, begun bool
	content      []byte
	reply        string // that was said of it last
}

// smartSession is a connection to the smarthost.
type smartSession struct {
	m      *smarthost
	w      *world
	in     []byte
	out    []byte
	dead   error // of the line
	closed atomic.Bool
	hand   *handover // nil: outside of a transaction
	inData bool
	up     bool // the login is through
	un     codec.Unstuffer
}

// Read implements net.Conn.
func (s *smartSession) Read(b []byte) (int, error) {
	switch {
	case len(s.out) > 0:
		n := copy(b, s.out)
		s.out = s.out[n:]
		return n, nil
	case s.dead != nil:
		return 0, s.dead
	}
	s.w.fail(RuleProtocol, "a reply of the smarthost's is waited for, and none is due")
	return 0, os.ErrDeadlineExceeded
}

// Write implements net.Conn.
func (s *smartSession) Write(b []byte) (int, error) {
	if s.dead != nil || s.m.h.sending.dying {
		return 0, errors.New("broken pipe")
	}
	s.in = append(s.in, b...)
	for s.dead == nil {
		line, rest, ok := bytes.Cut(s.in, []byte("\r\n"))
		if !ok {
			break
		}
		s.in = rest
		if s.inData {
			s.content(line)
		} else {
			s.command(string(line))
		}
	}
	return len(b), nil
}

// Close implements net.Conn. It may be called late, by a stop.
func (s *smartSession) Close() error { s.closed.Store(true); return nil }

func (s *smartSession) LocalAddr() net.Addr              { return &net.TCPAddr{} }
func (s *smartSession) RemoteAddr() net.Addr             { return &net.TCPAddr{} }
func (s *smartSession) SetDeadline(time.Time) error      { return nil }
func (s *smartSession) SetReadDeadline(time.Time) error  { return nil }
func (s *smartSession) SetWriteDeadline(time.Time) error { return nil }

func (s *smartSession) say(code int, text string) {
	s.out = fmt.Appendf(s.out, "%d %s\r\n", code, text)
}

// leave says that the smarthost has no time, and goes.
func (s *smartSession) leave() {
	s.say(421, "4.3.2 not now")
	s.dead = io.EOF
}

// broken says whether the line breaks instead of a reply, or in the middle of it; or the server dies that waits for it.
func (s *smartSession) broken(reply string) bool {
	if s.m.h.s.calm {
		return false
	}
	switch sending := s.m.h.sending; {
	case s.w.chance(150):
		s.w.meet("a crash while a report goes out")
		sending.dying = true
		s.dead = io.EOF
		return true
	case s.w.chance(100):
		s.w.meet("a stop while a report goes out")
		sending.cancel()
	}
	if s.m.mood != moodFickle && !s.w.chance(80) || !s.w.chance(10) {
		return false
	}
	s.w.trace("smarthost: the line breaks before %s", reply)
	s.w.meet("a line to the smarthost broken")
	s.dead = []error{io.EOF, errors.New("connection reset by peer"), os.ErrDeadlineExceeded}[s.w.rng.IntN(3)]
	if s.w.chance(3) {
		s.out = append(s.out, "250 2.0."[:s.w.between(1, 3)]...)
	}
	switch {
	case !s.up:
		s.m.h.sending.failed("the line broke")
	case s.hand != nil: // the report waits, and the others go on over another line
		s.hand.begun = true
	}
	return true
}

// command takes one command.
func (s *smartSession) command(line string) {
	verb, arg, _ := strings.Cut(line, " ")
	switch {
	case verb == "MAIL":
		s.mail(arg)
	case verb == "RCPT":
		s.rcpt(arg)
	case verb == "DATA":
		s.data()
	case s.broken("the reply to " + verb):
	case verb == "EHLO":
		s.out = append(s.out, "250-smart.example\r\n"...)
		for i, x := range s.m.offer {
			s.out = fmt.Appendf(s.out, "250%c%s\r\n", map[bool]byte{true: ' ', false: '-'}[i == len(s.m.offer)-1], x)
		}
	case verb == "AUTH" && s.m.mood == moodLogin:
		s.m.h.sending.failed("the login is wrong")
		s.say(535, "5.7.8 wrong password")
	case verb == "AUTH" && s.m.mood == moodLater:
		s.m.h.sending.failed("no login now")
		s.say(454, "4.7.0 not now")
	case verb == "AUTH":
		s.up = true
		s.say(235, "2.7.0 welcome")
	case verb == "*": // RFC 4954 4
		s.say(501, "5.0.0 as you like")
	case verb == "RSET":
		s.hand = nil
		s.say(250, "2.0.0 ok")
	case verb == "QUIT":
		s.say(221, "2.0.0 bye")
		s.dead = io.EOF
	default:
		s.w.fail(RuleProtocol, "the smarthost was told %q", line)
		s.say(500, "5.5.1 what?")
	}
}

// mail begins a transaction: a report has no sender.
func (s *smartSession) mail(arg string) {
	s.hand = &handover{want: mail.OutcomeDeferred}
	s.m.last = s.hand
	if arg != "FROM:<>" && !strings.HasPrefix(arg, "FROM:<> ") {
		s.w.fail(RuleReport, "a report has a sender: MAIL %s", arg)
	}
	switch {
	case s.broken("the reply to MAIL"):
	case s.m.mood == moodNoMail:
		s.m.h.sending.failed("no mail now")
		s.say(451, "4.3.0 not now")
	case s.m.mood == moodNobody:
		s.m.h.sending.failed("no mail ever")
		s.say(550, "5.7.1 go away")
	case s.fickle(10):
		s.m.h.sending.failed("421")
		s.leave()
	case s.fickle(20):
		s.refuse("552 5.3.4 too large")
	default:
		s.say(250, "2.1.0 ok")
	}
}

// fickle is once in n times true, in such a mood.
func (s *smartSession) fickle(n int) bool { return s.m.mood == moodFickle && s.w.chance(n) }

// refuse refuses the report for good.
func (s *smartSession) refuse(reply string) {
	s.hand.want, s.hand.reply = mail.OutcomeFailed, reply
	s.out = append(s.out, reply+"\r\n"...)
}

// postpone refuses it for now, or in a way that must be taken so.
func (s *smartSession) postpone(reply string) {
	s.hand.begun, s.hand.reply = true, reply
	s.out = append(s.out, reply+"\r\n"...)
}

// rcpt takes the recipient.
func (s *smartSession) rcpt(arg string) {
	s.hand.to, _, _ = strings.Cut(strings.TrimPrefix(arg, "TO:<"), ">")
	s.m.h.sending.tries(s.hand.to)
	switch {
	case s.broken("the reply to RCPT"):
	case s.m.mood == moodNoRelay:
		s.postpone([]string{"554 5.7.1 Relay access denied", "550 relay not permitted"}[s.w.rng.IntN(2)])
	case s.m.mood == moodPolicy || s.fickle(12):
		reply := []string{"550 5.7.1 rejected by policy", "550 rejected"}[s.w.rng.IntN(2)]
		if s.m.h.sending.proven() { // it is the recipient, then
			s.refuse(reply)
		} else {
			s.postpone(reply)
		}
	case s.m.mood == moodGrey || s.fickle(5):
		s.postpone("450 4.2.0 come again")
	case s.fickle(30):
		s.m.h.sending.failed("a login is asked for")
		s.say(530, "5.7.0 log in first")
	case s.fickle(8):
		s.refuse("550 5.1.1 no such user")
	default:
		s.say(250, "2.1.5 ok")
	}
}

// data begins the content.
func (s *smartSession) data() {
	switch {
	case s.broken("the reply to DATA"):
	case s.fickle(20):
		s.hand.begun = true
		s.leave()
	case s.fickle(20):
		s.postpone("451 4.3.0 not now")
	case s.fickle(20):
		s.refuse("554 5.6.0 no")
	default:
		s.inData, s.un = true, codec.Unstuffer{}
		s.say(354, "go on")
	}
}

// content takes a line of it, or its end.
func (s *smartSession) content(line []byte) {
	if s.m.mood == moodFickle && s.w.chance(400) {
		s.hand.begun = true
		s.w.meet("a line to the smarthost broken within a report")
		s.dead = errors.New("connection reset by peer")
		return
	}
	if string(line) != "." {
		s.hand.content = s.un.Append(s.hand.content, append(bytes.Clone(line), "\r\n"...))
		return
	}
	s.inData = false
	switch {
	case s.broken("the reply to the final dot"):
		s.hand.doubt = true
		if s.w.chance(2) { // it was taken all the same
			s.m.h.ledger.reportTaken(s.hand)
		}
	case s.fickle(10):
		s.postpone("451 4.3.0 not now")
	case s.fickle(15):
		s.refuse("554 5.6.0 no")
	default:
		s.m.h.ledger.reportTaken(s.hand)
		s.hand.want = mail.OutcomeDelivered
		s.say(250, "2.0.0 taken")
	}
	s.hand = nil
}
