package pebblestore

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"

	"odmr/internal/mail"
	"odmr/queue"
)

var (
	// ErrLocked says that another process (or Store) has the directory open.
	ErrLocked = errors.New("pebblestore: the queue is in use by a running server")
	// ErrFormat says that the store was written by a version that this one does not know.
	ErrFormat = errors.New("pebblestore: unknown store format")
	// ErrNotReleased says that Close found segments that nobody released. Everything acknowledged is
	// on disk; the memory cannot be taken from under its readers.
	ErrNotReleased = errors.New("pebblestore: segments not released")
)

// storeFormat is the version of the whole key layout and its records, kept under keyFormat. Format 2, which had no
// entry records v2 and no held recipients, format 3, which had no marks (spaceUntold), format 4, in which no piece was longer
// than mail.ChunkSize, and format 5, which had no stamps, become 6 when they are opened.
const (
	storeFormat     = 6
	storeFormatRead = 2
	formatMarked    = 4 // the first with marks
)

// Store is a queue.Store on Pebble. See the package doc.
type Store struct {
	dir  string
	opts Options
	fs   vfs.FS // without our wrappers
	lock *pebble.Lock
	db   *pebble.DB
	sync *pebble.WriteOptions

	gaps  gaps
	seq   sequence
	pins  pins
	blobs blobs
	space space

	// life is held for reading by every call in progress, and for writing by Close.
	life   sync.RWMutex
	closed atomic.Bool

	// frozen is held for reading from before a batch is applied until the memory agrees with it,
	// and for writing by those who need both to agree (Check, Remove). It is taken before mu.
	frozen sync.RWMutex
	// reviewing is held by whoever may take entries out of the queue and is no session: Review, Remove and what decides
	// about held ones. Taken before frozen.
	reviewing sync.Mutex
	// telling is held for writing by a Review of partial entries from its look at them until its batch is in the log,
	// and for reading by a Settle that looks at entries: either sees what the other made of one. Taken after
	// reviewing and before frozen.
	telling sync.RWMutex
	// sharing is held while it is decided whether an entry is the last of its body, until the batch that
	// follows from it is in the log: of two last entries one must see the other gone. Taken after frozen.
	sharing sync.Mutex
	// stamping is held while stamps are looked for, until the batch that has them is in the log. Taken after domain.order.
	stamping sync.Mutex
	// extending is held while the bound of seq on disk is moved. Taken after domain.order.
	extending sync.Mutex
	bound     atomic.Uint64 // what the bound on disk is, or will be once the log so far is durable

	mu         sync.Mutex // short: never held over I/O
	domains    map[string]*domain
	totals     queue.Counts
	remembered int                  // places of all domains; at most maxPlacesAll
	incoming   map[mail.ID]struct{} // messages whose pieces may be on disk without a body record
	unheld     sync.Cond            // on mu: a hold on a domain has ended

	scans atomic.Int64 // iterators that leases had to make

	syncing chan submitted // in the order of the log; see awaitSyncs
	synced  chan struct{}  // closed when awaitSyncs has ended

	blocks  blockCache
	pace    pace
	janitor janitor
}

// domain is what the store knows about the queue of one domain. There is one for every
// domain that has entries, a lease or a commit in progress.
type domain struct {
	name string

	// order is held while a batch with a new entry is given its place in line and put in the
	// log, so that both orders are the same.
	order sync.Mutex

	// The rest belongs to Store.mu.
	counts  queue.Counts // durable entries
	pending []arrival    // in the log and not known to be durable, in queue order
	durable uint64       // entries up to here are durable; a lease looks no further
	head    uint64       // no deliverable entry is below, except kept
	kept    []uint64     // deliverable entries below head, in order; at most maxKept
	revived []uint64     // leased: deliverable again since the lease last looked; at most maxRevived
	passed  uint64       // leased: the lowest of those that had no place in revived; 0: none
	places  places       // what came in lately
	lease   *lease
	held    int // so many calls that are no session's keep leases off, for a moment
	commits int // in progress
}

// arrival is an entry that was put in the log.
type arrival struct {
	seq  uint64
	size int64
}

// maxKept bounds domain.kept: 1 KiB a domain. If more entries stay behind in a drain, the next
// lease walks over what was deleted between them.
const maxKept = 128

var _ queue.Store = (*Store)(nil)

