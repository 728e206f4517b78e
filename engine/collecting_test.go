package engine

import (
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"odmr/internal/mail"
	"odmr/queue"
)

// ledger is a store that remembers its leases, and lets settlements pass through a door.
type ledger struct {
	queue.Store
	settles door
	nexts   atomic.Int64 // calls of Next
	mu      sync.Mutex
	leases  []queue.Lease
}

type ledgerLease struct {
	queue.Lease
	of *ledger
}

func (l *ledger) Acquire(domains []string) (queue.Lease, error) {
	lease, err := l.Store.Acquire(domains)
	if err != nil {
		return nil, err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.leases = append(l.leases, lease)
	return &ledgerLease{lease, l}, nil
}

func (l *ledgerLease) Next(dst []queue.Delivery, limit queue.Limit) ([]queue.Delivery, error) {
	l.of.nexts.Add(1)
	return l.Lease.Next(dst, limit)
}

func (l *ledgerLease) Settle(s []queue.Settlement) error {
	l.of.settles.pass()
	return l.Lease.Settle(s)
}

func (l *ledgerLease) SettleTo(s []queue.Settlement, to queue.Waiter) {
	go func() {
		l.of.settles.pass()
		l.Lease.SettleTo(s, to)
	}()
}

func collecting(c Collecting) setting {
	return func(_ *server, cfg *Config) { cfg.Collecting = c }
}

// withLedger puts a ledger in front of the store.
func withLedger(l *ledger) setting {
	return func(_ *server, c *Config) { l.Store, c.Store = c.Store, l }
}

// hold puts a message into the store as if it had come in.
func (s *server) hold(domain, text string) {
	s.put(domain, "Received: from mx.isp.example\r\n"+text)
}

// turned is a customer whose server has greeted and said what it offers: mail is about to come.
func (s *server) turned(name, atrn string, offer ...string) *customer {
	s.t.Helper()
	c := &customer{peer: s.login(name), offer: offer}
	c.ask(atrn, "250")
	c.send("220 customer.example ready")
	c.command()
	return c
}

// rest serves commands until QUIT.
func (c *customer) rest() {
	c.t.Helper()
	for c.command() {
	}
	c.eof()
}

// state waits until so many sessions stand there.
func (s *server) state(st State, n int) {
	s.t.Helper()
	eventually(s.t, fmt.Sprintf("%d sessions in state %s", n, st), func() bool { return s.seen.states()[st] == n })
}

// That nothing is left is known without a call of the store: a session that stays and gets one message after another reads
// as often as one comes.
func TestDryQueueIsNotRead(t *testing.T) {
	var led ledger
	s := newServer(t, withAccount("a", "a.example"), collecting(Collecting{Linger: time.Hour}), withLedger(&led))
	c := s.turned("a", "ATRN", "PIPELINING", "CHUNKING")
	const messages = 5
	for i := range messages {
		s.state(StateLinger, 1)
		s.hold("a.example", fmt.Sprintf("%d\r\n", i))
		for len(c.got) <= i || c.got[i].body == "" {
			c.command()
		}
	}
	s.state(StateLinger, 1)
	if n := led.nexts.Load(); n != messages {
		t.Errorf("%d messages, one at a time, took %d calls of Next", messages, n)
	}
}

// A session that lingers is told by QUIT, and the new one need not wait for its reply.
func TestTakeoverOfALingeringSession(t *testing.T) {
	s := newServer(t, withAccount("a", "a.example"), collecting(Collecting{Linger: time.Hour}))
	s.hold("a.example", "one\r\n")
	old := s.turned("a", "ATRN")
	for len(old.got) < 1 || old.got[0].body == "" {
		old.command()
	}
	s.state(StateLinger, 1)
	fresh := s.turned("a", "ATRN") // with nothing queued, and the old one silent
	s.state(StateLinger, 1)
	s.hold("a.example", "two\r\n")
	for len(fresh.got) < 1 || fresh.got[0].body == "" {
		fresh.command()
	}
	if l := old.line(); l != "QUIT" {
		t.Errorf("the old session was told %q", l)
	}
	old.send("221 bye")
	old.eof()
	if len(old.got) != 1 || old.got[0].body != "one\r\n" || len(fresh.got) != 1 || fresh.got[0].body != "two\r\n" {
		t.Errorf("old %q, new %q", old.got, fresh.got)
	}
	if n := s.seen.get(func(r *recorder) int { return r.takeovers }); n != 1 {
		t.Errorf("%d takeovers counted", n)
	}
}

// A limit of one session does not keep a customer from taking over from the one whose line is lost; beyond that it holds.
func TestTakeoverBesideTheLimitOfSessions(t *testing.T) {
	for _, busy := range []Busy{BusyTakeover, BusyRefuse} {
		s := newServer(t, withAuthenticator("password", "tim"), withLimits(Limits{SessionsPerAccount: 1}),
			collecting(Collecting{Linger: time.Hour, OnBusy: busy}))
		enter := func(want string) *peer {
			p := s.dial(ODMR)
			p.expect("220")
			if l := p.login("tim", "password"); !strings.HasPrefix(l, want) {
				t.Fatalf("%q, want %s", l, want)
			}
			return p
		}
		first := enter("235")
		enter("421").eof() // there is nothing to take over
		first.ask("ATRN", "250")
		first.send("220 ready")
		(&customer{peer: first}).command() // EHLO
		s.state(StateLinger, 1)
		if busy == BusyRefuse {
			enter("421").eof()
			continue
		}
		second := enter("235")
		enter("421").eof()
		second.ask("ATRN", "250")
		second.send("220 ready")
		(&customer{peer: second}).command()
		first.Close()
		eventually(t, "the first is gone", func() bool { return s.seen.states()[StateLinger] == 1 && s.seen.states()[StateReversed] == 0 })
		eventually(t, "its place is free", func() bool {
			s.accounts.mu.Lock()
			defer s.accounts.mu.Unlock()
			return s.accounts.sessions["tim"] == 1
		})
		enter("235") // may be there to take over in turn
	}
}

// Wherever the old session stands, it ends, the new one gets what was not settled, in order and what is in doubt
// first, and from the old lease nothing can be had or settled any more.
func TestTakeoverInEveryPhase(t *testing.T) {
	pipelined := []string{"PIPELINING"}
	chunked := []string{"PIPELINING", "CHUNKING"}
	for _, c := range []struct {
		name  string
		offer []string
		until string // the command at which the old session stands still
		reply string // what it still says to that
		want  int    // messages for the new one, of 3
		doubt bool
	}{
		{"before the greeting", nil, "", "", 3, false},
		{"at EHLO", nil, "EHLO", "", 3, false},
		{"lock-step, at MAIL", nil, "MAIL", "", 3, false},
		{"lock-step, at DATA", nil, "DATA", "", 3, false},
		{"lock-step, in the body", nil, "DATA", "354 go on", 3, true},
		{"pipelined, at DATA", pipelined, "DATA", "250 ok\r\n250 ok", 3, false},
		{"pipelined, before the final reply", pipelined, "DATA", "250 ok\r\n250 ok\r\n354 go on", 3, true},
		{"chunked, before the final reply", chunked, "BDAT", "250 ok\r\n250 ok", 3, true},
		{"chunked, within the window", chunked, "BDAT", "250 ok\r\n250 ok\r\n250 done\r\n250 ok", 2, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			var led ledger
			s := newServer(t, withAccount("a", "a.example"), withLedger(&led))
			for _, body := range []string{"one\r\n", "two\r\n", "three\r\n"} {
				s.hold("a.example", body)
			}
			old := &customer{peer: s.login("a"), offer: c.offer}
			old.ask("ATRN", "250")
			if c.until != "" {
				old.send("220 ready")
				for line := old.line(); !strings.HasPrefix(line, c.until); line = old.line() {
					if strings.HasPrefix(line, "EHLO") {
						old.send("250-customer.example", "250-"+strings.Join(append(c.offer, "8BITMIME"), "\r\n250-"), "250 HELP")
					} else if c.offer == nil {
						old.send("250 ok")
					}
				}
			}
			if c.reply != "" {
				old.send(c.reply)
				if c.want == 2 {
					eventually(t, "one is settled", func() bool { return s.store.Totals().Messages == 2 })
				} else if c.offer == nil || strings.Contains(c.reply, "354") {
					for line := old.line(); line != "."; line = old.line() {
					}
				}
			}
			fresh := &customer{peer: s.login("a")}
			fresh.collect("ATRN a.example")
			var got []string
			for _, m := range fresh.got {
				got = append(got, m.body)
			}
			if want := []string{"one\r\n", "two\r\n", "three\r\n"}[3-c.want:]; fmt.Sprint(got) != fmt.Sprint(want) {
				t.Errorf("got %q, want %q", got, want)
			}
			_, _ = io.Copy(io.Discard, old.r) // what is left, and the end
			led.mu.Lock()
			lost := led.leases[0]
			led.mu.Unlock()
			if _, err := lost.Next(nil, queue.Limit{Messages: 1}); !errors.Is(err, queue.ErrLeaseLost) {
				t.Errorf("Next of the old lease: %v", err)
			}
			for seq := range uint64(3) {
				err := lost.Settle([]queue.Settlement{{Key: queue.Key{Domain: "a.example", Seq: seq}, Outcomes: make([]mail.Outcome, 1)}})
				if !errors.Is(err, queue.ErrLeaseLost) {
					t.Errorf("Settle with the old lease: %v", err)
				}
			}
			if n := s.seen.get(func(r *recorder) int { return r.out[Deferred] }); n > 0 != c.doubt {
				t.Errorf("%d messages in doubt", n)
			}
		})
	}
}

