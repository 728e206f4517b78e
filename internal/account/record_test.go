package account

import (
	"errors"
	"slices"
	"strings"
	"testing"
	"time"
)

// What others write: Dovecot's own vector, and PostgreSQL's form of what we derive.
func TestStoredForms(t *testing.T) {
	keys, err := DeriveSCRAM("pencil", []byte("0123456789abcdef"), 4096)
	if err != nil {
		t.Fatal(err)
	}
	line := string((&Account{SCRAMSHA256: keys}).AppendSecrets(nil))
	words := strings.Fields(line)
	for text, want := range map[string]Account{
		"{CRAM-MD5}e02d374fde0dc75a17a557039a3a5338c7743304777dccd376f332bee68d2cf6": {CRAMMD5: DeriveCRAMMD5("test")},
		"{cram-md5}E02D374FDE0DC75A17A557039A3A5338C7743304777DCCD376F332BEE68D2CF6": {CRAMMD5: DeriveCRAMMD5("test")},
		string((&Account{CRAMMD5: DeriveCRAMMD5("test")}).AppendSecrets(nil)):        {CRAMMD5: DeriveCRAMMD5("test")},
		line: {SCRAMSHA256: keys},
		"SCRAM-SHA-256$4096:" + words[2] + "$" + words[3] + ":" + words[4]:     {SCRAMSHA256: keys},
		"scram-sha-256 $ 4096:" + words[2] + " $ " + words[3] + ":" + words[4]: {},
		"SCRAM-SHA-256$ 4096:" + words[2] + " $ " + words[3] + ":" + words[4]:  {SCRAMSHA256: keys}, // RFC 3112 lets blanks be
		"{SCRAM-SHA-256}4096," + words[2] + "," + words[3] + "," + words[4]:    {SCRAMSHA256: keys},
	} {
		var a Account
		err := a.parseSecret(text)
		if want.CRAMMD5 == nil && want.SCRAMSHA256 == nil {
			if err == nil {
				t.Errorf("%s was taken", text)
			}
			continue
		}
		same := err == nil && (want.CRAMMD5 == nil) == (a.CRAMMD5 == nil) && (want.SCRAMSHA256 == nil) == (a.SCRAMSHA256 == nil)
		if same && a.CRAMMD5 != nil {
			same = *a.CRAMMD5 == *want.CRAMMD5
		}
		if same && a.SCRAMSHA256 != nil {
			same = a.SCRAMSHA256.StoredKey == keys.StoredKey && a.SCRAMSHA256.ServerKey == keys.ServerKey && string(a.SCRAMSHA256.Salt) == string(keys.Salt)
		}
		if !same {
			t.Errorf("%s: %+v, %v", text, a, err)
		}
	}
	const secret = "c2VjcmV0"
	for _, text := range []string{"cram-md5 " + secret, "cram-md5 " + secret + " " + secret, "{CRAM-MD5}" + secret, "SCRAM-SHA-256$" + secret, "SCRAM-SHA-256$1:a$b:c",
		"{SCRAM-SHA-256}4096," + secret + ",b,c", "scram-sha-256 4096 " + secret, "{SSHA}" + secret, secret, ""} {
		if err := new(Account).parseSecret(text); err == nil || strings.Contains(err.Error(), secret) {
			t.Errorf("%s: %v", text, err)
		}
	}
}

