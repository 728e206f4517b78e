package pebblestore

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/cockroachdb/pebble/v2"

	"odmr/internal/mail"
)

// janitor is the store's one goroutine of its own. It does, each a bounded piece of work:
//
//   - at once: delete the pieces of messages that were given up (Abort must not wait for the disk);
//   - each tick: look at the free space;
//   - once a day: forget stamps whose time is over;
//   - each tick: give disk space back, if nothing was committed or settled since the tick before (see
//     reclaim).
type janitor struct {
	store  *Store
	quit   chan struct{}
	done   chan struct{}
	wake   chan struct{}
	cancel context.CancelFunc // ends a compaction that reclaim began
	ctx    context.Context

	sweptStamps time.Time // when stamps were looked through

	flushed    bool // reclaim has flushed, and not yet looked at the garbage
	compaction sync.WaitGroup
	compacting atomic.Bool

	mu        sync.Mutex
	forgotten []pieces

	freed    atomic.Int64  // octets deleted since the last flush here
	activity atomic.Uint64 // grows with every commit and settlement
}

func (j *janitor) start(s *Store) {
	j.store = s
	j.quit = make(chan struct{})
	j.done = make(chan struct{})
	j.wake = make(chan struct{}, 1)
	j.ctx, j.cancel = context.WithCancel(context.Background())
	if s.opts.still {
		close(j.done)
		return
	}
	go j.run()
}

// stop ends the goroutine after what it is at. Nothing may be forgotten from then on.
func (j *janitor) stop() {
	close(j.quit)
	j.cancel()
	<-j.done
	j.compaction.Wait()
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
			j.forgetStamps()
			now := j.activity.Load()
			if now == seen {
				j.reclaim()
			}
			seen = now
		}
	}
}

// pieces are those of a message that was given up.
type pieces struct {
	id     mail.ID
	chunks uint32
	size   int64 // octets in all
}

// forget has p deleted soon.
func (j *janitor) forget(p pieces) {
	j.mu.Lock()
	j.forgotten = append(j.forgotten, p)
	j.mu.Unlock()
	select {
	case j.wake <- struct{}{}:
	default: // is awake already
	}
}

func (j *janitor) deleteForgotten() {
	s := j.store
	j.mu.Lock()
	given := j.forgotten
	j.forgotten = nil
	j.mu.Unlock()
	for _, p := range given {
		if err := s.forgetPieces(p); err != nil {
			s.opts.Events.BackgroundError(fmt.Errorf("pebblestore: pieces of %v: %w", p.id, err))
		}
	}
}

// forgetPieces deletes the pieces of a message that was given up. If that fails it stays in
// incoming, and the next Open sweeps it.
func (s *Store) forgetPieces(p pieces) error {
	s.frozen.RLock()
	defer s.frozen.RUnlock()
	b := s.db.NewBatch()
	if err := deletePieces(b, p.id, p.chunks, p.size); err != nil {
		return errors.Join(err, b.Close())
	}
	if err := b.Commit(pebble.NoSync); err != nil { // if that is lost, sweep does it again
		return err
	}
	s.mu.Lock()
	delete(s.incoming, p.id)
	s.mu.Unlock()
	return nil
}

// deleted notes that so many octets of bodies left the store.
func (j *janitor) deleted(octets int64) {
	j.activity.Add(1)
	j.freed.Add(octets)
}

// reclaim gives the disk space of deleted mail back. It is called when the store was idle for a tick, and
// takes one step of two:
//
//  1. If at least Options.FlushDeleted octets of bodies were deleted since the last time, the memtable
//     is flushed. Deleted mail takes up space until its tombstones are in the tables, and an idle store
//     would not flush for days.
//  2. After that, once Pebble has no compaction of its own to do: if tombstones, and blob files with dead
//     values, still hold down that many octets, the tables of bodies are compacted. Pebble does so by itself only as more is written. Bodies stand
//     apart in blob files, so this moves keys and small bodies and drops the files of the others.
//
// One compaction runs at a time, and Close ends it.
func (j *janitor) reclaim() {
	s := j.store
	if s.opts.FlushDeleted < 0 || j.compacting.Load() {
		return
	}
	if j.freed.Load() >= s.opts.FlushDeleted {
		j.freed.Store(0)
		j.flushed = true
		if _, err := s.db.AsyncFlush(); err != nil {
			s.opts.Events.BackgroundError(fmt.Errorf("pebblestore: flush: %w", err))
		}
		return
	}
	if !j.flushed {
		return
	}
	m := s.db.Metrics()
	if m.Flush.NumInProgress > 0 || m.MemTable.Count > 1 || m.Compact.NumInProgress > 0 ||
		m.Table.PendingStatsCollectionCount > 0 { // garbage is not known yet
		return
	}
	j.flushed = false
	garbage := m.Table.Garbage.PointDeletionsBytesEstimate + m.Table.Garbage.RangeDeletionsBytesEstimate
	// Where tombstones are left at all, they may hold the last living values of large blob files.
	if dead := m.BlobFiles.ValueSize - m.BlobFiles.ReferencedValueSize; garbage == 0 || garbage+dead < uint64(s.opts.FlushDeleted) {
		return
	}
	j.compacting.Store(true)
	j.compaction.Go(func() {
		defer j.compacting.Store(false)
		if err := s.db.Compact(j.ctx, []byte{spaceBody}, []byte{spaceOwn + 1}, false); err != nil && j.ctx.Err() == nil {
			s.opts.Events.BackgroundError(fmt.Errorf("pebblestore: compaction: %w", err))
		}
	})
}
