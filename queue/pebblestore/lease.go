package pebblestore

import (
	"fmt"
	"slices"
	"strings"
	"sync"

	"odmr/internal/mail"
	"odmr/queue"
)

// lease is the exclusive right to drain some domains. One Next and one Settle may run at the same time; what
// concerns both of them is under mu, everything else belongs to the one or the other.
type lease struct {
	store    *Store
	domains  []string
	ledgers  []*ledger
	turn     int // ledger from which Next goes on
	released bool
	small    int64                       // Next: up to so many octets a message may overtake larger ones; 0: none may
	unread   func(id mail.ID, err error) // see PassOver; nil: Next says what cannot be read
	notify   func()                      // see Notify. It belongs to Store.mu.

	mu sync.Mutex // short: for out and left of the ledgers. Taken before Store.mu
}

// ledger is what a lease knows about one of its domains.
type ledger struct {
	domain  *domain
	kept    []uint64               // Next: of domain.kept, not yet handed out
	cursor  uint64                 // Next: entries from here were not looked at yet
	claimed uint64                 // Settle: last place that the one at hand names
	out     map[uint64]outstanding // lease.mu: handed out and not settled
	// Next: large messages that smaller ones go before, in order, at most maxOvertaken, and whose senders' they are.
	overtaken []uint64
	behind    map[string]struct{}

	left []uint64 // lease.mu: stay in the queue though handed out; see leave

	// handed counts what was handed out (or passed over) and still is in the domain's counts.
	// It belongs to Store.mu.
	handed queue.Counts
}

// outstanding is a delivery that waits for its settlement.
type outstanding struct {
	id         mail.ID
	size       int64 // of the body on the wire
	entry      int   // octets of the entry record
	record     int   // octets of the body record
	chunks     uint32
	stands     bodyPlace // of the body
	recipients int
	fresh      bool // all recipients are pending: its settlement needs no look at the entry
	shared     bool // the body may have other entries
}

// Acquire implements queue.Store. It waits for a call that holds one of the domains.
func (s *Store) Acquire(domains []string) (queue.Lease, error) {
	if err := s.enter(); err != nil {
		return nil, err
	}
	defer s.leave()
	l := &lease{store: s, domains: make([]string, 0, len(domains))}
	for _, name := range domains {
		if !validDomain(name) {
			return nil, fmt.Errorf("pebblestore: cannot lease domain %q", name)
		}
		if !slices.Contains(l.domains, name) {
			l.domains = append(l.domains, strings.Clone(name))
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.unleased(l.domains); err != nil {
		return nil, err
	}
	l.ledgers = make([]*ledger, len(l.domains))
	for i, name := range l.domains {
		d := s.use(name)
		d.lease = l
		l.ledgers[i] = &ledger{domain: d, kept: slices.Clone(d.kept), cursor: d.head}
	}
	return l, nil
}

// unleased waits until no call holds any of the domains, and says whether one of
// them is leased. mu is held.
func (s *Store) unleased(domains []string) error {
	for i := 0; i < len(domains); {
		d := s.domains[domains[i]]
		switch {
		case d == nil:
			i++
		case d.lease != nil:
			return queue.ErrBusy
		case d.held > 0:
			s.unheld.Wait()
			i = 0
		default:
			i++
		}
	}
	return nil
}

func (l *lease) Domains() []string { return l.domains }

func (l *lease) Waiting() queue.Counts {
	s := l.store
	s.mu.Lock()
	defer s.mu.Unlock()
	return l.waiting()
}

// waiting is Waiting with Store.mu held.
func (l *lease) waiting() (c queue.Counts) {
	for _, g := range l.ledgers {
		c.Messages += g.domain.counts.Messages - g.handed.Messages
		c.Bytes += g.domain.counts.Bytes - g.handed.Bytes
	}
	return c
}

// Notify implements queue.Lease.
func (l *lease) Notify(fn func()) {
	s := l.store
	s.mu.Lock()
	there := fn != nil && !l.released && l.waiting().Messages > 0
	if l.notify = nil; !there && !l.released {
		l.notify = fn
	}
	s.mu.Unlock()
	if there {
		fn()
	}
}

// Next implements queue.Lease. A call goes on with the domain where the one before it stopped.
func (l *lease) Next(dst []queue.Delivery, limit queue.Limit) ([]queue.Delivery, error) {
	if l.released {
		return dst, queue.ErrLeaseLost
	}
	s := l.store
	if err := s.enter(); err != nil {
		return dst, err
	}
	defer s.leave()
	c := collector{lease: l, dst: dst, messages: max(limit.Messages, 1), bytes: limit.Bytes}
	for range l.ledgers {
		g := l.ledgers[l.turn]
		s.mu.Lock()
		g.receive()
		waiting := g.domain.counts.Messages - g.handed.Messages
		durable := g.domain.durable
		c.placed, c.knows = g.places(s)
		s.mu.Unlock()
		if waiting > 0 {
			if err := c.drain(g, waiting, durable); err != nil {
				return c.dst, fmt.Errorf("pebblestore: queue of %s: %w", g.domain.name, err)
			}
			if c.full() {
				break
			}
		}
		l.turn = (l.turn + 1) % len(l.ledgers)
	}
	return c.dst, nil
}

// leave notes that the entry stays in the queue, for the next lease. More than maxKept need
// not be known one by one: from the first of those on the next lease looks at everything. lease.mu is held.
func (g *ledger) leave(seq uint64) {
	g.left = append(g.left, seq)
	if len(g.left) >= 4*maxKept {
		slices.Sort(g.left)
		g.left = g.left[:maxKept+1]
	}
}

// find returns the ledger of domain, or nil.
func (l *lease) find(domain string) *ledger {
	for _, g := range l.ledgers { // few: a customer's domains
		if g.domain.name == domain {
			return g
		}
	}
	return nil
}

func (l *lease) Release() {
	if l.released {
		return
	}
	l.released = true
	s := l.store
	s.mu.Lock()
	defer s.mu.Unlock()
	l.notify = nil
	for _, g := range l.ledgers {
		for seq := range g.out {
			g.leave(seq)
		}
		g.out = nil
		g.receive()
		d := g.domain
		s.forgetPlaces(d, g.cursor)
		if d.head = g.cursor; d.passed != 0 {
			d.head = min(d.head, d.passed)
		}
		d.keep(slices.Concat(g.left, g.kept, g.overtaken))
		d.lease, d.passed = nil, 0
		s.drop(d)
	}
}

// maxOvertaken bounds ledger.overtaken, and so the senders that are remembered: 140 KiB a domain at the most.
const maxOvertaken = 512

// PassOver implements queue.Lease.
func (l *lease) PassOver(fn func(id mail.ID, err error)) { l.unread = fn }

// SmallFirst implements queue.Lease. What earlier sessions left is looked at once more, in order: it may be large.
func (l *lease) SmallFirst(octets int64) {
	l.small = octets
	for _, g := range l.ledgers {
		if len(g.kept) > 0 {
			g.cursor, g.kept = min(g.cursor, g.kept[0]), nil
		}
	}
}

// waits says whether f is to be overtaken by smaller messages, and notes its sender.
func (l *lease) waits(g *ledger, f *found) bool {
	if l.small == 0 || f.err != nil {
		return false
	}
	if _, behind := g.behind[f.env.ReversePath]; !behind {
		if f.env.WireSize <= l.small {
			return false
		}
		if g.behind == nil {
			g.behind = make(map[string]struct{})
		}
		g.behind[strings.Clone(f.env.ReversePath)] = struct{}{}
	}
	return true
}
