package engine

import (
	"bufio"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/rs/zerolog"

	"odmr/engine/session"
	"odmr/internal/account"
	"odmr/internal/certtest"
)

// withTLS gives the server a certificate and a listener for ODMR under TLS from the first octet.
func withTLS(a *certtest.Authority) setting {
	return func(s *server, c *Config) {
		cert := a.Server(s.t, "mail.isp.example")
		c.TLS.Certificate = func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return cert, nil }
		c.Listeners = append(c.Listeners, Listener{Role: ODMR, Addr: "127.0.0.1:0", TLS: true})
		c.Logger = c.Logger.Level(zerolog.ErrorLevel) // handshakes that fail on purpose
	}
}

func trusting(a *certtest.Authority) *tls.Config {
	return &tls.Config{RootCAs: a.Pool, ServerName: "mail.isp.example"}
}

func (s *server) secureAddr() string {
	for _, l := range s.Addrs() {
		if l.TLS {
			return l.Addr.String()
		}
	}
	s.t.Fatal("no listener under TLS")
	return ""
}

// tcp connects and sees to it that the connection is closed.
func (s *server) tcp(addr string) net.Conn {
	s.t.Helper()
	c, err := net.Dial("tcp", addr)
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() { c.Close() })
	_ = c.SetDeadline(time.Now().Add(patience))
	return c
}

// dialTLS connects to the listener under TLS.
func (s *server) dialTLS(cfg *tls.Config) *peer {
	s.t.Helper()
	return handshakeOver(s.t, s.tcp(s.secureAddr()), cfg)
}

func handshakeOver(t *testing.T, c net.Conn, cfg *tls.Config) *peer {
	t.Helper()
	tc := tls.Client(c, cfg)
	if err := tc.Handshake(); err != nil {
		t.Fatal(err)
	}
	return newPeer(t, tc)
}

// startTLS goes on under TLS.
func (p *peer) startTLS(cfg *tls.Config) *peer {
	p.t.Helper()
	p.ask("STARTTLS", "220")
	return handshakeOver(p.t, p.Conn, cfg)
}

// hello asks for the extensions.
func (p *peer) hello(command string) []string {
	p.t.Helper()
	p.send(command)
	var all []string
	for {
		l := p.line()
		if !strings.HasPrefix(l, "250") {
			p.t.Fatalf("%s: %q", command, l)
		}
		all = append(all, l[4:])
		if l[3] == ' ' {
			return all
		}
	}
}

func has(list []string, keyword string) bool {
	for _, l := range list {
		if l == keyword || strings.HasPrefix(l, keyword+" ") {
			return true
		}
	}
	return false
}

func (p *peer) auth(name string) {
	p.t.Helper()
	p.ask("AUTH TEST "+base64.StdEncoding.EncodeToString([]byte(name)), "235")
}

// dribble is a connection that writes octet by octet.
type dribble struct{ net.Conn }

func (d dribble) Write(b []byte) (int, error) {
	for i := range b {
		if _, err := d.Conn.Write(b[i : i+1]); err != nil {
			return i, err
		}
	}
	return len(b), nil
}

func TestTLSInPieces(t *testing.T) {
	ca := certtest.NewAuthority(t)
	for _, version := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
		t.Run(tls.VersionName(version), func(t *testing.T) {
			s := newServer(t, withAccount("a", "a.example"), withTLS(ca))
			body := "Subject: pieces\r\n\r\n" + strings.Repeat("line\r\n", 200)
			s.feed(SMTP).deliver("x@y.example", "u@a.example", body)
			cfg := trusting(ca)
			cfg.MaxVersion = version
			p := handshakeOver(t, dribble{s.tcp(s.secureAddr())}, cfg)
			if v := p.Conn.(*tls.Conn).ConnectionState().Version; v != version {
				t.Errorf("%s", tls.VersionName(v))
			}
			p.expect("220")
			p.ask("EHLO customer.example", "250")
			p.auth("a")
			c := &customer{peer: p, offer: fullOffer}
			c.collect("ATRN")
			if len(c.got) != 1 || c.got[0].body != body {
				t.Errorf("got %d messages", len(c.got))
			}
			if n := s.seen.get(func(r *recorder) int { return r.tlsBegan[version] }); n != 1 {
				t.Errorf("%d handshakes were counted", n)
			}
		})
	}
}