// Open opens the store in dir, which is made if need be, and brings it in order: the counts of
// all domains are taken by one scan over the entries, and pieces of messages that never
// came to exist are deleted. It returns ErrLocked if dir is in use.
func Open(dir string, opts Options) (*Store, error) {
	opts.EnsureDefaults()
	if err := opts.Validate(); err != nil {
		return nil, err
	}
	s := &Store{dir: dir, opts: opts, sync: pebble.Sync}
	if opts.noSync {
		s.sync = pebble.NoSync
	}
	s.seq.now = opts.Now
	s.domains = make(map[string]*domain)
	s.incoming = make(map[mail.ID]struct{})
	s.unheld.L = &s.mu
	s.pins.init(opts.MaxPinned)
	s.fs = opts.FS
	if s.fs == nil {
		s.fs = vfs.Default
	}
	s.blobs.init(s.fs, dir)
	if err := s.openEngine(); err != nil {
		return nil, fmt.Errorf("pebblestore: open %s: %w", dir, err)
	}
	if err := s.recover(); err != nil {
		return nil, errors.Join(fmt.Errorf("pebblestore: open %s: %w", dir, err), s.db.Close(), s.lock.Close())
	}
	s.space.look()
	s.syncing, s.synced = make(chan submitted, maxSyncing), make(chan struct{})
	go s.awaitSyncs()
	s.janitor.start(s)
	return s, nil
}

func (s *Store) openEngine() error {
	if err := s.fs.MkdirAll(s.dir, 0o700); err != nil { // mail is nobody else's business
		return err
	}
	var err error
	if s.lock, err = pebble.LockDirectory(s.dir, s.fs); err != nil {
		// Pebble's lock of the own process has no error value to ask for.
		if errors.Is(err, syscall.EAGAIN) || strings.Contains(err.Error(), "lock held") {
			return ErrLocked
		}
		return err
	}
	p := s.engineOptions()
	p.Lock = s.lock
	s.pace.init(s)
	p.FS = paced{failStop{vfs.OnDiskFull(unreserved{s.fs}, s.space.dropBallast), s}, &s.pace}
	s.space.init(s)
	if s.opts.FS == nil {
		p.WithFSDefaults() // reports slow writes
	}
	s.blocks.init(&s.opts)
	defer s.blocks.close()
	p.Cache = s.blocks.cache
	if s.db, err = pebble.Open(s.dir, p); err != nil {
		return errors.Join(err, s.lock.Close())
	}
	return nil
}

// recover takes the store's state from disk.
func (s *Store) recover() error {
	if err := s.checkFormat(); err != nil {
		return err
	}
	bound, err := s.readNumber(keySequence)
	if err != nil && !errors.Is(err, pebble.ErrNotFound) {
		return err
	}
	s.seq.atLeast(bound)
	if err := s.sweep(); err != nil {
		return err
	}
	for _, space := range entrySpaces {
		if err := s.count(space); err != nil {
			return err
		}
	}
	if err := s.countMarks(); err != nil {
		return err
	}
	for _, d := range s.domains {
		d.durable = s.seq.last.Load()
		d.places.from = d.durable + 1
	}
	return s.extend()
}

func (s *Store) checkFormat() error {
	format, err := s.readNumber(keyFormat)
	switch {
	case errors.Is(err, pebble.ErrNotFound):
		return s.db.Set(keyFormat, appendNumber(nil, storeFormat), pebble.Sync)
	case err != nil:
		return err
	case format >= storeFormatRead && format < storeFormat:
		if format < formatMarked {
			if err := s.markAll(); err != nil {
				return err
			}
		}
		return s.db.Set(keyFormat, appendNumber(nil, storeFormat), pebble.Sync)
	case format != storeFormat:
		return fmt.Errorf("%w %d: this version knows %d", ErrFormat, format, storeFormat)
	}
	return nil
}

func (s *Store) readNumber(key []byte) (uint64, error) {
	v, closer, err := s.get(key)
	if err != nil {
		return 0, err
	}
	defer closer.Close()
	return decodeNumber(v)
}

// count takes the counts of all domains from the entries in space. A record that cannot be read
// is reported and not counted: a lease will pass over it.
func (s *Store) count(space byte) error {
	it, err := s.passReporting([]byte{space}, []byte{space + 1})
	if err != nil {
		return err
	}
	defer it.Close()
	var d *domain
	for ok := it.First(); ok; ok = it.Next() {
		name, seq, good := parseEntryKey(it.Key(), space)
		if !good {
			s.opts.Events.Corruption(fmt.Errorf("pebblestore: bad key %x", it.Key()))
			continue
		}
		var p entryPeek
		rec, err := it.ValueAndErr()
		if err == nil {
			p, err = peekEntry(rec)
		}
		if err != nil && !damaged(err) {
			return err
		}
		if err != nil {
			s.opts.Events.Corruption(fmt.Errorf("pebblestore: entry %s/%d: %w", name, seq, err))
			continue
		}
		s.seq.atLeast(max(seq, uint64(p.id)))
		if d == nil || d.name != string(name) {
			if d = s.domains[string(name)]; d == nil {
				d = &domain{name: string(name), head: seq}
				s.domains[d.name] = d
			}
		}
		s.tally(d, space, 1, p.size)
	}
	return it.Error()
}

