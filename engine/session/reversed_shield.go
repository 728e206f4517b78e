package session

import (
	"slices"
	"strconv"
	"strings"

	"odmr/internal/mail"
)

// The bounce shield. A server that refuses nearly everything for good is more likely to be broken (installed
// anew, its users not there yet, a filter gone wrong) than right, and a bounce cannot be taken back. So a
// message that was refused is not settled at once but kept back, and its recipients become
//
//	failed     once so many further messages were answered that it has left the window, and when the
//	           queue is dry: up to then the share of refusals was normal
//	held       when more than ShieldRefusals of the last ShieldWindow messages were refused, with all that is refused
//	           behind it in this session: an alarm, nothing new is begun, QUIT, and an operator decides
//	held       likewise, when the session has to leave because of MaxRefusals replies in a row and its own
//	           share of refusals exceeds ShieldRefusals/ShieldWindow: with servers that hang up on clients after
//	           some errors (Postfix: 20) no window could ever fill
//	deferred   when the session ends in any other way before the queue is dry, and that share is exceeded: they
//	           go again, are refused again, and count again, so that this comes to one of the ends above
//	failed     when it ends so and the share is not exceeded
//
// What is kept back is pending on disk: after a crash it goes again, which harms nobody, as it was refused. A message
// that one recipient was refused of and another accepted is kept back, too, and counts in the windows of
// what a crash may repeat, from which it is settled early when they are full. It does not count as
// refused: a server that takes a message for somebody is not one that knows nobody.
//
// The window is the account's, and goes on from one session to the next (Resume, Refusals): what was refused in
// sessions that ended with a dry queue has failed by then, but not more than ShieldRefusals messages. A customer that
// has fewer messages than that, all refused, gets no protection but by MaxRefusals: five refused of five are
// a mailbox that was closed as often as a broken server.

// Refusals is which of a customer's last messages were refused for good.
type Refusals struct {
	last    []bool // a ring once it is full
	at      int
	refused int
}

// note enters one message, and forgets the one before the last window of them.
func (f *Refusals) note(refused bool, window int) {
	if len(f.last) < window {
		f.last = append(f.last, refused)
	} else {
		if f.last[f.at] {
			f.refused--
		}
		f.last[f.at] = refused
		f.at = (f.at + 1) % window
	}
	if refused {
		f.refused++
	}
}

// String is one letter for each message, the oldest first: r where it was refused, else a.
func (f *Refusals) String() string {
	text := make([]byte, len(f.last))
	for i := range text {
		text[i] = 'a'
		if f.last[(f.at+i)%len(f.last)] {
			text[i] = 'r'
		}
	}
	return string(text)
}

// ParseRefusals reads what String wrote.
func ParseRefusals(text string) (f Refusals) {
	for i := range len(text) {
		f.note(text[i] == 'r', len(text))
	}
	return f
}

// None says that there is nothing worth remembering.
func (f *Refusals) None() bool { return f.refused == 0 }

// clone is a copy that fits window: one for another window is worth nothing.
func (f *Refusals) clone(window int) Refusals {
	if len(f.last) > window {
		return Refusals{}
	}
	c := *f
	c.last = slices.Clone(f.last)
	if len(c.last) < window { // it goes on where it stopped
		c.last = append(c.last[f.at:], c.last[:f.at]...)
		c.at = 0
	}
	return c
}

// reversedShield is the shield's state within one session.
type reversedShield struct {
	ever    Refusals       // the account's window
	here    Refusals       // of this session
	noted   int64          // messages
	back    []*reversedMsg // kept back, in order
	mixed   reversedAmount // of those, which were delivered to somebody
	fired   bool
	crowded bool // MaxRefusals was reached
}

// Resume goes on with the window of the account's session before.
func (r *Reversed) Resume(f *Refusals) { r.shield.ever = f.clone(r.cfg.ShieldWindow) }

// Refusals is the window for the account's next session: an empty one after an alarm.
func (r *Reversed) Refusals() Refusals {
	if r.shield.fired {
		return Refusals{}
	}
	return r.shield.ever.clone(r.cfg.ShieldWindow)
}

// keepBack looks at a message that is about to be settled, and says whether it is to wait.
func (r *Reversed) keepBack(m *reversedMsg, out *Output, reason string) bool {
	s := &r.shield
	if m.judged {
		return false
	}
	if r.cfg.ShieldRefusals == 0 { // nobody judges the session: more must have been taken than refused
		if r.stats.Delivered <= r.stats.Failed {
			m.forgetUnknown()
		}
		return false
	}
	m.judged = true
	r.forgetBack(m)
	var n [mail.OutcomeUntouched + 1]int
	for i := range m.outcomes {
		n[m.outcomes[i].Status]++
	}
	delivered, failed := n[mail.OutcomeDelivered] > 0, n[mail.OutcomeFailed] > 0
	if s.fired {
		m.become(mail.OutcomeHeld)
		return false
	}
	if delivered || failed {
		s.noted++
		s.ever.note(!delivered, r.cfg.ShieldWindow)
		s.here.note(!delivered, r.cfg.ShieldWindow)
	}
	if failed {
		m.back, m.noted, m.reason = true, s.noted, reason
		s.back = append(s.back, m)
		r.setAside(m, delivered, out)
	}
	if r.state != reversedClosed { // else End decides
		if s.ever.refused > r.cfg.ShieldRefusals {
			r.fire(out)
		} else {
			r.letPass(out)
		}
	}
	return failed
}

