package engine

import (
	"bufio"
	"bytes"
	"context"
	"encoding/base64"
	"fmt"
	"io"
	"strings"
	"testing"
	"time"

	"odmr/internal/mail"
	"odmr/queue"
)

// deliver hands a message in over SMTP. body ends in CRLF.
func (p *peer) deliver(from, to, body string) {
	p.t.Helper()
	p.ask("MAIL FROM:<"+from+">", "250")
	for _, rcpt := range strings.Fields(to) {
		p.ask("RCPT TO:<"+rcpt+">", "250")
	}
	p.ask("DATA", "354")
	p.data(body)
	p.expect("250")
}

// data writes a body and its final dot.
func (p *peer) data(body string) {
	p.t.Helper()
	body = strings.ReplaceAll(body, "\r\n.", "\r\n..")
	if strings.HasPrefix(body, ".") {
		body = "." + body
	}
	if _, err := io.WriteString(p, body+".\r\n"); err != nil {
		p.t.Fatal(err)
	}
}

// feed connects as an MX.
func (s *server) feed(r Role) *peer {
	s.t.Helper()
	p := s.dial(r)
	p.expect("220")
	if r == LMTP {
		p.ask("LHLO mx.isp.example", "250")
	} else {
		p.ask("EHLO mx.isp.example", "250")
	}
	return p
}

// login connects as a customer and authenticates.
func (s *server) login(name string) *peer {
	s.t.Helper()
	p := s.dial(ODMR)
	p.expect("220")
	p.ask("EHLO customer.example", "250")
	p.ask("AUTH TEST "+base64.StdEncoding.EncodeToString([]byte(name)), "235")
	return p
}

// message is what a customer was given.
type message struct {
	from string
	to   []string
	body string // without the Received field that the server added
}

// customer is the server's side of a customer after the turn.
type customer struct {
	*peer
	offer   []string
	got     []message
	raw     *strings.Builder        // gets every body as it came; nil: not
	verdict func(m *message) string // the reply to the final dot; nil: 250
	gone    string                  // the recipient that there is not
}

// collect sends ATRN and takes mail until QUIT.
func (c *customer) collect(atrn string) {
	c.t.Helper()
	c.ask(atrn, "250")
	c.send("220 customer.example ready")
	for c.command() {
	}
	c.eof()
}

// toBody sends ATRN and takes commands up to the first body. DATA is answered; BDAT is left to be read.
func (c *customer) toBody() {
	c.t.Helper()
	c.ask("ATRN", "250")
	c.send("220 customer.example ready")
	for {
		switch b, _ := c.r.Peek(4); string(b) {
		case "DATA":
			c.line()
			c.send("354 go on")
			return
		case "BDAT":
			return
		}
		c.command()
	}
}

// command serves one command; false after QUIT.
func (c *customer) command() bool {
	c.t.Helper()
	line := c.line()
	verb, _, _ := strings.Cut(strings.ToUpper(line), " ")
	switch {
	case verb == "EHLO":
		lines := append([]string{"customer.example"}, c.offer...)
		for i, l := range lines {
			sep := "-"
			if i == len(lines)-1 {
				sep = " "
			}
			c.send("250" + sep + l)
		}
	case strings.HasPrefix(line, "MAIL FROM:<"):
		c.got = append(c.got, message{from: between(line)})
		c.send("250 2.1.0 ok")
	case strings.HasPrefix(line, "RCPT TO:<"):
		m := &c.got[len(c.got)-1]
		if to := between(line); to == c.gone {
			c.send("550 5.1.1 no such user")
			break
		}
		m.to = append(m.to, between(line))
		c.send("250 2.1.5 ok")
	case verb == "DATA":
		c.send("354 go on")
		c.took(c.dotted())
	case verb == "BDAT":
		var n int
		if _, err := fmt.Sscanf(line, "BDAT %d LAST", &n); err != nil {
			c.t.Fatalf("%q: %v", line, err)
		}
		b := make([]byte, n)
		if _, err := io.ReadFull(c.r, b); err != nil {
			c.t.Fatal(err)
		}
		c.took(string(b))
	case verb == "RSET", verb == "NOOP":
		c.send("250 ok")
	case verb == "QUIT":
		c.send("221 bye")
		return false
	default:
		c.t.Fatalf("unexpected %q", line)
	}
	return true
}

