package pebblestore

import (
	"errors"
	"fmt"
	"slices"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
	"pgregory.net/rapid"

	"odmr/internal/mail"
	"odmr/queue"
	"odmr/queue/conformance"
)

// modelEntry is one message in the queue of one domain, as the model sees it.
type modelEntry struct {
	id       mail.ID
	size     int
	states   []mail.RecipientState
	attempts uint32
	inDoubt  bool
	handed   bool // by the present lease
}

func (e *modelEntry) deliverable() bool { return slices.Contains(e.states, mail.Pending) }
func (e *modelEntry) held() bool        { return slices.Contains(e.states, mail.Held) }
func (e *modelEntry) untold() bool {
	return (e.deliverable() || e.held()) && slices.Contains(e.states, mail.Failed)
}

// modelLease is a lease and what it has handed out.
type modelLease struct {
	lease queue.Lease
	out   []queue.Delivery
}

// queueModel is the store that a rapid test drives, and a plain model beside it.
type queueModel struct {
	t      *testing.T
	fs     *vfs.MemFS
	opts   Options
	store  *Store
	queues map[string][]*modelEntry
	leases []*modelLease
}

var modelDomains = []string{"a.example", "b.example", "c.example"}

// TestModel drives a store through random operations and compares it with a model after each.
func TestModel(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		fs := vfs.NewMem()
		opts := testOptions(t, fs)
		opts.MemTableSize, opts.poison = minMemTable, rapid.Bool().Draw(rt, "poison")
		m := &queueModel{t: t, fs: fs, opts: opts, queues: map[string][]*modelEntry{}}
		m.open(rt)
		defer func() {
			m.releaseAll()
			if err := m.store.Close(); err != nil {
				rt.Errorf("close: %v", err)
			}
		}()
		rt.Repeat(map[string]func(*rapid.T){
			"":        m.compare,
			"put":     m.put,
			"arrive":  m.arrive,
			"abort":   m.abort,
			"acquire": m.acquire,
			"next":    m.next,
			"settle":  m.settle,
			"release": m.release,
			"remove":  m.remove,
			"decide":  m.decide,
			"tell":    m.tell,
			"reopen":  m.reopen,
		})
	})
}

func (m *queueModel) open(rt *rapid.T) {
	s, err := Open("queue", m.opts)
	if err != nil {
		rt.Fatal(err)
	}
	m.store = s
}

func (m *queueModel) draw(rt *rapid.T, what string) []string {
	return rapid.SliceOfNDistinct(rapid.SampledFrom(modelDomains), 1, 3, rapid.ID[string]).Draw(rt, what)
}

func (m *queueModel) put(rt *rapid.T) { m.putTo(rt, m.draw(rt, "domains")) }

// arrive is mail for a session that stays, which often collects it at once.
func (m *queueModel) arrive(rt *rapid.T) {
	l := m.pick(rt)
	for range rapid.IntRange(1, 4).Draw(rt, "times") {
		for range rapid.SampledFrom([]int{1, 1, 1, 2, 5}).Draw(rt, "messages that come in") {
			m.putTo(rt, []string{rapid.SampledFrom(l.lease.Domains()).Draw(rt, "domain")})
		}
		if rapid.IntRange(0, 3).Draw(rt, "at once") > 0 {
			m.nextOf(rt, l)
		}
	}
}

func (m *queueModel) putTo(rt *rapid.T, domains []string) {
	size := rapid.OneOf(rapid.IntRange(0, 3000), rapid.IntRange(0, 100), rapid.IntRange(0, 100), rapid.IntRange(mail.ChunkSize-1, mail.ChunkSize+1), rapid.IntRange(mail.LastPiece-1, mail.LastPiece+1)).Draw(rt, "size")
	in, err := m.store.Begin(int64(size))
	if err != nil {
		rt.Fatal(err)
	}
	body := crashBody(in.ID(), size)
	var envs []mail.Envelope
	for _, d := range domains {
		env := benchEnvelope(d, size)
		for i := range rapid.IntRange(0, 2).Draw(rt, "more recipients") {
			state := rapid.SampledFrom([]mail.RecipientState{mail.Pending, mail.Pending, mail.Delivered, mail.Held}).Draw(rt, "state")
			env.Recipients = append(env.Recipients, mail.Recipient{Address: fmt.Sprintf("r%d@%s", i, d), State: state})
		}
		envs = append(envs, env)
		e := &modelEntry{id: in.ID(), size: size}
		for _, r := range env.Recipients {
			e.states = append(e.states, r.State)
		}
		m.queues[d] = append(m.queues[d], e)
	}
	if len(body) > mail.LastPiece {
		if err := in.Append(body[:mail.ChunkSize]); err != nil {
			rt.Fatal(err)
		}
		body = body[mail.ChunkSize:]
	}
	if err := in.Commit(body, envs); err != nil {
		rt.Fatal(err)
	}
}

