package engine

import (
	"bytes"
	"fmt"
	"io"
	"strings"
	"testing"

	"odmr/engine/session"
	"odmr/internal/mail"
	"odmr/queue"
)

// scripted is a machine that does what its peer's lines say, to drive the actions of a lease one by one.
type scripted struct {
	tickets uint32
	what    map[uint32]string
	items   []session.Item
}

func script(name string) setting {
	return withMachine(func(c *conn) session.Session {
		c.account = name
		return &scripted{what: map[uint32]string{}}
	})
}

func (s *scripted) do(what string, a session.Action, out *session.Output) {
	s.tickets++
	a.Ticket, a.At = s.tickets, len(out.Reply)
	s.what[a.Ticket] = what
	out.Acts = append(out.Acts, a)
}

func (s *scripted) Start(_ session.Time, out *session.Output) {
	out.Reply = append(out.Reply, "220 script\r\n"...)
}

func (s *scripted) Input(_ session.Time, b []byte, out *session.Output) int {
	n := bytes.IndexByte(b, '\n') + 1
	var verb, how string
	var k int
	_, _ = fmt.Sscan(string(b[:n]), &verb, &k, &how)
	switch verb {
	case "LEASE":
		s.do("lease", session.Action{Kind: session.ActAcquire}, out)
	case "NEXT":
		s.do("next", session.Action{Kind: session.ActPrefetch, Messages: k, Size: 1 << 20}, out)
	case "BODY":
		out.Acts = append(out.Acts, session.Action{Kind: session.ActBody, At: len(out.Reply), Item: s.items[k].Handle, Plain: how == "plain"})
		out.Reply = append(out.Reply, ".\r\n"...)
	case "SETTLE":
		env := s.items[k].Envelope
		outcomes := make([]mail.Outcome, len(env.Recipients))
		s.do("settle", session.Action{Kind: session.ActSettle, Item: s.items[k].Handle, Outcomes: outcomes}, out)
	}
	return n
}

func (s *scripted) Done(_ session.Time, ticket uint32, r *session.Result, out *session.Output) {
	what := s.what[ticket]
	delete(s.what, ticket)
	if r.Refusal != nil {
		out.Reply = fmt.Appendf(out.Reply, "%d %s\r\n", r.Refusal.Code, what)
		return
	}
	s.items = append(s.items, r.Items...)
	out.Reply = fmt.Appendf(out.Reply, "250 %s %d %d\r\n", what, len(r.Items), r.Waiting)
}

func (s *scripted) Tick(session.Time, *session.Output) {}
func (s *scripted) Deadline() session.Time             { return session.Never }
func (s *scripted) Progress(session.Time)              {}
func (s *scripted) Stop(now session.Time, out *session.Output) {
	out.Acts = append(out.Acts, session.Action{Kind: session.ActClose})
}
func (s *scripted) End(session.Time, *session.Output) {}

// put puts a message into the store, in wire form.
func (s *server) put(domain, wire string) {
	s.t.Helper()
	in, err := s.store.Begin(0)
	if err != nil {
		s.t.Fatal(err)
	}
	size := int64(len(wire))
	env := mail.Envelope{Domain: domain, Size: size, WireSize: size, Recipients: []mail.Recipient{{Address: "u@" + domain}}}
	for len(wire) > mail.LastPiece {
		if err := in.Append([]byte(wire[:mail.ChunkSize])); err != nil {
			s.t.Fatal(err)
		}
		wire = wire[mail.ChunkSize:]
	}
	if err := in.Commit([]byte(wire), []mail.Envelope{env}); err != nil {
		s.t.Fatal(err)
	}
}

// body reads n octets and the dot that the script puts behind.
func (p *peer) body(n int) string {
	p.t.Helper()
	b := make([]byte, n)
	if _, err := io.ReadFull(p.r, b); err != nil {
		p.t.Fatal(err)
	}
	if l := p.line(); l != "." {
		p.t.Fatalf("%.80q behind the body", l)
	}
	return string(b)
}

// A body may be asked for again: it is opened anew, with its octets in the right place of the stream.
func TestBodyTwice(t *testing.T) {
	s := newServer(t, withAccount("a", "a.example"), script("a"))
	wire := strings.Repeat("..dotted line\r\n", 40_000)
	plain := strings.Repeat(".dotted line\r\n", 40_000)
	s.put("a.example", wire)
	p := s.dial(ODMR)
	p.expect("220")
	p.ask("LEASE", "250 lease 0 1")
	p.ask("NEXT 5", "250 next 1")
	p.send("BODY 0", "BODY 0 plain", "BODY 0", "BODY 0 plain")
	for range 2 {
		if got := p.body(len(wire)); got != wire {
			t.Error("the wire form differs")
		}
		if got := p.body(len(plain)); got != plain {
			t.Error("the plain form differs")
		}
	}
	p.ask("SETTLE 0", "250 settle")
	p.ask("NEXT 5", "250 next 0")
}

