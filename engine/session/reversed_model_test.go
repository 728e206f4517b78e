package session

import (
	"bytes"
	"fmt"
	"math/rand"
	"slices"
	"strings"
	"testing"
	"time"

	"odmr/internal/mail"
)

// modelMsg is one held message and what the test knows of it.
type modelMsg struct {
	env     *mail.Envelope
	wire    []byte
	content []byte
	handed  bool
	begun   bool // MAIL was written
	back    bool // kept back by the shield
	settled *Action
	durable bool
}

// reversedModel drives one Reversed machine against one reversedPeer, by dice.
type reversedModel struct {
	t     *testing.T
	seed  int64
	rng   *rand.Rand
	cfg   ReversedConfig
	m     *Reversed
	peer  *reversedPeer
	now   Time
	out   Output
	msgs  []*modelMsg // in the order of arrival; handle = index + 1
	given int         // handed out by prefetches resolved so far
	open  []modelPending
	input []byte // replies on their way, delivered
	read  int    // octets of replies consumed by the machine, with those in input
	ended bool
	close bool
	trace []string

	alarms   int
	released bool // ActRelease was seen
	lingered bool // mail came to a session that lingered
	lastDry  int  // messages that were there when the last prefetch was resolved
	settleNo bool
}

type modelPending struct {
	act      Action
	items    []Item
	resolved bool
}

func (d *reversedModel) fail(format string, args ...any) {
	d.t.Helper()
	if len(d.trace) > 60 {
		d.trace = d.trace[len(d.trace)-60:]
	}
	d.t.Fatalf("seed %d: %s\npeer %+v\n%s", d.seed, fmt.Sprintf(format, args...), d.peer.kind(), strings.Join(d.trace, "\n"))
}

func (p *reversedPeer) kind() string {
	return fmt.Sprintf("pipelining=%v chunking=%v keepsOpen=%v goesOn=%v mailMax=%d rcptMax=%d tooMany=%d refusals=%v hangups=%v",
		p.pipelining, p.chunking, p.keepsOpen, p.goesOn, p.mailMax, p.rcptMax, p.tooMany, p.refusals, p.hangups)
}

func newReversedModel(t *testing.T, seed int64) *reversedModel {
	rng := rand.New(rand.NewSource(seed))
	d := &reversedModel{t: t, seed: seed, rng: rng, now: scenarioEpoch, peer: newReversedPeer(rng)}
	d.peer.fail = d.fail
	d.cfg = ReversedConfig{
		Hostname:         "odmr.example",
		PrefetchMessages: 1 + rng.Intn(20),
		PrefetchBytes:    1 << (8 + rng.Intn(10)),
		Prefetches:       1 + rng.Intn(3),
		WindowMessages:   1 + rng.Intn(20),
		WindowBytes:      1 << (8 + rng.Intn(10)),
		MaxRefusals:      []int{-1, 5, 18}[rng.Intn(3)],
	}
	if rng.Intn(2) == 0 {
		d.cfg.ShieldRefusals = 1 + rng.Intn(6)
		d.cfg.ShieldWindow = d.cfg.ShieldRefusals + 1 + rng.Intn(4)
	}
	if rng.Intn(3) == 0 {
		d.cfg.Linger = time.Duration(1+rng.Intn(1000)) * time.Second
	}
	d.m = NewReversed(&d.cfg, []string{"a.example", "b.example"})
	for range rng.Intn(40) {
		d.arrive()
	}
	return d
}

