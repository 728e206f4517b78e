package pebblestore

import (
	"bytes"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"odmr/internal/mail"
	"odmr/queue"
	"odmr/queue/conformance"
	"odmr/queue/pebblestore/crashfs"
)

// The crash test runs senders, customers and an operator against a store on a file system that knows
// what was synced, takes crash clones of it at random moments, opens each, and compares it with what had been
// promised by then. Every operation has a beginning and an end on one logical clock, and so has
// every clone: an operation that ended before the clone began must be there, one that began after it ended must not,
// and those between may or may not.

// crashSeeds is how many seeds are run: 100 (4 under the race detector), or ODMR_CRASH_SEEDS. Each has several crashes.
func crashSeeds(t *testing.T) int {
	v := os.Getenv("ODMR_CRASH_SEEDS")
	if v == "" && underRace {
		return 4
	}
	if v == "" {
		return 100
	}
	n, err := strconv.Atoi(v)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func TestCrash(t *testing.T) {
	seeds := crashSeeds(t)
	met := crashMet{counts: map[string]int{}}
	t.Cleanup(func() {
		t.Logf("%d seeds: %v", seeds, met.counts)
		for _, what := range []string{
			"crashes", "expired", "a report at the end", "a report while others wait", "a message that was there", "settlements together",
			"handed out to one who stayed",
		} {
			if met.counts[what] == 0 && seeds >= 20 {
				t.Errorf("never met: %s", what)
			}
		}
	})
	const shards = 4
	for shard := range shards {
		t.Run(fmt.Sprint("shard", shard), func(t *testing.T) {
			t.Parallel()
			for seed := shard; seed < seeds; seed += shards {
				for _, problem := range crashRun(t, uint64(seed), false, &met) {
					t.Errorf("seed %d: %s", seed, problem)
				}
				if t.Failed() {
					return
				}
			}
		})
	}
}

// TestCrashNotices proves that TestCrash can fail: without syncs, it must.
func TestCrashNotices(t *testing.T) {
	for seed := range uint64(20) {
		if problems := crashRun(t, seed, true, &crashMet{counts: map[string]int{}}); len(problems) > 0 {
			t.Logf("seed %d: %d problems, the first: %s", seed, len(problems), problems[0])
			return
		}
	}
	t.Fatal("20 seeds without a sync, and nothing was missed")
}

// crashMet counts what happened in all runs.
type crashMet struct {
	mu     sync.Mutex
	counts map[string]int
}

func (m *crashMet) add(counts map[string]int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for what, n := range counts {
		m.counts[what] += n
	}
}

// span is an operation's place on the logical clock.
type span struct{ began, ended int64 }

const never = math.MaxInt64

// crashEntry is what the history knows about one message in the queue of one domain. It leaves once all of its recipients
// are at their end.
type crashEntry struct {
	removal  span        // by Remove; began is never if there was none
	changes  [][]*change // of each recipient's state, one after the other
	deferred []*span
}

// change is an operation that gave a recipient another state.
type change struct {
	span
	to   mail.RecipientState
	told bool // by a Review that left a report on it
}

type crashMessage struct {
	id      mail.ID
	size    int
	commit  span
	shown   int64 // when it was first handed out, perhaps before its Commit returned; 0: never
	entries map[string]*crashEntry
	stamps  []queue.Stamp
}

// history is all that happened to a store.
type history struct {
	mu       sync.Mutex
	clock    int64
	messages map[mail.ID]*crashMessage
	stamped  map[queue.Stamp][]span // when a stamp was said to be there
	met      map[string]int         // what happened how often
}

func (h *history) now() int64 {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.clock
}

func (h *history) tick() int64 {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.clock++
	return h.clock
}

// crashClone is a file system as a crash left it, between two moments.
type crashClone struct {
	fs   *crashfs.Mem
	when span
}

var crashDomains = []string{"a.example", "b.example", "c.example"}

func crashRun(t *testing.T, seed uint64, noSync bool, met *crashMet) (problems []string) {
	rng := rand.New(rand.NewPCG(seed, 0))
	fs := crashfs.NewMem()
	opts := testOptions(t, fs)
	opts.noSync = noSync
	opts.MemTableSize = int64(minMemTable << rng.IntN(5))
	opts.FlushDeleted = 1 << (10 + rng.IntN(10))
	s, err := Open("queue", opts)
	if err != nil {
		t.Fatalf("seed %d: %v", seed, err)
	}
	h := &history{messages: map[mail.ID]*crashMessage{}, stamped: map[queue.Stamp][]span{}, met: map[string]int{}}
	var wg sync.WaitGroup
	for w := range uint64(3) {
		wg.Go(func() { crashSend(t, s, h, rand.New(rand.NewPCG(seed, 10+w))) })
	}
	stop := make(chan struct{})
	var drains sync.WaitGroup
	for w := range uint64(2) {
		drains.Go(func() { crashCollect(t, s, h, rand.New(rand.NewPCG(seed, 20+w)), stop) })
	}
	var clones []crashClone
	drains.Go(func() { clones = crashes(h, fs, rand.New(rand.NewPCG(seed, 30)), stop) })
	wg.Wait()
	close(stop)
	drains.Wait()
	mustClean(t, s)
	if err := s.Close(); err != nil {
		t.Fatalf("seed %d: %v", seed, err)
	}
	for i, c := range clones {
		opts.FS, opts.noSync = c.fs, false
		// The recovery itself may crash, too.
		for round := range 2 {
			h.met["crashes"]++
			if found := crashVerify(t, h, c.when, opts); len(found) > 0 {
				for _, p := range found {
					problems = append(problems, fmt.Sprintf("crash %d, round %d: %s", i, round, p))
				}
				break
			}
			opts.FS = opts.FS.(*crashfs.Mem).CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: rng.IntN(101), RNG: rng})
		}
	}
	met.add(h.met)
	return problems
}

