package e2e

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"regexp"
	"strings"
	"testing"
	"time"

	"odmr/internal/client"
)

// talk sends in to addr, all at once or in pieces of step octets, and returns all that comes back
// until the server closes the connection or, if the input ends it with QUIT, has answered that.
func talk(t *testing.T, addr, in string, step int) string {
	t.Helper()
	conn, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(patience))
	go func() {
		for b := []byte(in); len(b) > 0; {
			n := len(b)
			if step > 0 {
				n = min(n, step)
			}
			if _, err := conn.Write(b[:n]); err != nil {
				return // the server has ended the session: the reading side sees why
			}
			b = b[n:]
		}
	}()
	out, err := io.ReadAll(bufio.NewReader(conn))
	if errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("the server left the connection open; it had said %q", tail(string(out), 500))
	}
	return string(out) // a reset after the last reply is the server's right
}

var replyLine = regexp.MustCompile(`^[2-5][0-9][0-9][ -]\S`)
var enhanced = regexp.MustCompile(`^([245])[0-9][0-9][ -]([245])\.[0-9]{1,3}\.[0-9]{1,3} `)

// codes reads a dialogue: the code of each reply. Each line must be a proper reply, and each refusal
// must bear a matching enhanced code, ATRN's own replies and those of RFC 5321's codes that have none excepted.
func codes(t *testing.T, out string) []string {
	t.Helper()
	if out == "" {
		return nil
	}
	if !strings.HasSuffix(out, "\r\n") {
		t.Errorf("the last reply has no end: %q", tail(out, 200))
	}
	var l []string
	for _, line := range strings.Split(strings.TrimSuffix(out, "\r\n"), "\r\n") {
		if !replyLine.MatchString(line) {
			t.Errorf("not a reply: %q", line)
			continue
		}
		if line[0] >= '4' {
			if m := enhanced.FindStringSubmatch(line); m == nil || m[1] != m[2] {
				if !strings.Contains(line, "ATRN") && line[:3] != "530" {
					t.Errorf("no enhanced code: %q", line)
				}
			}
		}
		if line[3] == ' ' {
			l = append(l, line[:3])
		}
	}
	return l
}

