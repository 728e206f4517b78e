package engine

import (
	"net/netip"
	"sync"
)

// networks counts sessions by the network that they come from, so that none can take all there is room for: SessionsPerAddress does not bound
// who has many addresses, as every home line with IPv6 has. While there is room nobody is refused, since all customers may
// come from one network (carrier-grade NAT); what is left at the end is for those that have less than others.
type networks struct {
	mu    sync.Mutex
	live  map[addressKey]int // those with some
	total int
}

const (
	// keptPart is which part of MaxSessions is kept for networks that have less than their share.
	keptPart = 8
	// fewSessions are never too many for a network's share.
	fewSessions = 16
)

// scarce reports whether so many sessions, the new one among them, leave no more than what is kept.
func scarce(sessions, most int64) bool { return sessions > most-most/keptPart }

// enter counts a session from addr. Where room is scarce it reports false instead if its network has its share, or more.
func (n *networks) enter(addr netip.Addr, scarce bool) bool {
	key := networkOf(addr)
	n.mu.Lock()
	defer n.mu.Unlock()
	if has := n.live[key]; scarce && has >= fewSessions && has*len(n.live) >= n.total {
		return false
	}
	if n.live == nil {
		n.live = make(map[addressKey]int)
	}
	n.live[key]++
	n.total++
	return true
}

// leave takes back what enter counted.
func (n *networks) leave(addr netip.Addr) {
	key := networkOf(addr)
	n.mu.Lock()
	defer n.mu.Unlock()
	n.total--
	if n.live[key]--; n.live[key] <= 0 {
		delete(n.live, key)
	}
}
