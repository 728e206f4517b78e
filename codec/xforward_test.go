package codec

import (
	"bytes"
	"strings"
	"testing"
)

func TestParseXForward(t *testing.T) {
	long := strings.Repeat("a", 255)
	for _, c := range []struct {
		arg  string
		want string // the values given, joined by blanks; "-" for what is not known
		ok   bool
	}{
		{"NAME=spike.example ADDR=168.100.189.2 PROTO=ESMTP", "NAME:spike.example ADDR:168.100.189.2 PROTO:ESMTP", true},
		{"HELO=spike.example", "HELO:spike.example", true},
		{"name=a addr=IPv6:2001:db8::1 port=65535", "NAME:a ADDR:2001:db8::1 PORT:65535", true},
		{"ADDR=2001:db8::1", "ADDR:2001:db8::1", true},
		{"NAME=[UNAVAILABLE] ADDR=[unavailable] SOURCE=LOCAL IDENT=4F1+2B", "NAME:- ADDR:- IDENT:4F1+ SOURCE:LOCAL", true},
		{"NAME=[TEMPUNAVAIL]", "NAME:-", true},
		{"HELO=+5B192.0.2.1+5D", "HELO:[192.0.2.1]", true},
		{"HELO=b+C3+BCcher.example", "HELO:b\u00fccher.example", true},
		{"NAME=" + long, "NAME:" + long, true},
		{"NAME=" + long + "a", "", false},
		{"", "", false}, {"NAME", "", false}, {"NAME=", "", false}, {"COLOUR=blue", "", false}, {"=x", "", false},
		{"NAME=a NAME=b", "", false}, {"NAME=a+0D+0AQUIT", "", false}, {"NAME=a+20b", "", false}, {"NAME=a+", "", false}, {"NAME=a=b", "", false},
		{"ADDR=300.1.1.1", "", false}, {"ADDR=IPv6:192.0.2.1", "", false}, {"ADDR=fe80::1%25", "", false}, {"ADDR=localhost", "", false},
		{"PORT=x", "", false}, {"PORT=123456", "", false}, {"SOURCE=BOTH", "", false}, {"HELO=+FF", "", false}, {"HELO=[TEMPUNAVAIL]", "HELO:[TEMPUNAVAIL]", true},
	} {
		x, _, err := ParseXForward(nil, []byte(c.arg))
		if (err == nil) != c.ok {
			t.Errorf("%.40q: %v", c.arg, err)
			continue
		}
		var got []string
		for a := range XAttr(NumXAttrs) {
			if !x.Given.Has(a) {
				continue
			}
			v := string(x.Values[a])
			if v == "" {
				v = "-"
			}
			got = append(got, xattrNames[a]+":"+v)
		}
		if s := strings.Join(got, " "); s != c.want {
			t.Errorf("%.40q: %q, want %q", c.arg, s, c.want)
		}
	}
}

func TestAppendXForward(t *testing.T) {
	all := ParseXForwardOffer([]byte(" NAME ADDR PORT PROTO HELO IDENT SOURCE FUTURE"))
	if all != 1<<NumXAttrs-1 || ParseXForwardOffer(nil) != 0 {
		t.Fatalf("offer: %b", all)
	}
	name := strings.Repeat("n", 255)
	for _, c := range []struct {
		offered XAttrs
		values  [NumXAttrs]string
		want    string
		n       int
	}{
		{all, [NumXAttrs]string{"mx.example", "192.0.2.1", "1234", "ESMTP", "helo.example", "ABC", "REMOTE"},
			"XFORWARD NAME=mx.example ADDR=192.0.2.1 PORT=1234 PROTO=ESMTP HELO=helo.example IDENT=ABC SOURCE=REMOTE\r\n", 1},
		{ParseXForwardOffer([]byte("ADDR HELO")), [NumXAttrs]string{"mx.example", "2001:db8::1", "", "", "[x+y]", "", ""},
			"XFORWARD ADDR=IPV6:2001:db8::1 HELO=[x+2By]\r\n", 1},
		{ParseXForwardOffer([]byte("NAME SOURCE")), [NumXAttrs]string{}, "XFORWARD NAME=[UNAVAILABLE] SOURCE=[UNAVAILABLE]\r\n", 1},
		{0, [NumXAttrs]string{"a"}, "", 0},
		{all, [NumXAttrs]string{name, "192.0.2.1", "1", "SMTP", name, strings.Repeat(" ", 200), "LOCAL"},
			"XFORWARD NAME=" + name + " ADDR=192.0.2.1 PORT=1 PROTO=SMTP\r\nXFORWARD HELO=" + name + " IDENT=[UNAVAILABLE] SOURCE=LOCAL\r\n", 2},
		{ParseXForwardOffer([]byte("HELO")), [NumXAttrs]string{4: "a\r\nQUIT"}, "XFORWARD HELO=a+0D+0AQUIT\r\n", 1},
	} {
		got, n := AppendXForward(nil, c.offered, &c.values)
		if string(got) != c.want || n != c.n {
			t.Errorf("%q, %d, want %q, %d", got, n, c.want, c.n)
		}
	}
}

// What is understood can be said again, is understood as the same, and never ends a line.
func FuzzXForward(f *testing.F) {
	f.Add("NAME=spike.example ADDR=168.100.189.2 PROTO=ESMTP HELO=x")
	f.Add("ADDR=IPv6:2001:db8::1 IDENT=4F1+2B SOURCE=LOCAL PORT=25")
	f.Add("NAME=[UNAVAILABLE] HELO=+5Bx+5D")
	f.Fuzz(func(t *testing.T, arg string) {
		x, _, err := ParseXForward(make([]byte, 0, 16), []byte(arg))
		if err != nil {
			return
		}
		var values [NumXAttrs]string
		for a := range values {
			values[a] = string(x.Values[a])
		}
		out, n := AppendXForward(nil, x.Given, &values)
		var back XForward
		lines := bytes.SplitAfter(out, []byte("\r\n"))
		if len(lines) != n+1 || len(lines[n]) > 0 {
			t.Fatalf("%q: %d commands in %q", arg, n, out)
		}
		for _, l := range lines[:n] {
			if len(l) > MaxXForward || bytes.ContainsAny(l[:len(l)-2], "\r\n\x00") {
				t.Fatalf("%q: line %q", arg, l)
			}
			verb, rest := ParseCommand(l[:len(l)-2])
			y, _, err := ParseXForward(nil, rest)
			if verb != VerbXFORWARD || err != nil {
				t.Fatalf("%q: %q is not understood: %v", arg, l, err)
			}
			for a := range XAttr(NumXAttrs) {
				if y.Given.Has(a) {
					back.Values[a] = y.Values[a]
				}
			}
			back.Given |= y.Given
		}
		if back.Given != x.Given {
			t.Fatalf("%q: %b became %b", arg, x.Given, back.Given)
		}
		for a := range values {
			if got := string(back.Values[a]); got != values[a] && got != "" { // empty: it did not fit
				t.Fatalf("%q: attribute %d %q became %q", arg, a, values[a], got)
			}
		}
	})
}
