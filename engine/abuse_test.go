package engine

import (
	"bytes"
	"crypto/hmac"
	"crypto/md5"
	"encoding/base64"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/pires/go-proxyproto"

	"odmr/internal/account"
)

// withLimits sets limits, and nobody is trusted or exempt but who is in l.
func withLimits(l Limits) setting {
	return func(_ *server, c *Config) { c.Limits, c.Trusted = l, nil }
}

// withAuthenticator makes the accounts real ones, with password as everybody's.
func withAuthenticator(password string, names ...string) setting {
	return func(s *server, c *Config) {
		var list []*account.Account
		for _, n := range names {
			list = append(list, &account.Account{Name: n, Domains: []string{n + ".example"}, CRAMMD5: account.DeriveCRAMMD5(password)})
		}
		withAccounts(list...)(s, c)
	}
}

// withAccounts makes these the accounts.
func withAccounts(list ...*account.Account) setting {
	return func(s *server, c *Config) {
		table, err := account.NewTable(list...)
		if err != nil {
			s.t.Fatal(err)
		}
		auth, err := account.NewAuthenticator(table, account.AuthConfig{Hostname: "mail.isp.example", Clock: time.Now})
		if err != nil {
			s.t.Fatal(err)
		}
		c.Directory, c.Authenticator = table, auth
	}
}

// dialFrom connects from an address of the machine itself, all of 127.0.0.0/8.
func (s *server) dialFrom(from string, r Role) *peer {
	s.t.Helper()
	d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(from)}}
	c, err := d.Dial("tcp", s.addr(r))
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() { c.Close() })
	return newPeer(s.t, c)
}

// login answers a CRAM-MD5 challenge and returns the reply.
func (p *peer) login(name, password string) string {
	p.t.Helper()
	p.send("AUTH CRAM-MD5")
	challenge, err := base64.StdEncoding.DecodeString(strings.TrimPrefix(p.expect("334 "), "334 "))
	if err != nil {
		p.t.Fatal(err)
	}
	h := hmac.New(md5.New, []byte(password))
	h.Write(challenge)
	p.send(base64.StdEncoding.EncodeToString(fmt.Appendf(nil, "%s %x", name, h.Sum(nil))))
	return p.line()
}

func (r *recorder) hits(l Limit) int { return r.get(func(r *recorder) int { return r.limits[l] }) }

func TestLimitSessionsPerAddress(t *testing.T) {
	set, _ := toys()
	s := newServer(t, set, withLimits(Limits{SessionsPerAddress: 3}))
	var in []*peer
	for _, role := range []Role{SMTP, ODMR, LMTP} {
		p := s.dialFrom("127.0.0.1", role)
		p.expect("220")
		in = append(in, p)
	}
	for range 5 {
		p := s.dialFrom("127.0.0.1", ODMR)
		p.expect("421 4.7.0 mail.isp.example Too many sessions from your address")
		p.eof()
	}
	s.dialFrom("127.0.0.2", ODMR).expect("220")
	if n := s.seen.hits(LimitAddressSessions); n != 5 {
		t.Errorf("%d refusals counted, want 5", n)
	}
	in[0].ask("QUIT", "221")
	in[0].eof()
	in[0].Close()
	eventually(t, "a place is free", func() bool {
		p := s.dialFrom("127.0.0.1", SMTP)
		return strings.HasPrefix(p.line(), "220")
	})
}

func TestLimitConnectionRate(t *testing.T) {
	set, _ := toys()
	s := newServer(t, set, withLimits(Limits{ConnectionsPerMinute: 5}))
	begun := time.Now()
	in := 0
	for range 30 {
		p := s.dialFrom("127.0.0.1", ODMR)
		if l := p.line(); strings.HasPrefix(l, "220") {
			in++
		} else if !strings.HasPrefix(l, "421 4.7.0 mail.isp.example Too many connections from your address") {
			t.Fatal(l)
		}
		p.Close()
	}
	if most := 5 + int(time.Since(begun)/(12*time.Second)) + 1; in < 5 || in > most {
		t.Errorf("%d were let in, want 5 to %d", in, most)
	}
	s.dialFrom("127.0.0.2", ODMR).expect("220")
	if n := s.seen.hits(LimitRate); n != 30-in {
		t.Errorf("%d refusals counted, want %d", n, 30-in)
	}
}