func between(line string) string {
	_, s, _ := strings.Cut(line, "<")
	s, _, _ = strings.Cut(s, ">")
	return s
}

// dotted reads up to the final dot and takes the stuffing out.
func (c *customer) dotted() string {
	c.t.Helper()
	var b strings.Builder
	for {
		l, err := c.r.ReadString('\n')
		if err != nil {
			c.t.Fatalf("in a body: %v", err)
		}
		if l == ".\r\n" {
			return b.String()
		}
		b.WriteString(strings.TrimPrefix(l, "."))
	}
}

func (c *customer) took(body string) {
	c.t.Helper()
	m := &c.got[len(c.got)-1]
	if c.raw != nil {
		c.raw.WriteString(body)
	}
	end := 0 // of our Received field
	for i := strings.Index(body, "\r\n"); ; i = end + strings.Index(body[end:], "\r\n") {
		end = i + 2
		if end >= len(body) || body[end] != '\t' {
			break
		}
	}
	if !strings.HasPrefix(body, "Received: from mx.isp.example") {
		c.t.Fatalf("no Received field: %.80q", body)
	}
	m.body = body[end:]
	reply := "250 2.0.0 taken"
	if c.verdict != nil {
		reply = c.verdict(m)
	}
	c.send(reply)
}

var fullOffer = []string{"PIPELINING", "CHUNKING", "SIZE", "8BITMIME", "DSN"}

func TestMailInAndOut(t *testing.T) {
	for name, offer := range map[string][]string{"plain": nil, "pipelining": {"PIPELINING"}, "all": fullOffer} {
		t.Run(name, func(t *testing.T) {
			s := newServer(t, withAccount("a", "a.example", "b.example"))
			mx := s.feed(SMTP)
			bodies := []string{
				"Subject: one\r\n\r\nhello\r\n",
				"Subject: dots\r\n\r\n.\r\n..\r\n.x\r\n",
				"\r\n",
				"Subject: long\r\n\r\n" + strings.Repeat(strings.Repeat("line ", 15)+"\r\n", 20000), // 1.5 MB
				"Subject: long dots\r\n\r\n" + strings.Repeat("."+strings.Repeat("dots ", 15)+"\r\n", 20000),
				"Subject: last\r\n\r\nbye\r\n",
			}
			for i, b := range bodies {
				mx.deliver("sender@elsewhere.example", fmt.Sprintf("u%d@a.example v@a.example", i), b)
			}
			mx.ask("QUIT", "221")

			c := &customer{peer: s.login("a"), offer: offer}
			c.collect("ATRN a.example,b.example")
			if len(c.got) != len(bodies) {
				t.Fatalf("%d messages, want %d", len(c.got), len(bodies))
			}
			for i, m := range c.got {
				if m.from != "sender@elsewhere.example" || len(m.to) != 2 || m.to[0] != fmt.Sprintf("u%d@a.example", i) || m.to[1] != "v@a.example" {
					t.Errorf("message %d: envelope %q %q", i, m.from, m.to)
				}
				if m.body != bodies[i] {
					t.Errorf("message %d: %d octets came as %d", i, len(bodies[i]), len(m.body))
				}
			}
			// Nothing is left, and the domains can be leased again.
			again := s.login("a")
			again.ask("ATRN", "453")
			again.ask("QUIT", "221")
			if n := s.store.Totals(); n != (queue.Counts{}) {
				t.Errorf("the queue still counts %+v", n)
			}
			if n := s.seen.get(func(r *recorder) int { return r.out[Delivered] }); n != len(bodies) {
				t.Errorf("%d deliveries counted, want %d", n, len(bodies))
			}
		})
	}
}

