package account

import (
	"bytes"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"testing"

	"github.com/emersion/go-sasl"
	"github.com/xdg-go/scram"

	"odmr/internal/certtest"
)

const testPassword = "tanstaaftanstaaf"

// fastKeys are SCRAM keys with the least work that a file may ask for.
func fastKeys(t testing.TB, password string) *SCRAMKeys {
	t.Helper()
	keys, err := DeriveSCRAM(password, bytes.Repeat([]byte{7}, SCRAMSaltSize), minIterations)
	if err != nil {
		t.Fatal(err)
	}
	return keys
}

func scramAccount(t testing.TB, name, password string, domains ...string) *Account {
	return &Account{Name: name, Domains: domains, SCRAMSHA256: fastKeys(t, password)}
}

// tlsPeers makes a TLS connection and returns what its two sides know of it.
func tlsPeers(t testing.TB, version uint16, client *tls.Certificate) (server Peer, clientState *tls.ConnectionState) {
	t.Helper()
	cert := newCertificate(t, &x509.Certificate{DNSNames: []string{"mail.isp.example"}})
	roots, clients := x509.NewCertPool(), x509.NewCertPool()
	roots.AddCert(cert.Leaf)
	cfg := &tls.Config{RootCAs: roots, ServerName: "mail.isp.example", MinVersion: version, MaxVersion: version}
	if client != nil {
		clients.AddCert(client.Leaf)
		cfg.Certificates = []tls.Certificate{*client}
	}
	a, b := net.Pipe()
	defer a.Close()
	defer b.Close()
	sc := tls.Server(a, &tls.Config{Certificates: []tls.Certificate{cert}, ClientCAs: clients, ClientAuth: tls.VerifyClientCertIfGiven})
	cc := tls.Client(b, cfg)
	failed := make(chan error, 1)
	go func() { failed <- sc.Handshake() }()
	if err := cc.Handshake(); err != nil {
		t.Fatal(err)
	}
	// A client is done with TLS 1.3 before the server has seen its certificate, and net.Pipe has no buffer for tickets.
	go func() { _, _ = cc.Read(make([]byte, 1)) }()
	if err := <-failed; err != nil {
		t.Fatal(err)
	}
	ss, cs := sc.ConnectionState(), cc.ConnectionState()
	return Peer{Addr: netip.MustParseAddrPort("192.0.2.1:1025"), TLS: &ss, ServerCertificate: cert.Leaf}, &cs
}

func newCertificate(t testing.TB, template *x509.Certificate) tls.Certificate {
	t.Helper()
	template.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}
	return *certtest.SelfSigned(t, template)
}

// trial is a login to be tried.
type trial struct {
	t         testing.TB
	auth      *Authenticator
	mechanism string
	peer      Peer
}

// talk runs an exchange against answer, which is asked for the response to each challenge.
func (l trial) talk(initial []byte, answer func(challenge []byte) []byte) (string, error) {
	t := l.t
	t.Helper()
	x, err := l.auth.Start(l.mechanism, l.peer)
	if err != nil {
		return "", err
	}
	response := initial
	for range 10 {
		challenge, done, err := x.Next(response)
		if err != nil || done {
			if done && (err != nil || challenge != nil) {
				t.Fatalf("done with a challenge %q or %v", challenge, err)
			}
			if !done && x.Account() != "" {
				t.Fatalf("failed with an account %q", x.Account())
			}
			if _, again, err := x.Next([]byte{}); again || err == nil {
				t.Fatal("an exchange that has ended goes on")
			}
			return x.Account(), err
		}
		if x.Account() != "" {
			t.Fatalf("account %q before the end", x.Account())
		}
		if answer == nil {
			t.Fatalf("asked for more: %q", challenge)
		}
		if response = answer(challenge); response == nil {
			return "", errGaveUp
		}
	}
	t.Fatal("no end")
	return "", nil
}

var errGaveUp = errors.New("the client gave up")

