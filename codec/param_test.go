package codec

import (
	"bytes"
	"encoding/base64"
	"math"
	"math/big"
	"reflect"
	"regexp"
	"strings"
	"testing"
	"unicode/utf8"
)

func TestParseSize(t *testing.T) {
	tests := []struct {
		in   string
		want int64 // -1: refused
	}{
		{"0", 0}, {"1", 1}, {"0010", 10}, {"9223372036854775807", math.MaxInt64}, {"9223372036854775808", math.MaxInt64},
		{"99999999999999999999", math.MaxInt64}, {"00000000000000000001", 1},
		{"", -1}, {"-1", -1}, {"+1", -1}, {"1k", -1}, {"0x1", -1}, {" 1", -1}, {"100000000000000000000", -1},
	}
	for _, test := range tests {
		got, err := ParseSize([]byte(test.in))
		if refused := err != nil; refused != (test.want < 0) || !refused && got != test.want {
			t.Errorf("ParseSize(%q) = %d, %v, want %d", test.in, got, err, test.want)
		}
	}
}

func TestParseBodyRet(t *testing.T) {
	for in, want := range map[string]string{"7BIT": "7", "7bit": "7", "8BitMime": "8", "": "x", "BINARYMIME": "b", "8BIT": "x"} {
		eight, err := ParseBody([]byte(in))
		got := map[error]string{nil: "7", ErrBody: "x", ErrBinaryMIME: "b"}[err]
		if eight {
			got = "8"
		}
		if got != want {
			t.Errorf("ParseBody(%q) = %v, %v", in, eight, err)
		}
	}
	for in, want := range map[string]RetValue{"FULL": RetFull, "full": RetFull, "HDRS": RetHeaders, "hdrs": RetHeaders, "": RetUnset, "HDR": RetUnset} {
		if got, err := ParseRet([]byte(in)); got != want || (err == nil) != (want != RetUnset) {
			t.Errorf("ParseRet(%q) = %d, %v, want %d", in, got, err, want)
		}
	}
	// The order is the contract with package mail.
	if RetUnset != 0 || RetFull != 1 || RetHeaders != 2 {
		t.Error("the values have moved")
	}
}

func TestParamValues(t *testing.T) {
	var params Params
	for in, want := range map[string]MailValues{
		"FROM:<a@b.example>": {},
		"FROM:<a@b.example> size=12 body=8bitmime smtputf8 ret=hdrs envid=QQ+2B": {Size: 12, EightBit: true, SMTPUTF8: true, Ret: RetHeaders, EnvID: []byte("QQ+2B")},
		"FROM:<a@b.example> BODY=7BIT RET=FULL AUTH=<> X-OTHER=1":                {Ret: RetFull},
	} {
		if _, err := ParseMail([]byte(in), &params); err != nil {
			t.Errorf("ParseMail(%q): %v", in, err)
		}
		if got := params.Mail(); !reflect.DeepEqual(got, want) {
			t.Errorf("%q has %+v, want %+v", in, got, want)
		}
	}
	for in, want := range map[string]RcptValues{
		"TO:<a@b.example>": {},
		"TO:<a@b.example> orcpt=rfc822;A@b.example notify=success,DELAY": {NotifySuccess | NotifyDelay, []byte("rfc822;A@b.example")},
	} {
		if _, err := ParseRcpt([]byte(in), &params); err != nil {
			t.Errorf("ParseRcpt(%q): %v", in, err)
		}
		if got := params.Rcpt(); !reflect.DeepEqual(got, want) {
			t.Errorf("%q has %+v, want %+v", in, got, want)
		}
	}
}

func TestParseNotify(t *testing.T) {
	tests := []struct {
		in   string
		want NotifyBits // 0: refused
	}{
		{"NEVER", NotifyNever}, {"never", NotifyNever}, {"SUCCESS", NotifySuccess}, {"FAILURE", NotifyFailure}, {"DELAY", NotifyDelay},
		{"SUCCESS,FAILURE,DELAY", NotifySuccess | NotifyFailure | NotifyDelay}, {"delay,Success", NotifyDelay | NotifySuccess},
		{"DELAY,DELAY", NotifyDelay}, {"NEVER,NEVER", NotifyNever},
		{"", 0}, {"NEVER,DELAY", 0}, {"DELAY,NEVER", 0}, {"DELAY,", 0}, {",DELAY", 0}, {"DELAY;SUCCESS", 0}, {"DELAYED", 0},
	}
	for _, test := range tests {
		if got, err := ParseNotify([]byte(test.in)); got != test.want || (err == nil) != (test.want != 0) {
			t.Errorf("ParseNotify(%q) = %d, %v, want %d", test.in, got, err, test.want)
		}
	}
	// The order of the bits is the contract with package mail.
	if NotifyNever != 1 || NotifySuccess != 2 || NotifyFailure != 4 || NotifyDelay != 8 {
		t.Error("the bits have moved")
	}
}