// crashes takes clones until stop, and one at the end.
func crashes(h *history, fs *crashfs.Mem, rng *rand.Rand, stop <-chan struct{}) (clones []crashClone) {
	for last := false; !last; {
		due := h.tick() + int64(20+rng.IntN(60))
		for !last && h.now() < due {
			select {
			case <-stop:
				last = true
			case <-time.After(20 * time.Microsecond):
			}
		}
		c := crashClone{when: span{began: h.tick()}}
		c.fs = fs.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: []int{0, 30, 70, 100}[rng.IntN(4)], RNG: rng})
		c.when.ended = h.tick()
		clones = append(clones, c)
	}
	return clones
}

// crashBody is the content of a message: its own id, again and again.
func crashBody(id mail.ID, size int) []byte {
	b := make([]byte, 0, size+16)
	for len(b) < size {
		b = append(id.Append(b), '\r', '\n')
	}
	return b[:size]
}

func crashSend(t *testing.T, s *Store, h *history, rng *rand.Rand) {
	for range 12 {
		size := rng.IntN(2000)
		if rng.IntN(5) == 0 {
			size = rng.IntN(3 * mail.ChunkSize)
		}
		in, err := s.Begin(int64(size))
		if err != nil {
			t.Error(err)
			return
		}
		m := &crashMessage{id: in.ID(), size: size, commit: span{never, never}, entries: map[string]*crashEntry{}}
		body := crashBody(in.ID(), size)
		var envs []mail.Envelope
		for _, d := range rng.Perm(len(crashDomains))[:1+rng.IntN(len(crashDomains))] {
			env := benchEnvelope(crashDomains[d], size)
			for range rng.IntN(3) {
				env.Recipients = append(env.Recipients, mail.Recipient{Address: fmt.Sprintf("user%d@%s", len(env.Recipients), env.Domain)})
			}
			envs = append(envs, env)
			m.entries[env.Domain] = &crashEntry{removal: span{never, never}, changes: make([][]*change, len(env.Recipients))}
		}
		h.mu.Lock()
		h.messages[m.id] = m
		h.mu.Unlock()
		for ; len(body) > mail.LastPiece; body = body[mail.ChunkSize:] {
			if err := in.Append(body[:mail.ChunkSize]); err != nil {
				t.Error(err)
			}
		}
		if rng.IntN(10) == 0 {
			in.Abort()
			continue
		}
		if rng.IntN(3) == 0 {
			h.mu.Lock()
			m.stamps = crashPick(rng)
			h.mu.Unlock()
			in.Once(m.stamps)
			crashCommitOnce(t, s, h, m, func() error { return in.Commit(body, envs) })
			continue
		}
		h.begin(&m.commit)
		if err := in.Commit(body, envs); err != nil {
			t.Error(err)
		}
		h.end(&m.commit)
	}
}

// begin and end enter an operation's moments; the history is read under its lock.
func (h *history) begin(spans ...*span) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.clock++
	for _, sp := range spans {
		sp.began = h.clock
	}
}

