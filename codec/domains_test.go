package codec

import (
	"bytes"
	"net/netip"
	"regexp"
	"strings"
	"testing"
	"unicode/utf8"
)

var (
	long63  = strings.Repeat("a", 63)
	long253 = strings.Join([]string{long63, long63, long63, strings.Repeat("a", 61)}, ".")
)

func TestValidDomain(t *testing.T) {
	for _, good := range []string{"a", "a.example", "A-1.Example", "xn--bcher-kva.example", "1.2", "a--b.c", long63 + ".example", long253} {
		if !ValidDomain([]byte(good)) || !validMailDomain([]byte(good)) {
			t.Errorf("%q is refused", good)
		}
	}
	for _, bad := range []string{"", ".", ".a", "a.", "a..b", "-a.b", "a-.b", "a.-b", "a.b-", "-", "a b", "a,b", "a@b", long63 + "a.b", long253 + "a", "a\x00", "\xff.b", "a.\x80"} {
		if ValidDomain([]byte(bad)) || validMailDomain([]byte(bad)) {
			t.Errorf("%q is accepted", bad)
		}
	}
	for in, want := range map[string]bool{
		"a_b.c": true, "_dmarc.example": true, "b\u00fccher.example": true, "\u4f8b\u3048.example": true, strings.Repeat("\u00fc", 63) + ".a": true, strings.Repeat("\u00fc", 64) + ".a": false,
		"a\u3002b": false, "a\uff0eb": false, "a\uff61b": false, "a\u0085b": false, "b\xc3": false, "-\u00fc.a": false, "\u00fc-.a": false,
	} {
		if ValidDomain([]byte(in)) || validMailDomain([]byte(in)) != want {
			t.Errorf("%q: want %v in a path, and never of a customer", in, want)
		}
	}
}

func TestValidLiteral(t *testing.T) {
	for _, good := range []string{
		"[192.0.2.1]", "[0.0.0.0]", "[255.255.255.255]", "[IPv6:2001:db8::1]", "[ipv6:::]", "[IPv6:::1]", "[IPv6:1::]", "[IPv6:1:2:3:4:5:6:7:8]",
		"[IPv6:::ffff:192.0.2.1]", "[IPv6:1:2:3:4:5:6:192.0.2.1]",
	} {
		if !validLiteral([]byte(good)) {
			t.Errorf("%q is refused", good)
		}
	}
	for _, bad := range []string{
		"", "[]", "[", "]", "192.0.2.1", "[192.0.2]", "[192.0.2.256]", "[192.0.2.1.1]", "[192.0.2.]", "[1234.0.2.1]", "[IPv6:]", "[IPv6:1]", "[IPv6:1:2:3:4:5:6:7:8:9]",
		"[IPv6:1::2::3]", "[IPv6:1:2:3:4:5:6:7::8]", "[IPv6:1:2:3:4:5:6::192.0.2.1]", "[IPv6:1:2:3:4:5:6:7:8::]", "[IPv6:12345::]", "[IPv6::1]", "[IPv6:1:]", "[IPv6:1:2:3:4:5:6:7:192.0.2.1]", "[IPv6:g::]", "[:x]", "[tag:]", "[tag-:x]", "[tag:a b]", "[tag:a]b]", "[x-tag:any.thing]", "[1:>]",
	} {
		if validLiteral([]byte(bad)) {
			t.Errorf("%q is accepted", bad)
		}
	}
}

func FuzzLiteral(f *testing.F) {
	for _, seed := range []string{"1::", "::1", "1:2:3:4:5:6:7:8", "::ffff:192.0.2.1", "192.0.2.1", "1::2::3", ":::"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, in string) {
		addr, err := netip.ParseAddr(in)
		want := err == nil && addr.Is6() && addr.Zone() == ""
		// RFC 4291 lets "::" stand for one group, as netip does; RFC 5321 4.1.3 for two or more.
		if got := validIPv6([]byte(in)); got != want && !leadingZero(in) {
			t.Fatalf("validIPv6(%q) = %v", in, got)
		}
		want = err == nil && addr.Is4()
		if got := validIPv4([]byte(in)); got != want && !leadingZero(in) {
			t.Fatalf("validIPv4(%q) = %v", in, got)
		}
	})
}

// leadingZero reports a number such as 01, which netip refuses in IPv4 form and RFC 5321's Snum does not.
func leadingZero(s string) bool {
	return regexp.MustCompile(`(?:^|[.:])0[0-9]`).MatchString(s) && strings.Contains(s, ".")
}

