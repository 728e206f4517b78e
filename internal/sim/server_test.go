package sim

import (
	"bytes"
	"fmt"
	"strconv"
	"strings"

	"odmr/codec"
)

// server is the customer's SMTP server, after the turn.
type server struct {
	visit   *visit
	tx      *transaction
	inData  bool
	chunk   int64 // octets of a chunk that are still to come
	inChunk bool
	mails   int
	marks   int
	origin  [codec.NumXAttrs]string // what XFORWARD said
}

// transaction is one message on its way to the customer.
type transaction struct {
	from    string
	size    int64 // announced; -1: not
	rcpts   []*recipient
	content []byte
}

// say replies, and returns where the reply ends.
func (s *server) say(k *call, code int, text string) int64 {
	b := fmt.Appendf(nil, "%d %s\r\n", code, text)
	if k.w.chance(12) {
		b = append(fmt.Appendf(nil, "%d-%s\r\n", code, text), b...)
	}
	k.said += int64(len(b))
	k.unsent = append(k.unsent, b...)
	return k.said
}

// work takes the next command, or a piece of content.
func (s *server) work(k *call) bool {
	in := k.line.down.inbox
	switch {
	case s.inChunk:
		return s.takeChunk(k, in)
	case len(in) == 0:
		return false
	case s.inData:
		return s.takeData(k, in)
	}
	line, rest, ok := bytes.Cut(in, []byte("\r\n"))
	if !ok {
		if len(in) > 4096 {
			k.w.fail(RuleProtocol, "%v: a command line of %d octets", s.visit, len(in))
		}
		return false
	}
	if !k.manner.pipelining && len(rest) > 0 && !bytes.HasPrefix(line, []byte("BDAT")) && !k.manner.liar {
		k.w.fail(RuleProtocol, "%v: %q is followed by %.40q without PIPELINING", s.visit, line, rest)
	}
	command := string(line)
	k.line.down.take(len(line) + 2)
	if k.w.once(k.manner.breaks) {
		k.line.strike(breach(k.w.rng.IntN(int(breaches))))
		return false
	}
	if k.w.once(k.manner.leaves) {
		s.say(k, 421, "4.3.2 going down")
		k.w.meet("a 421")
		k.flush()
		k.line.hangUp()
		k.lost(false)
		return false
	}
	if k.manner.liar && k.w.chance(6) {
		s.lie(k)
		return true
	}
	s.command(k, command)
	if k.w.once(k.manner.breaks) && !k.over {
		k.flush()
		k.line.strike(breach(k.w.rng.IntN(int(breaches))))
	}
	return true
}

// lie says something that no server should.
func (s *server) lie(k *call) {
	k.w.meet("a lie")
	k.unsent = append(k.unsent, []string{
		"250 yes\r\n250 yes\r\n", "354 go on\r\n", "what?\r\n", "250-a\r\n251 b\r\n", "220 hello again\r\n",
		"999 no\r\n", "250 half a line", "\x00\r\n", "550 no\r\n", "250 " + strings.Repeat("x", 5000) + "\r\n",
	}[k.w.rng.IntN(10)]...)
}

// refusal throws the dice; 0: none. about is whom it concerns, nil: everybody in the transaction.
func (s *server) refusal(k *call, about *recipient) (code int, text string) {
	switch {
	case k.w.once(k.manner.refuses):
		s.marks++
		mark := fmt.Sprintf("%d.%d", s.visit.n, s.marks)
		s.visit.refused[mark] = about
		return []int{550, 551, 553, 554}[k.w.rng.IntN(4)], "5.7.1 no #" + mark + "#"
	case k.w.once(k.manner.defers):
		return []int{450, 451, 454}[k.w.rng.IntN(3)], "4.7.1 not now"
	}
	return 0, ""
}

func (s *server) command(k *call, line string) {
	verb, arg, _ := strings.Cut(line, " ")
	switch verb {
	case "EHLO":
		s.hello(k)
	case "HELO":
		s.say(k, 250, "customer.example")
	case "XFORWARD":
		s.xforward(k, arg)
	case "MAIL":
		s.mail(k, arg)
	case "RCPT":
		s.rcpt(k, arg)
	case "DATA":
		s.data(k)
	case "BDAT":
		s.bdat(k, arg)
	case "RSET":
		s.transactionOver(k)
		s.say(k, 250, "2.0.0 ok")
	case "NOOP":
		s.say(k, 250, "2.0.0 ok")
	case "QUIT":
		s.visit.quit = true
		s.say(k, 221, "2.0.0 bye")
		k.flush()
		k.lost(false)
	default:
		if !k.manner.liar {
			k.w.fail(RuleProtocol, "%v: command %q", s.visit, line)
		}
		s.say(k, 500, "5.5.2 what?")
	}
}