func TestATRNRefusals(t *testing.T) {
	s := newServer(t, withAccount("a", "a.example", "down.example"), withAccount("b", "b.example"),
		func(_ *server, c *Config) { c.Collecting.OnBusy = BusyRefuse })
	p := s.dial(ODMR)
	p.expect("220")
	p.ask("EHLO c.example", "250")
	p.ask("ATRN a.example", "530")
	p.ask("AUTH TEST "+base64.StdEncoding.EncodeToString([]byte("nobody")), "535 5.7.8")
	p.Close()

	s.feed(SMTP).deliver("", "u@a.example", "x\r\n")
	a := s.login("a")
	a.ask("ATRN b.example", "450")
	a.ask("ATRN a.example,b.example", "450")
	b := s.login("b")
	b.ask("ATRN", "453")
	b.ask("ATRN", "453") // the lease for looking was given back
	first := s.login("a")
	first.ask("ATRN a.example", "250")
	a.ask("ATRN a.example", "451")
	first.Close()
	eventually(t, "the domain is free again", func() bool { return s.records.count() == 3 }) // mx, a, b
	c := &customer{peer: a}
	c.collect("ATRN a.example")
	if len(c.got) != 1 {
		t.Errorf("%d messages", len(c.got))
	}
	if got := fmt.Sprint(s.seen.atrn); got != "[450 450 453 453 250 451 250]" {
		t.Errorf("counted %s", got)
	}
}

// Two customers behind one address drain at once, and a message for both of their domains reaches
// each with its own recipients only.
func TestCustomersDoNotMix(t *testing.T) {
	s := newServer(t, withAccount("a", "a.example"), withAccount("b", "b.example"))
	mx := s.feed(LMTP)
	const n = 50
	for i := range n {
		body := fmt.Sprintf("Subject: %d\r\n\r\n%s\r\n", i, strings.Repeat("z", 1000*i))
		mx.ask("MAIL FROM:<s@x.example>", "250")
		to := []string{fmt.Sprintf("a%d@a.example", i), fmt.Sprintf("b%d@b.example", i)}
		if i%2 == 1 {
			to[0], to[1] = to[1], to[0]
		}
		mx.ask("RCPT TO:<"+to[0]+">", "250")
		mx.ask("RCPT TO:<"+to[1]+">", "250")
		mx.ask("RCPT TO:<u@c.example>", "550 5.1.2")
		mx.ask("DATA", "354")
		mx.data(body)
		mx.expect("250")
		mx.expect("250") // RFC 2033 4.2: one for each recipient
	}
	both := make(chan *customer, 2)
	for _, name := range []string{"a", "b"} {
		c := &customer{peer: s.login(name), offer: fullOffer}
		go func() {
			defer func() { both <- c }()
			c.collect("ATRN " + name + ".example")
		}()
	}
	for range 2 {
		c := <-both
		if len(c.got) != n {
			t.Errorf("%d messages, want %d", len(c.got), n)
			continue
		}
		own := c.got[0].to[0][:1]
		for i, m := range c.got {
			if len(m.to) != 1 || m.to[0] != fmt.Sprintf("%s%d@%s.example", own, i, own) {
				t.Errorf("customer %s, message %d: recipients %q", own, i, m.to)
			}
			if !strings.HasPrefix(m.body, fmt.Sprintf("Subject: %d\r\n", i)) {
				t.Errorf("customer %s, message %d: %.20q", own, i, m.body)
			}
		}
	}
}

// A directory that has to be asked elsewhere is asked by workers.
func TestBlockingDirectory(t *testing.T) {
	s := newServer(t, withAccount("a", "a.example"), func(s *server, _ *Config) { s.dir.blocking.Store(true) })
	mx := s.feed(SMTP)
	mx.ask("MAIL FROM:<x@y.example>", "250")
	mx.ask("RCPT TO:<u@b.example>", "550 5.1.2")
	mx.ask("RCPT TO:<u@down.example>", "451 4.4.3")
	mx.ask("RCPT TO:<u@A.Example>", "250")
	mx.ask("RSET", "250")
	mx.deliver("x@y.example", "u@A.example", "x\r\n")
	c := &customer{peer: s.login("a")}
	c.collect("ATRN A.example")
	if len(c.got) != 1 || c.got[0].to[0] != "u@A.example" {
		t.Errorf("got %+v", c.got)
	}
}

