package session

import (
	"bytes"
	"fmt"
	"math/rand"
	"strconv"
	"strings"
)

// reversedPeer is a customer's server on paper: it reads what the machine writes, decides by dice and
// remembers what it decided. It complains about every breach of RFC 5321, 2920 and 3030 by its client.
type reversedPeer struct {
	rng  *rand.Rand
	fail func(format string, args ...any)

	// What kind of server it is.
	pipelining, chunking, dsn, eightBit, utf8 bool
	size                                      int64
	mailMax, rcptMax                          int  // announced by LIMITS; 0: not
	tooMany                                   int  // recipients taken at a time, not announced; 0: any
	keepsOpen                                 bool // a refused BDAT LAST leaves the transaction open
	goesOn                                    bool // DATA without recipients is answered 354
	refusals, hangups                         float64
	xforward, forgets, distrusts              bool   // offers XFORWARD; forgets it with the transaction; refuses it
	client                                    string // what XFORWARD said last

	in      []byte
	out     []byte
	sent    int // octets of replies made so far
	closed  bool
	quit    bool
	mails   int
	tx      *peerTx   // open transaction
	last    *peerTx   // the one that the client means
	done    []*peerTx // all, in order
	data    bool      // a body with dots is coming
	chunk   int64     // octets of a chunk to come, -1: none
	content []byte
	starts  []string // reverse-paths of all MAIL commands
}

// peerTx is one transaction as the client means it: a MAIL command and what follows.
type peerTx struct {
	from     string
	client   string // XFORWARD's NAME in effect
	mailCode int
	rcpts    []string
	codes    []int
	excess   []bool
	final    int // code of the last reply; 0: none
	body     []byte
	taken    []string // recipients that the final 2xx is for
	mailAt   int      // sent, once MAIL was answered
	codesAt  []int    // and each RCPT
	at       int      // and the last command
}

func newReversedPeer(rng *rand.Rand) *reversedPeer {
	p := &reversedPeer{rng: rng, chunk: -1}
	p.pipelining = rng.Intn(4) > 0
	p.chunking = rng.Intn(2) > 0
	p.dsn, p.eightBit, p.utf8 = rng.Intn(2) > 0, rng.Intn(2) > 0, rng.Intn(2) > 0
	p.xforward, p.forgets, p.distrusts = rng.Intn(2) == 0, rng.Intn(2) == 0, rng.Intn(4) == 0
	p.size = []int64{-1, 0, 900, 1 << 20}[rng.Intn(4)]
	p.mailMax = max(0, rng.Intn(60)-40)
	p.rcptMax = max(0, rng.Intn(8)-5)
	p.tooMany = max(0, rng.Intn(8)-5)
	p.keepsOpen, p.goesOn = rng.Intn(3) == 0, rng.Intn(2) == 0
	p.refusals = []float64{0, 0, 0.02, 0.2, 0.6}[rng.Intn(5)]
	p.hangups = []float64{0, 0, 0, 0.01, 0.05}[rng.Intn(5)]
	p.say(220, "mx ESMTP")
	return p
}

func (p *reversedPeer) say(code int, text string) {
	start := len(p.out)
	for p.rng.Intn(8) == 0 {
		p.out = fmt.Appendf(p.out, "%d-%s\r\n", code, text)
	}
	p.out = fmt.Appendf(p.out, "%d %s\r\n", code, text)
	p.sent += len(p.out) - start
}

// refuse decides whether to refuse, and with what.
func (p *reversedPeer) refuse(codes ...int) int {
	if p.rng.Float64() < p.refusals {
		return codes[p.rng.Intn(len(codes))]
	}
	return 0
}

// work takes the next command or piece of a body; false if there is none whole.
func (p *reversedPeer) work() bool {
	switch {
	case p.closed || len(p.in) == 0 && p.chunk != 0:
		return false
	case p.chunk >= 0:
		return p.takeChunk()
	case p.data:
		return p.takeData()
	}
	line, rest, ok := bytes.Cut(p.in, []byte("\r\n"))
	if !ok {
		return false
	}
	if bytes.ContainsAny(line, "\r\n\x00") {
		p.fail("command %q", line)
	}
	p.in = rest
	if !p.pipelining && len(rest) > 0 && !bytes.HasPrefix(line, []byte("BDAT")) {
		p.fail("%q is followed by %.40q without PIPELINING", line, rest)
	}
	if p.quit {
		p.fail("%q after QUIT", line)
	}
	if p.rng.Float64() < p.hangups {
		p.hangUp()
		return true
	}
	p.command(string(line))
	return true
}

