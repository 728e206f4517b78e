package engine

import (
	"fmt"
	"strings"
	"testing"

	"odmr/internal/account"
	"odmr/internal/mail"
	"odmr/queue"
)

func withShield(refusals, window int) setting {
	return func(_ *server, c *Config) { c.Shield = Shield{Refusals: refusals, Window: window} }
}

// heldIDs are the messages that an operator has to decide about.
func (s *server) heldIDs() (ids []mail.ID) {
	s.t.Helper()
	if err := s.store.List("", func(e queue.Entry) bool {
		if e.Envelope.Recipients[0].State == mail.Held {
			ids = append(ids, e.Envelope.ID)
		}
		return true
	}); err != nil {
		s.t.Fatal(err)
	}
	return ids
}

// A server that was installed anew refuses everything. What it refused is held, and once it is in order and an operator
// has released it, all of it arrives, in order.
func TestShield(t *testing.T) {
	for _, offer := range [][]string{nil, fullOffer} {
		s := newServer(t, withAccount("a", "a.example"), withShield(3, 5))
		mx := s.feed(SMTP)
		const n = 12
		for i := range n {
			mx.deliver("s@x.example", fmt.Sprintf("u%d@a.example", i), fmt.Sprintf("Subject: %d\r\n\r\nx\r\n", i))
		}
		broken := &customer{peer: s.login("a"), offer: offer}
		broken.verdict = func(m *message) string { return "550 5.1.1 nobody of that name" }
		broken.collect("ATRN")
		eventually(t, "the lease is given back", func() bool { return s.seen.states()[StateReversed] == 0 })
		held := s.heldIDs()
		// In lock-step it is over with the fourth; with chunks those in flight are refused, too.
		if len(held) < 4 || offer == nil && len(held) != 4 || len(held) == n {
			t.Fatalf("%d of %d messages are held", len(held), n)
		}
		want := queue.Counts{Messages: n - int64(len(held)), Held: int64(len(held))}
		if got := s.store.Totals(); got.Messages != want.Messages || got.Held != want.Held || got.Failed != 0 {
			t.Fatalf("%+v, want %+v", got, want)
		}
		if alarms := s.seen.get(func(r *recorder) int { return r.alarms }); alarms != 1 {
			t.Fatalf("%d alarms", alarms)
		}
		if out := s.seen.get(func(r *recorder) int { return r.out[Held] }); out != len(held) {
			t.Fatalf("%d counted as held", out)
		}
		// Half of it is released, and the server is in order again.
		for _, id := range held[:2] {
			if k, err := s.store.Release("", id); k != 1 || err != nil {
				t.Fatal(k, err)
			}
		}
		whole := &customer{peer: s.login("a"), offer: offer}
		whole.collect("ATRN")
		order := []string{"u0", "u1"}
		for i := len(held); i < n; i++ {
			order = append(order, fmt.Sprintf("u%d", i))
		}
		var got []string
		for _, m := range whole.got {
			local, _, _ := strings.Cut(m.to[0], "@")
			got = append(got, local)
		}
		if fmt.Sprint(got) != fmt.Sprint(order) {
			t.Fatalf("delivered %v, want %v", got, order)
		}
		again := s.login("a")
		again.ask("ATRN", "453") // what is held is no mail
		for _, id := range held[2:] {
			if k, err := s.store.Bounce("", id); k != 1 || err != nil {
				t.Fatal(k, err)
			}
		}
		if got := s.store.Totals(); got.Failed != int64(len(held)-2) || got.Messages+got.Held+got.Untold != 0 {
			t.Fatalf("%+v", got)
		}
	}
}