// What holds in clear holds under TLS: the other tests once more.
func TestUnderTLS(t *testing.T) {
	ca := certtest.NewAuthority(t)
	defer func() { everythingUnderTLS = nil }()
	for _, version := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
		everythingUnderTLS = func(s *server, c *Config) {
			if c.TLS.Certificate == nil {
				withTLS(ca)(s, c)
			}
			for i := range c.Listeners {
				c.Listeners[i].TLS = true
			}
			s.client = trusting(ca)
			s.client.MaxVersion = version
		}
		for name, test := range map[string]func(*testing.T){
			"MailInAndOut": TestMailInAndOut, "ATRNRefusals": TestATRNRefusals, "CustomersDoNotMix": TestCustomersDoNotMix,
			"SlowReader": TestSlowReaderOfALargeMessage, "LineLost": TestLineLost, "CutAt421": TestMessageIsCutAt421,
			"MailArrives": TestMailArrivesWhileDraining, "Shutdown": TestShutdownFinishesTransactions, "IngestMemory": TestIngestMemory,
			"ClientLeaves": TestClientLeavesDuringCommit, "ClientCloses": TestClientClosesItsHalfDuringCommit,
			"Echo": TestEcho, "Panic": TestPanicEndsOneSession, "Timer": TestTimer,
			"Paused": TestStuckSessionIsPaused, "UnreadReplies": TestUnreadRepliesAreBounded, "LastReply": TestLastReplyArrives,
			"Many": TestManyConnections, "BodyTwice": TestBodyTwice, "ShutdownStops": TestShutdownStopsSessions,
		} {
			if version == tls.VersionTLS12 && !strings.Contains("MailInAndOut SlowReader Paused Echo LastReply", name) {
				continue // what differs between the versions is below all that
			}
			t.Run(tls.VersionName(version)+"/"+name, test)
		}
	}
}

func TestSTARTTLS(t *testing.T) {
	ca := certtest.NewAuthority(t)
	s := newServer(t, withAccount("a", "a.example"), withTLS(ca))
	for _, r := range []Role{SMTP, LMTP} {
		hello := map[Role]string{SMTP: "EHLO mx.isp.example", LMTP: "LHLO mx.isp.example"}[r]
		p := s.feed(r)
		if !has(p.hello(hello), "STARTTLS") {
			t.Errorf("%s: STARTTLS is not offered", r)
		}
		p.ask("STARTTLS now", "501")
		p.ask("MAIL FROM:<x@y.example>", "250")
		p = p.startTLS(trusting(ca))
		p.ask("MAIL FROM:<x@y.example>", "503") // the name and the transaction are forgotten (RFC 3207 4.2)
		if has(p.hello(hello), "STARTTLS") {
			t.Errorf("%s: STARTTLS is offered under TLS", r)
		}
		p.ask("STARTTLS", "503")
		p.deliver("x@y.example", "u@a.example", "Subject: "+r.String()+"\r\n\r\nx\r\n")
		p.ask("QUIT", "221")
		p.eof()
	}
	p := s.dial(ODMR)
	p.expect("220")
	p.ask("STARTTLS", "220")
	p = handshakeOver(t, p.Conn, trusting(ca))
	if got := p.hello("EHLO customer.example"); has(got, "STARTTLS") || !has(got, "AUTH") || !has(got, "ATRN") {
		t.Errorf("offered under TLS: %q", got)
	}
	p.ask("STARTTLS", "503")
	p.ask("ATRN", "530")
	p.auth("a")
	p.ask("STARTTLS", "503")
	var raw strings.Builder
	c := &customer{peer: p, offer: fullOffer, raw: &raw}
	c.collect("ATRN")
	if len(c.got) != 2 || !strings.Contains(raw.String(), "with ESMTPS id") || !strings.Contains(raw.String(), "with LMTPS id") {
		t.Errorf("%d messages:\n%s", len(c.got), raw.String())
	}
}