func (m *queueModel) abort(rt *rapid.T) {
	in, err := m.store.Begin(0)
	if err != nil {
		rt.Fatal(err)
	}
	for range rapid.IntRange(0, 2).Draw(rt, "pieces") {
		if err := in.Append(make([]byte, mail.ChunkSize)); err != nil {
			rt.Fatal(err)
		}
	}
	in.Abort()
}

// holder is the lease that has domain, or nil.
func (m *queueModel) holder(domain string) *modelLease {
	for _, l := range m.leases {
		if slices.Contains(l.lease.Domains(), domain) {
			return l
		}
	}
	return nil
}

func (m *queueModel) acquire(rt *rapid.T) {
	domains := m.draw(rt, "domains")
	busy := slices.ContainsFunc(domains, func(d string) bool { return m.holder(d) != nil })
	l, err := m.store.Acquire(domains)
	if busy != errors.Is(err, queue.ErrBusy) || !busy && err != nil {
		rt.Fatalf("Acquire %v: %v, busy %v", domains, err, busy)
	}
	if err == nil {
		m.leases = append(m.leases, &modelLease{lease: l})
	}
}

// pick draws one of the leases.
func (m *queueModel) pick(rt *rapid.T) *modelLease {
	if len(m.leases) == 0 {
		rt.Skip("no lease")
	}
	return rapid.SampledFrom(m.leases).Draw(rt, "lease")
}

func (m *queueModel) next(rt *rapid.T) { m.nextOf(rt, m.pick(rt)) }

func (m *queueModel) nextOf(rt *rapid.T, l *modelLease) {
	n := rapid.IntRange(1, 5).Draw(rt, "messages")
	ds, err := l.lease.Next(nil, queue.Limit{Messages: n, Bytes: 1 << 30})
	if err != nil {
		rt.Fatal(err)
	}
	waiting := 0
	for _, d := range l.lease.Domains() {
		for _, e := range m.queues[d] {
			if e.deliverable() && !e.handed {
				waiting++
			}
		}
	}
	if len(ds) != min(n, waiting) {
		rt.Fatalf("%d deliveries, want %d of %d waiting", len(ds), n, waiting)
	}
	for _, d := range ds {
		var want *modelEntry
		for _, e := range m.queues[d.Key.Domain] {
			if e.deliverable() && !e.handed {
				want = e
				break
			}
		}
		if want == nil || want.id != d.Envelope.ID {
			rt.Fatalf("%s: %v handed out, want %+v", d.Key.Domain, d.Envelope.ID, want)
		}
		want.handed = true
		body, err := conformance.ReadBody(d.Body)
		if err != nil || string(body) != string(crashBody(want.id, want.size)) {
			rt.Fatalf("body of %v: %d octets, %v", want.id, len(body), err)
		}
		want.compare(rt, &d.Envelope)
	}
	l.out = append(l.out, ds...)
}

func (e *modelEntry) compare(rt *rapid.T, env *mail.Envelope) {
	states := make([]mail.RecipientState, len(env.Recipients))
	for i, r := range env.Recipients {
		states[i] = r.State
	}
	if env.ID != e.id || !slices.Equal(states, e.states) || env.Attempts != e.attempts || env.InDoubt != e.inDoubt {
		rt.Fatalf("entry %+v, want %+v", env, e)
	}
}

