package engine

import (
	"strings"
	"testing"

	"odmr/internal/account"
	"odmr/internal/mail"
	"odmr/queue"
)

func withPolicy(name string, p account.Policy) setting {
	return func(s *server, _ *Config) {
		if s.dir.policies == nil {
			s.dir.policies = map[string]account.Policy{}
		}
		s.dir.policies[name] = p
	}
}

// mx begins a session that hands mail in.
func (s *server) mx() *peer {
	s.t.Helper()
	p := s.dial(SMTP)
	p.expect("220 ")
	p.ask("EHLO mx.isp.example", "250")
	return p
}

// give hands a message in; final is the reply to its content, or to the RCPT that is refused.
func (p *peer) give(mail, to, body, final string) {
	p.t.Helper()
	p.ask("MAIL FROM:<ann@elsewhere.example>"+mail, "250 ")
	if !strings.HasPrefix(final, "250") && body == "" {
		p.ask("RCPT TO:<"+to+">", final)
		p.ask("RSET", "250 ")
		return
	}
	p.ask("RCPT TO:<"+to+">", "250 ")
	p.ask("DATA", "354 ")
	p.ask(body+"\r\n.", final)
}

// What is held for an account has its bounds, over all its domains, and as soon as some is gone there is room again; other
// accounts are not concerned.
func TestQuota(t *testing.T) {
	for _, blocking := range []bool{false, true} {
		for code, over := range map[int]string{452: "452 4.2.2 ", 552: "552 5.2.2 "} {
			s := newServer(t, withAccount("a", "a.example", "b.example"), withAccount("c", "c.example"), withAccount("d", "d.example"),
				withPolicy("c", account.Policy{QuotaMessages: account.Unlimited, QuotaBytes: account.Unlimited}),
				withPolicy("d", account.Policy{QuotaMessages: 1}),
				func(s *server, c *Config) {
					s.dir.blocking.Store(blocking)
					c.Quota = Quota{Messages: 2, Bytes: 10_000, Code: code}
				})
			p := s.mx()
			p.give("", "x@a.example", "one", "250 ")
			p.give(" SIZE=9999", "x@a.example", "", over)
			p.give("", "x@b.example", "two", "250 ")
			p.give("", "x@a.example", "", over)
			p.give("", "x@d.example", "one", "250 ")
			p.give("", "x@d.example", "", over)
			for range 3 {
				p.give("", "x@c.example", "more", "250 ")
			}
			if n := s.seen.get(func(r *recorder) int { return r.limits[LimitQuota] }); n != 3 {
				t.Errorf("%d hits counted, want 3", n)
			}
			c := &customer{peer: s.login("a")}
			c.collect("ATRN b.example")
			eventually(t, "room", func() bool { return s.store.Counts("b.example").Messages == 0 })
			p.give("", "x@a.example", "three", "250 ")
		}
	}
}

// What failed and is not reported yet, and what the shield holds, takes up space like what waits.
func TestQuotaCountsWhatIsKept(t *testing.T) {
	for _, outcome := range []mail.OutcomeStatus{mail.OutcomeFailed, mail.OutcomeHeld} {
		for _, q := range []Quota{{Messages: 2}, {Bytes: 300}} {
			s := newServer(t, withAccount("a", "a.example"), func(_ *server, c *Config) { c.Quota = q })
			p := s.mx()
			for range 2 {
				p.give("", "x@a.example", strings.Repeat("0123456789\r\n", 12), "250 ")
			}
			l, err := s.store.Acquire([]string{"a.example"})
			if err != nil {
				t.Fatal(err)
			}
			ds, err := l.Next(nil, queue.Limit{Messages: 2, Bytes: 1 << 20})
			if err != nil || len(ds) != 2 {
				t.Fatal(len(ds), err)
			}
			for _, d := range ds {
				d.Body.Close()
				if err := l.Settle([]queue.Settlement{{Key: d.Key, Outcomes: []mail.Outcome{{Status: outcome, Reply: "550 no"}}}}); err != nil {
					t.Fatal(err)
				}
			}
			l.Release()
			p.give("", "x@a.example", "", "452 4.2.2 ")
			if n, err := s.store.Remove("", ds[0].Envelope.ID); n != 1 || err != nil {
				t.Fatal(n, err)
			}
			p.give("", "x@a.example", "one more", "250 ")
		}
	}
}

// An account's own limit counts where the size is declared, where it is not, and in chunks; the strictest of a message's
// recipients decides.
func TestMaxMessageSizeOfAccount(t *testing.T) {
	s := newServer(t, withAccount("a", "a.example"), withAccount("b", "b.example"), withPolicy("a", account.Policy{MaxMessageSize: 1000}))
	p := s.mx()
	large := strings.Repeat("0123456789\r\n", 100)
	p.give(" SIZE=1001", "x@a.example", "", "552 5.3.4 ")
	p.give(" SIZE=1001", "x@b.example", large, "250 ")
	p.give("", "x@a.example", large, "552 5.3.4 ")
	p.give("", "x@a.example", "small", "250 ")
	p.ask("MAIL FROM:<ann@elsewhere.example>", "250 ")
	p.ask("RCPT TO:<x@b.example>", "250 ")
	p.ask("RCPT TO:<x@a.example>", "250 ")
	p.ask("BDAT 602\r\n"+large[:600], "250 ")
	p.ask("BDAT 602 LAST\r\n"+large[600:1200], "552 5.3.4 ")
	if a, b := s.store.Counts("a.example").Messages, s.store.Counts("b.example").Messages; a != 1 || b != 1 {
		t.Errorf("%d and %d messages are held", a, b)
	}
}

// While an account is on hold its mail is taken, and ATRN refused; the session may go on.
func TestHold(t *testing.T) {
	s := newServer(t, withAccount("a", "a.example"), withPolicy("a", account.Policy{Hold: account.On}))
	s.mx().give("", "x@a.example", "one", "250 ")
	p := s.login("a")
	p.ask("ATRN", "450 ")
	p.ask("ATRN a.example", "450 ")
	if n := s.store.Counts("a.example").Messages; n != 1 {
		t.Errorf("%d messages are held", n)
	}
	s.dir.mu.Lock()
	s.dir.policies = nil
	s.dir.mu.Unlock()
	(&customer{peer: p}).collect("ATRN")
}

// An account that wants small messages first gets them first, and no other does.
func TestSmallFirst(t *testing.T) {
	for _, policy := range []account.Policy{{}, {SmallFirst: account.On}} {
		s := newServer(t, withAccount("a", "a.example"), withPolicy("a", policy))
		p := s.mx()
		large := strings.Repeat("0123456789\r\n", smallMessage/10)
		for _, m := range [][2]string{{"ann", large}, {"bob", "small\r\n"}} {
			p.ask("MAIL FROM:<"+m[0]+"@elsewhere.example>", "250 ")
			p.ask("RCPT TO:<x@a.example>", "250 ")
			p.ask("DATA", "354 ")
			p.ask(m[1]+".", "250 ")
		}
		c := &customer{peer: s.login("a")}
		c.collect("ATRN")
		if len(c.got) != 2 || (c.got[0].body == "small\r\n") != (policy.SmallFirst == account.On) {
			t.Errorf("policy %+v: %d messages, the first of %d octets", policy, len(c.got), len(c.got[0].body))
		}
	}
}