// Who hands in mail from a trusted network is not limited by address there, but is as a customer; who is
// exempt never is.
func TestLimitExemptions(t *testing.T) {
	set, _ := toys()
	s := newServer(t, set, withLimits(Limits{SessionsPerAddress: 1, ConnectionsPerMinute: 1, Exempt: []netip.Prefix{netip.MustParsePrefix("127.0.0.3/32")}}),
		func(_ *server, c *Config) { c.Trusted = []netip.Prefix{netip.MustParsePrefix("127.0.0.2/32")} })
	for range 5 {
		s.dialFrom("127.0.0.2", SMTP).expect("220")
		s.dialFrom("127.0.0.2", LMTP).expect("220")
		s.dialFrom("127.0.0.3", ODMR).expect("220")
	}
	s.dialFrom("127.0.0.2", ODMR).expect("220")
	s.dialFrom("127.0.0.2", ODMR).expect("421")
	s.dialFrom("127.0.0.1", SMTP).expect("220")
	s.dialFrom("127.0.0.1", SMTP).expect("421")
}

// RFC 2645 8: port 366 is not for everybody.
func TestLimitODMRNetworks(t *testing.T) {
	set, _ := toys()
	s := newServer(t, set, withLimits(Limits{
		ODMRNetworks: []netip.Prefix{netip.MustParsePrefix("127.0.0.2/32")},
		Exempt:       []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}, // is no way in
	}))
	s.dialFrom("127.0.0.2", ODMR).expect("220")
	p := s.dialFrom("127.0.0.1", ODMR)
	p.expect("554 5.7.1 mail.isp.example This service is not open to your network")
	p.eof()
	s.dialFrom("127.0.0.1", SMTP).expect("220")
	if n := s.seen.hits(LimitNetwork); n != 1 {
		t.Errorf("%d refusals counted", n)
	}
}

func TestLimitSessionsPerAccount(t *testing.T) {
	s := newServer(t, withAuthenticator("password", "tim", "two"), withLimits(Limits{SessionsPerAccount: 2}))
	enter := func(name, want string) *peer {
		p := s.dial(ODMR)
		p.expect("220")
		if l := p.login(name, "password"); !strings.HasPrefix(l, want) {
			t.Fatalf("%s: %q, want %s", name, l, want)
		}
		return p
	}
	first := enter("tim", "235")
	enter("tim", "235")
	enter("tim.example", "421 4.7.0 Too many sessions of this account").eof()
	enter("two", "235")
	first.ask("QUIT", "221")
	first.eof()
	enter("tim", "235")
	if n := s.seen.hits(LimitAccountSessions); n != 1 {
		t.Errorf("%d refusals counted", n)
	}
}

// The lock is on address and account: neither the account from elsewhere nor another account from
// there is concerned, and an account that does not exist is locked like any.
func TestLimitLockout(t *testing.T) {
	s := newServer(t, withAuthenticator("password", "tim", "two"), withLimits(Limits{AuthFailures: 4, AuthLockout: time.Hour}))
	try := func(from, name, password string) string {
		p := s.dialFrom(from, ODMR)
		defer p.Close()
		p.expect("220")
		return p.login(name, password)
	}
	for _, name := range []string{"tim", "nobody"} {
		for i := range 4 {
			if l := try("127.0.0.1", name, "wrong"); !strings.HasPrefix(l, "535 ") {
				t.Fatalf("%s, failure %d: %q", name, i+1, l)
			}
		}
		if l := try("127.0.0.1", name, "password"); !strings.HasPrefix(l, "421 4.7.0 Too many failed logins for this account from your address") {
			t.Errorf("%s, locked: %q", name, l)
		}
	}
	for _, c := range [][2]string{{"127.0.0.2", "tim"}, {"127.0.0.1", "two"}} {
		if l := try(c[0], c[1], "password"); !strings.HasPrefix(l, "235 ") {
			t.Errorf("%s from %s: %q", c[1], c[0], l)
		}
	}
	// A success forgets: three and three more do not make four.
	for range 3 {
		for range 3 {
			try("127.0.0.3", "tim", "wrong")
		}
		if l := try("127.0.0.3", "tim", "password"); !strings.HasPrefix(l, "235 ") {
			t.Fatalf("after three failures: %q", l)
		}
	}
	if n := s.seen.hits(LimitLockout); n != 2 {
		t.Errorf("%d refusals counted", n)
	}
}

