package pebblestore

import (
	"cmp"
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/cockroachdb/pebble/v2"

	"odmr/internal/mail"
	"odmr/queue"
)

var (
	errEnded    = errors.New("pebblestore: the incoming message has ended")
	errEnvelope = errors.New("pebblestore: bad envelope")
)

// incoming is a message on its way in.
type incoming struct {
	store  *Store
	id     mail.ID
	size   int64  // octets appended so far
	chunks uint32 // pieces written so far
	ended  bool
	stamps []queue.Stamp
}

// Begin implements queue.Store.
func (s *Store) Begin(size int64) (queue.Incoming, error) {
	if s.closed.Load() { // not life: Begin does not block
		return nil, queue.ErrClosed
	}
	if err := s.space.admit(size); err != nil {
		return nil, err
	}
	return &incoming{store: s, id: mail.ID(s.seq.next())}, nil
}

func (in *incoming) ID() mail.ID { return in.id }

func (in *incoming) Append(data []byte) error {
	s := in.store
	if in.ended {
		return errEnded
	}
	if err := s.enter(); err != nil {
		return err
	}
	defer s.leave()
	if err := s.space.admit(int64(len(data))); err != nil {
		return err
	}
	if in.chunks == 0 {
		s.mu.Lock()
		s.incoming[in.id] = struct{}{}
		s.mu.Unlock()
	}
	for len(data) > 0 {
		n := min(len(data), mail.ChunkSize)
		if err := s.db.Set(appendChunkKey(nil, in.id, in.chunks), data[:n], pebble.NoSync); err != nil {
			return fmt.Errorf("pebblestore: append: %w", err)
		}
		s.space.wrote(n)
		in.chunks++
		in.size += int64(n)
		data = data[n:]
	}
	return nil
}

func (in *incoming) Abort() {
	if in.ended {
		return
	}
	in.ended = true
	if in.chunks > 0 {
		in.store.janitor.forget(pieces{in.id, in.chunks, in.size})
	}
}

func (in *incoming) Commit(last []byte, envelopes []mail.Envelope) error {
	c, err := in.submit(last, envelopes)
	if err != nil {
		return err
	}
	return c.finish()
}

// Submit implements queue.Incoming. Commits become durable in the order of the log, so one goroutine waits for all of them: a
// sync that many share wakes it once.
func (in *incoming) Submit(last []byte, envelopes []mail.Envelope, to queue.Waiter) {
	c, err := in.submit(last, envelopes)
	if err != nil {
		to.Committed(err)
		return
	}
	c.to = to
	in.store.syncing <- c
}

// maxSyncing is how many submitted messages and lists of outcomes may wait for the disk before Submit and SettleTo block.
const maxSyncing = 4096

// submitted is what was put in the log for a Waiter, and is not known to be durable.
type submitted interface {
	finish() error
	waiter() queue.Waiter
}

// awaitSyncs tells those who submitted messages and outcomes what became of them.
func (s *Store) awaitSyncs() {
	defer close(s.synced)
	for c := range s.syncing {
		c.waiter().Committed(c.finish())
	}
}

// commit is a message that is in the log and not known to be durable.
type commit struct {
	in      *incoming
	to      queue.Waiter // of Submit
	began   time.Time
	domains []*domain
	seq     uint64
	batch   *pebble.Batch
}

func (c *commit) waiter() queue.Waiter { return c.to }

// submit puts the message in the log. Until finish is called life and frozen are held for it.
func (in *incoming) submit(last []byte, envelopes []mail.Envelope) (c *commit, err error) {
	if in.ended {
		return nil, errEnded
	}
	s := in.store
	if err := s.enter(); err != nil {
		return nil, err
	}
	defer func() {
		if c == nil { // refused, or in a panic
			s.leave()
			in.Abort()
		}
	}()
	began := s.opts.Now()
	if err := in.admit(last, envelopes); err != nil {
		return nil, err
	}
	s.frozen.RLock()
	defer func() {
		if c == nil {
			s.frozen.RUnlock()
		}
	}()
	domains := make([]*domain, len(envelopes))
	s.mu.Lock()
	for i := range envelopes {
		envelopes[i].ID = in.id
		domains[i] = s.use(envelopes[i].Domain)
		domains[i].commits++
	}
	s.mu.Unlock()
	seq, b, err := in.enqueue(domains, last, envelopes)
	if err != nil {
		s.mu.Lock()
		for _, d := range domains {
			d.commits--
			s.drop(d)
		}
		s.mu.Unlock()
		return nil, err
	}
	in.ended = true
	return &commit{in: in, began: began, domains: domains, seq: seq, batch: b}, nil
}

