// Package recipients knows for which recipients of a held domain mail is not worth holding: those that the
// customer's own server has said it does not know (Learned), and those that are not in a list which the customer
// has given (Listed).
//
// Refusing such mail while the customer is away spares its sender days, and us a bounce to somebody who may never have
// written it (backscatter). But what is refused wrongly is lost, so in doubt everything here lets mail in.
//
// # What is learned
//
// An address, exactly as written (local parts are case-sensitive, RFC 5321 2.4), that the customer's server answered
// with 550 5.1.1 to RCPT, no more general code, in a session whose share of refusals was normal (see
// engine/session/reversed_shield.go), for mail with a reverse-path: some servers refuse bounces and call-outs where they would
// take mail. Never postmaster (RFC 5321 4.5.1), and never what is written for one message or one correspondent only
// (VERP, BATV, SRS: a "=" in the local part, or SRS0 and SRS1 in front): it would fill the table and never be asked for again.
//
// # How it is forgotten
//
// By the first recipient of that name that is accepted, when its lifetime is over, where a domain has more than
// Limits.PerDomain, by the next one, all of a domain once it is another customer's, who has another server, and where there are more than Limits.Domains,
// all of a domain of the customer's who has most of them. It is in memory only: a restart forgets it, which costs some mail that is
// accepted and bounced later, as without it. While a session of the domain's customer runs nothing is
// refused: its server answers for itself.
//
// A Table is safe for use by many goroutines. The clock is the caller's; nothing here blocks.
package recipients

import (
	"strings"
	"sync"
	"time"
)

// Limits bound a Table.
type Limits struct {
	Lifetime  time.Duration // how long an address is remembered
	PerDomain int           // addresses of one domain
	Domains   int           // domains with such addresses; a further one takes the place of one of the customer's who has most
}

// Defaults of Limits.
const (
	DefaultLifetime  = 7 * 24 * time.Hour // a mailbox that is opened again is missed for so long at the most
	DefaultPerDomain = 1000               // about 60 KiB
	DefaultDomains   = 10_000
)

// Table is what was learned.
type Table struct {
	limits Limits

	mu      sync.Mutex
	domains map[string]*domain
	known   int            // domains of which some address is known: Limits.Domains bounds these, and not those in session
	owned   map[string]int // the same by customer; those with some
	swept   int64          // when, Unix time in nanoseconds
}

// domain is what is known of one customer domain. There is one while something is.
type domain struct {
	owner    string           // whose server until is from
	until    map[string]int64 // local part: when it is forgotten, Unix time in nanoseconds
	sessions int              // of its customer
}

// NewTable makes an empty Table; zero limits are the defaults.
func NewTable(l Limits) *Table {
	if l.Lifetime == 0 {
		l.Lifetime = DefaultLifetime
	}
	if l.PerDomain == 0 {
		l.PerDomain = DefaultPerDomain
	}
	if l.Domains == 0 {
		l.Domains = DefaultDomains
	}
	return &Table{limits: l, domains: map[string]*domain{}, owned: map[string]int{}}
}

// local is an address without its domain.
func local(address string) string {
	if at := strings.LastIndexByte(address, '@'); at >= 0 {
		return address[:at]
	}
	return address
}

// OneOff says that a local part is likely to be made for one message or correspondent.
func OneOff(local string) bool {
	return strings.IndexByte(local, '=') >= 0 || isSRS(local)
}

func isSRS(local string) bool {
	return len(local) > 4 && (strings.EqualFold(local[:4], "SRS0") || strings.EqualFold(local[:4], "SRS1"))
}

