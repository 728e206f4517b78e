package sim

import (
	"fmt"
	"io"
	"time"

	"odmr/internal/account"
	"odmr/queue/pebblestore/crashfs"
)

// Sim is one simulation.
type Sim struct {
	w       *world
	host    *host
	ledger  *ledger
	domains []string // of all customers
	bug     Bug
	pace    time.Duration // between sessions of one peer, at the most
	visits  int

	faulty    bool // reads fail now and then
	mortal    bool // writes of the log, too
	calm      bool // the weather has cleared: nothing fails any more, and customers are good
	over      bool // nobody collects any more
	mxs       []*mx
	customers []*customer
}

// Result is what came of a simulation.
type Result struct {
	Seed      uint64
	Hash      uint64     // over the whole course
	Violation *Violation // nil: all promises were kept
	Steps     int
	Letters   int
	Visits    int
	Lives     int // of the server
	Took      time.Duration
	Met       map[string]int // what went wrong, and what was made of it
}

// Bounds of one simulation, so that a mistake in it ends.
const (
	maxSteps = 3_000_000
	maxCalls = 400 // of one customer
)

// Run runs the simulation of that seed. log gets the trace, or is nil.
func Run(seed uint64, bug Bug, log io.Writer) Result {
	w := newWorld(seed, log)
	s := &Sim{w: w, bug: bug, ledger: newLedger(w)}
	s.pace = []time.Duration{time.Second, time.Minute, 10 * time.Minute}[w.rng.IntN(3)]
	s.faulty, s.mortal = w.chance(2), w.chance(3)
	if err := s.build(); err != nil {
		w.fail(RuleStore, "%v", err)
	}
	s.storm()
	s.clear()
	if w.found == nil {
		s.host.check()
		s.ledger.final(s.host.raw)
		s.reportAll()
	}
	s.end()
	return Result{Seed: seed, Hash: w.hash, Violation: w.found, Steps: w.steps, Letters: len(s.ledger.letters),
		Visits: s.visits, Lives: s.host.era, Took: time.Duration(w.now - epoch), Met: w.met}
}

// build makes the host, its accounts and all who talk to it.
func (s *Sim) build() error {
	w := s.w
	s.host = &host{s: s, w: w, ledger: s.ledger, disk: crashfs.New()}
	var accounts []*account.Account
	for i := range w.between(1, 3) {
		a := &account.Account{Name: fmt.Sprintf("customer%d", i)}
		for j := range w.between(1, 3) {
			a.Domains = append(a.Domains, fmt.Sprintf("%c%d.example", 'a'+i, j))
		}
		password := fmt.Sprintf("secret%d", i)
		a.CRAMMD5 = account.DeriveCRAMMD5(password)
		accounts = append(accounts, a)
		s.domains = append(s.domains, a.Domains...)
		s.customers = append(s.customers, &customer{s: s, w: w, account: a, password: password})
	}
	var err error
	if s.host.dir, err = account.NewTable(accounts...); err != nil {
		return err
	}
	s.host.auth, err = account.NewAuthenticator(s.host.dir, account.AuthConfig{
		Hostname: "odmr.example", Mechanisms: []string{account.CRAMMD5},
		Clock: func() time.Time { return time.Unix(0, w.now) }, Secret: make([]byte, account.SecretSize)})
	if err != nil {
		return err
	}
	s.host.configure()
	s.host.start()
	for range w.between(1, 3) {
		m := &mx{s: s, w: w, left: w.between(3, 20)}
		s.mxs = append(s.mxs, m)
		m.next()
	}
	for _, c := range s.customers {
		c.next(w.within(s.pace))
	}
	return nil
}

// storm is the time in which things go wrong.
func (s *Sim) storm() {
	w := s.w
	crashes := w.rng.IntN(5)
	next := w.between(50, 3000)
	house := w.between(50, 2000)
	for limit := w.between(1000, 15_000); w.steps < limit; {
		if !w.step() {
			return
		}
		if w.steps >= next && crashes > 0 {
			crashes--
			next = w.steps + w.between(50, 3000)
			s.host.crash(w.chance(2))
		}
		if w.steps >= house {
			house = w.steps + w.between(50, 2000)
			s.host.housekeep()
		}
	}
}

// clear lets the weather clear, and all customers collect until nothing is left.
func (s *Sim) clear() {
	w := s.w
	w.trace("the weather clears")
	s.calm = true
	for _, m := range s.mxs {
		m.left = 0
	}
	for !s.host.up && w.step() { // it starts again
	}
	s.host.full = false
	s.host.speedUp()
	s.host.policy.linger, s.host.policy.wait = 0, 0
	s.host.housekeep()
	for _, c := range s.customers {
		c.dry, c.calls = false, 0
		c.next(0)
	}
	for w.step() {
		if w.steps > maxSteps {
			w.fail(RuleProtocol, "no end in %d steps", maxSteps)
		}
		for _, c := range s.customers {
			if c.calls > maxCalls {
				w.fail(RuleLost, "%s has called %d times, and its queue is not dry", c.account.Name, c.calls)
			}
		}
	}
}

// end gives the store back.
func (s *Sim) end() {
	if s.host.up {
		s.host.speedUp()
		s.host.up = false
		s.host.bury(false)
		if err := s.host.raw.Close(); err != nil {
			s.w.fail(RuleStore, "close: %v", err)
		}
	}
}
