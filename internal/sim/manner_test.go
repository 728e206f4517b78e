package sim

import (
	"time"

	"odmr/codec"
)

// smallestSize is the least limit that a customer announces with SIZE.
const smallestSize = 4 << 10

// manner is how a customer's server behaves in one visit.
type manner struct {
	calm bool
	liar bool // breaks the protocol

	pipelining, chunking, eight, utf8, dsn bool
	size                                   int64 // announced limit; 0: no limit is announced
	mailMax, rcptMax                       int   // announced by LIMITS; 0: not
	tooMany                                int   // recipients taken at a time, not announced; 0: any
	goesOn                                 bool  // DATA without a recipient is answered 354 (RFC 2920 3.1)

	xforward    codec.XAttrs // what XFORWARD may say; none: it is not offered
	unbelieving bool         // refuses it all the same
	remembers   bool         // does not forget it with the end of a transaction

	delay      time.Duration // before each command is looked at
	sip        int           // octets of content read at a time; 0: all
	defers     int           // once in so many replies a 4xx; 0: never
	refuses    int           // a 5xx
	leaves     int           // a 421, and the end
	breaks     int           // the line breaks, before or after a reply
	wrong      bool          // gives a wrong password
	trespasses bool          // asks for another's domain
	hasty      bool          // writes behind ATRN
	walksOut   bool          // hangs up after ATRN instead of saying 220
}

// calmManner is that of a good server.
func (w *world) calmManner() manner {
	m := manner{calm: true, pipelining: w.chance(2), chunking: w.chance(2), eight: true, utf8: true, dsn: true}
	m.offerXForward(w)
	return m
}

func (m *manner) offerXForward(w *world) {
	if w.chance(2) {
		m.xforward = codec.XAttrs(1<<codec.XName | 1<<codec.XAddr | 1<<codec.XHelo | w.rng.IntN(1<<codec.NumXAttrs))
	}
	m.unbelieving, m.remembers = w.chance(6), w.chance(2)
}

// xforwardOffer are the attributes as EHLO lists them.
func (m *manner) xforwardOffer() string {
	text := ""
	for a, name := range []string{"NAME", "ADDR", "PORT", "PROTO", "HELO", "IDENT", "SOURCE"} {
		if m.xforward.Has(codec.XAttr(a)) {
			text += " " + name
		}
	}
	return text
}

// newManner throws the dice.
func (w *world) newManner() manner {
	m := manner{
		pipelining: !w.chance(4), chunking: w.chance(2), eight: w.chance(2), utf8: w.chance(2), dsn: w.chance(2), goesOn: w.chance(2),
		liar: w.chance(12), wrong: w.chance(20), trespasses: w.chance(15), hasty: w.chance(30), walksOut: w.chance(30),
	}
	if w.chance(6) {
		m.size = smallestSize + w.rng.Int64N(1<<20)
	}
	if w.chance(6) {
		m.mailMax = w.between(1, 10)
	}
	if w.chance(6) {
		m.rcptMax = w.between(1, 3)
	}
	if w.chance(6) {
		m.tooMany = w.between(1, 3)
	}
	often := func() int { return []int{0, 0, 0, 40, 10, 3}[w.rng.IntN(6)] }
	m.defers, m.refuses = often(), often()
	m.leaves = []int{0, 0, 0, 0, 30, 100}[w.rng.IntN(6)]
	m.breaks = []int{0, 0, 10, 50}[w.rng.IntN(4)]
	switch w.rng.IntN(8) {
	case 0:
		m.delay = 2 * time.Second
	case 1:
		m.delay = 6 * time.Minute
	}
	m.offerXForward(w)
	if w.chance(8) {
		m.sip = 1 << w.between(4, 12)
	}
	return m
}

// once is true once in n times, and never if n is 0.
func (w *world) once(n int) bool { return n > 0 && w.chance(n) }
