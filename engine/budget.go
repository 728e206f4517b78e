package engine

import (
	"sync"
	"sync/atomic"
)

// minShare is the least that one prefetch is granted, in octets: a handful of ordinary messages.
const minShare = 64 << 10

// leastSharers is among how many sessions the memory is shared out at least.
const leastSharers = 4

// ingestBudget bounds the octets of bodies on their way in.
type ingestBudget struct {
	mu          sync.Mutex
	limit, used int64
}

// reserve takes n octets, or reports that there is no room.
func (b *ingestBudget) reserve(n int64) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.used+n > b.limit {
		return false
	}
	b.used += n
	return true
}

// charge takes n octets, room or not; negative n gives back.
func (b *ingestBudget) charge(n int64) {
	b.mu.Lock()
	b.used += n
	b.mu.Unlock()
}

// waiter is a prefetch or a body that waits for memory.
type waiter struct {
	home *loop
	conn uint64
	kind eventKind // evGrant or evRoom
	want int64
}

// prefetchBudget bounds the octets of bodies held ready for customers, and shares them out. Those
// who find no room wait in line; each session waits at most once for each kind. While somebody waits, whoever
// is not about to write gives up what it holds: see reclaim.go.
type prefetchBudget struct {
	mu          sync.Mutex
	limit, used int64
	sessions    int64 // how many share it
	line        []waiter
	waiting     atomic.Bool // line is not empty
	press       func()      // called when the first comes to wait, without mu
}

// pressed reports whether somebody waits for memory.
func (b *prefetchBudget) pressed() bool { return b.waiting.Load() }

// join and leave count the sessions that share the budget.
func (b *prefetchBudget) join()  { b.mu.Lock(); b.sessions++; b.mu.Unlock() }
func (b *prefetchBudget) leave() { b.mu.Lock(); b.sessions--; b.mu.Unlock() }

// share is what one session may ask for at once: never so much that it would have to have all.
func (b *prefetchBudget) share(asked int64) int64 {
	b.mu.Lock()
	defer b.mu.Unlock()
	return max(min(asked, b.limit/max(b.sessions, leastSharers)), minShare)
}

// reserve takes w.want octets and returns true, or puts w in line: an event of w.kind comes when there is room.
func (b *prefetchBudget) reserve(w waiter) bool {
	b.mu.Lock()
	if len(b.line) == 0 && b.fits(w.want) {
		b.used += w.want
		b.mu.Unlock()
		return true
	}
	b.line = append(b.line, w)
	first := !b.waiting.Swap(true)
	b.mu.Unlock()
	if first && b.press != nil {
		b.press()
	}
	return false
}

// fits says yes to anything when nothing is in use, lest a wish greater than the limit waits for ever.
func (b *prefetchBudget) fits(n int64) bool { return b.used == 0 || b.used+n <= b.limit }

// charge corrects what is in use by n octets; negative n gives back and lets others in.
func (b *prefetchBudget) charge(n int64) {
	if n == 0 {
		return
	}
	b.mu.Lock()
	b.used += n
	granted := 0
	for granted < len(b.line) && b.fits(b.line[granted].want) {
		b.used += b.line[granted].want
		granted++
	}
	var lucky []waiter
	if granted > 0 {
		lucky = append(lucky, b.line[:granted]...)
		b.line = append(b.line[:0], b.line[granted:]...)
		b.waiting.Store(len(b.line) > 0)
	}
	b.mu.Unlock()
	for _, w := range lucky {
		w.home.inbox.post(event{kind: w.kind, conn: w.conn, n: w.want})
	}
}
