package sim

import (
	"fmt"
	"io"
	"slices"
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

	faulty    bool     // reads fail now and then
	mortal    bool     // writes of the log, too
	calm      bool     // the weather has cleared: nothing fails any more, and customers are good
	boxes     int      // mailboxes with a lasting name in each domain; other recipients are of one letter only
	restless  bool     // accounts change
	moving    bool     // mail is imported
	hectic    bool     // and do so all the time
	orphans   []string // domains of nobody at present
	over      bool     // nobody collects any more
	mxs       []*mx
	customers []*customer
	mover     *mover // nil: nothing is imported
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
	maxSteps = 300_000
	maxCalls = 400 // of one customer
)

// Run runs the simulation of that seed. log gets the trace, or is nil.
func Run(seed uint64, bug Bug, log io.Writer) Result {
	w := newWorld(seed, log)
	s := &Sim{w: w, bug: bug, ledger: newLedger(w)}
	s.pace = []time.Duration{time.Second, time.Minute, 10 * time.Minute}[w.rng.IntN(3)]
	s.faulty, s.mortal, s.restless = w.chance(2), w.chance(3), w.chance(2)
	s.boxes, s.moving = 1+w.rng.IntN(3), w.chance(3)
	bug.weather(s)
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
	s.ledger.host = s.host
	s.host.smart = &smarthost{h: s.host, w: w}
	for i := range w.between(1, 3) {
		a := &account.Account{Name: fmt.Sprintf("customer%d", i)}
		for j := range w.between(1, 3) {
			a.Domains = append(a.Domains, fmt.Sprintf("%c%d.example", 'a'+i, j))
		}
		password := fmt.Sprintf("secret%d", i)
		a.CRAMMD5 = account.DeriveCRAMMD5(password)
		s.domains = append(s.domains, a.Domains...)
		s.customers = append(s.customers, &customer{s: s, w: w, account: a, domains: a.Domains, policy: w.newAccountPolicy(), password: password})
	}
	s.host.dir = &directory{}
	err := s.register()
	if err != nil {
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
	if s.moving {
		s.mover = s.newMover()
		s.mover.next()
	}
	return nil
}

// storm is the time in which things go wrong.
func (s *Sim) storm() {
	w := s.w
	crashes := w.rng.IntN(5)
	if s.bug == BugStopForgets {
		crashes = 20
	}
	next := w.between(50, 3000)
	house := w.between(50, 2000)
	change := w.between(200, 2500)
	for limit := w.between(1000, 15_000); w.steps < limit; {
		if !w.step() {
			return
		}
		if w.steps >= next && crashes > 0 {
			crashes--
			next = w.steps + w.between(50, 3000)
			if w.chance(3) || s.bug == BugStopForgets {
				s.host.stop()
			} else {
				s.host.crash(w.chance(2))
			}
		}
		if w.steps >= change && s.restless {
			change = w.steps + w.between(100, 2500)
			if s.hectic {
				change = w.steps + w.between(20, 200)
			}
			s.reload()
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
	for (!s.host.up || s.host.stopping) && w.step() { // it starts again
		if w.steps > maxSteps {
			w.fail(RuleProtocol, "the server does not come back in %d steps: %v %v", maxSteps, s.host.conns, len(s.host.jobs))
		}
	}
	s.settle()
	s.host.full = false
	s.host.speedUp()
	s.host.policy.linger, s.host.policy.wait = 0, 0
	s.host.keeping.Bounce = true
	s.host.housekeep()
	if s.mover != nil {
		s.mover.finish()
	}
	for _, c := range s.customers {
		c.dry, c.rests, c.calls = false, false, 0
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

// settle gives every domain to somebody, and ends all vacations and limits.
func (s *Sim) settle() {
	s.customers[0].domains = append(slices.Clone(s.customers[0].domains), s.orphans...)
	s.orphans = nil
	for _, c := range s.customers {
		c.policy = account.Policy{SmallFirst: c.policy.SmallFirst}
	}
	s.reloaded()
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
