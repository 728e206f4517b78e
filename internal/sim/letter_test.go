package sim

import (
	"bytes"
	"fmt"
	"strings"

	"odmr/internal/mail"
)

// letter is one attempt of an MX to hand in a message. An attempt that failed is never repeated under the same number.
type letter struct {
	n       int
	from    string // reverse-path
	rcpts   []*recipient
	content []byte // as the MX means it: CRLF lines, not stuffed
	eight   bool
	utf8    bool
	ret     mail.Return
	envid   string
	origin  *mail.Origin // whom the MX has it from, as it says; nil: it says nothing

	line    *line // on which it was sent
	ends    int64 // where its content ends on that line; 0: the end was never sent
	refused bool  // the MX was told that it was not taken
	entries []*entry
	moved   bool    // it was held elsewhere, and is imported
	sent    int64   // when that one arrived there
	about   *letter // it is the report on that one, to a sender whose mail is held here
	answer  *letter // the report that may come on this one, if it goes to such a sender
}

// recipient is one recipient of a letter, and what became of it.
type recipient struct {
	letter  *letter
	i       int
	address string
	domain  string
	notify  mail.Notify
	orcpt   string
	mayTake bool  // RCPT was answered 250, as far as the MX knows
	acked   bool  // the MX was told that the message was taken for it
	took    int64 // when a customer's server took it last; of a lasting mailbox
	queued  bool  // it stands in the envelope that was committed

	hands    []*hand // how often a customer got it whole
	state    mail.RecipientState
	unsure   bool                 // a settlement of it was torn by a crash, or made in a session with a liar
	refusals int                  // final refusals (5xx) by the customer
	excused  bool                 // by a session with a liar
	expired  bool                 // waited too long
	bounced  bool                 // its failure was told while others waited
	told     bool                 // in a report that a crash tore, perhaps
	silenced bool                 // nobody was to be told
	reports  map[string][]mail.ID // to its sender, by action
}

// entry is a letter in the queue of one domain.
type entry struct {
	letter          *letter
	domain          string
	wire            int64 // octets as stored
	arrived         int64
	queued          int64 // when it came into line
	place           int   // in the queue of the domain, from 1
	unsure          bool  // its commit was torn by a crash: it may be there or not
	absent          bool  // it was not there
	skipped         bool  // a later one was handed out before it
	settling        bool  // an outcome is in the log, and not known to be durable
	back            bool  // an operator released it, so that it is behind its place
	left, maybeLeft bool  // the reporter ended it, perhaps
}

// hand is a message in a customer's hands: it arrived whole, for this recipient.
type hand struct {
	visit  *visit
	code   int   // of the final reply; 0: none was made
	ends   int64 // where that reply ends, in octets of all replies after the turn
	era    int   // of the server
	failed bool  // the settlement of it failed, or the server died before it was durable
}

// ended says whether all of it has reached the server.
func (l *letter) ended() bool {
	return l.about != nil || l.moved || l.ends > 0 && l.line.up.passed >= l.ends
}

func (l *letter) String() string    { return fmt.Sprintf("L%d", l.n) }
func (r *recipient) String() string { return fmt.Sprintf("%v.r%d", r.letter, r.i) }
func (e *entry) String() string     { return fmt.Sprintf("%v/%s", e.letter, e.domain) }

// entry is the letter's entry in the queue of domain, or nil.
func (l *letter) entry(domain string) *entry {
	for _, e := range l.entries {
		if e.domain == domain {
			return e
		}
	}
	return nil
}

// recipients are those of the envelope, in order.
func (e *entry) recipients() []*recipient {
	var rs []*recipient
	for _, r := range e.letter.rcpts {
		if r.domain == e.domain && r.queued {
			rs = append(rs, r)
		}
	}
	return rs
}

// pending says whether something is left to deliver.
func (e *entry) pending() bool {
	for _, r := range e.recipients() {
		if r.state == mail.Pending {
			return true
		}
	}
	return false
}

