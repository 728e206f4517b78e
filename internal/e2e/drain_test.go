package e2e

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"odmr/internal/client"
	"odmr/internal/mail"
)

// offers are the customers' servers that a drain must get along with.
var offers = map[string]client.Offer{
	"lock-step": {},
	"pipelined": {Pipelining: true, DeclareSize: true, EightBit: true},
	"chunked":   {Pipelining: true, Chunking: true, EightBit: true},
	"all":       client.FullOffer(),
}

// TestRoundTrip hands every kind of content in by every way and collects it by every way: it
// must come byte for byte, with its envelope, in order.
func TestRoundTrip(t *testing.T) {
	var accounts []client.Account
	for name := range offers {
		accounts = append(accounts, customer(name, name+".example"))
	}
	s := startServer(t, accounts, "--max-message-size", "25MiB")
	var recipients []string
	for name := range offers {
		recipients = append(recipients, "one@"+name+".example", "Two.Words@"+name+".EXAMPLE")
	}
	ways := []struct {
		name string
		addr string
		opts client.SenderOptions
	}{
		{"smtp", s.SMTP, client.SenderOptions{}},
		{"smtp-lockstep", s.SMTP, client.SenderOptions{LockStep: true}},
		{"smtp-bdat", s.SMTP, client.SenderOptions{Transfer: client.ByBDAT, Chunk: 100_003}},
		{"lmtp", s.LMTP, client.SenderOptions{Protocol: client.LMTP}},
		{"lmtp-bdat", s.LMTP, client.SenderOptions{Protocol: client.LMTP, Transfer: client.ByBDAT, Chunk: 7000}},
	}
	var want [][]byte
	for _, w := range ways {
		var messages []client.Message
		for kind := range kinds {
			for _, size := range []int{500, 60_000, 600_000} {
				id := fmt.Sprintf("%s-%d-%d", w.name, kind, size)
				m := message(id, kind, size, recipients...)
				m.Envelope.Ret, m.Envelope.EnvID = mail.ReturnHeaders, "id+2B"+id
				for i := 1; i < len(recipients); i += 2 {
					m.Envelope.Recipients[i].Notify = mail.NotifyFailure | mail.NotifyDelay
					m.Envelope.Recipients[i].ORcpt = "rfc822;old+40x.example"
				}
				messages = append(messages, m)
				want = append(want, content(id, kind, size))
			}
		}
		handIn(t, w.addr, w.opts, messages...)
	}
	for name, offer := range offers {
		t.Run(name, func(t *testing.T) {
			rec := &client.Recorder{Keep: 1 << 20}
			stats := collectAs(t, s, customer(name), offer, rec)
			got := rec.Messages()
			if len(got) != len(want) || !stats.Quit {
				t.Fatalf("%d messages of %d, stats %+v", len(got), len(want), stats)
			}
			for i, m := range got {
				if !bytes.Equal(original(t, m.Content), want[i]) {
					t.Errorf("message %d (%s) came altered", i, idOf(t, m.Content))
				}
				checkEnvelope(t, name, idOf(t, want[i]), offer, &m.Envelope)
			}
		})
	}
	for name := range offers {
		if stats := collect(t, s, customer(name), &client.Recorder{}); stats.Messages != 0 {
			t.Errorf("%s: %d messages came again", name, stats.Messages)
		}
	}
	if n := s.metric("odmr_queue_messages"); n != 0 {
		t.Errorf("%v messages are left in the queue", n)
	}
}

func checkEnvelope(t *testing.T, name, id string, offer client.Offer, env *mail.Envelope) {
	t.Helper()
	want := []string{"one@" + name + ".example", "Two.Words@" + name + ".EXAMPLE"}
	if got := addresses(env); !slices.Equal(got, want) {
		t.Errorf("%s: recipients %q", id, got)
	}
	if env.ReversePath != "sender+"+id+"@mx.example" {
		t.Errorf("%s: reverse-path %q", id, env.ReversePath)
	}
	if offer.DSN && (env.EnvID != "id+2B"+id || env.Ret != mail.ReturnHeaders) {
		t.Errorf("%s: ENVID %q, RET %d", id, env.EnvID, env.Ret)
	}
	second := mail.Recipient{Address: want[1]}
	if offer.DSN {
		second.Notify, second.ORcpt = mail.NotifyFailure|mail.NotifyDelay, "rfc822;old+40x.example"
	}
	if len(env.Recipients) == 2 && env.Recipients[1] != second {
		t.Errorf("%s: second recipient %+v", id, env.Recipients[1])
	}
}

