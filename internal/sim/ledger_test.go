package sim

import (
	"fmt"
	"slices"
	"strings"

	"odmr/internal/mail"
	"odmr/queue"
)

// Rule is a promise that the ledger looks after.
type Rule string

const (
	RuleLost      Rule = "lost"      // what was acknowledged comes to a legal end
	RulePhantom   Rule = "phantom"   // what was not taken, or not wholly sent, never comes
	RuleForeign   Rule = "foreign"   // nobody gets what is another's
	RuleContent   Rule = "content"   // what comes is what was sent, octet by octet
	RuleEnvelope  Rule = "envelope"  // and so is its envelope
	RuleOrigin    Rule = "origin"    // a customer is told of no message whom another one comes from
	RuleOrder     Rule = "order"     // within a domain first in, first out
	RuleDuplicate Rule = "duplicate" // nothing comes twice, unless it was in doubt
	RuleOutcome   Rule = "outcome"   // what is recorded is what the customer said
	RuleDoubt     Rule = "doubt"     // what is in doubt is recorded so
	RuleShield    Rule = "shield"    // once the bounce shield has fired nothing fails
	RuleKept      Rule = "kept"      // nothing expires before its time, and nothing of a customer on vacation
	RuleQuota     Rule = "quota"     // mail is taken while there is room, and then not
	RuleUnknown   Rule = "unknown"   // a recipient is refused only if the customer does not know it
	RuleRetry     Rule = "retry"     // the smarthost is left alone for a while after a failure, and an address, too
	RuleLease     Rule = "lease"     // a domain is drained by one session at a time
	RuleStore     Rule = "store"     // the store's own invariants
	RuleProtocol  Rule = "protocol"  // what the server says to an honest peer is proper SMTP
)

// ledger knows what was promised and what was done.
type ledger struct {
	w       *world
	host    *host
	letters []*letter
	boxes   map[string]*mailbox // by address
	movedAt map[string]int64    // when a domain was taken from its customer
	queues  map[string][]*entry // by domain, in the order of their commits
	leased  map[string]*visit
	sent    map[stretch]int64 // where the last letter in line ends on the line that it came on
	reports map[uint64]*report
	atrns   map[string][]*asked // by account
}

// stretch is what one connection brings for one domain.
type stretch struct {
	line   *line
	domain string
}

func newLedger(w *world) *ledger {
	return &ledger{w: w, queues: map[string][]*entry{}, leased: map[string]*visit{}, sent: map[stretch]int64{}, boxes: map[string]*mailbox{}, movedAt: map[string]int64{},
		reports: map[uint64]*report{}, atrns: map[string][]*asked{}}
}

// find returns the recipient of that address in a letter from that sender, or nil. Most addresses are of one letter only;
// others have their mailboxes for long, and then the sender is.
func (l *ledger) find(from, address string) *recipient {
	var n, i int
	at := strings.LastIndexByte(address, '@')
	if strings.HasPrefix(address, "box") {
		if _, err := fmt.Sscanf(from, "s%d@", &n); err != nil {
			if _, err := fmt.Sscanf(from, "l%d.r%d@", &n, &i); err != nil || n < 1 || n > len(l.letters) || l.letters[n-1].about == nil {
				return nil
			}
			return l.letters[n-1].about.to(address)
		}
		if n < 1 || n > len(l.letters) {
			return nil
		}
		return l.letters[n-1].to(address)
	}
	if _, err := fmt.Sscanf(address, "l%d.r%d@", &n, &i); err != nil || at < 0 || n < 1 || n > len(l.letters) {
		return nil
	}
	if t := l.letters[n-1]; i < len(t.rcpts) && t.rcpts[i].domain == address[at+1:] {
		return t.rcpts[i]
	}
	return nil
}

