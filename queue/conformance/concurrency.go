package conformance

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"testing"

	"odmr/internal/mail"
	"odmr/queue"
)

var concurrencyScenarios = []scenario{
	{"one of many gets the lease", oneGetsLease},
	{"commits in parallel keep their order", parallelCommits},
	{"the last two entries of a body go at once", lastTwoAtOnce},
	{"submitted messages keep their order", submitted},
	{"settling while reading on", settleBesideNext},
	{"settling while reading on what was left", settleBesideLeft},
	{"everything at once", everythingAtOnce},
}

func oneGetsLease(t *testing.T, s *suite) {
	for range 50 {
		var got atomic.Int32
		leases := make([]queue.Lease, 8)
		var wg sync.WaitGroup
		for i := range leases {
			wg.Go(func() {
				// Overlapping sets in different orders.
				l, err := s.Store.Acquire([][]string{{"a.example", "b.example"}, {"c.example", "b.example"}, {"b.example"}}[i%3])
				switch {
				case err == nil:
					got.Add(1)
					leases[i] = l
				case !errors.Is(err, queue.ErrBusy):
					t.Error(err)
				}
			})
		}
		wg.Wait()
		if got.Load() != 1 {
			t.Fatalf("%d leases at once", got.Load())
		}
		for _, l := range leases {
			if l != nil {
				l.Release()
			}
		}
	}
}

// parallelCommits has senders that each commit one after the other, while a lease drains: each
// sender's messages must come out in its order, each once, and none be skipped.
func parallelCommits(t *testing.T, s *suite) {
	const senders, each = 8, 60
	domains := []string{"a.example", "b.example"}
	var wg sync.WaitGroup
	for w := range senders {
		wg.Go(func() {
			for i := range each {
				var envs []mail.Envelope
				body := fmt.Appendf(nil, "%d %d", w, i)
				for _, d := range domains[:1+(i+w)%2] {
					envs = append(envs, envelope(d, len(body)))
				}
				if _, err := put(s.Store, body, envs); err != nil {
					t.Error(err)
				}
			}
		})
	}
	done := make(chan struct{})
	go func() { wg.Wait(); close(done) }()
	l := s.acquire(t, domains...)
	defer l.Release()
	seen := map[string]int{} // by domain and sender: the next one due, at least
	lastSeq := map[string]uint64{}
	total := 0
	for finished := false; ; {
		select {
		case <-done:
			finished = true
		default:
		}
		ds := next(t, l, queue.Limit{Messages: 5, Bytes: 1 << 20})
		for _, d := range ds {
			got, err := ReadBody(d.Body)
			if err != nil {
				t.Fatal(err)
			}
			var w, i int
			if _, err := fmt.Sscanf(string(got), "%d %d", &w, &i); err != nil {
				t.Fatal(err)
			}
			if d.Key.Seq <= lastSeq[d.Key.Domain] {
				t.Fatalf("%s: %d after %d", d.Key.Domain, d.Key.Seq, lastSeq[d.Key.Domain])
			}
			lastSeq[d.Key.Domain] = d.Key.Seq
			k := fmt.Sprint(d.Key.Domain, w)
			if i < seen[k] {
				t.Fatalf("%s: message %d of sender %d came late", d.Key.Domain, i, w)
			}
			seen[k] = i + 1
			total++
		}
		settle(t, l, ds, mail.OutcomeDelivered)
		if len(ds) == 0 && finished {
			break
		}
	}
	if want := senders*each + senders*each/2; total != want {
		t.Fatalf("%d deliveries, want %d", total, want)
	}
	wantCounts(t, "totals", s.Store.Totals(), queue.Counts{})
}

// verdicts gathers what became of submitted messages.
type verdicts struct {
	wg   sync.WaitGroup
	good atomic.Int64
	bad  atomic.Int64
}

func (v *verdicts) Committed(err error) {
	if err != nil {
		v.bad.Add(1)
	} else {
		v.good.Add(1)
	}
	v.wg.Done()
}

// submitted hands messages in without waiting for any of them: they come out in the order of the calls, one told as durable
// is handed out at once, and every call has one outcome.
func submitted(t *testing.T, s *suite) {
	const each = 300
	domains := []string{"a.example", "b.example"}
	var v verdicts
	for i := range each {
		body := fmt.Appendf(nil, "%d", i)
		in, err := s.Store.Begin(0)
		if err != nil {
			t.Fatal(err)
		}
		envs := []mail.Envelope{envelope(domains[0], len(body)), envelope(domains[1], len(body))}
		v.wg.Add(1)
		in.Submit(body, envs[:1+i%2], &v)
		if i%10 == 0 {
			v.wg.Add(1)
			in.Submit(body, envs, &v) // it has ended
			v.wg.Add(1)
			if in, err = s.Store.Begin(0); err != nil {
				t.Fatal(err)
			}
			in.Submit(body, nil, &v) // nobody's
		}
	}
	v.wg.Wait()
	if v.good.Load() != each || v.bad.Load() != 2*each/10 {
		t.Fatalf("%d messages are durable, %d are not; want %d and %d", v.good.Load(), v.bad.Load(), each, 2*each/10)
	}
	l := s.acquire(t, domains...)
	defer l.Release()
	last := map[string]int{domains[0]: -1, domains[1]: -1}
	for total := 0; ; {
		ds := next(t, l, many)
		if len(ds) == 0 {
			if total != each+each/2 {
				t.Fatalf("%d deliveries, want %d", total, each+each/2)
			}
			return
		}
		for _, d := range ds {
			got, err := ReadBody(d.Body)
			if err != nil {
				t.Fatal(err)
			}
			var i int
			if _, err := fmt.Sscanf(string(got), "%d", &i); err != nil || i <= last[d.Key.Domain] {
				t.Fatalf("%s: %q after %d (%v)", d.Key.Domain, got, last[d.Key.Domain], err)
			}
			last[d.Key.Domain] = i
			total++
		}
	}
}

