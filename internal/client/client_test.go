package client

import (
	"bufio"
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/md5"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"strings"
	"testing"
	"time"

	"odmr/internal/mail"
)

const testTimeout = 5 * time.Minute

// provider is the other end of a Customer in these tests: it speaks RFC 2645 up to the turn
// and gives the connection to then. What then returns is sent to the channel.
func provider(t *testing.T, atrn string, then func(net.Conn) error) (addr string, done <-chan error) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	ch := make(chan error, 1)
	go func() {
		conn, err := l.Accept()
		if err != nil {
			ch <- err
			return
		}
		defer conn.Close()
		_ = conn.SetDeadline(time.Now().Add(testTimeout))
		ch <- func() error {
			if turned, err := untilTurn(conn, atrn); err != nil || !turned {
				return err
			}
			return then(conn)
		}()
	}()
	return l.Addr().String(), ch
}

func untilTurn(conn net.Conn, atrn string) (turned bool, err error) {
	r := bufio.NewReader(conn)
	fmt.Fprint(conn, "220 mail.isp.example ODMR\r\n")
	const challenge = "<1896.697170952@mail.isp.example>"
	for {
		line, err := r.ReadString('\n')
		if err != nil {
			return false, err
		}
		switch verb, _, _ := strings.Cut(strings.TrimSpace(line), " "); verb {
		case "EHLO":
			fmt.Fprint(conn, "250-mail.isp.example\r\n250-AUTH CRAM-MD5\r\n250 ATRN\r\n")
		case "AUTH":
			fmt.Fprintf(conn, "334 %s\r\n", base64.StdEncoding.EncodeToString([]byte(challenge)))
			line, err := r.ReadString('\n')
			if err != nil {
				return false, err
			}
			mac := hmac.New(md5.New, []byte("tanstaaf"))
			mac.Write([]byte(challenge))
			want := base64.StdEncoding.EncodeToString([]byte("tim " + hex.EncodeToString(mac.Sum(nil))))
			if strings.TrimSpace(line) != want {
				fmt.Fprint(conn, "535 5.7.8 no\r\n")
				continue
			}
			fmt.Fprint(conn, "235 2.7.0 ok\r\n")
		case "ATRN":
			fmt.Fprintf(conn, "%s\r\n", atrn)
			if strings.HasPrefix(atrn, "250") {
				if r.Buffered() > 0 {
					return false, errors.New("the customer pipelined behind ATRN")
				}
				return true, nil
			}
		case "QUIT":
			fmt.Fprint(conn, "221 bye\r\n")
			return false, nil
		}
	}
}

var tim = Account{User: "tim", Password: "tanstaaf", Domains: []string{"example.org", "example.com"}}

func envelope(from string, to ...string) mail.Envelope {
	env := mail.Envelope{ReversePath: from}
	for _, a := range to {
		env.Recipients = append(env.Recipients, mail.Recipient{Address: a})
	}
	return env
}

// sendAll makes a provider's second half that hands in messages and says QUIT.
func sendAll(opts SenderOptions, receipts *[]*Receipt, messages ...Message) func(net.Conn) error {
	return func(conn net.Conn) error {
		s, err := NewSender(context.Background(), conn, opts)
		if err != nil {
			return err
		}
		for i := range messages {
			r, err := s.Send(&messages[i])
			if err != nil {
				return err
			}
			*receipts = append(*receipts, r)
		}
		return s.Quit()
	}
}

var contents = []string{
	"",
	"Subject: one\r\n\r\nhello\r\n",
	".\r\n",
	"..\r\n.dot\r\n\r\n.\r\n",
	"Subject: x\r\n\r\n.\r\n..\r\n...\r\nend.\r\n",
	"cr\rin\r\r\n.line\r\n",
	strings.Repeat("a long line of 8-bit: \xe4\xf6\xfc ", 5000) + "\r\n",
	strings.Repeat(".stuffed\r\n", 20000),
}

