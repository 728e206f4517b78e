package e2e

import (
	"fmt"
	"strings"
	"testing"
)

// TestInteropSlapdRefuses: what an operator has done wrong is put off and said, and mended it is found at once; what is wrong with one
// account is about that account.
func TestInteropSlapdRefuses(t *testing.T) {
	p := startSlapd(t, "", "", "")
	secrets := secretsOf(t, password)
	p.add("tim", secrets, "example.org")
	p.add("eve", secrets, "example.com")
	// One name in two entries, and one in more than a directory lists or anybody asks for.
	var ldif strings.Builder
	twin := func(name, host, domain string) {
		fmt.Fprintf(&ldif, "dn: host=%s,ou=customers,dc=isp,dc=example\nobjectClass: account\nobjectClass: odmrAccount\nuid: %s\nhost: %[1]s\nodmrDomain: %[3]s\nodmrSecret: %[4]s\n\n",
			host, name, domain, strings.Join(secrets, "\nodmrSecret: "))
	}
	twin("twin", "one", "one.example")
	twin("twin", "two", "two.example")
	for i := range 150 {
		twin("many", fmt.Sprintf("h%d", i), fmt.Sprintf("h%d.example", i))
	}
	p.ldif(ldif.String())
	p.write("password", "a wrong one")
	s, _ := startElsewhere(t, p)
	want(t, "while our own password is wrong", loginCRAM(t, s, "tim", password), 454)
	want(t, "mail meanwhile", rcpt(t, s, "example.org"), 451)
	s.logged(`the directory refuses this server, which does not end by itself: bind: .*Invalid Credentials`)
	checkReady(t, s, 503, "refuses this server")
	p.write("password", elsewherePassword)
	forget(t, s)
	until(t, "odmrd to go on", func() bool { return loginCRAM(t, s, "tim", password) == 0 })

	for range 3 {
		want(t, "a name in two entries", loginCRAM(t, s, "twin", password), 454)
		want(t, "a name in many", loginCRAM(t, s, "many", password), 454)
		want(t, "mail of one of them", rcpt(t, s, "one.example"), 451) // never 550: somebody will mend it
		for _, name := range []string{"nobody", "*", "tim)(uid=*", "a\\2a", strings.Repeat("x", 200), "\u00e4\u00f6\u00fc", "a b"} {
			want(t, name, loginCRAM(t, s, name, password), 535)
		}
	}
	want(t, "eve, who was not asked for before", loginCRAM(t, s, "eve", password), 0)
	if n := strings.Count(s.Log(), "accounts cannot be looked up"); n != 1 {
		t.Errorf("down %d times, want once", n)
	}
	s.logged("account ..twin.. is in two entries")
	s.Stop()

	p.url = strings.Replace(p.url, "ou=customers", "ou=nothing", 1)
	s, _ = startElsewhere(t, p)
	want(t, "below a base that is not there", loginCRAM(t, s, "tim", password), 454)
	s.logged("refuses this server, which does not end by itself: search: .*No Such Object")
}
