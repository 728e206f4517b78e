package pebblestore

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/cockroachdb/pebble/v2"

	"odmr/internal/mail"
	"odmr/queue"
)

// spaceOf is where entries at that stage stand.
func spaceOf(stage queue.Stage) byte {
	if stage == queue.Settled {
		return spaceFailed
	}
	return spaceEntry
}

// Walk implements queue.Reviewer. It begins at the head of the domain, so that it does not walk over what was deleted.
func (s *Store) Walk(domain string, stage queue.Stage, from uint64, fn func(queue.Key, *mail.Envelope) bool) error {
	if err := s.enter(); err != nil {
		return err
	}
	defer s.leave()
	s.mu.Lock()
	d := s.domains[domain]
	if d == nil {
		s.mu.Unlock()
		return nil
	}
	durable := d.durable
	if stage == queue.Waiting {
		head := d.head
		if len(d.kept) > 0 {
			head = d.kept[0]
		}
		from = max(from, head)
	}
	s.mu.Unlock()
	if from > durable {
		return nil
	}
	space := spaceOf(stage)
	it, err := s.db.NewIter(&pebble.IterOptions{
		LowerBound: appendEntryKey(nil, space, domain, from), UpperBound: appendEntryKey(nil, space, domain, durable+1),
	})
	if err != nil {
		return fmt.Errorf("pebblestore: walk %s: %w", domain, err)
	}
	defer it.Close()
	for ok := it.First(); ok; ok = it.Next() {
		_, seq, _ := parseEntryKey(it.Key(), space)
		rec, err := it.ValueAndErr()
		if err != nil {
			return fmt.Errorf("pebblestore: walk %s: %w", domain, err)
		}
		env, _, err := decodeEntry(domain, rec)
		if err != nil {
			s.opts.Events.Corruption(fmt.Errorf("pebblestore: entry %s/%d: %w", domain, seq, err))
			continue
		}
		if !fn(queue.Key{Domain: domain, Seq: seq}, &env) {
			break
		}
	}
	return it.Error()
}

// review is one Review.
type review struct {
	store    *Store
	domain   *domain
	space    byte
	work     []settling
	updated  []mail.Envelope // parallel to work; of those that are updated
	messages []queue.Message
	leaves   bool // some entry leaves the queue
}

// Review implements queue.Reviewer. Nobody else takes entries out of the queue meanwhile (reviewing; for waiting ones
// a hold on the domain), so that decisions are made without holding up commits and settlements; only their batch is.
func (s *Store) Review(domain string, stage queue.Stage, seqs []uint64, decide func(*queue.Reviewed) queue.Decision) error {
	if err := s.enter(); err != nil {
		return err
	}
	defer s.leave()
	s.reviewing.Lock()
	defer s.reviewing.Unlock()
	release, err := s.holdFor(domain, stage)
	if err != nil {
		return err
	}
	r := review{store: s, space: spaceOf(stage)}
	s.mu.Lock()
	r.domain = s.use(domain)
	r.domain.commits++ // it stays until the end
	s.mu.Unlock()
	defer func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		r.domain.commits--
		s.drop(r.domain)
	}()
	err = r.decide(seqs, decide)
	if err == nil {
		err = r.admit()
	}
	if err != nil || len(r.work) == 0 {
		release()
		return err
	}
	return r.carryOut(release)
}

// holdFor keeps leases off a domain whose waiting entries are reviewed.
func (s *Store) holdFor(domain string, stage queue.Stage) (release func(), err error) {
	if stage != queue.Waiting {
		return func() {}, nil
	}
	return s.hold([]placed{{ref: ref{domain: domain}}})
}

