package account

import (
	"crypto/tls"
	"testing"
)

// TestBarred: a proof that does not count is refused as a wrong one is, whatever the mechanism, and the question is the same for names that
// are none.
func TestBarred(t *testing.T) {
	tim, err := (&Account{Name: "tim", Domains: []string{"example.org"}}).WithPassword(testPassword)
	if err != nil {
		t.Fatal(err)
	}
	a := newAuth(t, tim)
	peer, _ := tlsPeers(t, tls.VersionTLS13, nil)
	var asked []string
	bar := false
	peer.Barred = func(name string) bool { asked = append(asked, name); return bar }
	for _, m := range []string{Plain, Login, SCRAMSHA256, CRAMMD5} {
		for _, name := range []string{"tim", "example.org", "nobody"} {
			for _, bar = range []bool{false, true} {
				asked = nil
				var who string
				var err error
				switch m {
				case Plain:
					who, err = trial{t, a, m, peer}.talk([]byte("\x00"+name+"\x00"+testPassword), nil)
				case Login:
					who, err = trial{t, a, m, peer}.talk([]byte(name), func([]byte) []byte { return []byte(testPassword) })
				case SCRAMSHA256:
					who, err = trial{t, a, m, peer}.scram(name, testPassword, "", nil)
				case CRAMMD5:
					who, err = trial{t, a, m, peer}.talk(nil, func(c []byte) []byte { return respond(name, testPassword, c) })
				}
				if good := !bar && name != "nobody"; good != (who == "tim" && err == nil) || !good && err != ErrCredentials {
					t.Errorf("%s as %s, barred %v: %q, %v", m, name, bar, who, err)
				}
				want := "tim"
				if name == "nobody" {
					want = ""
				}
				if len(asked) != 1 || asked[0] != want {
					t.Errorf("%s as %s: asked about %q", m, name, asked)
				}
			}
		}
	}
}
