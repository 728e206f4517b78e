package engine

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/xdg-go/scram"

	"odmr/internal/account"
	"odmr/internal/certtest"
)

// saslServer is a server with a real customer: tim, who may log in with every mechanism.
func saslServer(t *testing.T, settings ...setting) (*server, *certtest.Authority) {
	t.Helper()
	ca := certtest.NewAuthority(t)
	tim, err := (&account.Account{Name: "tim", Domains: []string{"example.org"}}).WithPassword("tanstaaftanstaaf")
	if err != nil {
		t.Fatal(err)
	}
	tim.Certificates = []account.Certificate{{Kind: account.CertCN, Value: "Tim's gateway"}}
	tim.Networks = []netip.Prefix{netip.MustParsePrefix("127.0.0.7/32")}
	return newServer(t, append(settings, withTLS(ca), withAccounts(tim), func(_ *server, c *Config) {
		c.TLS.ClientCAs = func() *x509.CertPool { return ca.Pool }
	})...), ca
}

// exchange says each response and returns the last reply. A response nil ends it early.
func (p *peer) exchange(command string, answer func(challenge []byte) []byte) string {
	p.t.Helper()
	p.send(command)
	for {
		l := p.line()
		text, more := strings.CutPrefix(l, "334 ")
		if !more {
			return l
		}
		challenge, err := base64.StdEncoding.DecodeString(text)
		if err != nil {
			p.t.Fatalf("%q: %v", l, err)
		}
		p.send(base64.StdEncoding.EncodeToString(answer(challenge)))
	}
}

func b64(s string) string { return base64.StdEncoding.EncodeToString([]byte(s)) }

// scramOver logs in with a client that others wrote, which also checks the server's proof.
func (p *peer) scramOver(mechanism, password string, binding scram.ChannelBinding) string {
	p.t.Helper()
	client, err := scram.SHA256.NewClient("tim", password, "")
	if err != nil {
		p.t.Fatal(err)
	}
	conv := client.NewConversation()
	if binding.IsSupported() {
		conv = client.NewConversationWithChannelBinding(binding)
	}
	first, err := conv.Step("")
	if err != nil {
		p.t.Fatal(err)
	}
	reply := p.exchange("AUTH "+mechanism+" "+b64(first), func(challenge []byte) []byte {
		r, err := conv.Step(string(challenge))
		if err != nil {
			p.t.Fatal(err)
		}
		return []byte(r)
	})
	if ok := strings.HasPrefix(reply, "235 "); ok != conv.Valid() {
		p.t.Errorf("%q, and the client says %v", reply, conv.Valid())
	}
	return reply
}