// committed says that the store has the message, or, with unsure, that it may have it.
func (l *ledger) committed(envelopes []mail.Envelope, unsure bool) {
	for i := range envelopes {
		env := &envelopes[i]
		e := &entry{domain: env.Domain, unsure: unsure, wire: env.WireSize, arrived: env.Arrived, queued: l.w.now}
		for j := range env.Recipients {
			r := l.find(env.ReversePath, env.Recipients[j].Address)
			if r == nil || r.domain != env.Domain {
				l.w.fail(RuleForeign, "recipient %q was queued for %s", env.Recipients[j].Address, env.Domain)
				return
			}
			r.queued = true
			e.letter = r.letter
		}
		if !e.letter.ended() {
			l.w.fail(RulePhantom, "%v was committed before its end was sent", e)
			return
		}
		if s := (stretch{e.letter.line, env.Domain}); s.line != nil {
			if e.letter.ends < l.sent[s] {
				l.w.fail(RuleOrder, "%v comes into line behind a letter that %v brought later", e, s.line)
			}
			l.sent[s] = e.letter.ends
		}
		l.queues[env.Domain] = append(l.queues[env.Domain], e)
		e.place = len(l.queues[env.Domain])
		e.letter.entries = append(e.letter.entries, e)
		l.w.trace("queued %v at %d unsure=%v", e, e.place, unsure)
	}
}

// leasedBy says that a session has the lease of its domains.
func (l *ledger) leasedBy(v *visit, domains []string) {
	for _, d := range domains {
		if !slices.Contains(v.account.Domains, d) {
			l.w.fail(RuleForeign, "%v has the lease of %s", v, d)
		}
		if other := l.leased[d]; other != nil {
			l.w.fail(RuleLease, "%s is leased to %v and to %v", d, other, v)
		}
		l.leased[d] = v
	}
	v.domains = domains
}

// released says that it has not any more.
func (l *ledger) released(v *visit) {
	for _, d := range v.domains {
		if l.leased[d] == v {
			delete(l.leased, d)
		}
	}
}

// handedOut looks at what the store hands to a session: of each domain the oldest that is left.
func (l *ledger) handedOut(v *visit, key queue.Key, env *mail.Envelope) *entry {
	if !slices.Contains(v.domains, key.Domain) || env.Domain != key.Domain {
		l.w.fail(RuleForeign, "%v was handed mail of %s (key of %s)", v, env.Domain, key.Domain)
		return nil
	}
	var e *entry
	if r := l.find(env.ReversePath, env.Recipients[0].Address); r != nil {
		e = r.letter.entry(key.Domain)
	}
	if e == nil || e.absent {
		l.w.fail(RulePhantom, "%v was handed mail to %q, which was never taken", v, env.Recipients[0].Address)
		return nil
	}
	l.w.trace("%v is handed %v, %d octets from %q", v, e, e.wire, e.letter.from)
	l.inOrder(v, e)
	v.handed[e] = len(v.handed) + 1
	e.unsure = false
	rs := e.recipients()
	if len(rs) != len(env.Recipients) {
		l.w.fail(RuleEnvelope, "%v has %d recipients, %d were taken", e, len(env.Recipients), len(rs))
		return nil
	}
	for i, r := range rs {
		l.sameState(v, r, &env.Recipients[i])
	}
	return e
}

// inOrder looks at which entries e was handed out before.
func (l *ledger) inOrder(v *visit, e *entry) {
	if v.small {
		l.smallFirst(v, e)
		return
	}
	q := l.queues[e.domain]
	for at := v.cursor[e.domain]; !e.back || at < e.place; at++ {
		if at >= len(q) || at >= e.place {
			l.w.fail(RuleOrder, "%v was handed %v after a later one", v, e)
			return
		}
		if q[at] == e {
			v.cursor[e.domain] = at + 1
			break
		}
		l.passedOver(q[at])
	}
	if e.skipped && !e.back {
		l.w.fail(RuleOrder, "%v was handed %v, which a later one had overtaken", v, e)
	}
}

