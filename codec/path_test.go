package codec

import (
	"errors"
	"fmt"
	"regexp"
	"strings"
	"testing"
	"unicode/utf8"
)

// describe writes a parsed path and its parameters, or the error, in one line.
func describe(p Path, params *Params, err error) string {
	if err != nil {
		var syntax *SyntaxError
		if !errors.As(err, &syntax) || syntax == nil {
			return fmt.Sprintf("an error that is no SyntaxError: %v", err)
		}
		return fmt.Sprintf("%d %s %s", syntax.Code, syntax.Enhanced, syntax.Text)
	}
	s := fmt.Sprintf("%s|%s|%s", p.Addr, p.Local, p.Domain)
	for i := range params.Len() {
		s += " " + string(params.At(i).Key)
		if params.At(i).HasValue {
			s += "=" + string(params.At(i).Value)
		}
	}
	return s
}

func errText(e *SyntaxError) string { return describe(Path{}, nil, e) }

func TestParseMail(t *testing.T) {
	local128 := strings.Repeat("l", MaxLocalPart)
	domain125 := strings.Repeat("d", 61) + "." + strings.Repeat("d", 63) // 128 + 1 + 125 = MaxPath
	tests := []struct{ in, want string }{
		{"FROM:<a@b.example>", "a@b.example|a|b.example"},
		{"from:<a@b.example>", "a@b.example|a|b.example"},
		{"FROM: <a@b.example>", "a@b.example|a|b.example"},
		{"FROM:<>", "||"},
		{"FROM:<> SIZE=10", "|| SIZE=10"},
		{"FROM:<a@b.example>  SIZE=10   body=8bitmime ", "a@b.example|a|b.example SIZE=10 body=8bitmime"},
		{"FROM:<@x.example,@y.example:a@b.example>", "a@b.example|a|b.example"},
		{"FROM:<@x.example:a@b.example>", "a@b.example|a|b.example"},
		{`FROM:<"a b>@\"c"@b.example>`, `"a b>@\"c"@b.example|"a b>@\"c"|b.example`},
		{`FROM:<""@b.example>`, `""@b.example|""|b.example`},
		{"FROM:<a@[192.0.2.1]>", "a@[192.0.2.1]|a|[192.0.2.1]"},
		{"FROM:<a@[IPv6:2001:db8::1]>", "a@[IPv6:2001:db8::1]|a|[IPv6:2001:db8::1]"},
		{"FROM:<a..b.@b.example>", "a..b.@b.example|a..b.|b.example"},
		{"FROM:<prvs=1234+x/y=z@b.example>", "prvs=1234+x/y=z@b.example|prvs=1234+x/y=z|b.example"},
		{"FROM:<root@my_host.example>", "root@my_host.example|root|my_host.example"},
		{"FROM:<a@localhost>", "a@localhost|a|localhost"},
		{"FROM:<j\u00f6rg@b\u00fccher.example> SMTPUTF8", "j\u00f6rg@b\u00fccher.example|j\u00f6rg|b\u00fccher.example SMTPUTF8"},
		{"FROM:<" + local128 + "@" + domain125 + ">", local128 + "@" + domain125 + "|" + local128 + "|" + domain125},

		{"", errText(ErrMailSyntax)},
		{"FROM", errText(ErrMailSyntax)},
		{"FROM:", errText(ErrMailSyntax)},
		{"TO:<a@b.example>", errText(ErrMailSyntax)},
		{"FROM :<a@b.example>", errText(ErrMailSyntax)},
		{"FROM:a@b.example", errText(ErrMailSyntax)},
		{"FROM:<a@b.example>SIZE=10", errText(ErrMailSyntax)},
		{"FROM:<a@b.example>>", errText(ErrMailSyntax)},
		{"FROM:<>>", errText(ErrMailSyntax)},
		{"FROM:<", errText(ErrReversePath)},
		{"FROM:<a", errText(ErrReversePath)},
		{"FROM:<a@b.example", errText(ErrReversePath)},
		{"FROM:<a@b.example SIZE=10", errText(ErrReversePath)},
		{"FROM:<a>", errText(ErrReversePath)},
		{"FROM:<postmaster>", errText(ErrReversePath)},
		{"FROM:<@b.example>", errText(ErrReversePath)},
		{"FROM:<a@>", errText(ErrReversePath)},
		{"FROM:<a@b@c.example>", errText(ErrReversePath)},
		{"FROM:<a b@c.example>", errText(ErrReversePath)},
		{"FROM:< a@b.example>", errText(ErrReversePath)},
		{"FROM:<a@b.example >", errText(ErrReversePath)},
		{"FROM:<<a@b.example>>", errText(ErrReversePath)},
		{"FROM:<a@b..example>", errText(ErrReversePath)},
		{"FROM:<a@b.example.>", errText(ErrReversePath)},
		{"FROM:<a@-b.example>", errText(ErrReversePath)},
		{"FROM:<a@[192.0.2.256]>", errText(ErrReversePath)},
		{"FROM:<a@[192.0.2.1>", errText(ErrReversePath)},
		{`FROM:<"a@b.example>`, errText(ErrReversePath)},
		{`FROM:<"a"b@b.example>`, errText(ErrReversePath)},
		{"FROM:<\"a\x7f\"@b.example>", errText(ErrReversePath)},
		{"FROM:<a\xff@b.example>", errText(ErrReversePath)},
		{"FROM:<@x.example:>", errText(ErrReversePath)},
		{"FROM:<@x.example,a@b.example>", errText(ErrReversePath)},
		{"FROM:<@:a@b.example>", errText(ErrReversePath)},
		{"FROM:<" + local128 + "l@b.example>", errText(ErrReversePathLong)},
		{"FROM:<" + local128 + "@" + domain125 + "d>", errText(ErrReversePathLong)},
		{"FROM:<" + strings.Repeat("x", 3000) + "@b.example>", errText(ErrReversePathLong)},
		{"FROM:<a@" + strings.Repeat("x.", 1000) + "example>", errText(ErrReversePathLong)},

		// Parameters: values, and which fault counts.
		{"FROM:<a@b.example> AUTH=<>", "a@b.example|a|b.example AUTH=<>"},
		{"FROM:<a@b.example> AUTH=e+3Dmc2@example.com", "a@b.example|a|b.example AUTH=e+3Dmc2@example.com"},
		{"FROM:<a@b.example> AUTH=+", errText(ErrMailAuth)},
		{"FROM:<a@b.example> AUTH=+3", errText(ErrMailAuth)},
		{"FROM:<a@b.example> AUTH=+3d", errText(ErrMailAuth)},
		{"FROM:<a@b.example> AUTH", errText(ErrMailAuth)},
		{"FROM:<a@b.example> SIZE", errText(ErrSize)},
		{"FROM:<a@b.example> SIZE=", errText(ErrParamSyntax)},
		{"FROM:<a@b.example> SIZE=-1", errText(ErrSize)},
		{"FROM:<a@b.example> SIZE=99999999999999999999", "a@b.example|a|b.example SIZE=99999999999999999999"},
		{"FROM:<a@b.example> SIZE=1 SIZE=2", errText(ErrParamDuplicate)},
		{"FROM:<a@b.example> SIZE=1 size=1", errText(ErrParamDuplicate)},
		{"FROM:<a@b.example> SIZE=1 SIZE", errText(ErrParamDuplicate)},
		{"FROM:<a@b.example> X X", errText(ErrParamDuplicate)},
		{"FROM:<a@b.example> BODY=9BIT SIZE=x", errText(ErrBody)},
		{"FROM:<a@b.example> SIZE=x BODY=9BIT", errText(ErrSize)},
		{"FROM:<a@b.example> SIZE=x SIZE=x", errText(ErrSize)},
		{"FROM:<a@b.example> BODY=BINARYMIME", errText(ErrBinaryMIME)},
		{"FROM:<a@b.example> RET=ALL", errText(ErrRet)},
		{"FROM:<a@b.example> ENVID=a+ZZ", errText(ErrEnvID)},
		{"FROM:<a@b.example> ENVID=" + strings.Repeat("x", 101), errText(ErrEnvID)},
		{"FROM:<a@b.example> SMTPUTF8=1", errText(ErrSMTPUTF8)},
		{"FROM:<a@b.example> RET=HDRS ENVID=QQ+2B X-Y=Z", "a@b.example|a|b.example RET=HDRS ENVID=QQ+2B X-Y=Z"},
		{"FROM:<a@b.example> -X=1", errText(ErrParamSyntax)},
		{"FROM:<a@b.example> =1", errText(ErrParamSyntax)},
		{"FROM:<a@b.example> X=1=2", errText(ErrParamSyntax)},
		{"FROM:<a@b.example> X=\x01", errText(ErrParamSyntax)},
		{"FROM:<a@b.example> X=\xff", errText(ErrParamSyntax)},
		{"FROM:<a@b.example> X=\u00e9", "a@b.example|a|b.example X=\u00e9"},
		{"FROM:<a@b.example> X_Y=1", errText(ErrParamSyntax)},
		{"FROM:<a@b.example> a b c d e f g h i j k l m n o p", "a@b.example|a|b.example a b c d e f g h i j k l m n o p"},
		{"FROM:<a@b.example> a b c d e f g h i j k l m n o p q", errText(ErrParamCount)},
	}
	var params Params // reused, as a session does
	for _, test := range tests {
		p, err := ParseMail([]byte(test.in), &params)
		if got := describe(p, &params, err); got != test.want {
			t.Errorf("%q: %s\nwant %s", test.in, got, test.want)
		}
	}
}

