package sim

import (
	"container/heap"
	"fmt"
	"hash/fnv"
	"io"
	"math/rand/v2"
	"time"
)

// epoch is when every simulation begins.
const epoch = int64(1_700_000_000_000_000_000)

// world is what everything in a simulation shares: time, chance and the record of what happened.
type world struct {
	rng    *rand.Rand
	now    int64 // Unix time in nanoseconds
	events events
	serial uint64
	steps  int

	hash  uint64
	log   io.Writer // the trace for people, or nil
	found *Violation
	met   map[string]int // what happened how often: a day on which nothing goes wrong proves nothing
}

// Violation is a promise that was broken.
type Violation struct {
	Rule Rule
	Text string
	At   time.Duration // since the beginning
	Step int
}

func (v *Violation) String() string {
	return fmt.Sprintf("%s: %s (at %v, step %d)", v.Rule, v.Text, v.At, v.Step)
}

// event is something that happens at a time; those of one time happen in the order of their making.
type event struct {
	at     int64
	serial uint64
	do     func()
}

type events []event

func (e events) Len() int { return len(e) }
func (e events) Less(i, j int) bool {
	return e[i].at < e[j].at || e[i].at == e[j].at && e[i].serial < e[j].serial
}
func (e events) Swap(i, j int) { e[i], e[j] = e[j], e[i] }
func (e *events) Push(x any)   { *e = append(*e, x.(event)) }
func (e *events) Pop() any {
	last := len(*e) - 1
	x := (*e)[last]
	(*e)[last] = event{}
	*e = (*e)[:last]
	return x
}

func newWorld(seed uint64, log io.Writer) *world {
	return &world{rng: rand.New(rand.NewPCG(seed, 0x0d312)), now: epoch, log: log, hash: fnv64(nil, 0), met: map[string]int{}}
}

func fnv64(b []byte, h uint64) uint64 {
	f := fnv.New64a()
	for i := range 8 {
		f.Write([]byte{byte(h >> (8 * i))})
	}
	f.Write(b)
	return f.Sum64()
}

// after has f happen in d.
func (w *world) after(d time.Duration, f func()) { w.at(w.now+int64(max(d, 0)), f) }

func (w *world) at(t int64, f func()) {
	w.serial++
	heap.Push(&w.events, event{max(t, w.now), w.serial, f})
}

// step lets the next event happen; false if there is none, or if a promise was broken.
func (w *world) step() bool {
	if len(w.events) == 0 || w.found != nil {
		return false
	}
	e := heap.Pop(&w.events).(event)
	w.now = e.at
	w.steps++
	e.do()
	return true
}

// trace records something that happened.
func (w *world) trace(format string, args ...any) {
	line := fmt.Appendf(nil, "%12.6f ", float64(w.now-epoch)/1e9)
	line = fmt.Appendf(line, format, args...)
	w.hash = fnv64(line, w.hash)
	if w.log != nil {
		w.log.Write(append(line, '\n'))
	}
}

// fail records that a promise was broken. The first one counts, and ends the simulation.
func (w *world) fail(rule Rule, format string, args ...any) {
	if w.found != nil {
		return
	}
	w.found = &Violation{Rule: rule, Text: fmt.Sprintf(format, args...), At: time.Duration(w.now - epoch), Step: w.steps}
	w.trace("VIOLATION %v", w.found)
}

// meet counts something that a simulation is to have met.
func (w *world) meet(what string) { w.met[what]++ }

// chance is true once in n times.
func (w *world) chance(n int) bool { return w.rng.IntN(n) == 0 }

// between is a number from lo to hi, both included.
func (w *world) between(lo, hi int) int { return lo + w.rng.IntN(hi-lo+1) }

// soon is a short time: mostly well below a millisecond, now and then some seconds.
func (w *world) soon() time.Duration {
	switch {
	case w.chance(200):
		return time.Duration(w.rng.Int64N(int64(8 * time.Second)))
	case w.chance(10):
		return time.Duration(w.rng.Int64N(int64(100 * time.Millisecond)))
	}
	return time.Duration(w.rng.Int64N(int64(time.Millisecond)))
}

// within is a time up to d.
func (w *world) within(d time.Duration) time.Duration {
	return time.Duration(w.rng.Int64N(int64(d) + 1))
}