func TestXtext(t *testing.T) {
	tests := []struct {
		in, decoded string // "-" where it is none
		valid       bool   // strictly
	}{
		{"abc", "abc", true}, {"a+2Bb", "a+b", true}, {"+3D", "=", true}, {"<>", "<>", true}, {"+00+FF", "\x00\xff", true},
		{"a+2bb", "a+b", false}, {"", "", false},
		{"+", "-", false}, {"+3", "-", false}, {"+3G", "-", false}, {"a=b", "-", false}, {"a b", "-", false}, {"\x7f", "-", false}, {"\xc3\xa9", "-", false},
	}
	for _, test := range tests {
		if got := ValidXtext([]byte(test.in), 100); got != test.valid {
			t.Errorf("ValidXtext(%q) = %v", test.in, got)
		}
		got, err := DecodeXtext([]byte("x"), []byte(test.in))
		if test.decoded == "-" && (err == nil || string(got) != "x") || test.decoded != "-" && (err != nil || string(got) != "x"+test.decoded) {
			t.Errorf("DecodeXtext(%q) = %q, %v", test.in, got, err)
		}
	}
	if !ValidXtext([]byte("1234"), 4) || ValidXtext([]byte("12345"), 4) {
		t.Error("the limit is off")
	}
	if got := AppendXtext([]byte("x"), []byte("a+b=c d\xff")); string(got) != "xa+2Bb+3Dc+20d+FF" {
		t.Errorf("AppendXtext: %q", got)
	}
}

