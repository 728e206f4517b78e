package session

import (
	"strings"

	"odmr/codec"
	"odmr/internal/mail"
)

// reversedCaps is what the customer's server can do, as its EHLO reply says.
type reversedCaps struct {
	pipelining bool         // RFC 2920
	chunking   bool         // RFC 3030
	eightBit   bool         // RFC 6152
	utf8       bool         // RFC 6531
	dsn        bool         // RFC 3461
	sizeKnown  bool         // RFC 1870: MAIL may bear SIZE=
	size       int64        // RFC 1870: the largest message taken; 0: not said
	xforward   codec.XAttrs // what XFORWARD may say; none: not offered
	mailMax    int64        // RFC 9422: MAIL commands in one session; 0: not said
	rcptMax    int          // recipients in one transaction; at least 1
}

// parseEHLO reads the lines of a reply to EHLO behind the first (RFC 5321 4.1.1.1). What is
// malformed or unknown counts as not offered. STARTTLS is not looked for: beginning TLS here
// would deadlock a customer that is a pipe.
func parseEHLO(rep *codec.Reply) reversedCaps {
	c := reversedCaps{rcptMax: reversedMaxRcpts}
	first := true
	for line := range rep.All() {
		if first {
			first = false
			continue
		}
		keyword, params := codec.CutKeyword(line)
		c.offer(keyword, params)
	}
	return c
}

func (c *reversedCaps) offer(keyword, params []byte) {
	is := func(name string) bool { return codec.EqualFold(keyword, []byte(name)) }
	switch {
	case is("PIPELINING"):
		c.pipelining = true
	case is("CHUNKING"):
		c.chunking = true
	case is("8BITMIME"):
		c.eightBit = true
	case is("SMTPUTF8"):
		c.utf8 = true
	case is("DSN"):
		c.dsn = true
	case is("SIZE"):
		c.sizeKnown = true
		if n, err := codec.ParseSize(params); err == nil {
			c.size = n
		}
	case is("XFORWARD"):
		c.xforward = codec.ParseXForwardOffer(params)
	case is("LIMITS"):
		// Every transaction has one domain only, so that any RCPTDOMAINMAX is kept.
		mailMax, rcptMax, _ := codec.ParseLimits(params)
		c.mailMax = mailMax
		if 0 < rcptMax && rcptMax < reversedMaxRcpts {
			c.rcptMax = int(rcptMax)
		}
	}
}

// String names the way of working and what is used of the offer.
func (c *reversedCaps) String() string {
	names := []string{"lock-step"}
	if c.pipelining {
		names[0] = "PIPELINING"
	}
	add := func(ok bool, name string) {
		if ok {
			names = append(names, name)
		}
	}
	add(c.pipelining && c.chunking, "CHUNKING")
	add(c.eightBit, "8BITMIME")
	add(c.utf8, "SMTPUTF8")
	add(c.dsn, "DSN")
	add(c.sizeKnown, "SIZE")
	add(c.xforward != 0, "XFORWARD")
	add(c.mailMax > 0, "MAILMAX")
	return strings.Join(names, " ")
}

// hello says EHLO (RFC 5321 3.2), which must be the last of what is written until it is answered.
func (r *Reversed) hello(now Time, out *Output, verb string, kind reversedKind) {
	out.Reply = append(out.Reply, verb...)
	out.Reply = append(out.Reply, r.cfg.Hostname...)
	out.Reply = append(out.Reply, '\r', '\n')
	r.state = reversedHello
	r.await(now, reversedAwait{kind: kind})
}

// greeted takes the reply to the turn.
func (r *Reversed) greeted(now Time, rep *codec.Reply, out *Output) {
	switch {
	case rep.Code == 220:
		r.hello(now, out, "EHLO ", awaitEHLO)
	case rep.Code >= 400: // RFC 5321 3.1: QUIT is all that may follow a 554
		r.refusal()
		r.quit(now, out, "greeting refused: "+r.text(rep))
	default:
		r.close(out, "protocol error: greeting "+r.text(rep))
	}
}

// helloed takes the reply to EHLO or HELO.
func (r *Reversed) helloed(now Time, kind reversedKind, rep *codec.Reply, out *Output) {
	switch {
	case rep.Code < 300:
		r.caps = parseEHLO(rep)
		if kind == awaitHELO {
			r.caps = reversedCaps{rcptMax: reversedMaxRcpts}
		}
		name, _ := codec.CutKeyword(rep.Line(0))
		r.peer = reversedPrintable(name[:min(len(name), mail.MaxDomain)])
		r.state = reversedMail
	case rep.Code >= 500 && kind == awaitEHLO: // RFC 5321 4.1.4
		r.hello(now, out, "HELO ", awaitHELO)
	case rep.Code >= 400:
		r.refusal()
		r.quit(now, out, kind.String()+" refused: "+r.text(rep))
	default:
		r.close(out, "protocol error: reply to "+kind.String()+": "+r.text(rep))
	}
}