func TestParseRcpt(t *testing.T) {
	tests := []struct{ in, want string }{
		{"TO:<a@b.example>", "a@b.example|a|b.example"},
		{"to: <a@b.example> notify=never", "a@b.example|a|b.example notify=never"},
		{"TO:<postmaster>", "postmaster|postmaster|"},
		{"TO:<PostMaster> NOTIFY=DELAY", "PostMaster|PostMaster| NOTIFY=DELAY"},
		{"TO:<postmaster@b.example>", "postmaster@b.example|postmaster|b.example"},
		{"TO:<@x.example:a@b.example>", "a@b.example|a|b.example"},
		{"TO:<a@b.example> NOTIFY=SUCCESS,FAILURE ORCPT=rfc822;a+2Bb@b.example", "a@b.example|a|b.example NOTIFY=SUCCESS,FAILURE ORCPT=rfc822;a+2Bb@b.example"},

		{"TO:<>", errText(ErrForwardPath)},
		{"TO:<a>", errText(ErrForwardPath)},
		{"TO:<postmaster@>", errText(ErrForwardPath)},
		{"TO:<postmasters>", errText(ErrForwardPath)},
		{"TO:<\"postmaster\">", errText(ErrForwardPath)},
		{"TO:<" + strings.Repeat("x", 129) + "@b.example>", errText(ErrForwardPathLong)},
		{"TO:a@b.example", errText(ErrRcptSyntax)},
		{"FROM:<a@b.example>", errText(ErrRcptSyntax)},
		{"TO:<a@b.example> NOTIFY=NEVER,DELAY", errText(ErrNotify)},
		{"TO:<a@b.example> NOTIFY", errText(ErrNotify)},
		{"TO:<a@b.example> ORCPT=a@b.example", errText(ErrOrcpt)},
		{"TO:<a@b.example> ORCPT", errText(ErrOrcpt)},
	}
	var params Params
	for _, test := range tests {
		p, err := ParseRcpt([]byte(test.in), &params)
		if got := describe(p, &params, err); got != test.want {
			t.Errorf("%q: %s\nwant %s", test.in, got, test.want)
		}
	}
}