// TestBadInput sends what no client should, in one piece and in small ones. The answers must be
// the same in both cases, proper replies, and the server must live.
func TestBadInput(t *testing.T) {
	s := startServer(t, []client.Account{customer("tim", "example.org")})
	long := strings.Repeat("x", 100_000)
	hello, lhlo := "EHLO mx.example\r\n", "LHLO mx.example\r\n"
	tx := "MAIL FROM:<a@x.example>\r\nRCPT TO:<b@example.org>\r\n"
	quit := "QUIT\r\n"
	const behindAuth = "ODMR: pipelined behind AUTH"
	for _, c := range []struct {
		name string
		addr string
		in   string
		want string // codes
	}{
		{"unknown command", s.SMTP, hello + "FROBNICATE\r\n" + quit, "220 250 500 221"},
		{"empty lines", s.SMTP, "\r\n\r\n" + quit, "220 500 500 221"},
		{"long line", s.SMTP, hello + long + "\r\n" + quit, "220 250 500 221"},
		{"long MAIL", s.SMTP, hello + "MAIL FROM:<" + long + "@x.example>\r\n" + quit, "220 250 500 221"},
		{"NUL", s.SMTP, hello + "NO\x00OP\r\nMAIL FROM:<a\x00@x.example>\r\n" + quit, "220 250 500 500 221"},
		{"sequence", s.SMTP, tx + "DATA\r\n" + hello + "RCPT TO:<b@example.org>\r\nDATA\r\n" + quit, "220 503 503 503 250 503 503 221"},
		{"nested MAIL", s.SMTP, hello + tx + "MAIL FROM:<c@x.example>\r\n" + quit, "220 250 250 250 503 221"},
		{"foreign domain", s.SMTP, hello + "MAIL FROM:<a@x.example>\r\nRCPT TO:<b@elsewhere.example>\r\nRCPT TO:<b@example.org>\r\n" + quit, "220 250 250 550 250 221"},
		{"bad paths", s.SMTP, hello + "MAIL FROM:a@x.example\r\nMAIL FROM:<a@x.example\r\nMAIL TO:<a@x.example>\r\nMAIL\r\n" + quit, "220 250 501 501 501 501 221"},
		{"AUTH=+", s.SMTP, hello + "MAIL FROM:<a@x.example> AUTH=+\r\n" + quit, "220 250 501 221"},
		{"unknown parameter", s.SMTP, hello + "MAIL FROM:<a@x.example> FROB=1\r\n" + quit, "220 250 555 221"},
		{"parameter twice", s.SMTP, hello + "MAIL FROM:<a@x.example> SIZE=1 SIZE=2\r\n" + quit, "220 250 501 221"},
		{"SIZE over the limit", s.SMTP, hello + "MAIL FROM:<a@x.example> SIZE=999999999999\r\n" + quit, "220 250 552 221"},
		{"smuggling LF.LF", s.SMTP, hello + tx + "DATA\r\nhi\n.\nMAIL FROM:<evil@x.example>\r\n.\r\n" + quit, "220 250 250 250 354 554 221"},
		{"smuggling LF.CRLF", s.SMTP, hello + tx + "DATA\r\nhi\n.\r\nMAIL FROM:<evil@x.example>\r\n.\r\n" + quit, "220 250 250 250 354 554 221"},
		{"smuggling CRLF.LF", s.SMTP, hello + tx + "DATA\r\nhi\r\n.\nMAIL FROM:<evil@x.example>\r\n.\r\n" + quit, "220 250 250 250 354 554 221"},
		{"CRCRLF.CRLF ends", s.SMTP, hello + tx + "DATA\r\nhi\r\r\n.\r\n" + quit, "220 250 250 250 354 554 221"},
		{"refused BDAT swallows", s.SMTP, hello + "BDAT 6 LAST\r\nQUIT\r\n" + quit, "220 250 503 221"},
		{"BDAT nonsense", s.SMTP, hello + tx + "BDAT -1\r\n" + quit, "220 250 250 250 501"},
		{"no STARTTLS", s.SMTP, hello + "STARTTLSJUNK\r\n" + quit, "220 250 500 221"},
		{"LMTP: HELO", s.LMTP, "HELO x\r\nEHLO x\r\n" + lhlo + quit, "220 500 500 250 221"},
		{"SMTP: LHLO", s.SMTP, lhlo + hello + quit, "220 500 250 221"},
		{"ODMR: mail", s.ODMR, hello + tx + quit, "220 250 502 502 221"},
		{"ODMR: ATRN first", s.ODMR, hello + "ATRN example.org\r\n" + quit, "220 250 530 221"},
		{"ODMR: unknown mechanism", s.ODMR, hello + "AUTH ROT13\r\nAUTH\r\n" + quit, "220 250 504 501 221"},
		{behindAuth, s.ODMR, hello + "AUTH CRAM-MD5\r\n!!!\r\n" + quit, "220 250 554"},
	} {
		for _, step := range []int{0, 1, 7} {
			if step == 1 && len(c.in) > 1000 {
				continue
			}
			t.Run(fmt.Sprintf("%s in pieces of %d", c.name, step), func(t *testing.T) {
				out := talk(t, c.addr, c.in, step)
				got := strings.Join(codes(t, out), " ")
				if step > 0 && got == "220 250 334 501 221" && c.name == behindAuth {
					return // the challenge went out before the next piece was there: what followed was its answer, not pipelined
				}
				if got != c.want {
					t.Errorf("codes %s, want %s\n%s", got, c.want, tail(out, 1000))
				}
			})
		}
	}
}

