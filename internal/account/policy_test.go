package account

import (
	"errors"
	"strings"
	"testing"
	"time"
)

func TestPolicySet(t *testing.T) {
	for _, c := range []struct{ name, value, want string }{
		{"retention", "5d", "5d"}, {"retention", "36h", "36h"}, {"retention", "default", ""},
		{"delay-notice", "off", "off"}, {"delay-notice", "4h", "4h"},
		{"bounce", "off", "off"}, {"bounce", "on", "on"}, {"bounce", "default", ""},
		{"max-message-size", "10MiB", "10MiB"}, {"quota-messages", "10000", "10000"}, {"quota-messages", "unlimited", "unlimited"},
		{"quota-bytes", "1GiB", "1GiB"}, {"quota-bytes", "unlimited", "unlimited"},
		{"hold", "on", "on"}, {"small-first", "on", "on"}, {"shield", "off", "off"}, {"retention", "1m", "1m"}, {"linger", "10m", "10m"}, {"linger", "off", "off"}, {"atrn-interval", "90s", "1m30s"},
	} {
		var p Policy
		if err := p.Set(c.name, c.value); err != nil {
			t.Errorf("%s %s: %v", c.name, c.value, err)
			continue
		}
		var got string
		if s := p.Settings(); len(s) == 1 && s[0][0] == c.name {
			got = s[0][1]
		} else if len(s) > 0 {
			t.Errorf("%s %s set %v", c.name, c.value, s)
		}
		if got != c.want || p.has(c.name) != (c.want != "") {
			t.Errorf("%s %s became %q", c.name, c.value, got)
		}
	}
}

func TestPolicyRefuses(t *testing.T) {
	before := Policy{Retention: 5 * 24 * time.Hour, QuotaBytes: Unlimited, Bounce: On}
	for _, c := range [][2]string{
		{"retention", "off"}, {"retention", "59s"}, {"retention", "366d"}, {"retention", "5"}, {"retention", ""}, {"delay-notice", "1s"},
		{"bounce", "yes"}, {"bounce", ""}, {"max-message-size", "1KiB"}, {"max-message-size", "3GiB"}, {"max-message-size", "unlimited"},
		{"quota-messages", "0"}, {"quota-messages", "-1"}, {"quota-messages", "1e3"}, {"quota-bytes", "5M"}, {"linger", "25h"}, {"linger", "0s"}, {"atrn-interval", "-1ns"},
	} {
		p := before
		if err := p.Set(c[0], c[1]); err == nil || p != before {
			t.Errorf("%s %q: %v, %+v", c[0], c[1], err, p)
		}
	}
	p := before
	if err := p.Set("colour", "blue"); !errors.Is(err, ErrSetting) || p != before {
		t.Error(err)
	}
}

// A setting stands in the accounts file, is read back, and changes nothing when it is written again.
func TestPolicyInFile(t *testing.T) {
	text := "account tim\n  domain example.org\n  own-hostname\n  retention 5d\n  bounce off\n  quota-bytes 1GiB\n  linger 10m\n"
	d, err := Parse("accounts", []byte(text))
	if err != nil {
		t.Fatal(err)
	}
	a, err := d.Lookup("tim")
	if err != nil {
		t.Fatal(err)
	}
	want := Policy{Retention: 5 * 24 * time.Hour, Bounce: SwitchedOff, QuotaBytes: 1 << 30, Linger: 10 * time.Minute}
	if a.Policy != want {
		t.Fatalf("%+v", a.Policy)
	}
	if a.Policy.Bounce.Or(On) != SwitchedOff || a.Policy.Hold.Or(On) != On || a.Policy.Hold.Or(SwitchedOff) != SwitchedOff {
		t.Error("a switch does not win over the server, or does where it is not set")
	}
	b := *a
	if err := d.Replace(&b); err != nil {
		t.Fatal(err)
	}
	if got := string(d.Append(nil)); got != text {
		t.Fatalf("written as:\n%s", got)
	}
	for _, c := range [][2]string{
		{"  retention 5\n", "4: retention: \"5\" is not a duration"},
		{"  retention\n", "4: retention needs one value"},
		{"  retention 5d 6d\n", "4: retention needs one value"},
		{"  retention 5d\n  retention 6d\n", "5: retention is there twice"},
		{"  retention default\n", "4: retention: leave the line out"},
	} {
		_, err := Parse("accounts", []byte("account tim\n domain example.org\n own-hostname\n"+c[0]))
		if err == nil || !strings.Contains(err.Error(), c[1]) {
			t.Errorf("%q: %v", c[0], err)
		}
	}
}