// tally adds n entries (1 or -1) of size octets to the counts. mu is held, or nobody else is there yet.
func (s *Store) tally(d *domain, space byte, n, size int64) {
	for _, c := range [...]*queue.Counts{&d.counts, &s.totals} {
		switch space {
		case spaceFailed:
			c.Failed += n
			c.Kept += n * size
		case spaceHeld:
			c.Held += n
			c.Kept += n * size
		case spaceUntold:
			c.Untold += n
		default:
			c.Messages += n
			c.Bytes += n * size
		}
	}
}

// sweep deletes the pieces of messages that have no body record: a crash came before
// their commit. Nothing else can be left over, as all the rest, own bodies included, is written in one batch.
func (s *Store) sweep() error {
	it, err := s.passReporting([]byte{spaceChunk}, []byte{spaceChunk + 1})
	if err != nil {
		return err
	}
	defer it.Close()
	for ok := it.First(); ok; {
		id, _, good := parseChunkKey(it.Key())
		if !good {
			s.opts.Events.Corruption(fmt.Errorf("pebblestore: bad key %x", it.Key()))
			ok = it.Next()
			continue
		}
		s.seq.atLeast(uint64(id))
		_, closer, err := s.get(appendBodyKey(nil, id))
		switch {
		case err == nil:
			closer.Close()
		case errors.Is(err, pebble.ErrNotFound):
			if err := s.deleteChunks(id); err != nil {
				return err
			}
		case damaged(err): // nobody knows whether they are needed
			s.opts.Events.Corruption(fmt.Errorf("pebblestore: body of %v: %w", id, err))
		default:
			return err
		}
		ok = it.SeekGE(appendChunkKey(nil, id+1, 0))
	}
	return it.Error()
}

// deleteChunks deletes all pieces of id, however many there are, not waiting for the disk: if that is lost, sweep
// does it again.
func (s *Store) deleteChunks(id mail.ID) error {
	return s.db.DeleteRange(appendChunkKey(nil, id, 0), appendChunkKey(nil, id+1, 0), pebble.NoSync)
}

// extend moves the bound of the sequence on disk ahead of what is in use.
func (s *Store) extend() error {
	bound := s.seq.last.Load() + sequenceAhead
	if err := s.db.Set(keySequence, appendNumber(nil, bound), pebble.Sync); err != nil {
		return err
	}
	s.bound.Store(bound)
	return nil
}

// enter begins a call; leave ends it.
func (s *Store) enter() error {
	s.life.RLock()
	if s.closed.Load() {
		s.life.RUnlock()
		return queue.ErrClosed
	}
	return nil
}

func (s *Store) leave() { s.life.RUnlock() }

// Close implements queue.Store. It returns ErrNotReleased if segments are still lent out, and leaves
// the engine open if they are in its memory: what was acknowledged is safe all the same.
func (s *Store) Close() error {
	s.life.Lock()
	if s.closed.Swap(true) {
		s.life.Unlock()
		return queue.ErrClosed
	}
	s.life.Unlock()
	close(s.syncing) // nothing is submitted any more: that would be a call in progress
	<-s.synced
	s.janitor.stop()
	s.blobs.close()
	// A clean end needs no bound ahead: the next start goes on from here.
	err := s.db.Set(keySequence, appendNumber(nil, s.seq.last.Load()), pebble.Sync)
	lent := s.pins.lent()
	if lent == 0 {
		err = errors.Join(err, s.db.Close(), s.lock.Close())
	}
	if n := lent + s.pins.slabbed.Load(); n > 0 {
		err = errors.Join(err, fmt.Errorf("%w: %d", ErrNotReleased, n))
	}
	return err
}

// Counts implements queue.Store.
func (s *Store) Counts(domain string) queue.Counts {
	s.mu.Lock()
	defer s.mu.Unlock()
	if d := s.domains[domain]; d != nil {
		return d.counts
	}
	return queue.Counts{}
}