// arrive puts a message into the queue.
func (d *reversedModel) arrive() {
	n := len(d.msgs) + 1
	domain := []string{"a.example", "b.example"}[d.rng.Intn(2)]
	env := &mail.Envelope{ID: mail.ID(n), Domain: domain, ReversePath: fmt.Sprintf("s%d@far.example", n)}
	for i := range 1 + d.rng.Intn(1+d.rng.Intn(5)) {
		rc := mail.Recipient{Address: fmt.Sprintf("m%dr%d@%s", n, i, domain)}
		if i > 0 && d.rng.Intn(6) == 0 {
			rc.State = mail.Delivered
		}
		env.Recipients = append(env.Recipients, rc)
	}
	msg := &modelMsg{env: env}
	for range d.rng.Intn(6) {
		line := fmt.Sprintf("message %d %s", n, strings.Repeat("x", d.rng.Intn(200)))
		if d.rng.Intn(5) == 0 {
			line = []string{".", "..", ".x", "QUIT", "250 ok"}[d.rng.Intn(5)]
		}
		msg.content = append(msg.content, line+"\r\n"...)
		if line[0] == '.' {
			msg.wire = append(msg.wire, '.')
		}
		msg.wire = append(msg.wire, line+"\r\n"...)
	}
	env.Size, env.WireSize = int64(len(msg.content)), int64(len(msg.wire))
	env.Stuffed = env.WireSize > env.Size
	if d.rng.Intn(2) == 0 {
		env.Origin = &mail.Origin{Name: fmt.Sprintf("c%d.example", n), Source: "REMOTE"}
	}
	env.EightBit, env.SMTPUTF8 = d.rng.Intn(4) == 0, d.rng.Intn(8) == 0
	d.msgs = append(d.msgs, msg)
}

// call runs one call of the machine and performs what it wants.
func (d *reversedModel) call(what string, f func()) {
	d.trace = append(d.trace, "> "+what)
	d.out.Reset()
	f()
	d.perform()
}

func (d *reversedModel) perform() {
	at := 0
	write := func(to int) {
		if to > at {
			d.trace = append(d.trace, fmt.Sprintf("  S %q", d.out.Reply[at:to]))
			d.write(d.out.Reply[at:to])
		}
		at = to
	}
	if d.close && len(d.out.Reply) > 0 || d.ended && len(d.out.Reply) > 0 {
		d.fail("written after the end: %q", d.out.Reply)
	}
	for i := range d.out.Acts {
		a := d.out.Acts[i]
		switch a.Kind {
		case ActBody:
			write(a.At)
			d.trace = append(d.trace, fmt.Sprintf("  body %d plain=%v", a.Item, a.Plain))
			msg := d.msgs[a.Item-1]
			if msg.settled != nil || !msg.handed || msg.back {
				d.fail("body of item %d, which is not held", a.Item)
			}
			if a.Plain {
				d.write(msg.content)
			} else {
				d.write(msg.wire)
			}
		case ActClose:
			write(a.At)
			d.trace = append(d.trace, "  close "+a.Reason)
			d.close = true
		case ActPrefetch:
			if a.Messages < 1 || a.Size < 0 || d.ended || d.released || a.Messages > d.cfg.PrefetchMessages || a.Size > d.cfg.PrefetchBytes {
				d.fail("prefetch %+v", a)
			}
			d.trace = append(d.trace, fmt.Sprintf("  prefetch #%d %d %d", a.Ticket, a.Messages, a.Size))
			d.open = append(d.open, modelPending{act: a})
		case ActUnload:
			d.trace = append(d.trace, fmt.Sprintf("  unload %d", a.Item))
			d.keptBack(d.msgs[a.Item-1])
		case ActAlarm:
			d.trace = append(d.trace, "  alarm "+a.Reason)
			d.alarms++
		case ActSettle:
			d.trace = append(d.trace, fmt.Sprintf("  settle #%d %d doubt=%v %v", a.Ticket, a.Item, a.InDoubt, a.Outcomes))
			d.settle(a)
		case ActAwait:
			if d.released || len(d.open) > 0 {
				d.fail("waits for mail with something in flight")
			}
			d.trace = append(d.trace, fmt.Sprintf("  await #%d", a.Ticket))
			d.open = append(d.open, modelPending{act: a})
		case ActRelease:
			if d.released || d.ended {
				d.fail("the lease is given back twice")
			}
			d.trace = append(d.trace, "  release")
			d.released = true
			d.open = slices.DeleteFunc(d.open, func(p modelPending) bool { return p.act.Kind != ActSettle })
		default:
			d.fail("action %d", a.Kind)
		}
	}
	write(len(d.out.Reply))
	d.checkWindow()
}