// settleBesideNext reads on while what was read before is settled: every third message is deferred, and
// all of those, and no others, are there for the next lease.
func settleBesideNext(t *testing.T, s *suite) {
	const each = 200
	domains := []string{"a.example", "b.example"}
	for i := range each {
		for _, d := range domains {
			s.put(t, fmt.Appendf(nil, "%d", i), d)
		}
	}
	l := s.acquire(t, domains...)
	batches := make(chan []queue.Delivery, each)
	var wg sync.WaitGroup
	wg.Go(func() {
		n := 0
		for ds := range batches {
			var ts []queue.Settlement
			for _, d := range ds {
				o := mail.Outcome{Status: mail.OutcomeDelivered}
				if n++; n%3 == 0 {
					o = mail.Outcome{Status: mail.OutcomeDeferred, Reply: "450 later"}
				}
				ts = append(ts, queue.Settlement{Key: d.Key, Outcomes: []mail.Outcome{o}})
			}
			if err := SettleTo(l, ts); err != nil {
				t.Error(err)
			}
		}
	})
	lastSeq := map[string]uint64{}
	total := 0
	for {
		ds := next(t, l, queue.Limit{Messages: 3, Bytes: 1 << 20})
		if len(ds) == 0 {
			break
		}
		for _, d := range ds {
			if d.Key.Seq <= lastSeq[d.Key.Domain] {
				t.Errorf("%s: %d after %d", d.Key.Domain, d.Key.Seq, lastSeq[d.Key.Domain])
			}
			lastSeq[d.Key.Domain] = d.Key.Seq
			total++
		}
		closeBodies(ds)
		batches <- ds
	}
	close(batches)
	wg.Wait()
	l.Release()
	if total != each*len(domains) {
		t.Fatalf("%d deliveries, want %d", total, each*len(domains))
	}
	left := each * len(domains) / 3
	if got := s.Store.Totals().Messages; got != int64(left) {
		t.Fatalf("%d messages are left, want %d", got, left)
	}
	l = s.acquire(t, domains...)
	defer l.Release()
	ds := next(t, l, many)
	if len(ds) != left {
		t.Fatalf("%d messages for the next lease, want %d", len(ds), left)
	}
	closeBodies(ds)
}

// settleBesideLeft settles while what an earlier lease left behind is handed out.
func settleBesideLeft(t *testing.T, s *suite) {
	const left = 100
	for i := range left {
		s.put(t, fmt.Appendf(nil, "%d", i), "a.example")
	}
	l := s.acquire(t, "a.example")
	settle(t, l, next(t, l, many), mail.OutcomeDeferred)
	l.Release()
	l = s.acquire(t, "a.example")
	defer l.Release()
	batches := make(chan queue.Delivery, left)
	var wg sync.WaitGroup
	wg.Go(func() {
		for d := range batches {
			if err := l.Settle([]queue.Settlement{{Key: d.Key, Outcomes: []mail.Outcome{{}}}}); err != nil {
				t.Error(err)
			}
		}
	})
	total := 0
	for {
		ds := next(t, l, queue.Limit{Messages: 1, Bytes: 1 << 20})
		if len(ds) == 0 {
			break
		}
		closeBodies(ds)
		batches <- ds[0]
		total++
	}
	close(batches)
	wg.Wait()
	if total != left {
		t.Fatalf("%d deliveries, want %d", total, left)
	}
	wantCounts(t, "totals", s.Store.Totals(), queue.Counts{})
}

func lastTwoAtOnce(t *testing.T, s *suite) {
	for i := range 40 {
		domains := []string{"a.example", "b.example", "c.example"}
		s.put(t, content(i, 50+i%2*mail.ChunkSize), domains...)
		var wg sync.WaitGroup
		for _, d := range domains {
			l := s.acquire(t, d)
			ds := next(t, l, many)
			wg.Go(func() {
				settle(t, l, ds, mail.OutcomeDelivered)
				l.Release()
			})
		}
		wg.Wait()
	}
	if n := Clean(t, s.Store); n != (queue.Checked{}) {
		t.Fatalf("left: %+v", n)
	}
}

