package account

import (
	"bytes"
	"crypto/tls"
	"fmt"
	"strings"
	"testing"
)

// TestSaltsTellNothing: neither that a domain is an account's, nor that a name is one.
func TestSaltsTellNothing(t *testing.T) {
	tim, err := (&Account{Name: "tim", Domains: []string{"example.com", "example.org"}}).WithPassword(testPassword)
	if err != nil {
		t.Fatal(err)
	}
	self, err := (&Account{Name: "example.net", Domains: []string{"example.net"}}).WithPassword(testPassword)
	if err != nil {
		t.Fatal(err)
	}
	clear := &Account{Name: "eve", Domains: []string{"eve.example"}}
	if err := NewDeriver(bytes.Repeat([]byte{1}, SecretSize), 1).fill(clear, testPassword); err != nil {
		t.Fatal(err)
	}
	older := &Account{Name: "old", Domains: []string{"old.example"}, SCRAMSHA256: tim.SCRAMSHA256}
	a := newAuth(t, tim, self, clear, older)
	shown := func(name string) string {
		x, _ := a.Start(SCRAMSHA256, Peer{})
		c, _, err := x.Next([]byte("n,,n=" + name + ",r=abc"))
		if err != nil {
			t.Fatal(err)
		}
		_, after, _ := strings.Cut(string(c), ",")
		return after
	}
	for _, pair := range [][2]string{{"tim", "example.org"}, {"tim", "EXAMPLE.com"}, {"eve", "eve.example"}} {
		if shown(pair[0]) == shown(pair[1]) {
			t.Errorf("%s and %s show one salt", pair[0], pair[1])
		}
	}
	if shown("example.net") != shown("Example.NET") {
		t.Error("how a name is spelt changes the salt of a real one: that of others it does not")
	}
	for _, name := range []string{"tim", "example.org", "Example.COM", "example.net", "EXAMPLE.net", "eve", "eve.example", "old", "old.example"} {
		who, err := (trial{t, a, SCRAMSHA256, Peer{}}).scram(name, testPassword, "", nil)
		if err != nil || who == "" {
			t.Errorf("login as %s: %q, %v", name, who, err)
		}
		peer, _ := tlsPeers(t, tls.VersionTLS13, nil)
		if plain, err := (trial{t, a, Plain, peer}).talk([]byte("\x00"+name+"\x00"+testPassword), nil); err != nil || plain != who {
			t.Errorf("login as %s by PLAIN: %q, %v", name, plain, err)
		}
	}
}

// TestKeyKinds: names that are none show work factors and sizes of salts in the shares in which accounts have them.
func TestKeyKinds(t *testing.T) {
	with := func(i, iterations, salt int) *Account {
		return &Account{Name: fmt.Sprint("user", i), Domains: []string{fmt.Sprintf("d%d.example", i)},
			SCRAMSHA256: &SCRAMKeys{Iterations: iterations, Salt: make([]byte, salt)}}
	}
	var accounts []*Account
	for i := range 40 {
		accounts = append(accounts, with(i, []int{4096, 4096, 4096, 20000}[i%4], []int{16, 16, maxSalt, 24}[i%4]))
	}
	counts := func(a *Authenticator) map[keyKind]int {
		m := map[keyKind]int{}
		for i := range 4000 {
			name := fmt.Sprint("nobody", i)
			k := a.fakeKeys(name)
			if again := a.fakeKeys(name); k.Iterations != again.Iterations || !bytes.Equal(k.Salt, again.Salt) {
				t.Fatalf("%s: not the same twice", name)
			}
			m[keyKind{k.Iterations, len(k.Salt)}]++
		}
		return m
	}
	a := newAuth(t, accounts...)
	got := counts(a)
	for kind, share := range map[keyKind]int{{4096, 16}: 2000, {4096, maxSalt}: 1000, {20000, 24}: 1000} {
		if n := got[kind]; n < share-200 || n > share+200 {
			t.Errorf("%v: %d of 4000, want about %d", kind, n, share)
		}
	}
	if len(got) != 3 {
		t.Errorf("kinds that nobody has: %v", got)
	}
	// One account more changes what few names show.
	b := newAuth(t, append(accounts, with(40, 4096, 16))...)
	b.secret = a.secret
	changed := 0
	for i := range 4000 {
		if x, y := a.fakeKeys(fmt.Sprint("nobody", i)), b.fakeKeys(fmt.Sprint("nobody", i)); x.Iterations != y.Iterations || len(x.Salt) != len(y.Salt) {
			changed++
		}
	}
	if changed > 200 {
		t.Errorf("one account more changes what %d of 4000 names show", changed)
	}
	if got := counts(newAuth(t, newAccount("tim", "password", "example.org"))); got[keyKind{SCRAMIterations, SCRAMSaltSize}] != 4000 {
		t.Errorf("where no account has keys: %v", got)
	}
}

// TestKindsChangeSalts: when accounts come to have keys of another kind, names that are none show other salts, too, as whoever's keys are
// made anew does. Names whose kind stays keep theirs.
func TestKindsChangeSalts(t *testing.T) {
	with := func(name string, iterations, salt int) *Account {
		return &Account{Name: name, Domains: []string{name + ".example"}, SCRAMSHA256: &SCRAMKeys{Iterations: iterations, Salt: make([]byte, salt)}}
	}
	before, after := newAuth(t, with("tim", SCRAMIterations, SCRAMSaltSize)), newAuth(t, with("tim", SCRAMIterations, SCRAMSaltSize), with("eve", 4096, 32))
	after.secret = before.secret
	kept, changed := 0, 0
	for i := range 100 {
		x, y := before.fakeKeys(fmt.Sprint("nobody", i)), after.fakeKeys(fmt.Sprint("nobody", i))
		switch same := bytes.Equal(x.Salt, y.Salt[:SCRAMSaltSize]); {
		case x.Iterations == y.Iterations && same:
			kept++
		case x.Iterations != y.Iterations && !same:
			changed++
		default:
			t.Errorf("%d iterations of %x became %d of %x", x.Iterations, x.Salt, y.Iterations, y.Salt)
		}
	}
	if kept == 0 || changed == 0 {
		t.Errorf("%d kept, %d changed", kept, changed)
	}
}
