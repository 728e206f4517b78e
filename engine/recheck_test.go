package engine

import (
	"testing"
	"time"

	"odmr/internal/account"
	"odmr/internal/mail"
)

// take gives the domains of one account to another.
func (d *testDirectory) take(from, to string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.accounts[to] = append(d.accounts[to], d.accounts[from]...)
	delete(d.accounts, from)
}

// waits is customer a in a session that waits for mail, as c has it: turned, or behind ATRN.
func (s *server) waits(c Collecting) *customer {
	s.t.Helper()
	p := &customer{peer: s.login("a")}
	p.send("ATRN")
	if c.Linger == 0 {
		s.state(StateWait, 1)
		return p
	}
	p.expect("250")
	p.send("220 ready")
	p.command() // EHLO
	s.state(StateLinger, 1)
	return p
}

// sentAway expects the end of such a session.
func (p *customer) sentAway(c Collecting) {
	p.t.Helper()
	if c.Linger > 0 {
		p.rest()
	} else {
		p.expect("450")
	}
}

// A customer waits for mail, and meanwhile the domain becomes another customer's. What comes then is that one's, however
// long the first has been waiting.
func TestDomainMovesWhileASessionWaits(t *testing.T) {
	for _, blocking := range []bool{false, true} {
		for name, c := range map[string]Collecting{
			"stays": {Linger: time.Hour},
			"ATRN":  {ATRNWait: mail.MaxATRNWait},
		} {
			s := newServer(t, withAccount("a", "a.example"), collecting(c))
			s.dir.blocking = blocking
			before := s.waits(c)
			s.dir.take("a", "b")
			s.hold("a.example", "for the new one\r\n")
			before.sentAway(c)
			if len(before.got) != 0 {
				t.Fatalf("%s: it went to the customer before: %q", name, before.got)
			}
			eventually(t, "the lease is back", s.free)
			after := s.turned("b", "ATRN", "PIPELINING", "CHUNKING")
			for len(after.got) < 1 || after.got[0].body == "" {
				after.command()
			}
			if after.got[0].body != "for the new one\r\n" {
				t.Fatalf("%s: %q", name, after.got)
			}
		}
	}
}

// A customer goes on vacation while a session of it waits for mail: what comes then is kept.
func TestHoldWhileASessionWaits(t *testing.T) {
	for _, c := range []Collecting{{Linger: time.Hour}, {ATRNWait: mail.MaxATRNWait}} {
		s := newServer(t, withAccount("a", "a.example"), collecting(c))
		p := s.waits(c)
		s.dir.mu.Lock()
		s.dir.policies = map[string]account.Policy{"a": {Hold: account.On}}
		s.dir.mu.Unlock()
		s.hold("a.example", "kept\r\n")
		p.sentAway(c)
		if len(p.got) != 0 || s.store.Counts("a.example").Messages != 1 {
			t.Fatalf("%+v: %q was collected", c, p.got)
		}
		want := 450
		if c.Linger > 0 { // was answered when it came
			want = 250
		}
		eventually(t, "the session is over", s.free)
		if n, last := s.seen.get(func(r *recorder) int { return len(r.atrn) }), s.seen.get(func(r *recorder) int { return r.atrn[len(r.atrn)-1] }); n != 1 || last != want {
			t.Fatalf("%+v: %d answers counted, the last %d", c, n, last)
		}
	}
}
