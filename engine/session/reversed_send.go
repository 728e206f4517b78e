package session

import (
	"strconv"
	"strings"

	"odmr/internal/mail"
)

// reversedFetch is one prefetch in flight, or one that came back before an earlier one.
type reversedFetch struct {
	ticket uint32
	amount reversedAmount
	last   bool // made with nothing in the pipe: if it brings nothing, the queue is dry
	done   bool
	failed string
	items  []Item
}

// fetch asks for messages so that the next ones are there before they are needed.
func (r *Reversed) fetch(out *Output) {
	if r.state != reversedHello && r.state != reversedMail {
		return
	}
	for r.ending == reversedRunning && !r.unread && !r.drained && len(r.fetches) < r.cfg.Prefetches {
		idle := r.ready.head == nil && r.cur == nil && (r.pipe.len() == 0 || r.state == reversedHello)
		if r.dry && (!idle || len(r.fetches) > 0) {
			return // ask again once all is answered: mail that came meanwhile is still picked up
		}
		if len(r.fetches) > 0 && !r.plenty {
			return
		}
		// Half of what is allowed at a time, so that one half is fetched while the other goes out.
		ahead := reversedAmount{r.held.messages + r.asked.messages, r.held.bytes + r.asked.bytes}
		want := reversedAmount{max(1, r.cfg.PrefetchMessages/2), max(1, r.cfg.PrefetchBytes/2)}
		if ahead.messages > 0 && (ahead.messages+want.messages > r.cfg.PrefetchMessages ||
			ahead.bytes+want.bytes > r.cfg.PrefetchBytes) {
			return
		}
		if r.caps.mailMax > 0 { // RFC 9422: no more than may still be sent
			left := r.caps.mailMax - r.stats.Transactions - int64(ahead.messages)
			want.messages = int(min(int64(want.messages), left))
			if want.messages <= 0 {
				return
			}
		}
		r.ticket++
		r.fetches = append(r.fetches, reversedFetch{ticket: r.ticket, amount: want, last: idle && len(r.fetches) == 0})
		r.asked.add(want.messages, want.bytes)
		out.Acts = append(out.Acts, Action{Kind: ActPrefetch, Ticket: r.ticket, At: len(out.Reply),
			Messages: want.messages, Size: want.bytes})
	}
}

// fetched takes the outcome of a prefetch; false if ticket is none. Outcomes may come in any order
// and are used in the order of asking, which is the queue's.
func (r *Reversed) fetched(ticket uint32, res *Result) bool {
	for i := range r.fetches {
		f := &r.fetches[i]
		if f.ticket != ticket || f.done {
			continue
		}
		f.done = true
		if res.Refusal != nil {
			f.failed = "prefetch failed: " + res.Refusal.Error()
		}
		if i > 0 { // res is lent for this call only
			f.items = append(f.items, res.Items...)
			return true
		}
		r.accept(f, res.Items)
		used := 1
		for used < len(r.fetches) && r.fetches[used].done {
			r.accept(&r.fetches[used], r.fetches[used].items)
			used++
		}
		n := copy(r.fetches, r.fetches[used:])
		clear(r.fetches[n:])
		r.fetches = r.fetches[:n]
		return true
	}
	return false
}

func (r *Reversed) accept(f *reversedFetch, items []Item) {
	r.asked.add(-f.amount.messages, -f.amount.bytes)
	if f.failed != "" { // what came with it is good; no more will
		r.unread, r.drained = true, true
		if r.reason == "" {
			r.reason = f.failed
		}
	}
	if r.ending != reversedRunning || r.state > reversedMail {
		return // they are pending as before
	}
	before := r.held.bytes
	for i := range items {
		r.ready.put(r.newMsg(&items[i]))
	}
	got := r.held.bytes - before
	// Fewer than asked for, and not for their size: the store had no more. Only a hint.
	r.dry = len(items) < f.amount.messages && got < min(f.amount.bytes/2, reversedLittle) || len(items) == 0
	r.plenty = !r.dry
	if len(items) == 0 {
		r.drained = r.drained || f.last
	} else if !r.unread {
		r.drained = false
	}
}

