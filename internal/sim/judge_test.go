package sim

import (
	"bytes"
	"slices"
	"strings"

	"odmr/codec"
	"odmr/engine/session"
	"odmr/internal/mail"
	"odmr/queue"
)

// judge compares what a machine wants recorded about a message with what the customer said.
func (l *ledger) judge(v *visit, e *entry, a *session.Action) {
	rs := e.recipients()
	if len(a.Outcomes) != len(rs) {
		l.w.fail(RuleOutcome, "%v: %d outcomes for the %d recipients of %v", v, len(a.Outcomes), len(rs), e)
		return
	}
	v.judged[e] = true
	doubt := false
	for i, r := range rs {
		o := &a.Outcomes[i]
		l.w.trace("%v settles %v as %d doubt=%v %q", v, r, o.Status, a.InDoubt, o.Reply)
		if v.manner.liar { // nobody knows what it meant
			r.excused = true
			continue
		}
		if r.state != mail.Pending {
			continue
		}
		h := v.last(r)
		if a.InDoubt {
			l.w.meet("a message in doubt")
			v.doubtful[e] = true
		}
		heard := h != nil && h.code > 0 && v.heard >= h.ends
		switch {
		case heard && h.code < 300 && o.Status != mail.OutcomeDelivered:
			l.w.fail(RuleOutcome, "%v: %v was taken with %d and is recorded as %d, %q", v, r, h.code, o.Status, o.Reply)
		case o.Relayed != (o.Status == mail.OutcomeDelivered && r.notify&mail.NotifySuccess != 0 && !v.manner.dsn && e.letter.from != ""):
			l.w.fail(RuleReport, "%v: %v, notify %d, DSN offered %v, is recorded as %d, relayed %v", v, r, r.notify, v.manner.dsn, o.Status, o.Relayed)
		case o.Status == mail.OutcomeDelivered && !(heard && h.code < 300):
			l.w.fail(RuleOutcome, "%v: %v is recorded as delivered, and was not taken", v, r)
		case heard && h.code >= 500 && o.Status != mail.OutcomeFailed && !v.shielded:
			l.w.fail(RuleOutcome, "%v: %v was refused with %d and is recorded as %d, %q", v, r, h.code, o.Status, o.Reply)
		case v.alarmed && o.Status == mail.OutcomeFailed && !unsendable(v, e, o):
			l.w.fail(RuleShield, "%v: %v is recorded as failed although the shield has fired: %q", v, r, o.Reply)
		case (o.Status == mail.OutcomeFailed || o.Status == mail.OutcomeHeld) && !v.hasRefused(r, o.Reply) && !unsendable(v, e, o):
			l.w.fail(RuleOutcome, "%v: %v is recorded as failed, and was not refused: %q", v, r, o.Reply)
		}
		doubt = doubt || h != nil && !heard
	}
	if doubt && !a.InDoubt {
		l.w.fail(RuleDoubt, "%v: %v went out whole without a reply, and is not recorded as in doubt", v, e)
	}
}

// hasRefused says whether that reply is a final refusal that the customer gave for r.
func (v *visit) hasRefused(r *recipient, reply string) bool {
	_, rest, _ := strings.Cut(reply, "#")
	mark, _, _ := strings.Cut(rest, "#")
	about, ok := v.refused[mark]
	if !ok || about != nil && about != r {
		return false
	}
	r.refusals++
	return true
}

// unsendable says whether the machine may fail a message without offering it.
func unsendable(v *visit, e *entry, o *mail.Outcome) bool {
	switch {
	case strings.HasPrefix(o.Reply, "550 5.6.7 "):
		return e.letter.utf8 && !v.manner.utf8
	case strings.HasPrefix(o.Reply, "552 5.3.4 "):
		return v.manner.size > 0
	}
	return false
}

// received looks at a message that came whole to a customer, for those of its recipients that the customer took.
func (l *ledger) received(v *visit, t *transaction, code int, ends int64) {
	if len(t.rcpts) == 0 {
		return
	}
	letter := t.rcpts[0].letter
	for _, r := range t.rcpts {
		if v.manner.liar { // it does not know itself what it got
			r.excused = true
			l.mayCome(v, r)
			continue
		}
		if r.letter != letter {
			l.w.fail(RuleEnvelope, "%v: one message for recipients of %v and %v", v, letter, r.letter)
			return
		}
		if len(r.hands) > 0 {
			l.w.meet("a message that came again")
		}
		l.mayCome(v, r)
		r.hands = append(r.hands, &hand{visit: v, code: code, ends: ends, era: v.era})
	}
	if !v.manner.liar {
		l.sameContent(v, letter, t)
	}
}

// mayCome says what is wrong with that r's message comes to a customer.
func (l *ledger) mayCome(v *visit, r *recipient) {
	switch {
	case !slices.Contains(v.account.Domains, r.domain):
		l.w.fail(RuleForeign, "%v got %v, which is for %s", v, r, r.domain)
	case !r.letter.ended():
		l.w.fail(RulePhantom, "%v got %v, whose end was never sent", v, r)
	case r.letter.refused:
		l.w.fail(RulePhantom, "%v got %v, which was refused", v, r)
	case !r.queued:
		l.w.fail(RulePhantom, "%v got %v, which was not queued for it", v, r)
	case v.manner.liar: // it may have answered before it was asked
	case v.doubtful[r.letter.entry(r.domain)]: // all of it was on its way when another session took over
	case (r.state == mail.Delivered || r.state == mail.Relayed) && !r.unsure:
		l.w.fail(RuleDuplicate, "%v got %v, which was recorded as delivered", v, r)
	case r.state == mail.Failed && !r.unsure:
		l.w.fail(RuleDuplicate, "%v got %v, which was recorded as failed", v, r)
	case r.state == mail.Held && !r.unsure:
		l.w.fail(RuleDuplicate, "%v got %v, which an operator is to decide about", v, r)
	}
	for _, h := range r.hands {
		if h.code == 0 || h.code >= 300 || h.failed || h.visit.manner.liar {
			continue
		}
		if h.visit == v || h.visit.heard >= h.ends {
			l.w.fail(RuleDuplicate, "%v got %v again, which %v had taken, and the server had heard so", v, r, h.visit)
		}
	}
}

