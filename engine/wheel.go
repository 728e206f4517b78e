package engine

import (
	"time"

	"odmr/engine/session"
)

const (
	// tickInterval is how often a loop looks at its wheel, and so how exact a deadline is: far finer than
	// any time-out of RFC 5321 4.5.3.2, which are minutes.
	tickInterval = 100 * time.Millisecond
	// wheelSlots is how many ticks one round of the wheel takes (51.2 s). A deadline further off
	// stays in its slot and is looked at once in a round.
	wheelSlots = 512
)

// timer is a conn's place in the wheel of its loop.
type timer struct {
	next, prev *timer
	due        int64 // the tick at which it fires; valid while queued
	c          *conn
}

func (t *timer) queued() bool { return t.next != nil }

func (t *timer) unlink() {
	if t.next == nil {
		return
	}
	t.prev.next, t.next.prev = t.next, t.prev
	t.next, t.prev = nil, nil
}

// wheel is a hashed timer wheel of one loop: nothing in it is locked. Setting a deadline later
// than the one queued costs nothing: the timer fires early, and whoever owns it sets it anew.
type wheel struct {
	slots [wheelSlots]timer // list heads
	tick  int64             // the last tick that was fired
}

func tickOf(t session.Time) int64 { return t / int64(tickInterval) }

func (w *wheel) init(now session.Time) {
	for i := range w.slots {
		h := &w.slots[i]
		h.next, h.prev = h, h
	}
	w.tick = tickOf(now)
}

// set makes sure that t fires soon after deadline, or earlier.
func (w *wheel) set(t *timer, deadline session.Time) {
	if deadline == session.Never {
		return
	}
	due := max(tickOf(deadline)+1, w.tick+1) // rounded up: never before the deadline
	if t.queued() {
		if t.due <= due {
			return
		}
		t.unlink()
	}
	t.due = due
	h := &w.slots[due%wheelSlots]
	t.next, t.prev = h, h.prev
	h.prev.next, h.prev = t, t
}

// advance unlinks every timer that is due at now and calls fire for it. fire may set any timer.
func (w *wheel) advance(now session.Time, fire func(*timer)) {
	target := tickOf(now)
	if target-w.tick > wheelSlots { // the loop or the machine slept: one round sees every slot
		w.tick = target - wheelSlots
	}
	for w.tick < target {
		w.tick++
		h := &w.slots[w.tick%wheelSlots]
		if h.next == h {
			continue
		}
		// Taken as a whole, so that what fire sets anew is not met again in this slot.
		var due timer
		due.next, due.prev = h.next, h.prev
		due.next.prev, due.prev.next = &due, &due
		h.next, h.prev = h, h
		for due.next != &due {
			t := due.next
			t.unlink()
			if t.due > w.tick { // a later round
				t.next, t.prev = h, h.prev
				h.prev.next, h.prev = t, t
				continue
			}
			fire(t)
		}
	}
}