// finish waits until the message is durable, and brings the memory in line. An error means that the process
// is about to end.
func (c *commit) finish() error {
	s := c.in.store
	defer s.leave()
	defer s.frozen.RUnlock()
	err := s.settled(c.batch)
	if err != nil {
		err = fmt.Errorf("pebblestore: commit: %w", err)
	}
	var waiting []func()
	s.mu.Lock()
	for _, d := range c.domains {
		if err == nil {
			waiting = s.arrived(d, c.seq, waiting)
		}
		d.commits--
		s.drop(d)
	}
	if err == nil {
		delete(s.incoming, c.in.id)
	}
	s.mu.Unlock()
	for _, fn := range waiting {
		fn()
	}
	s.janitor.activity.Add(1)
	if s.opts.ObserveCommit != nil && err == nil {
		s.opts.ObserveCommit(s.opts.Now().Sub(c.began))
	}
	return err
}

// admit checks what Commit was given.
func (in *incoming) admit(last []byte, envelopes []mail.Envelope) error {
	if len(envelopes) == 0 {
		return fmt.Errorf("%w: none at all", errEnvelope)
	}
	size := in.size + int64(len(last))
	for i := range envelopes {
		env := &envelopes[i]
		if !validDomain(env.Domain) {
			return fmt.Errorf("%w: domain %q", errEnvelope, env.Domain)
		}
		for j := range i {
			if envelopes[j].Domain == env.Domain {
				return fmt.Errorf("%w: domain %s twice", errEnvelope, env.Domain)
			}
		}
		if env.WireSize != size {
			return fmt.Errorf("%w: WireSize %d of a body of %d octets", errEnvelope, env.WireSize, size)
		}
		if problem := checkEnvelope(env); problem != "" {
			return fmt.Errorf("%w: %s", errEnvelope, problem)
		}
		if !slices.ContainsFunc(env.Recipients, func(r mail.Recipient) bool { return r.State == mail.Pending }) {
			return fmt.Errorf("%w: no recipient is pending", errEnvelope)
		}
	}
	return in.store.space.admit(int64(len(last)))
}

// checkEnvelope says what is wrong with env, or "". Check asks the same of every entry.
func checkEnvelope(env *mail.Envelope) string {
	if env.Size < 0 || env.WireSize < 0 || env.Body > mail.Body8BitMIME || env.Ret > mail.ReturnHeaders || len(env.Recipients) == 0 {
		return "a field is out of range"
	}
	for i := range env.Recipients {
		r := &env.Recipients[i]
		if r.State > mail.Bounced || r.Notify&^notifyKnown != 0 {
			return "a recipient's field is out of range"
		}
		if env.Domain != mail.OutboundDomain && !inDomain(r.Address, env.Domain) {
			return fmt.Sprintf("recipient %q is not in %s", r.Address, env.Domain)
		}
	}
	return ""
}

// inDomain says whether address may be in domain. A U-label (RFC 6531) cannot be compared
// here; who made the envelope did it.
func inDomain(address, domain string) bool {
	at := strings.LastIndexByte(address, '@')
	if at < 0 {
		return false
	}
	for i := at + 1; i < len(address); i++ {
		if address[i] >= 0x80 {
			return true
		}
	}
	return strings.EqualFold(address[at+1:], domain)
}

// enqueue puts the message in the log, not yet durable, behind all that is there. The domains' order locks are held (in the
// order of their names) until the batch is in the log, so that in each domain the places in line, the log and what
// becomes visible have one order.
func (in *incoming) enqueue(domains []*domain, last []byte, envelopes []mail.Envelope) (uint64, *pebble.Batch, error) {
	s := in.store
	ordered := domains
	if len(domains) > 1 {
		ordered = slices.SortedFunc(slices.Values(domains), func(a, b *domain) int { return strings.Compare(a.name, b.name) })
	}
	for _, d := range ordered {
		d.order.Lock()
		defer d.order.Unlock()
	}
	if len(in.stamps) > 0 { // until the batch is in the log, and so seen by the next who asks
		s.stamping.Lock()
		defer s.stamping.Unlock()
		if there, err := s.anyStamped(in.stamps); there || err != nil {
			return 0, nil, cmp.Or(err, queue.ErrStamped)
		}
	}
	seq := s.seq.next()
	b, err := in.batch(seq, last, envelopes)
	if err == nil {
		err = s.stamp(b, in.stamps)
	}
	if err != nil {
		if b != nil {
			err = errors.Join(err, b.Close())
		}
		return 0, nil, err
	}
	done, err := s.stayAhead(b, seq)
	if err != nil {
		return 0, nil, errors.Join(err, b.Close())
	}
	defer done()
	if err := s.apply(b); err != nil {
		return 0, nil, fmt.Errorf("pebblestore: commit: %w", err)
	}
	s.mu.Lock()
	for _, d := range domains {
		d.pending = append(d.pending, arrival{seq, envelopes[0].WireSize})
	}
	s.mu.Unlock()
	return seq, b, nil
}