// Totals implements queue.Store.
func (s *Store) Totals() queue.Counts {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.totals
}

// use returns the domain's state, made if need be. mu is held.
func (s *Store) use(name string) *domain {
	d := s.domains[name]
	if d == nil {
		// Nothing is queued, so whatever comes is behind the last number given.
		last := s.seq.last.Load()
		d = &domain{name: strings.Clone(name), head: last + 1, durable: last, places: places{from: last + 1}}
		s.domains[d.name] = d
	}
	return d
}

// drop forgets the domain's state if nothing needs it any more. mu is held.
func (s *Store) drop(d *domain) {
	if d.counts == (queue.Counts{}) && d.lease == nil && d.held == 0 && d.commits == 0 && s.domains[d.name] == d {
		s.remembered -= len(d.places.list)
		delete(s.domains, d.name)
	}
}

// arrived notes that the entry with seq, and so all before it, is durable. It appends to waiting whom the caller is
// to tell once mu, which is held, is free again.
func (s *Store) arrived(d *domain, seq uint64, waiting []func()) []func() {
	n := 0
	for n < len(d.pending) && d.pending[n].seq <= seq {
		s.tally(d, spaceEntry, 1, d.pending[n].size)
		s.remember(d, d.pending[n].seq)
		n++
	}
	d.pending = slices.Delete(d.pending, 0, n)
	d.durable = max(d.durable, seq)
	if n > 0 {
		waiting = d.told(waiting)
	}
	return waiting
}

// told appends whom to tell that something is there to waiting. Store.mu is held.
func (d *domain) told(waiting []func()) []func() {
	if l := d.lease; l != nil && l.notify != nil && l.waiting().Messages > 0 {
		waiting = append(waiting, l.notify)
		l.notify = nil
	}
	return waiting
}

// hasEntry says whether the entry is there, in whichever space.
func (s *Store) hasEntry(r pebble.Reader, domain string, seq uint64) (bool, error) {
	key := make([]byte, 0, len(domain)+10)
	for _, space := range entrySpaces {
		key = appendEntryKey(key[:0], space, domain, seq)
		if there, err := has(r, key); there || err != nil {
			return there, err
		}
	}
	return false, nil
}

// has says whether key is there.
func has(r pebble.Reader, key []byte) (bool, error) {
	_, closer, err := r.Get(key)
	if errors.Is(err, pebble.ErrNotFound) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	return true, closer.Close()
}

// apply puts b in the log and makes it visible. What follows must wait with settled.
func (s *Store) apply(b *pebble.Batch) error {
	if s.opts.noSync {
		return s.db.Apply(b, s.sync)
	}
	return s.db.ApplyNoSyncWait(b, s.sync)
}

// settled waits until b is on stable storage. If that fails the state of the log is unknown, and
// the process ends.
func (s *Store) settled(b *pebble.Batch) error {
	if !s.opts.noSync {
		if err := b.SyncWait(); err != nil {
			s.fatal(err)
			return err
		}
	}
	return b.Close()
}

// Metrics is Pebble's own report, for people.
func (s *Store) Metrics() string {
	if s.enter() != nil {
		return ""
	}
	defer s.leave()
	return s.db.Metrics().String()
}

// Figures are selected measurements of the engine.
type Figures struct {
	DiskUsage      uint64 // octets of all files
	WALSize        uint64 // octets of live data in the log
	MemTables      uint64 // octets of memtables, those pinned by readers included
	MemTableCount  int64
	Sublevels      int32  // of level 0
	CompactionDebt uint64 // octets
	Compactions    int64  // since Open
	Flushes        int64  // since Open
	Pinned         int64  // segments lent out
	Copied         int64  // segments that were copied since Open, because too much was pinned
}

// Figures takes the measurements. It does not scan.
func (s *Store) Figures() Figures {
	if s.enter() != nil {
		return Figures{}
	}
	defer s.leave()
	m := s.db.Metrics()
	return Figures{
		DiskUsage:      m.DiskSpaceUsage(),
		WALSize:        m.WAL.Size,
		MemTables:      m.MemTable.Size + m.MemTable.ZombieSize,
		MemTableCount:  m.MemTable.Count + m.MemTable.ZombieCount,
		Sublevels:      m.Levels[0].Sublevels,
		CompactionDebt: m.Compact.EstimatedDebt,
		Compactions:    m.Compact.Count,
		Flushes:        m.Flush.Count,
		Pinned:         s.pins.lent() + s.pins.slabbed.Load(),
		Copied:         s.pins.copied.Load(),
	}
}