// smallFirst looks at the same where small messages go first: one that is overtaken is of another sender than the small one
// that overtakes it.
func (l *ledger) smallFirst(v *visit, e *entry) {
	for _, o := range l.queues[e.domain][:e.place-1] {
		if v.handed[o] > 0 || o.absent || o.back || o.left || !o.pending() || o.unsure || o.maybeLeft || o.doubtful() {
			continue // the last three: nobody knows whether it is there
		}
		switch {
		case e.wire > smallMessage:
			l.passedOver(o)
		case o.letter.from == e.letter.from:
			l.w.fail(RuleOrder, "%v was handed %v before %v, which is of the same sender", v, e, o)
		default:
			l.w.meet("a small message that went first")
		}
	}
	if e.skipped && !e.back {
		l.w.fail(RuleOrder, "%v was handed %v, which a later one had overtaken", v, e)
	}
}

// passedOver looks at an entry that another one overtook: it must not be there.
func (l *ledger) passedOver(e *entry) {
	switch {
	case e.absent || !e.pending():
	case e.unsure:
		e.absent = true // and never to be seen again
	case e.doubtful():
		for _, r := range e.recipients() {
			l.suppose(r)
		}
	default:
		e.skipped = true // overtaken, or lost: that will be seen
	}
}

// doubtful says whether a torn settlement may have ended the entry.
func (e *entry) doubtful() bool {
	for _, r := range e.recipients() {
		if r.state == mail.Pending && !r.unsure {
			return false
		}
	}
	return true
}

// suppose takes a recipient whose settlement was torn as settled.
func (l *ledger) suppose(r *recipient) {
	if r.state != mail.Pending || !r.unsure {
		return
	}
	r.state = mail.Failed // or what else it may be
	if r.excused || slices.ContainsFunc(r.hands, func(h *hand) bool { return h.code > 0 && h.code < 300 }) {
		r.state = mail.Delivered
	}
}

// is says whether the store may have r in that state.
func (r *recipient) is(have mail.RecipientState) bool {
	if r.bounced && (r.state == mail.Failed && have == mail.Bounced || r.state == mail.Relayed && have == mail.Delivered) {
		return true
	}
	return have == r.state
}

func (l *ledger) sameState(v *visit, r *recipient, have *mail.Recipient) {
	if have.Address != r.address || have.Notify != r.notify || have.ORcpt != r.orcpt {
		l.w.fail(RuleEnvelope, "%v was handed %+v for %v", v, *have, r)
	}
	switch {
	case r.is(have.State):
	case r.unsure && r.bounced: // by a review of what a torn settlement left
		r.told = true
	case r.unsure:
		r.state = have.State
	default:
		l.w.fail(RuleStore, "%v: the store has %v as %d, settled was %d", v, r, have.State, r.state)
	}
	r.unsure = false
}

// settled says that the store has recorded outcomes, or, with unsure, that it may have.
func (l *ledger) settled(e *entry, outcomes []mail.Outcome, unsure bool) {
	for i, r := range e.recipients() {
		if r.state != mail.Pending {
			continue
		}
		state := r.state
		switch outcomes[i].Status {
		case mail.OutcomeDelivered:
			if !unsure {
				l.acceptedBox(r)
			}
			if state = mail.Delivered; outcomes[i].Relayed {
				state = mail.Relayed
			}
		case mail.OutcomeFailed:
			state = mail.Failed
		case mail.OutcomeHeld:
			state = mail.Held
		}
		if unsure {
			r.unsure = r.unsure || state != r.state
			continue
		}
		r.state = state
	}
}

// crashed says that the server is gone: what was not durable is in doubt.
func (l *ledger) crashed() {
	for _, t := range l.letters {
		for _, r := range t.rcpts {
			if r.state == mail.Pending {
				for _, h := range r.hands {
					h.failed = true
				}
			}
		}
	}
	clear(l.leased)
}

// unsettled says that the store could not record what a visit brought: it may come again.
func (l *ledger) unsettled(e *entry, v *visit) {
	for _, r := range e.recipients() {
		if h := v.last(r); h != nil {
			h.failed = true
		}
	}
}
