package engine

import (
	"fmt"
	"io"
	"strings"
	"testing"
)

// endings are all that some server somewhere takes for the end of the data, the true one excepted.
func endings() []string {
	breaks := []string{"\n", "\r", "\r\n", "\r\r\n", "\n\r", "\r\x00\n", "\x00\r\n", "\x85", "\u2028", "\v", "\f"}
	var all []string
	for _, before := range breaks {
		for _, after := range breaks {
			if e := before + "." + after; !strings.Contains(e, "\r\n.\r\n") {
				all = append(all, e)
			}
		}
	}
	return append(all, "\r\n.\x00\r\n", "\r\n. \r\n", "\r\n.\t\r\n", "\r\n..\r\n", "\r\n.\r.\r\n", "\r\n.\n.\r\n", "\r\n\x00.\r\n")
}

// TestSmuggling hands in, behind each false end, a second message that a server which believes in it would take as one of its own
// (CVE-2023-51764, 51765, 51766), over SMTP and LMTP, in DATA and in chunks. None comes into being; and what a customer is
// given of the first has one end only, that of RFC 5321 4.1.1.4, and no CR or LF by itself, so that no server behind it can be
// deceived, either.
func TestSmuggling(t *testing.T) {
	s := newServer(t, withAccount("a", "a.example"), withAccount("b", "b.example"), withAccount("c", "c.example"))
	const smuggled = "MAIL FROM:<evil@evil.example>\r\nRCPT TO:<victim@b.example>\r\nDATA\r\nSubject: smuggled\r\n\r\nx"
	taken, tried := 0, 0
	for _, role := range []Role{SMTP, LMTP} {
		for _, chunked := range []bool{false, true} {
			for i, end := range endings() {
				content := fmt.Sprintf("Subject: %d\r\n\r\nfirst%s%s", i, end, smuggled)
				p := s.feed(role)
				p.ask("MAIL FROM:<x@y.example>", "250")
				p.ask("RCPT TO:<u@a.example>", "250")
				p.ask("RCPT TO:<u@c.example>", "250")
				if chunked {
					at := strings.Index(content, end) + 1 + i%len(end) // through the middle of it
					p.send(fmt.Sprintf("BDAT %d\r\n%sBDAT %d LAST\r\n%s", at, content[:at], len(content)-at, content[at:]) + "NOOP")
					p.expect("250")
				} else {
					p.ask("DATA", "354")
					p.send(content, ".", "NOOP")
				}
				tried++
				for range map[Role]int{SMTP: 1, LMTP: 2}[role] {
					switch l := p.line(); {
					case strings.HasPrefix(l, "250 2.0.0 Ok: queued"), strings.HasPrefix(l, "250 2.1.5"):
						taken++
					case !strings.HasPrefix(l, "554 5.6.0"):
						t.Fatalf("%s, chunks %v, %q: %q", role, chunked, end, l)
					}
				}
				p.expect("250 2.0.0 ") // NOOP's: there was one message
				p.ask("QUIT", "221")
				p.eof()
			}
		}
	}
	s.login("b").ask("ATRN", "453") // nothing is there
	if taken = taken / 3 * 2; taken < 20 || taken > tried {
		t.Errorf("%d of %d messages were taken", taken, tried)
	}
	for name, offer := range map[string][]string{"a": nil, "c": {"PIPELINING", "CHUNKING"}} {
		c := &customer{peer: s.login(name), offer: offer}
		wire := &strings.Builder{}
		c.r.Reset(io.TeeReader(c.Conn, wire))
		c.collect("ATRN")
		if len(c.got) != taken {
			t.Errorf("%s: %d messages of %d", name, len(c.got), taken)
		}
		for i, m := range c.got {
			if m.from != "x@y.example" || len(m.to) != 1 || m.to[0] != "u@"+name+".example" || !strings.HasSuffix(m.body, smuggled+"\r\n") {
				t.Errorf("%s: message %d: %+v", name, i, m)
			}
		}
		if strings.ContainsAny(strings.ReplaceAll(wire.String(), "\r\n", ""), "\r\n\x00") {
			t.Errorf("%s: a CR, LF or NUL by itself was sent", name)
		}
		if n := strings.Count(wire.String(), "\r\n.\r\n"); offer == nil && n != len(c.got) {
			t.Errorf("%s: %d ends of data for %d messages", name, n, len(c.got))
		}
	}
}
