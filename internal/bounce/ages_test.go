package bounce

import (
	"context"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"
	"time"

	"odmr/internal/mail"
	"odmr/queue"
)

// What is over time expires though what stands before it may stay: waiting, and failed where nobody is told.
func TestExpiryBehindWhatStays(t *testing.T) {
	for _, bounce := range []bool{true, false} {
		w := newWorld(t)
		w.policy["one.example"] = Policy{Retention: 48 * time.Hour, Bounce: bounce}
		put := func(age time.Duration, n int) {
			for range n {
				w.putAged(age, "one.example", "ann@elsewhere.example", "a")
			}
		}
		put(0, 1)
		put(49*time.Hour, 2*batch+1)
		put(0, 1)
		put(47*time.Hour, 1)
		if !bounce {
			w.collect("one.example", failed)
		}
		left := func() int64 { c := w.store.Counts("one.example"); return c.Messages + c.Failed }
		w.work()
		if got := left(); got != 3 {
			t.Fatalf("bounce %v: %d are left, want 3", bounce, got)
		}
		w.clock.Add(time.Hour + time.Minute)
		w.work()
		if got := left(); got != 2 {
			t.Fatalf("bounce %v: an hour later %d are left, want 2", bounce, got)
		}
		w.clock.Add(47 * time.Hour)
		w.work()
		if got := left(); got != 0 {
			t.Fatalf("bounce %v: two days later %d are left", bounce, got)
		}
		if sum := w.counted["expired"] + w.counted["bounce-off"]; sum != 2*batch+4 {
			t.Errorf("bounce %v: counted %v", bounce, w.counted)
		}
	}
}

// Senders of what waits for too long are told though what stands before it came later; each once, and what was told is not
// looked at again.
func TestDelayNoticeBehindWhatIsNotDue(t *testing.T) {
	for _, stretch := range []int{stretchMost, batch + 2} {
		w := newWorld(t)
		w.stretch = stretch
		w.restart()
		w.policy["one.example"] = Policy{Retention: 48 * time.Hour, DelayNotice: 4 * time.Hour, Bounce: true}
		put := func(age time.Duration, n int) {
			for range n {
				w.putAged(age, "one.example", "ann@elsewhere.example", "a")
			}
		}
		told := func(want int) {
			t.Helper()
			w.work()
			if got := w.counted["delayed"]; got != want {
				t.Fatalf("stretches of %d: %d senders told, want %d", stretch, got, want)
			}
		}
		put(0, 1)
		put(5*time.Hour, 2*batch+1)
		put(0, 1)
		put(4*time.Hour-10*time.Minute, 1)
		told(2*batch + 1)
		w.clock.Add(15 * time.Minute)
		told(2*batch + 2)
		w.looked = 0
		for range 60 { // less than known, with what has passed
			w.clock.Add(sweep)
			w.work()
		}
		if most := 2 * int(30*time.Minute/again) * (batch + 4); w.looked > most { // a stretch of no more than a batch is
			t.Errorf("stretches of %d: %d entries were looked at again, where nothing was due", stretch, w.looked)
		}
		w.clock.Add(4 * time.Hour)
		told(2*batch + 4)
		w.restart()
		told(2*batch + 4)
	}
}