func TestCollect(t *testing.T) {
	for _, transfer := range []Transfer{ByDATA, ByBDAT} {
		for _, chunk := range []int{7, 4096, 0} {
			t.Run(fmt.Sprintf("transfer %d chunk %d", transfer, chunk), func(t *testing.T) {
				var messages []Message
				for _, c := range contents {
					if len(c) > 5000 && chunk == 7 {
						continue
					}
					env := envelope("a@mx.example", "b@example.org", "c@example.com")
					env.Size = int64(len(c))
					env.Body = mail.Body8BitMIME
					env.Ret, env.EnvID = mail.ReturnHeaders, "QQ+2B"
					env.Recipients[1].Notify = mail.NotifySuccess | mail.NotifyDelay
					env.Recipients[1].ORcpt = "rfc822;d@example.com"
					messages = append(messages, Message{Envelope: env, Content: strings.NewReader(c)})
				}
				var receipts []*Receipt
				opts := SenderOptions{Transfer: transfer, Chunk: chunk}
				addr, done := provider(t, "250 OK now reversing", sendAll(opts, &receipts, messages...))
				rec := &Recorder{Keep: 1 << 20}
				stats, err := Collect(t.Context(), addr, tim, Options{Offer: FullOffer(), Timeout: testTimeout}, rec)
				if err != nil {
					t.Fatal(err)
				}
				if err := <-done; err != nil {
					t.Fatal(err)
				}
				got := rec.Messages()
				if len(got) != len(messages) || stats.Messages != len(messages) || !stats.Quit || len(stats.Breaches) > 0 {
					t.Fatalf("%d messages, stats %+v", len(got), stats)
				}
				for i, m := range got {
					if !receipts[i].Accepted() {
						t.Errorf("message %d: %v", i, receipts[i].Refusal())
					}
					if want := contents[i]; string(m.Content) != want {
						t.Errorf("message %d: content differs: %.60q for %.60q", i, m.Content, want)
					}
					if !slices.Equal(m.Envelope.Recipients, messages[i].Envelope.Recipients) {
						t.Errorf("message %d: recipients %+v", i, m.Envelope.Recipients)
					}
					if m.Envelope.EnvID != "QQ+2B" || m.Envelope.Ret != mail.ReturnHeaders || m.Envelope.ReversePath != "a@mx.example" {
						t.Errorf("message %d: envelope %+v", i, m.Envelope)
					}
				}
			})
		}
	}
}

func TestCollectWithoutExtensions(t *testing.T) {
	var receipts []*Receipt
	env := envelope("", "b@example.org")
	env.Size, env.Body, env.EnvID = 4, mail.Body8BitMIME, "x"
	addr, done := provider(t, "250 go", sendAll(SenderOptions{}, &receipts, Message{env, strings.NewReader("x\r\n")}))
	rec := &Recorder{Keep: 100}
	stats, err := Collect(t.Context(), addr, tim, Options{Timeout: testTimeout}, rec)
	if err != nil || <-done != nil || stats.Messages != 1 || len(stats.Breaches) > 0 {
		t.Fatalf("%+v %v", stats, err)
	}
	if e := rec.Messages()[0].Envelope; e.Size != 0 || e.EnvID != "" || e.ReversePath != "" {
		t.Errorf("parameters were sent that nobody offered: %+v", e)
	}
}

func TestRefusals(t *testing.T) {
	for _, code := range []int{450, 451, 453, 502, 530} {
		addr, _ := provider(t, fmt.Sprintf("%d no", code), nil)
		_, err := Collect(t.Context(), addr, tim, Options{Timeout: testTimeout}, Discard{})
		if code == 453 {
			if err != nil {
				t.Errorf("453 means that nothing waits, got %v", err)
			}
		} else if Code(err) != code {
			t.Errorf("want code %d, got %v", code, err)
		}
	}
	addr, _ := provider(t, "250 go", nil)
	_, err := Collect(t.Context(), addr, Account{User: "tim", Password: "wrong"}, Options{Timeout: testTimeout}, Discard{})
	if Code(err) != 535 {
		t.Errorf("wrong password: %v", err)
	}
}

type picky struct{ Recorder }