func TestUntrustedClient(t *testing.T) {
	s := newServer(t, withAccount("a", "a.example"), func(_ *server, c *Config) { c.Trusted = nil })
	s.feed(SMTP).ask("MAIL FROM:<x@y.example>", "550 5.7.1")
}

func TestStoreIsFull(t *testing.T) {
	s := newServer(t, withAccount("a", "a.example"))
	mx := s.feed(SMTP)
	s.gate.full.Store(true)
	mx.ask("MAIL FROM:<x@y.example>", "452 4.3.1")
	s.gate.full.Store(false)
	mx.deliver("x@y.example", "u@a.example", "x\r\n")
}

func TestIngestMemory(t *testing.T) {
	s := newServer(t, withAccount("a", "a.example"), func(_ *server, c *Config) { c.IngestMemory = minMemory })
	var open []*peer
	for range minMemory / mail.LastPiece {
		p := s.feed(SMTP)
		p.ask("MAIL FROM:<x@y.example>", "250")
		open = append(open, p)
	}
	rest := s.feed(SMTP)
	rest.ask(fmt.Sprintf("MAIL FROM:<x@y.example> SIZE=%d", minMemory%mail.LastPiece), "250")
	open = append(open, rest)
	p := s.feed(SMTP)
	p.ask("MAIL FROM:<x@y.example>", "452 4.3.1")
	p.ask("MAIL FROM:<x@y.example> SIZE=100", "452 4.3.1")
	open[0].ask("RSET", "250")
	p.ask("MAIL FROM:<x@y.example> SIZE=100", "250")
	p.ask("RSET", "250")
	for _, o := range open[1:] {
		o.Close()
	}
	eventually(t, "memory is given back", func() bool {
		s.ingest.mu.Lock()
		defer s.ingest.mu.Unlock()
		return s.ingest.used == 0
	})
	p.deliver("x@y.example", "u@a.example", "x\r\n")
}

// A message much larger than memory for it, to a customer that reads slowly and then all at once.
func TestSlowReaderOfALargeMessage(t *testing.T) {
	for name, offer := range map[string][]string{"data": nil, "bdat": fullOffer} {
		t.Run(name, func(t *testing.T) {
			s := newServer(t, withAccount("a", "a.example"))
			body := "Subject: large\r\n\r\n" + strings.Repeat("."+strings.Repeat("large ", 12)+"\r\n", 30<<20/75)
			s.feed(SMTP).deliver("", "u@a.example", body)
			p := s.login("a")
			_ = socket(p.Conn).SetReadBuffer(64 << 10)
			c := &customer{peer: p, offer: offer}
			c.toBody()
			eventually(t, "the line is full", func() bool { return inspect(s, func(c *conn) bool { return c.blocked }) })
			var most int64
			small := make([]byte, 1000)
			var start bytes.Buffer
			for range 100 {
				n, err := c.r.Read(small)
				if err != nil {
					t.Fatal(err)
				}
				start.Write(small[:n])
				most = max(most, s.lent.Load())
				time.Sleep(time.Millisecond)
			}
			if limit := int64(mail.ChunkSize + lookahead); most > 2*limit || most == 0 {
				t.Errorf("up to %d octets of the message were in memory", most)
			}
			c.r = bufio.NewReader(io.MultiReader(&start, c.r))
			if offer == nil {
				c.took(c.dotted())
			} else {
				c.command()
			}
			for c.command() {
			}
			if c.got[0].body != body {
				t.Errorf("%d octets came as %d", len(body), len(c.got[0].body))
			}
		})
	}
}