// newLetter writes a letter to some customers.
func (s *Sim) newLetter() *letter {
	w := s.w
	l := &letter{n: len(s.ledger.letters) + 1}
	l.from = fmt.Sprintf("s%d@far.example", l.n)
	l.eight, l.utf8 = w.chance(6), w.chance(25)
	if l.utf8 && w.chance(2) {
		l.from = fmt.Sprintf("s%d@fär.example", l.n)
	}
	if w.chance(8) {
		l.from = ""
	}
	grouped := l.from != "" && w.chance(3) // the sender writes others, too
	if grouped {
		l.from = fmt.Sprintf("group%d@far.example", w.rng.IntN(3))
	}
	switch w.rng.IntN(8) {
	case 0:
		l.ret = mail.ReturnFull
	case 1:
		l.ret = mail.ReturnHeaders
	}
	if w.chance(5) {
		l.envid = fmt.Sprintf("env+2B%d", l.n)
	}
	domains := w.rng.Perm(len(s.domains))[:1]
	if w.chance(3) {
		domains = w.rng.Perm(len(s.domains))[:w.between(1, len(s.domains))]
	}
	for _, d := range domains {
		for range 1 + w.rng.IntN(1+w.rng.IntN(4)) {
			r := &recipient{letter: l, i: len(l.rcpts), domain: s.domains[d]}
			r.address = fmt.Sprintf("l%d.r%d@%s", l.n, r.i, r.domain)
			if box := boxAddress(w.rng.IntN(s.boxes), r.domain); !grouped && l.from != "" && w.chance(s.boxes) && l.to(box) == nil {
				r.address = box
				s.ledger.box(box)
			}
			if w.chance(5) {
				r.notify = []mail.Notify{mail.NotifyNever, mail.NotifySuccess, mail.NotifyFailure | mail.NotifyDelay, mail.NotifySuccess | mail.NotifyFailure | mail.NotifyDelay}[w.rng.IntN(4)]
			}
			if w.chance(8) {
				r.orcpt = fmt.Sprintf("rfc822;first%d@%s", r.i, r.domain)
			}
			l.rcpts = append(l.rcpts, r)
		}
	}
	s.ledger.letters = append(s.ledger.letters, l)
	if s.host.keeping.DelayNotice == 0 && len(l.rcpts) == 1 && l.from != "" && !grouped && w.chance(3) {
		s.answer(l)
	}
	l.write(s)
	return l
}

// to is the letter's recipient of that address, or nil.
func (l *letter) to(address string) *recipient {
	for _, r := range l.rcpts {
		if r.address == address {
			return r
		}
	}
	return nil
}

// answer has a letter come from somebody whose mail is held here: the report on it, of which there is one at the most
// where delays are not reported and the letter is for one recipient, will be a letter itself.
func (s *Sim) answer(l *letter) {
	a := &letter{n: len(s.ledger.letters) + 1, about: l}
	domain := s.domains[s.w.rng.IntN(len(s.domains))]
	a.rcpts = []*recipient{{letter: a, domain: domain, address: fmt.Sprintf("l%d.r0@%s", a.n, domain)}}
	l.answer, l.from = a, a.rcpts[0].address
	s.ledger.letters = append(s.ledger.letters, a)
}

// write makes the content, with all that may be taken for something else on the wire.
func (l *letter) write(s *Sim) {
	w := s.w
	var b bytes.Buffer
	fmt.Fprintf(&b, "From: <%s>\r\nSubject: letter %d\r\nX-Salt: %x\r\n\r\n", l.from, l.n, w.rng.Uint64())
	size := w.rng.IntN(1500)
	switch {
	case w.chance(40):
		size = mail.ChunkSize + w.rng.IntN(mail.ChunkSize)
	case w.chance(10):
		size = w.rng.IntN(30_000)
	}
	for b.Len() < size {
		switch w.rng.IntN(12) {
		case 0:
			b.WriteString([]string{".", "..", ".x", "QUIT", "250 ok", "", "RSET", "MAIL FROM:<>"}[w.rng.IntN(8)])
		case 1:
			if l.eight || l.utf8 {
				b.WriteString("grüße ")
			}
		}
		n := w.rng.IntN(70)
		if size > 10_000 {
			n = 900
		}
		b.WriteString(strings.Repeat(string(rune('a'+w.rng.IntN(26))), n))
		b.WriteString("\r\n")
	}
	l.content = b.Bytes()
}
