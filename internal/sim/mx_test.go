package sim

import (
	"bytes"
	"fmt"
	"strconv"

	"odmr/codec"
	"odmr/internal/mail"
)

// mx hands letters in, one session after another, until it has none left.
type mx struct {
	s    *Sim
	w    *world
	left int // letters to be written
}

// delivery is one session of an MX.
type delivery struct {
	m         *mx
	w         *world
	line      *line
	lmtp      bool
	pipelined bool
	chunked   bool
	ahead     bool // goes on with the next letter before the last is answered
	forwards  bool // says by XFORWARD whom it has letters from
	unsent    []byte
	written   int64 // octets that went into the line
	over      bool
	quit      bool

	plan   []step // what is still to be said, of one letter
	due    []step // what was said and not answered
	budget int    // letters in this session
}

// attempt is the handing in of one letter.
type attempt struct {
	letter  *letter
	finals  []*recipient // that were taken
	replies int          // final ones seen
}

// step is one command, or a piece of content, and the reply that is due for it.
type step struct {
	kind   stepKind
	of     *attempt // nil: it belongs to no letter
	octets []byte
	rcpt   *recipient
	wait   bool // nothing is said behind it before it is answered
}

type stepKind uint8

const (
	stepGreeting stepKind = iota
	stepHello
	stepForward
	stepMail
	stepRcpt
	stepForeign
	stepData
	stepChunk
	stepFinal
	stepReset
	stepQuit
)

// reset ends a transaction that has come to nothing, lest the next letter become a part of it.
var reset = []step{{kind: stepReset, octets: []byte("RSET\r\n")}}

// next begins the MX's next session after a while.
func (m *mx) next() {
	if m.left == 0 {
		return
	}
	m.w.after(m.w.within(m.s.pace), func() {
		d := &delivery{m: m, w: m.w, lmtp: m.w.chance(3), pipelined: m.w.chance(2), chunked: m.w.chance(3), budget: m.w.between(1, 6)}
		d.ahead, d.forwards = d.pipelined && !m.w.chance(3), m.w.chance(2)
		if d.ahead {
			d.budget = m.w.between(2, 20)
		}
		r := roleSMTP
		if d.lmtp {
			r = roleLMTP
		}
		if d.line = m.s.host.dial(r, d); d.line == nil {
			m.next()
			return
		}
		switch m.w.rng.IntN(8) {
		case 0:
			d.line.breakAt(&d.line.up, m.w.rng.Int64N(1<<m.w.between(6, 14)), breach(m.w.rng.IntN(int(breaches))))
		case 1:
			d.line.breakAt(&d.line.down, m.w.rng.Int64N(1<<m.w.between(5, 11)), breach(m.w.rng.IntN(int(breaches))))
		}
		d.due = []step{{kind: stepGreeting}}
	})
}

// lost implements party.
func (d *delivery) lost(bool) {
	if !d.over {
		d.over = true
		d.w.trace("MX %v ends", d.line)
		d.line.hangUp()
		d.m.next()
	}
}

// room implements party.
func (d *delivery) room() { d.flush() }

func (d *delivery) flush() {
	if d.over {
		return
	}
	n := d.line.up.write(d.unsent)
	d.written += int64(n)
	d.unsent = d.unsent[n:]
}

// arrived implements party.
func (d *delivery) arrived() {
	for !d.over {
		rep, n, err := codec.NextReply(d.line.down.inbox, mail.MaxReplyLine, mail.MaxReplyLines)
		if err != nil {
			d.w.fail(RuleProtocol, "reply to an MX: %v: %q", err, d.line.down.inbox)
			return
		}
		if n == 0 {
			break
		}
		code := rep.Code
		d.line.down.take(n)
		if len(d.due) == 0 && code != 421 {
			d.w.fail(RuleProtocol, "reply %d to an MX that said nothing", code)
			return
		}
		d.answer(code)
		d.speak()
	}
}

// answer takes one reply.
func (d *delivery) answer(code int) {
	if code == 421 {
		d.lost(false)
		return
	}
	s := d.due[0]
	if s.kind != stepFinal || !d.lmtp || s.of.replies+1 >= len(s.of.finals) {
		d.due = d.due[1:]
	}
	switch s.kind {
	case stepGreeting:
		hello := "EHLO mx.far.example\r\n"
		if d.lmtp {
			hello = "LHLO mx.far.example\r\n"
		}
		d.plan = []step{{kind: stepHello, octets: []byte(hello), wait: true}}
	case stepMail:
		if code >= 400 {
			d.w.meet(fmt.Sprintf("MAIL answered %d", code))
		}
	case stepRcpt:
		if code < 300 {
			s.rcpt.mayTake = true
			s.of.finals = append(s.of.finals, s.rcpt)
		}
	case stepForeign:
		if code < 400 {
			d.w.fail(RuleForeign, "mail for a domain of nobody was answered %d", code)
		}
	case stepData:
		if code != 354 {
			s.of.letter.refused = true
			d.plan = reset // it is of this letter: behind DATA nothing is said
		}
	case stepChunk:
		if code >= 400 {
			s.of.letter.refused = true
		}
	case stepForward:
		if code != 250 {
			d.w.fail(RuleProtocol, "XFORWARD was answered %d", code)
		}
	case stepFinal:
		d.final(s.of, code)
	case stepQuit:
		d.lost(false)
	}
}

