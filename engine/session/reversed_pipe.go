package session

import "odmr/internal/mail"

// reversedKind is what a reply that is due answers.
type reversedKind uint8

const (
	awaitGreeting reversedKind = iota
	awaitEHLO
	awaitHELO
	awaitMail
	awaitRcpt
	awaitData    // 354 or a refusal
	awaitFinal   // the dot behind a body: the message's final reply
	awaitLoneDot // the dot behind nothing (RFC 2920 3.1): no recipient was accepted
	awaitChunk   // BDAT LAST: the message's final reply
	awaitXForward
	awaitReset
	awaitNoop
	awaitQuit
)

var reversedKindNames = [...]string{"the turn", "EHLO", "HELO", "MAIL", "RCPT", "DATA",
	"the final dot", "a lone dot", "BDAT LAST", "XFORWARD", "RSET", "NOOP", "QUIT"}

func (k reversedKind) String() string { return reversedKindNames[k] }

// reversedAwait is one reply that is due.
type reversedAwait struct {
	kind reversedKind
	rcpt int32 // awaitRcpt: index into tx.rcpts
	tx   *reversedTx
}

// reversedPipe is the FIFO of replies that are due: a ring whose length is a power of two.
type reversedPipe struct {
	ring    []reversedAwait
	from, n int
}

func (p *reversedPipe) len() int { return p.n }

func (p *reversedPipe) at(i int) *reversedAwait { return &p.ring[(p.from+i)&(len(p.ring)-1)] }

func (p *reversedPipe) head() *reversedAwait { return p.at(0) }

func (p *reversedPipe) push(a reversedAwait) {
	if p.n == len(p.ring) {
		wider := make([]reversedAwait, max(8, 2*p.n))
		for i := range p.n {
			wider[i] = *p.at(i)
		}
		p.ring, p.from = wider, 0
	}
	p.n++
	*p.at(p.n - 1) = a
}

func (p *reversedPipe) pop() reversedAwait {
	a := *p.head()
	*p.head() = reversedAwait{}
	p.from = (p.from + 1) & (len(p.ring) - 1)
	p.n--
	return a
}

// await notes a reply that is due for a command just written.
func (r *Reversed) await(now Time, a reversedAwait) {
	if r.pipe.len() == 0 {
		r.base = max(r.base, now)
	}
	r.pipe.push(a)
}

// reversedAmount is a number of messages and of octets.
type reversedAmount struct {
	messages int
	bytes    int64
}

func (a *reversedAmount) add(messages int, bytes int64) {
	a.messages += messages
	a.bytes += bytes
}

// reversedMsg is one Item from Done until its ActSettle.
type reversedMsg struct {
	handle   uint32
	env      *mail.Envelope
	seq      uint64         // order of handing out
	outcomes []mail.Outcome // parallel to env.Recipients; of sealed transactions only
	todo     []int32        // recipients not in a transaction yet
	open     int            // transactions begun and not sealed
	held     bool           // counted in Reversed.held
	begun    bool           // counted in Reversed.inflight
	queued   bool           // in Reversed.ready
	sealed   bool           // some outcome is known
	retried  bool           // MAIL was answered 503 once
	told     int            // XFORWARD commands written for the transaction to come
	doubt    bool           // set by abandon
	judged   bool           // the bounce shield has seen it
	back     bool           // kept back by the shield
	mixed    bool           // kept back, and delivered to somebody
	noted    int64          // its number among those that the shield has seen
	reason   string         // of its settlement, when it is kept back
	next     *reversedMsg   // in ready or among the free
}

// reversedRcpt is one recipient within one transaction.
type reversedRcpt struct {
	index int32 // in env.Recipients
	state reversedRcptState
	code  int
	reply string
	says  mail.RcptVerdict
}

type reversedRcptState uint8

const (
	rcptOpen     reversedRcptState = iota // not answered
	rcptAccepted                          // 2xx
	rcptRefused                           // 4xx or 5xx: code and reply say which
	rcptExcess                            // more than the peer takes at a time (RFC 5321 4.5.3.1.10)
)

// reversedTx is one mail transaction: one MAIL command and what belongs to it.
type reversedTx struct {
	msg       *reversedMsg
	rcpts     []reversedRcpt
	written   int // lock-step: RCPT commands written
	answered  int // RCPT replies seen
	accepted  int // of these 2xx
	mailCode  int // 0: not answered
	mailReply string
	begun     Time
	resets    int64       // RSET commands written before
	next      *reversedTx // among the free
}

func (t *reversedTx) mailRefused() bool { return t.mailCode >= 400 }