// CVE-2011-0411: what came in clear is not used under TLS.
func TestSTARTTLSInjection(t *testing.T) {
	ca := certtest.NewAuthority(t)
	s := newServer(t, withAccount("a", "a.example"), withTLS(ca))
	for _, r := range []Role{SMTP, LMTP, ODMR} {
		for _, behind := range []string{"NOOP\r\n", "RSET", "\r\n", "\x16\x03\x01"} {
			p := s.dial(r)
			p.expect("220")
			if _, err := io.WriteString(p, "STARTTLS\r\n"+behind); err != nil {
				t.Fatal(err)
			}
			p.expect("554 5.5.0")
			p.eof()
		}
		p := s.dial(r) // the same, later
		p.expect("220")
		p.ask("STARTTLS", "220")
		p.send("NOOP")
		p.eof()
		if r == ODMR {
			continue
		}
		p = s.dial(r) // a command of its own line before STARTTLS may be pipelined
		p.expect("220")
		p.send("NOOP", "STARTTLS")
		p.expect("250")
		p.expect("220")
		p = handshakeOver(t, p.Conn, trusting(ca))
		p.ask("NOOP", "250")
	}
	eventually(t, "the failed ones are counted", func() bool {
		return s.seen.get(func(r *recorder) int { return r.tlsFailed }) == 3
	})
}

func TestTLSRequired(t *testing.T) {
	ca := certtest.NewAuthority(t)
	for _, policy := range []session.TLSPolicy{session.TLSForLogin, session.TLSForAll} {
		s := newServer(t, withAccount("a", "a.example"), withTLS(ca), func(_ *server, c *Config) {
			c.TLS.ODMR, c.TLS.SMTP, c.TLS.LMTP = policy, policy, policy
		})
		p := s.dial(ODMR)
		p.expect("220")
		if got := p.hello("EHLO customer.example"); has(got, "AUTH") || !has(got, "STARTTLS") || !has(got, "ATRN") {
			t.Errorf("offered in clear: %q", got)
		}
		p.ask("AUTH TEST YQ==", "530 5.7.0")
		p.ask("ATRN", "530 5.7.0")
		p.ask("NOOP", "250")
		if policy == session.TLSForAll {
			p.ask("RSET", "530 5.7.0")
			p.ask("HELO x.example", "530 5.7.0")
			p.ask("JUNK", "530 5.7.0")
		} else {
			p.ask("RSET", "250")
		}
		p = p.startTLS(trusting(ca))
		if got := p.hello("EHLO customer.example"); !has(got, "AUTH") {
			t.Errorf("offered under TLS: %q", got)
		}
		p.auth("a")
		p.ask("ATRN", "453")
		for _, r := range []Role{SMTP, LMTP} {
			p := s.feed(r)
			want := "250"
			if policy == session.TLSForAll {
				want = "530 5.7.0"
			}
			p.ask("MAIL FROM:<>", want)
			p.ask("NOOP", "250")
			p = p.startTLS(trusting(ca))
			p.hello(map[Role]string{SMTP: "EHLO mx.isp.example", LMTP: "LHLO mx.isp.example"}[r])
			p.ask("MAIL FROM:<>", "250")
			p.ask("QUIT", "221")
		}
		p = s.dialTLS(trusting(ca))
		p.expect("220")
		p.auth("a")
	}
}

// Large messages come in and go out under TLS, to a customer that uses DATA and one that uses BDAT.
func TestTLSLargeMessages(t *testing.T) {
	ca := certtest.NewAuthority(t)
	s := newServer(t, withAccount("a", "a.example"), withAccount("b", "b.example"), withTLS(ca))
	var body strings.Builder
	body.WriteString("Subject: large\r\n\r\n")
	for i := 0; body.Len() < 20<<20; i++ {
		fmt.Fprintf(&body, ".%d %x\r\n", i, crc32.ChecksumIEEE([]byte{byte(i), byte(i >> 8)}))
	}
	p := s.feed(SMTP).startTLS(trusting(ca))
	p.hello("EHLO mx.isp.example")
	p.deliver("x@y.example", "u@a.example v@b.example", body.String())
	for name, offer := range map[string][]string{"a": nil, "b": fullOffer} {
		p := s.dialTLS(trusting(ca))
		p.expect("220")
		p.ask("EHLO customer.example", "250")
		p.auth(name)
		c := &customer{peer: p, offer: offer}
		c.collect("ATRN")
		if len(c.got) != 1 || c.got[0].body != body.String() {
			t.Errorf("%s: the message differs", name)
		}
	}
}