func (d *reversedModel) write(b []byte) {
	if d.peer.sent == len(d.peer.out) && d.read < d.peer.sent && d.m.PeerName() == "" && d.read == 0 {
		d.fail("%q was written before the greeting", b)
	}
	if !d.peer.closed {
		d.peer.in = append(d.peer.in, b...)
	}
	for _, line := range strings.Split(string(b), "\r\n") {
		var n int
		if _, err := fmt.Sscanf(line, "MAIL FROM:<s%d@", &n); err == nil {
			d.begin(n)
		}
	}
}

// begin checks the order in which messages are first sent.
func (d *reversedModel) begin(n int) {
	msg := d.msgs[n-1]
	if !msg.begun {
		for _, later := range d.msgs[n:] {
			if later.begun && later.env.Domain == msg.env.Domain {
				d.fail("message %d comes after %d", n, later.env.ID)
			}
		}
	}
	msg.begun = true
}

// keptBack notes that the shield keeps a message back, and looks at how many those are.
func (d *reversedModel) keptBack(msg *modelMsg) {
	if msg.back || msg.settled != nil || d.cfg.ShieldRefusals == 0 || d.alarms > 0 || d.ended {
		d.fail("message %d is kept back", msg.env.ID)
	}
	msg.back = true
	n := 0
	for _, m := range d.msgs {
		if m.back && m.settled == nil {
			n++
		}
	}
	if n > d.cfg.ShieldWindow+1 { // the oldest is settled in the same call
		d.fail("%d messages are kept back", n)
	}
}

// harmless says that the peer has nothing of a message: sent again, it is no duplicate.
func (d *reversedModel) harmless(msg *modelMsg) bool {
	return !slices.ContainsFunc(d.peer.done, func(t *peerTx) bool {
		return t.from == msg.env.ReversePath && t.final != 0 && t.final < 300 &&
			slices.ContainsFunc(t.rcpts, func(rc string) bool { return slices.Contains(t.taken, rc) })
	})
}

func (d *reversedModel) checkWindow() {
	n, size := 0, int64(0)
	for _, msg := range d.msgs {
		if msg.begun && !msg.durable && !(msg.back && d.harmless(msg)) {
			n++
			size += msg.env.WireSize
		}
	}
	if n > d.cfg.WindowMessages || n > 1 && size > d.cfg.WindowBytes {
		d.fail("%d messages, %d octets in flight", n, size)
	}
}

// settle checks a settlement against what the peer decided and the machine could read.
func (d *reversedModel) settle(a Action) {
	msg := d.msgs[a.Item-1]
	if d.released {
		d.fail("item %d is settled after the lease was given back", a.Item)
	}
	if msg.settled != nil || !msg.handed {
		d.fail("item %d settled twice or never held", a.Item)
	}
	if len(a.Outcomes) != len(msg.env.Recipients) {
		d.fail("%d outcomes", len(a.Outcomes))
	}
	a.Outcomes = slices.Clone(a.Outcomes)
	msg.settled = &a
	if !d.ended {
		d.open = append(d.open, modelPending{act: a})
	}
	for i, o := range a.Outcomes {
		rc := &msg.env.Recipients[i]
		allowed := d.expect(msg, rc)
		if o.Status == mail.OutcomeHeld && d.alarms == 0 || o.Status == mail.OutcomeFailed && d.alarms > 0 {
			d.fail("message %d: %v with %d alarms", a.Item, o, d.alarms)
		}
		if d.cfg.ShieldRefusals > 0 && slices.Contains(allowed, mail.OutcomeFailed) && (d.alarms > 0 || msg.back || d.ended) {
			allowed = append(slices.Clone(allowed), mail.OutcomeHeld, mail.OutcomeDeferred)
		}
		if a.InDoubt {
			allowed = append(allowed, mail.OutcomeDeferred)
		}
		if !slices.Contains(allowed, o.Status) {
			d.fail("message %d recipient %s: %v, allowed %v", a.Item, rc.Address, o, allowed)
		}
	}
}