// hopeless reports that the peer cannot take the body for anybody. After a 503 to MAIL it may, within a transaction
// that it thinks is open.
func (t *reversedTx) hopeless() bool {
	return t.accepted == 0 && (t.mailRefused() && t.mailCode != 503 || t.answered == len(t.rcpts))
}

// reversedList is a list of messages in the order of seq.
type reversedList struct{ head, tail *reversedMsg }

// put inserts m at its place, which is the tail, or near the head for one that comes back.
func (l *reversedList) put(m *reversedMsg) {
	m.queued = true
	switch {
	case l.head == nil:
		l.head, l.tail = m, m
	case l.tail.seq < m.seq:
		l.tail.next, l.tail = m, m
	case m.seq < l.head.seq:
		m.next, l.head = l.head, m
	default:
		at := l.head
		for at.next.seq < m.seq {
			at = at.next
		}
		m.next, at.next = at.next, m
	}
}

func (l *reversedList) pop() *reversedMsg {
	m := l.head
	if m == nil {
		return nil
	}
	if l.head = m.next; l.head == nil {
		l.tail = nil
	}
	m.next, m.queued = nil, false
	return m
}

// drop takes m out if it is in.
func (l *reversedList) drop(m *reversedMsg) {
	if !m.queued {
		return
	}
	if l.head == m {
		l.pop()
		return
	}
	at := l.head
	for at.next != m {
		at = at.next
	}
	if at.next = m.next; l.tail == m {
		l.tail = at
	}
	m.next, m.queued = nil, false
}

// reversedSettles are the settlements in flight, in the order of their tickets.
type reversedSettles struct {
	list []reversedSettle
	from int // list[:from] is done with
	open int
}

type reversedSettle struct {
	ticket uint32
	begun  bool // counts in Reversed.inflight
	done   bool
	bytes  int64
}

func (s *reversedSettles) add(x reversedSettle) {
	if s.from > 0 && len(s.list) == cap(s.list) { // rather make room than grow
		s.list = s.list[:copy(s.list, s.list[s.from:])]
		s.from = 0
	}
	s.list = append(s.list, x)
	s.open++
}

// take returns the settlement with that ticket, once.
func (s *reversedSettles) take(ticket uint32) (x reversedSettle, ok bool) {
	for i := s.from; i < len(s.list); i++ {
		if s.list[i].ticket != ticket || s.list[i].done {
			continue
		}
		x = s.list[i]
		s.list[i].done = true
		s.open--
		for s.from < len(s.list) && s.list[s.from].done {
			s.from++
		}
		if s.from == len(s.list) {
			s.list, s.from = s.list[:0], 0
		}
		return x, true
	}
	return x, false
}

// newMsg takes an Item over.
func (r *Reversed) newMsg(it *Item) *reversedMsg {
	m := r.freeMsg
	if m == nil {
		m = new(reversedMsg)
	} else {
		r.freeMsg = m.next
		*m = reversedMsg{todo: m.todo[:0]}
	}
	r.seq++
	m.handle, m.env, m.seq, m.held = it.Handle, it.Envelope, r.seq, true
	m.outcomes = r.newOutcomes(len(it.Envelope.Recipients))
	for i := range it.Envelope.Recipients {
		m.outcomes[i].Status = mail.OutcomeUntouched
		if it.Envelope.Recipients[i].State == mail.Pending { // the others were settled before
			m.todo = append(m.todo, int32(i))
		}
	}
	r.held.add(1, reversedFirstSegment(m.env))
	return m
}

// outcomesSlab is how many outcomes stand in one piece of memory at the most.
const outcomesSlab = 32

// newOutcomes cuts n outcomes off a slab; the driver keeps them, so they are never used again. Slabs grow, for a
// session that gets its mail one by one (see rest) needs no more than that.
func (r *Reversed) newOutcomes(n int) []mail.Outcome {
	if n > len(r.outcomes) {
		if n > outcomesSlab/2 {
			return make([]mail.Outcome, n)
		}
		r.slab = min(max(2*r.slab, n), outcomesSlab)
		r.outcomes = make([]mail.Outcome, r.slab)
	}
	o := r.outcomes[:n:n]
	r.outcomes = r.outcomes[n:]
	return o
}

// unhold says that m's first segment is not held for later any more.
func (r *Reversed) unhold(m *reversedMsg) {
	if m.held {
		m.held = false
		r.held.add(-1, -reversedFirstSegment(m.env))
	}
}

func reversedFirstSegment(env *mail.Envelope) int64 { return min(env.WireSize, mail.LastPiece) }