// TestLockoutBehindOneAddress: who shares an address with a customer and guesses at its account, by whatever name, locks himself and not the
// customer's client, which calls itself what it did when it logged in before. Who finds out that name has no more guesses than others.
func TestLockoutBehindOneAddress(t *testing.T) {
	const failures = 4
	tim, err := (&account.Account{Name: "tim", Domains: []string{"a.example", "b.example"}}).WithPassword("password")
	if err != nil {
		t.Fatal(err)
	}
	s := newServer(t, withLimits(Limits{AuthFailures: failures, AuthLockout: time.Hour}), withAccounts(tim))
	try := func(hello, name, password string) string {
		p := s.dialFrom("127.0.0.1", ODMR)
		defer p.Close()
		p.expect("220")
		if hello != "" {
			p.ask("EHLO "+hello, "250")
		}
		return p.login(name, password)[:4]
	}
	if got := try("gw.customer.example", "tim", "password"); got != "235 " {
		t.Fatal(got)
	}
	for _, name := range []string{"tim", "a.example", "b.example", "nobody"} {
		for range failures + 1 {
			try("evil.example", name, "guess")
			try("", name, "guess")
		}
	}
	for range 3 {
		if got := try("gw.customer.example", "tim", "password"); got != "235 " {
			t.Errorf("the customer behind the same address: %q", got)
		}
	}
	for _, hello := range []string{"evil.example", "other.example", ""} {
		if got := try(hello, "tim", "password"); got != "421 " {
			t.Errorf("the right password by another name, locked: %q", got)
		}
	}
	for i := range failures {
		if got := try("gw.customer.example", "tim", "guess"); got != "535 " {
			t.Errorf("guess %d by the customer's name: %q", i+1, got)
		}
	}
	if got := try("gw.customer.example", "tim", "password"); got != "421 " {
		t.Errorf("behind %d guesses by the customer's name: %q", failures, got)
	}
}

// TestLockoutOfAllNames: an account with many names has no more failures than one with one, from one address. Nobody is told: neither
// that the names are of one account, nor that there is one.
func TestLockoutOfAllNames(t *testing.T) {
	const failures, names = 4, 12
	var domains []string
	for i := range names {
		domains = append(domains, fmt.Sprintf("d%02d.example", i))
	}
	tim, err := (&account.Account{Name: "tim", Domains: domains}).WithPassword("password")
	if err != nil {
		t.Fatal(err)
	}
	s := newServer(t, withLimits(Limits{AuthFailures: failures, AuthLockout: time.Hour}), withAccounts(tim))
	try := func(from, name, password string) string {
		p := s.dialFrom(from, ODMR)
		defer p.Close()
		p.expect("220")
		return p.login(name, password)
	}
	for i := range failures {
		if l := try("127.0.0.1", domains[i], "wrong"); !strings.HasPrefix(l, "535 ") {
			t.Fatalf("failure %d: %q", i+1, l)
		}
	}
	unknown := try("127.0.0.1", "nobody.example", "password")
	for _, name := range append([]string{"tim"}, domains...) {
		if l := try("127.0.0.1", name, "password"); l != unknown {
			t.Errorf("%s, behind failures by other names: %q; one that is none: %q", name, l, unknown)
		}
	}
	if l := try("127.0.0.2", "tim", "password"); !strings.HasPrefix(l, "235 ") {
		t.Errorf("from elsewhere: %q", l)
	}
	if n := s.seen.hits(LimitLockout); n != names+1 {
		t.Errorf("%d proofs that did not count were counted, want %d", n, names+1)
	}
	// What a lock by name tells, it tells of every name alike.
	for _, name := range []string{"tim", "nobody.example", domains[0]} {
		got := ""
		for range failures + 2 {
			got = try("127.0.0.1", name, "wrong")
		}
		if !strings.HasPrefix(got, "421 4.7.0 ") {
			t.Errorf("%s, by itself: %q", name, got)
		}
	}
	// Of success all that failed before is forgotten.
	for i := range 3 * failures {
		name := domains[i%3]
		if i%3 == 2 {
			if l := try("127.0.0.3", name, "password"); !strings.HasPrefix(l, "235 ") {
				t.Errorf("%s, success %d: %q", name, i, l)
			}
		} else {
			try("127.0.0.3", name, "wrong")
		}
	}
}