func (*picky) Recipient(_ *mail.Envelope, r mail.Recipient) error {
	switch {
	case strings.HasPrefix(r.Address, "no@"):
		return &mail.Refusal{Code: 550, Enhanced: "5.1.1", Text: "no such user"}
	case strings.HasPrefix(r.Address, "later@"):
		return errors.New("disk on fire")
	}
	return nil
}

func TestVerdicts(t *testing.T) {
	for _, transfer := range []Transfer{ByDATA, ByBDAT} {
		for _, lockstep := range []bool{false, true} {
			var receipts []*Receipt
			big := strings.Repeat("0123456789abcde\r\n", 100)
			messages := []Message{
				{envelope("a@x.example", "no@example.org", "yes@example.org", "later@example.org"), strings.NewReader("one\r\n")},
				{envelope("a@x.example", "no@example.org"), strings.NewReader("two\r\n")},
				{envelope("a@x.example", "yes@example.org"), strings.NewReader(big)},
				{envelope("a@x.example", "yes@example.org"), strings.NewReader("last\r\n")},
			}
			addr, done := provider(t, "250 go", sendAll(SenderOptions{Transfer: transfer, Chunk: 256, LockStep: lockstep}, &receipts, messages...))
			offer := FullOffer()
			offer.Size = 1000
			rec := &picky{Recorder{Keep: 100}}
			stats, err := Collect(t.Context(), addr, tim, Options{Offer: offer, Timeout: testTimeout}, rec)
			if err != nil {
				t.Fatal(err)
			}
			if err := <-done; err != nil {
				t.Fatal(err)
			}
			if stats.Messages != 2 || stats.Refused != 1 {
				t.Errorf("stats %+v", stats)
			}
			codes := []int{receipts[0].Recipients[0].Code, receipts[0].Recipients[1].Code, receipts[0].Recipients[2].Code, receipts[2].Final[0].Code}
			if !slices.Equal(codes, []int{550, 250, 451, 552}) {
				t.Errorf("codes %v", codes)
			}
			got := rec.Messages()
			if len(got) != 2 || len(got[0].Envelope.Recipients) != 1 || string(got[1].Content) != "last\r\n" {
				t.Errorf("got %+v", got)
			}
		}
	}
}

// TestCuts cuts the line at every point and checks on which side of the commit that was.
func TestCuts(t *testing.T) {
	for _, transfer := range []Transfer{ByDATA, ByBDAT} {
		for p := AtGreeting; p <= AtQUIT; p++ {
			for _, cut := range []Cut{CutBefore, CutAfter} {
				if p == AtHELO || p == AtRSET || p == AtNOOP ||
					transfer == ByDATA && (p == AtBDAT || p == AtChunk) || transfer == ByBDAT && (p == AtDATA || p == AtBDAT && cut == CutAfter) {
					continue
				}
				t.Run(fmt.Sprintf("transfer %d %v cut %d", transfer, p, cut), func(t *testing.T) {
					var receipts []*Receipt
					msg := Message{envelope("a@x.example", "b@example.org"), strings.NewReader(strings.Repeat("line\r\n", 100))}
					addr, done := provider(t, "250 go", sendAll(SenderOptions{Transfer: transfer, Chunk: 100}, &receipts, msg))
					rec := &Recorder{}
					hook := func(e Event) Response {
						if e.Point == p {
							return Response{Cut: cut}
						}
						return Response{}
					}
					_, err := Collect(t.Context(), addr, tim, Options{Offer: FullOffer(), Hook: hook, Timeout: testTimeout}, rec)
					quitAnswered := p == AtQUIT && cut == CutAfter
					if !errors.Is(err, ErrLost) {
						t.Fatalf("cut at %v: %v", p, err)
					}
					if perr := <-done; (perr == nil) != quitAnswered {
						t.Errorf("the provider saw %v", perr)
					}
					committed := p > AtDot && p != AtRSET || p == AtDot && cut == CutAfter
					if (len(rec.Messages()) == 1) != committed {
						t.Errorf("%d messages committed", len(rec.Messages()))
					}
				})
			}
		}
	}
}

