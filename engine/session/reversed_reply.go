package session

import (
	"strconv"

	"odmr/codec"
	"odmr/internal/mail"
)

// What may be in the pipe when a refusal comes, and what follows. "Rest" is what is due for
// the same transaction; it was written before the refusal could be known, and its replies
// are read and only used where the table says so. "Next" is the group or the transactions
// written behind; they are never touched by a refusal before them.
//
//	way        reply              in the pipe behind it      what follows
//	lock-step  MAIL 4xx 5xx       nothing                    sealed; no RSET, nothing is open
//	lock-step  last RCPT, none ok nothing                    sealed; RSET before the next MAIL
//	lock-step  DATA 4xx 5xx       nothing                    sealed; RSET before the next MAIL
//	any        MAIL 503           rest                       the peer thinks a transaction is open: the message
//	                                                         goes again behind RSET, once; then deferred
//	DATA       MAIL 4xx 5xx       RCPT.. DATA                RCPT replies only counted; DATA decides:
//	             DATA refused                                sealed by MAIL's reply; no RSET
//	             DATA 354, no RCPT ok                        lone dot; the next group may ride behind it
//	             DATA 354, some RCPT ok                      close: a dot would make an empty message
//	DATA       every RCPT refused DATA
//	             DATA refused                                sealed; RSET in front of the next group
//	             DATA 354                                    lone dot (RFC 2920 3.1), its reply is a refusal
//	                                                         whatever it says; next rides behind; no RSET
//	DATA       some RCPT ok, DATA refused                    sealed by DATA's reply; RSET. No body was
//	                                                         written, nor anything behind DATA
//	DATA       final dot refused  next: MAIL RCPT.. DATA     sealed; next is as good as written: the dot
//	                                                         ended the transaction (RFC 5321 4.1.1.4)
//	BDAT       MAIL refused       RCPT.. BDAT, next          sealed at BDAT's reply, by MAIL's
//	BDAT       every RCPT refused BDAT, next                 sealed at BDAT's reply whatever it says; RSET before
//	                                                         what is not written yet. If the peer holds
//	                                                         the transaction open, next's MAIL gets 503: above
//	BDAT       BDAT refused       next                       sealed by BDAT's reply; RSET likewise
//	any        XFORWARD 4xx 5xx   rest                       as if it had not been said; not said again unless it was taken before
//	any        421                anything                   a final reply settles its message as deferred, recipients
//	                                                         refused before included; all else is as if the line were cut; close
//	any        cut, timeout       anything                   bodies handed over without final reply: in doubt,
//	                                                         unless MAIL or every RCPT was refused; else untouched
//
// A 354 to anything but DATA, a 2xx to DATA, a 3xx to anything else and a reply that nothing is due
// for are breaches of the protocol: close, as if the line were cut.

// reply takes one reply: it belongs to the head of the pipe.
func (r *Reversed) reply(now Time, rep *codec.Reply, out *Output) {
	if rep.Code == 421 { // RFC 5321 3.8: at any time, asked or not
		r.over(rep, out)
		return
	}
	if r.pipe.len() == 0 {
		r.close(out, "protocol error: unexpected reply "+r.text(rep))
		return
	}
	a := r.pipe.pop()
	r.base = max(r.base, now)
	if rep.Code >= 300 && rep.Code < 400 && a.kind != awaitData || rep.Code < 300 && a.kind == awaitData {
		r.pipe.push(a) // it is not answered
		r.close(out, "protocol error: reply to "+a.kind.String()+": "+r.text(rep))
		return
	}
	switch a.kind {
	case awaitGreeting:
		r.greeted(now, rep, out)
	case awaitEHLO, awaitHELO:
		r.helloed(now, a.kind, rep, out)
	case awaitQuit:
		r.bye = true
		r.close(out, "")
	default:
		if rep.Code >= 400 {
			r.refusal()
		}
		r.replyMail(now, a, rep, out)
	}
}

// replyMail takes a reply to a command of the transactions.
func (r *Reversed) replyMail(now Time, a reversedAwait, rep *codec.Reply, out *Output) {
	t := a.tx
	switch a.kind {
	case awaitMail:
		t.mailCode = rep.Code
		if t.mailRefused() {
			t.mailReply = r.text(rep)
			if r.cur == t {
				r.cur = nil
				r.seal(t, rep, out)
			}
		}
	case awaitRcpt:
		r.answerRcpt(t, a.rcpt, rep)
		if r.cur == t && t.hopeless() {
			r.cur = nil
			r.resetBehind(t)
			r.seal(t, rep, out)
		}
	case awaitData:
		r.sync = false
		r.answerData(now, t, rep, out)
	case awaitLoneDot:
		r.seal(t, rep, out)
	case awaitFinal, awaitChunk:
		if a.kind == awaitChunk && rep.Code >= 400 && !t.mailRefused() { // RFC 3030 2
			r.resetBehind(t)
		}
		r.adapt(now, t, rep.Code)
		r.seal(t, rep, out)
	case awaitNoop:
		r.sync = false
		if rep.Code >= 400 { // the customer has waited long enough
			r.wake()
			r.wind(reversedWindingUp, "NOOP refused: "+r.text(rep))
		}
	case awaitXForward:
		if rep.Code < 300 {
			r.believed = true
		} else if !r.believed { // it has no bearing on the message; no need to try again
			r.caps.xforward = 0
		}
	case awaitReset:
		if rep.Code >= 400 {
			r.wind(reversedWindingUp, "RSET refused: "+r.text(rep))
		}
	}
}