// What the old session has had a reply to is recorded before the lease moves, however long the store takes: the new
// one waits for that, and does not get the message again.
func TestTakeoverWaitsForSettlements(t *testing.T) {
	var led ledger
	s := newServer(t, withAccount("a", "a.example"), withLedger(&led))
	s.hold("a.example", "one\r\n")
	s.hold("a.example", "two\r\n")
	led.settles.close()
	defer led.settles.open()
	old := s.turned("a", "ATRN", "PIPELINING", "CHUNKING")
	for len(old.got) < 2 || old.got[1].body == "" {
		old.command()
	}
	eventually(t, "a settlement is under way", func() bool { return led.settles.waiters() > 0 })
	fresh := s.login("a")
	fresh.send("ATRN")
	eventually(t, "the new session is in the way", func() bool { return s.seen.get(func(r *recorder) int { return r.takeovers }) == 1 })
	_ = fresh.SetReadDeadline(time.Now().Add(50 * time.Millisecond))
	if l, err := fresh.r.ReadString('\n'); err == nil {
		t.Fatalf("%q while the store has not answered", l)
	}
	_ = fresh.SetReadDeadline(time.Now().Add(patience))
	led.settles.open()
	if l := fresh.expect("4"); !strings.HasPrefix(l, "453") {
		t.Errorf("the new session got %q: something is sent again", l)
	}
}