// newTx begins a transaction for the first recipients that m has left to send to.
func (r *Reversed) newTx(now Time, m *reversedMsg) *reversedTx {
	t := r.freeTx
	if t == nil {
		t = new(reversedTx)
	} else {
		r.freeTx = t.next
		*t = reversedTx{rcpts: t.rcpts[:0]}
	}
	t.msg, t.begun, t.resets = m, now, r.stats.Resets
	n := min(len(m.todo), r.caps.rcptMax)
	for _, i := range m.todo[:n] {
		t.rcpts = append(t.rcpts, reversedRcpt{index: i})
	}
	m.todo = m.todo[:copy(m.todo, m.todo[n:])]
	m.open++
	return t
}

func (r *Reversed) dropTx(t *reversedTx) {
	clear(t.rcpts) // lets go of the texts
	t.msg, t.mailReply = nil, ""
	t.next, r.freeTx = r.freeTx, t
}

// settle hands m's outcomes over; the message is gone for the machine.
func (r *Reversed) settle(m *reversedMsg, out *Output, reason string) {
	if r.keepBack(m, out, reason) {
		return
	}
	r.unhold(m)
	r.ticket++
	r.settles.add(reversedSettle{ticket: r.ticket, begun: m.begun, bytes: m.env.WireSize})
	r.count(m)
	out.Acts = append(out.Acts, Action{Kind: ActSettle, Ticket: r.ticket, At: len(out.Reply), Item: m.handle,
		Outcomes: m.outcomes, InDoubt: m.doubt, Reason: reason})
	m.env, m.outcomes = nil, nil
	m.next, r.freeMsg = r.freeMsg, m
}

func (r *Reversed) count(m *reversedMsg) {
	delivered := r.stats.Delivered
	for i := range m.outcomes {
		switch m.outcomes[i].Status {
		case mail.OutcomeDelivered:
			r.stats.Delivered++
		case mail.OutcomeDeferred:
			r.stats.Deferred++
		case mail.OutcomeFailed:
			r.stats.Failed++
		case mail.OutcomeHeld:
			r.stats.Held++
		}
	}
	if r.stats.Delivered > delivered {
		r.stats.Messages++
	}
	if m.doubt {
		r.stats.InDoubt++
	}
}

// settled takes the outcome of a settlement; false if ticket is none.
func (r *Reversed) settled(ticket uint32, res *Result) bool {
	s, ok := r.settles.take(ticket)
	if !ok {
		return false
	}
	if s.begun {
		r.inflight.add(-1, -s.bytes)
	}
	if res.Refusal != nil { // the lease is lost or the store is failing: what is delivered now would come again
		r.wind(reversedBroken, "settlement failed: "+res.Refusal.Error())
	}
	return true
}

// abandon settles what a lost connection left partly answered or in doubt.
func (r *Reversed) abandon(out *Output) {
	for i := range r.pipe.len() {
		a := r.pipe.at(i)
		// RFC 5321 4.5.3.2.6: without the reply nobody knows. Octets that the driver
		// has not written yet cannot be told apart here.
		if a.unsure() {
			r.doubt(a.tx)
		}
	}
	for r.pipe.len() > 0 {
		if a := r.pipe.pop(); a.tx != nil {
			r.partial(a.tx.msg, out)
		}
	}
	if r.cur != nil {
		r.partial(r.cur.msg, out)
		r.cur = nil
	}
	for m := r.ready.pop(); m != nil; m = r.ready.pop() {
		r.partial(m, out)
	}
}

// Unsure says that some message went out whole, as far as the machine can tell, that its final reply is due, and that the peer may take it
// yet: should the session end now, it will be in doubt.
func (r *Reversed) Unsure() bool {
	if r.leaving {
		return false
	}
	for i := range r.pipe.len() {
		if a := r.pipe.at(i); a.unsure() {
			return true
		}
	}
	return false
}

// unsure says that a is the final reply to a message that the peer may have taken.
func (a *reversedAwait) unsure() bool {
	return (a.kind == awaitFinal || a.kind == awaitChunk) && !a.tx.hopeless()
}

const reversedDoubt = "451 4.4.2 connection lost before the final reply"

func (r *Reversed) doubt(t *reversedTx) {
	t.msg.doubt = true
	for i := range t.rcpts {
		t.msg.outcomes[t.rcpts[i].index] = mail.Outcome{Status: mail.OutcomeDeferred, Reply: reversedDoubt}
	}
}

// partial settles m if there is something to say about it, once. One in ready waits for its turn.
func (r *Reversed) partial(m *reversedMsg, out *Output) {
	if m.env != nil && !m.queued && !m.back && (m.sealed || m.doubt) {
		r.settle(m, out, "")
	}
}