// step writes the next thing that may be written: in lock-step one command, else a whole
// group (RFC 2920 3.1) or transaction. It reports whether there may be more.
func (r *Reversed) step(now Time, out *Output) bool {
	lockstep := !r.caps.pipelining
	switch {
	case r.sync, lockstep && r.pipe.len() > 0:
		return false
	case r.cur != nil:
		return r.stepRcpt(now, out)
	case r.ending != reversedRunning || r.ready.head == nil:
		return false
	}
	m := r.ready.head
	if !r.room(m) {
		r.relieve(m, out)
		return false
	}
	if !m.begun {
		m.begun = true
		r.inflight.add(1, m.env.WireSize)
		if r.reject(m, out) {
			return true
		}
	}
	if r.needReset {
		r.needReset = false
		r.stats.Resets++
		r.junk++
		out.Reply = append(out.Reply, "RSET\r\n"...)
		r.await(now, reversedAwait{kind: awaitReset})
		if lockstep {
			return false
		}
	}
	if r.forward(now, m, out) {
		return !lockstep
	}
	r.begin(now, m, out)
	return true
}

// room reports whether m may be begun: the window bounds what a crash would repeat, and the
// replies due are bounded too.
func (r *Reversed) room(m *reversedMsg) bool {
	if busy := r.inflight.messages - r.shield.mixed.messages; !m.begun && r.inflight.messages > 0 && (busy >= r.window ||
		r.inflight.messages >= r.cfg.WindowMessages || r.inflight.bytes+m.env.WireSize > r.cfg.WindowBytes) {
		r.limited = true
		return false
	}
	// RSET, XFORWARD, MAIL and the last command beside the recipients.
	due := min(len(m.todo), r.caps.rcptMax) + 3 + reversedMaxForward
	return r.pipe.len() == 0 || r.pipe.len()+due <= 3*r.cfg.WindowMessages+reversedMaxRcpts
}

// begin writes MAIL and, but for lock-step, all that may ride behind it.
func (r *Reversed) begin(now Time, m *reversedMsg, out *Output) {
	t := r.newTx(now, m)
	if len(m.todo) == 0 {
		r.ready.pop() // m is the head
	}
	r.stats.Transactions++
	if r.stats.Transactions == r.caps.mailMax { // RFC 9422 4.1: refused ones count too
		r.wind(reversedWindingUp, "MAILMAX reached")
	}
	out.Reply = r.appendMail(out.Reply, m.env)
	r.await(now, reversedAwait{kind: awaitMail, tx: t})
	if !r.caps.pipelining {
		r.cur = t
		return
	}
	for t.written < len(t.rcpts) {
		r.writeRcpt(now, t, out)
	}
	if r.caps.chunking {
		r.writeChunk(now, t, out)
	} else {
		r.writeData(now, t, out)
	}
}

// stepRcpt is step within a transaction in lock-step.
func (r *Reversed) stepRcpt(now Time, out *Output) bool {
	t := r.cur
	switch {
	case r.ending == reversedBroken: // QUIT ends the transaction (RFC 5321 4.1.1.10)
		r.cur = nil
		t.msg.open--
		if !t.msg.queued {
			r.ready.put(t.msg)
		}
		r.dropTx(t)
		return false
	case t.written < len(t.rcpts):
		r.writeRcpt(now, t, out)
	default:
		r.cur = nil
		r.writeData(now, t, out)
	}
	return false
}

func (r *Reversed) writeRcpt(now Time, t *reversedTx, out *Output) {
	env := t.msg.env
	out.Reply = r.appendRcpt(out.Reply, env, &env.Recipients[t.rcpts[t.written].index])
	r.await(now, reversedAwait{kind: awaitRcpt, tx: t, rcpt: int32(t.written)})
	t.written++
}

func (r *Reversed) writeData(now Time, t *reversedTx, out *Output) {
	out.Reply = append(out.Reply, "DATA\r\n"...)
	r.await(now, reversedAwait{kind: awaitData, tx: t})
	r.sync = true
}

// writeChunk sends the body as one chunk (RFC 3030 2). Stored bodies end in CRLF, which a
// customer that relays line by line depends on.
func (r *Reversed) writeChunk(now Time, t *reversedTx, out *Output) {
	env := t.msg.env
	out.Reply = append(out.Reply, "BDAT "...)
	out.Reply = strconv.AppendInt(out.Reply, env.Size, 10)
	out.Reply = append(out.Reply, " LAST\r\n"...)
	r.writeBody(t, out, env.Stuffed)
	r.await(now, reversedAwait{kind: awaitChunk, tx: t})
}

