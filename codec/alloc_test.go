package codec

import (
	"strings"
	"testing"
)

// TestNoAllocations runs everything that a session calls per command, per line and per read,
// faults included.
func TestNoAllocations(t *testing.T) {
	var (
		params Params
		buf    = make([]byte, 0, 64<<10)
		list   = make([][]byte, 0, 16)
		text   = []byte(strings.Repeat("Received: x\r\n.dotted line\r\nplain \xff line\r\n", 100))
	)
	b := func(s string) []byte { return []byte(s) }
	line, long, broken := b("MAIL FROM:<a@b.example> SIZE=1\r\n"), b(strings.Repeat("x", 600)), b("a\rb\r\n")
	mails := [][]byte{
		b(`FROM:<@x.example:"a b"@[IPv6:2001:db8::1]> SIZE=10 BODY=8BITMIME RET=HDRS ENVID=QQ+2B AUTH=<> SMTPUTF8`),
		b("FROM:<j\u00f6rg@b\u00fccher.example> X=1"), b("FROM:<>"), b("FROM:<a@b..c>"), b("FROM:<a@b> SIZE=x"), b("FROM"), b("FROM:<a@b> X X"),
	}
	rcpts := [][]byte{
		b("TO:<a@[192.0.2.1]> NOTIFY=SUCCESS,DELAY ORCPT=rfc822;a+2B@b.example"), b("TO:<postmaster> ORCPT=utf-8;\\x{F6}"), b("TO:<a@[x-tag:y]>"), b("TO:<a> NOTIFY=X"),
	}
	reply := b("250-mx.example\r\n250-SIZE 1000\r\n250-LIMITS MAILMAX=5\r\n250 2.0.0 ok\r\n")
	args := [][]byte{
		b("86 LAST"), b("CRAM-MD5"), b("PLAIN ="), b("NEVER"), b("SUCCESS,X"), b("client.example"), b("[192.0.2.1]"), b("YQ=="), b("Y?=="), b("a+2B"), b("+"),
		b("99999999999999999999"), b("example.org, example.com"), b("localhost"), b("FULL"), b("8BITMIME"), b("LIMITS MAILMAX=1"), b(""),
	}
	tests := map[string]func(){
		"NextLine":     func() { _, _, _ = NextLine(line, 512); _, _, _ = NextLine(long, 512); _, _, _ = NextLine(broken, 512) },
		"SkipLine":     func() { SkipLine(long); SkipLine(line) },
		"ParseCommand": func() { v, _ := ParseCommand(line); _ = v.String(); ParseCommand(long) },
		"ParseMail": func() {
			for _, in := range mails {
				p, _ := ParseMail(in, &params)
				params.Mail()
				params.Get("SIZE")
				p.NonASCII()
			}
		},
		"ParseRcpt": func() {
			for _, in := range rcpts {
				_, _ = ParseRcpt(in, &params)
				params.Rcpt()
				params.Get("ORCPT")
			}
		},
		"ParseSize": func() {
			for _, in := range args {
				_, _ = ParseSize(in)
			}
		},
		"ParseBody": func() {
			for _, in := range args {
				_, _ = ParseBody(in)
			}
		},
		"ParseRet": func() {
			for _, in := range args {
				_, _ = ParseRet(in)
			}
		},
		"ParseNotify": func() {
			for _, in := range args {
				_, _ = ParseNotify(in)
			}
		},
		"ParseHello": func() {
			for _, in := range args {
				_, _ = ParseHello(in)
			}
		},
		"ParseBDAT": func() {
			for _, in := range args {
				_, _, _ = ParseBDAT(in)
			}
		},
		"ParseAuth": func() {
			for _, in := range args {
				_, _, _, _ = ParseAuth(in)
			}
		},
		"ParseATRN": func() {
			for _, in := range args {
				_, _ = ParseATRN(in, list)
			}
		},
		"ParseLimits": func() {
			for _, in := range args {
				ParseLimits(in)
			}
		},
		"xtext": func() {
			for _, in := range args {
				ValidXtext(in, 100)
				_, _ = DecodeXtext(buf, in)
				AppendXtext(buf, in)
			}
		},
		"AppendBase64": func() {
			for _, in := range args {
				AppendBase64(buf, in)
			}
		},
		"DecodeBase64": func() { _, _ = DecodeBase64(buf, args[7]) },
		"AppendLower":  func() { AppendLower(buf, line); EqualFold(line, long) },
		"ValidDomain": func() {
			for _, in := range args {
				ValidDomain(in)
				validMailDomain(in)
			}
		},
		"NextReply": func() {
			r, _, _ := NextReply(reply, 512, 10)
			r.Enhanced()
			r.Line(2)
			_, _, _ = NextReply(reply, 20, 2)
		},
		"Reply.All": func() {
			r, _, _ := NextReply(reply, 512, 10)
			for l := range r.All() {
				CutKeyword(l)
			}
		},
		"AppendReply":      func() { AppendReply(buf, 250, "2.1.0", "Sender ok") },
		"AppendReplyLines": func() { AppendReplyLines(buf, 250, "mx.example", "PIPELINING", "DSN") },
		"DataScanner":      func() { var s DataScanner; s.Next(text); s.Reset() },
		"Stuffer":          func() { var s Stuffer; s.Append(buf, text); s.Finish(buf) },
		"Unstuffer":        func() { var u Unstuffer; u.Append(buf, text) },
		"HeaderScanner":    func() { var h HeaderScanner; h.Write(text) },
	}
	for name, run := range tests {
		t.Run(name, func(t *testing.T) {
			if allocs := testing.AllocsPerRun(100, run); allocs != 0 {
				t.Errorf("%v allocations", allocs)
			}
		})
	}
}