// everythingAtOnce runs senders, customers and an operator against one store and balances the books.
func everythingAtOnce(t *testing.T, s *suite) {
	c := &crowd{t: t, s: s, domains: []string{"a.example", "b.example", "c.example"}, owed: map[string]bool{}}
	var wg, senders sync.WaitGroup
	for w := range uint64(4) {
		senders.Go(func() { c.send(rand.New(rand.NewPCG(w, 1)), 40) })
	}
	for w := range uint64(4) {
		wg.Go(func() { c.collect(rand.New(rand.NewPCG(w, 2))) })
	}
	wg.Go(c.operate)
	senders.Wait()
	c.stop.Store(true)
	wg.Wait()
	Clean(t, s.Store)
	s.restart(t)
	var left []string
	if err := s.Store.List("", func(e queue.Entry) bool {
		left = append(left, owedKey(e.Envelope.ID, e.Envelope.Domain))
		return true
	}); err != nil {
		t.Fatal(err)
	}
	slices.Sort(left)
	want := slices.Sorted(maps.Keys(c.owed))
	if !slices.Equal(left, want) {
		t.Fatalf("%d entries are left, %d should be", len(left), len(want))
	}
	if n := s.Store.Totals().Messages; n != int64(len(want)) {
		t.Fatalf("Totals says %d, want %d", n, len(want))
	}
}

// crowd is everybody who works on one store at once.
type crowd struct {
	t       *testing.T
	s       *suite
	domains []string
	stop    atomic.Bool
	mu      sync.Mutex
	owed    map[string]bool // what was committed and not yet delivered or removed
}

func owedKey(id mail.ID, domain string) string { return id.String() + " " + domain }

// take notes that an entry left the queue.
func (c *crowd) take(id mail.ID, domain string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.owed[owedKey(id, domain)] {
		c.t.Errorf("%v of %s was not committed, or is gone already", id, domain)
	}
	delete(c.owed, owedKey(id, domain))
}

func (c *crowd) send(rng *rand.Rand, messages int) {
	for range messages {
		size := rng.IntN(3000)
		if rng.IntN(10) == 0 {
			size = mail.ChunkSize + rng.IntN(mail.ChunkSize)
		}
		in, err := c.s.Store.Begin(int64(size))
		if err != nil {
			c.t.Error(err)
			return
		}
		body := content(size, size)
		for ; len(body) > mail.LastPiece; body = body[mail.ChunkSize:] {
			if err := in.Append(body[:mail.ChunkSize]); err != nil {
				c.t.Error(err)
			}
		}
		if rng.IntN(8) == 0 {
			in.Abort()
			continue
		}
		var envs []mail.Envelope
		c.mu.Lock() // before Commit: a customer may be faster than this goroutine
		for _, p := range rng.Perm(len(c.domains))[:1+rng.IntN(len(c.domains))] {
			envs = append(envs, envelope(c.domains[p], size))
			c.owed[owedKey(in.ID(), c.domains[p])] = true
		}
		c.mu.Unlock()
		if err := in.Commit(body, envs); err != nil {
			c.t.Error(err)
		}
	}
}

func (c *crowd) collect(rng *rand.Rand) {
	for !c.stop.Load() {
		l, err := c.s.Store.Acquire([]string{c.domains[rng.IntN(len(c.domains))]})
		if errors.Is(err, queue.ErrBusy) {
			continue
		}
		if err != nil {
			c.t.Error(err)
			return
		}
		ds, err := l.Next(nil, queue.Limit{Messages: 1 + rng.IntN(8), Bytes: 1 << 20})
		if err != nil {
			c.t.Error(err)
		}
		for _, d := range ds {
			if body, err := ReadBody(d.Body); err != nil || !bytes.Equal(body, content(len(body), len(body))) {
				c.t.Errorf("body of %v: %v", d.Envelope.ID, err)
			}
			status := mail.OutcomeStatus(rng.IntN(2)) // delivered or deferred
			if status == mail.OutcomeDelivered {
				c.take(d.Envelope.ID, d.Key.Domain)
			}
			if err := l.Settle([]queue.Settlement{{Key: d.Key, Outcomes: outcomes(d, status, "reply")}}); err != nil {
				c.t.Error(err)
			}
		}
		l.Release()
	}
}

func (c *crowd) operate() {
	for n := 0; !c.stop.Load(); n++ {
		Clean(c.t, c.s.Store)
		domain := c.domains[n%len(c.domains)]
		var some []mail.ID
		if err := c.s.Store.List(domain, func(e queue.Entry) bool {
			some = append(some, e.Envelope.ID)
			return len(some) < 3
		}); err != nil {
			c.t.Error(err)
		}
		for _, id := range some {
			switch n, err := c.s.Store.Remove(domain, id); {
			case err == nil && n == 1:
				c.take(id, domain)
			case !errors.Is(err, queue.ErrBusy) && !errors.Is(err, queue.ErrNotFound):
				c.t.Errorf("Remove: %d, %v", n, err)
			}
			c.s.Store.Counts(domain)
		}
	}
}