// Learn remembers that the server of owner, a customer, does not know address in domain name, at now (Unix time in
// nanoseconds).
func (t *Table) Learn(owner, name, address string, now int64) {
	l := local(address)
	if l == "" || OneOff(l) || strings.EqualFold(l, "postmaster") {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	d := t.domains[name]
	if d == nil || len(d.until) == 0 {
		if t.known >= t.limits.Domains && now-t.swept >= int64(t.limits.Lifetime/sweeps) {
			t.sweep(now)
		}
		if t.known >= t.limits.Domains && !t.makeRoom(owner) {
			return
		}
		if d = t.use(name); d.until == nil {
			d.until = map[string]int64{}
		}
		d.owner = strings.Clone(owner)
		t.count(d.owner, 1)
	}
	if d.owner != owner {
		t.count(d.owner, -1)
		d.owner = strings.Clone(owner)
		t.count(d.owner, 1)
		clear(d.until)
	}
	if _, known := d.until[l]; !known && len(d.until) >= t.limits.PerDomain {
		d.evict()
	}
	d.until[strings.Clone(l)] = now + int64(t.limits.Lifetime)
}

// count notes that of one domain more, or less, of a customer's some address is known. mu is held.
func (t *Table) count(owner string, by int) {
	t.known += by
	if t.owned[owner] += by; t.owned[owner] == 0 {
		delete(t.owned, owner)
	}
}

// makeRoom forgets a domain of the customer's who has most, for one of owner's who has fewer, and says whether it did: so whoever has thousands
// of domains keeps nobody else's out. mu is held.
func (t *Table) makeRoom(owner string) bool {
	largest := ""
	for o, n := range t.owned {
		if n > t.owned[largest] {
			largest = o
		}
	}
	if t.owned[largest] <= t.owned[owner]+1 { // they would push each other out in turns
		return false
	}
	for name, d := range t.domains {
		if d.owner == largest && len(d.until) > 0 {
			clear(d.until)
			t.count(largest, -1)
			t.drop(name, d)
			return true
		}
	}
	return false
}

// use returns the domain's record, made if need be. mu is held.
func (t *Table) use(name string) *domain {
	d := t.domains[name]
	if d == nil {
		d = &domain{}
		t.domains[strings.Clone(name)] = d
	}
	return d
}

// drop forgets a domain of which nothing is known. mu is held.
func (t *Table) drop(name string, d *domain) {
	if len(d.until) == 0 && d.sessions == 0 {
		delete(t.domains, name)
	}
}

// forget forgets an address. mu is held.
func (t *Table) forget(d *domain, l string) {
	if _, known := d.until[l]; known {
		if delete(d.until, l); len(d.until) == 0 {
			t.count(d.owner, -1)
		}
	}
}

// sweeps is how often in a lifetime a full Table is looked through at the most: everybody waits for that.
const sweeps = 16

// sweep forgets whatever is over. mu is held.
func (t *Table) sweep(now int64) {
	t.swept = now
	for name, d := range t.domains {
		for l, until := range d.until {
			if until <= now {
				t.forget(d, l)
			}
		}
		t.drop(name, d)
	}
}

// evict forgets the address that would be forgotten first.
func (d *domain) evict() {
	first, least := "", int64(0)
	for l, until := range d.until {
		if first == "" || until < least {
			first, least = l, until
		}
	}
	delete(d.until, first)
}

// Accept forgets that address is not known: the customer's server took it.
func (t *Table) Accept(name, address string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if d := t.domains[name]; d != nil && len(d.until) > 0 {
		t.forget(d, local(address))
		t.drop(name, d)
	}
}

// Unknown says whether mail for address is to be refused, now that its domain is owner's. It does not keep address.
func (t *Table) Unknown(owner, name string, address []byte, now int64) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	d := t.domains[name]
	if d == nil || d.sessions > 0 || len(d.until) == 0 || d.owner != owner {
		return false
	}
	l := address
	for i := len(l) - 1; i >= 0; i-- {
		if l[i] == '@' {
			l = l[:i]
			break
		}
	}
	until, known := d.until[string(l)]
	if known && until <= now {
		t.forget(d, string(l))
		t.drop(name, d)
	}
	return known && until > now
}

// Any says whether some address of the domain might be refused.
func (t *Table) Any(name string) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	d := t.domains[name]
	return d != nil && len(d.until) > 0
}

// Online says that a session of the domains' customer has begun: it answers for itself. Offline ends it.
func (t *Table) Online(names []string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, name := range names {
		t.use(name).sessions++
	}
}

// Offline is the end of a session that Online began, with the same domains.
func (t *Table) Offline(names []string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, name := range names {
		if d := t.domains[name]; d != nil {
			d.sessions--
			t.drop(name, d)
		}
	}
}

// Sessions is how many sessions of the domain's customer there are.
func (t *Table) Sessions(name string) int {
	t.mu.Lock()
	defer t.mu.Unlock()
	if d := t.domains[name]; d != nil {
		return d.sessions
	}
	return 0
}