// hangUp says 421 and reads no further.
func (p *reversedPeer) hangUp() {
	p.finish(421)
	p.say(421, "4.3.2 going down")
	p.closed = true
	p.finished()
}

func (p *reversedPeer) command(line string) {
	verb, arg, _ := strings.Cut(line, " ")
	switch verb {
	case "EHLO":
		p.mustEnd(line)
		p.hello()
	case "MAIL":
		p.mail(arg)
	case "RCPT":
		p.rcpt(arg)
	case "DATA":
		p.mustEnd(line)
		p.startData()
	case "BDAT":
		if !p.chunking || !p.pipelining {
			p.fail("%q was not offered", line)
		}
		f := strings.Fields(arg)
		if len(f) != 2 || f[1] != "LAST" {
			p.fail("%q", line)
		}
		p.chunk, _ = strconv.ParseInt(f[0], 10, 64)
		p.content = nil
	case "XFORWARD":
		p.forwarded(arg)
	case "RSET":
		p.tx = nil
		p.forget()
		p.say(250, "reset")
	case "NOOP":
		p.mustEnd(line)
		p.say(250, "still here")
	case "QUIT":
		p.mustEnd(line)
		p.quit = true
		p.say(221, "bye")
	default:
		p.fail("unknown command %q", line)
	}
}

// mustEnd checks a synchronisation point: these commands are the last of a group (RFC 2920 3.1).
func (p *reversedPeer) mustEnd(line string) {
	if len(p.in) > 0 {
		p.fail("%q is followed by %.40q", line, p.in)
	}
}

func (p *reversedPeer) hello() {
	lines := []string{"mx hello"}
	add := func(on bool, s string) {
		if on {
			lines = append(lines, s)
		}
	}
	add(p.pipelining, "PIPELINING")
	add(p.chunking, "CHUNKING")
	add(p.dsn, "DSN")
	add(p.xforward, "XFORWARD NAME SOURCE")
	add(p.eightBit, "8BITMIME")
	add(p.utf8, "SMTPUTF8")
	add(p.size >= 0, fmt.Sprintf("SIZE %d", p.size))
	add(p.mailMax > 0, fmt.Sprintf("LIMITS MAILMAX=%d", p.mailMax))
	add(p.rcptMax > 0, fmt.Sprintf("LIMITS FOO=1 RCPTMAX=%d", p.rcptMax))
	if p.mailMax > 0 && p.rcptMax > 0 { // one keyword, as RFC 9422 has it
		lines = append(lines[:len(lines)-2], fmt.Sprintf("LIMITS RCPTMAX=%d MAILMAX=%d", p.rcptMax, p.mailMax))
	}
	for i, l := range lines {
		sep := "-"
		if i == len(lines)-1 {
			sep = " "
		}
		start := len(p.out)
		p.out = append(p.out, "250"+sep+l+"\r\n"...)
		p.sent += len(p.out) - start
	}
}

func (p *reversedPeer) forget() {
	if p.forgets {
		p.client = ""
	}
}

func (p *reversedPeer) forwarded(arg string) {
	name, source, ok := strings.Cut(strings.TrimPrefix(arg, "NAME="), " SOURCE=")
	switch {
	case !p.xforward || !ok || (name == "[UNAVAILABLE]") != (source == "[UNAVAILABLE]"):
		p.fail("XFORWARD %q", arg)
	case p.tx != nil:
		if !p.keepsOpen {
			p.fail("XFORWARD %q in an open transaction", arg)
		}
		p.say(503, "a transaction is open")
		return
	}
	if p.distrusts {
		p.say(550, "not from you")
		return
	}
	if p.client = name; name == "[UNAVAILABLE]" {
		p.client = ""
	}
	p.say(250, "noted")
}

func (p *reversedPeer) mail(arg string) {
	path, _, ok := strings.Cut(strings.TrimPrefix(arg, "FROM:<"), ">")
	if !ok {
		p.fail("MAIL %q", arg)
	}
	p.mails++
	p.starts = append(p.starts, path)
	if p.mailMax > 0 && p.mails > p.mailMax {
		p.fail("MAIL %d of %d", p.mails, p.mailMax)
	}
	t := &peerTx{from: path, mailCode: 250}
	p.last = t
	switch code := p.refuse(450, 550); {
	case p.tx != nil:
		if !p.keepsOpen || !p.chunking || !p.pipelining {
			p.fail("MAIL %q in an open transaction", path)
		}
		t.mailCode = 503
	case code != 0:
		t.mailCode = code
	default:
		p.tx, t.client = t, p.client
	}
	p.say(t.mailCode, "mail "+path)
	t.mailAt = p.sent
	p.done = append(p.done, t)
}