// setAside takes a message that is kept back out of what the session is busy with.
func (r *Reversed) setAside(m *reversedMsg, delivered bool, out *Output) {
	r.unhold(m)
	switch {
	case delivered:
		m.mixed = true
		r.shield.mixed.add(1, m.env.WireSize)
	case m.begun: // the customer has nothing of it: sent again, it is no duplicate
		m.begun = false
		r.inflight.add(-1, -m.env.WireSize)
	}
	if r.state != reversedClosed {
		out.Acts = append(out.Acts, Action{Kind: ActUnload, At: len(out.Reply), Item: m.handle})
	}
}

// letPass settles what has left the window.
func (r *Reversed) letPass(out *Output) {
	s := &r.shield
	for len(s.back) > 0 && s.noted-s.back[0].noted >= int64(r.cfg.ShieldWindow) {
		r.settleBack(0, out, mail.OutcomeFailed)
	}
}

// fire holds everything, and begins nothing new.
func (r *Reversed) fire(out *Output) {
	s := &r.shield
	s.fired = true
	f := &s.ever
	if s.crowded {
		f = &s.here
	}
	reason := "bounce shield: " + strconv.Itoa(f.refused) + " of the last " + strconv.Itoa(len(f.last)) + " messages were refused"
	r.reason = "" // it explains any other
	r.wind(reversedWindingUp, reason)
	out.Acts = append(out.Acts, Action{Kind: ActAlarm, At: len(out.Reply), Reason: reason})
	r.settleAll(out, mail.OutcomeHeld)
}

// judge decides about what is kept back once nothing is in the pipe, and the queue is dry or no more is begun.
func (r *Reversed) judge(out *Output) {
	s := &r.shield
	dry := r.ready.head == nil && r.drained && len(r.fetches) == 0
	switch {
	case len(s.back) == 0 || r.ending == reversedBroken || r.ending == reversedRunning && !dry:
	case r.ending == reversedRunning || !r.abnormal():
		r.settleAll(out, mail.OutcomeFailed)
	case s.crowded:
		r.fire(out)
	default:
		r.settleAll(out, mail.OutcomeDeferred)
	}
}

// abandonBack decides when the line is gone.
func (r *Reversed) abandonBack(out *Output) {
	if r.abnormal() {
		r.settleAll(out, mail.OutcomeDeferred)
	} else {
		r.settleAll(out, mail.OutcomeFailed)
	}
}

// abnormal says whether this session's share of refusals is one that the shield is for.
func (r *Reversed) abnormal() bool {
	here := &r.shield.here
	return here.refused*r.cfg.ShieldWindow > len(here.last)*r.cfg.ShieldRefusals
}

// relieve settles the oldest message that is kept back and that a crash would repeat, if next has no room because of
// such ones.
func (r *Reversed) relieve(next *reversedMsg, out *Output) {
	if r.inflight.messages < r.cfg.WindowMessages && r.inflight.bytes+next.env.WireSize <= r.cfg.WindowBytes {
		return
	}
	i := slices.IndexFunc(r.shield.back, func(m *reversedMsg) bool { return m.mixed })
	if i >= 0 {
		r.settleBack(i, out, mail.OutcomeFailed)
	}
}

func (r *Reversed) settleAll(out *Output, status mail.OutcomeStatus) {
	for len(r.shield.back) > 0 {
		r.settleBack(0, out, status)
	}
}

// settleBack settles the i-th message that is kept back; its refused recipients become status.
func (r *Reversed) settleBack(i int, out *Output, status mail.OutcomeStatus) {
	s := &r.shield
	m := s.back[i]
	s.back = slices.Delete(s.back, i, i+1)
	m.back = false
	if m.mixed {
		m.mixed = false
		s.mixed.add(-1, -m.env.WireSize)
	}
	m.become(status)
	r.settle(m, out, m.reason)
}

// become makes refused recipients something else.
func (m *reversedMsg) become(status mail.OutcomeStatus) {
	for i := range m.outcomes {
		if o := &m.outcomes[i]; o.Status == mail.OutcomeFailed {
			o.Status = status
		}
	}
	if status != mail.OutcomeFailed { // nothing is to be learned from it
		m.forgetUnknown()
	}
}

// forgetBack takes back that recipients are not known where m, which was answered later, says that they are: what is kept
// back is settled last, and would be believed.
func (r *Reversed) forgetBack(m *reversedMsg) {
	for _, b := range r.shield.back {
		if b.env.Domain != m.env.Domain {
			continue
		}
		for i := range b.outcomes {
			if o := &b.outcomes[i]; o.Rcpt == mail.RcptUnknown && m.accepted(b.env.Recipients[i].Address) {
				o.Rcpt = mail.RcptUnsaid
			}
		}
	}
}

// accepted says whether RCPT was accepted for address, which is in m's domain, however that is written.
func (m *reversedMsg) accepted(address string) bool {
	for i := range m.outcomes {
		if m.outcomes[i].Rcpt == mail.RcptAccepted && localPart(m.env.Recipients[i].Address) == localPart(address) {
			return true
		}
	}
	return false
}

// localPart is an address without its domain.
func localPart(address string) string { return address[:max(strings.LastIndexByte(address, '@'), 0)] }

// forgetUnknown takes back that recipients are not known.
func (m *reversedMsg) forgetUnknown() {
	for i := range m.outcomes {
		if o := &m.outcomes[i]; o.Rcpt == mail.RcptUnknown {
			o.Rcpt = mail.RcptUnsaid
		}
	}
}