func TestValidOrcpt(t *testing.T) {
	for _, good := range []string{
		"rfc822;a@b.example", "RFC822;a+2Bb@b.example", "x400;/c+3Dus", "utf-8;j\u00f6rg@b.example", `UTF-8;j\x{F6}rg@b.example`, `utf-8;\x{1F600}@b.example`,
		"rfc822;" + strings.Repeat("x", MaxOrcpt-7), "rfc822;", // xtext may be empty (RFC 3461 4)
	} {
		if !ValidOrcpt([]byte(good)) {
			t.Errorf("%q is refused", good)
		}
	}
	for _, bad := range []string{
		"", ";", "rfc822", ";a@b.example", "rf c;a", "rfc822;a b", "rfc822;a+", "rfc822;a+2b", "rfc822;j\u00f6rg", "rfc822;" + strings.Repeat("x", MaxOrcpt-6),
		"utf-8;", "utf-8;a+b", "utf-8;a=b", "utf-8;a b", `utf-8;\x{F}`, `utf-8;\x{D800}`, `utf-8;\x{110000}`, `utf-8;\x{1234567}`, `utf-8;\x{f6}`, `utf-8;\x{F6`, `utf-8;\x{00}`, `utf-8;\y`, "utf-8;\xff", `utf-8;\`,
	} {
		if ValidOrcpt([]byte(bad)) {
			t.Errorf("%q is accepted", bad)
		}
	}
}

func TestParseHello(t *testing.T) {
	for in, want := range map[string]string{
		"client.example": "client.example", "localhost": "localhost", "a.example and more": "a.example", "[192.0.2.1]": "[192.0.2.1]",
		"[IPv6:2001:db8::1]": "[IPv6:2001:db8::1]", "my_host": "my_host", "b\u00fccher.example": "b\u00fccher.example",
		"": "", " ": "", "[]": "", "[1.2.3]": "", "a..b": "", "-a": "", "a@b": "", "\xff": "", "a.example.": "", "<a>": "",
	} {
		got, err := ParseHello([]byte(in))
		if string(got) != want || (err == nil) != (want != "") {
			t.Errorf("ParseHello(%q) = %q, %v", in, got, err)
		}
	}
}

func TestParseBDAT(t *testing.T) {
	tests := []struct {
		in   string
		size int64 // -1: refused
		last bool
	}{
		{"0", 0, false}, {"0 LAST", 0, true}, {"86", 86, false}, {"86 last", 86, true}, {"86  LAST ", 86, true}, {"9223372036854775807", math.MaxInt64, false},
		{"", -1, false}, {"LAST", -1, false}, {"-1", -1, false}, {"86 LAST LAST", -1, false}, {"86 FIRST", -1, false}, {"86LAST", -1, false}, {"8 6", -1, false},
		{"9223372036854775808", -1, false}, {"99999999999999999999999", -1, false}, {"0x10", -1, false},
	}
	for _, test := range tests {
		size, last, err := ParseBDAT([]byte(test.in))
		if refused := err != nil; refused != (test.size < 0) || !refused && (size != test.size || last != test.last) {
			t.Errorf("ParseBDAT(%q) = %d, %v, %v", test.in, size, last, err)
		}
	}
}

func TestParseAuth(t *testing.T) {
	tests := []struct {
		in, mech, initial string
		has, ok           bool
	}{
		{"CRAM-MD5", "CRAM-MD5", "", false, true},
		{"plain AGEAYg==", "plain", "AGEAYg==", true, true},
		{"EXTERNAL =", "EXTERNAL", "", true, true},
		{"EXTERNAL", "EXTERNAL", "", false, true},
		{"PLAIN  AGEAYg==  ", "PLAIN", "AGEAYg==", true, true},
		{"X_Y ==", "X_Y", "==", true, true}, // DecodeBase64 refuses it
		{"", "", "", false, false},
		{"PLAIN a b", "", "", false, false},
		{"PL/AIN", "", "", false, false},
		{"ABCDEFGHIJKLMNOPQRST", "ABCDEFGHIJKLMNOPQRST", "", false, true},
		{"ABCDEFGHIJKLMNOPQRSTU", "", "", false, false},
	}
	for _, test := range tests {
		mech, initial, has, err := ParseAuth([]byte(test.in))
		if string(mech) != test.mech || string(initial) != test.initial || has != test.has || (err == nil) != test.ok {
			t.Errorf("ParseAuth(%q) = %q, %q, %v, %v", test.in, mech, initial, has, err)
		}
	}
}

func TestDecodeBase64(t *testing.T) {
	for in, want := range map[string]string{"": "", "YQ==": "a", "YWI=": "ab", "YWJj": "abc", "AAAA": "\x00\x00\x00", "+/+/": "\xfb\xff\xbf"} {
		if got, err := DecodeBase64([]byte("x"), []byte(in)); err != nil || string(got) != "x"+want {
			t.Errorf("%q: %q, %v", in, got, err)
		}
	}
	for _, bad := range []string{"=", "==", "Y", "YQ", "YQ=", "YQ===", "YR==", "YWJ", "YWK=", "Y Q==", "YQ==\r\n", "YW\nJj", "YQ==YQ==", "-_-_", "*", "YWJj=", "\x00"} {
		if got, err := DecodeBase64([]byte("x"), []byte(bad)); err != ErrBase64 || string(got) != "x" {
			t.Errorf("%q: %q, %v", bad, got, err)
		}
	}
}

func FuzzBase64(f *testing.F) {
	f.Add([]byte("YQ=="))
	f.Add([]byte("YWI\n="))
	f.Fuzz(func(t *testing.T, in []byte) {
		if back, err := DecodeBase64(nil, AppendBase64(nil, in)); err != nil || !bytes.Equal(back, in) {
			t.Fatalf("%q came back as %q, %v", in, back, err)
		}
		// Strict means that there is one text for every value.
		if out, err := DecodeBase64(nil, in); err == nil && base64.StdEncoding.EncodeToString(out) != string(in) {
			t.Fatalf("%q stands for %q, which is written differently", in, out)
		}
	})
}

var (
	patternXtext  = regexp.MustCompile(`^(?:[!-*,-<>-~]|\+[0-9A-F]{2})+$`)
	patternBDAT   = regexp.MustCompile(`^[ \t]*([0-9]{1,20})(?:[ \t]+((?i)LAST)?[ \t]*)?$`)
	patternOrcpt  = regexp.MustCompile("^[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+;(?:[!-*,-<>-~]|\\+[0-9A-F]{2})*$")
	patternUnicod = regexp.MustCompile(`^(?i:utf-8);(?:[!-*,-<>-\[\]-~\x{80}-\x{10ffff}]|\\x\{[0-9A-F]{2,6}\})+$`)
	patternAuth   = regexp.MustCompile(`^[ \t]*([A-Za-z0-9_-]{1,20})(?:[ \t]+([^ \t]+)?[ \t]*)?$`)
)

func FuzzXtext(f *testing.F) {
	for _, seed := range []string{"a+2Bb", "+", "+3d", "=", "\xff"} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, in []byte) {
		text := AppendXtext(nil, in)
		if back, err := DecodeXtext(nil, text); err != nil || !bytes.Equal(back, in) {
			t.Fatalf("%q came back as %q, %v", in, back, err)
		}
		if len(in) > 0 && !ValidXtext(text, len(text)) {
			t.Fatalf("%q makes %q, which is invalid", in, text)
		}
		if got := ValidXtext(in, 1000); got != (len(in) <= 1000 && patternXtext.Match(in)) {
			t.Fatalf("ValidXtext(%q) = %v", in, got)
		}
		if _, err := DecodeXtext(nil, in); err != nil && ValidXtext(in, len(in)) {
			t.Fatalf("%q is valid, and cannot be decoded", in)
		}
	})
}

func FuzzOrcpt(f *testing.F) {
	for _, seed := range []string{"rfc822;a+2B@b", "rfc822;", "utf-8;\\x{F6}\u00f6", "utf-8;\\x{D800}", ";"} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, in []byte) {
		kind, _, _ := strings.Cut(string(in), ";")
		want := patternOrcpt.Match(in)
		if string(AppendLower(nil, []byte(kind))) == "utf-8" {
			want = utf8.Valid(in) && patternUnicod.Match(in)
		}
		got := ValidOrcpt(in)
		if got && !want || want && !got && len(in) <= MaxOrcpt && !strings.Contains(string(in), `\x{`) {
			t.Fatalf("ValidOrcpt(%q) = %v", in, got)
		}
	})
}

// FuzzArguments runs the small parsers against patterns and big numbers.
func FuzzArguments(f *testing.F) {
	for _, seed := range []string{"86 LAST", "9223372036854775808", "PLAIN =", "CRAM-MD5", "SUCCESS,DELAY", "NEVER,DELAY", "client.example x", "[IPv6:::1]", "MAILMAX=3"} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, in []byte) {
		limit := big.NewInt(math.MaxInt64)
		if size, err := ParseSize(in); err == nil {
			want, ok := new(big.Int).SetString(string(in), 10)
			if !ok || want.Cmp(limit) > 0 && size != math.MaxInt64 || want.Cmp(limit) <= 0 && want.Int64() != size {
				t.Fatalf("ParseSize(%q) = %d", in, size)
			}
		}
		size, last, err := ParseBDAT(in)
		match := patternBDAT.FindSubmatch(in)
		want := new(big.Int)
		if match != nil {
			want.SetString(string(match[1]), 10)
		}
		if ok := match != nil && want.Cmp(limit) <= 0; ok != (err == nil) || ok && (want.Int64() != size || last != (len(match[2]) > 0)) {
			t.Fatalf("ParseBDAT(%q) = %d, %v, %v", in, size, last, err)
		}
		mech, initial, has, err := ParseAuth(in)
		match = patternAuth.FindSubmatch(in)
		if (err == nil) != (match != nil) || match != nil && (string(mech) != string(match[1]) || has != (match[2] != nil) ||
			string(initial) != string(match[2]) && string(match[2]) != "=") || len(initial) == 0 && has && string(match[2]) != "=" {
			t.Fatalf("ParseAuth(%q) = %q, %q, %v, %v", in, mech, initial, has, err)
		}
		var bits NotifyBits
		for _, item := range strings.Split(string(AppendLower(nil, in)), ",") {
			bits |= map[string]NotifyBits{"never": 1, "success": 2, "failure": 4, "delay": 8, "": 128}[item]
			if strings.Trim(item, "abcdefghijklmnopqrstuvwxyz") != "" || bits == 0 {
				bits |= 128
			}
		}
		if got, err := ParseNotify(in); err == nil && (got != bits || bits&1 != 0 && bits != 1) {
			t.Fatalf("ParseNotify(%q) = %d, %v, want %d", in, got, err, bits)
		}
		if name, err := ParseHello(in); err == nil && (len(name) == 0 || bytes.ContainsAny(name, " \t\r\n\x00<>")) {
			t.Fatalf("ParseHello(%q) = %q", in, name)
		}
		ParseLimits(in)
	})
}