func (h *history) end(spans ...*span) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.clock++
	for _, sp := range spans {
		sp.ended = h.clock
	}
}

func (h *history) entry(id mail.ID, domain string) *crashEntry {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.messages[id].entries[domain]
}

func crashCollect(t *testing.T, s *Store, h *history, rng *rand.Rand, stop <-chan struct{}) {
	for {
		select {
		case <-stop:
			return
		default:
		}
		domain := crashDomains[rng.IntN(len(crashDomains))]
		switch rng.IntN(9) {
		case 0:
			crashRemove(t, s, h, domain)
			continue
		case 1, 2, 3:
			stages := []queue.Stage{queue.Waiting, queue.Settled, queue.Partial, queue.Partial}
			crashReview(t, s, h, domain, stages[rng.IntN(len(stages))])
			continue
		}
		var sessions []*crashSession // some have their settlements on the way at the same time
		for _, d := range rng.Perm(len(crashDomains))[:1+rng.IntN(2)] {
			l, err := s.Acquire([]string{crashDomains[d]})
			if errors.Is(err, queue.ErrBusy) {
				continue
			}
			if err != nil {
				t.Error(err)
				return
			}
			sessions = append(sessions, &crashSession{t: t, h: h, lease: l, domain: crashDomains[d]})
		}
		for turn := range 1 + rng.IntN(3) { // some stay for what comes in
			for _, c := range sessions {
				stayed := c.stay()
				if c.settle(rng) > 0 && turn > 0 && stayed {
					h.count("handed out to one who stayed")
				}
			}
			for _, c := range sessions {
				c.wait()
			}
		}
		for _, c := range sessions {
			for i := range c.settled {
				crashDecide(t, s, h, &c.settled[i], rng.IntN(3))
			}
			c.lease.Release()
		}
	}
}

// crashSession is a session with one domain.
type crashSession struct {
	t       *testing.T
	h       *history
	lease   queue.Lease
	domain  string
	spans   []*span // of what is on its way
	told    chan error
	settled []mail.Envelope // as they are then
}

// Committed implements queue.Waiter.
func (c *crashSession) Committed(err error) { c.told <- err }

// stay waits a moment for mail. It says false if there is some already.
func (c *crashSession) stay() bool {
	for n := range 20 {
		if c.lease.Waiting().Messages > 0 {
			return n > 0
		}
		time.Sleep(20 * time.Microsecond)
	}
	return true
}

// settle hands out some messages and settles them: one after the other, or all at once and without waiting. It returns how many.
func (c *crashSession) settle(rng *rand.Rand) int {
	ds, err := c.lease.Next(nil, queue.Limit{Messages: 1 + rng.IntN(3), Bytes: 1 << 20})
	if err != nil {
		c.t.Error(err)
	}
	together := rng.IntN(2) == 0
	var list []queue.Settlement
	for i := range ds {
		ds[i].Body.Close()
		c.h.show(ds[i].Envelope.ID)
		st, spans := c.outcomes(&ds[i], rng)
		if list, c.spans = append(list, st), append(c.spans, spans...); together {
			continue
		}
		c.h.begin(c.spans...)
		if err := c.lease.Settle(list); err != nil {
			c.t.Error(err)
		}
		c.h.end(c.spans...)
		list, c.spans = nil, nil
	}
	if len(list) > 0 {
		c.told = make(chan error, 1)
		c.h.begin(c.spans...)
		c.lease.SettleTo(list, c)
	}
	return len(ds)
}

// wait waits for what is on its way.
func (c *crashSession) wait() {
	if c.told == nil {
		return
	}
	if err := <-c.told; err != nil {
		c.t.Error(err)
	}
	c.h.end(c.spans...)
	c.told, c.spans = nil, nil
	c.h.count("settlements together")
}

