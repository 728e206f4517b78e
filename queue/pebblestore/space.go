package pebblestore

import (
	"errors"
	"fmt"
	"math"
	"sync"
	"sync/atomic"

	"github.com/cockroachdb/pebble/v2/vfs"

	"odmr/queue"
)

// ballastName is the file that is given up when the disk is full.
const ballastName = "BALLAST"

// space decides whether there is room for new mail. The janitor looks at the disk once a tick; in
// between, what is written is taken off, so that a burst cannot outrun the next look.
type space struct {
	store *Store
	free  atomic.Int64 // octets, or less: see wrote
	// refusing is why new mail is refused, or nil.
	refusing atomic.Pointer[string]

	mu      sync.Mutex
	ballast bool // the file is there
}

func (sp *space) init(s *Store) {
	sp.store = s
	sp.free.Store(math.MaxInt64)
	_, err := s.fs.Stat(sp.ballastPath())
	sp.ballast = err == nil
}

func (sp *space) ballastPath() string { return sp.store.fs.PathJoin(sp.store.dir, ballastName) }

// admit says whether size octets more may be taken: nil, or an error that is queue.ErrFull.
func (sp *space) admit(size int64) error {
	if r := sp.refusing.Load(); r != nil {
		return fmt.Errorf("%w: %s", queue.ErrFull, *r)
	}
	if free := sp.free.Load(); free-max(size, 0) < sp.store.opts.MinFreeSpace {
		return fmt.Errorf("%w: %d octets of disk are free", queue.ErrFull, free)
	}
	return nil
}

// wrote takes n octets off what is free: they go to the log at once, and to a table later.
func (sp *space) wrote(n int) { sp.free.Add(-2 * int64(n)) }

// look takes stock and tells the operator when the answer changes.
func (sp *space) look() {
	s := sp.store
	free, err := sp.measure()
	switch {
	case errors.Is(err, vfs.ErrUnsupported):
		free = math.MaxInt64
	case err != nil:
		s.opts.Events.BackgroundError(fmt.Errorf("pebblestore: free space of %s: %w", s.dir, err))
		return
	}
	sp.free.Store(free)
	reason := ""
	m := s.db.Metrics()
	s.blocks.adjust(int64(m.MemTable.Size + m.MemTable.ZombieSize))
	switch l0 := m.Levels[0].Sublevels; {
	case free < s.opts.MinFreeSpace:
		reason = fmt.Sprintf("%d octets of disk are free, %d must stay", free, s.opts.MinFreeSpace)
	case int(l0) > s.opts.MaxL0:
		reason = fmt.Sprintf("compactions are behind: %d sublevels", l0)
	case !sp.restoreBallast(free):
		reason = "the disk was full, and there is no room for the ballast yet"
	}
	sp.announce(reason)
}

func (sp *space) measure() (int64, error) {
	if f := sp.store.opts.FreeSpace; f != nil {
		return f()
	}
	u, err := sp.store.fs.GetDiskUsage(sp.store.dir)
	return int64(min(u.AvailBytes, math.MaxInt64)), err
}

func (sp *space) announce(reason string) {
	var next *string
	if reason != "" {
		next = &reason
	}
	before := sp.refusing.Swap(next)
	switch {
	case before == nil && next != nil:
		sp.store.opts.Events.Refusing(reason)
	case before != nil && next == nil:
		sp.store.opts.Events.Accepting()
	}
}

// restoreBallast makes the ballast if there is room for it, and says whether all is well.
func (sp *space) restoreBallast(free int64) bool {
	s := sp.store
	size := s.opts.Ballast
	sp.mu.Lock()
	defer sp.mu.Unlock()
	if sp.ballast || size <= 0 {
		return true
	}
	if free < s.opts.MinFreeSpace+size {
		// Never had one: no reason to refuse, there still is MinFreeSpace.
		return sp.refusing.Load() == nil
	}
	f, err := s.fs.Create(sp.ballastPath(), vfs.WriteCategoryUnspecified)
	if err == nil {
		err = errors.Join(f.Preallocate(0, size), f.Sync(), f.Close())
	}
	if err != nil {
		s.opts.Events.BackgroundError(fmt.Errorf("pebblestore: ballast: %w", err))
		return true
	}
	sp.ballast = true
	return true
}

// dropBallast gives the ballast up. Pebble's file system layer calls it on "no space left", holds up all
// writes meanwhile, and then tries the failed one once more.
func (sp *space) dropBallast() {
	sp.mu.Lock()
	defer sp.mu.Unlock()
	if sp.ballast {
		sp.ballast = false
		if err := sp.store.fs.Remove(sp.ballastPath()); err != nil {
			sp.store.opts.Events.BackgroundError(fmt.Errorf("pebblestore: ballast: %w", err))
		}
	}
	sp.announce("the disk is full")
}
