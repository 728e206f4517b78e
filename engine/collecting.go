package engine

import (
	"slices"
	"sync"
	"time"

	"odmr/engine/session"
	"odmr/internal/account"
	"odmr/internal/mail"
)

// Busy says what becomes of an ATRN for a domain that another session of the customer is draining.
type Busy uint8

const (
	BusyTakeover Busy = iota // that session ends, and this one goes on
	BusyRefuse               // 451
)

// Collecting says how the sessions of one customer follow each other, and how long they wait for mail. An account's
// policy goes before Linger and ATRNInterval.
type Collecting struct {
	OnBusy           Busy
	TakeoverInterval time.Duration // a session that took over keeps its place for so long; 0: two may fight
	Linger           time.Duration // how long a session stays after all was collected; 0: it does not
	KeepAlive        time.Duration // silence after which it says NOOP meanwhile; 0: session.ReversedKeepAlive
	ATRNWait         time.Duration // how long ATRN waits for mail before it is answered by 453; 0: not at all
	ATRNInterval     time.Duration // least time between two ATRN of an account; 0: none
	IntervalCode     int           // what those that come too soon are answered: 453 (0 too) or 450
}

// Bounds that are not an operator's business.
const (
	// smallMessage is how large a message may be on the wire, in octets, to go first where an account wants small ones
	// first: what a modem takes in about ten seconds.
	smallMessage = 64 << 10
	// takeoverTime is how long a session waits for those that make way. They wait for the store and for nothing else.
	takeoverTime = 10 * time.Second
	// maxTakeovers is how often a session tries to take over where others are faster.
	maxTakeovers = 3
	// maxIntervals is of how many domains the last ATRN is remembered, in about 10 MB.
	maxIntervals = 1 << 16
)

func (c *Collecting) validate(bad func(format string, args ...any)) {
	if c.OnBusy > BusyRefuse {
		bad("Collecting.OnBusy: unknown %d", c.OnBusy)
	}
	if min(c.TakeoverInterval, c.Linger, c.KeepAlive, c.ATRNInterval, c.ATRNWait) < 0 {
		bad("Collecting: durations must not be negative")
	}
	if c.ATRNWait > mail.MaxATRNWait {
		bad("Collecting.ATRNWait: %s is more than %s", c.ATRNWait, mail.MaxATRNWait)
	}
	if c.IntervalCode != 0 && c.IntervalCode != 450 && c.IntervalCode != 453 {
		bad("Collecting.IntervalCode: %d is neither 450 nor 453", c.IntervalCode)
	}
}

// over returns the account's duration if it has one, else the server's. 0: off.
func over(own, server time.Duration) time.Duration {
	switch own {
	case 0:
		return server
	case account.Off:
		return 0
	}
	return own
}

// refuseTooSoon is the answer to an ATRN within the interval. RFC 2645 5.2.1 has 450 for it, which fetchmail takes for an
// error and reports; 453 is "nothing for now" to every client. Which client it is cannot be told: EHLO has a host's name.
func (c *Collecting) refuseTooSoon() *mail.Refusal {
	if c.IntervalCode == 450 {
		return &mail.Refusal{Code: 450, Text: "ATRN request refused: too soon after the last one"}
	}
	return &mail.Refusal{Code: 453, Text: "You have no mail: too soon after the last ATRN"}
}

// intervals remembers when accounts last collected all that there was in a domain. A session that was cut short does not count, nor
// does one that was refused: a customer whose line is lost comes back at once, and may. Nor does an ATRN that names other domains: who asks
// for one after the other would never get the second.
type intervals struct {
	mu   sync.Mutex
	last *lru[collected, session.Time]
}

type collected struct{ account, domain string }

func (i *intervals) init() { i.last = newLRU[collected, session.Time](maxIntervals) }

// note says that an ATRN of that time for domains has been answered by all there was.
func (i *intervals) note(account string, domains []string, at session.Time) {
	i.mu.Lock()
	defer i.mu.Unlock()
	for _, d := range domains {
		last := i.last.put(collected{account, d})
		*last = max(*last, at)
	}
}

// tooSoon says whether all of domains have been collected within the interval.
func (i *intervals) tooSoon(account string, domains []string, now session.Time, interval time.Duration) bool {
	if interval <= 0 {
		return false
	}
	i.mu.Lock()
	defer i.mu.Unlock()
	return !slices.ContainsFunc(domains, func(d string) bool {
		last := i.last.get(collected{account, d})
		return last == nil || now-*last >= session.Time(interval)
	})
}
