package account

import (
	"bytes"
	"crypto/hmac"
	"crypto/md5"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"pgregory.net/rapid"
)

func testClock() time.Time { return time.Unix(896697170, 0) }

// newAccount makes an account without SCRAM keys, whose derivation is slow on purpose.
func newAccount(name, password string, domains ...string) *Account {
	return &Account{Name: name, Domains: domains, CRAMMD5: DeriveCRAMMD5(password)}
}

func newAuth(t testing.TB, accounts ...*Account) *Authenticator {
	t.Helper()
	table, err := NewTable(accounts...)
	if err != nil {
		t.Fatal(err)
	}
	a, err := NewAuthenticator(table, AuthConfig{Hostname: "mail.isp.example", Clock: testClock})
	if err != nil {
		t.Fatal(err)
	}
	return a
}

// respond is a CRAM-MD5 client written from RFC 2195 and the standard library's HMAC.
func respond(name, password string, challenge []byte) []byte {
	h := hmac.New(md5.New, []byte(password))
	h.Write(challenge)
	return fmt.Appendf(nil, "%s %x", name, h.Sum(nil))
}

// login runs one exchange and returns who authenticated.
func login(t testing.TB, a *Authenticator, name, password string) (string, error) {
	t.Helper()
	x, err := a.Start("cram-md5", Peer{})
	if err != nil {
		t.Fatal(err)
	}
	challenge, done, err := x.Next(nil)
	if err != nil || done {
		t.Fatalf("first Next: done %v, %v", done, err)
	}
	more, done, err := x.Next(respond(name, password, challenge))
	if done == (err != nil) || len(more) > 0 {
		t.Fatalf("second Next: %q, done %v, %v", more, done, err)
	}
	return x.Account(), err
}

// The example of RFC 2195 2.
func TestCRAMMD5Vector(t *testing.T) {
	a := newAuth(t, newAccount("tim", "tanstaaftanstaaf", "example.org"))
	x := &cramMD5{auth: a, peer: &Peer{}, challenge: []byte("<1896.697170952@postoffice.reston.mci.net>")}
	response, _ := base64.StdEncoding.DecodeString("dGltIGI5MTNhNjAyYzdlZGE3YTQ5NWI0ZTZlNzMzNGQzODkw")
	_, done, err := x.Next(response)
	if !done || err != nil || x.Account() != "tim" {
		t.Fatalf("done %v, %v, account %q", done, err, x.Account())
	}
}

func TestCRAMMD5ContextIsHMAC(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		password := rapid.SliceOfN(rapid.Byte(), 0, 150).Draw(t, "password")
		text := rapid.SliceOfN(rapid.Byte(), 0, 200).Draw(t, "text")
		h := hmac.New(md5.New, password)
		h.Write(text)
		got := DeriveCRAMMD5(string(password)).sum(text)
		if !bytes.Equal(got[:], h.Sum(nil)) {
			t.Fatalf("context gives %x, HMAC-MD5 %x", got, h.Sum(nil))
		}
	})
}

func TestCRAMMD5Login(t *testing.T) {
	a := newAuth(t,
		newAccount("tim", "tanstaaftanstaaf", "example.com", "example.org"),
		newAccount("two words", "password two", "xn--bcher-kva.example"),
		newAccount("example.net", "password three", "other.example"),
		newAccount("four", "password four", "example.net"),
		&Account{Name: "nosecret", Domains: []string{"five.example"}})
	for _, c := range []struct{ user, password, want string }{
		{"tim", "tanstaaftanstaaf", "tim"},
		{"tim", "tanstaaftanstaaF", ""},
		{"tim", "", ""},
		{"Tim", "tanstaaftanstaaf", ""}, // names are case-sensitive
		{"example.org", "tanstaaftanstaaf", "tim"},
		{"EXAMPLE.com", "tanstaaftanstaaf", "tim"},
		{"example.org.", "tanstaaftanstaaf", ""},
		{"two words", "password two", "two words"},
		{"bücher.example", "password two", "two words"},
		{"example.net", "password three", "example.net"}, // a name wins over a domain
		{"example.net", "password four", ""},
		{"four", "password four", "four"},
		{"nosecret", "", ""},
		{"nosecret", "password", ""},
		{"nobody", "password", ""},
		{"", "", ""},
		{strings.Repeat("x", 9000), "password", ""},
	} {
		got, err := login(t, a, c.user, c.password)
		if got != c.want {
			t.Errorf("%q with %q: account %q, want %q", c.user, c.password, got, c.want)
		}
		// One error for all, so that a peer cannot find out which accounts exist.
		if c.want == "" && err != ErrCredentials {
			t.Errorf("%q with %q: %v instead of ErrCredentials", c.user, c.password, err)
		}
	}
}