// expect says what may be settled for a recipient, given the replies that have been read.
func (d *reversedModel) expect(msg *modelMsg, rc *mail.Recipient) []mail.OutcomeStatus {
	if rc.State != mail.Pending {
		return []mail.OutcomeStatus{mail.OutcomeUntouched}
	}
	if msg.env.SMTPUTF8 && !d.peer.utf8 || d.peer.size > 0 && msg.env.Size > d.peer.size {
		return []mail.OutcomeStatus{mail.OutcomeFailed}
	}
	allowed := []mail.OutcomeStatus{mail.OutcomeUntouched}
	for _, t := range d.peer.done {
		if now, final := d.decided(t, msg, rc); final {
			return now
		} else if now != nil && slices.Contains(t.rcpts, rc.Address) {
			allowed = now
		} else if now != nil && (len(allowed) > 1 || allowed[0] == mail.OutcomeUntouched) {
			allowed = append(allowed, now...) // of a further transaction that was refused before its recipients
		}
	}
	return allowed
}

// decided says what one transaction decided for a recipient as far as that has been read; nil if
// nothing. final is true where nothing may change it.
func (d *reversedModel) decided(t *peerTx, msg *modelMsg, rc *mail.Recipient) (allowed []mail.OutcomeStatus, final bool) {
	status := func(code int) []mail.OutcomeStatus { return []mail.OutcomeStatus{reversedStatus(code)} }
	open := []mail.OutcomeStatus{mail.OutcomeDeferred, mail.OutcomeUntouched}
	answered := t.final != 0 && t.at <= d.read
	i := slices.Index(t.rcpts, rc.Address)
	switch {
	case t.from != msg.env.ReversePath, t.mailAt > d.read, d.peer.pipelining && !answered:
	case i >= 0 && answered && t.final < 300 && slices.Contains(t.taken, rc.Address) && t.codes[i] < 300:
		return status(250), true
	case t.mailCode == 503:
		return open, false
	case t.mailCode == 421:
		return nil, false
	case t.mailCode >= 400 && i >= 0 && t.final != 421:
		return status(t.mailCode), false
	case t.mailCode >= 400: // those of a further transaction that were not written yet
		return append(open, reversedStatus(t.mailCode)), false
	case i < 0 || t.codesAt[i] > d.read || t.final == 421 && !answered:
	case t.excess[i]:
		return open, false
	case t.codes[i] >= 400 && t.final == 421: // perhaps the last reply, perhaps not
		return append(open, reversedStatus(t.codes[i])), false
	case t.codes[i] >= 400 && answered:
		return status(t.codes[i]), false
	case t.codes[i] >= 400: // in lock-step nothing need follow
		return append(open, reversedStatus(t.codes[i])), false
	case t.final == 421:
		return open, false
	case answered:
		return status(t.final), false
	}
	return nil, false
}

// resolve fills prefetches in the order of asking, up to i.
func (d *reversedModel) resolve(i int) {
	for k := 0; k <= i; k++ {
		p := &d.open[k]
		if p.act.Kind != ActPrefetch || p.resolved {
			continue
		}
		p.resolved = true
		d.lastDry = len(d.msgs)
		bytes := int64(0)
		for d.given < len(d.msgs) && len(p.items) < p.act.Messages && (bytes < p.act.Size || len(p.items) == 0) {
			msg := d.msgs[d.given]
			d.given++
			bytes += msg.env.WireSize
			p.items = append(p.items, Item{Handle: uint32(d.given), Envelope: msg.env})
		}
	}
}

