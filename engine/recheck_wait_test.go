package engine

import (
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"odmr/internal/account"
	"odmr/internal/mail"
)

// TestWaitingSessionMayNotStay: a session that waits for mail gives its domains back when its account may not collect them any more, whether
// or not mail comes; one that may goes on waiting, as it does while the directory cannot answer.
func TestWaitingSessionMayNotStay(t *testing.T) {
	changes := map[string]func(*testDirectory){
		"moves":   func(d *testDirectory) { d.take("a", "b") },
		"removed": func(d *testDirectory) { d.mu.Lock(); delete(d.accounts, "a"); d.mu.Unlock() },
		"on hold": func(d *testDirectory) {
			d.mu.Lock()
			d.policies = map[string]account.Policy{"a": {Hold: account.On}}
			d.mu.Unlock()
		},
		"down": func(d *testDirectory) {
			d.mu.Lock()
			d.accounts["a"] = []string{"other.example"} // down.example cannot be asked for
			d.mu.Unlock()
		},
	}
	for what, change := range changes {
		for _, blocking := range []bool{false, true} {
			for _, c := range []Collecting{{Linger: time.Hour, OnBusy: BusyRefuse}, {ATRNWait: mail.MaxATRNWait, OnBusy: BusyRefuse}} {
				domain := map[bool]string{true: "down.example", false: "a.example"}[what == "down"]
				s := newServer(t, withAccount("a", domain), collecting(c))
				s.dir.blocking.Store(blocking)
				p := s.waits(c)
				waits := map[bool]State{true: StateLinger, false: StateWait}[c.Linger > 0]
				s.Recheck(0, 1) // changes nothing
				s.state(waits, 1)
				change(s.dir)
				s.Recheck(0, 1)
				if what == "down" {
					s.dir.mu.Lock()
					s.dir.accounts["a"] = []string{domain}
					s.dir.mu.Unlock()
					s.Recheck(0, 1)
					s.state(waits, 1)
					s.hold(domain, "comes\r\n")
					if c.Linger > 0 {
						for len(p.got) < 1 || p.got[0].body == "" {
							p.command()
						}
					} else {
						p.expect("250")
					}
					continue
				}
				p.sentAway(c)
				eventually(t, fmt.Sprintf("%s, blocking %v, %+v: the lease is back", what, blocking, c), s.free)
				if len(p.got) != 0 {
					t.Errorf("%s: %q was collected", what, p.got)
				}
			}
		}
	}
}

// TestNewOwnerWaitsForNobody: whose domain it is now need not wait until the session of whose it was is asked for, even where sessions of one
// customer do not end each other.
func TestNewOwnerWaitsForNobody(t *testing.T) {
	for _, blocking := range []bool{false, true} {
		for _, c := range []Collecting{
			{Linger: time.Hour, OnBusy: BusyRefuse}, {ATRNWait: mail.MaxATRNWait, OnBusy: BusyRefuse}, {Linger: time.Hour, TakeoverInterval: time.Hour},
		} {
			s := newServer(t, withAccount("a", "a.example"), collecting(c))
			s.dir.blocking.Store(blocking)
			before := s.waits(c)
			if c.OnBusy == BusyRefuse {
				again := s.login("a")
				again.ask("ATRN a.example", "451")
			} else { // keeps its place, as far as its own customer is concerned
				before = s.waits(c)
				again := s.login("a")
				again.ask("ATRN a.example", "451")
			}
			s.dir.take("a", "b")
			after := s.login("b")
			after.send("ATRN a.example")
			if c.Linger > 0 {
				after.expect("250")
				before.rest()
			} else {
				before.expect("453")
				s.hold("a.example", "for the new one\r\n")
				after.expect("250")
			}
			if len(before.got) != 0 {
				t.Errorf("%+v: %q went to the customer before", c, before.got)
			}
		}
	}
}

// TestRecheckInTurns: a loop asks for a bounded number of sessions before it does anything else, and in the end for each once; a
// directory elsewhere is asked for no more until the next tick.
func TestRecheckInTurns(t *testing.T) {
	const sessions = 5*recheckTurn + 7
	for _, blocking := range []bool{false, true} {
		e := &Engine{}
		e.cfg.Observer = NopObserver{}
		dir := &testDirectory{}
		dir.blocking.Store(blocking)
		e.cfg.Directory = dir
		lp := newLoop(e, 0)
		lp.inbox.wake = func() error { return nil }
		for range sessions {
			c := &conn{id: lp.newID(), lp: lp, phase: phaseFlush}
			c.timer.c, c.holding.c = c, c
			lp.conns[c.id] = c
		}
		asked := func() (n int) {
			for _, c := range lp.conns {
				if c.drain.doubt {
					n++
				}
			}
			return n
		}
		lp.handle(&event{kind: evRecheck, n: 1})
		turns := 1
		for before := asked(); before < sessions; turns++ {
			if before > turns*recheckTurn {
				t.Fatalf("%d were asked for in %d turns", before, turns)
			}
			events := lp.inbox.take(nil)
			if blocking {
				if len(events) != 0 {
					t.Fatalf("a directory elsewhere is asked at once: %v", events)
				}
				lp.tick(time.Now())
			} else {
				if len(events) != 1 || events[0].kind != evRecheckMore {
					t.Fatalf("%v is to come", events)
				}
				lp.handle(&events[0])
			}
			if now := asked(); now <= before {
				t.Fatalf("%d of %d, and no more", now, sessions)
			} else {
				before = now
			}
		}
		if turns != sessions/recheckTurn+1 || len(lp.unasked) != 0 || len(lp.inbox.take(nil)) != 0 {
			t.Errorf("blocking %v: %d turns, %d left", blocking, turns, len(lp.unasked))
		}
		for part := range uint64(3) { // parts are those asked for already, or not: the line stays bounded
			for range 20 {
				lp.handle(&event{kind: evRecheck, conn: part, n: 3})
			}
		}
		if len(lp.unasked) > 2*sessions {
			t.Errorf("%d wait, of %d sessions", len(lp.unasked), sessions)
		}
	}
}