// raw runs a provider that writes out at once after the greeting and reads until the end.
func raw(t *testing.T, offer Offer, out string) Stats {
	t.Helper()
	addr, _ := provider(t, "250 go", func(conn net.Conn) error {
		if _, err := bufio.NewReader(conn).ReadString('\n'); err != nil {
			return err
		}
		_, _ = io.WriteString(conn, out)
		_, err := io.Copy(io.Discard, conn)
		return err
	})
	hook := func(e Event) Response { return Response{Delay: 30 * time.Millisecond} }
	stats, _ := Collect(t.Context(), addr, tim, Options{Offer: offer, Hook: hook, Timeout: testTimeout}, &Recorder{})
	return stats
}

func TestBreaches(t *testing.T) {
	full := FullOffer()
	for _, c := range []struct {
		name  string
		offer Offer
		out   string
		want  string
	}{
		{"pipelined without leave", Offer{}, "EHLO x\r\nMAIL FROM:<>\r\nRCPT TO:<a@b.example>\r\nQUIT\r\n", "behind EHLO"},
		{"body before 354", full, "EHLO x\r\nMAIL FROM:<>\r\nRCPT TO:<a@b.example>\r\nDATA\r\nhello\r\n.\r\nQUIT\r\n", "behind DATA"},
		{"BODY not offered", Offer{Pipelining: true}, "EHLO x\r\nMAIL FROM:<> BODY=8BITMIME\r\nQUIT\r\n", "BODY"},
		{"no EHLO", full, "MAIL FROM:<>\r\nQUIT\r\n", "before EHLO"},
		{"nested", full, "EHLO x\r\nMAIL FROM:<>\r\nMAIL FROM:<>\r\nQUIT\r\n", "inside a transaction"},
		{"too many messages", Offer{Pipelining: true, MailMax: 1}, "EHLO x\r\nMAIL FROM:<>\r\nRSET\r\nMAIL FROM:<>\r\nQUIT\r\n", "MAILMAX"},
		{"unknown", full, "EHLO x\r\nATRN\r\nQUIT\r\n", "unknown command"},
		{"extensions after HELO", full, "HELO x\r\nMAIL FROM:<> SIZE=3\r\nQUIT\r\n", "SIZE"},
	} {
		t.Run(c.name, func(t *testing.T) {
			stats := raw(t, c.offer, c.out)
			if !strings.Contains(strings.Join(stats.Breaches, "\n"), c.want) {
				t.Errorf("breaches %q do not say %q", stats.Breaches, c.want)
			}
		})
	}
}

func TestContextAndTimeout(t *testing.T) {
	silent := func(conn net.Conn) error { _, err := io.Copy(io.Discard, conn); return err }
	addr, _ := provider(t, "250 go", silent)
	_, err := Collect(t.Context(), addr, tim, Options{Timeout: 50 * time.Millisecond}, Discard{})
	if !errors.Is(err, ErrTimeout) {
		t.Errorf("a silent provider: %v", err)
	}
	addr, _ = provider(t, "250 go", silent)
	ctx, cancel := context.WithCancel(t.Context())
	hook := func(Event) Response { time.AfterFunc(10*time.Millisecond, cancel); return Response{} }
	_, err = Collect(ctx, addr, tim, Options{Hook: hook}, Discard{})
	if !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
}

func TestTranscriptHidesSecrets(t *testing.T) {
	var receipts []*Receipt
	msg := Message{envelope("a@x.example", "b@example.org"), strings.NewReader("private\r\n")}
	addr, done := provider(t, "250 go", sendAll(SenderOptions{}, &receipts, msg))
	var b strings.Builder
	show := func(from Side, line string) { fmt.Fprintf(&b, "%d %s\n", from, line) }
	if _, err := Collect(t.Context(), addr, tim, Options{Transcript: show, Timeout: testTimeout}, Discard{}); err != nil || <-done != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"0 AUTH CRAM-MD5\n", "0 [response to the challenge]\n", "0 ATRN example.org,example.com\n", "1 [9 octets of content]\n1 .\n", "0 221 "} {
		if !strings.Contains(b.String(), want) {
			t.Errorf("no %q in\n%s", want, &b)
		}
	}
	if strings.Contains(b.String(), "private") || strings.Contains(b.String(), base64.StdEncoding.EncodeToString([]byte("tim "))) {
		t.Errorf("secrets in\n%s", &b)
	}
}