// writeDot sends the body and the final dot (RFC 5321 4.1.1.4). The wire form ends in CRLF.
func (r *Reversed) writeDot(now Time, t *reversedTx, out *Output) {
	r.writeBody(t, out, false)
	out.Reply = append(out.Reply, ".\r\n"...)
	r.await(now, reversedAwait{kind: awaitFinal, tx: t})
}

func (r *Reversed) writeBody(t *reversedTx, out *Output, plain bool) {
	r.unhold(t.msg)
	if t.msg.env.EightBit && !r.caps.eightBit {
		r.stats.EightBit++
	}
	out.Acts = append(out.Acts, Action{Kind: ActBody, At: len(out.Reply), Item: t.msg.handle, Plain: plain})
}

// reject settles a message that must not or cannot be sent to this customer.
func (r *Reversed) reject(m *reversedMsg, out *Output) bool {
	env := m.env
	if why := r.unfit(env); why != "" {
		r.stats.Misrouted++
		r.refuse(m, out, mail.Outcome{Status: mail.OutcomeDeferred, Reply: "451 4.3.5 not sent: " + why}, why)
		return true
	}
	switch {
	case len(m.todo) == 0: // all recipients were settled before
		r.refuse(m, out, mail.Outcome{}, "no recipient left")
	case !r.caps.utf8 && reversedNeedsUTF8(env): // RFC 6531 3.5
		r.refuse(m, out, mail.Outcome{Status: mail.OutcomeFailed,
			Reply: "550 5.6.7 SMTPUTF8 is required and was not offered"}, "SMTPUTF8 not offered")
	case r.caps.size > 0 && env.Size > r.caps.size: // RFC 1870 6.1
		r.refuse(m, out, mail.Outcome{Status: mail.OutcomeFailed, Reply: "552 5.3.4 message of " +
			strconv.FormatInt(env.Size, 10) + " octets exceeds the announced limit of " +
			strconv.FormatInt(r.caps.size, 10)}, "larger than the announced SIZE")
	default:
		return false
	}
	return true
}

// refuse settles m, which is the head of ready, with the same outcome for all recipients that are left.
func (r *Reversed) refuse(m *reversedMsg, out *Output, o mail.Outcome, why string) {
	for _, i := range m.todo {
		m.outcomes[i] = o
	}
	r.ready.pop()
	r.settle(m, out, why)
}

// unfit says why env must not be written to this customer, or nothing. The queue hands out what the
// session leased, and ingress checked the syntax; neither is taken for granted here, because
// a mistake would give mail to a stranger or let an address speak SMTP.
func (r *Reversed) unfit(env *mail.Envelope) string {
	if env.Domain != r.domain || env.Domain == "" {
		if _, ok := r.domains[env.Domain]; !ok || env.Domain == "" {
			return "domain not leased by this session"
		}
		r.domain = env.Domain
	}
	for i := range env.Recipients {
		a := env.Recipients[i].Address
		switch {
		case a == "" || !reversedSafePath(a):
			return "recipient address cannot be written"
		case !reversedInDomain(a, env.Domain):
			return "recipient is not in the domain of its queue"
		}
	}
	switch {
	case !reversedSafePath(env.ReversePath):
		return "reverse-path cannot be written"
	case env.Size < 0 || env.WireSize < env.Size || !env.Stuffed && env.WireSize != env.Size:
		return "sizes contradict each other" // the octets behind BDAT would be read as commands
	}
	return ""
}

// reversedSafePath reports whether a path can stand between angle brackets: no control
// character anywhere, and outside quotes no blank and no angle bracket.
func reversedSafePath(a string) bool {
	const longest = mail.MaxCommandLine / 2
	if len(a) > longest {
		return false
	}
	quoted := false
	for i := 0; i < len(a); i++ {
		c := a[i]
		switch {
		case c < ' ' || c == 0x7f:
			return false
		case c == '"':
			quoted = !quoted
		case quoted && c == '\\':
			if i++; i == len(a) || a[i] < ' ' || a[i] == 0x7f {
				return false
			}
		case !quoted && (c == ' ' || c == '<' || c == '>' || c == '\\'):
			return false
		}
	}
	return !quoted
}