// A customer that does not read costs a bounded amount of ciphertext.
func TestTLSSlowReader(t *testing.T) {
	ca := certtest.NewAuthority(t)
	s := newServer(t, withAccount("a", "a.example"), withTLS(ca))
	body := "Subject: large\r\n\r\n" + strings.Repeat(strings.Repeat("large ", 12)+"\r\n", 30<<20/74)
	in := s.feed(SMTP)
	in.deliver("", "u@a.example", body)
	in.ask("QUIT", "221")
	in.Close()
	eventually(t, "only the customer is here", func() bool { return s.Sessions() == 0 })
	raw := s.tcp(s.secureAddr())
	_ = raw.(*net.TCPConn).SetReadBuffer(64 << 10)
	p := handshakeOver(t, raw, trusting(ca))
	p.expect("220")
	p.auth("a")
	c := &customer{peer: p, offer: fullOffer}
	c.ask("ATRN", "250")
	c.send("220 slow")
	for len(c.got) == 0 {
		c.command()
	}
	most := 0
	blocked := func() bool {
		return inspect(s, func(c *conn) bool {
			most = max(most, c.tls.queue.pending) // there is one connection
			return c.blocked
		})
	}
	eventually(t, "the line is full", blocked)
	for range 50 {
		blocked()
		time.Sleep(time.Millisecond)
	}
	if limit := sealOctets + 2*maxRecord; most > limit || most == 0 {
		t.Errorf("up to %d octets of ciphertext waited", most)
	}
	for c.command() {
	}
	if c.got[0].body != body {
		t.Error("the message differs")
	}
}

// lastRecord is a connection that knows the plain text of the record that was read last, for crypto/tls
// never returns more than one at a time.
type lastRecord struct {
	*tls.Conn
	last []byte
	all  []int
}

func (l *lastRecord) Read(b []byte) (int, error) {
	var one [maxRecord]byte
	n, err := l.Conn.Read(one[:min(len(one), len(b))])
	copy(b, one[:n])
	l.last = append(l.last[:0], one[:n]...)
	l.all = append(l.all, n)
	return n, err
}

// Whenever a lock-step customer has answered everything, what it got last was a record of one line; and
// the records of a body are full.
func TestTLSLastLineIsARecord(t *testing.T) {
	ca := certtest.NewAuthority(t)
	for name, offer := range map[string][]string{"data": nil, "bdat": {"CHUNKING"}} {
		t.Run(name, func(t *testing.T) {
			s := newServer(t, withAccount("a", "a.example"), withTLS(ca))
			body := "Subject: x\r\n\r\n" + strings.Repeat("one line\r\n", 20_000)
			in := s.feed(SMTP)
			for range 3 {
				in.deliver("x@y.example", "u@a.example", body)
			}
			p := s.dialTLS(trusting(ca))
			l := &lastRecord{Conn: p.Conn.(*tls.Conn)}
			p.r = bufio.NewReaderSize(l, 2*maxRecord)
			p.expect("220")
			p.ask("EHLO customer.example", "250") // several lines
			if strings.Count(string(l.last), "\n") != 1 {
				t.Errorf("the last line of the EHLO reply is in the record %q", l.last)
			}
			p.auth("a")
			c := &customer{peer: p, offer: offer}
			c.ask("ATRN", "250")
			c.send("220 customer.example ready")
			for going := true; going; {
				going = c.command()
				if c.r.Buffered() == 0 && strings.IndexByte(string(l.last), '\n') != len(l.last)-1 {
					t.Fatalf("a flight ended in the record %q", l.last)
				}
			}
			full := 0
			for _, n := range l.all {
				if n == maxRecord {
					full++
				}
			}
			if want := 3 * (len(body)/maxRecord - 1); full < want {
				t.Errorf("%d records are full, want %d; sizes %v", full, want, l.all)
			}
		})
	}
}

