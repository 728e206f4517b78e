package engine

import (
	"sync"
	"time"
)

// eventKind says what an event brings.
type eventKind uint8

const (
	evDone        eventKind = iota + 1 // job has been carried out
	evWritable                         // the socket takes octets again
	evAgain                            // a flush stopped at its share of a turn: go on
	evShake                            // a TLS handshake has written, or wants to read
	evGrant                            // n octets of prefetch memory are granted to a prefetch
	evRoom                             // n octets of prefetch memory are granted to the body that waits
	evReclaim                          // somebody waits for prefetch memory: give up what can be given up
	evMail                             // mail is there that the session waits for
	evYield                            // another session asks for the lease of tenure n
	evRecheck                          // ask the directory for the sessions of part conn of n
	evRecheckMore                      // go on with those
	evDoubt                            // ask the directory for the session
	evFreed                            // a lease that the session waits for was given back
	evTick                             // look at the wheel
	evStop                             // the server is being stopped: ask every session to end
	evCut                              // the grace is over: end every session now
)

// event is what comes to a loop from elsewhere. It names its connection by id: a counter
// that is never used again, so that nothing can reach a stranger.
type event struct {
	kind eventKind
	conn uint64
	job  job
	n    int64
	at   time.Time // evTick: when it was posted
}

// discard gives back what the event carries. It is called when no loop is left to take it.
func (ev *event) discard() {
	if ev.job != nil {
		ev.job.discard()
	}
}

// inbox is the one way into a loop from elsewhere: a slice under a lock, and one wake-up of the
// loop for as many events as gather until it comes.
type inbox struct {
	mu     sync.Mutex
	events []event
	posted bool // the loop has been woken and has not come yet
	closed bool
	wake   func() error // makes the loop call take soon; called with mu held
}

// post brings ev to the loop. After close it gives back what ev carries.
func (in *inbox) post(ev event) {
	in.mu.Lock()
	if !in.closed {
		in.events = append(in.events, ev)
		if !in.posted {
			in.posted = in.wake() == nil
		}
		in.mu.Unlock()
		return
	}
	in.mu.Unlock()
	ev.discard()
}

// take returns the events so far, in the order in which they were posted, and keeps spare for later ones.
func (in *inbox) take(spare []event) []event {
	in.mu.Lock()
	defer in.mu.Unlock()
	events := in.events
	in.events = spare[:0]
	in.posted = false
	return events
}

// close refuses further events and gives back what those that nobody took carry. After it returns
// the loop is not woken any more: the caller may end it.
func (in *inbox) close() {
	in.mu.Lock()
	in.closed = true
	events := in.events
	in.events = nil
	in.mu.Unlock()
	for i := range events {
		events[i].discard()
	}
}