func TestCRAMMD5Malformed(t *testing.T) {
	a := newAuth(t, newAccount("tim", "tanstaaftanstaaf", "example.org"))
	good := func(challenge []byte) []byte { return respond("tim", "tanstaaftanstaaf", challenge) }
	for name, bend := range map[string]func(challenge []byte) []byte{
		"nothing":         func([]byte) []byte { return nil },
		"empty":           func([]byte) []byte { return []byte{} },
		"blank":           func([]byte) []byte { return []byte(" ") },
		"name only":       func([]byte) []byte { return []byte("tim") },
		"no digest":       func([]byte) []byte { return []byte("tim ") },
		"digest only":     func(c []byte) []byte { return good(c)[4:] },
		"digest short":    func(c []byte) []byte { return good(c)[:len(good(c))-1] },
		"digest long":     func(c []byte) []byte { return append(good(c), '0') },
		"digest not hex":  func(c []byte) []byte { return append(good(c)[:len(good(c))-1], 'g') },
		"blank behind":    func(c []byte) []byte { return append(good(c), ' ') },
		"NUL":             func(c []byte) []byte { return append([]byte{0}, good(c)...) },
		"other challenge": func([]byte) []byte { return good([]byte("<1.2@mail.isp.example>")) },
		"last bit":        func(c []byte) []byte { r := good(c); r[len(r)-1] = flip(r[len(r)-1]); return r },
	} {
		x, _ := a.Start(CRAMMD5, Peer{})
		challenge, _, _ := x.Next(nil)
		if _, done, err := x.Next(bend(challenge)); done || err != ErrCredentials || x.Account() != "" {
			t.Errorf("%s: done %v, %v, account %q", name, done, err, x.Account())
		}
		if _, done, err := x.Next(good(challenge)); done || err == nil {
			t.Errorf("%s: the exchange goes on after its end", name)
		}
	}
	x, _ := a.Start(CRAMMD5, Peer{})
	challenge, _, _ := x.Next(nil)
	upper := bytes.Replace(good(challenge), good(challenge)[4:], bytes.ToUpper(good(challenge)[4:]), 1)
	if _, done, err := x.Next(upper); !done {
		t.Errorf("upper-case digest: %v", err)
	}
}

// flip changes the lowest bit of a hexadecimal digit.
func flip(digit byte) byte {
	v, _ := hex.DecodeString("0" + string(digit))
	return hex.EncodeToString([]byte{v[0] ^ 1})[1]
}

func TestCRAMMD5InitialResponse(t *testing.T) {
	a := newAuth(t, newAccount("tim", "tanstaaftanstaaf", "example.org"))
	for _, initial := range [][]byte{{}, []byte("tim b913a602c7eda7a495b4e6e7334d3890")} {
		x, _ := a.Start(CRAMMD5, Peer{})
		if _, done, err := x.Next(initial); done || err != ErrInitialResponse {
			t.Errorf("initial response %q: done %v, %v", initial, done, err)
		}
		if _, _, err := x.Next(nil); err == nil {
			t.Error("the exchange goes on after its end")
		}
	}
}

func TestChallenge(t *testing.T) {
	a := newAuth(t, newAccount("tim", "tanstaaftanstaaf", "example.org"))
	seen := make(map[string]bool)
	for range 1000 {
		c := string(a.newChallenge())
		if seen[c] {
			t.Fatal("a challenge came twice")
		}
		seen[c] = true
		if !strings.HasPrefix(c, "<") || !strings.HasSuffix(c, ".896697170@mail.isp.example>") {
			t.Fatalf("challenge %q", c)
		}
	}
}