// A store that hangs costs the new session its patience and no more.
func TestTakeoverIsBounded(t *testing.T) {
	var led ledger
	s := newServer(t, withAccount("a", "a.example"), withLedger(&led))
	s.tenures.patience = 20 * time.Millisecond
	s.hold("a.example", "one\r\n")
	s.hold("a.example", "two\r\n")
	led.settles.close()
	defer led.settles.open()
	old := s.turned("a", "ATRN")
	for len(old.got) < 1 || old.got[0].body == "" {
		old.command()
	}
	eventually(t, "a settlement is under way", func() bool { return led.settles.waiters() > 0 })
	fresh := &customer{peer: s.login("a")}
	fresh.ask("ATRN", "451")
	fresh.ask("NOOP", "250")
	if got := fmt.Sprint(s.seen.get(func(r *recorder) int { return len(r.atrn) }), s.seen.get(func(r *recorder) int { return r.atrn[len(r.atrn)-1] })); got != "2 451" {
		t.Errorf("answers counted, the last: %s", got)
	}
	led.settles.open()
	eventually(t, "the domain is free", func() bool { return s.free() })
	fresh.collect("ATRN")
	if len(fresh.got) != 1 || fresh.got[0].body != "two\r\n" {
		t.Errorf("got %q", fresh.got)
	}
}