// TestBadAuth: a broken SASL exchange is refused with its own code, and the session goes on.
func TestBadAuth(t *testing.T) {
	s := startServer(t, []client.Account{customer("tim", "example.org")})
	c, err := client.Dial(t.Context(), s.ODMR, client.Options{Timeout: patience})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	for _, step := range []struct {
		line string
		code int
	}{
		{"EHLO x", 250},
		{"AUTH CRAM-MD5", 334}, {"!!!", 501},
		{"AUTH CRAM-MD5", 334}, {"*", 501},
		{"AUTH CRAM-MD5", 334}, {"", 535},
		{"AUTH CRAM-MD5", 334}, {"dGlt", 535}, // a name and no digest
		{"AUTH CRAM-MD5", 334}, {strings.Repeat("x", 100_000), 500},
		{"AUTH CRAM-MD5 =", 501}, {"AUTH CRAM-MD5 dGlt", 501}, // CRAM-MD5 has no initial response
		{"NOOP", 250},
	} {
		r, err := c.Command(step.line)
		if err != nil || r.Code != step.code {
			t.Errorf("%.40q: %v, %v; want %d", step.line, r, err, step.code)
		}
		if r.Code >= 400 && r.Enhanced() == "" {
			t.Errorf("%.40q: no enhanced code: %v", step.line, r)
		}
	}
	if err := c.Login("tim", password); err != nil {
		t.Errorf("after all: %v", err)
	}
}

// TestErrorsAreBounded: a session that collects refusals is ended with 421, on every port.
func TestErrorsAreBounded(t *testing.T) {
	s := startServer(t, []client.Account{customer("tim", "example.org")})
	for name, addr := range map[string]string{"smtp": s.SMTP, "lmtp": s.LMTP, "odmr": s.ODMR} {
		out := talk(t, addr, strings.Repeat("FROBNICATE\r\n", 500), 0)
		got := codes(t, out)
		if len(got) == 0 || got[len(got)-1] != "421" || len(got) > 40 {
			t.Errorf("%s: %d replies, the last %q", name, len(got), tail(out, 200))
		}
	}
}

// TestManyRecipients: 10,000 RCPTs cost a clear reply each, and the message goes to those accepted.
func TestManyRecipients(t *testing.T) {
	a := customer("tim", "example.org")
	s := startServer(t, []client.Account{a})
	m := message("many", kindText, 1000)
	for i := range 10_000 {
		m.Envelope.Recipients = append(m.Envelope.Recipients, envelope("", fmt.Sprintf("u%d@example.org", i)).Recipients...)
	}
	c, err := client.DialSender(t.Context(), s.SMTP, client.SenderOptions{Timeout: patience, LockStep: true})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	r, err := c.Send(&m)
	if err != nil {
		// The server may end a session that goes on after so many refusals.
		if client.Code(err) != 421 {
			t.Fatal(err)
		}
		return
	}
	accepted := 0
	for i, x := range r.Recipients {
		if x.Positive() {
			accepted++
		} else if x.Code != 452 || x.Enhanced() != "4.5.3" {
			t.Fatalf("recipient %d: %v", i, x)
		}
	}
	if accepted < 100 || accepted == 10_000 || !r.Final[0].Positive() {
		t.Errorf("%d accepted, then %v", accepted, r.Final)
	}
	rec := &client.Recorder{}
	collect(t, s, a, rec)
	// It goes out in transactions of 100 recipients: a customer's server need not take more (RFC 5321 4.5.3.1.8).
	came := 0
	for _, m := range rec.Messages() {
		came += len(m.Envelope.Recipients)
		if n := len(m.Envelope.Recipients); n > 100 {
			t.Errorf("%d recipients in one transaction", n)
		}
	}
	if came != accepted {
		t.Errorf("%d recipients came of %d accepted", came, accepted)
	}
}

// TestUntrusted: a client outside of the trusted networks may not hand in mail.
func TestUntrusted(t *testing.T) {
	s := startServer(t, []client.Account{customer("tim", "example.org")}, "--trusted-networks", "192.0.2.0/24")
	out := talk(t, s.SMTP, "EHLO x\r\nMAIL FROM:<a@x.example>\r\nRCPT TO:<b@example.org>\r\nQUIT\r\n", 0)
	if !strings.Contains(out, "550 5.7.1") {
		t.Errorf("%q", out)
	}
}

// TestLoop: a message with more than 50 Received fields is refused (RFC 5321 6.3).
func TestLoop(t *testing.T) {
	s := startServer(t, []client.Account{customer("tim", "example.org")})
	for _, n := range []int{50, 51} {
		received := strings.Repeat("Received: from a by b; Thu, 01 Jan 2026 00:00:00 +0000\r\n", n)
		out := talk(t, s.SMTP, "EHLO x\r\nMAIL FROM:<a@x.example>\r\nRCPT TO:<b@example.org>\r\nDATA\r\n"+received+"\r\nhi\r\n.\r\nQUIT\r\n", 0)
		if refused := strings.Contains(out, "554 5.4.6"); refused != (n > 50) {
			t.Errorf("%d Received fields: %q", n, tail(out, 200))
		}
	}
}