func (m *queueModel) settle(rt *rapid.T) {
	l := m.pick(rt)
	n := rapid.IntRange(0, len(l.out)).Draw(rt, "how many")
	ds := rapid.Permutation(l.out).Draw(rt, "order")
	var ts []queue.Settlement
	for _, d := range ds[:n] {
		st := queue.Settlement{Key: d.Key, InDoubt: rapid.IntRange(0, 4).Draw(rt, "in doubt") == 0}
		for range d.Envelope.Recipients {
			status := rapid.SampledFrom([]mail.OutcomeStatus{
				mail.OutcomeDelivered, mail.OutcomeDelivered, mail.OutcomeDeferred, mail.OutcomeFailed, mail.OutcomeHeld, mail.OutcomeUntouched,
			}).Draw(rt, "status")
			st.Outcomes = append(st.Outcomes, mail.Outcome{Status: status, Reply: "a reply"})
		}
		ts = append(ts, st)
	}
	if err := l.lease.Settle(ts); err != nil {
		rt.Fatal(err)
	}
	l.out = ds[n:]
	for i, d := range ds[:n] {
		q := m.queues[d.Key.Domain]
		at := slices.IndexFunc(q, func(e *modelEntry) bool { return e.id == d.Envelope.ID })
		q[at].settle(&ts[i])
		if !q[at].deliverable() && !slices.Contains(q[at].states, mail.Failed) && !q[at].held() {
			m.queues[d.Key.Domain] = slices.Delete(q, at, at+1)
		}
	}
}

func (e *modelEntry) settle(st *queue.Settlement) {
	deferred := false
	for i, o := range st.Outcomes {
		if e.states[i] != mail.Pending {
			continue
		}
		switch o.Status {
		case mail.OutcomeDelivered:
			e.states[i] = mail.Delivered
		case mail.OutcomeFailed:
			e.states[i] = mail.Failed
		case mail.OutcomeHeld:
			e.states[i] = mail.Held
		case mail.OutcomeDeferred:
			deferred = true
		}
	}
	e.inDoubt = e.inDoubt || st.InDoubt
	if e.deliverable() && (deferred || st.InDoubt) {
		e.attempts++
	}
}

func (m *queueModel) drop(l *modelLease) {
	l.lease.Release()
	m.leases = slices.DeleteFunc(m.leases, func(x *modelLease) bool { return x == l })
	for _, d := range l.lease.Domains() {
		for _, e := range m.queues[d] {
			e.handed = false
		}
	}
}

func (m *queueModel) release(rt *rapid.T) { m.drop(m.pick(rt)) }

func (m *queueModel) releaseAll() {
	for len(m.leases) > 0 {
		m.drop(m.leases[0])
	}
}

func (m *queueModel) remove(rt *rapid.T) {
	domain := rapid.SampledFrom(modelDomains).Draw(rt, "domain")
	if len(m.queues[domain]) == 0 {
		rt.Skip("empty")
	}
	id := rapid.SampledFrom(m.queues[domain]).Draw(rt, "message").id
	if rapid.Bool().Draw(rt, "everywhere") {
		domain = ""
	}
	want, busy := 0, false
	for _, d := range modelDomains {
		if domain != "" && d != domain || !slices.ContainsFunc(m.queues[d], func(e *modelEntry) bool { return e.id == id }) {
			continue
		}
		want++
		busy = busy || m.holder(d) != nil
	}
	n, err := m.store.Remove(domain, id)
	if busy {
		if n != 0 || !errors.Is(err, queue.ErrBusy) {
			rt.Fatalf("Remove from a leased domain: %d, %v", n, err)
		}
		return
	}
	if n != want || err != nil {
		rt.Fatalf("Remove: %d, %v, want %d", n, err, want)
	}
	for _, d := range modelDomains {
		if domain == "" || d == domain {
			m.queues[d] = slices.DeleteFunc(m.queues[d], func(e *modelEntry) bool { return e.id == id })
		}
	}
}