// holder is the tenure that has domain at present.
func (s *server) holder(domain string) *tenure {
	s.tenures.mu.Lock()
	defer s.tenures.mu.Unlock()
	return s.tenures.held[domain]
}

// free reports whether no session holds a domain.
func (s *server) free() bool {
	s.tenures.mu.Lock()
	defer s.tenures.mu.Unlock()
	return len(s.tenures.held) == 0
}

// An account can end sessions for its own domains only; one that names a foreign domain among others ends none.
func TestTakeoverByAStranger(t *testing.T) {
	s := newServer(t, withAccount("a", "a.example", "a2.example"), withAccount("b", "b.example"), collecting(Collecting{Linger: time.Hour}))
	a, b := s.turned("a", "ATRN"), s.turned("b", "ATRN")
	s.state(StateLinger, 2)
	for range 3 {
		stranger := s.login("b")
		for _, domains := range []string{"a.example", "a2.example", "b.example,a.example", "a.example,b.example"} {
			stranger.ask("ATRN "+domains, "450")
		}
	}
	s.hold("a.example", "for a\r\n")
	s.hold("b.example", "for b\r\n")
	for _, c := range []*customer{a, b} {
		for len(c.got) < 1 || c.got[0].body == "" {
			c.command()
		}
	}
	if a.got[0].body != "for a\r\n" || b.got[0].body != "for b\r\n" {
		t.Errorf("a got %q, b got %q", a.got, b.got)
	}
	if n := s.seen.get(func(r *recorder) int { return r.takeovers }); n != 0 {
		t.Errorf("%d takeovers", n)
	}
}

// A new session may want what several others have, all or in part.
func TestTakeoverOfSeveral(t *testing.T) {
	s := newServer(t, withAccount("a", "a1.example", "a2.example", "a3.example", "a4.example"), collecting(Collecting{Linger: time.Hour}))
	first, second, third := s.turned("a", "ATRN a1.example"), s.turned("a", "ATRN a2.example,a3.example"), s.turned("a", "ATRN a4.example")
	s.state(StateLinger, 3)
	fresh := s.turned("a", "ATRN a2.example,a1.example")
	first.rest()
	second.rest()
	s.hold("a1.example", "1\r\n")
	s.hold("a2.example", "2\r\n")
	s.hold("a3.example", "3\r\n") // nobody has this any more
	s.hold("a4.example", "4\r\n")
	for _, c := range []struct {
		*customer
		n int
	}{{fresh, 2}, {third, 1}} {
		for len(c.got) < c.n || c.got[c.n-1].body == "" {
			c.command()
		}
	}
	last := s.turned("a", "ATRN a3.example")
	for len(last.got) < 1 || last.got[0].body == "" {
		last.command()
	}
	if third.got[0].body != "4\r\n" || last.got[0].body != "3\r\n" {
		t.Errorf("third %q, last %q", third.got, last.got)
	}
}

// Two sessions that are both alive cannot end each other again and again.
func TestTakeoverInterval(t *testing.T) {
	s := newServer(t, withAccount("a", "a.example", "b.example"), collecting(Collecting{Linger: time.Hour, TakeoverInterval: time.Hour}))
	first, other := s.turned("a", "ATRN a.example"), s.turned("a", "ATRN b.example")
	s.state(StateLinger, 2)
	second := s.turned("a", "ATRN a.example")
	first.rest()
	s.state(StateLinger, 2)
	third := s.login("a")
	third.ask("ATRN a.example", "451")
	third.ask("ATRN", "451") // and nobody else is ended for nothing
	s.hold("b.example", "x\r\n")
	s.hold("a.example", "y\r\n")
	for _, c := range []*customer{second, other} {
		for len(c.got) < 1 || c.got[0].body == "" {
			c.command()
		}
	}
	second.Close() // gone for good: nothing to fight about
	eventually(t, "the domain is free", func() bool { return s.holder("a.example") == nil })
	third.ask("ATRN a.example", "250")
}

