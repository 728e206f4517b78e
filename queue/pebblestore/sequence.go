package pebblestore

import (
	"sync/atomic"
	"time"
)

// sequence is the counter from which queue ids and places in line come: Unix microseconds
// in the upper bits, or one more than the last where the clock has not moved on (or went
// back). It grows for the whole life of a store: the store keeps a bound on disk (the key
// "msequence") that is always ahead of what any durable record uses, and starts from it.
type sequence struct {
	now  func() time.Time
	last atomic.Uint64
}

const (
	// sequenceShift leaves 4096 numbers for each microsecond; 64 bits last until the year 2112.
	sequenceShift = 12
	// sequenceAhead is how far the bound on disk runs ahead: one minute of clock. After a
	// crash the counter starts that far in the future at most, and the clock catches up.
	sequenceAhead = 60_000_000 << sequenceShift
)

func (q *sequence) next() uint64 {
	t := uint64(max(q.now().UnixMicro(), 0)) << sequenceShift
	for {
		last := q.last.Load()
		n := max(last+1, t)
		if q.last.CompareAndSwap(last, n) {
			return n
		}
	}
}

// atLeast raises the counter to n.
func (q *sequence) atLeast(n uint64) {
	for {
		last := q.last.Load()
		if n <= last || q.last.CompareAndSwap(last, n) {
			return
		}
	}
}