// decide asks about each entry.
func (r *review) decide(seqs []uint64, decide func(*queue.Reviewed) queue.Decision) error {
	s := r.store
	seen := make(map[uint64]bool, len(seqs))
	for _, seq := range seqs {
		if seen[seq] {
			continue
		}
		seen[seq] = true
		key := queue.Key{Domain: r.domain.name, Seq: seq}
		env, w, err := r.read(seq)
		if errors.Is(err, pebble.ErrNotFound) || err == nil && !s.isDurable(r.domain, seq) {
			continue
		}
		if err != nil {
			return fmt.Errorf("pebblestore: review %s/%d: %w", key.Domain, seq, err)
		}
		if err := s.findBody(&w); err != nil {
			s.opts.Events.Corruption(fmt.Errorf("pebblestore: body of entry %s/%d, which stays in the queue: %w", key.Domain, seq, err))
			continue
		}
		d := decide(&queue.Reviewed{Key: key, Envelope: &env, Open: func() (queue.Body, error) { return s.openReviewed(key) }})
		switch {
		case d.Verdict == queue.Drop && r.space == spaceEntry && settleOthers(&env):
			w.verdict = verdictHold
		case d.Verdict == queue.Drop:
			w.verdict, r.leaves = verdictRemove, true
		case d.Verdict == queue.Update && r.space == spaceEntry && standing(&env) == verdictHold:
			w.verdict = verdictHold
		case d.Verdict == queue.Update && slices.ContainsFunc(env.Recipients, isPending) == (r.space == spaceEntry):
			w.verdict = verdictUpdate
		case d.Verdict == queue.Update || len(d.Messages) > 0:
			return fmt.Errorf("pebblestore: review %s/%d: what was decided would repeat itself", key.Domain, seq)
		default:
			continue
		}
		r.work = append(r.work, w)
		r.updated = append(r.updated, env)
		r.messages = append(r.messages, d.Messages...)
	}
	return nil
}

// openReviewed opens the body of an entry for the time of a Review.
func (s *Store) openReviewed(key queue.Key) (queue.Body, error) {
	b, err := s.reopen(key)
	if b, ok := b.(*body); ok {
		b.inside = true
	}
	return b, err
}

// settleOthers makes the end of an entry that of its recipients that are not held, and says whether there are such.
func settleOthers(env *mail.Envelope) (held bool) {
	held = slices.ContainsFunc(env.Recipients, func(r mail.Recipient) bool { return r.State == mail.Held })
	for i := range env.Recipients {
		if r := &env.Recipients[i]; held && r.State != mail.Held {
			r.State = mail.Delivered // in so far as there is nothing left to do for it
		}
	}
	return held
}

func isPending(r mail.Recipient) bool { return r.State == mail.Pending }

func (s *Store) isDurable(d *domain, seq uint64) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return seq <= d.durable
}

// read reads one entry.
func (r *review) read(seq uint64) (env mail.Envelope, w settling, err error) {
	rec, closer, err := r.store.db.Get(appendEntryKey(nil, r.space, r.domain.name, seq))
	if err != nil {
		return env, w, err
	}
	w = settling{ledger: &ledger{domain: r.domain}, seq: seq}
	env, own, err := decodeEntry(r.domain.name, rec)
	w.o = outstanding{id: env.ID, size: env.WireSize, entry: len(rec), own: own, record: ownHead + int(env.WireSize), recipients: len(env.Recipients)}
	return env, w, errors.Join(err, closer.Close())
}

// findBody notes what must be known of a body under its id to delete it.
func (s *Store) findBody(w *settling) error {
	if w.o.own {
		return nil
	}
	rec, closer, err := s.db.Get(appendBodyKey(nil, w.o.id))
	if err != nil {
		return err
	}
	shape, err := decodeBodyShape(rec)
	w.o.record, w.o.chunks, w.o.shared = shape.record, shape.chunks, shape.refs > 1
	return errors.Join(err, closer.Close())
}

// admit checks the messages that are to come into being.
func (r *review) admit() error {
	size := 0
	for i := range r.messages {
		m := &r.messages[i]
		problem := checkEnvelope(&m.Envelope)
		switch {
		case !validDomain(m.Envelope.Domain):
			problem = "domain"
		case problem == "" && m.Envelope.WireSize != int64(len(m.Body)), len(m.Body) > mail.ChunkSize:
			problem = "size"
		case problem == "" && !slices.ContainsFunc(m.Envelope.Recipients, isPending):
			problem = "no recipient is pending"
		}
		if problem != "" {
			return fmt.Errorf("%w: %s", errEnvelope, problem)
		}
		size += len(m.Body)
	}
	if size > 0 && !r.leaves {
		return r.store.space.admit(int64(size))
	}
	return nil
}