// A session that is asked to make way before its lease has come does so.
func TestTakeoverOfASessionThatIsAboutToTurn(t *testing.T) {
	s := newServer(t, withAccount("a", "a.example"))
	s.hold("a.example", "one\r\n")
	s.gate.acquire.close()
	old := s.login("a")
	old.send("ATRN")
	eventually(t, "the lease is being asked for", func() bool { return s.gate.acquire.waiters() == 1 })
	fresh := &customer{peer: s.login("a")}
	fresh.send("ATRN")
	eventually(t, "the old one is asked", func() bool {
		s.tenures.mu.Lock()
		defer s.tenures.mu.Unlock()
		return s.tenures.held["a.example"].ending
	})
	s.gate.acquire.open()
	old.expect("451")
	fresh.expect("250")
	fresh.send("220 ready")
	fresh.rest()
	if len(fresh.got) != 1 {
		t.Errorf("got %q", fresh.got)
	}
	old.ask("ATRN", "453")
}

// Mail that comes goes out at once to a session that stays, NOOP keeps it, and it leaves in order when the server is stopped.
func TestLinger(t *testing.T) {
	s := newServer(t, withAccount("a", "a.example", "b.example"), collecting(Collecting{Linger: time.Hour, KeepAlive: 200 * time.Millisecond}))
	c := s.turned("a", "ATRN", "PIPELINING", "CHUNKING")
	for i := range 20 {
		if i == 5 {
			if l := c.line(); l != "NOOP" {
				t.Fatalf("%q while nothing comes", l)
			}
			c.send("250 ok")
		}
		s.hold([]string{"a.example", "b.example"}[i%2], fmt.Sprintf("%d\r\n", i))
		for len(c.got) < i+1 || c.got[i].body == "" {
			c.command()
		}
	}
	for i, m := range c.got {
		if m.body != fmt.Sprintf("%d\r\n", i) {
			t.Errorf("message %d is %q", i, m.body)
		}
	}
	s.state(StateLinger, 1)
	go func() { s.shutdown(patience) }()
	c.rest()
	eventually(t, "the session has ended", func() bool { return s.records.count() == 0 })
	if n := s.store.Totals().Messages; n != 0 {
		t.Errorf("%d messages are left", n)
	}
}

// A session that stays leaves when nothing came for as long as it may stay; nothing is queued at the turn.
func TestLingerEnds(t *testing.T) {
	s := newServer(t, withAccount("a", "a.example"), collecting(Collecting{Linger: 150 * time.Millisecond}))
	c := &customer{peer: s.login("a")}
	c.collect("ATRN")
	if len(c.got) != 0 {
		t.Errorf("got %q", c.got)
	}
	c = &customer{peer: s.login("a")}
	c.collect("ATRN") // the lease was given back
}

// ATRN with nothing queued is answered when mail comes, or that there is none, and may be said again at once.
func TestATRNWait(t *testing.T) {
	s := newServer(t, withAccount("a", "a.example"), collecting(Collecting{ATRNWait: 100 * time.Millisecond}))
	c := &customer{peer: s.login("a")}
	c.send("ATRN")
	c.expect("453")
	if n := s.seen.get(func(r *recorder) int { return r.entered[StateWait] }); n != 1 { // over by now
		t.Errorf("%d sessions waited", n)
	}
	for range 3 {
		c.ask("ATRN", "453")
	}
	if got := fmt.Sprint(s.seen.get(func(r *recorder) int { return len(r.atrn) })); got != "4" {
		t.Errorf("%s answers counted", got)
	}
}