func (s *server) hello(k *call) {
	m := &k.manner
	lines := []string{"customer.example"}
	add := func(is bool, text string) {
		if is {
			lines = append(lines, text)
		}
	}
	add(m.pipelining, "PIPELINING")
	add(m.chunking, "CHUNKING")
	add(m.eight, "8BITMIME")
	add(m.utf8, "SMTPUTF8")
	add(m.dsn, "DSN")
	add(m.xforward != 0, "XFORWARD"+m.xforwardOffer())
	add(m.size > 0, "SIZE "+strconv.FormatInt(m.size, 10))
	if m.mailMax > 0 || m.rcptMax > 0 {
		limits := "LIMITS"
		if m.mailMax > 0 {
			limits += fmt.Sprintf(" MAILMAX=%d", m.mailMax)
		}
		if m.rcptMax > 0 {
			limits += fmt.Sprintf(" RCPTMAX=%d", m.rcptMax)
		}
		lines = append(lines, limits)
	}
	var b []byte
	for i, l := range lines {
		sep := "-"
		if i == len(lines)-1 {
			sep = " "
		}
		b = fmt.Appendf(b, "250%s%s\r\n", sep, l)
	}
	k.said += int64(len(b))
	k.unsent = append(k.unsent, b...)
}

func (s *server) mail(k *call, arg string) {
	if s.tx != nil && !k.manner.liar {
		k.w.fail(RuleProtocol, "%v: MAIL within a transaction", s.visit)
	}
	if s.mails++; k.manner.mailMax > 0 && s.mails > k.manner.mailMax && !k.manner.liar {
		k.w.fail(RuleProtocol, "%v: MAIL number %d, MAILMAX is %d", s.visit, s.mails, k.manner.mailMax)
	}
	path, params, _ := strings.Cut(strings.TrimPrefix(arg, "FROM:<"), ">")
	t := &transaction{from: path, size: -1}
	for _, p := range strings.Fields(params) {
		name, value, _ := strings.Cut(p, "=")
		offered := map[string]bool{"SIZE": k.manner.size > 0, "BODY": k.manner.eight, "SMTPUTF8": k.manner.utf8, "RET": k.manner.dsn, "ENVID": k.manner.dsn}
		if !offered[name] && !k.manner.liar {
			k.w.fail(RuleProtocol, "%v: MAIL with %s, which was not offered", s.visit, p)
		}
		if name == "SIZE" {
			t.size, _ = strconv.ParseInt(value, 10, 64)
		}
	}
	if code, text := s.refusal(k, nil); code > 0 {
		s.say(k, code, text)
		return
	}
	s.tx = t
	s.say(k, 250, "2.1.0 ok")
}

func (s *server) rcpt(k *call, arg string) {
	address, _, _ := strings.Cut(strings.TrimPrefix(arg, "TO:<"), ">")
	from := ""
	if s.tx != nil {
		from = s.tx.from
	}
	r := k.c.s.ledger.find(from, address)
	if r == nil && (s.tx == nil || k.manner.liar) && k.c.s.ledger.boxes[address] != nil { // whose letter it is cannot be said
		s.say(k, 503, "5.5.1 MAIL first")
		return
	}
	if r == nil {
		k.w.fail(RuleForeign, "%v: RCPT %q, whom nobody wrote to", s.visit, address)
		return
	}
	k.c.s.ledger.offered(s.visit, r)
	s.checkRcpt(k, r, arg)
	s.checkOrigin(k, r.letter)
	if s.tx == nil {
		s.say(k, 503, "5.5.1 MAIL first")
		return
	}
	if code, text := s.refusal(k, r); code > 0 {
		s.say(k, code, text)
		return
	}
	if s.unknownTo(k, r) {
		s.marks++
		mark := fmt.Sprintf("%d.%d", s.visit.n, s.marks)
		s.visit.refused[mark] = r
		s.say(k, 550, "5.1.1 no such user #"+mark+"#")
		return
	}
	if k.manner.tooMany > 0 && len(s.tx.rcpts) >= k.manner.tooMany {
		s.say(k, 452, "4.5.3 too many recipients")
		k.w.meet("too many recipients")
		return
	}
	s.tx.rcpts = append(s.tx.rcpts, r)
	k.c.s.ledger.tookRecipient(s.visit, r)
	s.say(k, 250, "2.1.5 ok")
}