// outcomes throws the dice for each recipient that waits, and enters what becomes of it; the moments are to be set.
func (c *crashSession) outcomes(d *queue.Delivery, rng *rand.Rand) (queue.Settlement, []*span) {
	e := c.h.entry(d.Envelope.ID, c.domain)
	st := queue.Settlement{Key: d.Key, Outcomes: make([]mail.Outcome, len(d.Envelope.Recipients))}
	var spans []*span
	deferred := false
	for i := range st.Outcomes {
		o, r := &st.Outcomes[i], &d.Envelope.Recipients[i]
		if o.Status = mail.OutcomeUntouched; r.State != mail.Pending {
			continue
		}
		*o = mail.Outcome{Status: mail.OutcomeStatus(rng.IntN(int(mail.OutcomeUntouched))), Reply: "a reply"}
		switch o.Status {
		case mail.OutcomeDelivered:
			if r.State, o.Relayed = mail.Delivered, rng.IntN(4) == 0; o.Relayed {
				r.State = mail.Relayed
			}
		case mail.OutcomeFailed:
			r.State = mail.Failed
		case mail.OutcomeHeld:
			r.State = mail.Held
		default:
			deferred = true
			continue
		}
		spans = append(spans, &c.h.change(e, i, r.State).span)
	}
	if deferred {
		sp := &span{never, never}
		c.h.mu.Lock()
		e.deferred = append(e.deferred, sp)
		c.h.mu.Unlock()
		spans = append(spans, sp)
	}
	c.settled = append(c.settled, d.Envelope)
	return st, spans
}

// change enters one more change of one of e's recipients; its moments are to be set.
func (h *history) change(e *crashEntry, i int, to mail.RecipientState) *change {
	h.mu.Lock()
	defer h.mu.Unlock()
	c := &change{span: span{never, never}, to: to}
	e.changes[i] = append(e.changes[i], c)
	return c
}

// count enters that something was met.
func (h *history) count(what string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.met[what]++
}

// show enters that a message was handed out.
func (h *history) show(id mail.ID) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.clock++
	if m := h.messages[id]; m.shown == 0 {
		m.shown = h.clock
	}
}

// crashDecide is the operator: held mail is released or bounced, or stays.
func crashDecide(t *testing.T, s *Store, h *history, env *mail.Envelope, what int) {
	decide, to := s.Release, mail.Pending
	switch what {
	case 0:
		return
	case 1:
		decide, to = s.Bounce, mail.Failed
	}
	var spans []*span
	for i := range env.Recipients {
		if env.Recipients[i].State == mail.Held {
			spans = append(spans, &h.change(h.entry(env.ID, env.Domain), i, to).span)
		}
	}
	if len(spans) == 0 {
		return
	}
	h.begin(spans...)
	if n, err := decide(env.Domain, env.ID); n != 1 || err != nil {
		t.Errorf("decide about %v in %s: %d, %v", env.ID, env.Domain, n, err)
	}
	h.end(spans...)
}

func crashRemove(t *testing.T, s *Store, h *history, domain string) {
	var id mail.ID
	if err := s.List(domain, func(e queue.Entry) bool { id = e.Envelope.ID; return false }); err != nil {
		t.Error(err)
	}
	if id == 0 {
		return
	}
	// Another customer may be settling the same entry just now: only what worked is entered. The
	// beginning is taken before, so that the span holds all of it.
	began := h.tick()
	n, err := s.Remove(domain, id)
	if err != nil || n == 0 {
		return
	}
	e := h.entry(id, domain)
	h.mu.Lock()
	defer h.mu.Unlock()
	h.clock++
	e.removal = span{began, h.clock}
}

// exists says whether the message must have been durable: its commit had ended, or somebody had it.
func (m *crashMessage) exists(crash span) bool {
	return m.commit.done(crash) || m.shown != 0 && m.shown < crash.began
}

// A span as seen from a crash: it had ended, it had not begun, or neither is certain.
func (sp span) done(crash span) bool    { return sp.ended < crash.began }
func (sp span) notYet(crash span) bool  { return sp.began > crash.ended }
func (sp span) perhaps(crash span) bool { return !sp.done(crash) && !sp.notYet(crash) }