func TestParamsGet(t *testing.T) {
	var params Params
	p, err := ParseMail([]byte("FROM:<j\u00f6rg@b.example> Size=10 SMTPUTF8"), &params)
	if err != nil || !p.NonASCII() || p.Null() {
		t.Fatal(p, err)
	}
	if param, ok := params.Get("SIZE"); !ok || string(param.Value) != "10" || !param.HasValue || !param.Is("SIZE") {
		t.Errorf("SIZE: %+v, %v", param, ok)
	}
	if param, ok := params.Get("SMTPUTF8"); !ok || param.HasValue {
		t.Errorf("SMTPUTF8: %+v, %v", param, ok)
	}
	if _, ok := params.Get("BODY"); ok || params.Len() != 2 {
		t.Error("a parameter that is not there")
	}
	// After an error there is nothing left of the command before.
	if _, err := ParseMail([]byte("FROM:"), &params); err == nil || params.Len() != 0 {
		t.Errorf("%v, %d parameters", err, params.Len())
	}
}

// The grammar of a path once more, as a pattern over valid UTF-8.
var (
	patternLocal = `(?:"(?:[^"\\\x00-\x1f\x7f]|\\[ -~])*"|[A-Za-z0-9!#$%&'*+/=?^_\x60{|}~.\x{80}-\x{10ffff}-]+)`
	patternPath  = regexp.MustCompile(`^(?i:FROM:)[ \t]*<(?:@[^,:>]+(?:,@[^,:>]+)*:)?(?:(` + patternLocal + `)@([^>]*))?>(?:[ \t].*)?$`)
)