func TestFold(t *testing.T) {
	if got := AppendLower([]byte("X"), []byte("AbZ[@`{\xc3\x89")); string(got) != "Xabz[@`{\xc3\x89" {
		t.Errorf("AppendLower: %q", got)
	}
	tests := []struct {
		a, b string
		want bool
	}{
		{"", "", true}, {"Example", "eXAMPLE", true}, {"a", "ab", false}, {"a", "b", false}, {"[", "{", false}, {"@", "`", false}, {"k", "\u212a", false},
		{"\u00e9", "\u00c9", false},
	}
	for _, test := range tests {
		if got := EqualFold([]byte(test.a), []byte(test.b)); got != test.want {
			t.Errorf("EqualFold(%q, %q) = %v", test.a, test.b, got)
		}
	}
}

func TestParseATRN(t *testing.T) {
	tests := []struct {
		in, want string
		err      error
	}{
		{"", "", nil},
		{"example.org", "example.org", nil},
		{"example.org,Example.COM", "example.org|Example.COM", nil},
		{"example.org, example.com,\t x.example", "example.org|example.com|x.example", nil},
		{"localhost", "localhost", ErrATRNOneLabel},
		{"example.org,localhost,x.example", "example.org|localhost|x.example", ErrATRNOneLabel},
		{",", "", ErrATRN},
		{"example.org,", "", ErrATRN},
		{"example.org, ", "", ErrATRN},
		{",example.org", "", ErrATRN},
		{"example.org,,example.com", "", ErrATRN},
		{"example.org ,example.com", "", ErrATRN},
		{"example.org example.com", "", ErrATRN},
		{"example.org.", "", ErrATRN},
		{"localhost,exa mple.org", "", ErrATRN},
		{"ex_ample.org", "", ErrATRN},
		{"b\u00fccher.example", "", ErrATRN},
		{"@example.org", "", ErrATRN},
	}
	for _, test := range tests {
		list, err := ParseATRN([]byte(test.in), nil)
		if got := string(bytes.Join(list, []byte("|"))); got != test.want || err != test.err {
			t.Errorf("ParseATRN(%q) = %q, %v, want %q, %v", test.in, got, err, test.want, test.err)
		}
	}
	kept := [][]byte{[]byte("kept.example")}
	if list, err := ParseATRN([]byte("a.example,b..example"), kept); err != ErrATRN || len(list) != 1 {
		t.Errorf("after an error: %q, %v", list, err)
	}
}

var patternLabel = regexp.MustCompile(`^[A-Za-z0-9](?:[A-Za-z0-9-]*[A-Za-z0-9])?$`)

// referenceDomain is the definition of ValidDomain.
func referenceDomain(s string) bool {
	for _, label := range strings.Split(s, ".") {
		if len(label) > 63 || !patternLabel.MatchString(label) {
			return false
		}
	}
	return len(s) <= 253
}

func FuzzParseATRN(f *testing.F) {
	for _, seed := range []string{"", "example.org,example.com", "a.b, c.d", "localhost", "a..b", "-a.b,c.d", "a.b,"} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, in []byte) {
		var want error
		items := strings.Split(string(in), ",")
		for i, item := range items {
			if i > 0 {
				item = strings.TrimLeft(item, " \t")
				items[i] = item
			}
			switch {
			case len(in) == 0:
				items = nil
			case !referenceDomain(item):
				want = ErrATRN
			case !strings.Contains(item, ".") && want == nil:
				want = ErrATRNOneLabel
			}
		}
		list, err := ParseATRN(in, nil)
		if err != want || err != ErrATRN && string(bytes.Join(list, comma)) != strings.Join(items, ",") {
			t.Fatalf("ParseATRN(%q) = %q, %v, want %q, %v", in, list, err, items, want)
		}
	})
}

func FuzzValidDomain(f *testing.F) {
	for _, seed := range []string{"a.example", long253, "b\u00fccher.example", "a\u3002b", "-a", "\xff"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, in string) {
		ascii, unicode := ValidDomain([]byte(in)), validMailDomain([]byte(in))
		if ascii != referenceDomain(in) {
			t.Fatalf("ValidDomain(%q) = %v", in, ascii)
		}
		// With underscores and every character beyond ASCII made letters it must be a domain of LDH.
		plain := strings.Map(func(r rune) rune {
			if r >= utf8.RuneSelf || r == '_' {
				r = 'a'
			}
			return r
		}, in)
		want := utf8.ValidString(in) && referenceDomain(plain) && len(in) <= MaxDomain && !strings.ContainsAny(in, "\u3002\uff0e\uff61") &&
			!regexp.MustCompile(`[\x{80}-\x{9f}]`).MatchString(in)
		if unicode != want {
			t.Fatalf("validMailDomain(%q) = %v", in, unicode)
		}
	})
}