func (d *reversedModel) complete() {
	i := d.rng.Intn(len(d.open))
	if d.open[i].act.Kind == ActAwait && d.given == len(d.msgs) && d.rng.Intn(4) > 0 {
		d.linger(i)
		return
	}
	d.resolve(i)
	p := d.open[i]
	d.open = slices.Delete(d.open, i, i+1)
	res := &Result{Items: p.items}
	for _, it := range p.items {
		d.msgs[it.Handle-1].handed = true
	}
	if p.act.Kind == ActSettle {
		if d.settleNo {
			res.Refusal = &mail.Refusal{Code: 451, Text: "store"}
		}
		d.msgs[p.act.Item-1].durable = true
	}
	d.call(fmt.Sprintf("done #%d", p.act.Ticket), func() { d.m.Done(d.now, p.act.Ticket, res, &d.out) })
}

// linger lets time pass for a session that waits for mail: until it does something, or mail comes.
func (d *reversedModel) linger(i int) {
	switch k := d.rng.Intn(3); {
	case k == 0 && d.m.Deadline() != Never:
		d.now = max(d.now, d.m.Deadline())
		d.call("tick", func() { d.m.Tick(d.now, &d.out) })
	case k == 1:
		d.lingered = true
		d.arrive()
		p := d.open[i]
		d.open = slices.Delete(d.open, i, i+1)
		d.call("mail is there", func() { d.m.Done(d.now, p.act.Ticket, &Result{}, &d.out) })
	}
}

func (d *reversedModel) deliver() {
	n := 1 + d.rng.Intn(len(d.peer.out))
	d.input = append(d.input, d.peer.out[:n]...)
	d.peer.out = d.peer.out[n:]
	d.read += n
	lent := bytes.Clone(d.input)
	used := 0
	d.call(fmt.Sprintf("input %q", lent), func() { used = d.m.Input(d.now, lent, &d.out) })
	for i := range lent {
		lent[i] = 'x'
	}
	d.input = d.input[used:]
}

// run plays until the session is over.
func (d *reversedModel) run() {
	arrivals, cutAt, stopAt, yieldAt := d.rng.Intn(10), -1, -1, -1
	if d.rng.Intn(3) == 0 {
		cutAt = d.rng.Intn(600)
	}
	if d.rng.Intn(6) == 0 {
		stopAt = d.rng.Intn(300)
	}
	if d.rng.Intn(5) == 0 {
		yieldAt = d.rng.Intn(400)
	}
	d.settleNo = d.rng.Intn(30) == 0
	d.call("start", func() { d.m.Start(d.now, &d.out) })
	for step := 0; !d.close; step++ {
		if step > 200000 {
			d.fail("no end")
		}
		d.now += Time(d.rng.Intn(1000)) * 1e6
		if step == cutAt {
			break
		}
		if step == stopAt {
			d.call("stop", func() { d.m.Stop(d.now, &d.out) })
			continue
		}
		if step == yieldAt {
			d.call("yield", func() { d.m.Yield(d.now, CauseTakenOver, &d.out) })
			if !d.released && !d.close {
				d.fail("the lease is kept")
			}
			continue
		}
		switch k := d.rng.Intn(10); {
		case k < 4 && d.peer.work():
		case k < 7 && len(d.peer.out) > 0:
			d.deliver()
		case k < 9 && len(d.open) > 0:
			d.complete()
		case k == 9 && arrivals > 0:
			arrivals--
			d.arrive()
		case len(d.peer.out) > 0:
			d.deliver()
		case d.peer.work():
		case len(d.open) > 0:
			d.complete()
		case d.peer.closed:
			d.fail("the peer hung up and the machine goes on")
		default:
			d.fail("stuck in state %s, deadline %v", d.m.State(), d.m.Deadline())
		}
	}
	d.ended = true
	d.call("end", func() { d.m.End(d.now, &d.out) })
	d.checkEnd()
}