// reversedSafeValue reports whether a DSN parameter's value can be written (RFC 5321 4.1.2 esmtp-value,
// RFC 6533 3 for what is beyond ASCII).
func reversedSafeValue(v string) bool {
	const longest = 1000
	for i := 0; i < len(v); i++ {
		if v[i] <= ' ' || v[i] == 0x7f {
			return false
		}
	}
	return v != "" && len(v) <= longest
}

// reversedInDomain reports whether address is in domain (lower-case A-labels); postmaster without a
// domain is in each (RFC 5321 4.1.1.3).
func reversedInDomain(address, domain string) bool {
	at := strings.LastIndexByte(address, '@')
	if at < 0 {
		return strings.EqualFold(address, "postmaster")
	}
	return reversedSameDomain(address[at+1:], domain)
}

func reversedNeedsUTF8(env *mail.Envelope) bool {
	if env.SMTPUTF8 || !reversedASCII(env.ReversePath) {
		return true
	}
	for i := range env.Recipients {
		if !reversedASCII(env.Recipients[i].Address) {
			return true
		}
	}
	return false
}

func reversedASCII(s string) bool {
	for i := 0; i < len(s); i++ {
		if s[i] >= 0x80 {
			return false
		}
	}
	return true
}

// appendMail appends MAIL with the parameters that the peer offered.
func (r *Reversed) appendMail(b []byte, env *mail.Envelope) []byte {
	b = append(b, "MAIL FROM:<"...)
	b = append(b, env.ReversePath...)
	b = append(b, '>')
	if r.caps.sizeKnown { // RFC 1870 6.1
		b = append(b, " SIZE="...)
		b = strconv.AppendInt(b, env.Size, 10)
	}
	if r.caps.eightBit && (env.EightBit || env.Body == mail.Body8BitMIME) { // RFC 6152 3
		b = append(b, " BODY=8BITMIME"...)
	}
	if r.caps.utf8 && reversedNeedsUTF8(env) { // RFC 6531 3.4
		b = append(b, " SMTPUTF8"...)
	}
	if r.caps.dsn { // RFC 3461 4.3, 4.4
		switch env.Ret {
		case mail.ReturnFull:
			b = append(b, " RET=FULL"...)
		case mail.ReturnHeaders:
			b = append(b, " RET=HDRS"...)
		}
		if reversedSafeValue(env.EnvID) {
			b = append(b, " ENVID="...)
			b = append(b, env.EnvID...)
		}
	}
	return append(b, '\r', '\n')
}

// appendRcpt appends RCPT with the parameters that the peer offered.
func (r *Reversed) appendRcpt(b []byte, env *mail.Envelope, rcpt *mail.Recipient) []byte {
	b = append(b, "RCPT TO:<"...)
	b = append(b, rcpt.Address...)
	b = append(b, '>')
	if r.caps.dsn {
		b = appendNotify(b, rcpt.Notify)
		if reversedSafeValue(rcpt.ORcpt) && (r.caps.utf8 || reversedASCII(rcpt.ORcpt)) { // RFC 3461 4.2
			b = append(b, " ORCPT="...)
			b = append(b, rcpt.ORcpt...)
		}
	}
	return append(b, '\r', '\n')
}

// appendNotify appends NOTIFY (RFC 3461 4.1): NEVER stands alone.
func appendNotify(b []byte, n mail.Notify) []byte {
	if n == 0 {
		return b
	}
	b = append(b, " NOTIFY="...)
	if n&mail.NotifyNever != 0 {
		return append(b, "NEVER"...)
	}
	start := len(b)
	for _, p := range [...]struct {
		bit  mail.Notify
		name string
	}{{mail.NotifySuccess, "SUCCESS"}, {mail.NotifyFailure, "FAILURE"}, {mail.NotifyDelay, "DELAY"}} {
		if n&p.bit != 0 {
			if len(b) > start {
				b = append(b, ',')
			}
			b = append(b, p.name...)
		}
	}
	return b
}