// answerRcpt notes the reply to one RCPT.
func (r *Reversed) answerRcpt(t *reversedTx, i int32, rep *codec.Reply) {
	c := &t.rcpts[i]
	t.answered++
	switch {
	case rep.Code < 300:
		c.state, c.says = rcptAccepted, mail.RcptAccepted
		t.accepted++
		return
	case t.mailRefused(): // follows from that: 503, "need MAIL"
		return
	}
	c.state, c.code, c.reply = rcptRefused, rep.Code, r.text(rep)
	// Some servers refuse bounces and call-outs where they would take mail.
	if class, subject, detail, ok := rep.Enhanced(); ok && rep.Code == 550 && class == 5 && subject == 1 && detail == 1 && t.msg.env.ReversePath != "" {
		c.says = mail.RcptUnknown // RFC 3463 3.2
	}
	if rep.Code != 452 && rep.Code != 552 {
		return
	}
	// RFC 5321 4.5.3.1.10: 452 is "too many recipients", and 552 is to be treated as 452. Both have
	// other meanings too, which only the enhanced code can tell.
	_, subject, detail, enhanced := rep.Enhanced()
	tooMany := subject == 5 && detail == 3
	if tooMany || !enhanced {
		c.code = 452
		if t.accepted > 0 {
			c.state = rcptExcess
			r.caps.rcptMax = max(1, min(r.caps.rcptMax, t.accepted))
		}
	}
}

// answerData takes the reply to DATA, behind which nothing has been written.
func (r *Reversed) answerData(now Time, t *reversedTx, rep *codec.Reply, out *Output) {
	switch {
	case rep.Code >= 400:
		if !t.mailRefused() {
			r.resetBehind(t)
		}
		r.seal(t, rep, out)
	case t.hopeless(): // RFC 2920 3.1
		out.Reply = append(out.Reply, ".\r\n"...)
		r.await(now, reversedAwait{kind: awaitLoneDot, tx: t})
	case t.mailRefused():
		r.putBack(t)
		r.close(out, "protocol error: DATA taken although MAIL was refused")
	case r.ending == reversedBroken: // what would be delivered now could not be settled
		r.putBack(t)
		r.close(out, r.reason)
	default:
		r.carry(t) // first, so that they go before the next message
		r.writeDot(now, t, out)
	}
}

// carry takes the recipients beyond what the peer takes at a time out of t; they go in a
// further transaction of the message.
func (r *Reversed) carry(t *reversedTx) {
	m, kept := t.msg, t.rcpts[:0]
	for i := range t.rcpts {
		if t.rcpts[i].state == rcptExcess {
			m.todo = append(m.todo, t.rcpts[i].index)
		} else {
			kept = append(kept, t.rcpts[i])
		}
	}
	if len(kept) == len(t.rcpts) {
		return
	}
	t.rcpts, t.answered = kept, len(kept)
	if !m.queued {
		r.ready.put(m)
	}
}

// resetBehind notes that the peer may have a transaction open behind t, unless RSET was written since.
func (r *Reversed) resetBehind(t *reversedTx) {
	r.needReset = r.needReset || t.resets == r.stats.Resets
}

// putBack makes t's message one that was not begun, for End to find.
func (r *Reversed) putBack(t *reversedTx) {
	m := t.msg
	m.open--
	if !m.queued {
		r.ready.put(m)
	}
	r.dropTx(t)
}

// seal ends a transaction with its last reply, and settles the message if that was all of it.
func (r *Reversed) seal(t *reversedTx, last *codec.Reply, out *Output) {
	m := t.msg
	m.open--
	if t.mailCode == 503 && !m.retried && t.accepted == 0 && last.Code != 421 {
		// RFC 5321 4.1.4: not about the message. It goes again, at its old place.
		m.retried = true
		r.resetBehind(t)
		for i := range t.rcpts {
			m.todo = append(m.todo, t.rcpts[i].index)
		}
	} else {
		r.carry(t)
		r.record(t, last)
	}
	r.dropTx(t)
	if len(m.todo) == 0 && m.open == 0 {
		r.settle(m, out, "")
		return
	}
	// It is settled behind others, one of which may be taken for a recipient that was not known here.
	m.forgetUnknown()
	if len(m.todo) > 0 && !m.queued {
		r.ready.put(m)
	}
}