// checkEnd asks for the promises: nothing lost, nothing taken twice, nothing mixed up.
func (d *reversedModel) checkEnd() {
	taken := map[string]int{}
	for _, t := range d.peer.done {
		if t.final == 0 || t.final >= 300 || len(t.taken) == 0 {
			continue
		}
		var n, r int
		for i, rc := range t.rcpts {
			if t.codes[i] >= 300 || !slices.Contains(t.taken, rc) {
				continue
			}
			taken[rc]++
			if _, err := fmt.Sscanf(rc, "m%dr%d@", &n, &r); err != nil {
				d.fail("recipient %q", rc)
			}
			msg := d.msgs[n-1]
			if !bytes.Equal(t.body, msg.content) {
				d.fail("message %d arrived as %q", n, t.body)
			}
			if t.from != msg.env.ReversePath {
				d.fail("message %d came from %q", n, t.from)
			}
			// Never another's client; its own if XFORWARD was not refused. Who keeps a
			// transaction open takes neither XFORWARD nor MAIL within it, and mixes both up.
			want := ""
			if msg.env.Origin != nil {
				want = msg.env.Origin.Name
			}
			if !d.peer.keepsOpen && t.client != want && (t.client != "" || d.peer.xforward && !d.peer.distrusts) {
				d.fail("message %d of %q came as from %q", n, want, t.client)
			}
			// Taken by the peer: delivered, or in doubt if the reply was not read.
			switch s := msg.settled; {
			case s == nil:
				d.fail("message %d was taken and is not settled", n)
			case t.at <= d.read && s.Outcomes[r].Status != mail.OutcomeDelivered:
				d.fail("message %d was taken for %s: %v", n, rc, s.Outcomes)
			case s.Outcomes[r].Status != mail.OutcomeDelivered && !s.InDoubt:
				d.fail("message %d was taken for %s without trace", n, rc)
			}
		}
	}
	for rc, n := range taken {
		if n > 1 {
			d.fail("%s got its message %d times", rc, n)
		}
	}
	for i, msg := range d.msgs {
		if msg.back && msg.settled == nil && !d.settleNo {
			d.fail("message %d is kept back for ever", i+1)
		}
	}
	if d.alarms > 1 || d.alarms > 0 && !strings.HasPrefix(d.m.EndReason(), "bounce shield: ") {
		d.fail("%d alarms, ended by %s", d.alarms, d.m.EndReason())
	}
	if d.m.EndReason() == "queue is dry" && d.peer.quit {
		for i, msg := range d.msgs[:d.lastDry] {
			if msg.settled == nil {
				d.fail("dry, but message %d of %d is left", i+1, d.lastDry)
			}
		}
	}
}

// TestReversedAgainstRandomPeers plays many sessions, each from one seed: servers of every kind, refusals,
// 421, cuts, slow stores, mail that arrives meanwhile.
func TestReversedAgainstRandomPeers(t *testing.T) {
	seeds := int64(1000)
	if testing.Short() {
		seeds = 300
	}
	ends, lingered := map[string]int{}, 0
	for seed := int64(1); seed <= seeds; seed++ {
		d := newReversedModel(t, seed)
		d.run()
		end, _, _ := strings.Cut(d.m.EndReason(), ":")
		ends[end]++
		if d.lingered {
			lingered++
		}
	}
	if lingered == 0 {
		t.Error("no mail came to a session that lingered")
	}
	for _, end := range []string{"queue is dry", "stopped", "MAILMAX reached", "bounce shield", "no mail came in time", CauseTakenOver.String()} {
		if ends[end] == 0 {
			t.Errorf("no session ended by %q: %v", end, ends)
		}
	}
}