func TestRecord(t *testing.T) {
	keys := NewDeriver(make([]byte, SecretSize), 10)
	r := Record{Name: "tim", Domains: []string{"b.example", "BÜCHER.example", "a.example", "b.example"}, Settings: []string{" own-hostname ", "", "retention 5d"},
		Passwords: []string{"{CLEAR}in clear", "{SSHA}c2VjcmV0"}}
	a, err := r.Account(keys)
	if err != nil || !slices.Equal(a.Domains, []string{"a.example", "b.example", "xn--bcher-kva.example"}) || !a.OwnHostname ||
		a.Policy.Retention != 5*24*time.Hour || *a.CRAMMD5 != *DeriveCRAMMD5("in clear") {
		t.Fatalf("%+v, %v", a, err)
	}
	// The salt is the one that an account of that name would be shown if there were none, and the same every time.
	auth, err := NewAuthenticator(new(Table), AuthConfig{Hostname: "h.example", Clock: time.Now, Secret: make([]byte, SecretSize)})
	if err != nil {
		t.Fatal(err)
	}
	if fake := auth.fakeKeys("tim"); string(fake.Salt) != string(a.SCRAMSHA256.Salt) || fake.Iterations != a.SCRAMSHA256.Iterations || fake.StoredKey == a.SCRAMSHA256.StoredKey {
		t.Error("an account can be told from none by its salt")
	}
	keys.Forget()
	if b, err := r.Account(keys); err != nil || b.SCRAMSHA256 == a.SCRAMSHA256 || b.SCRAMSHA256.StoredKey != a.SCRAMSHA256.StoredKey {
		t.Errorf("%+v, %v", b, err)
	}
	// A stored form wins over what would be derived.
	r.Secrets = strings.Split(string((&Account{CRAMMD5: DeriveCRAMMD5("another")}).AppendSecrets(nil)), "\n")
	if b, err := r.Account(keys); err != nil || *b.CRAMMD5 != *DeriveCRAMMD5("another") || b.SCRAMSHA256.StoredKey != a.SCRAMSHA256.StoredKey {
		t.Errorf("%+v, %v", b, err)
	}
	for what, bad := range map[string]Record{
		"no domain": {Name: "x"}, "bad name": {Name: " x", Domains: []string{"a.example"}}, "two passwords": {Name: "x", Domains: []string{"a.example"}, Passwords: []string{"s3cret", "s3cret2"}},
		"twice": {Name: "x", Domains: []string{"a.example"}, Settings: []string{"retention 5d", "retention 6d"}}, "no value": {Name: "x", Domains: []string{"a.example"}, Settings: []string{"retention"}},
		"long": {Name: "x", Domains: []string{"a.example"}, Passwords: []string{strings.Repeat("s3cret", 1000)}}, "many": {Name: "x", Domains: make([]string, maxRecordDomains+1)},
	} {
		if a, err := bad.Account(keys); !errors.Is(err, ErrRecord) || strings.Contains(err.Error(), "s3cret") {
			t.Errorf("%s: %+v, %v", what, a, err)
		}
	}
	if b, err := (&Record{Name: "x", Domains: []string{"a.example"}, Passwords: []string{"{not a scheme} s3cret"}}).Account(keys); err != nil || *b.CRAMMD5 != *DeriveCRAMMD5("{not a scheme} s3cret") {
		t.Error("a password that begins with a brace:", err)
	}
}

// ATRN may name a domain as its owner writes it.
func TestAuthorizeSpellings(t *testing.T) {
	a := &Account{Name: "tim", Domains: []string{"a.example", "xn--bcher-kva.example"}}
	nobody := func(string) (bool, error) { return false, nil }
	for _, c := range []struct{ wanted, want []string }{
		{nil, a.Domains}, {[]string{"A.example"}, []string{"a.example"}}, {[]string{"bücher.example"}, a.Domains[1:]},
		{[]string{"bücher.example", "xn--bcher-kva.example", "a.example"}, []string{"xn--bcher-kva.example", "a.example"}}, {[]string{"b.example"}, nil}, {[]string{"a"}, nil},
	} {
		got, err := a.Authorize(c.wanted, nobody)
		if !slices.Equal(got, c.want) || (err == nil) != (c.want != nil) {
			t.Errorf("%v: %v, %v", c.wanted, got, err)
		}
	}
}

// doubter is a Directory that is told of failed logins.
type doubter struct {
	*Table
	doubted []string
}

func (d *doubter) Doubt(name string) { d.doubted = append(d.doubted, name) }

func TestFailedLoginsAreDoubted(t *testing.T) {
	a, err := (&Account{Name: "tim", Domains: []string{"a.example"}}).WithPassword("open sesame")
	if err != nil {
		t.Fatal(err)
	}
	table, err := NewTable(a)
	if err != nil {
		t.Fatal(err)
	}
	d := &doubter{Table: table}
	auth, err := NewAuthenticator(d, AuthConfig{Hostname: "h.example", Clock: time.Now})
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"a.example", "nobody"} {
		x := newCRAMMD5(auth, new(Peer))
		x.Next(nil)
		if _, _, err := x.Next([]byte(name + " 00112233445566778899aabbccddeeff")); !errors.Is(err, ErrCredentials) {
			t.Error(err)
		}
		p := newPlain(auth, new(Peer)).(Costly)
		message := []byte("\x00" + name + "\x00wrong password")
		if err := p.Look(message); err != nil {
			t.Error(err)
		}
		if _, _, err := p.Next(message); !errors.Is(err, ErrCredentials) {
			t.Error(err)
		}
	}
	if !slices.Equal(d.doubted, []string{"tim", "tim"}) {
		t.Errorf("doubted %q", d.doubted)
	}
}