// Every mechanism over real connections, in clear and under TLS.
func TestSASLMechanisms(t *testing.T) {
	s, ca := saslServer(t)
	certified := trusting(ca)
	certified.Certificates = []tls.Certificate{*ca.Client(t, "Tim's gateway")}
	old := trusting(ca)
	old.MaxVersion = tls.VersionTLS12
	clear := func() *peer { return s.dial(ODMR) }
	own := func() *peer { return s.dialFrom("127.0.0.7", ODMR) }
	under := func(cfg *tls.Config) func() *peer { return func() *peer { return s.dialTLS(cfg) } }
	bound := func(p *peer, kind string) scram.ChannelBinding {
		st := p.Conn.(*tls.Conn).ConnectionState()
		b, err := scram.NewTLSExporterBinding(&st)
		switch kind {
		case "tls-unique":
			b = scram.NewTLSUniqueBinding(st.TLSUnique)
		case "tls-server-end-point":
			b, err = scram.NewTLSServerEndpointBinding(&st)
		}
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	words := func(list ...string) func([]byte) []byte {
		return func([]byte) []byte {
			w := list[0]
			list = list[1:]
			return []byte(w)
		}
	}
	const password = "tanstaaftanstaaf"
	const clearOffer, tlsOffer = "CRAM-MD5 SCRAM-SHA-256", "CRAM-MD5 SCRAM-SHA-256-PLUS SCRAM-SHA-256 PLAIN LOGIN"
	for _, c := range []struct {
		what  string
		dial  func() *peer
		offer string
		login func(*peer) string
		want  string
	}{
		{"CRAM-MD5", clear, clearOffer, func(p *peer) string { return p.login("tim", password) }, "235"},
		{"SCRAM", clear, clearOffer, func(p *peer) string { return p.scramOver("SCRAM-SHA-256", password, scram.ChannelBinding{}) }, "235"},
		{"SCRAM, wrong", clear, clearOffer, func(p *peer) string { return p.scramOver("SCRAM-SHA-256", "wrong wrong", scram.ChannelBinding{}) }, "535"},
		{"PLAIN in clear", clear, clearOffer, func(p *peer) string { return p.exchange("AUTH PLAIN "+b64("\x00tim\x00"+password), nil) }, "504"},
		{"LOGIN in clear", clear, clearOffer, func(p *peer) string { return p.exchange("AUTH LOGIN", nil) }, "504"},
		{"-PLUS in clear", clear, clearOffer, func(p *peer) string { return p.exchange("AUTH SCRAM-SHA-256-PLUS", nil) }, "504"},
		{"EXTERNAL in clear", clear, clearOffer, func(p *peer) string { return p.exchange("AUTH EXTERNAL =", nil) }, "504"},
		{"EXTERNAL by network", own, "CRAM-MD5 EXTERNAL SCRAM-SHA-256", func(p *peer) string { return p.exchange("AUTH EXTERNAL =", nil) }, "235"},
		{"EXTERNAL by network as nobody", own, "CRAM-MD5 EXTERNAL SCRAM-SHA-256", func(p *peer) string { return p.exchange("AUTH EXTERNAL "+b64("nobody"), nil) }, "535"},
		{"EXTERNAL by certificate", under(certified), "CRAM-MD5 EXTERNAL SCRAM-SHA-256-PLUS SCRAM-SHA-256 PLAIN LOGIN", func(p *peer) string { return p.exchange("AUTH EXTERNAL", words("tim")) }, "235"},
		{"EXTERNAL without certificate", under(trusting(ca)), tlsOffer, func(p *peer) string { return p.exchange("AUTH EXTERNAL =", nil) }, "504"},
		{"PLAIN", under(trusting(ca)), tlsOffer, func(p *peer) string { return p.exchange("AUTH PLAIN "+b64("\x00tim\x00"+password), nil) }, "235"},
		{"PLAIN, asked", under(trusting(ca)), tlsOffer, func(p *peer) string { return p.exchange("AUTH plain", words("tim\x00example.org\x00"+password)) }, "235"},
		{"PLAIN, wrong", under(trusting(ca)), tlsOffer, func(p *peer) string { return p.exchange("AUTH PLAIN "+b64("\x00tim\x00wrong wrong"), nil) }, "535"},
		{"LOGIN", under(trusting(ca)), tlsOffer, func(p *peer) string { return p.exchange("AUTH LOGIN", words("tim", password)) }, "235"},
		{"LOGIN, wrong", under(trusting(ca)), tlsOffer, func(p *peer) string { return p.exchange("AUTH LOGIN", words("tim", "wrong wrong")) }, "535"},
		{"-PLUS with tls-exporter", under(trusting(ca)), tlsOffer, func(p *peer) string { return p.scramOver("SCRAM-SHA-256-PLUS", password, bound(p, "tls-exporter")) }, "235"},
		{"-PLUS with tls-server-end-point", under(trusting(ca)), tlsOffer, func(p *peer) string {
			return p.scramOver("SCRAM-SHA-256-PLUS", password, bound(p, "tls-server-end-point"))
		}, "235"},
		{"-PLUS with tls-unique in TLS 1.2", under(old), tlsOffer, func(p *peer) string { return p.scramOver("SCRAM-SHA-256-PLUS", password, bound(p, "tls-unique")) }, "235"},
		{"-PLUS with tls-exporter in TLS 1.2", under(old), tlsOffer, func(p *peer) string { return p.scramOver("SCRAM-SHA-256-PLUS", password, bound(p, "tls-exporter")) }, "235"},
		{"-PLUS in the middle", under(trusting(ca)), tlsOffer, func(p *peer) string {
			return p.scramOver("SCRAM-SHA-256-PLUS", password, bound(s.dialTLS(trusting(ca)), "tls-exporter"))
		}, "535"},
		{"SCRAM downgraded", under(trusting(ca)), tlsOffer, func(p *peer) string { return p.exchange("AUTH SCRAM-SHA-256 "+b64("y,,n=tim,r=abcdef"), nil) }, "535"},
	} {
		p := c.dial()
		p.expect("220")
		offered := ""
		for _, l := range p.hello("EHLO example.org") {
			if m, ok := strings.CutPrefix(l, "AUTH "); ok {
				offered = m
			}
		}
		if offered != c.offer {
			t.Errorf("%s: offered %q, want %q", c.what, offered, c.offer)
		}
		if l := c.login(p); !strings.HasPrefix(l, c.want+" ") {
			t.Errorf("%s: %q, want %s", c.what, l, c.want)
		}
		// And it is a login, or none.
		if c.want == "235" {
			p.ask("ATRN example.org", "453 ")
		} else {
			p.ask("ATRN example.org", "530 ")
		}
		p.ask("QUIT", "221")
	}
	// What STARTTLS makes possible is offered behind it.
	p := s.dial(ODMR)
	p.expect("220")
	p.ask("EHLO example.org", "250")
	p = p.startTLS(trusting(ca))
	if l := p.hello("EHLO example.org"); !has(l, "AUTH "+tlsOffer) {
		t.Errorf("after STARTTLS: %q", l)
	}
	if l := p.scramOver("SCRAM-SHA-256-PLUS", password, bound(p, "tls-exporter")); !strings.HasPrefix(l, "235 ") {
		t.Error(l)
	}
}

// Behind a balancer TLS begins behind the header, and certificate and address are the client's.
func TestProxyHeaderBeforeTLS(t *testing.T) {
	s, ca := saslServer(t, withProxies(Limits{}))
	for _, source := range []string{"127.0.0.7:1025", "192.0.2.1:1025"} {
		d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP("127.0.0.9")}}
		c, err := d.Dial("tcp", s.secureAddr())
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		// One segment: the ClientHello comes along with the header.
		p := handshakeOver(t, &prefixed{Conn: c, prefix: header(t, 2, source)}, trusting(ca))
		p.expect("220")
		if got := has(p.hello("EHLO example.org"), "AUTH CRAM-MD5 EXTERNAL SCRAM-SHA-256-PLUS SCRAM-SHA-256 PLAIN LOGIN"); got != (source == "127.0.0.7:1025") {
			t.Errorf("%s: EXTERNAL %v", source, got)
		}
	}
}