// A connection that is closed while its lease is being acquired must not keep the domain.
func TestLeaseOfAClosedConnectionIsReleased(t *testing.T) {
	s := newServer(t, withAccount("a", "a.example"))
	s.feed(SMTP).deliver("", "u@a.example", "x\r\n")
	s.gate.acquire.close()
	p := s.login("a")
	p.send("ATRN")
	eventually(t, "the lease is being acquired", func() bool { return s.gate.acquire.waiters() == 1 })
	p.Close()
	eventually(t, "the connection is gone", func() bool { return s.seen.states()[StateProvider] == 0 })
	if lease, err := s.store.Acquire([]string{"a.example"}); err != nil {
		t.Fatal(err)
	} else {
		lease.Release()
	}
	s.gate.acquire.open()
	eventually(t, "nothing is in flight", func() bool { return s.records.count() == 1 })
	c := &customer{peer: s.login("a")}
	c.collect("ATRN")
	if len(c.got) != 1 {
		t.Errorf("%d messages", len(c.got))
	}
}

// A lost line leaves what was not acknowledged in the queue, and frees the domain.
func TestLineLost(t *testing.T) {
	s := newServer(t, withAccount("a", "a.example"))
	mx := s.feed(SMTP)
	for i := range 20 {
		mx.deliver("", "u@a.example", fmt.Sprintf("Subject: %d\r\n\r\n%s\r\n", i, strings.Repeat("b", 100_000)))
	}
	c := &customer{peer: s.login("a"), offer: []string{"PIPELINING"}}
	c.ask("ATRN", "250")
	c.send("220 here")
	for len(c.got) < 8 { // seven were acknowledged
		c.command()
	}
	c.Close()
	eventually(t, "the lease was released", func() bool { return s.records.count() == 1 })
	rest := &customer{peer: s.login("a")}
	rest.collect("ATRN")
	if n := len(c.got) - 1 + len(rest.got); n != 20 {
		t.Errorf("%d and %d messages", len(c.got)-1, len(rest.got))
	}
	if !strings.HasPrefix(rest.got[0].body, "Subject: 7\r\n") {
		t.Errorf("the second session began with %.12q", rest.got[0].body)
	}
}

// A customer that says 421 in the middle of a message must not be given the rest of it: its reply
// would not be heard, and the message would come twice.
func TestMessageIsCutAt421(t *testing.T) {
	s := newServer(t, withAccount("a", "a.example"))
	s.feed(SMTP).deliver("", "u@a.example", strings.Repeat(strings.Repeat("large ", 12)+"\r\n", 10<<20/74))
	p := s.login("a")
	_ = socket(p.Conn).SetReadBuffer(64 << 10)
	c := &customer{peer: p}
	c.toBody()
	eventually(t, "the line is full", func() bool { return inspect(s, func(c *conn) bool { return c.blocked }) })
	c.send("421 4.3.2 shutting down")
	eventually(t, "the session has ended", func() bool { return s.seen.states()[StateReversed] == 0 })
	got, _ := io.ReadAll(c.r)
	if bytes.HasSuffix(got, []byte("\r\n.\r\n")) {
		t.Error("the message was sent whole")
	}
	eventually(t, "the lease was released", func() bool { return s.records.count() == 1 })
	if n := s.store.Counts("a.example").Messages; n != 1 {
		t.Errorf("%d messages are queued, want 1", n)
	}
}

// Mail that arrives while a customer collects is collected in the same session.
func TestMailArrivesWhileDraining(t *testing.T) {
	s := newServer(t, withAccount("a", "a.example"))
	mx := s.feed(SMTP)
	mx.deliver("", "u@a.example", "Subject: 0\r\n\r\n")
	c := &customer{peer: s.login("a")}
	n := 1
	c.verdict = func(*message) string {
		if n < 5 {
			mx.deliver("", "u@a.example", fmt.Sprintf("Subject: %d\r\n\r\n", n))
			n++
		}
		return "250 ok"
	}
	c.collect("ATRN")
	if len(c.got) != 5 {
		t.Errorf("%d messages, want 5", len(c.got))
	}
}