// checkRcpt compares the parameters with what the MX gave.
func (s *server) checkRcpt(k *call, r *recipient, arg string) {
	want := ""
	if k.manner.dsn {
		want = notifyParameter(r.notify)
		if r.orcpt != "" {
			want += " ORCPT=" + r.orcpt
		}
	}
	if _, have, _ := strings.Cut(arg, ">"); have != want && !k.manner.liar {
		k.w.fail(RuleEnvelope, "%v: RCPT for %v with %q, not %q", s.visit, r, have, want)
	}
}

func (s *server) data(k *call) {
	if s.tx == nil || len(s.tx.rcpts) == 0 && !k.manner.goesOn {
		s.say(k, 503, "5.5.1 no valid recipients")
		s.transactionOver(k)
		return
	}
	if code, text := s.refusal(k, nil); code > 0 && len(s.tx.rcpts) > 0 {
		s.transactionOver(k)
		s.say(k, code, text)
		return
	}
	s.inData = true
	s.say(k, 354, "go on")
}

func (s *server) takeData(k *call, in []byte) bool {
	if k.manner.sip > 0 && len(in) > k.manner.sip {
		in = in[:k.manner.sip]
	}
	n := 0
	for {
		line, _, ok := bytes.Cut(in[n:], []byte("\r\n"))
		if !ok {
			break
		}
		n += len(line) + 2
		if len(line) == 1 && line[0] == '.' {
			s.inData = false
			break
		}
		if len(line) > 0 && line[0] == '.' {
			line = line[1:]
		}
		s.tx.content = append(append(s.tx.content, line...), "\r\n"...)
	}
	if n == 0 {
		if k.manner.sip > 0 && len(k.line.down.inbox) > len(in) {
			k.manner.sip *= 2
			return true
		}
		return false
	}
	k.line.down.take(n)
	if s.inData {
		if k.manner.sip > 0 {
			k.wake(k.w.within(20e9))
			return false
		}
		return true
	}
	s.finish(k)
	return true
}

func (s *server) bdat(k *call, arg string) {
	size, last, _ := strings.Cut(arg, " ")
	n, err := strconv.ParseInt(size, 10, 64)
	if (err != nil || last != "LAST" || !k.manner.chunking) && !k.manner.liar {
		k.w.fail(RuleProtocol, "%v: BDAT %q", s.visit, arg)
	}
	s.inChunk, s.chunk = true, n
}

func (s *server) takeChunk(k *call, in []byte) bool {
	n := int(min(s.chunk, int64(len(in))))
	if n == 0 && s.chunk > 0 {
		return false
	}
	if s.tx != nil {
		s.tx.content = append(s.tx.content, in[:n]...)
	}
	s.chunk -= int64(n)
	k.line.down.take(n)
	if s.chunk > 0 {
		return true
	}
	s.inChunk = false
	if s.tx == nil || len(s.tx.rcpts) == 0 {
		s.transactionOver(k)
		s.say(k, 503, "5.5.1 no valid recipients")
		return true
	}
	s.finish(k)
	return true
}

// finish gives the final reply: or the line breaks just before it.
func (s *server) finish(k *call) {
	t := s.tx
	s.transactionOver(k)
	l := k.c.s.ledger
	if len(t.rcpts) == 0 { // a lone dot
		s.say(k, 554, "5.5.1 no valid recipients")
		return
	}
	if k.w.once(k.manner.breaks) {
		l.received(s.visit, t, 0, 0)
		k.line.strike(breach(k.w.rng.IntN(int(breaches))))
		return
	}
	code, text := s.refusal(k, nil)
	if code == 0 {
		code, text = 250, "2.0.0 taken"
	}
	ends := s.say(k, code, text)
	k.w.trace("%v answers %v with %d", s.visit, t.rcpts[0], code)
	l.received(s.visit, t, code, ends)
}