// moves gives the domains of one account to another; there still is such an account.
func (d *testDirectory) moves(from, to string) {
	d.take(from, to)
	d.mu.Lock()
	defer d.mu.Unlock()
	d.accounts[from] = []string{"left.example"}
}

// changing is a directory in which something happens behind the first answer to ATRN of one account.
type changing struct {
	*testDirectory
	of   string
	once sync.Once
	then func()
}

func (c *changing) Authorize(name string, wanted []string) ([]string, error) {
	domains, err := c.testDirectory.Authorize(name, wanted)
	if name == c.of {
		c.once.Do(c.then)
	}
	return domains, err
}

// TestDoubtfulATRNThatWaits: an ATRN that waits for mail, and whose rights changed while it was on its way, is asked for at once, not when
// mail comes or the time is over.
func TestDoubtfulATRNThatWaits(t *testing.T) {
	for _, blocking := range []bool{false, true} {
		s := newServer(t, withAccount("a", "a.example"), collecting(Collecting{ATRNWait: mail.MaxATRNWait, OnBusy: BusyRefuse}), func(s *server, c *Config) {
			c.Directory = &changing{testDirectory: s.dir, of: "a", then: func() { s.dir.moves("a", "b"); s.Recheck(0, 1) }}
		})
		s.dir.blocking.Store(blocking)
		s.login("a").ask("ATRN", "450")
		eventually(t, "the lease is back", s.free)
	}
}

// remembering is a directory that answers from memory what was true once.
type remembering struct {
	*testDirectory
	old  atomic.Pointer[testDirectory] // nil: the same
	down atomic.Bool                   // nobody can be asked anew
	n    atomic.Int64                  // how often that was done
}

func (r *remembering) Authorize(name string, wanted []string) ([]string, error) {
	if old := r.old.Load(); old != nil {
		return old.Authorize(name, wanted)
	}
	return r.testDirectory.Authorize(name, wanted)
}

func (r *remembering) AuthorizeAnew(name string, wanted []string) ([]string, error) {
	r.n.Add(1)
	if r.down.Load() {
		return nil, account.ErrUnavailable
	}
	return r.testDirectory.Authorize(name, wanted)
}

// TestFormerOwnerEndsNobody: whose domain it was ends the session of whose it is only if the directory says so anew, not by what is
// remembered; and who ends a session of its own account costs no such question.
func TestFormerOwnerEndsNobody(t *testing.T) {
	for want, c := range map[string]Collecting{"450": {Linger: time.Hour}, "451": {Linger: time.Hour, OnBusy: BusyRefuse}} {
		memory := &remembering{}
		s := newServer(t, withAccount("a", "a.example"), withAccount("b", "b.example"), collecting(c), func(s *server, c *Config) {
			memory.testDirectory = s.dir
			c.Directory = memory
		})
		s.dir.blocking.Store(true)
		former := s.login("a")
		s.dir.moves("a", "b")
		owner := s.turned("b", "ATRN a.example")
		s.state(StateLinger, 1)
		memory.old.Store(&testDirectory{accounts: map[string][]string{"a": {"a.example"}, "b": {"a.example", "b.example"}}})
		memory.down.Store(want == "451")
		former.ask("ATRN a.example", want)
		if n := memory.n.Load(); n != 1 {
			t.Errorf("asked anew %d times", n)
		}
		s.hold("a.example", "for the owner\r\n")
		for len(owner.got) < 1 || owner.got[0].body == "" {
			owner.command()
		}
		s.state(StateLinger, 1)
		if want == "450" {
			s.turned("b", "ATRN a.example")
		}
		if n := memory.n.Load(); n != 1 {
			t.Errorf("asked anew %d times, the last for a session of one's own", n)
		}
	}
}

// TestFormerOwnerIsLate: where answers are not from memory, the former owner's may have been on its way when the domain moved.
func TestFormerOwnerIsLate(t *testing.T) {
	var owner *customer
	s := newServer(t, withAccount("a", "a.example"), withAccount("b", "b.example"), collecting(Collecting{Linger: time.Hour}), func(s *server, c *Config) {
		c.Directory = &changing{testDirectory: s.dir, of: "a", then: func() {
			s.dir.moves("a", "b")
			owner = s.turned("b", "ATRN a.example")
			s.state(StateLinger, 1)
		}}
	})
	s.login("a").ask("ATRN a.example", "450")
	s.state(StateLinger, 1)
	s.hold("a.example", "for the owner\r\n")
	for len(owner.got) < 1 || owner.got[0].body == "" {
		owner.command()
	}
}