// TestMaxMessageSize: exactly the limit is taken, one octet more is refused after it was drained.
func TestMaxMessageSize(t *testing.T) {
	const limit = 64 << 10
	a := customer("tim", "example.org")
	s := startServer(t, []client.Account{a}, "--max-message-size", "64KiB")
	for _, transfer := range []client.Transfer{client.ByDATA, client.ByBDAT} {
		for over := range 2 {
			c, err := client.DialSender(t.Context(), s.SMTP, client.SenderOptions{Timeout: patience, Transfer: transfer})
			if err != nil {
				t.Fatal(err)
			}
			if size, _ := c.Extension("SIZE"); size != fmt.Sprint(limit) {
				t.Errorf("SIZE %s", size)
			}
			body := "X-Test-Id: exact\r\n\r\n" + strings.Repeat(".", limit+over-22) + "\r\n"
			if len(body) != limit+over {
				t.Fatal(len(body))
			}
			r, err := c.Send(&client.Message{Envelope: envelope("", "a@example.org"), Content: strings.NewReader(body)})
			if err != nil {
				t.Fatal(err)
			}
			if over == 0 && !r.Accepted() || over == 1 && client.Code(r.Refusal()) != 552 {
				t.Errorf("transfer %d, %d over the limit: %v", transfer, over, r.Refusal())
			}
			if err := c.Quit(); err != nil {
				t.Errorf("after a message %d over the limit: %v", over, err)
			}
		}
	}
	rec := &client.Recorder{Keep: 2 * limit}
	if stats := collect(t, s, a, rec); stats.Messages != 2 {
		t.Errorf("%+v", stats)
	}
}

// TestPipelinedBehindATRN: octets that came behind ATRN without waiting end the session, and nothing is sent.
func TestPipelinedBehindATRN(t *testing.T) {
	a := customer("tim", "example.org")
	s := startServer(t, []client.Account{a})
	handIn(t, s.SMTP, client.SenderOptions{}, message("one", kindText, 100, "a@example.org"))
	c, err := loggedIn(t.Context(), s, a)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	r, err := c.Command("ATRN example.org\r\n220 me first")
	if err != nil || r.Code != 554 {
		t.Errorf("%v, %v", r, err)
	}
	if _, err := c.Command("NOOP"); err == nil {
		t.Error("the connection is still open")
	}
	if stats := collect(t, s, a, &client.Recorder{}); stats.Messages != 1 {
		t.Errorf("afterwards: %+v", stats)
	}
}

// TestSilentPeers: half-open connections are ended when their time is up, and cost nothing else.
func TestSilentPeers(t *testing.T) {
	s := startServer(t, []client.Account{customer("tim", "example.org")}, "--login-timeout", "1s", "--command-timeout", "1s")
	for name, addr := range map[string]string{"smtp": s.SMTP, "lmtp": s.LMTP, "odmr": s.ODMR} {
		for _, in := range []string{"", "EH", "EHLO x\r\n"} {
			if name == "lmtp" && len(in) > 2 {
				in = "LHLO x\r\n"
			}
			out := talk(t, addr, in, 0)
			if got := codes(t, out); len(got) == 0 || got[len(got)-1] != "421" {
				t.Errorf("%s after %q: %q", name, in, out)
			}
		}
	}
}

// TestSilentAfterTurn: a customer that never sends its 220 does not hold its domain for ever.
func TestSilentAfterTurn(t *testing.T) {
	a := customer("tim", "example.org")
	s := startServer(t, []client.Account{a}, "--greeting-timeout", "1s")
	handIn(t, s.SMTP, client.SenderOptions{}, message("one", kindText, 100, "a@example.org"))
	c, err := loggedIn(t.Context(), s, a)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if err := c.ATRN(); err != nil {
		t.Fatal(err)
	}
	if stats := collect(t, s, a, &client.Recorder{}); stats.Messages != 1 {
		t.Errorf("%+v", stats)
	}
}