// TestATRN goes through the answers of RFC 2645 5.2.1 on a real connection.
func TestATRN(t *testing.T) {
	s := startServer(t, []client.Account{customer("tim", "example.org", "example.com"), customer("eve", "evil.example")})
	c := greeted(t, s)
	for _, ext := range []string{"AUTH", "ATRN"} {
		if _, ok := c.Extension(ext); !ok {
			t.Errorf("%s is not offered", ext)
		}
	}
	step := func(want int, domains ...string) {
		t.Helper()
		err := c.ATRN(domains...)
		if got := client.Code(err); got != want && (want != 250 || err != nil) {
			t.Errorf("ATRN %q: want %d, got %v", domains, want, err)
		}
	}
	step(530)
	if err := c.Login("tim", "wrong"); client.Code(err) != 535 {
		t.Errorf("wrong password: %v", err)
	}
	if err := c.Login("tim", password); err != nil {
		t.Fatal(err)
	}
	step(453)
	step(453, "example.org")
	step(450, "example.org", "evil.example", "example.com")
	step(450, "unknown.example")
	handIn(t, s.SMTP, client.SenderOptions{}, message("one", kindText, 100, "a@example.com"))
	step(450, "example.com", "evil.example")
	step(453, "example.org")
	step(250, "EXAMPLE.org", "Example.COM")
	rec := &client.Recorder{Keep: 1000}
	if stats, err := c.Serve(rec); err != nil || stats.Messages != 1 {
		t.Errorf("%+v, %v", stats, err)
	}
}

// TestArrivesWhileDraining checks that mail which comes during a session goes out in it.
func TestArrivesWhileDraining(t *testing.T) {
	a := customer("tim", "example.org")
	s := startServer(t, []client.Account{a})
	handIn(t, s.SMTP, client.SenderOptions{}, message("m0", kindText, 100, "a@example.org"))
	rec := &client.Recorder{Keep: 1000}
	rec.OnCommit = func(*client.Received) error {
		if n := len(rec.Messages()); n < 5 {
			handIn(t, s.LMTP, client.SenderOptions{Protocol: client.LMTP}, message(fmt.Sprintf("m%d", n+1), kindText, 100, "a@example.org"))
		}
		return nil
	}
	collect(t, s, a, rec)
	for i, m := range rec.Messages() {
		if id := idOf(t, m.Content); id != fmt.Sprintf("m%d", i) {
			t.Errorf("message %d is %s", i, id)
		}
	}
	if n := len(rec.Messages()); n != 6 {
		t.Errorf("%d messages", n)
	}
}

// TestBusyDomain checks that a domain is drained by one session at a time, and with --on-busy refuse by the first.
func TestBusyDomain(t *testing.T) {
	a := customer("tim", "example.org", "example.com")
	s := startServer(t, []client.Account{a}, "--on-busy", "refuse")
	handIn(t, s.SMTP, client.SenderOptions{}, message("one", kindText, 100, "a@example.org"), message("two", kindText, 100, "a@example.com"))
	rec := &client.Recorder{Keep: 1000}
	rec.OnCommit = func(*client.Received) error {
		_, err := client.Collect(t.Context(), s.ODMR, a, client.Options{Timeout: patience}, &client.Recorder{})
		if client.Code(err) != 451 {
			t.Errorf("a second session for a busy domain: %v", err)
		}
		return nil
	}
	only := a
	only.Domains = []string{"example.org"}
	if stats := collect(t, s, only, rec); stats.Messages != 1 {
		t.Errorf("first session: %+v", stats)
	}
	rec.OnCommit = nil
	if stats := collect(t, s, a, rec); stats.Messages != 1 {
		t.Errorf("the lease was not given back: %+v", stats)
	}
}

// verdicts refuses recipients by their names.
type verdicts struct{ client.Recorder }

func (*verdicts) Recipient(_ *mail.Envelope, r mail.Recipient) error {
	switch {
	case strings.HasPrefix(r.Address, "gone"):
		return &mail.Refusal{Code: 550, Enhanced: "5.1.1", Text: "no such user"}
	case strings.HasPrefix(r.Address, "full"):
		return &mail.Refusal{Code: 452, Enhanced: "4.2.2", Text: "mailbox full"}
	}
	return nil
}