// The reply to a failed login waits; nobody else does, and the connection can be ended meanwhile.
func TestAuthDelayHoldsUpNobody(t *testing.T) {
	s := newServer(t, withAuthenticator("password", "tim"), withLimits(Limits{AuthDelay: time.Second}), func(_ *server, c *Config) { c.Loops = 1 })
	slow := s.dialFrom("127.0.0.1", ODMR)
	slow.expect("220")
	gone := s.dialFrom("127.0.0.3", ODMR)
	gone.expect("220")
	done := make(chan time.Time, 2)
	begun := time.Now()
	var replies [2]string
	for i, p := range []*peer{slow, gone} {
		go func() {
			replies[i] = p.login("tim", "wrong")
			done <- time.Now()
		}()
	}
	for range 20 { // on the same loop, with the same workers
		p := s.dialFrom("127.0.0.2", ODMR)
		p.expect("220")
		if l := p.login("tim", "password"); !strings.HasPrefix(l, "235 ") {
			t.Fatal(l)
		}
		p.Close()
	}
	for range 2 {
		if d := (<-done).Sub(begun); d < time.Second {
			t.Errorf("the delay was %s", d)
		}
	}
	if replies != [2]string{"535 5.7.8 Authentication credentials invalid", "535 5.7.8 Authentication credentials invalid"} {
		t.Errorf("%q", replies)
	}
	// The second failure waits two seconds; who leaves before that leaves nothing behind.
	gone.send("AUTH CRAM-MD5")
	gone.expect("334 ")
	gone.send(base64.StdEncoding.EncodeToString([]byte("tim 0123456789abcdef0123456789abcdef")))
	gone.Close()
	slow.ask("NOOP", "250")
	if l := slow.login("tim", "password"); !strings.HasPrefix(l, "235 ") {
		t.Error(l)
	}
}

// Thousands of wrong passwords over real connections: the customer logs in all the while.
func TestWrongPasswordsDoNotLockOut(t *testing.T) {
	const attackers, tries = 16, 250
	s := newServer(t, withAuthenticator("password", "tim"), withLimits(Limits{AuthFailures: 10, AuthLockout: time.Hour, AuthDelay: time.Millisecond}))
	var wg sync.WaitGroup
	var refused, locked atomic.Int64
	for i := range attackers {
		from := fmt.Sprintf("127.0.1.%d", i+1)
		wg.Go(func() {
			for range tries {
				d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(from)}}
				c, err := d.Dial("tcp", s.addr(ODMR))
				if err != nil {
					t.Error(err)
					return
				}
				p := newPeer(t, c)
				p.line()
				switch l := p.login("tim", "guess"); {
				case strings.HasPrefix(l, "535 "):
					refused.Add(1)
				case strings.HasPrefix(l, "421 4.7.0 "):
					locked.Add(1)
				default:
					t.Errorf("%q", l)
				}
				c.Close()
			}
		})
	}
	over := make(chan struct{})
	go func() { wg.Wait(); close(over) }()
	logins, longest := 0, time.Duration(0)
	for attack := true; attack || logins < 50; logins++ {
		select {
		case <-over:
			attack = false
		default:
		}
		begun := time.Now()
		p := s.dialFrom("127.0.0.1", ODMR)
		p.expect("220")
		if l := p.login("tim", "password"); !strings.HasPrefix(l, "235 ") {
			t.Fatalf("login %d: %q", logins+1, l)
		}
		longest = max(longest, time.Since(begun))
		p.ask("QUIT", "221")
		p.Close()
	}
	if r, l := refused.Load(), locked.Load(); r != attackers*10 || r+l != attackers*tries {
		t.Errorf("%d guesses were looked at and %d were not, want %d of %d", r, l, attackers*10, attackers*tries)
	}
	t.Logf("%d logins of the customer, the longest %s, during %d guesses", logins, longest, attackers*tries)
}