// Very many that may stay, and as many among and behind them whose time is over: each is looked at about once, and none
// again while there is nothing to be done; one that comes later costs no more than a part of the line. ODMR_EXPIRED=1000000
// for the size that was asked for.
func TestManyThatStay(t *testing.T) {
	w := newWorld(t)
	w.policy["one.example"] = Policy{Retention: usual.Retention, Bounce: true}
	n := 2 * manyExpired(t)
	var putting sync.WaitGroup
	for part := range 16 {
		putting.Go(func() {
			for i := part; i < n; i += 16 {
				age := time.Duration(0)
				if i >= n/4 && i < n/2 || i >= n/2 && i/16%2 == 0 { // none of the first quarter, all of the second, then every other one
					age = usual.Retention + time.Hour
				}
				w.putAged(age, "one.example", "", "a")
			}
		})
	}
	putting.Wait()
	w.looked = 0
	began := time.Now()
	for w.reporter.Pass(t.Context()) {
	}
	stay := w.store.Counts("one.example").Messages
	if expired := int64(w.counted["no-sender"]); stay+expired != int64(n) || stay < int64(n/3) || expired < int64(n/3) {
		t.Fatalf("%d are left of %d, and %d have expired", stay, n, expired)
	}
	t.Logf("%d stayed of %d, %v", stay, n, time.Since(began).Round(time.Second))
	if w.looked > n+n/10 {
		t.Errorf("%d entries were looked at, of %d", w.looked, n)
	}
	w.looked = 0
	for range 100 { // less than known
		w.clock.Add(sweep)
		w.work()
	}
	if w.looked > 0 {
		t.Errorf("%d entries were looked at again, where nothing was due", w.looked)
	}
	for range 20 {
		w.putAged(usual.Retention, "one.example", "", "a")
		w.clock.Add(again)
		w.work()
	}
	if got := w.store.Counts("one.example").Messages; got != stay {
		t.Fatalf("%d are left, want %d", got, stay)
	}
	if most := 4 * n; w.looked > most { // in three hours, and each is looked at once an hour: see known
		t.Errorf("%d entries were looked at for 20 that expired, more than %d", w.looked, most)
	}
	if len(w.reporter.watches["one.example"].ages.line) > n/stretchMost+2 {
		t.Errorf("%d stretches are remembered", len(w.reporter.watches["one.example"].ages.line))
	}
}

// Finding out that there is nothing to be done in very many domains is work, too, and the Reporter rests as long.
func TestRestsWhereNothingIsToBeDone(t *testing.T) {
	w := newWorld(t)
	const domains = 100
	for i := range domains {
		w.put(fmt.Sprintf("d%d.example", i), "ann@elsewhere.example", "a")
	}
	w.each = time.Millisecond
	rested, longest := time.Duration(0), time.Duration(0)
	w.reporter.pause = func(_ context.Context, d time.Duration) { rested, longest = rested+d, max(longest, d) }
	began := w.clock.Now()
	w.work()
	if worked := w.clock.Now().Sub(began); worked < domains*w.each || rested < worked-workMost || longest > 2*workMost {
		t.Errorf("it worked for %v and rested for %v, %v at once", worked, rested, longest)
	}
}

// What is released stands in its old place, among what was looked at before; it expires all the same, within known.
func TestReleasedExpires(t *testing.T) {
	for _, c := range []struct{ stretch, fresh, old, behind int }{
		{0, 0, 1, 1}, {0, 0, 1, batch + 1}, // into a short stretch, and into a longer one
		{3, 3, 3, 3}, // more than the stretch may have
	} {
		w := newWorld(t)
		w.stretch = c.stretch
		w.restart()
		w.policy["one.example"] = Policy{Retention: 48 * time.Hour, Bounce: true}
		var ids []mail.ID
		for i := range c.fresh + c.old {
			age := 47 * time.Hour
			if i < c.fresh {
				age = 0
			}
			ids = append(ids, w.putAged(age, "one.example", "ann@elsewhere.example", "a"))
		}
		w.collect("one.example", held)
		for range c.behind {
			w.put("one.example", "ann@elsewhere.example", "a")
		}
		w.work()
		for _, id := range ids {
			if _, err := w.store.Release("", id); err != nil {
				t.Fatal(err)
			}
		}
		w.clock.Add(known + 2*time.Minute)
		w.work()
		if got, want := w.store.Counts("one.example").Messages, int64(c.fresh+c.behind); got != want {
			t.Errorf("%+v: %d are left, want %d", c, got, want)
		}
	}
}