type brokenDirectory struct{ Directory }

func (brokenDirectory) Lookup(string) (*Account, error) { return nil, errors.New("connection refused") }

func TestDirectoryDown(t *testing.T) {
	a, err := NewAuthenticator(brokenDirectory{}, AuthConfig{Hostname: "mail.isp.example", Clock: testClock})
	if err != nil {
		t.Fatal(err)
	}
	_, err = login(t, a, "tim", "tanstaaftanstaaf")
	if !errors.Is(err, ErrUnavailable) || AuthRefusal(err).Code != 454 {
		t.Fatalf("%v", err)
	}
}

func TestAuthenticatorConfig(t *testing.T) {
	table, _ := NewTable()
	for _, c := range []struct {
		mechanisms []string
		want       string // or the error
	}{
		{nil, "CRAM-MD5 SCRAM-SHA-256"},
		{[]string{"cram-md5"}, "CRAM-MD5"},
		{[]string{"CRAM-MD5", "cram-MD5"}, `account: mechanism "cram-MD5" is named twice`},
		{[]string{"GSSAPI"}, `account: unknown mechanism "GSSAPI"; there is CRAM-MD5 EXTERNAL SCRAM-SHA-256-PLUS SCRAM-SHA-256 PLAIN LOGIN`},
	} {
		a, err := NewAuthenticator(table, AuthConfig{Hostname: "h.example", Clock: testClock, Mechanisms: c.mechanisms})
		got := fmt.Sprint(err)
		if err == nil {
			got = strings.Join(a.Mechanisms(Peer{}), " ")
		}
		if got != c.want {
			t.Errorf("%q: %s, want %s", c.mechanisms, got, c.want)
		}
	}
	if _, err := newAuth(t).Start("CRAM-MD5X", Peer{}); err != ErrMechanism {
		t.Errorf("unknown mechanism: %v", err)
	}
}

func TestRefusals(t *testing.T) {
	for _, c := range []struct {
		err  error
		want string
	}{
		{ErrCredentials, "535 5.7.8"},
		{errors.New("anything else"), "535 5.7.8"},
		{fmt.Errorf("x: %w", ErrUnavailable), "454 4.7.0"},
		{ErrMechanism, "504 5.5.4"},
		{ErrInitialResponse, "501 5.7.0"},
		{fmt.Errorf("x: %w", ErrGuarded), "421 4.7.0"},
	} {
		r := AuthRefusal(c.err)
		if got := fmt.Sprint(r.Code, " ", r.Enhanced); got != c.want || !errors.Is(r, c.err) {
			t.Errorf("AuthRefusal(%v) = %s (%v), want %s", c.err, got, r, c.want)
		}
	}
	for _, c := range []struct {
		err  error
		want int
	}{{ErrUnknown, 450}, {fmt.Errorf("%w: example.org", ErrNoAccess), 450}, {ErrUnavailable, 451}, {errors.New("else"), 451}} {
		if r := AccessRefusal(c.err); r.Code != c.want || r.Enhanced != "" {
			t.Errorf("AccessRefusal(%v) = %d %s, want %d", c.err, r.Code, r.Enhanced, c.want)
		}
	}
	if AuthRefusal(nil) != nil || AccessRefusal(nil) != nil {
		t.Error("no error is a refusal")
	}
}

// The example of RFC 7677 3: the keys must verify the client's proof and make the server's signature.
func TestSCRAMVector(t *testing.T) {
	salt, _ := base64.StdEncoding.DecodeString("W22ZaJ0SNY7soEsUEjb6gQ==")
	k, err := DeriveSCRAM("pencil", salt, 4096)
	if err != nil {
		t.Fatal(err)
	}
	const bare, first = "n=user,r=rOprNGfwEbeRWgbNEkqO",
		"r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096"
	const final = "c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0"
	message := bare + "," + first + "," + final
	proof, _ := base64.StdEncoding.DecodeString("dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ=")
	signature := keyed(k.StoredKey[:], message)
	for i := range proof {
		proof[i] ^= signature[i]
	}
	if sha256.Sum256(proof) != k.StoredKey {
		t.Error("the stored key does not verify the proof of RFC 7677")
	}
	if got := base64.StdEncoding.EncodeToString(keyed(k.ServerKey[:], message)); got != "6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4=" {
		t.Errorf("server signature %s", got)
	}
}