// crashVerify opens what a crash left and says what is wrong with it.
func crashVerify(t *testing.T, h *history, crash span, opts Options) (problems []string) {
	problem := func(format string, args ...any) { problems = append(problems, fmt.Sprintf(format, args...)) }
	ev := &events{t: t, lenient: true}
	opts.Events = ev
	s, err := Open("queue", opts)
	if err != nil {
		return []string{fmt.Sprintf("open: %v", err)}
	}
	defer func() {
		if err := s.Close(); err != nil {
			problem("close: %v", err)
		}
		for _, err := range ev.problems {
			problem("event: %v", err)
		}
	}()
	for _, v := range violations(t, s) {
		problem("check: %s %v: %s", v.Domain, v.ID, v.Problem)
	}
	found := map[string]mail.Envelope{}
	for _, domain := range crashDomains {
		var before []*crashMessage
		if err := s.List(domain, func(e queue.Entry) bool {
			m := h.messages[e.Envelope.ID]
			if m == nil || m.entries[domain] == nil {
				problem("%v in %s was never handed in", e.Envelope.ID, domain)
				return true
			}
			for _, b := range before {
				if m.commit.ended < b.commit.began {
					problem("%s: %v stands before %v", domain, b.id, m.id)
				}
			}
			before = append(before, m)
			found[fmt.Sprint(m.id, domain)] = e.Envelope
			return true
		}); err != nil {
			problem("list: %v", err)
		}
	}
	var last mail.ID
	for _, m := range h.messages {
		if m.exists(crash) {
			last = max(last, m.id)
		}
		for _, p := range crashMessageProblems(m, crash, found) {
			problem("message %v of %d octets, commit %v, crash %v: %s", m.id, m.size, m.commit, crash, p)
		}
	}
	if in, err := s.Begin(0); err != nil || in.ID() <= last {
		problem("after the crash comes id %v, %v; %v was used", in.ID(), err, last)
	}
	problems = append(problems, crashReportProblems(s, h, crash, found)...)
	problems = append(problems, crashStampProblems(s, h, crash, found)...)
	crashBodies(s, h, problem)
	return problems
}

// crashBodies collects everything that is deliverable and compares the bodies.
func crashBodies(s *Store, h *history, problem func(string, ...any)) {
	l, err := s.Acquire(append(slices.Clone(crashDomains), crashReports))
	if err != nil {
		problem("acquire: %v", err)
		return
	}
	defer l.Release()
	want := s.Totals().Messages
	for n := int64(0); ; {
		ds, err := l.Next(nil, queue.Limit{Messages: 10, Bytes: 1 << 30})
		if err != nil {
			problem("next: %v", err)
			return
		}
		if len(ds) == 0 {
			if n != want {
				problem("%d deliveries, want %d", n, want)
			}
			return
		}
		n += int64(len(ds))
		for _, d := range ds {
			body, err := conformance.ReadBody(d.Body)
			if m := h.messages[d.Envelope.ID]; err != nil || m != nil && !bytes.Equal(body, crashBody(m.id, m.size)) {
				problem("body of %v: %d octets, %v", d.Envelope.ID, len(body), err)
			}
		}
	}
}

// crashMessageProblems compares one message with what was found.
func crashMessageProblems(m *crashMessage, crash span, found map[string]mail.Envelope) (problems []string) {
	problem := func(format string, args ...any) { problems = append(problems, fmt.Sprintf(format, args...)) }
	there, gone := 0, false
	for domain, e := range m.entries {
		env, ok := found[fmt.Sprint(m.id, domain)]
		if ok {
			there++
		}
		gone = gone || e.mayBeGone(crash)
		switch {
		case ok && m.commit.notYet(crash):
			problem("exists in %s before its commit", domain)
		case ok && e.isGone(crash):
			problem("is in %s again, though removed at %v, or all are at their end", domain, e.removal)
		case !ok && m.exists(crash) && !e.mayBeGone(crash):
			problem("is missing in %s", domain)
		}
		if ok {
			for _, p := range crashEntryProblems(e, crash, &env) {
				problem("in %s: %s", domain, p)
			}
		}
	}
	if there > 0 && there < len(m.entries) && !gone {
		problem("exists in %d of its %d domains", there, len(m.entries))
	}
	return problems
}

// crashEntryProblems compares the state of one entry.
func crashEntryProblems(e *crashEntry, crash span, env *mail.Envelope) (problems []string) {
	problem := func(format string, args ...any) { problems = append(problems, fmt.Sprintf(format, args...)) }
	if len(env.Recipients) != len(e.changes) {
		problem("%d recipients, want %d", len(env.Recipients), len(e.changes))
		return problems
	}
	for i, changes := range e.changes {
		if may := states(changes, crash); !slices.Contains(may, env.Recipients[i].State) {
			problem("recipient %d has state %d, changed at %v, so it may be %v", i, env.Recipients[i].State, changes, may)
		}
	}
	var sure, perhaps uint32
	for _, sp := range e.deferred {
		if sp.done(crash) {
			sure++
		}
		if sp.perhaps(crash) {
			perhaps++
		}
	}
	if env.Attempts < sure || env.Attempts > sure+perhaps {
		problem("%d attempts, want %d, or up to %d more", env.Attempts, sure, perhaps)
	}
	return problems
}