// An account may be without the shield, or have it where the server has none.
func TestShieldOfAccount(t *testing.T) {
	for _, c := range []struct {
		refusals, window int
		own              account.Switch
		held             bool
	}{{3, 5, account.SwitchedOff, false}, {3, 5, account.On, true}, {0, 0, account.AsServer, false}, {0, 0, account.On, true}} {
		s := newServer(t, withAccount("a", "a.example"), withShield(c.refusals, c.window), withPolicy("a", account.Policy{Shield: c.own}))
		mx := s.feed(SMTP)
		const n = 40
		for i := range n {
			mx.give("", fmt.Sprintf("u%d@a.example", i), "x", "250 ")
		}
		p := &customer{peer: s.login("a")}
		p.verdict = func(*message) string { return "550 5.1.1 nobody of that name" }
		p.collect("ATRN")
		eventually(t, "the lease is given back", func() bool { return s.seen.states()[StateReversed] == 0 })
		got := s.store.Totals()
		if c.held != (got.Held > 0) || c.held != (got.Failed == 0) {
			t.Errorf("%+v: %+v", c, got)
		}
	}
}

// What the shield knows of an account is known in the next life, too.
func TestHistoriesOverARestart(t *testing.T) {
	feed := func(s *server, n int) {
		mx := s.feed(SMTP)
		for i := range n {
			mx.give("", fmt.Sprintf("u%d@a.example", i), "x", "250 ")
		}
		c := &customer{peer: s.login("a")}
		c.verdict = func(*message) string { return "550 5.1.1 nobody of that name" }
		c.collect("ATRN")
		eventually(t, "the lease is given back", func() bool { return s.seen.states()[StateReversed] == 0 })
	}
	first := newServer(t, withAccount("a", "a.example"), withShield(3, 5))
	if known, n := first.Histories(0); known != nil || n != 0 {
		t.Fatal(known, n)
	}
	feed(first, 2)
	known, n := first.Histories(0)
	if known["a"] != "rr" || len(known) != 1 || n == 0 {
		t.Fatal(known, n)
	}
	if again, _ := first.Histories(n); again != nil {
		t.Fatal(again)
	}
	second := newServer(t, withAccount("a", "a.example"), withShield(3, 5), func(_ *server, c *Config) { c.Histories = known })
	feed(second, 2)
	if got := second.store.Totals(); got.Held == 0 || got.Failed != 0 { // the fourth of four
		t.Errorf("%+v", got)
	}
}

// Refusals of one session count in the next, and a normal share of them fails as it always did.
func TestShieldOverSessions(t *testing.T) {
	s := newServer(t, withAccount("a", "a.example"), withShield(3, 5))
	mx := s.feed(SMTP)
	session := func(verdicts string) queue.Counts {
		t.Helper()
		for i := range verdicts {
			mx.deliver("s@x.example", fmt.Sprintf("u%d@a.example", i), "x\r\n")
		}
		c := &customer{peer: s.login("a")}
		c.verdict = func(*message) string {
			if verdicts[len(c.got)-1] == 'r' {
				return "554 5.7.1 no"
			}
			return "250 2.0.0 taken"
		}
		c.collect("ATRN")
		eventually(t, "the lease is given back", func() bool { return s.seen.states()[StateReversed] == 0 })
		n := s.store.Totals()
		n.Kept = 0
		return n
	}
	for _, c := range []struct {
		verdicts string
		want     queue.Counts
	}{
		{"ra", queue.Counts{Failed: 1}},
		{"r", queue.Counts{Failed: 2}},           // r a r
		{"raaaaa", queue.Counts{Failed: 3}},      // of the last five none was refused
		{"rr", queue.Counts{Failed: 5}},          // two of five
		{"rr", queue.Counts{Failed: 5, Held: 2}}, // the second is the fourth of five
		{"rrr", queue.Counts{Failed: 8, Held: 2}},
	} {
		if got := session(c.verdicts); got != c.want {
			t.Fatalf("after %q: %+v, want %+v", c.verdicts, got, c.want)
		}
	}
	if alarms := s.seen.get(func(r *recorder) int { return r.alarms }); alarms != 1 {
		t.Fatalf("%d alarms", alarms)
	}
}