func FuzzParseMail(f *testing.F) {
	for _, seed := range []string{
		"FROM:<a@b.example> SIZE=10 BODY=8BITMIME", "FROM:<>", `FROM:<"a\"b"@[192.0.2.1]> AUTH=+`, "FROM: <@x,@y:j\u00f6rg@b\u00fc.example> SMTPUTF8",
		"FROM:<a@[IPv6:::1]> RET=FULL ENVID=x+2B", "FROM:<a@b> X=1 X=2",
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, in []byte) {
		var params, again Params
		p, err := ParseMail(in, &params)
		match := patternPath.FindSubmatch(in)
		if err != nil {
			var syntax *SyntaxError
			if !errors.As(err, &syntax) || syntax.Code == 0 || syntax.Enhanced == "" {
				t.Fatalf("%q: %#v", in, err)
			}
			// Nothing may be refused as a bad path that the grammar and the checks of domains let through.
			if err == ErrReversePath && match != nil && utf8.Valid(in) && match[1] != nil && string(match[2]) != "" &&
				(validMailDomain(match[2]) || validLiteral(match[2])) && in[strings.IndexByte(string(in), '<')+1] != '@' {
				t.Fatalf("%q: refused, although it is one", in)
			}
			return
		}
		if utf8.Valid(in) && (match == nil || string(match[1]) != string(p.Local) || string(match[2]) != string(p.Domain)) {
			t.Fatalf("%q: %s, the pattern says %q", in, describe(p, &params, err), match)
		}
		if !p.Null() && string(p.Addr) != string(p.Local)+"@"+string(p.Domain) {
			t.Fatalf("%q: parts do not make the address: %s", in, describe(p, &params, err))
		}
		// What was accepted is accepted again when written down plainly.
		plain := "FROM:<" + string(p.Addr) + ">"
		for i := range params.Len() {
			param := params.At(i)
			if plain += " " + string(param.Key); param.HasValue {
				plain += "=" + string(param.Value)
			}
			if got, ok := params.Get(strings.ToUpper(string(param.Key))); !ok || string(got.Key) != string(param.Key) {
				t.Fatalf("%q: Get(%q) = %+v", in, param.Key, got)
			}
		}
		p2, err2 := ParseMail([]byte(plain), &again)
		if got, want := describe(p2, &again, err2), describe(p, &params, nil); got != want {
			t.Fatalf("%q: %s, written down %q: %s", in, want, plain, got)
		}
	})
}

func FuzzParseRcpt(f *testing.F) {
	for _, seed := range []string{"TO:<postmaster>", "TO:<a@b.example> NOTIFY=SUCCESS,DELAY ORCPT=utf-8;\\x{E9}", "TO:<>"} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, in []byte) {
		var params, mailParams Params
		p, err := ParseRcpt(in, &params)
		if err != nil {
			var syntax *SyntaxError
			if !errors.As(err, &syntax) {
				t.Fatalf("%q: %#v", in, err)
			}
			return
		}
		if p.Null() || len(p.Domain) == 0 && !strings.EqualFold(string(p.Local), "postmaster") {
			t.Fatalf("%q: accepted as %+v", in, p)
		}
		// But for <postmaster>, a path that is good for RCPT is good for MAIL.
		if m, err := ParseMail([]byte("FROM:<"+string(p.Addr)+">"), &mailParams); len(p.Domain) > 0 && (err != nil || string(m.Addr) != string(p.Addr)) {
			t.Fatalf("%q: MAIL says %v", in, err)
		}
	})
}

func BenchmarkParseMail(b *testing.B) {
	in := []byte("FROM:<some.sender@mail.example.org> SIZE=123456 BODY=8BITMIME RET=HDRS ENVID=QQ314159")
	var params Params
	for b.Loop() {
		if _, err := ParseMail(in, &params); err != nil {
			b.Fatal(err)
		}
	}
}