// Settlements that gather while one is under way go to the store together, and each is answered.
func TestSettlementsGoTogether(t *testing.T) {
	s := newServer(t, withAccount("a", "a.example"), script("a"))
	const n = 100
	for i := range n {
		s.put("a.example", fmt.Sprintf("%d\r\n", i))
	}
	p := s.dial(ODMR)
	p.expect("220")
	p.ask("LEASE", "250 lease 0 100")
	p.ask("NEXT 1000", "250 next 100")
	var all strings.Builder
	for i := range n {
		fmt.Fprintf(&all, "SETTLE %d\r\n", i)
	}
	if _, err := io.WriteString(p, all.String()); err != nil {
		t.Fatal(err)
	}
	for range n {
		p.expect("250 settle")
	}
	if k := s.seen.get(func(r *recorder) int { return r.settles }); k > n/2 {
		t.Errorf("%d settlements took %d calls", n, k)
	}
	if k := s.store.Totals().Messages; k != 0 {
		t.Errorf("%d messages are left", k)
	}
}

// Prefetches wait when the memory for them is used up, and go on when it is given back, by whatever means.
func TestPrefetchWaitsForMemory(t *testing.T) {
	var set []setting
	const sessions = 20
	for i := range sessions {
		set = append(set, withAccount(fmt.Sprint("c", i), fmt.Sprintf("c%d.example", i)))
	}
	names := make(chan string, sessions)
	set = append(set, withMachine(func(c *conn) session.Session {
		c.account = <-names
		return &scripted{what: map[uint32]string{}}
	}), func(_ *server, c *Config) { c.PrefetchMemory = minMemory })
	s := newServer(t, set...)
	big := strings.Repeat("x", 2*mail.ChunkSize)
	var peers []*peer
	for i := range sessions {
		s.put(fmt.Sprintf("c%d.example", i), big)
		names <- fmt.Sprint("c", i)
		p := s.dial(ODMR)
		p.expect("220")
		p.ask("LEASE", "250 lease 0 1")
		p.send("NEXT 1")
		peers = append(peers, p)
	}
	line := func() int {
		s.prefetch.mu.Lock()
		defer s.prefetch.mu.Unlock()
		if s.prefetch.used > minMemory {
			t.Errorf("%d octets in use", s.prefetch.used)
		}
		return len(s.prefetch.line)
	}
	// Who waits makes the silent ones give up their bodies, so that the line may be empty again by now.
	eventually(t, "some wait", func() bool { return line() > 0 || s.reclaimed.Load() > 0 })
	peers[sessions-1].Close() // one of those that wait, most likely
	for i, p := range peers[:sessions-1] {
		line()
		p.expect("250 next 1")
		switch i % 3 {
		case 0:
			p.ask("SETTLE 0", "250 settle")
		case 1:
			p.send("BODY 0")
			p.body(len(big))
		case 2:
			p.Close()
		}
	}
	eventually(t, "all is given back", func() bool {
		s.prefetch.mu.Lock()
		defer s.prefetch.mu.Unlock()
		return s.prefetch.used == 0
	})
}

// foreign is a store that hands out a message of a domain that was not leased.
type foreign struct{ queue.Store }

type foreignLease struct{ queue.Lease }

func (f foreign) Acquire(domains []string) (queue.Lease, error) {
	l, err := f.Store.Acquire(append([]string{"b.example"}, domains...))
	return foreignLease{l}, err
}

func (foreignLease) Domains() []string { return []string{"a.example"} }

func TestForeignMessageIsNotHandedOn(t *testing.T) {
	s := newServer(t, withAccount("a", "a.example"), script("a"), func(_ *server, c *Config) { c.Store = foreign{c.Store} })
	s.put("b.example", "secret\r\n")
	s.put("a.example", "own\r\n")
	p := s.dial(ODMR)
	p.expect("220")
	p.ask("LEASE", "250 lease")
	p.ask("NEXT 10", "250 next 1")
	p.send("BODY 0")
	if got := p.body(5); got != "own\r\n" {
		t.Errorf("got %q", got)
	}
	p.Close()
	eventually(t, "the lease is released", func() bool { return s.records.count() == 0 })
	if n := s.store.Counts("b.example").Messages; n != 1 {
		t.Errorf("the foreign domain has %d messages", n)
	}
}

// panicky is a store with a bug.
type panicky struct{ queue.Store }

func (panicky) Acquire([]string) (queue.Lease, error) { panic("planted") }

func TestPanicInAWorker(t *testing.T) {
	s := newServer(t, withAccount("a", "a.example"), script("a"),
		func(s *server, c *Config) { s.crash = true; c.Store = panicky{c.Store} })
	s.put("a.example", "x\r\n")
	p := s.dial(ODMR)
	p.expect("220")
	p.ask("LEASE", "451 lease")
	p.ask("LEASE", "451 lease")
	if n := s.panics.Load(); n != 2 {
		t.Errorf("%d panics counted", n)
	}
}

// A machine that asks for what cannot be costs its own connection.
func TestNonsenseEndsTheSession(t *testing.T) {
	s := newServer(t, withAccount("a", "a.example"), script("a"), func(s *server, _ *Config) { s.crash = true })
	for _, nonsense := range []string{"NEXT 1", "BODY 7", "SETTLE 7"} {
		p := s.dial(ODMR)
		p.expect("220")
		p.send(nonsense)
		_, _ = io.Copy(io.Discard, p.r)
	}
}