// Logins that cost arithmetic wait for each other, and for nobody else; the others do not wait for them.
func TestPasswordLaneHoldsUpNoOtherLogin(t *testing.T) {
	var slow door
	slow.close()
	s := newServer(t, withAccount("tim", "example.org"), func(s *server, c *Config) {
		c.Authenticator = &costlyLogins{s.dir, &slow, nil}
	})
	most := s.passwords.max
	var waiting []*peer
	for range most + 10 {
		p := s.dial(ODMR)
		p.expect("220")
		p.send("AUTH COSTLY " + base64.StdEncoding.EncodeToString([]byte("tim")))
		waiting = append(waiting, p)
	}
	eventually(t, "the lane is full", func() bool { return slow.waiters() == most })
	p := s.dial(ODMR)
	p.expect("220")
	p.ask("AUTH TEST "+base64.StdEncoding.EncodeToString([]byte("tim")), "235")
	if n := slow.waiters(); n != most {
		t.Errorf("%d logins cost arithmetic at once, want %d", n, most)
	}
	slow.open()
	for _, p := range waiting {
		p.expect("235")
	}
}

// A directory that hangs fills no lane: neither those whose password costs arithmetic nor others wait for those who wait for it.
func TestHangingDirectoryHoldsUpNobodyElse(t *testing.T) {
	var slow, hung door
	hung.close()
	s := newServer(t, withAccount("tim", "example.org"), func(s *server, c *Config) {
		s.dir.blocking.Store(true)
		c.Authenticator = &costlyLogins{s.dir, &slow, &hung}
	})
	var waiting []*peer
	for range lookupLane + 10 {
		p := s.dial(ODMR)
		p.expect("220")
		p.send("AUTH COSTLY " + base64.StdEncoding.EncodeToString([]byte("hung")))
		waiting = append(waiting, p)
	}
	eventually(t, "all wait for the directory", func() bool { return hung.waiters() == len(waiting) })
	for _, mechanism := range []string{"TEST", "COSTLY"} {
		p := s.dial(ODMR)
		p.expect("220")
		p.ask("AUTH "+mechanism+" "+base64.StdEncoding.EncodeToString([]byte("tim")), "235")
	}
	hung.open()
	for _, p := range waiting {
		p.expect("454")
	}
}

type costlyLogins struct {
	*testDirectory
	door *door
	look *door // before the account "hung"; nil: there is none
}

func (c *costlyLogins) Mechanisms(account.Peer) []string { return []string{"TEST", "COSTLY"} }

func (c *costlyLogins) Start(mechanism string, peer account.Peer) (account.Exchange, error) {
	x, err := c.testDirectory.Start(mechanism, peer)
	if mechanism == "COSTLY" {
		x = &costlyLogin{x, c.door, c.look}
	}
	return x, err
}

type costlyLogin struct {
	account.Exchange
	door, look *door
}

func (x *costlyLogin) Costly() bool { return true }

func (x *costlyLogin) Look(response []byte) error {
	if string(response) != "hung" {
		return nil
	}
	x.look.pass()
	return account.ErrUnavailable
}

func (x *costlyLogin) Next(response []byte) ([]byte, bool, error) {
	x.door.pass()
	return x.Exchange.Next(response)
}

func withProxies(l Limits) setting {
	l.ProxyNetworks = []netip.Prefix{netip.MustParsePrefix("127.0.0.9/32")}
	return withLimits(l)
}