// carryOut does what was decided. Sessions are kept off until it is in the log.
func (r *review) carryOut(release func()) error {
	s := r.store
	s.frozen.RLock()
	defer s.frozen.RUnlock()
	domains := make([]*domain, len(r.messages))
	s.mu.Lock()
	for i := range r.messages {
		domains[i] = s.use(r.messages[i].Envelope.Domain)
		domains[i].commits++
	}
	s.mu.Unlock()
	b := s.db.NewBatch()
	seqs, err := r.apply(b, domains)
	if err == nil {
		r.note()
	} else {
		err = errors.Join(err, b.Close())
	}
	release()
	if err == nil {
		err = s.settled(b)
	}
	var waiting []func()
	s.mu.Lock()
	for i, d := range domains {
		if err == nil {
			waiting = s.arrived(d, seqs[i], waiting)
		}
		d.commits--
		s.drop(d)
	}
	s.mu.Unlock()
	for _, fn := range waiting {
		fn()
	}
	if err != nil {
		return fmt.Errorf("pebblestore: review: %w", err)
	}
	s.janitor.activity.Add(1)
	return nil
}

// apply puts all of it in the log. The new messages' domains are locked in the order of their names, as in a commit.
func (r *review) apply(b *pebble.Batch, domains []*domain) (seqs []uint64, err error) {
	s := r.store
	ordered := slices.SortedFunc(slices.Values(domains), func(a, b *domain) int { return strings.Compare(a.name, b.name) })
	for _, d := range slices.Compact(ordered) {
		d.order.Lock()
		defer d.order.Unlock()
	}
	seqs = make([]uint64, len(r.messages))
	for i := range r.messages {
		m := &r.messages[i]
		m.Envelope.ID, seqs[i] = mail.ID(s.seq.next()), s.seq.next()
		if err := setOwn(b, seqs[i], m.Body, &m.Envelope); err != nil {
			return nil, err
		}
	}
	if len(seqs) > 0 {
		done, err := s.stayAhead(b, seqs[len(seqs)-1])
		if err != nil {
			return nil, err
		}
		defer done()
	}
	shared := false
	for i := range r.work {
		w := &r.work[i]
		if err := s.record(b, w, &r.updated[i], r.space); err != nil {
			return nil, err
		}
		shared = shared || w.o.shared && w.verdict == verdictRemove
	}
	s.space.wrote(b.Len())
	if err := s.applySettled(b, r.work, shared); err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for i, d := range domains {
		d.pending = append(d.pending, arrival{seqs[i], r.messages[i].Envelope.WireSize})
	}
	return seqs, nil
}

// record writes what becomes of an entry in space to b, except for the body of a shared one.
func (s *Store) record(b *pebble.Batch, w *settling, env *mail.Envelope, space byte) error {
	key := appendEntryKey(nil, space, w.ledger.domain.name, w.seq)
	if w.verdict == verdictUpdate {
		return b.Set(key, appendEntry(make([]byte, 0, entrySize(env)), env, w.o.own), nil)
	}
	err := b.DeleteSized(key, uint32(w.o.entry), nil)
	switch {
	case err != nil:
		return err
	case w.verdict == verdictHold:
		key[0] = spaceHeld
		return b.Set(key, appendEntry(make([]byte, 0, entrySize(env)), env, w.o.own), nil)
	case w.o.shared:
		return nil
	case w.o.own:
		key[0] = spaceOwn
		return b.DeleteSized(key, uint32(w.o.record), nil)
	}
	return deleteBody(b, &w.o)
}

// note brings the memory in line with what was written.
func (r *review) note() {
	s := r.store
	var freed int64
	s.mu.Lock()
	for i := range r.work {
		switch w := &r.work[i]; w.verdict {
		case verdictRemove:
			s.tally(r.domain, r.space, -1, w.o.size)
			freed += w.o.size
		case verdictHold:
			s.tally(r.domain, r.space, -1, w.o.size)
			s.tally(r.domain, spaceHeld, 1, 0)
		}
	}
	s.mu.Unlock()
	s.janitor.deleted(freed)
}