// A replaced certificate holds for new sessions; those that run go on.
func TestTLSReloadUnderLoad(t *testing.T) {
	ca := certtest.NewAuthority(t)
	var current atomic.Pointer[tls.Certificate]
	current.Store(ca.Server(t, "mail.isp.example"))
	s := newServer(t, withAccount("a", "a.example"), withTLS(ca), func(_ *server, c *Config) {
		c.TLS.Certificate = func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return current.Load(), nil }
	})
	var wg sync.WaitGroup
	stop := make(chan struct{})
	var sent atomic.Int64
	for range 4 {
		p := s.feed(SMTP).startTLS(trusting(ca))
		p.hello("EHLO mx.isp.example")
		wg.Go(func() {
			for {
				p.deliver("x@y.example", "u@a.example", "Subject: x\r\n\r\nx\r\n")
				sent.Add(1)
				select {
				case <-stop:
					return
				default:
				}
			}
		})
	}
	for range 20 {
		next := ca.Server(t, "mail.isp.example")
		current.Store(next)
		p := s.dialTLS(trusting(ca))
		if got := p.Conn.(*tls.Conn).ConnectionState().PeerCertificates[0]; !got.Equal(next.Leaf) {
			t.Error("a new session got an old certificate")
		}
		p.expect("220")
		before := sent.Load()
		eventually(t, "sessions go on", func() bool { return sent.Load() > before })
	}
	close(stop)
	wg.Wait()
}

// Stalled handshakes keep nobody out: 500 that have sent half a ClientHello, 500 that have sent a whole one
// and go no further, with room for 20.
func TestTLSStalledHandshakes(t *testing.T) {
	ca := certtest.NewAuthority(t)
	s := newServer(t, withAccount("a", "a.example"), withTLS(ca))
	s.shakes.mu.Lock()
	s.shakes.max = 20
	s.shakes.mu.Unlock()
	hello := clientHello(t, trusting(ca))
	for range 500 {
		if _, err := s.tcp(s.secureAddr()).Write(hello[:len(hello)/2]); err != nil {
			t.Fatal(err)
		}
	}
	if n := s.shakes.count(); n != 0 {
		t.Errorf("half a ClientHello costs a goroutine: %d", n)
	}
	for i := range 500 {
		if _, err := s.tcp(s.secureAddr()).Write(hello); err != nil {
			t.Fatal(err)
		}
		if i%100 == 99 {
			// A loop that is behind would begin those before it after it, as if so many had come since.
			eventually(t, "all have begun", func() bool {
				return s.seen.get(func(r *recorder) int { return r.tlsFailed })+s.shakes.count() >= i+1
			})
			p := s.dialTLS(trusting(ca))
			p.expect("220")
			p.auth("a")
			p.ask("QUIT", "221")
		}
	}
	eventually(t, "the oldest were ended", func() bool {
		return s.seen.get(func(r *recorder) int { return r.tlsFailed }) >= 480
	})
	if n := s.shakes.count(); n > 20 {
		t.Errorf("%d handshakes are under way", n)
	}
	p := s.dialTLS(trusting(ca))
	p.expect("220")
	p.ask("QUIT", "221")
}

// clientHello is what a client sends first.
func clientHello(t testing.TB, cfg *tls.Config) []byte {
	t.Helper()
	ours, theirs := net.Pipe()
	defer ours.Close()
	go func() { _ = tls.Client(theirs, cfg).Handshake(); theirs.Close() }()
	b := make([]byte, 16<<10)
	n, err := io.ReadAtLeast(ours, b, recordHeader)
	if err != nil {
		t.Fatal(err)
	}
	want := recordHeader + int(b[3])<<8 + int(b[4])
	if _, err := io.ReadFull(ours, b[n:max(n, want)]); err != nil {
		t.Fatal(err)
	}
	return b[:want]
}

func TestTLSHandshakeDeadline(t *testing.T) {
	ca := certtest.NewAuthority(t)
	s := newServer(t, withTLS(ca), func(_ *server, c *Config) { c.Timeouts.Handshake = 300 * time.Millisecond })
	hello := clientHello(t, trusting(ca))
	for _, sent := range [][]byte{nil, hello[:3], hello[:len(hello)-1], hello} {
		c := s.tcp(s.secureAddr())
		if _, err := c.Write(sent); err != nil {
			t.Fatal(err)
		}
		if _, err := io.Copy(io.Discard, c); err != nil && !errors.Is(err, net.ErrClosed) && !isReset(err) {
			t.Error(err)
		}
	}
	p := s.dial(ODMR)
	p.expect("220")
	p.ask("STARTTLS", "220")
	p.eof()
	eventually(t, "all are counted as failed", func() bool { return s.seen.get(func(r *recorder) int { return r.tlsFailed }) == 5 })
}