// record turns a sealed transaction's replies into outcomes.
func (r *Reversed) record(t *reversedTx, last *codec.Reply) {
	m := t.msg
	m.sealed = true
	final := ""
	if t.accepted > 0 {
		final = r.text(last)
		if last.Code < 300 {
			r.errors, r.junk = 0, 0
			r.stats.Bytes += m.env.Size
		}
	}
	for i := range t.rcpts {
		c := &t.rcpts[i]
		o := &m.outcomes[c.index]
		switch {
		case c.state == rcptAccepted && (!t.mailRefused() || last.Code < 300):
			*o = mail.Outcome{Status: reversedStatus(last.Code), Reply: final, Relayed: last.Code < 300 && r.relays(m.env, c.index)}
		case t.mailCode == 503:
			*o = mail.Outcome{Status: mail.OutcomeDeferred, Reply: t.mailReply}
		case t.mailRefused():
			*o = mail.Outcome{Status: reversedStatus(t.mailCode), Reply: t.mailReply}
		default:
			*o = mail.Outcome{Status: reversedStatus(c.code), Reply: c.reply}
		}
		if last.Code == 421 && o.Status == mail.OutcomeFailed { // a server that goes down fails nobody
			o.Status = mail.OutcomeDeferred
		}
		if o.Rcpt = c.says; c.says == mail.RcptUnknown && o.Status != mail.OutcomeFailed {
			o.Rcpt = mail.RcptUnsaid
		}
	}
	// For those that were to follow in a further transaction too; not if the peer took this one within another.
	if t.mailRefused() && t.accepted == 0 && len(m.todo) > 0 {
		for _, i := range m.todo {
			m.outcomes[i] = m.outcomes[t.rcpts[0].index]
		}
		m.todo = m.todo[:0]
		r.ready.drop(m)
	}
}

// relays says whether the sender of a message wants to hear that its i-th recipient was delivered, and will not hear it from
// the customer's server, which was not told (RFC 3461 5.2.2).
func (r *Reversed) relays(env *mail.Envelope, i int32) bool {
	return !r.caps.dsn && env.ReversePath != "" && env.Recipients[i].Notify&mail.NotifySuccess != 0
}

func reversedStatus(code int) mail.OutcomeStatus {
	switch {
	case code < 300:
		return mail.OutcomeDelivered
	case code >= 500:
		return mail.OutcomeFailed
	}
	return mail.OutcomeDeferred
}

// over ends the session for a 421: never a failure of a message (RFC 5321 3.8).
func (r *Reversed) over(rep *codec.Reply, out *Output) {
	text := r.text(rep)
	r.leaving = true
	if r.pipe.len() > 0 {
		switch a := r.pipe.head(); a.kind {
		case awaitFinal, awaitChunk, awaitLoneDot: // the last reply of its transaction
			t := r.pipe.pop().tx
			r.stats.Refusals++
			r.seal(t, rep, out)
		case awaitQuit:
			text = ""
		default:
		}
	}
	r.close(out, text)
}

// refusal counts a 4xx or 5xx. Too many in a row and the peer would drop the line in the middle of
// something (Postfix: 421 after 20): better to leave in good order.
func (r *Reversed) refusal() {
	r.stats.Refusals++
	r.errors++
	if r.errors == r.cfg.MaxRefusals {
		r.shield.crowded = true
		r.wind(reversedWindingUp, strconv.Itoa(r.errors)+" refusals in a row")
	}
}

// adapt widens the window while final replies flow and halves it when they lag or refuse for now:
// what is in flight is what a lost line leaves in doubt.
func (r *Reversed) adapt(now Time, t *reversedTx, code int) {
	lagging := now-t.begun > reversedLag
	switch {
	case lagging || code >= 400 && code < 500:
		if t.begun >= r.shrunk { // once for what was written before
			r.window = max(r.window/2, min(reversedLeastWindow, r.cfg.WindowMessages))
			r.shrunk = now
		}
	case code < 300 && r.limited && r.window < r.cfg.WindowMessages:
		r.limited = false
		r.window++
		r.stats.Window = max(r.stats.Window, int64(r.window))
	}
}

// text returns a reply in one printable line of at most mail.MaxReplyKept octets: its code and
// the texts of its lines. The same text twice costs one string.
func (r *Reversed) text(rep *codec.Reply) string {
	b := strconv.AppendInt(r.scratch[:0], int64(rep.Code), 10)
	for line := range rep.All() {
		if len(line) > 0 && len(b) < mail.MaxReplyKept {
			b = append(b, ' ')
			b = append(b, line[:min(len(line), mail.MaxReplyKept-len(b))]...)
		}
	}
	for i, c := range b {
		if c < ' ' || c > '~' {
			b[i] = '?'
		}
	}
	r.scratch = b
	if string(b) != r.lastText {
		r.lastText = string(b)
	}
	return r.lastText
}

func reversedPrintable(b []byte) string {
	s := []byte(string(b))
	for i, c := range s {
		if c < ' ' || c > '~' {
			s[i] = '?'
		}
	}
	return string(s)
}
