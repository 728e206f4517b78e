package bounce

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"odmr/internal/mail"
	"odmr/queue"
)

const (
	held      = mail.OutcomeHeld
	untouched = mail.OutcomeUntouched
)

// A sender hears of a recipient that was refused at once, though others of the message wait; and once, however
// often the server is started anew, and whatever becomes of the others.
func TestFailedBesideOthers(t *testing.T) {
	for _, end := range []mail.OutcomeStatus{delivered, failed, deferred} {
		w := newWorld(t)
		w.put("one.example", "ann@elsewhere.example", "a", "b", fmt.Sprint("c ", mail.NotifyNever), "d")
		w.collect("one.example", failed, deferred, failed, deferred)
		w.work()
		w.wantReports([]string{"To: <ann", "Final-Recipient: rfc822; a@one.example", "550 5.1.1 no such user", "!b@one.example", "!c@one.example", "!d@one.example"})
		if c := w.store.Counts("one.example"); c.Messages != 1 || c.Untold != 0 {
			t.Fatalf("left: %+v", c)
		}
		w.restart()
		w.work()
		w.wantReports()

		w.collect("one.example", untouched, end, untouched, deferred)
		w.clock.Add(time.Minute)
		w.work()
		if end == failed { // another one, while d waits still
			w.wantReports([]string{"!a@one.example", "Final-Recipient: rfc822; b@one.example", "Action: failed", "!d@one.example"})
		}
		w.clock.Add(usual.Retention)
		w.restart()
		w.work()
		want := []string{"!a@one.example", "Final-Recipient: rfc822; d@one.example", "Status: 4.4.7", "!c@one.example"}
		if end == deferred {
			want = append(want, "Final-Recipient: rfc822; b@one.example")
		} else {
			want = append(want, "!b@one.example")
		}
		w.wantReports(want)
		if got := w.store.Totals(); got != (queue.Counts{}) {
			t.Errorf("left: %+v", got)
		}
	}
}

// It does not wait for the end of a session that stays for mail.
func TestFailedWithinASession(t *testing.T) {
	w := newWorld(t)
	w.put("one.example", "ann@elsewhere.example", "a", "b")
	l, err := w.store.Acquire([]string{"one.example"})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Release()
	ds, err := l.Next(nil, queue.Limit{Messages: 1, Bytes: 1 << 20})
	if err != nil {
		t.Fatal(err)
	}
	ds[0].Body.Close()
	outcomes := []mail.Outcome{{Status: failed, Reply: "550 5.1.1 no such user"}, {Status: deferred, Reply: "451 later"}}
	if err := l.Settle([]queue.Settlement{{Key: ds[0].Key, Outcomes: outcomes}}); err != nil {
		t.Fatal(err)
	}
	w.work()
	w.wantReports([]string{"To: <ann", "a@one.example", "!b@one.example"})
}

// Where nobody is to be told, or can be, that is noted once, and the others wait.
func TestFailedBesideOthersUntold(t *testing.T) {
	w := newWorld(t)
	w.put("one.example", "", "a", "b")
	w.put("one.example", "ann@elsewhere.example", fmt.Sprint("a ", mail.NotifySuccess), "b")
	w.put("off.example", "ann@elsewhere.example", "a", "b")
	w.policy["off.example"] = Policy{Retention: 24 * time.Hour}
	w.collect("one.example", failed, deferred)
	w.collect("off.example", failed, deferred)
	w.work()
	w.wantReports()
	if c := w.store.Counts("one.example"); c.Messages != 2 || c.Untold != 0 || len(w.counted) != 0 {
		t.Fatalf("left: %+v, counted %v", c, w.counted)
	}
	if c := w.store.Counts("off.example"); c.Messages != 1 || c.Untold != 1 { // for odmrctl to show
		t.Fatalf("left: %+v", c)
	}
	if n := strings.Count(w.log.String(), "recipients settled without a report"); n != 2 {
		t.Errorf("log: %s", w.log.String())
	}
	w.broken = fmt.Errorf("the directory is down")
	w.put("one.example", "bob@elsewhere.example", "a", "b")
	w.collect("one.example", failed, deferred)
	w.work()
	w.wantReports()
	w.broken = nil
	w.clock.Add(again)
	w.work()
	w.wantReports([]string{"To: <bob", "a@one.example", "!b@one.example"})
}

// What is damaged does not hold up what stands behind it, however much it is.
func TestDamagedHead(t *testing.T) {
	const n = 2*batch + 1
	for _, c := range []struct {
		stage    queue.Stage
		outcomes []mail.OutcomeStatus // nil: nobody collects
	}{{queue.Settled, []mail.OutcomeStatus{failed}}, {queue.Partial, []mail.OutcomeStatus{failed, deferred}}, {queue.Waiting, nil}} {
		w := newWorld(t)
		w.damaged = map[uint64]bool{}
		for i := range n + 2 {
			w.put("one.example", fmt.Sprintf("s%d@elsewhere.example", i), "a", "b")
		}
		if c.outcomes != nil {
			w.collect("one.example", c.outcomes...)
		} else {
			w.clock.Add(usual.Retention + time.Minute)
		}
		if err := w.store.Walk("one.example", c.stage, 0, func(k queue.Key, _ *mail.Envelope) bool {
			w.damaged[k.Seq] = true
			return len(w.damaged) < n
		}); err != nil {
			t.Fatal(err)
		}
		w.work()
		w.wantReports([]string{fmt.Sprintf("To: <s%d@", n)}, []string{fmt.Sprintf("To: <s%d@", n+1)})
		w.damaged = nil
		w.clock.Add(again)
		w.work()
		if got := w.reports(); len(got) != n {
			t.Errorf("stage %d: %d reports on what was mended, want %d", c.stage, len(got), n)
		}
	}
}

// A message that expires beside a held recipient stays for that one, and is not said to be discarded.
func TestExpiredBesideHeld(t *testing.T) {
	w := newWorld(t)
	id := w.put("one.example", "ann@elsewhere.example", "a", "b")
	w.put("one.example", "", "a", "b")
	w.collect("one.example", held, deferred)
	w.clock.Add(usual.Retention + time.Minute)
	w.work()
	w.wantReports([]string{"To: <ann", "!a@one.example", "b@one.example", "Status: 4.4.7"})
	if c := w.store.Counts("one.example"); c.Held != 2 || c.Messages != 0 || c.Untold != 0 {
		t.Fatalf("left: %+v", c)
	}
	if strings.Contains(w.log.String(), "discarded") || w.counted["no-sender"] != 0 || w.counted["expired"] != 1 {
		t.Errorf("counted %v, log %s", w.counted, w.log.String())
	}
	if n, err := w.store.Bounce("", id); n != 1 || err != nil {
		t.Fatal(n, err)
	}
	w.work()
	w.wantReports([]string{"To: <ann", "a@one.example", "!b@one.example", "550 5.1.1"})
}
