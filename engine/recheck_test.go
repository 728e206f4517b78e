package engine

import (
	"errors"
	"fmt"
	"io"
	"strings"
	"syscall"
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
			s.dir.blocking.Store(blocking)
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

// end reads whatever comes until the connection is closed or reset.
func (p *peer) end() string {
	p.t.Helper()
	_ = p.SetReadDeadline(time.Now().Add(patience))
	_, _ = p.Write([]byte("221 bye\r\n")) // should it have said QUIT
	b, err := io.ReadAll(p.r)
	if err != nil && !errors.Is(err, syscall.ECONNRESET) {
		p.t.Fatal(err)
	}
	return string(b)
}

// begins takes a message's envelope and some of its content.
func (p *peer) begins() {
	p.t.Helper()
	for {
		line := p.line()
		switch verb, _, _ := strings.Cut(line, " "); verb {
		case "MAIL", "RCPT":
			p.send("250 ok")
			continue
		case "DATA":
			p.send("354 go on")
		case "BDAT":
		default:
			p.t.Fatalf("%q", line)
		}
		if _, err := io.CopyN(io.Discard, p.r, 10_000); err != nil {
			p.t.Fatal(err)
		}
		return
	}
}

// A customer's mail is on its way when the domain becomes another customer's, the account is removed, or goes on vacation: nothing further
// goes out, not even the rest of a message, and all that had no final reply is there for whom it belongs to now.
func TestBusySessionMayNotGoOn(t *testing.T) {
	changes := map[string]func(*testDirectory){
		"moves":   func(d *testDirectory) { d.take("a", "b") },
		"removed": func(d *testDirectory) { d.mu.Lock(); delete(d.accounts, "a"); d.mu.Unlock() },
		"loses one of two": func(d *testDirectory) {
			d.mu.Lock()
			d.accounts["a"] = []string{"other.example"}
			d.mu.Unlock()
		},
		"on hold": func(d *testDirectory) {
			d.mu.Lock()
			d.policies = map[string]account.Policy{"a": {Hold: account.On}}
			d.mu.Unlock()
		},
	}
	const n = 1
	body := func(i int) string {
		return strings.Repeat(strings.Repeat("x", 510)+"\r\n", 12<<20/512) + fmt.Sprintf("end of %d\r\n", i)
	}
	for what, change := range changes {
		for _, blocking := range []bool{false, true} {
			for _, offer := range [][]string{nil, {"PIPELINING", "CHUNKING"}} {
				s := newServer(t, withAccount("a", "a.example", "other.example"))
				s.dir.blocking.Store(blocking)
				s.hold("a.example", "first\r\n")
				for i := range n {
					s.hold("a.example", body(i))
				}
				p := s.turned("a", "ATRN", offer...)
				for len(p.got) < 1 || p.got[0].body == "" {
					p.command()
				}
				s.Recheck(0, 1) // changes nothing
				p.begins()
				change(s.dir)
				s.Recheck(0, 1)
				eventually(t, "the session is ended", func() bool { s.seen.mu.Lock(); defer s.seen.mu.Unlock(); return s.seen.withdrawn == 1 })
				if rest := p.end(); strings.Contains(rest, "end of") {
					t.Errorf("%s, blocking %v, offered %v: a message went out to its end", what, blocking, offer)
				}
				eventually(t, "the lease is back", s.free)
				if left := s.store.Counts("a.example").Messages; left != n && left != n+1 { // whose reply may have been lost
					t.Errorf("%s: %d are left of %d", what, left, n)
				}
			}
		}
	}
}

// While the directory cannot answer, a session goes on; and one whose rights are as they were, too.
func TestBusySessionOutlastsTheDirectory(t *testing.T) {
	for _, blocking := range []bool{false, true} {
		s := newServer(t, withAccount("a", "a.example", "down.example"))
		s.dir.blocking.Store(blocking)
		for i := range 5 {
			s.hold("a.example", fmt.Sprintf("%d\r\n", i))
		}
		p := s.turned("a", "ATRN")
		s.dir.mu.Lock()
		s.dir.accounts["a"] = []string{"a.example"} // down.example cannot be asked for
		s.dir.mu.Unlock()
		for range 3 {
			s.Recheck(0, 1)
			p.command()
		}
		p.rest()
		if len(p.got) != 5 || s.seen.withdrawn != 0 {
			t.Errorf("%d collected, withdrawn %d times", len(p.got), s.seen.withdrawn)
		}
	}
}

// What an ATRN rests on may change while it is on its way.
func TestRightsChangeBehindATRN(t *testing.T) {
	s := newServer(t, withAccount("a", "a.example"))
	s.hold("a.example", "first\r\n")
	p := s.login("a")
	p.ask("ATRN", "250")
	s.dir.take("a", "b")
	s.Recheck(0, 1) // before the customer's 220, or even before the turn
	_, _ = p.Write([]byte("220 ready\r\n250 customer.example\r\n"))
	if rest := p.end(); strings.Contains(rest, "MAIL") {
		t.Errorf("mail goes to the customer before: %q", rest)
	}
	eventually(t, "the lease is back", s.free)
}

// An account that may name its own host in ATRN has not the right to a domain by that.
func TestOwnHostnameIsNoRight(t *testing.T) {
	a := &account.Account{Name: "a", Domains: []string{"a.example"}, OwnHostname: true}
	j := &recheckJob{dir: lone{a}, account: "a", domains: []string{"lost.example"}}
	if j.run(); j.refusal == nil || !errors.Is(j.err, account.ErrNoAccess) {
		t.Errorf("%v, %v", j.refusal, j.err)
	}
	j = &recheckJob{dir: lone{a}, account: "a", domains: []string{"a.example"}}
	if j.run(); j.refusal != nil {
		t.Error(j.err)
	}
}

// lone is a directory of one account.
type lone struct{ *account.Account }

func (lone) NonBlocking() bool                         { return true }
func (l lone) Collectable(domain string) (bool, error) { return l.Has(domain), nil }
func (l lone) Owner(string) (*account.Account, error)  { return l.Account, nil }
func (l lone) Lookup(string) (*account.Account, error) { return l.Account, nil }
func (l lone) Authorize(_ string, wanted []string) ([]string, error) {
	return l.Account.Authorize(wanted, l.Collectable)
}