// final takes a final reply: over LMTP one for each recipient that was taken (RFC 2033 4.2).
func (d *delivery) final(a *attempt, code int) {
	l := a.letter
	a.replies++
	ours := a.finals
	if d.lmtp && len(a.finals) > 0 {
		ours = a.finals[a.replies-1 : a.replies]
	}
	d.w.trace("%v is answered %d", l, code)
	d.w.meet(fmt.Sprintf("a letter answered %d", code))
	for _, r := range ours {
		r.acked = code < 300
	}
	if code >= 400 && (!d.lmtp || a.replies == 1) {
		l.refused = true
		if !d.ahead {
			d.plan = reset // it may not be over
		}
	}
	if code < 300 {
		l.refused = false
	}
}

// speak says what may be said now.
func (d *delivery) speak() {
	if d.over {
		return
	}
	for {
		if len(d.due) > 0 && (!d.pipelined || d.due[len(d.due)-1].wait) {
			break
		}
		if len(d.plan) == 0 && (len(d.due) > 0 && !d.ahead || d.quit || !d.begin()) {
			break
		}
		s := d.plan[0]
		if s.kind >= stepData && s.kind <= stepFinal && len(s.of.finals) == 0 && (d.lmtp || d.ahead && !d.blind()) { // nobody would take it
			s.of.letter.refused = true
			d.plan = reset
			continue
		}
		if s.kind == stepFinal {
			s.of.letter.line, s.of.letter.ends = d.line, d.written+int64(len(d.unsent)+len(s.octets))
		}
		d.plan = d.plan[1:]
		d.unsent = append(d.unsent, s.octets...)
		d.due = append(d.due, s)
	}
	d.flush()
}

// blind says whether it says all of a letter without looking at any reply (RFC 2920, RFC 3030).
func (d *delivery) blind() bool { return d.ahead && d.chunked && !d.lmtp }

// begin plans the next letter, or QUIT.
func (d *delivery) begin() bool {
	if d.budget == 0 || d.m.left == 0 {
		d.quit = true
		d.plan = []step{{kind: stepQuit, octets: []byte("QUIT\r\n"), wait: true}}
		return true
	}
	d.budget--
	d.m.left--
	l := d.m.s.newLetter()
	a := &attempt{letter: l}
	if d.blind() { // it does not know what became of the one before
		d.plan = append(d.plan, reset...)
	}
	if d.forwards && d.w.chance(2) {
		l.origin = d.w.newOrigin(l.n)
		d.plan = append(d.plan, step{kind: stepForward, octets: forwardCommand(l.origin)})
	}
	d.plan = append(d.plan, step{kind: stepMail, octets: mailCommand(l)})
	for _, r := range l.rcpts {
		d.plan = append(d.plan, step{kind: stepRcpt, octets: rcptCommand(r), rcpt: r})
	}
	if d.w.chance(10) {
		d.plan = append(d.plan, step{kind: stepForeign, octets: []byte("RCPT TO:<x@nobody.example>\r\n")})
	}
	d.plan[len(d.plan)-1].wait = d.lmtp || d.ahead && !d.blind() || !d.ahead && d.w.chance(2) // over LMTP it must know how many replies to wait for
	switch {
	case d.w.chance(15):
		d.plan = append(d.plan, step{kind: stepReset, octets: []byte("RSET\r\n")})
	case d.chunked:
		d.planChunks(l)
	default:
		var st codec.Stuffer
		wire := append(st.Append(nil, l.content), ".\r\n"...)
		d.plan = append(d.plan, step{kind: stepData, octets: []byte("DATA\r\n"), wait: true}, step{kind: stepFinal, octets: wire, wait: !d.ahead})
	}
	for i := range d.plan {
		d.plan[i].of = a
	}
	return true
}

// planChunks cuts the content into chunks (RFC 3030).
func (d *delivery) planChunks(l *letter) {
	rest := l.content
	for range d.w.rng.IntN(3) {
		n := d.w.rng.IntN(len(rest) + 1)
		d.plan = append(d.plan, step{kind: stepChunk, octets: append(fmt.Appendf(nil, "BDAT %d\r\n", n), rest[:n]...)})
		rest = rest[n:]
	}
	d.plan = append(d.plan, step{kind: stepFinal, octets: append(fmt.Appendf(nil, "BDAT %d LAST\r\n", len(rest)), rest...), wait: !d.ahead})
}

func mailCommand(l *letter) []byte {
	b := fmt.Appendf(nil, "MAIL FROM:<%s>", l.from)
	if l.n%2 == 0 {
		b = append(b, " SIZE="...)
		b = strconv.AppendInt(b, int64(len(l.content)), 10)
	}
	if l.eight || bytes.ContainsFunc(l.content, func(r rune) bool { return r > 127 }) {
		b = append(b, " BODY=8BITMIME"...)
	}
	if l.utf8 {
		b = append(b, " SMTPUTF8"...)
	}
	switch l.ret {
	case mail.ReturnFull:
		b = append(b, " RET=FULL"...)
	case mail.ReturnHeaders:
		b = append(b, " RET=HDRS"...)
	}
	if l.envid != "" {
		b = append(append(b, " ENVID="...), l.envid...)
	}
	return append(b, "\r\n"...)
}

func rcptCommand(r *recipient) []byte {
	b := fmt.Appendf(nil, "RCPT TO:<%s>%s", r.address, notifyParameter(r.notify))
	if r.orcpt != "" {
		b = append(append(b, " ORCPT="...), r.orcpt...)
	}
	return append(b, "\r\n"...)
}

func notifyParameter(n mail.Notify) string {
	switch n {
	case mail.NotifyNever:
		return " NOTIFY=NEVER"
	case mail.NotifySuccess:
		return " NOTIFY=SUCCESS"
	case mail.NotifyFailure | mail.NotifyDelay:
		return " NOTIFY=FAILURE,DELAY"
	case mail.NotifySuccess | mail.NotifyFailure | mail.NotifyDelay:
		return " NOTIFY=SUCCESS,FAILURE,DELAY"
	}
	return ""
}