func TestOfferedMechanisms(t *testing.T) {
	own := newCertificate(t, &x509.Certificate{Subject: pkix.Name{CommonName: "Tim's gateway"}})
	tim := scramAccount(t, "tim", testPassword, "example.org")
	tim.Certificates = []Certificate{{CertCN, "Tim's gateway"}}
	tim.Networks = []netip.Prefix{netip.MustParsePrefix("192.0.2.32/29")}
	a := newAuth(t, tim)
	tls13, _ := tlsPeers(t, tls.VersionTLS13, nil)
	tls12, _ := tlsPeers(t, tls.VersionTLS12, nil)
	known, _ := tlsPeers(t, tls.VersionTLS13, &own)
	stranger := newCertificate(t, &x509.Certificate{Subject: pkix.Name{CommonName: "somebody"}})
	unknown, _ := tlsPeers(t, tls.VersionTLS13, &stranger)
	unverified := known
	state := *known.TLS
	state.VerifiedChains = nil
	unverified.TLS = &state
	for _, c := range []struct {
		what string
		peer Peer
		want string
	}{
		{"clear", Peer{Addr: netip.MustParseAddrPort("192.0.2.1:1")}, "CRAM-MD5 SCRAM-SHA-256"},
		{"own line", Peer{Addr: netip.MustParseAddrPort("192.0.2.39:1")}, "CRAM-MD5 EXTERNAL SCRAM-SHA-256"},
		{"own line, mapped", Peer{Addr: netip.MustParseAddrPort("[::ffff:192.0.2.39]:1")}, "CRAM-MD5 EXTERNAL SCRAM-SHA-256"},
		{"beside it", Peer{Addr: netip.MustParseAddrPort("192.0.2.40:1")}, "CRAM-MD5 SCRAM-SHA-256"},
		{"no address", Peer{}, "CRAM-MD5 SCRAM-SHA-256"},
		{"TLS 1.3", tls13, "CRAM-MD5 SCRAM-SHA-256-PLUS SCRAM-SHA-256 PLAIN LOGIN"},
		{"TLS 1.2", tls12, "CRAM-MD5 SCRAM-SHA-256-PLUS SCRAM-SHA-256 PLAIN LOGIN"},
		{"certificate", known, "CRAM-MD5 EXTERNAL SCRAM-SHA-256-PLUS SCRAM-SHA-256 PLAIN LOGIN"},
		{"certificate of nobody", unknown, "CRAM-MD5 SCRAM-SHA-256-PLUS SCRAM-SHA-256 PLAIN LOGIN"},
		{"certificate not verified", unverified, "CRAM-MD5 SCRAM-SHA-256-PLUS SCRAM-SHA-256 PLAIN LOGIN"},
		{"nothing to bind to", Peer{TLS: &tls.ConnectionState{Version: tls.VersionTLS12}}, "CRAM-MD5 SCRAM-SHA-256 PLAIN LOGIN"},
	} {
		if got := strings.Join(a.Mechanisms(c.peer), " "); got != c.want {
			t.Errorf("%s: %s, want %s", c.what, got, c.want)
		}
		for _, m := range Implemented() {
			_, err := a.Start(m, c.peer)
			if offered := strings.Contains(" "+c.want+" ", " "+m+" "); offered != (err == nil) {
				t.Errorf("%s: %s: offered %v, but Start says %v", c.what, m, offered, err)
			}
		}
	}
	chosen, err := NewAuthenticator(a.dir, AuthConfig{Hostname: "h.example", Clock: testClock, Mechanisms: []string{"PLAIN", "CRAM-MD5"}})
	if err != nil {
		t.Fatal(err)
	}
	if got := strings.Join(chosen.Mechanisms(known), " "); got != "PLAIN CRAM-MD5" {
		t.Errorf("chosen: %s", got)
	}
	if _, err := chosen.Start("EXTERNAL", known); err != ErrMechanism {
		t.Errorf("switched off: %v", err)
	}
}

func TestPlain(t *testing.T) {
	a := newAuth(t, scramAccount(t, "tim", testPassword, "example.com", "example.org"), newAccount("cramonly", testPassword, "two.example"))
	peer, _ := tlsPeers(t, tls.VersionTLS13, nil)
	for _, c := range []struct{ message, want string }{
		{"\x00tim\x00" + testPassword, "tim"},
		{"tim\x00tim\x00" + testPassword, "tim"},
		{"\x00EXAMPLE.org\x00" + testPassword, "tim"},
		{"tim\x00example.org\x00" + testPassword, "tim"},
		{"EXAMPLE.org\x00EXAMPLE.org\x00" + testPassword, "tim"},
		{"cramonly\x00tim\x00" + testPassword, ""}, // nobody acts for others (RFC 4616 2, RFC 4422 3.4.1)
		{"\x00tim\x00" + testPassword + "x", ""},
		{"\x00tim\x00" + strings.Repeat("x", MaxPassword+1), ""},
		{"\x00tim\x00\xff\xfe", ""},
		{"\x00tim\x00\u0007", ""},
		{"\x00cramonly\x00" + testPassword, ""},
		{"\x00nobody\x00" + testPassword, ""},
		{"\x00\x00" + testPassword, ""},
		{"\x00tim\x00", ""},
		{"tim\x00" + testPassword, ""},
		{"\x00tim\x00" + testPassword + "\x00", ""},
		{"", ""},
		{"\x00\x00", ""},
	} {
		for _, initial := range []bool{true, false} {
			answer := func([]byte) []byte { return []byte(c.message) }
			var got string
			var err error
			if initial {
				got, err = trial{t, a, "PLAIN", peer}.talk([]byte(c.message), nil)
			} else {
				got, err = trial{t, a, "plain", peer}.talk(nil, answer)
			}
			if got != c.want || (err == nil) != (c.want != "") || err != nil && err != ErrCredentials {
				t.Errorf("%q: account %q, %v; want %q", c.message, got, err, c.want)
			}
		}
	}
}