func isReset(err error) bool { return strings.Contains(err.Error(), "reset by peer") }

// Clients that leave, or talk nonsense, at any point of a handshake.
func TestTLSBrokenHandshakes(t *testing.T) {
	ca := certtest.NewAuthority(t)
	s := newServer(t, withTLS(ca), func(_ *server, c *Config) { c.Timeouts.Handshake = time.Second })
	hello := clientHello(t, trusting(ca))
	for n := 0; n < len(hello); n += 1 + len(hello)/40 {
		c := s.tcp(s.secureAddr())
		_, _ = c.Write(hello[:n])
		c.Close()
	}
	c := s.tcp(s.secureAddr())
	_, _ = c.Write(hello)
	c.Close()
	broken := append([]byte{}, hello...)
	broken[recordHeader] ^= 0xff
	for _, junk := range []string{"EHLO x\r\n", "\x80\x2e\x01\x00\x02", "\x16\x03\x01\xff\xff", "\x16\x03\x01\x00\x00", "\x16\x02\x01\x00\x01x",
		"\x16\x03\x01\x00\x01x", string(broken), string(hello) + string(hello), string(hello) + strings.Repeat("x", 200<<10)} {
		p := newPeer(t, s.tcp(s.secureAddr()))
		_, _ = io.WriteString(p, junk)
		if b, err := io.ReadAll(p); err != nil && !isReset(err) || strings.Contains(string(b), "220 ") {
			t.Errorf("%.20q: got %q, %v", junk, b, err)
		}
	}
	eventually(t, "nobody is left", func() bool { return s.Sessions() == 0 && s.shakes.count() == 0 && s.records.count() == 0 })
}

// Of versions and ciphers only those that are good are taken.
func TestTLSVersionsAndCiphers(t *testing.T) {
	ca := certtest.NewAuthority(t)
	try := func(s *server, change func(*tls.Config)) error {
		cfg := trusting(ca)
		change(cfg)
		c := tls.Client(s.tcp(s.secureAddr()), cfg)
		defer c.Close()
		return c.Handshake()
	}
	s := newServer(t, withTLS(ca))
	for version, good := range map[uint16]bool{tls.VersionTLS10: false, tls.VersionTLS11: false, tls.VersionTLS12: true, tls.VersionTLS13: true} {
		err := try(s, func(c *tls.Config) { c.MinVersion, c.MaxVersion = version, version })
		if (err == nil) != good {
			t.Errorf("%s: %v", tls.VersionName(version), err)
		}
	}
	bad := tls.InsecureCipherSuites()
	for _, suite := range tls.CipherSuites() {
		if strings.Contains(suite.Name, "_CBC_") { // nothing authenticates it but what is encrypted with it
			bad = append(bad, suite)
		}
	}
	for _, suite := range bad {
		if err := try(s, func(c *tls.Config) { c.MaxVersion, c.CipherSuites = tls.VersionTLS12, []uint16{suite.ID} }); err == nil {
			t.Errorf("%s was taken", suite.Name)
		}
	}
	s = newServer(t, withTLS(ca), func(_ *server, c *Config) { c.TLS.MinVersion = tls.VersionTLS13 })
	if err := try(s, func(c *tls.Config) { c.MaxVersion = tls.VersionTLS12 }); err == nil {
		t.Error("TLS 1.2 was taken where 1.3 is the least")
	}
	if err := try(s, func(*tls.Config) {}); err != nil {
		t.Error(err)
	}
	// What is recorded today is not for tomorrow's machines, where the client does as well.
	if p := s.dialTLS(trusting(ca)); p.Conn.(*tls.Conn).ConnectionState().CurveID != tls.X25519MLKEM768 {
		t.Errorf("keys were agreed on by %s", p.Conn.(*tls.Conn).ConnectionState().CurveID)
	}
	// No session is resumed, no protocol is chosen.
	cfg := trusting(ca)
	cfg.ClientSessionCache, cfg.NextProtos = tls.NewLRUClientSessionCache(8), []string{"smtp"}
	for range 2 {
		p := s.dialTLS(cfg)
		p.expect("220")
		if st := p.Conn.(*tls.Conn).ConnectionState(); st.DidResume || st.NegotiatedProtocol != "" {
			t.Errorf("resumed %v, protocol %q", st.DidResume, st.NegotiatedProtocol)
		}
	}
}