// decide is the operator: he may while a session drains the domain.
func (m *queueModel) decide(rt *rapid.T) {
	var all []*modelEntry
	for _, d := range modelDomains {
		all = append(all, m.queues[d]...)
	}
	if len(all) == 0 {
		rt.Skip("empty")
	}
	id := rapid.SampledFrom(all).Draw(rt, "message").id
	domain := rapid.SampledFrom(append([]string{""}, modelDomains...)).Draw(rt, "domain")
	decide, to := m.store.Release, mail.Pending
	if rapid.Bool().Draw(rt, "bounce") {
		decide, to = m.store.Bounce, mail.Failed
	}
	want := 0
	for _, d := range modelDomains {
		for _, e := range m.queues[d] {
			if e.id != id || !e.held() || domain != "" && d != domain {
				continue
			}
			want++
			e.handed = e.handed && e.deliverable() // what was out of line is new to the lease
			for i := range e.states {
				if e.states[i] == mail.Held {
					e.states[i] = to
				}
			}
		}
	}
	n, err := decide(domain, id)
	if n != want || (want == 0) != errors.Is(err, queue.ErrNotFound) || want > 0 && err != nil {
		rt.Fatalf("decide: %d, %v, want %d", n, err, want)
	}
}

// tell is the reporter: it tells of what has failed, while a session drains the domain or not.
func (m *queueModel) tell(rt *rapid.T) {
	domain := rapid.SampledFrom(modelDomains).Draw(rt, "domain")
	most := rapid.IntRange(1, 3).Draw(rt, "messages")
	var want []mail.ID
	for _, e := range m.queues[domain] {
		if e.untold() && len(want) < most {
			want = append(want, e.id)
			for i := range e.states {
				if e.states[i] == mail.Failed {
					e.states[i] = mail.Bounced
				}
			}
		}
	}
	var seqs []uint64
	if err := m.store.Walk(domain, queue.Partial, 0, func(k queue.Key, _ *mail.Envelope) bool {
		seqs = append(seqs, k.Seq)
		return len(seqs) < most
	}); err != nil {
		rt.Fatal(err)
	}
	var got []mail.ID
	if err := m.store.Review(domain, queue.Partial, seqs, func(e *queue.Reviewed) queue.Decision {
		got = append(got, e.Envelope.ID)
		e.Envelope.Told()
		return queue.Decision{Verdict: queue.Update}
	}); err != nil {
		rt.Fatal(err)
	}
	if !slices.Equal(got, want) {
		rt.Fatalf("told of %v, want %v", got, want)
	}
}

func (m *queueModel) reopen(rt *rapid.T) {
	m.releaseAll()
	if err := m.store.Close(); err != nil {
		rt.Fatal(err)
	}
	m.open(rt)
}

// compare runs after each step.
func (m *queueModel) compare(rt *rapid.T) {
	for _, v := range violations(m.t, m.store) {
		rt.Errorf("check: %s %v: %s", v.Domain, v.ID, v.Problem)
	}
	var totals queue.Counts
	for _, d := range modelDomains {
		var want queue.Counts
		for _, e := range m.queues[d] {
			if e.deliverable() {
				want.Messages++
				want.Bytes += int64(e.size)
			} else if want.Kept += int64(e.size); e.held() {
				want.Held++
			} else {
				want.Failed++
			}
			if e.untold() {
				want.Untold++
			}
		}
		if got := m.store.Counts(d); got != want {
			rt.Fatalf("%s: %+v, want %+v", d, got, want)
		}
		totals.Messages += want.Messages
		totals.Bytes += want.Bytes
		totals.Failed += want.Failed
		totals.Held += want.Held
		totals.Kept += want.Kept
		totals.Untold += want.Untold
		i := 0
		if err := m.store.List(d, func(e queue.Entry) bool {
			if i >= len(m.queues[d]) {
				rt.Fatalf("%s lists too much", d)
			}
			m.queues[d][i].compare(rt, &e.Envelope)
			i++
			return true
		}); err != nil || i != len(m.queues[d]) {
			rt.Fatalf("%s lists %d entries, want %d; %v", d, i, len(m.queues[d]), err)
		}
	}
	if got := m.store.Totals(); got != totals {
		rt.Fatalf("totals %+v, want %+v", got, totals)
	}
}