func unstuff(t *testing.T, wire string, cuts ...int) (content, rest string, ended bool) {
	t.Helper()
	var d dotReader
	var out bytes.Buffer
	put := func(b []byte) { out.Write(b) }
	at := 0
	for _, c := range append(cuts, len(wire)) {
		for at < c && !d.done() {
			n := d.feed([]byte(wire[at:c]), put)
			if n == 0 {
				t.Fatalf("no progress at %d of %q", at, wire)
			}
			at += n
		}
	}
	return out.String(), wire[at:], d.done()
}

func TestDotReader(t *testing.T) {
	for _, c := range []struct{ wire, content, rest string }{
		{".\r\nQUIT", "", "QUIT"},
		{"a\r\n.\r\nQ", "a\r\n", "Q"},
		{"a\r\n..\r\n.\r\n", "a\r\n.\r\n", ""},
		{"a\r\r\n.\r\n", "a\r\r\n", ""},                       // \r\r\n.\r\n does end the data
		{"a\r\n.\rX\r\n.\r\n", "a\r\n\rX\r\n", ""},            // .\rX keeps its CR
		{"a\n.\nb\r\n.\r\n", "a\n.\nb\r\n", ""},               // LF.LF does not
		{"a\n.\r\nb\r\n.\r\n", "a\n.\r\nb\r\n", ""},           // LF.CRLF does not
		{"a\r\n.\nb\r\n.\r\n", "a\r\n\nb\r\n", ""},            // CRLF.LF does not
		{"a\r.\rb\r\n.\r\n", "a\r.\rb\r\n", ""},               // CR.CR does not
		{"a\r\n.\r.\r\n.\r\n", "a\r\n\r.\r\n", ""},            // and not this
		{"\r\n.\r\r\n.\r\n", "\r\n\r\r\n", ""},                // a dot, two CR
		{"\r\n\r\n\r\n.x\r\n.\r\n", "\r\n\r\n\r\nx\r\n", ""},  // empty lines
		{"x\r\n.\r\n.\r\nRSET\r\n", "x\r\n", ".\r\nRSET\r\n"}, // not a bit further
	} {
		for i := 0; i <= len(c.wire); i++ {
			for j := i; j <= len(c.wire); j++ {
				content, rest, ended := unstuff(t, c.wire, i, j)
				if content != c.content || rest != c.rest || !ended {
					t.Fatalf("%q cut at %d, %d: %q, rest %q, ended %v", c.wire, i, j, content, rest, ended)
				}
			}
		}
	}
}

// FuzzDots checks that what the Sender stuffs the Customer unstuffs, whatever the cutting.
func FuzzDots(f *testing.F) {
	for _, c := range contents {
		f.Add([]byte(c[:min(len(c), 200)]), 3)
	}
	f.Fuzz(func(t *testing.T, content []byte, step int) {
		if step < 1 {
			step = 1
		}
		var wire bytes.Buffer
		w := &wire2{&wire}
		d := dotWriter{w: w.wire()}
		for b := content; len(b) > 0; {
			n := min(step, len(b))
			if _, err := d.Write(b[:n]); err != nil {
				t.Fatal(err)
			}
			b = b[n:]
		}
		if err := d.finish(); err != nil {
			t.Fatal(err)
		}
		_ = d.w.w.Flush()
		want := string(content)
		if want != "" && !strings.HasSuffix(want, "\r\n") {
			want += "\r\n"
		}
		got, rest, ended := unstuff(t, wire.String(), len(content)/2)
		if got != want || rest != "" || !ended {
			t.Fatalf("%q came as %q, rest %q", want, got, rest)
		}
	})
}

type wire2 struct{ out *bytes.Buffer }

func (w *wire2) wire() *wire { return &wire{w: bufio.NewWriter(w.out), ctx: context.Background()} }