// prefixed writes prefix in front of the first octets.
type prefixed struct {
	net.Conn
	prefix []byte
}

func (c *prefixed) Write(b []byte) (int, error) {
	before := len(c.prefix)
	n, err := c.Conn.Write(append(c.prefix, b...))
	c.prefix = nil
	return max(0, n-before), err
}

// program finds a client of somebody else's.
func program(t *testing.T, name string) string {
	t.Helper()
	path, err := exec.LookPath(name)
	if err != nil {
		if os.Getenv("ODMR_INTEROP") == "required" {
			t.Fatalf("%s (Debian package %s) is not installed", name, name)
		}
		t.Skipf("%s (Debian package %s) is not installed", name, name)
	}
	return path
}

// GNU SASL, which has an implementation of its own of everything, channel binding included.
func TestInteropGNUSASL(t *testing.T) {
	gsasl := program(t, "gsasl")
	s, ca := saslServer(t)
	dir := t.TempDir()
	file := func(name string, blocks ...*pem.Block) string {
		var text []byte
		for _, b := range blocks {
			text = append(text, pem.EncodeToMemory(b)...)
		}
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, text, 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	cert := ca.Client(t, "Tim's gateway")
	key, err := x509.MarshalPKCS8PrivateKey(cert.PrivateKey)
	if err != nil {
		t.Fatal(err)
	}
	certFile := file("cert.pem", &pem.Block{Type: "CERTIFICATE", Bytes: cert.Leaf.Raw})
	keyFile := file("key.pem", &pem.Block{Type: "PRIVATE KEY", Bytes: key})
	// Our certificate is for a name, and gsasl connects to an address: it does not verify it.
	under := []string{"--starttls", "--x509-ca-file=", "--x509-cert-file=" + certFile, "--x509-key-file=" + keyFile}
	for _, c := range []struct {
		mechanism, password string
		args                []string
		good                bool
	}{
		{"CRAM-MD5", "tanstaaftanstaaf", []string{"--no-starttls"}, true},
		{"CRAM-MD5", "wrong", []string{"--no-starttls"}, false},
		{"SCRAM-SHA-256", "tanstaaftanstaaf", []string{"--no-starttls"}, true},
		{"SCRAM-SHA-256", "wrong", []string{"--no-starttls"}, false},
		{"SCRAM-SHA-256-PLUS", "tanstaaftanstaaf", under, true},
		{"SCRAM-SHA-256-PLUS", "tanstaaftanstaaf", append(under, "--priority=NORMAL:-VERS-TLS1.3"), true},
		{"SCRAM-SHA-256-PLUS", "wrong", under, false},
		{"SCRAM-SHA-256", "tanstaaftanstaaf", append(under, "--no-cb"), true},
		{"PLAIN", "tanstaaftanstaaf", under, true},
		{"PLAIN", "wrong", under, false},
		{"LOGIN", "tanstaaftanstaaf", under, true},
		{"EXTERNAL", "", under, true},
	} {
		args := append([]string{"--client", "--smtp"}, c.args...)
		args = append(args, "--mechanism="+c.mechanism, "--authentication-id=tim", "--password="+c.password, "--authorization-id=", "--connect="+s.addr(ODMR))
		cmd := exec.CommandContext(t.Context(), gsasl, args...)
		cmd.Stdin = strings.NewReader("")
		out, err := cmd.CombinedOutput()
		if (err == nil) != c.good {
			t.Errorf("%s %v: %v\n%s", c.mechanism, c.args, err, out)
		}
	}
}

// swaks logs in with the mechanisms of Net::SMTP's world.
func TestInteropSwaks(t *testing.T) {
	swaks := program(t, "swaks")
	s, _ := saslServer(t)
	host, port, _ := net.SplitHostPort(s.addr(ODMR))
	for _, c := range []struct {
		mechanism, password string
		tls                 bool
		good                bool
	}{
		{"CRAM-MD5", "tanstaaftanstaaf", false, true}, {"CRAM-MD5", "tanstaaftanstaaf", true, true},
		{"PLAIN", "tanstaaftanstaaf", true, true}, {"LOGIN", "tanstaaftanstaaf", true, true},
		{"PLAIN", "wrong", true, false}, {"PLAIN", "tanstaaftanstaaf", false, false},
	} {
		args := []string{"--server", host, "--port", port, "--auth", c.mechanism, "--auth-user", "tim", "--auth-password", c.password,
			"--quit-after", "AUTH", "--to", "a@example.org", "--from", "b@example.org"}
		if c.tls {
			args = append(args, "--tls")
		}
		out, err := exec.CommandContext(t.Context(), swaks, args...).CombinedOutput()
		if (err == nil) != c.good || strings.Contains(string(out), " 235 ") != c.good {
			t.Errorf("%s, %q, TLS %v: %v\n%s", c.mechanism, c.password, c.tls, err, out)
		}
	}
}
