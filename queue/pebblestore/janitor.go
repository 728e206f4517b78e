package pebblestore

import (
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"odmr/internal/mail"
)

// janitor is the store's one goroutine of its own. It does, each a bounded piece of work:
//
//   - at once: delete the pieces of messages that were given up (Abort must not wait for the disk);
//   - each tick: look at the free space;
//   - each tick: if nothing was committed or settled since the tick before, and at least
//     Options.FlushDeleted octets of bodies were deleted since the last such flush, flush the memtable.
//     Deleted mail takes up disk space until its tombstones reach the tables, and an idle store would
//     not flush for days. Compactions follow by themselves.
type janitor struct {
	store *Store
	quit  chan struct{}
	done  chan struct{}
	wake  chan struct{}

	mu        sync.Mutex
	forgotten []mail.ID

	freed    atomic.Int64  // octets deleted since the last flush here
	activity atomic.Uint64 // grows with every commit and settlement
}

func (j *janitor) start(s *Store) {
	j.store = s
	j.quit = make(chan struct{})
	j.done = make(chan struct{})
	j.wake = make(chan struct{}, 1)
	go j.run()
}

// stop ends the goroutine after what it is at. Nothing may be forgotten from then on.
func (j *janitor) stop() {
	close(j.quit)
	<-j.done
	j.deleteForgotten()
}

func (j *janitor) run() {
	defer close(j.done)
	t := time.NewTicker(j.store.opts.Tick)
	defer t.Stop()
	seen := j.activity.Load()
	for {
		select {
		case <-j.quit:
			return
		case <-j.wake:
			j.deleteForgotten()
		case <-t.C:
			j.store.space.look()
			now := j.activity.Load()
			if now == seen {
				j.flushIdle()
			}
			seen = now
		}
	}
}

// forget has the pieces of id deleted soon.
func (j *janitor) forget(id mail.ID) {
	j.mu.Lock()
	j.forgotten = append(j.forgotten, id)
	j.mu.Unlock()
	select {
	case j.wake <- struct{}{}:
	default: // is awake already
	}
}

func (j *janitor) deleteForgotten() {
	s := j.store
	j.mu.Lock()
	ids := j.forgotten
	j.forgotten = nil
	j.mu.Unlock()
	for _, id := range ids {
		if err := s.deleteChunks(id); err != nil {
			s.opts.Events.BackgroundError(fmt.Errorf("pebblestore: pieces of %v: %w", id, err))
			continue // stays in incoming; the next Open sweeps it
		}
		s.mu.Lock()
		delete(s.incoming, id)
		s.mu.Unlock()
	}
}

// deleted notes that so many octets of bodies left the store.
func (j *janitor) deleted(octets int64) {
	j.activity.Add(1)
	j.freed.Add(octets)
}

// flushIdle is called when the store was idle for a tick.
func (j *janitor) flushIdle() {
	s := j.store
	if s.opts.FlushDeleted < 0 || j.freed.Load() < s.opts.FlushDeleted {
		return
	}
	j.freed.Store(0)
	if _, err := s.db.AsyncFlush(); err != nil {
		s.opts.Events.BackgroundError(fmt.Errorf("pebblestore: flush: %w", err))
	}
}