// stayAhead moves the bound of the sequence on disk with b if seq comes close to it. done is called once b is in the log.
func (s *Store) stayAhead(b *pebble.Batch, seq uint64) (done func(), err error) {
	if seq <= s.bound.Load()-sequenceAhead/2 {
		return func() {}, nil
	}
	// WAL order: whatever is durable after this batch, the new bound is too.
	s.extending.Lock()
	bound := seq + sequenceAhead
	if bound <= s.bound.Load() {
		return s.extending.Unlock, nil
	}
	if err := b.Set(keySequence, appendNumber(nil, bound), nil); err != nil {
		s.extending.Unlock()
		return nil, err
	}
	return func() {
		s.bound.Store(bound)
		s.extending.Unlock()
	}, nil
}

// piecesFrom is the size from which a body in one piece is no own body. It fills a block by itself, and is read by a search
// of its own, so that neighbours of its domain gain it nothing; but beside its entry, where each flush brings mail of all domains,
// compactions would write it again and again.
const piecesFrom = 32 << 10

// batch is all that makes the message exist.
func (in *incoming) batch(seq uint64, last []byte, envelopes []mail.Envelope) (*pebble.Batch, error) {
	sole := len(envelopes) == 1
	if sole && in.chunks == 0 && len(last) < piecesFrom {
		return in.ownBatch(seq, last, &envelopes[0])
	}
	s := in.store
	head := bodyHead{size: in.size + int64(len(last)), chunks: in.chunks, refs: make([]ref, len(envelopes))}
	need := 64 + len(last)
	for i := range envelopes {
		head.refs[i] = ref{envelopes[i].Domain, seq}
		need += entrySize(&envelopes[i]) + 2*len(envelopes[i].Domain) + 64
	}
	b := s.db.NewBatchWithSize(need)
	inline, stands := last, underID
	if in.chunks > 0 || len(last) > mail.LastPiece || sole {
		inline = nil
		for len(last) > 0 {
			n := len(last)
			if n > mail.LastPiece {
				n = mail.ChunkSize
			}
			if err := b.Set(appendChunkKey(nil, in.id, head.chunks), last[:n], nil); err != nil {
				return nil, errors.Join(err, b.Close())
			}
			head.chunks++
			last = last[n:]
		}
	}
	if whole := int64(in.chunks) * mail.ChunkSize; sole && in.size == whole && head.chunks == pieceCount(head.size) {
		stands = alone
	}
	if need > math.MaxInt32 {
		return nil, errors.Join(fmt.Errorf("%w: too large", errEnvelope), b.Close())
	}
	// The body goes from the caller's buffer into the batch and nowhere else.
	var buf [512]byte
	rec := appendBodyHead(buf[:0], &head)
	op := b.SetDeferred(bodyKeyLen, len(rec)+len(inline))
	appendBodyKey(op.Key[:0], in.id)
	copy(op.Value[copy(op.Value, rec):], inline)
	if err := op.Finish(); err != nil {
		return nil, errors.Join(err, b.Close())
	}
	var key, val []byte
	for i := range envelopes {
		key = appendEntryKey(key[:0], spaceEntry, envelopes[i].Domain, seq)
		if val == nil {
			val = make([]byte, 0, entrySize(&envelopes[i]))
		}
		val = appendEntry(val[:0], &envelopes[i], stands)
		if err := b.Set(key, val, nil); err != nil {
			return nil, errors.Join(err, b.Close())
		}
	}
	s.space.wrote(b.Len())
	return b, nil
}

// ownBatch is all that makes a message for one domain in one piece exist: its entry and its own body.
func (in *incoming) ownBatch(seq uint64, data []byte, env *mail.Envelope) (*pebble.Batch, error) {
	s := in.store
	b := s.db.NewBatchWithSize(batchOverhead + 2*(entryKeyLen(env.Domain)+setOverhead) + entrySize(env) + ownHead + len(data))
	if err := setOwn(b, seq, data, env); err != nil {
		return nil, errors.Join(err, b.Close())
	}
	s.space.wrote(b.Len())
	return b, nil
}

// setOwn writes an entry and its own body to b. The body goes from the caller's buffer into the batch and nowhere else.
func setOwn(b *pebble.Batch, seq uint64, data []byte, env *mail.Envelope) error {
	var buf [512]byte
	rec := appendEntry(buf[:0], env, beside)
	keyLen := entryKeyLen(env.Domain)
	op := b.SetDeferred(keyLen, ownHead+len(data))
	appendEntryKey(op.Key[:0], spaceOwn, env.Domain, seq)
	copy(op.Value[len(appendOwnHead(op.Value[:0], env.ID)):], data)
	if err := op.Finish(); err != nil {
		return err
	}
	op = b.SetDeferred(keyLen, len(rec))
	appendEntryKey(op.Key[:0], spaceEntry, env.Domain, seq)
	copy(op.Value, rec)
	return op.Finish()
}

// What a batch takes beyond keys and values, at the most: its header and the sequence's bound, and the kind
// and lengths of each pair.
const (
	batchOverhead = 12 + 64
	setOverhead   = 1 + 2*5
)
