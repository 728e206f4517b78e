package letters

import (
	"fmt"
	"math/bits"
	"strings"
	"sync"
	"sync/atomic"
)

// maxRemarks is how many single faults a Ledger describes in words.
const maxRemarks = 5

// Ledger knows which messages were acknowledged and which arrived. Numbers run from 0 to its size.
type Ledger struct {
	acked, arrived []uint64 // a bit for each number
	ackedN         atomic.Int64
	arrivedN       atomic.Int64
	again          atomic.Int64
	altered        atomic.Int64
	strange        atomic.Int64
	disordered     atomic.Int64

	mu      sync.Mutex
	remarks []string
}

// NewLedger makes a ledger for the numbers below n.
func NewLedger(n uint64) *Ledger {
	words := (n + 63) / 64
	return &Ledger{acked: make([]uint64, words), arrived: make([]uint64, words)}
}

// mark sets the bit of id and reports whether it was clear; ok is false beyond the end.
func mark(set []uint64, id uint64) (first, ok bool) {
	if id/64 >= uint64(len(set)) {
		return false, false
	}
	bit := uint64(1) << (id % 64)
	return atomic.OrUint64(&set[id/64], bit)&bit == 0, true
}

// Acked notes that the server took responsibility for message id.
func (l *Ledger) Acked(id uint64) {
	if first, ok := mark(l.acked, id); ok && first {
		l.ackedN.Add(1)
	}
}

// Arrived notes what a Judge says of a message that came out.
func (l *Ledger) Arrived(j *Judge) (id uint64, ok bool) {
	id, intact, known := j.End()
	if !known {
		l.strange.Add(1)
		l.remark("a message came without the harness's first line")
		return 0, false
	}
	if !intact {
		l.altered.Add(1)
		l.remark("message %d came altered", id)
		return id, false
	}
	first, within := mark(l.arrived, id)
	switch {
	case !within:
		l.strange.Add(1)
		l.remark("message %d came, which nobody sent in this run", id)
		return id, false
	case !first:
		l.again.Add(1)
		l.remark("message %d came a second time", id)
		return id, false
	}
	l.arrivedN.Add(1)
	return id, true
}

// Disordered notes that message id overtook one that was handed in before it.
func (l *Ledger) Disordered(id uint64) {
	l.disordered.Add(1)
	l.remark("message %d came behind a later one of its domain", id)
}

func (l *Ledger) remark(format string, args ...any) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.remarks) < maxRemarks {
		l.remarks = append(l.remarks, fmt.Sprintf(format, args...))
	}
}

// AckedCount is how many messages were acknowledged so far.
func (l *Ledger) AckedCount() int64 { return l.ackedN.Load() }

// ArrivedCount is how many messages arrived so far, each counted once.
func (l *Ledger) ArrivedCount() int64 { return l.arrivedN.Load() }

// Verdict is what a Ledger says once all is over.
type Verdict struct {
	Acked      int64 // acknowledged by the server
	Arrived    int64 // arrived intact, each counted once
	Lost       int64 // acknowledged and not arrived
	Again      int64 // arrivals beyond the first
	Altered    int64 // hash or size wrong
	Strange    int64 // not of this run
	Disordered int64 // behind a later message of the same domain
	Remarks    []string
}

// Verdict counts. Nobody may be writing any more.
func (l *Ledger) Verdict() Verdict {
	v := Verdict{
		Acked: l.ackedN.Load(), Arrived: l.arrivedN.Load(), Again: l.again.Load(),
		Altered: l.altered.Load(), Strange: l.strange.Load(), Disordered: l.disordered.Load(),
	}
	for i := range l.acked {
		v.Lost += int64(bits.OnesCount64(l.acked[i] &^ l.arrived[i]))
	}
	l.mu.Lock()
	v.Remarks = append(v.Remarks, l.remarks...)
	l.mu.Unlock()
	return v
}

// Clean reports whether every acknowledged message arrived exactly once, unaltered and in order.
func (v Verdict) Clean() bool { return v.Faults() == 0 }

// Faults is the number of all that went wrong.
func (v Verdict) Faults() int64 { return v.Lost + v.Again + v.Altered + v.Strange + v.Disordered }

func (v Verdict) String() string {
	if v.Clean() {
		return fmt.Sprintf("all %d acknowledged messages arrived exactly once, unaltered and in order", v.Acked)
	}
	text := fmt.Sprintf("of %d acknowledged messages %d arrived; lost %d, again %d, altered %d, strange %d, out of order %d",
		v.Acked, v.Arrived, v.Lost, v.Again, v.Altered, v.Strange, v.Disordered)
	if len(v.Remarks) > 0 {
		text += ": " + strings.Join(v.Remarks, "; ")
	}
	return text
}