// TestOutcomes checks what becomes of each recipient: 2xx done, 4xx comes again for those recipients
// only, 5xx never comes again and is kept for its bounce.
func TestOutcomes(t *testing.T) {
	a := customer("tim")
	for name := range offers {
		a.Domains = append(a.Domains, name+".example")
	}
	s := startServer(t, []client.Account{a})
	for name, offer := range offers {
		t.Run(name, func(t *testing.T) {
			only := a
			only.Domains = []string{name + ".example"}
			at := "@" + name + ".example"
			handIn(t, s.SMTP, client.SenderOptions{},
				message("mixed", kindText, 1000, "ok"+at, "gone"+at, "full"+at, "ok2"+at),
				message("gone", kindText, 1000, "gone"+at),
				message("full", kindText, 1000, "full"+at),
				message("last", kindText, 1000, "ok"+at))
			rec := &verdicts{client.Recorder{Keep: 5000}}
			collectAs(t, s, only, offer, rec)
			checkReceived(t, rec.Messages(), "mixed: ok"+at+" ok2"+at, "last: ok"+at)
			again := &client.Recorder{Keep: 5000}
			collect(t, s, only, again)
			checkReceived(t, again.Messages(), "mixed: full"+at, "full: full"+at)
			if stats := collect(t, s, only, again); stats.Messages != 0 {
				t.Errorf("after all: %+v", stats)
			}
			out, err := s.odmrctl("queue", "list", "--domain", only.Domains[0])
			if err != nil || len(queueID.FindAllString(out, -1)) != 2 {
				t.Errorf("the two messages with a refused recipient are not kept: %v\n%s", err, out)
			}
		})
	}
}

func checkReceived(t *testing.T, got []*client.Received, want ...string) {
	t.Helper()
	var have []string
	for _, m := range got {
		have = append(have, idOf(t, m.Content)+": "+strings.Join(addresses(&m.Envelope), " "))
	}
	if !slices.Equal(have, want) {
		t.Errorf("received %q, want %q", have, want)
	}
}

// TestDeferredMessage checks that a message which is refused for now waits for the next session and those
// behind it go on, and that 421 ends the session without refusing anything.
func TestDeferredMessage(t *testing.T) {
	cases := []struct {
		name   string
		point  client.Point
		reply  string
		first  []string // come in the first session, in which message two meets the reply
		second []string
	}{
		{"4xx after the dot", client.AtDot, "451 4.3.2 later", []string{"m1", "m3"}, []string{"m2"}},
		{"5xx after the dot", client.AtDot, "554 5.6.0 never", []string{"m1", "m3"}, nil},
		{"4xx at MAIL", client.AtMAIL, "450 4.7.1 greylisted", []string{"m1", "m3"}, []string{"m2"}},
		{"421 after the dot", client.AtDot, "421 4.3.2 shutting down", []string{"m1"}, []string{"m2", "m3"}},
		{"421 at MAIL", client.AtMAIL, "421 4.3.2 shutting down", []string{"m1"}, []string{"m2", "m3"}},
		{"multi-line", client.AtDot, "250-2.0.0 taken\n250-2.0.0 really\n250 2.0.0 yes", []string{"m1", "m2", "m3"}, nil},
	}
	a := customer("tim")
	for i := range len(cases) * len(offers) {
		a.Domains = append(a.Domains, fmt.Sprintf("d%d.example", i))
	}
	s := startServer(t, []client.Account{a}, "--window-messages", "1")
	left := a.Domains
	for _, c := range cases {
		for name, offer := range offers {
			only := a
			only.Domains, left = left[:1], left[1:]
			t.Run(c.name+"/"+name, func(t *testing.T) {
				for i := range 3 {
					handIn(t, s.SMTP, client.SenderOptions{}, message(fmt.Sprintf("m%d", i+1), kindText, 100, "a@"+only.Domains[0]))
				}
				mails := 0
				hook := func(e client.Event) client.Response {
					if e.Point == client.AtMAIL {
						mails++
					}
					if e.Point == c.point && mails == 2 {
						return client.Response{Reply: c.reply, Cut: cutAfter421(c.reply)}
					}
					return client.Response{}
				}
				rec := &client.Recorder{Keep: 1000}
				_, err := client.Collect(t.Context(), s.ODMR, only, client.Options{Timeout: patience, Offer: offer, Hook: hook}, rec)
				if err != nil && !errors.Is(err, client.ErrLost) {
					t.Fatal(err)
				}
				if got := ids(t, rec); !slices.Equal(got, c.first) {
					t.Errorf("first session: %q, want %q", got, c.first)
				}
				rec = &client.Recorder{Keep: 1000}
				collect(t, s, only, rec)
				if got := ids(t, rec); !slices.Equal(got, c.second) {
					t.Errorf("second session: %q, want %q", got, c.second)
				}
			})
		}
	}
}