// What cannot be a password is not taken for the empty one, even if somebody has that.
func TestPlainImpossiblePassword(t *testing.T) {
	a := newAuth(t, scramAccount(t, "empty", "", "example.org"))
	peer, _ := tlsPeers(t, tls.VersionTLS13, nil)
	for _, password := range []string{"\u0007", strings.Repeat("x", MaxPassword+1)} {
		if got, err := (trial{t, a, Plain, peer}).talk([]byte("\x00empty\x00"+password), nil); err != ErrCredentials {
			t.Errorf("%.5q: %q, %v", password, got, err)
		}
	}
}

// The client of go-sasl, which was written by others.
func TestPlainAgainstGoSASL(t *testing.T) {
	a := newAuth(t, scramAccount(t, "tim", testPassword, "example.org"))
	peer, _ := tlsPeers(t, tls.VersionTLS13, nil)
	for _, client := range []sasl.Client{sasl.NewPlainClient("", "tim", testPassword), sasl.NewLoginClient("tim", testPassword)} {
		name, initial, err := client.Start()
		if err != nil {
			t.Fatal(err)
		}
		got, err := trial{t, a, name, peer}.talk(initial, func(c []byte) []byte {
			r, err := client.Next(c)
			if err != nil {
				t.Error(err)
			}
			return r
		})
		if got != "tim" {
			t.Errorf("%s: %q, %v", name, got, err)
		}
	}
}

func TestLogin(t *testing.T) {
	a := newAuth(t, scramAccount(t, "tim", testPassword, "example.org"))
	peer, _ := tlsPeers(t, tls.VersionTLS13, nil)
	for _, c := range []struct{ name, password, want string }{
		{"tim", testPassword, "tim"}, {"example.org", testPassword, "tim"},
		{"tim", "wrong", ""}, {"tim", "", ""}, {"", testPassword, ""}, {"nobody", testPassword, ""},
	} {
		var asked []string
		got, err := trial{t, a, "LOGIN", peer}.talk(nil, func(q []byte) []byte {
			asked = append(asked, string(q))
			return []byte([]string{c.name, c.password}[len(asked)-1])
		})
		if got != c.want || c.want == "" && err != ErrCredentials || strings.Join(asked, " ") != "Username: Password:" {
			t.Errorf("%+v: %q, %v, asked %q", c, got, err, asked)
		}
		if got, err = (trial{t, a, "LOGIN", peer}).talk([]byte(c.name), func([]byte) []byte { return []byte(c.password) }); got != c.want {
			t.Errorf("%+v, name first: %q, %v", c, got, err)
		}
	}
}