func TestSCRAMPrepares(t *testing.T) {
	salt := make([]byte, SCRAMSaltSize)
	a, err1 := DeriveSCRAM("pass\u00a0wort\u00adI\u2168", salt, minIterations)
	b, err2 := DeriveSCRAM("pass wortIIX", salt, minIterations)
	if err1 != nil || err2 != nil || a.StoredKey != b.StoredKey {
		t.Errorf("SASLprep was not applied: %v %v", err1, err2)
	}
}

func TestPasswords(t *testing.T) {
	for password, ok := range map[string]bool{
		"1234567":                   false,
		"12345678":                  true,
		"pässwörd":                  true,
		"pässwör":                   false, // 7 characters, 9 octets
		"with blank inside":         true,
		"with\x00NUL":               false,
		"with\rCR...":               false,
		"with\nLF...":               false,
		"tab\tinside":               false,
		"bad utf\xff8.":             false,
		"private\ue000use":          false, // SASLprep table C.3
		strings.Repeat("x", 1024):   true,
		strings.Repeat("x", 1025):   false,
		"<script>\"'`$(reboot)\\%s": true,
	} {
		if err := CheckPassword(password); (err == nil) != ok {
			t.Errorf("%q: %v", password, err)
		} else if err != nil && strings.Contains(err.Error(), password) {
			t.Errorf("the error quotes the password: %v", err)
		}
	}
	if _, err := (&Account{}).WithPassword("short"); err == nil {
		t.Error("WithPassword took a bad password")
	}
}

func TestGenerate(t *testing.T) {
	seen, used := make(map[string]bool), make(map[rune]bool)
	for range 2000 {
		p := Generate()
		if err := CheckPassword(p); err != nil || len(p) != 29 || seen[p] {
			t.Fatalf("%q: %v", p, err)
		}
		seen[p] = true
		for _, r := range p {
			used[r] = true
		}
	}
	if len(used) != 33 || strings.ContainsAny(passwordAlphabet, "01ol") {
		t.Errorf("%d characters in use", len(used))
	}
}

func TestWithPassword(t *testing.T) {
	a := &Account{Name: "tim", Domains: []string{"example.org"}}
	b, err := a.WithPassword("tanstaaftanstaaf")
	if err != nil {
		t.Fatal(err)
	}
	if a.CRAMMD5 != nil || b.SCRAMSHA256 == nil || len(b.SCRAMSHA256.Salt) != SCRAMSaltSize || b.SCRAMSHA256.Iterations != SCRAMIterations {
		t.Fatalf("%+v", b)
	}
	c, _ := a.WithPassword("tanstaaftanstaaf")
	if bytes.Equal(b.SCRAMSHA256.Salt, c.SCRAMSHA256.Salt) {
		t.Error("one salt for two")
	}
	if who, err := login(t, newAuth(t, b), "tim", "tanstaaftanstaaf"); who != "tim" || err != nil {
		t.Errorf("%q %v", who, err)
	}
}

func TestManyLoginsAtOnce(t *testing.T) {
	var accounts []*Account
	for i := range 50 {
		accounts = append(accounts, newAccount(fmt.Sprint("user", i), fmt.Sprint("password", i), fmt.Sprintf("d%d.example", i)))
	}
	a := newAuth(t, accounts...)
	var wg sync.WaitGroup
	for i := range 50 {
		wg.Go(func() {
			for range 20 {
				name := fmt.Sprint("user", i)
				if who, err := login(t, a, name, fmt.Sprint("password", i)); who != name {
					t.Errorf("%s: %q %v", name, who, err)
				}
				if _, err := login(t, a, name, fmt.Sprint("password", i+1)); err != ErrCredentials {
					t.Errorf("%s with another's password: %v", name, err)
				}
			}
		})
	}
	wg.Wait()
}