func (p *reversedPeer) rcpt(arg string) {
	path, _, ok := strings.Cut(strings.TrimPrefix(arg, "TO:<"), ">")
	if !ok {
		p.fail("RCPT %q", arg)
	}
	t := p.last
	code, text, excess := 250, "rcpt "+path, false
	accepted := 0
	if p.tx != nil {
		accepted = len(p.tx.taken)
	}
	switch refuse := p.refuse(450, 550, 451, 552); {
	case p.tx == nil:
		code = 503
	case p.rcptMax > 0 && len(t.rcpts) >= p.rcptMax:
		p.fail("more than %d recipients", p.rcptMax)
	case p.tooMany > 0 && accepted >= p.tooMany:
		excess = true
		code, text = 452, "4.5.3 too many recipients"
		if p.rng.Intn(3) == 0 {
			code, text = 552, "too many recipients"
		}
	case refuse == 552:
		code, text = 552, "5.2.2 mailbox full"
	case refuse != 0:
		code = refuse
	default:
		p.tx.taken = append(p.tx.taken, path)
	}
	t.rcpts, t.codes, t.excess = append(t.rcpts, path), append(t.codes, code), append(t.excess, excess)
	p.say(code, text)
	t.codesAt = append(t.codesAt, p.sent)
}

func (p *reversedPeer) startData() {
	switch code := p.refuse(451, 554); {
	case p.tx == nil && p.goesOn:
		p.say(354, "go on")
		p.data = true
	case p.tx == nil:
		p.finish(503)
		p.say(503, "no transaction")
		p.finished()
	case len(p.tx.taken) == 0 && !p.goesOn:
		p.finish(554)
		p.say(554, "no valid recipients")
		p.finished()
	case len(p.tx.taken) > 0 && code != 0:
		p.finish(code)
		p.say(code, "data")
		p.finished()
	default:
		p.say(354, "go on")
		p.data = true
	}
	p.content = nil
}

func (p *reversedPeer) takeData() bool {
	for {
		line, rest, ok := bytes.Cut(p.in, []byte("\r\n"))
		if !ok {
			return false
		}
		p.in = rest
		if string(line) == "." {
			break
		}
		p.content = append(append(p.content, bytes.TrimPrefix(line, []byte("."))...), "\r\n"...)
	}
	p.data = false
	p.decide()
	p.tx = nil // RFC 5321 4.1.1.4
	p.forget()
	return true
}

func (p *reversedPeer) takeChunk() bool {
	n := min(int64(len(p.in)), p.chunk, int64(1+p.rng.Intn(800)))
	p.content = append(p.content, p.in[:n]...)
	p.in = p.in[n:]
	if p.chunk -= n; p.chunk > 0 {
		return n > 0
	}
	p.chunk = -1
	p.decide()
	if p.last.final < 300 || !p.keepsOpen {
		p.tx = nil
		p.forget()
	}
	return true
}

// decide answers a whole body.
func (p *reversedPeer) decide() {
	if p.rng.Float64() < p.hangups {
		p.hangUp()
		return
	}
	if p.tx == nil || len(p.tx.taken) == 0 {
		if len(p.content) > 0 && !p.chunking {
			p.fail("a body of %d octets for nobody", len(p.content))
		}
		code := []int{554, 250}[p.rng.Intn(2)]
		if p.tx == nil || p.pipelining && p.chunking {
			code = 554
		}
		p.finish(code)
		p.say(code, "nobody")
		p.finished()
		return
	}
	code := p.refuse(451, 554)
	if code == 0 {
		code = 250
		p.last.body, p.last.taken = p.content, p.tx.taken
	}
	p.finish(code)
	p.say(code, fmt.Sprintf("2.0.0 done %d", p.rng.Intn(1000)))
	p.finished()
}

func (p *reversedPeer) finish(code int) {
	if p.last != nil && p.last.at == 0 {
		p.last.final = code
	}
}

// finished notes the transaction whose last reply was just made.
func (p *reversedPeer) finished() {
	if p.last != nil && p.last.at == 0 {
		p.last.at = p.sent
	}
}
