package session

import (
	"bytes"
	"fmt"
	"math/rand"
	"strings"
	"testing"
	"time"

	"odmr/codec"
	"odmr/internal/mail"
)

// newScenarioProvider reads starttls, tls-required, secured, hostname, mechanisms, max-errors and max-auth-errors.
func newScenarioProvider(t *testing.T, sc *scenario) Session {
	cfg := ProviderConfig{
		Hostname:      "mail.isp.example",
		MaxErrors:     int(sc.number(t, "max-errors", 0)),
		MaxAuthErrors: int(sc.number(t, "max-auth-errors", 0)),
	}.Defaults()
	if v, ok := sc.value("hostname"); ok {
		cfg.Hostname = v
	}
	cfg.MaxCommands = int(sc.number(t, "max-commands", 0))
	cfg.StartTLS, cfg.TLSPolicy = scenarioTLS(t, sc)
	p := NewProvider(&cfg)
	p.Offer([]string{"CRAM-MD5"})
	if _, ok := sc.value("secured"); ok {
		p.Secured()
	}
	if v, ok := sc.value("mechanisms"); ok {
		p.Offer(strings.Fields(v))
	}
	return p
}

func TestProviderScenarios(t *testing.T) { runScenarios(t, "provider", newScenarioProvider) }

// providerDialogue drives a Provider. Its peer sends bursts; completions come between bursts.
type providerDialogue struct {
	t       testing.TB
	p       *Provider
	out     Output
	log     bytes.Buffer // replies and actions
	replies bytes.Buffer
	unread  []byte
	pending *Action
	over    bool // ActClose or ActTurn
	auth    bool // a Done has authenticated
	turned  bool
}

func newProviderDialogue(t testing.TB) *providerDialogue {
	cfg := ProviderConfig{Hostname: "mail.isp.example", MaxAuthErrors: 5}.Defaults()
	d := &providerDialogue{t: t, p: NewProvider(&cfg)}
	d.p.Offer([]string{"CRAM-MD5", "PLAIN"})
	d.call(func() { d.p.Start(0, &d.out) })
	return d
}

// call runs one call of the machine and checks what it asks for.
func (d *providerDialogue) call(f func()) {
	d.out.Reset()
	f()
	if d.over && len(d.out.Reply)+len(d.out.Acts) > 0 {
		d.t.Fatalf("goes on after its end: %q %+v", d.out.Reply, d.out.Acts)
	}
	if len(d.out.Reply) > providerBurst+codec.MaxDomain+200 {
		d.t.Fatalf("%d octets of reply at once", len(d.out.Reply))
	}
	d.replies.Write(d.out.Reply)
	d.log.Write(d.out.Reply)
	for _, a := range d.out.Acts {
		if d.over {
			d.t.Fatalf("kind %d after the last action", a.Kind)
		}
		fmt.Fprintf(&d.log, "{%d %q %q %v %q %q}\n", a.Kind, a.Mechanism, a.Data, a.HasData, a.Domains, a.Reason)
		switch a.Kind {
		case ActRelease:
			d.pending = nil
		case ActAuth, ActAcquire, ActAwait:
			if d.pending != nil {
				d.t.Fatal("two actions in flight")
			}
			d.pending = &a
		case ActTurn:
			if !d.auth || len(d.unread) > 0 {
				d.t.Fatalf("turned: authenticated %v, unread %q", d.auth, d.unread)
			}
			d.turned, d.over = true, true
		case ActClose:
			d.over = true
		}
	}
}

// pump calls Input until nothing moves.
func (d *providerDialogue) pump() {
	for len(d.unread) > 0 && !d.over {
		lent, n := bytes.Clone(d.unread), 0
		d.call(func() { n = d.p.Input(0, lent, &d.out) })
		for i := range lent {
			lent[i] = 0xAA
		}
		if n == 0 {
			return
		}
		d.unread = d.unread[n:]
	}
}

// send hands octets over and completes nothing.
func (d *providerDialogue) send(b []byte) {
	d.unread = append(d.unread, b...)
	d.pump()
}