func TestShutdownFinishesTransactions(t *testing.T) {
	s := newServer(t, withAccount("a", "a.example"))
	mx := s.feed(SMTP)
	mx.deliver("", "u@a.example", "Subject: out\r\n\r\n")
	out := &customer{peer: s.login("a")}
	out.ask("ATRN", "250")
	out.send("220 here")
	for len(out.got) == 0 {
		out.command()
	}
	s.gate.commits.close()
	mx.ask("MAIL FROM:<>", "250")
	mx.ask("RCPT TO:<u@a.example>", "250")
	mx.ask("DATA", "354")
	mx.data("Subject: in\r\n\r\n")
	eventually(t, "the commit is under way", func() bool { return s.gate.commits.waiters() == 1 })
	idle := s.feed(LMTP)

	done := make(chan error, 1)
	s.down = true
	go func() {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		done <- s.Shutdown(ctx)
	}()
	idle.expect("421")
	idle.eof()
	idle.Close()
	s.gate.commits.open()
	mx.expect("250")
	mx.expect("421")
	mx.eof()
	mx.Close()
	for out.command() { // the message in flight, then QUIT
	}
	out.Close()
	if err := <-done; err != nil {
		t.Errorf("Shutdown: %v", err)
	}
	if n := s.store.Totals().Messages; n != 1 {
		t.Errorf("%d messages in the queue, want the one that came in last", n)
	}
}

// A commit that ends after its client has left keeps the message: it was promised to nobody, and lost by nobody.
func TestClientLeavesDuringCommit(t *testing.T) {
	s := newServer(t, withAccount("a", "a.example"))
	mx := s.feed(SMTP)
	s.gate.commits.close()
	mx.ask("MAIL FROM:<>", "250")
	mx.ask("RCPT TO:<u@a.example>", "250")
	mx.ask("DATA", "354")
	mx.data("x\r\n")
	eventually(t, "the commit is under way", func() bool { return s.gate.commits.waiters() == 1 })
	mx.Close()
	eventually(t, "the connection is gone", func() bool { return s.seen.states()[StateSMTP] == 0 })
	s.gate.commits.open()
	eventually(t, "the message is there", func() bool { return s.store.Counts("a.example").Messages == 1 })
}

// A client that closes its half behind the final dot and QUIT, as Exim does, hears the replies: else it would hand
// the message in again and again.
func TestClientClosesItsHalfDuringCommit(t *testing.T) {
	s := newServer(t, withAccount("a", "a.example"))
	mx := s.feed(SMTP)
	s.gate.commits.close()
	mx.ask("MAIL FROM:<>", "250")
	mx.ask("RCPT TO:<u@a.example>", "250")
	mx.ask("DATA", "354")
	mx.data("x\r\n")
	mx.send("QUIT")
	if err := socket(mx.Conn).CloseWrite(); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the commit is under way", func() bool { return s.gate.commits.waiters() == 1 })
	s.gate.commits.open()
	mx.expect("250")
	mx.expect("221")
	mx.eof()
}

// The same where the message is long, and the piece before its end is still on the way to the disk when all else has come.
func TestClientClosesItsHalfDuringAppend(t *testing.T) {
	s := newServer(t, withAccount("a", "a.example"))
	mx := s.feed(SMTP)
	s.gate.appends.close()
	mx.ask("MAIL FROM:<>", "250")
	mx.ask("RCPT TO:<u@a.example>", "250")
	mx.ask("DATA", "354")
	mx.data(strings.Repeat("0123456789\r\n", mail.ChunkSize*5/4/12))
	mx.send("QUIT")
	if err := socket(mx.Conn).CloseWrite(); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the piece is on its way", func() bool { return s.gate.appends.waiters() == 1 })
	time.Sleep(50 * time.Millisecond) // what came behind it has been looked at, however often that was
	s.gate.appends.open()
	mx.expect("250")
	mx.expect("221")
	mx.eof()
	if n := s.store.Totals().Messages; n != 1 {
		t.Errorf("%d messages are held", n)
	}
}