// header is written by a library that others use.
func header(t *testing.T, version byte, source string) []byte {
	t.Helper()
	src := net.TCPAddrFromAddrPort(netip.MustParseAddrPort(source))
	dst := &net.TCPAddr{IP: net.ParseIP("192.0.2.250"), Port: 366}
	if src.IP.To4() == nil {
		dst.IP = net.ParseIP("2001:db8::250")
	}
	var b bytes.Buffer
	if _, err := proxyproto.HeaderProxyFromAddrs(version, src, dst).WriteTo(&b); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// The address in the header is the client's: for trust, for networks and for limits.
func TestProxyHeaderIsTheClient(t *testing.T) {
	s := newServer(t, withProxies(Limits{SessionsPerAddress: 1, ODMRNetworks: []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24"), netip.MustParsePrefix("2001:db8::/32")}}),
		withAccount("tim", "example.org"), func(_ *server, c *Config) { c.Trusted = []netip.Prefix{netip.MustParsePrefix("198.51.100.0/24")} })
	for _, version := range []byte{1, 2} {
		connect := func(r Role, source string) *peer {
			p := s.dialFrom("127.0.0.9", r)
			_, _ = p.Write(header(t, version, source))
			return p
		}
		p := connect(ODMR, "192.0.2.1:1025")
		p.expect("220")
		again := connect(ODMR, "192.0.2.1:1026")
		again.expect("421 4.7.0 mail.isp.example Too many sessions from your address")
		again.eof()
		six := connect(ODMR, "[2001:db8::1]:1025")
		six.expect("220")
		connect(ODMR, "[2001:db8::2]:1025").expect("421") // the same /64
		connect(ODMR, "203.0.113.1:1").expect("554 5.7.1")
		for _, p := range []*peer{p, six} {
			p.ask("QUIT", "221")
			p.eof()
			p.Close()
		}
		for source, want := range map[string]string{"198.51.100.1:1": "250", "203.0.113.7:2": "550 5.7.1"} {
			m := connect(SMTP, source)
			m.expect("220")
			m.ask("EHLO mx.example", "250")
			m.ask("MAIL FROM:<a@b.example>", want)
			m.ask("QUIT", "221")
			m.eof()
		}
		eventually(t, "all gone", func() bool { return s.Sessions() == 0 })
	}
}

// However the header arrives, and whatever comes along with it.
func TestProxyHeaderInPieces(t *testing.T) {
	set, _ := toys()
	s := newServer(t, set, withProxies(Limits{}))
	for _, version := range []byte{1, 2} {
		h := header(t, version, "192.0.2.1:1025")
		p := s.dialFrom("127.0.0.9", SMTP)
		for _, c := range append(h, "hello\r\n"...) {
			if _, err := p.Write([]byte{c}); err != nil {
				t.Fatal(err)
			}
			time.Sleep(100 * time.Microsecond)
		}
		p.expect("220")
		p.expect("250 hello")
		p = s.dialFrom("127.0.0.9", SMTP)
		if _, err := p.Write(append(h, "hello\r\n"...)); err != nil {
			t.Fatal(err)
		}
		p.expect("220")
		p.expect("250 hello")
	}
	// The balancer's own checks count as from its address.
	p := s.dialFrom("127.0.0.9", SMTP)
	p.send("PROXY UNKNOWN")
	p.expect("220")
}

// Nothing is said to a balancer's address that sends no header; and a header from elsewhere is no header.
func TestProxyHeaderCannotBeForged(t *testing.T) {
	s := newServer(t, withProxies(Limits{}), func(_ *server, c *Config) { c.Trusted = []netip.Prefix{netip.MustParsePrefix("198.51.100.0/24")} })
	for _, first := range []string{"EHLO mx.example\r\n", "PROXY TCP4 999.0.2.1 192.0.2.2 1 2\r\n", "\r\n\r\n\x00\r\nQUIT\n\x21\x11\xff\xff", "\x16\x03\x01"} {
		p := s.dialFrom("127.0.0.9", SMTP)
		_, _ = p.Write([]byte(first))
		p.eof()
	}
	if n := s.seen.hits(LimitProxy); n != 4 {
		t.Errorf("%d refusals counted, want 4", n)
	}
	for _, version := range []byte{1, 2} {
		p := s.dialFrom("127.0.0.1", SMTP)
		p.expect("220")
		_, _ = p.Write(header(t, version, "198.51.100.1:1"))
		if version == 1 {
			p.expect("500")
			p.ask("EHLO mx.example", "250")
			p.ask("MAIL FROM:<a@b.example>", "550 5.7.1")
		} else {
			p.expect("500")
		}
		p.Close()
	}
	// None at all: the connection is closed without a word.
	p := s.dialFrom("127.0.0.9", SMTP)
	_, _ = p.Write([]byte("PROXY TCP4 "))
	p.eof()
	if n := s.seen.hits(LimitProxy); n != 5 {
		t.Errorf("%d refusals counted, want 5", n)
	}
}

// A server that stops does not wait for headers.
func TestProxyHeaderAwaitedAtShutdown(t *testing.T) {
	set, _ := toys()
	s := newServer(t, set, withProxies(Limits{}))
	p := s.dialFrom("127.0.0.9", SMTP)
	eventually(t, "connected", func() bool { return s.Sessions() == 1 && inspect(s, func(c *conn) bool { return c.headerBy != 0 }) })
	s.shutdown(patience)
	p.eof()
}