// complete answers the action in flight; what it says follows from what was asked.
func (d *providerDialogue) complete() bool {
	if d.pending == nil || d.over {
		return false
	}
	a := d.pending
	d.pending = nil
	r := &Result{}
	switch {
	case a.Kind == ActAcquire && len(a.Domains) > 3:
		r.Refusal = &mail.Refusal{Code: 453, Text: "You have no mail"}
	case a.Kind == ActAcquire && len(a.Domains)%2 == 1:
		r.Refusal = &mail.Refusal{Code: 450, Text: "ATRN request refused"}
	case a.Kind == ActAcquire && len(a.Domains) == 2:
		r.Wait = 20 * time.Second
	case a.Kind == ActAcquire:
	case bytes.HasPrefix(a.Data, []byte("tim")):
		r.AuthDone, r.Account = true, "tim"
		d.auth = true
	case a.HasData:
		r.Refusal = &mail.Refusal{Code: 535, Enhanced: "5.7.8", Text: "no"}
	default:
		r.Challenge = []byte("challenge")
	}
	d.call(func() { d.p.Done(0, a.Ticket, r, &d.out) })
	d.pump()
	return true
}

// play sends script, in which a "|" separates bursts, cut by cuts within each.
func (d *providerDialogue) play(script []byte, cuts *rand.Rand) {
	for burst := range bytes.SplitSeq(script, []byte{'|'}) {
		for len(burst) > 0 {
			n := len(burst)
			if cuts != nil {
				n = min(n, 1+cuts.Intn(1<<cuts.Intn(8)))
			}
			d.send(burst[:n])
			burst = burst[n:]
		}
		for d.complete() {
		}
	}
}

// FuzzProvider: however the octets are cut into reads, the dialogue is the same; every reply line is
// well-formed; nothing panics.
func FuzzProvider(f *testing.F) {
	for _, s := range []string{
		"EHLO example.org\r\n|AUTH CRAM-MD5\r\n|dGltIDAw\r\n|ATRN example.org,example.com\r\n|220 hi\r\n",
		"AUTH PLAIN dGlt\r\nATRN\r\n",
		"AUTH PLAIN dGlt\r\n|ATRN\r\nQUIT\r\n|QUIT\r\n",
		"AUTH PLAIN =\r\n|AUTH PLAIN\r\n|*\r\n|AUTH PLAIN\r\n|!\r\n|QUIT\r\n",
		"NOOP\nNO\rOP\r\nN\x00\r\n\r\n" + strings.Repeat("x", 13000) + "\r\nRSET\r\nQUIT\r\nNOOP\r\n",
		strings.Repeat("NOOP\r\n", 2000) + strings.Repeat("X\r\n", 30),
		"AUTH PLAIN dGlt\r\n|ATRN example.org\r\n|ATRN\r\n|",
		"AUTH PLAIN dGlt\r\n|ATRN example.org\r\nX|X",
		"AUTH PLAIN dGlt\r\n|ATRN a.example,b.example\r\n220 early\r\n|X",
		"ATRN\r\nMAIL FROM:<>\r\nSTARTTLS\r\nEHLO x\r\n|HELO [1.2.3.4]\r\n",
		"AUTH CRAM-MD5\r\n|" + strings.Repeat("A", 12286) + "\r\n|AUTH CRAM-MD5\r\n|" + strings.Repeat("A", 12287) + "\r\n",
	} {
		f.Add([]byte(s), int64(1))
	}
	f.Fuzz(func(t *testing.T, script []byte, seed int64) {
		whole, cut := newProviderDialogue(t), newProviderDialogue(t)
		whole.play(script, nil)
		cut.play(script, rand.New(rand.NewSource(seed)))
		if a, b := whole.replies.String(), cut.replies.String(); a != b {
			t.Errorf("whole:\n%s\ncut:\n%s", a, b)
		}
		if whole.turned != cut.turned || whole.p.State() != cut.p.State() || whole.p.EndReason() != cut.p.EndReason() {
			t.Errorf("whole ends %s %q, cut %s %q", whole.p.State(), whole.p.EndReason(), cut.p.State(), cut.p.EndReason())
		}
		for line := range strings.SplitSeq(strings.TrimSuffix(whole.replies.String(), "\r\n"), "\r\n") {
			if len(line) < 4 || len(line) > mail.MaxReplyLine || strings.ContainsAny(line, "\r\n\x00") || line[3] != ' ' && line[3] != '-' {
				t.Errorf("reply line %q", line)
			}
		}
	})
}