func TestATRNWaitsForMail(t *testing.T) {
	s := newServer(t, withAccount("a", "a.example"), collecting(Collecting{ATRNWait: mail.MaxATRNWait}))
	early, gone := s.login("a"), s.login("a")
	early.send("ATRN")
	s.state(StateWait, 1)
	early.ask("QUIT", "554")
	early.eof()
	eventually(t, "the lease is back", s.free)

	gone.send("ATRN")
	s.state(StateWait, 1)
	gone.Close()
	eventually(t, "the lease is back", s.free)

	waits, c := s.login("a"), &customer{peer: s.login("a")}
	waits.send("ATRN")
	s.state(StateWait, 1)
	c.send("ATRN")
	waits.expect("453") // makes way
	s.state(StateWait, 1)
	s.hold("a.example", "one\r\n")
	c.expect("250")
	c.send("220 ready")
	c.rest()
	if len(c.got) != 1 || c.got[0].body != "one\r\n" {
		t.Errorf("got %q", c.got)
	}
}

// The interval counts from an ATRN that brought all there was, and only from such a one: not from one that was
// refused, nor from a session whose line was lost.
func TestATRNInterval(t *testing.T) {
	for _, code := range []int{453, 450} {
		s := newServer(t, withAccount("a", "a.example"), withAccount("b", "b.example"), collecting(Collecting{ATRNInterval: time.Hour, IntervalCode: code}))
		s.hold("a.example", "one\r\n")
		a, lost := &customer{peer: s.login("a")}, s.turned("a", "ATRN")
		a.ask("ATRN b.example", "450")
		lost.Close()
		eventually(t, "the line is lost", s.free)
		a.collect("ATRN")
		a = &customer{peer: s.login("a")}
		eventually(t, "the session is over", s.free)
		s.hold("a.example", "two\r\n")
		a.ask("ATRN", fmt.Sprint(code))
		a.ask("ATRN b.example", "450 ") // what is forbidden stays so
		b := s.login("b")
		b.ask("ATRN", "453")
		s.hold("b.example", "three\r\n")
		b.ask("ATRN", fmt.Sprint(code))
		if n := s.seen.get(func(r *recorder) int { return r.limits[LimitInterval] }); n != 2 {
			t.Errorf("%d hits counted", n)
		}
	}
}

// Who asks for one domain after the other gets both: the interval of the first is not the second's.
func TestATRNIntervalOfEachDomain(t *testing.T) {
	s := newServer(t, withAccount("a", "a.example", "b.example"), collecting(Collecting{ATRNInterval: time.Hour}))
	s.hold("b.example", "one\r\n")
	a := &customer{peer: s.login("a")}
	a.ask("ATRN a.example", "453")
	a.collect("ATRN b.example")
	if len(a.got) != 1 {
		t.Errorf("got %q", a.got)
	}
	eventually(t, "the session is over", s.free)
	s.hold("b.example", "two\r\n")
	a = &customer{peer: s.login("a")}
	a.ask("ATRN a.example,b.example", "453 You have no mail: too soon")
}

// A policy goes before the server's settings.
func TestOver(t *testing.T) {
	for _, c := range [][3]time.Duration{{0, 5, 5}, {-1, 5, 0}, {3, 5, 3}, {0, 0, 0}, {3, 0, 3}} {
		if got := over(c[0], c[1]); got != c[2] {
			t.Errorf("%d over %d is %d", c[0], c[1], got)
		}
	}
}

// A session that waits keeps nothing of what it needed to work.
func TestLingeringSessionIsSmall(t *testing.T) {
	s := newServer(t, withAccount("a", "a.example"), collecting(Collecting{Linger: time.Hour}))
	for i := range 300 {
		s.hold("a.example", fmt.Sprintf("%d\r\n", i))
	}
	c := s.turned("a", "ATRN", "PIPELINING", "CHUNKING")
	for len(c.got) < 300 || c.got[299].body == "" {
		c.command()
	}
	s.state(StateLinger, 1)
	eventually(t, "its part of the memory is back", func() bool {
		s.prefetch.mu.Lock()
		defer s.prefetch.mu.Unlock()
		return s.prefetch.sessions == 0 && s.prefetch.used == 0
	})
}