func cutAfter421(reply string) client.Cut {
	if strings.HasPrefix(reply, "421") {
		return client.CutAfter // RFC 5321 3.8: the server closes the channel
	}
	return client.CutNone
}

func ids(t testing.TB, r *client.Recorder) []string {
	t.Helper()
	var l []string
	for _, m := range r.Messages() {
		l = append(l, idOf(t, m.Content))
	}
	return l
}

// TestSizeLimitOfCustomer checks that a message over the customer's SIZE fails for good without being sent.
func TestSizeLimitOfCustomer(t *testing.T) {
	a := customer("tim", "example.org")
	s := startServer(t, []client.Account{a})
	handIn(t, s.SMTP, client.SenderOptions{}, message("big", kindText, 50_000, "a@example.org"), message("small", kindText, 100, "a@example.org"))
	offer := client.FullOffer()
	offer.Size = 20_000
	rec := &client.Recorder{Keep: 1000}
	if stats := collectAs(t, s, a, offer, rec); stats.Refused != 0 {
		t.Errorf("%+v", stats)
	}
	if got := ids(t, rec); !slices.Equal(got, []string{"small"}) {
		t.Errorf("received %q", got)
	}
}

// TestMailMax checks that LIMITS MAILMAX (RFC 9422) ends the session in order, and the rest comes next time.
func TestMailMax(t *testing.T) {
	a := customer("tim", "example.org")
	s := startServer(t, []client.Account{a})
	var messages []client.Message
	for i := range 5 {
		messages = append(messages, message(fmt.Sprintf("m%d", i), kindText, 100, "a@example.org"))
	}
	handIn(t, s.SMTP, client.SenderOptions{}, messages...)
	offer := client.FullOffer()
	offer.MailMax = 2
	for _, want := range []int{2, 2, 1, 0} {
		if stats := collectAs(t, s, a, offer, &client.Recorder{}); stats.Messages != want {
			t.Errorf("%+v; want %d messages", stats, want)
		}
	}
}

// TestOdmrget runs the customer's program.
func TestOdmrget(t *testing.T) {
	a := customer("tim", "example.org", "example.com")
	s := startServer(t, []client.Account{a})
	m := message("one", kindDots, 3000, "a@example.org", "b@example.org")
	handIn(t, s.LMTP, client.SenderOptions{Protocol: client.LMTP}, m)
	secret, maildir := filepath.Join(s.Dir, "secret"), filepath.Join(s.Dir, "Maildir")
	if err := os.WriteFile(secret, []byte(password+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	args := []string{"--server", s.ODMR, "--user", "tim", "--password-file", secret, "--maildir", maildir, "-v"}
	out, err := runProgram("", "odmrget", args...)
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	found, _ := filepath.Glob(maildir + "/new/*")
	if len(found) != 1 {
		t.Fatalf("%q\n%s", found, out)
	}
	got, err := os.ReadFile(found[0])
	if err != nil {
		t.Fatal(err)
	}
	top := "Return-Path: <sender+one@mx.example>\nDelivered-To: a@example.org\nDelivered-To: b@example.org\nX-Envelope-To: a@example.org,\n\tb@example.org\n"
	rest, ok := strings.CutPrefix(string(got), top)
	if !ok {
		t.Errorf("on top: %.500q", got)
	}
	want := strings.ReplaceAll(string(content("one", kindDots, 3000)), "\r\n", "\n")
	if string(original(t, []byte(rest))) != want {
		t.Error("the message came altered")
	}
	if out, err := runProgram("", "odmrget", args...); err != nil || !strings.Contains(out, "P: 453") {
		t.Errorf("with nothing waiting: %v\n%s", err, out)
	}
}