// The longest line of an exchange is 12288 octets with CRLF (RFC 4954 4).
func TestProviderLongestAuthLine(t *testing.T) {
	for _, c := range []struct {
		length int // without CRLF
		want   string
	}{{12284, "535 5.7.8"}, {12286, "501 5.5.2"}, {12287, "500 5.5.6"}, {99999, "500 5.5.6"}} {
		d := newProviderDialogue(t)
		d.play([]byte("AUTH CRAM-MD5\r\n|"+strings.Repeat("A", c.length)+"\r\n|NOOP\r\n"), nil)
		lines := strings.Split(d.replies.String(), "\r\n")
		if len(lines) != 5 || !strings.HasPrefix(lines[2], c.want) || !strings.HasPrefix(lines[3], "250 ") {
			t.Errorf("%d octets: %q", c.length, lines[1:])
		}
	}
}

// A customer that pipelines without reading makes a bounded reply; all commands are answered in the end.
func TestProviderReplyIsBounded(t *testing.T) {
	d := newProviderDialogue(t)
	const n = 5000
	d.play(bytes.Repeat([]byte("EHLO example.org\r\n"), n), nil)
	if got := strings.Count(d.replies.String(), "250 ATRN\r\n"); got != n {
		t.Errorf("%d replies to %d commands", got, n)
	}
}

// What a peer sent as its secret is not kept once it has been judged.
func TestProviderForgetsSecrets(t *testing.T) {
	for _, secret := range []string{"dGltIHNlY3JldA==", "eHh4IHNlY3JldA=="} {
		d := newProviderDialogue(t)
		d.play([]byte("AUTH CRAM-MD5\r\n"), nil)
		d.send([]byte(secret + "\r\n"))
		lent := d.pending.Data
		if !bytes.HasSuffix(lent, []byte("secret")) {
			t.Fatalf("response %q", lent)
		}
		for d.complete() {
		}
		if bytes.Contains(lent, []byte("secret")) || bytes.Contains(d.p.data[:cap(d.p.data)], []byte("secret")) {
			t.Errorf("the response is still there: %q", lent)
		}
	}
}

// Completions that nobody waits for any more change nothing.
func TestProviderStaleDone(t *testing.T) {
	d := newProviderDialogue(t)
	d.send([]byte("AUTH CRAM-MD5\r\n"))
	done := func(ticket uint32, r *Result) { d.call(func() { d.p.Done(0, ticket, r, &d.out) }) }
	done(99, &Result{AuthDone: true, Account: "mallory"})
	done(0, &Result{AuthDone: true, Account: "mallory"})
	if d.p.Account() != "" || d.p.State() != "login" {
		t.Fatalf("a foreign ticket counted: %s %q", d.p.State(), d.p.Account())
	}
	ticket := d.pending.Ticket
	d.call(func() { d.p.Stop(0, &d.out) })
	done(ticket, &Result{AuthDone: true, Account: "mallory"})
	if d.p.Account() != "" || d.p.State() != "closed" || d.p.Deadline() != Never {
		t.Errorf("%s %q, deadline %d", d.p.State(), d.p.Account(), d.p.Deadline())
	}
	if n := d.p.Input(0, []byte("NOOP\r\n"), &d.out); n != 6 {
		t.Errorf("a closed session leaves octets: %d", n)
	}
}

// The turn hands the connection over: nothing that comes afterwards is this machine's.
func TestProviderAfterTurn(t *testing.T) {
	d := newProviderDialogue(t)
	d.play([]byte("AUTH CRAM-MD5\r\n|dGltIDAw\r\n|ATRN\r\n"), nil)
	for d.complete() {
	}
	if !d.turned || d.p.State() != "turned" || d.p.Account() != "tim" || d.p.EndReason() != "turn" || d.p.Deadline() != Never {
		t.Fatalf("%s %q %q", d.p.State(), d.p.Account(), d.p.EndReason())
	}
	d.call(func() {
		if n := d.p.Input(0, []byte("220 hi\r\n"), &d.out); n != 0 {
			t.Errorf("took %d octets of the customer's greeting", n)
		}
	})
	d.call(func() { d.p.Tick(Never-1, &d.out) })
	d.call(func() { d.p.Stop(0, &d.out) })
	d.call(func() { d.p.End(0, &d.out) })
}