// Whatever comes in, of whatever age, is collected, refused, held, released or found damaged: what is over time is gone
// in time, and nothing else is.
func TestExpiryModel(t *testing.T) {
	for seed := range uint64(25) {
		rnd := rand.New(rand.NewPCG(seed, 1))
		w := newWorld(t)
		w.stretch = 3 + rnd.IntN(6)
		w.restart()
		p := Policy{Retention: 48 * time.Hour, Bounce: rnd.IntN(2) == 0}
		w.policy["one.example"] = p
		outcomes := []mail.OutcomeStatus{delivered, deferred, failed, held}
		for range 60 {
			switch rnd.IntN(8) {
			case 0:
				collectSome(w, rnd, outcomes)
			case 1:
				releaseSome(w, rnd)
			case 2:
				w.damaged = map[uint64]bool{}
				walkAll(w, func(k queue.Key, _ *mail.Envelope) {
					if rnd.IntN(4) == 0 {
						w.damaged[k.Seq] = true
					}
				})
			case 3:
				w.damaged = nil
			default:
				for range rnd.IntN(20) {
					w.putAged(time.Duration(rnd.IntN(50*60))*time.Minute, "one.example", "ann@elsewhere.example", "a")
				}
			}
			before := young(w, p)
			w.work()
			if after := young(w, p); after != before {
				t.Fatalf("seed %d: of what may stay %d became %d", seed, before, after)
			}
			w.clock.Add(time.Duration(rnd.IntN(90)) * time.Minute)
		}
		w.damaged = nil
		w.clock.Add(known + again)
		w.work()
		if all, few := len(walkAll(w, nil)), young(w, p); all != few {
			t.Fatalf("seed %d: %d are left, of which %d may stay", seed, all, few)
		}
		checkLine(t, &w.reporter.watches["one.example"].ages)
	}
}

// walkAll returns what waits, and what is kept as failed without a report.
func walkAll(w *world, fn func(queue.Key, *mail.Envelope)) (arrived []int64) {
	w.t.Helper()
	for _, stage := range []queue.Stage{queue.Waiting, queue.Settled} {
		if err := w.store.Walk("one.example", stage, 0, func(k queue.Key, env *mail.Envelope) bool {
			arrived = append(arrived, env.Arrived)
			if fn != nil {
				fn(k, env)
			}
			return true
		}); err != nil {
			w.t.Fatal(err)
		}
	}
	return arrived
}

// young counts what may stay.
func young(w *world, p Policy) (n int) {
	c := clock{now: w.clock.Now(), retention: p.Retention}
	for _, stage := range []queue.Stage{queue.Waiting, queue.Settled} {
		if stage == queue.Settled && p.Bounce {
			continue // goes at once
		}
		if err := w.store.Walk("one.example", stage, 0, func(_ queue.Key, env *mail.Envelope) bool {
			if c.now.Before(c.expires(env.Arrived)) {
				n++
			}
			return true
		}); err != nil {
			w.t.Fatal(err)
		}
	}
	return n
}

// collectSome settles some of what waits, each in some way.
func collectSome(w *world, rnd *rand.Rand, outcomes []mail.OutcomeStatus) {
	l, err := w.store.Acquire([]string{"one.example"})
	if err != nil {
		w.t.Fatal(err)
	}
	defer l.Release()
	ds, err := l.Next(nil, queue.Limit{Messages: 1 + rnd.IntN(30), Bytes: 1 << 20})
	if err != nil {
		w.t.Fatal(err)
	}
	for _, d := range ds {
		d.Body.Close()
		o := mail.Outcome{Status: outcomes[rnd.IntN(len(outcomes))], Reply: "550 5.1.1 no"}
		if err := l.Settle([]queue.Settlement{{Key: d.Key, Outcomes: []mail.Outcome{o}}}); err != nil {
			w.t.Fatal(err)
		}
	}
}

// releaseSome releases some of what is held.
func releaseSome(w *world, rnd *rand.Rand) {
	var ids []mail.ID
	if err := w.store.List("one.example", func(e queue.Entry) bool {
		if e.Envelope.Recipients[0].State == mail.Held && rnd.IntN(2) == 0 {
			ids = append(ids, e.Envelope.ID)
		}
		return true
	}); err != nil {
		w.t.Fatal(err)
	}
	for _, id := range ids {
		if _, err := w.store.Release("one.example", id); err != nil {
			w.t.Fatal(err)
		}
	}
}

// checkLine checks what the comment of ages promises.
func checkLine(t *testing.T, a *ages) {
	t.Helper()
	before := uint64(0)
	var line strings.Builder
	for _, s := range a.line {
		fmt.Fprintf(&line, " %d(%d)", s.to, s.entries)
		if s.to <= before || s.entries == 0 {
			t.Errorf("line:%s", line.String())
		}
		before = s.to
	}
	if before != a.end {
		t.Errorf("line:%s, end %d", line.String(), a.end)
	}
}