// sameContent compares what came with what the MX sent. The server puts its Received field in front.
func (l *ledger) sameContent(v *visit, letter *letter, t *transaction) {
	body := t.content
	if letter.about != nil {
		var un codec.Unstuffer
		if want := un.Append(nil, letter.content); !bytes.Equal(body, want) {
			l.w.fail(RuleContent, "%v: %v, a report, has %d octets, %d are due", v, letter, len(body), len(want))
		}
		return
	}
	if letter.moved {
		l.sameOctets(v, letter, t)
		return
	}
	if !bytes.HasPrefix(body, []byte("Received: from ")) {
		l.w.fail(RuleContent, "%v: %v begins with %.60q", v, letter, body)
		return
	}
	for {
		_, rest, ok := bytes.Cut(body, []byte("\r\n"))
		body = rest
		if !ok || len(body) == 0 || body[0] != '\t' {
			break
		}
	}
	whole := t.content
	t.content = body
	l.sameOctets(v, letter, t)
	if t.content = whole; t.size >= 0 && t.size != int64(len(whole)) {
		l.w.fail(RuleEnvelope, "%v: %v was announced with SIZE=%d and has %d octets", v, letter, t.size, len(whole))
	}
}

// sameOctets compares what came with what was handed in.
func (l *ledger) sameOctets(v *visit, letter *letter, t *transaction) {
	body := t.content
	if !bytes.Equal(body, letter.content) {
		n := 0
		for n < min(len(body), len(letter.content)) && body[n] == letter.content[n] {
			n++
		}
		l.w.fail(RuleContent, "%v: %v has %d octets, sent were %d, the first %d are equal", v, letter, len(body), len(letter.content), n)
	}
	if t.from != letter.from {
		l.w.fail(RuleEnvelope, "%v: %v comes from %q, not %q", v, letter, t.from, letter.from)
	}
}

// offered looks at the order in which a session offers messages: of each domain in the order in which it got them.
func (l *ledger) offered(v *visit, r *recipient) {
	e := r.letter.entry(r.domain)
	if e == nil || v.offered[e] || e.back {
		return
	}
	v.offered[e] = true
	// What was on its way to the session when it was stopped it may be handed yet, and does not begin.
	if v.stopped && e.arrived > l.movedAt[e.domain] && !slices.Contains(l.host.domainsOf(v.account.Name), e.domain) {
		l.w.fail(RuleForeign, "%v was offered %v, which came when the domain was not its customer's any more", v, e)
	}
	if at := v.handed[e]; v.manner.liar { // it may have missed the first offer
	} else if at < v.furthest[e.domain] {
		l.w.fail(RuleOrder, "%v was offered %v, handed out as number %d, after number %d", v, e, at, v.furthest[e.domain])
	} else {
		v.furthest[e.domain] = at
	}
}

// final looks at the end of everything: all customers have collected until nothing was left.
func (l *ledger) final(store queue.Store) {
	for _, t := range l.letters {
		for _, r := range t.rcpts {
			l.finalOf(r)
		}
	}
	kept := map[string]int{}
	err := store.List("", func(q queue.Entry) bool {
		for i := range q.Envelope.Recipients {
			have := &q.Envelope.Recipients[i]
			r := l.find(q.Envelope.ReversePath, have.Address)
			switch {
			case q.Envelope.Domain == mail.OutboundDomain:
			case r == nil:
				l.w.fail(RuleStore, "the store has %q, which nobody sent", have.Address)
			case have.State == mail.Pending:
				l.w.fail(RuleLost, "%v is still queued though its customer takes everything", r)
			case !r.is(have.State) && !r.unsure:
				l.w.fail(RuleStore, "the store has %v as %d, settled was %d", r, have.State, r.state)
			case have.State == mail.Failed, have.State == mail.Held, have.State == mail.Relayed:
				kept[r.String()]++
			}
		}
		return true
	})
	if err != nil {
		l.w.fail(RuleStore, "list: %v", err)
	}
	for _, t := range l.letters {
		for _, r := range t.rcpts {
			if (r.state == mail.Failed || r.state == mail.Held) && !r.unsure && kept[r.String()] != 1 && !r.ended() && !r.bounced {
				l.w.fail(RuleLost, "%v failed, and is not kept for its bounce", r)
			}
		}
	}
}

// finalOf looks at the end of one recipient.
func (l *ledger) finalOf(r *recipient) {
	if !r.acked || r.excused {
		return
	}
	taken := slices.ContainsFunc(r.hands, func(h *hand) bool { return h.code > 0 && h.code < 300 })
	switch {
	case taken, r.unsure && r.expired: // in a review that a crash tore: had it not been done, it would be queued
	case (r.state == mail.Failed || r.state == mail.Held) && (r.expired || r.refusals > 0 || r.letter.utf8 || r.letter.large()):
	default:
		l.w.fail(RuleLost, "%v was acknowledged, and neither delivered nor refused: state %d, %d hands", r, r.state, len(r.hands))
	}
}

// ended says whether the reporter may have ended the recipient's entry.
func (r *recipient) ended() bool {
	e := r.letter.entry(r.domain)
	return e.left || e.maybeLeft
}

// large says whether a customer may have announced a limit below the letter's size.
func (l *letter) large() bool { return len(l.content) > smallestSize-1000 }