// binding of the client's side, computed by the library.
func clientBinding(t testing.TB, kind string, state *tls.ConnectionState) scram.ChannelBinding {
	t.Helper()
	var b scram.ChannelBinding
	var err error
	switch kind {
	case bindExporter:
		b, err = scram.NewTLSExporterBinding(state)
	case bindEndPoint:
		b, err = scram.NewTLSServerEndpointBinding(state)
	case bindUnique:
		b = scram.NewTLSUniqueBinding(state.TLSUnique)
	}
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// stepper answers challenges with a conversation of the library's client, and the proof of the
// server with nothing, once it has been verified.
func stepper(conv *scram.ClientConversation) (initial []byte, answer func([]byte) []byte) {
	first, err := conv.Step("")
	if err != nil {
		return []byte("?"), nil
	}
	return []byte(first), func(challenge []byte) []byte {
		r, err := conv.Step(string(challenge))
		switch {
		case err != nil:
			return nil
		case conv.Done() && !conv.Valid():
			return nil
		}
		return []byte(r)
	}
}

func (l trial) scram(name, password, authzid string, binding *scram.ChannelBinding) (string, error) {
	t := l.t
	t.Helper()
	client, err := scram.SHA256.NewClient(name, password, authzid)
	if err != nil {
		t.Fatal(err)
	}
	conv := client.NewConversation()
	if binding != nil {
		conv = client.NewConversationWithChannelBinding(*binding)
	}
	initial, answer := stepper(conv)
	who, err := l.talk(initial, answer)
	if err == nil && (!conv.Done() || !conv.Valid()) {
		t.Error("the client is not convinced of the server")
	}
	return who, err
}

func TestSCRAM(t *testing.T) {
	a := newAuth(t, scramAccount(t, "tim", testPassword, "example.com", "example.org"),
		scramAccount(t, "a,b=c", "passw\u00f6rter", "three.example"), newAccount("cramonly", testPassword, "two.example"))
	for _, c := range []struct{ name, password, authzid, want string }{
		{"tim", testPassword, "", "tim"},
		{"tim", testPassword, "tim", "tim"},
		{"example.org", testPassword, "", "tim"},
		{"EXAMPLE.ORG", testPassword, "tim", "tim"},
		{"a,b=c", "passw\u00f6rter", "", "a,b=c"},
		{"a,b=c", "passwo\u0308rter", "", "a,b=c"}, // SASLprep: NFKC
		{"tim", testPassword, "cramonly", ""},
		{"tim", "wrong", "", ""},
		{"cramonly", testPassword, "", ""},
		{"nobody", testPassword, "", ""},
	} {
		got, err := trial{t, a, "SCRAM-SHA-256", Peer{}}.scram(c.name, c.password, c.authzid, nil)
		if got != c.want || c.want == "" && AuthRefusal(err).Code != 535 {
			t.Errorf("%+v: %q, %v", c, got, err)
		}
	}
	// Without an initial response the server asks with an empty challenge.
	client, _ := scram.SHA256.NewClient("tim", testPassword, "")
	first, rest := stepper(client.NewConversation())
	got, err := trial{t, a, "SCRAM-SHA-256", Peer{}}.talk(nil, func(c []byte) []byte {
		if len(c) == 0 {
			return first
		}
		return rest(c)
	})
	if got != "tim" {
		t.Errorf("no initial response: %q, %v", got, err)
	}
}

func TestSCRAMPlus(t *testing.T) {
	a := newAuth(t, scramAccount(t, "tim", testPassword, "example.org"))
	for _, c := range []struct {
		version uint16
		kind    string
		want    string
	}{
		{tls.VersionTLS13, bindExporter, "tim"},
		{tls.VersionTLS13, bindEndPoint, "tim"},
		{tls.VersionTLS13, bindUnique, ""}, // RFC 8446 C.5: not defined for 1.3
		{tls.VersionTLS12, bindExporter, "tim"},
		{tls.VersionTLS12, bindEndPoint, "tim"},
		{tls.VersionTLS12, bindUnique, "tim"},
	} {
		peer, state := tlsPeers(t, c.version, nil)
		_, otherState := tlsPeers(t, c.version, nil)
		var binding, foreign scram.ChannelBinding
		if c.kind == bindUnique && c.version == tls.VersionTLS13 {
			binding = scram.NewTLSUniqueBinding([]byte("made up"))
			foreign = binding
		} else {
			binding, foreign = clientBinding(t, c.kind, state), clientBinding(t, c.kind, otherState)
		}
		what := fmt.Sprintf("%s %s", tls.VersionName(c.version), c.kind)
		got, err := trial{t, a, SCRAMSHA256Plus, peer}.scram("tim", testPassword, "", &binding)
		if got != c.want {
			t.Errorf("%s: %q, %v", what, got, err)
		}
		// In the middle: the right password, bound to another connection.
		if got, err = (trial{t, a, SCRAMSHA256Plus, peer}).scram("tim", testPassword, "", &foreign); got != "" || AuthRefusal(err).Code != 535 {
			t.Errorf("%s, another connection's binding: %q, %v", what, got, err)
		}
		if got, err = (trial{t, a, SCRAMSHA256Plus, peer}).scram("tim", "wrong", "", &binding); got != "" || AuthRefusal(err).Code != 535 {
			t.Errorf("%s, wrong password: %q, %v", what, got, err)
		}
	}
}

// RFC 5802 6: flag and mechanism must agree, and "y" where -PLUS was offered is an attack.
func TestSCRAMDowngrade(t *testing.T) {
	acc := scramAccount(t, "tim", testPassword, "example.org")
	a := newAuth(t, acc)
	without, err := NewAuthenticator(a.dir, AuthConfig{Hostname: "h.example", Clock: testClock, Mechanisms: []string{SCRAMSHA256}})
	if err != nil {
		t.Fatal(err)
	}
	peer, _ := tlsPeers(t, tls.VersionTLS13, nil)
	for _, c := range []struct {
		what, mechanism, header string
		auth                    *Authenticator
		peer                    Peer
		want                    error // nil: it goes on
	}{
		{"n in clear", SCRAMSHA256, "n,,", a, Peer{}, nil},
		{"y in clear: -PLUS is not offered there", SCRAMSHA256, "y,,", a, Peer{}, nil},
		{"n over TLS: a client without binding", SCRAMSHA256, "n,,", a, peer, nil},
		{"y over TLS", SCRAMSHA256, "y,,", a, peer, errDowngrade},
		{"y over TLS, -PLUS switched off", SCRAMSHA256, "y,,", without, peer, nil},
		{"p without -PLUS", SCRAMSHA256, "p=tls-exporter,,", a, peer, errBindingFlag},
		{"n with -PLUS", SCRAMSHA256Plus, "n,,", a, peer, errBindingFlag},
		{"y with -PLUS", SCRAMSHA256Plus, "y,,", a, peer, errDowngrade},
		{"p with -PLUS", SCRAMSHA256Plus, "p=tls-exporter,,", a, peer, nil},
		{"p of a type that there is not", SCRAMSHA256Plus, "p=tls-unique,,", a, peer, errBindingType},
		{"p of no type", SCRAMSHA256Plus, "p=,,", a, peer, errBindingType},
		{"an unknown flag", SCRAMSHA256, "x,,", a, peer, errScramSyntax},
		{"an extension", SCRAMSHA256, "n,,m=1,", a, Peer{}, errScramSyntax},
	} {
		x, err := c.auth.Start(c.mechanism, c.peer)
		if err != nil {
			t.Fatalf("%s: %v", c.what, err)
		}
		challenge, done, err := x.Next([]byte(c.header + "n=tim,r=abcdef"))
		if done || !errors.Is(err, c.want) || err != nil && !errors.Is(err, ErrCredentials) || (c.want == nil) != (len(challenge) > 0) {
			t.Errorf("%s: %q, done %v, %v; want %v", c.what, challenge, done, err, c.want)
		}
	}
}

// The header that the client puts into its proof is checked even without binding: one who took "y" for "n" on
// the way is found out.
func TestSCRAMHeaderIsBound(t *testing.T) {
	a := newAuth(t, scramAccount(t, "tim", testPassword, "example.org"))
	client, _ := scram.SHA256.NewClient("tim", testPassword, "")
	initial, answer := stepper(client.NewConversation())
	if !bytes.HasPrefix(initial, []byte("n,,")) {
		t.Fatalf("%q", initial)
	}
	initial[0] = 'y'
	if got, err := (trial{t, a, SCRAMSHA256, Peer{}}).talk(initial, answer); got != "" || err != ErrCredentials {
		t.Errorf("%q, %v", got, err)
	}
}

// An account that does not exist shows a salt that looks like any, and always the same.
func TestSCRAMUnknownAccount(t *testing.T) {
	secret := bytes.Repeat([]byte{1}, SecretSize)
	real := &Account{Name: "tim", Domains: []string{"example.org"}}
	real, err := real.WithPassword(testPassword)
	if err != nil {
		t.Fatal(err)
	}
	table, _ := NewTable(real)
	challenge := func(secret []byte, name string) string {
		a, err := NewAuthenticator(table, AuthConfig{Hostname: "h.example", Clock: testClock, Secret: secret})
		if err != nil {
			t.Fatal(err)
		}
		x, _ := a.Start(SCRAMSHA256, Peer{})
		c, _, err := x.Next([]byte("n,,n=" + name + ",r=abc"))
		if err != nil {
			t.Fatal(err)
		}
		_, after, ok := strings.Cut(string(c), ",")
		if !ok || !strings.HasPrefix(string(c), "r=abc") || len(c) < len("r=abc")+32 {
			t.Fatalf("challenge %q", c)
		}
		return after
	}
	fake := challenge(secret, "nobody")
	if again := challenge(secret, "nobody"); again != fake {
		t.Errorf("%s, then %s", fake, again)
	}
	if challenge(secret, "nobody.example") != challenge(secret, "NOBODY.example") {
		t.Error("the case of a domain changes the salt: a real one's does not")
	}
	if challenge(secret, "nobody2") == fake || challenge(bytes.Repeat([]byte{2}, SecretSize), "nobody") == fake {
		t.Error("the salt depends on nothing")
	}
	if r := challenge(secret, "tim"); len(r) != len(fake) || r[strings.Index(r, ",i="):] != fake[strings.Index(fake, ",i="):] {
		t.Errorf("a real account shows %s, one that is not %s", r, fake)
	}
	if _, err := NewAuthenticator(table, AuthConfig{Hostname: "h.example", Clock: testClock, Secret: []byte("short")}); err == nil {
		t.Error("a short secret was taken")
	}
}

// The guard is asked before any work, with one name for all spellings, and its error ends the exchange.
func TestGuard(t *testing.T) {
	a := newAuth(t, scramAccount(t, "tim", testPassword, "example.org"))
	peer, _ := tlsPeers(t, tls.VersionTLS13, nil)
	var asked []string
	refuse := error(nil)
	peer.Guard = func(name string) error { asked = append(asked, name); return refuse }
	for _, refuse = range []error{nil, ErrGuarded} {
		for _, name := range []string{"Tim", "nobody", "EXAMPLE.org", "B\u00dcCHER.example"} {
			for _, m := range []string{Plain, Login, SCRAMSHA256, CRAMMD5} {
				asked = nil
				var err error
				switch m {
				case Plain:
					_, err = trial{t, a, m, peer}.talk([]byte("\x00"+name+"\x00wrong wrong"), nil)
				case Login:
					_, err = trial{t, a, m, peer}.talk([]byte(name), func([]byte) []byte { return []byte("wrong wrong") })
				case SCRAMSHA256:
					_, err = trial{t, a, m, peer}.scram(name, "wrong wrong", "", nil)
				case CRAMMD5:
					_, err = trial{t, a, m, peer}.talk(nil, func(c []byte) []byte { return respond(name, "wrong wrong", c) })
				}
				want := map[string]string{"EXAMPLE.org": "example.org", "B\u00dcCHER.example": "xn--bcher-kva.example"}[name]
				if want == "" {
					want = name
				}
				if len(asked) != 1 || asked[0] != want || refuse != nil && !errors.Is(err, refuse) || refuse == nil && !errors.Is(err, ErrCredentials) {
					t.Errorf("%s, %q: asked %q, %v", m, name, asked, err)
				}
			}
		}
	}
}

// Whatever the mechanism, a directory that is down is not the customer's fault.
func TestEveryMechanismDirectoryDown(t *testing.T) {
	a, err := NewAuthenticator(brokenDirectory{}, AuthConfig{Hostname: "mail.isp.example", Clock: testClock})
	if err != nil {
		t.Fatal(err)
	}
	peer, _ := tlsPeers(t, tls.VersionTLS13, nil)
	for m, run := range map[string]func() error{
		Plain: func() error {
			_, err := trial{t, a, Plain, peer}.talk([]byte("\x00tim\x00"+testPassword), nil)
			return err
		},
		Login: func() error {
			_, err := trial{t, a, Login, peer}.talk([]byte("tim"), func([]byte) []byte { return []byte("x") })
			return err
		},
		SCRAMSHA256: func() error { _, err := trial{t, a, SCRAMSHA256, peer}.scram("tim", testPassword, "", nil); return err },
	} {
		if err := run(); !errors.Is(err, ErrUnavailable) || AuthRefusal(err).Code != 454 {
			t.Errorf("%s: %v", m, err)
		}
	}
}

func TestExternal(t *testing.T) {
	cert := newCertificate(t, &x509.Certificate{
		Subject: pkix.Name{CommonName: "Example GmbH"}, DNSNames: []string{"GW.example.org", "*.example.net"}, EmailAddresses: []string{"Tim@EXAMPLE.org"},
	})
	sum := sha256.Sum256(cert.Leaf.Raw)
	peer, _ := tlsPeers(t, tls.VersionTLS13, &cert)
	account := func(name string, cert *Certificate, networks ...string) *Account {
		a := &Account{Name: name, Domains: []string{name + ".example"}}
		if cert != nil {
			c, err := ParseCertificate(cert.Kind, cert.Value)
			if err != nil {
				t.Fatal(err)
			}
			a.Certificates = []Certificate{c}
		}
		for _, n := range networks {
			a.Networks = append(a.Networks, netip.MustParsePrefix(n))
		}
		return a
	}
	at := func(p Peer, addr string) Peer { p.Addr = netip.MustParseAddrPort(addr); return p }
	clear := Peer{}
	cn, email := &Certificate{CertCN, "Example GmbH"}, &Certificate{CertEmail, "Tim@example.ORG"}
	for _, c := range []struct {
		what     string
		accounts []*Account
		peer     Peer
		identity string
		want     string // "": refused; "-": not offered
	}{
		{"common name", []*Account{account("a", cn)}, peer, "", "a"},
		{"mail address", []*Account{account("a", email)}, peer, "", "a"},
		{"local part in another case", []*Account{account("a", &Certificate{CertEmail, "tim@example.org"})}, peer, "", "-"},
		{"host name", []*Account{account("a", &Certificate{CertDNS, "gw.EXAMPLE.org"})}, peer, "", "a"},
		{"what the wildcard covers", []*Account{account("a", &Certificate{CertDNS, "x.example.net"})}, peer, "", "-"},
		{"fingerprint", []*Account{account("a", &Certificate{CertSHA256, strings.ToUpper(hex.EncodeToString(sum[:]))})}, peer, "", "a"},
		{"other fingerprint", []*Account{account("a", &Certificate{CertSHA256, strings.Repeat("0", 64)})}, peer, "", "-"},
		{"common name as host name", []*Account{account("a", &Certificate{CertCN, "gw.example.org"})}, peer, "", "-"},
		{"as itself", []*Account{account("a", cn)}, peer, "a", "a"},
		{"as its domain", []*Account{account("a", cn)}, peer, "A.example", "a"},
		{"as somebody else", []*Account{account("a", cn), account("b", nil)}, peer, "b", ""},
		{"two accounts, none named", []*Account{account("a", cn), account("b", email)}, peer, "", ""},
		{"two accounts, one named", []*Account{account("a", cn), account("b", email)}, peer, "b", "b"},
		{"clear text", []*Account{account("a", cn)}, clear, "", "-"},
		{"network", []*Account{account("a", nil, "192.0.2.0/24")}, at(clear, "192.0.2.200:5"), "", "a"},
		{"other network", []*Account{account("a", nil, "192.0.2.0/24")}, at(clear, "192.0.3.200:5"), "", "-"},
		{"the narrowest network", []*Account{account("a", nil, "192.0.2.0/24"), account("b", nil, "192.0.2.128/25")}, at(clear, "192.0.2.200:5"), "", "b"},
		{"the wider network", []*Account{account("a", nil, "192.0.2.0/24"), account("b", nil, "192.0.2.128/25")}, at(clear, "192.0.2.100:5"), "", "a"},
		{"the wider network is not the narrower's", []*Account{account("a", nil, "192.0.2.0/24"), account("b", nil, "192.0.2.128/25")}, at(clear, "192.0.2.200:5"), "a", ""},
		{"IPv6", []*Account{account("a", nil, "2001:db8:1::/48")}, at(clear, "[2001:db8:1:2::3]:5"), "", "a"},
		{"IPv4 is not IPv6", []*Account{account("a", nil, "::/8")}, at(clear, "192.0.2.1:5"), "", "-"},
		{"certificate before network", []*Account{account("a", cn), account("b", nil, "192.0.2.0/24")}, at(peer, "192.0.2.1:5"), "", "a"},
	} {
		a := newAuth(t, c.accounts...)
		for _, initial := range [][]byte{[]byte(c.identity), nil} {
			got, err := trial{t, a, External, c.peer}.talk(initial, func([]byte) []byte { return []byte(c.identity) })
			if err == ErrMechanism {
				got = "-"
			}
			if got != c.want || got == "" && AuthRefusal(err).Code != 535 {
				t.Errorf("%s: %q, %v; want %q", c.what, got, err, c.want)
			}
		}
	}
}

func TestIdentitiesInFile(t *testing.T) {
	const text = `account tim
  domain example.org
  cert-cn Example GmbH
  cert-dns gw.example.org
  cert-email Tim@example.org
  cert-sha256 0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef
  network 192.0.2.0/24
  network 2001:db8::/32
`
	doc, err := Parse("accounts", []byte(text))
	if err != nil {
		t.Fatal(err)
	}
	tim, _ := doc.Lookup("tim")
	if len(tim.Certificates) != 4 || len(tim.Networks) != 2 {
		t.Fatalf("%+v", tim)
	}
	doc.blocks[0].body = nil // written anew
	if got := string(doc.Append(nil)); got != text {
		t.Errorf("written:\n%s", got)
	}
	// Equal in another spelling, at another account.
	for _, line := range []string{"cert-dns GW.Example.org", "cert-email Tim@EXAMPLE.org", "cert-cn  Example \t GmbH",
		"cert-sha256 01:23:45:67:89:AB:CD:EF:01:23:45:67:89:AB:CD:EF:01:23:45:67:89:AB:CD:EF:01:23:45:67:89:AB:CD:EF", "network 192.0.2.0/24", "network 10.0.0.0/8 2001:db8::/32"} {
		_, err := Parse("accounts", []byte(text+"account two\n  domain two.example\n  "+line+"\n"))
		if err == nil || !strings.Contains(err.Error(), `belongs to account "tim" already`) {
			t.Errorf("%s: %v", line, err)
		}
		if _, err = Parse("accounts", []byte(text+"  "+line+"\n")); err == nil || !strings.Contains(err.Error(), "is there twice") {
			t.Errorf("%s again: %v", line, err)
		}
	}
	for _, line := range []string{"cert-dns", "cert-dns *.example.org", "cert-dns -x.example", "cert-email example.org", "cert-email @example.org", "cert-email a b@example.org",
		"cert-sha256 0123", "cert-sha256 zz", "network", "network 192.0.2.1/24", "network 0.0.0.0/0", "network ::ffff:192.0.2.0/120", "network example.org", "cert-cn", "cert-serial 1"} {
		if _, err := Parse("accounts", []byte("account two\n  domain two.example\n  "+line+"\n")); err == nil {
			t.Errorf("%s: taken", line)
		}
	}
	// Editing: what an account gives up is free for others, and only then.
	two := &Account{Name: "two", Domains: []string{"two.example"}, Certificates: []Certificate{{CertDNS, "GW.example.org"}}}
	if err := doc.Add(two); err == nil {
		t.Error("a certificate was given twice")
	}
	changed := *tim
	changed.Certificates, changed.Networks = nil, []netip.Prefix{netip.MustParsePrefix("198.51.100.7/32"), netip.MustParsePrefix("10.0.0.0/8")}
	if err := doc.Replace(&changed); err != nil {
		t.Fatal(err)
	}
	if err := doc.Add(two); err != nil {
		t.Error(err)
	}
	if err := doc.Remove("tim"); err != nil {
		t.Fatal(err)
	}
	two.Networks = []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")}
	if err := doc.Replace(two); err != nil {
		t.Error(err)
	}
	if _, err := NewTable(doc.Accounts()...); err != nil {
		t.Error(err)
	}
	if got, _ := doc.table().Identify(Peer{Addr: netip.MustParseAddrPort("10.1.2.3:4")}); len(got) != 1 || got[0].Name != "two" {
		t.Errorf("%v", got)
	}
}

// FuzzExchange: whatever a peer says in whatever mechanism, nothing panics and nobody is authenticated
// who does not know the password.
func FuzzExchange(f *testing.F) {
	tim := scramAccount(f, "tim", testPassword, "example.org")
	tim.CRAMMD5 = DeriveCRAMMD5(testPassword)
	tim.Certificates = []Certificate{{CertCN, "tim"}}
	a := newAuth(f, tim)
	peer, _ := tlsPeers(f, tls.VersionTLS12, nil)
	f.Add("SCRAM-SHA-256", []byte("n,,n=tim,r=abc"), []byte("c=biws,r=abc,p=AAAA"), []byte(""), true)
	f.Add("SCRAM-SHA-256-PLUS", []byte("p=tls-exporter,a=tim,n=tim,r=abc"), []byte("c=biws,r=abc,p=AAAA"), []byte(""), true)
	f.Add("PLAIN", []byte("\x00tim\x00wrong"), []byte{}, []byte{}, true)
	f.Add("LOGIN", []byte("tim"), []byte("wrong"), []byte{}, false)
	f.Add("CRAM-MD5", []byte{}, []byte("tim 0123456789abcdef0123456789abcdef"), []byte{}, false)
	f.Add("EXTERNAL", []byte("tim"), []byte{}, []byte{}, true)
	f.Fuzz(func(t *testing.T, mechanism string, one, two, three []byte, initial bool) {
		x, err := a.Start(mechanism, peer)
		if err != nil {
			return
		}
		script := [][]byte{one, two, three}
		if !initial {
			script = append([][]byte{nil}, script...)
		}
		for _, response := range script {
			_, done, err := x.Next(response)
			if done && !bytes.Contains(bytes.Join(script, nil), []byte(testPassword)) {
				t.Fatalf("%s: %q authenticated %q", mechanism, script, x.Account())
			}
			if err != nil || done {
				return
			}
		}
	})
}