// peers remembers whom it was asked about.
type peers struct {
	Authenticator
	mu  sync.Mutex
	all []account.Peer
}

func (a *peers) Start(mechanism string, p account.Peer) (account.Exchange, error) {
	a.mu.Lock()
	a.all = append(a.all, p)
	a.mu.Unlock()
	return a.Authenticator.Start(mechanism, p)
}

func (a *peers) last() account.Peer {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.all[len(a.all)-1]
}

// The authenticator is told of TLS, of the client's certificate, and of ours.
func TestTLSPeer(t *testing.T) {
	ca, strangers := certtest.NewAuthority(t), certtest.NewAuthority(t)
	var asked *peers
	var served *x509.Certificate
	s := newServer(t, withAccount("a", "a.example"), withTLS(ca), func(_ *server, c *Config) {
		asked = &peers{Authenticator: c.Authenticator}
		c.Authenticator = asked
		c.TLS.ClientCAs = func() *x509.CertPool { return ca.Pool }
	})
	for _, version := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
		for i, cert := range []*tls.Certificate{nil, ca.Client(t, "tim"), strangers.Client(t, "tim")} {
			cfg := trusting(ca)
			cfg.MaxVersion = version
			cfg.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
				if cert == nil {
					return &tls.Certificate{}, nil
				}
				return cert, nil
			}
			p := s.dialTLS(cfg)
			p.expect("220")
			p.auth("a")
			st := p.Conn.(*tls.Conn).ConnectionState()
			served = st.PeerCertificates[0]
			got := asked.last()
			if got.TLS == nil || got.TLS.Version != version || !got.ServerCertificate.Equal(served) || got.Addr.String() != p.LocalAddr().String() {
				t.Fatalf("peer %+v", got)
			}
			if has := len(got.TLS.PeerCertificates) > 0; has != (cert != nil) {
				t.Errorf("certificate %d: given %v", i, has)
			}
			if verified := len(got.TLS.VerifiedChains) > 0; verified != (i == 1) {
				t.Errorf("certificate %d: verified %v", i, verified)
			}
			if version == tls.VersionTLS13 {
				ours, err := st.ExportKeyingMaterial("EXPORTER-Channel-Binding", nil, 32)
				theirs, err2 := got.TLS.ExportKeyingMaterial("EXPORTER-Channel-Binding", nil, 32)
				if err != nil || err2 != nil || string(ours) != string(theirs) {
					t.Errorf("channel binding: %v %v", err, err2)
				}
			}
		}
	}
	p := s.dial(ODMR)
	p.expect("220")
	p.auth("a")
	if got := asked.last(); got.TLS != nil || got.ServerCertificate != nil {
		t.Error("TLS is told of in clear")
	}
}

// What a stranger shows for a certificate stays in memory with its session, so that there is a bound on it.
func TestTLSLongClientChain(t *testing.T) {
	ca := certtest.NewAuthority(t)
	s := newServer(t, withTLS(ca), func(_ *server, c *Config) { c.TLS.ClientCAs = func() *x509.CertPool { return ca.Pool } })
	for _, version := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
		for _, size := range []int{maxClientChain / 2, maxClientChain + 1} {
			shown := *certtest.NewAuthority(t).Client(t, "stranger")
			for n := len(shown.Certificate[0]); n < size; n += len(ca.Leaf.Raw) {
				shown.Certificate = append(shown.Certificate, ca.Leaf.Raw)
			}
			cfg := trusting(ca)
			cfg.MaxVersion = version
			cfg.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &shown, nil }
			tc := tls.Client(s.tcp(s.secureAddr()), cfg)
			_, err := tc.Read(make([]byte, 1)) // of the greeting
			if taken := err == nil; taken != (size <= maxClientChain) {
				t.Errorf("%s, %d octets of certificates: %v", tls.VersionName(version), size, err)
			}
		}
	}
}
