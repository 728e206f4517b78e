package engine

import (
	"strings"
	"testing"
	"time"

	"odmr/engine/session"
)

// Each limit of a session ends it with 421 4.7.0 (the time for the login with 421 4.4.2), and is counted.
func TestSessionLimits(t *testing.T) {
	hurried := newServer(t, withAuthenticator("password", "tim"), func(_ *server, c *Config) { c.Timeouts.Login = 300 * time.Millisecond })
	silent := hurried.dial(ODMR)
	silent.expect("220")
	silent.expect("421 4.4.2")
	silent.eof()
	if n := hurried.seen.hits(LimitLoginTime); n != 1 {
		t.Errorf("the time for the login: %d hits", n)
	}
	s := newServer(t, withAuthenticator("password", "tim"), withLimits(Limits{SessionErrors: 4, LoginCommands: 6}))
	for _, role := range []Role{SMTP, LMTP, ODMR} {
		p := s.dial(role)
		p.expect("220")
		for range 3 {
			p.ask("NONSENSE", "5")
		}
		if p.send("NONSENSE"); role == ODMR { // has its own reply first
			p.expect("5")
		}
		p.expect("421 4.7.0")
		p.eof()
	}
	p := s.dial(ODMR)
	p.expect("220")
	for range 6 {
		p.ask("NOOP", "250")
	}
	p.ask("NOOP", "421 4.7.0")
	p.eof()
	p = s.dial(ODMR)
	p.expect("220")
	for range session.ProviderMaxAuthErrors - 1 {
		if l := p.login("tim", "wrong"); !strings.HasPrefix(l, "535 5.7.8") {
			t.Error(l)
		}
	}
	if l := p.login("tim", "wrong"); !strings.HasPrefix(l, "421 4.7.0") {
		t.Error(l)
	}
	p.eof()
	for limit, want := range map[Limit]int{LimitErrors: 3, LimitCommands: 1, LimitLogins: 1} {
		if got := s.seen.hits(limit); got != want {
			t.Errorf("%s: %d hits, want %d", limit, got, want)
		}
	}
}

// Nobody ends a session of an account but who has logged in to it: not by naming its domain before the login, behind a failed one, behind
// one that is not answered yet, or with another account.
func TestTakeoverNeedsALogin(t *testing.T) {
	s := newServer(t, withAccount("a", "a.example"), withAccount("b", "b.example"), collecting(Collecting{Linger: time.Hour}))
	victim := s.turned("a", "ATRN")
	s.state(StateLinger, 1)
	for _, begin := range []func(p *peer){
		func(*peer) {},
		func(p *peer) { p.ask("AUTH TEST Y2FybA==", "535") }, // nobody's name
		func(p *peer) { p.ask("AUTH TEST", "334"); p.ask("*", "501") },
	} {
		p := s.dial(ODMR)
		p.expect("220")
		begin(p)
		p.ask("ATRN a.example", "530")
		p.ask("ATRN", "530")
		p.Close()
	}
	// RFC 2645 5.1.2: behind AUTH without waiting, the right name even.
	p := s.dial(ODMR)
	p.expect("220")
	p.send("AUTH TEST YQ==", "ATRN a.example")
	if l := p.line(); !strings.HasPrefix(l, "554") {
		t.Errorf("behind AUTH: %q", l)
	}
	p.eof()
	// A login replaced by another is no way to two accounts.
	p = s.login("b")
	p.ask("AUTH TEST YQ==", "503")
	p.ask("ATRN a.example", "450")
	if n := s.seen.get(func(r *recorder) int { return r.takeovers }); n != 0 {
		t.Errorf("%d takeovers", n)
	}
	s.hold("a.example", "for a\r\n")
	for len(victim.got) < 1 || victim.got[0].body == "" {
		victim.command()
	}
	if victim.got[0].body != "for a\r\n" {
		t.Errorf("got %q", victim.got)
	}
	s.turned("a", "ATRN") // who is a may
	if l := victim.line(); l != "QUIT" {
		t.Errorf("told %q", l)
	}
}

// A right that is gone while a session waits for another to make way is gone: it is looked at again.
func TestTakeoverIsAuthorisedAgain(t *testing.T) {
	var led ledger
	s := newServer(t, withAccount("a", "a.example"), withAccount("b", "b.example"), withLedger(&led))
	s.hold("a.example", "one\r\n")
	s.hold("a.example", "two\r\n")
	led.settles.close()
	defer led.settles.open()
	old := s.turned("a", "ATRN")
	for len(old.got) < 1 || old.got[0].body == "" {
		old.command()
	}
	eventually(t, "a settlement is under way", func() bool { return led.settles.waiters() > 0 })
	fresh := s.login("a")
	fresh.send("ATRN a.example")
	eventually(t, "the new session is in the way", func() bool { return s.seen.get(func(r *recorder) int { return r.takeovers }) == 1 })
	s.dir.mu.Lock()
	s.dir.accounts["a"], s.dir.accounts["b"] = []string{"other.example"}, []string{"b.example", "a.example"}
	s.dir.mu.Unlock()
	led.settles.open()
	fresh.expect("450")
	c := &customer{peer: s.login("b")}
	c.collect("ATRN a.example")
	if len(c.got) != 1 || c.got[0].body != "two\r\n" {
		t.Errorf("got %q", c.got)
	}
}
