package pebblestore

import (
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"

	"github.com/cockroachdb/pebble/v2"

	"odmr/internal/mail"
	"odmr/queue"
)

// spacesOf are where entries at that stage stand.
func spacesOf(stage queue.Stage) []byte {
	switch stage {
	case queue.Settled:
		return []byte{spaceFailed}
	case queue.Partial:
		return []byte{spaceEntry, spaceHeld}
	}
	return []byte{spaceEntry}
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
	space := spacesOf(stage)[0]
	if stage == queue.Partial {
		space = spaceUntold
	}
	it, err := s.passReporting(appendEntryKey(nil, space, domain, from), appendEntryKey(nil, space, domain, durable+1))
	if err != nil {
		return fmt.Errorf("pebblestore: walk %s: %w", domain, err)
	}
	defer it.Close()
	for ok := it.First(); ok; ok = it.Next() {
		_, seq, _ := parseEntryKey(it.Key(), space)
		env, there, err := s.walked(it, stage, ref{domain, seq})
		if err != nil && !damaged(err) {
			return fmt.Errorf("pebblestore: walk %s: %w", domain, err)
		}
		if err == nil && !there {
			continue // it was settled meanwhile
		}
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

// walked reads the entry that it has come to.
func (s *Store) walked(it *passage, stage queue.Stage, r ref) (env mail.Envelope, there bool, err error) {
	if stage != queue.Partial {
		rec, err := it.ValueAndErr()
		if err == nil {
			env, _, err = decodeEntry(r.domain, rec)
		}
		return env, true, err
	}
	all, err := s.placed(nil, r)
	for _, p := range all {
		if p.err != nil || p.env.Untold() {
			return p.env, true, p.err
		}
	}
	return env, false, err
}

// review is one Review.
type review struct {
	store    *Store
	domain   *domain
	stage    queue.Stage
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
	release = sync.OnceFunc(release)
	defer release() // whatever becomes of decide
	r := review{store: s, stage: stage}
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
		return err
	}
	return r.carryOut(release)
}

// holdFor keeps leases off a domain whose waiting entries are reviewed, and settlements off partial ones.
func (s *Store) holdFor(domain string, stage queue.Stage) (release func(), err error) {
	switch stage {
	case queue.Waiting:
		return s.hold([]placed{{ref: ref{domain: domain}}})
	case queue.Partial:
		s.telling.Lock()
		return s.telling.Unlock, nil
	}
	return func() {}, nil
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
		before := env.Untold()
		if errors.Is(err, pebble.ErrNotFound) || err == nil && !s.isDurable(r.domain, seq) {
			continue
		}
		if err != nil {
			return fmt.Errorf("pebblestore: review %s/%d: %w", key.Domain, seq, err)
		}
		if err := s.findBody(&w); err != nil {
			tell := s.opts.Events.BackgroundError // it is looked at again
			if damaged(err) {
				tell = s.opts.Events.Corruption
			}
			tell(fmt.Errorf("pebblestore: body of entry %s/%d, which stays in the queue: %w", key.Domain, seq, err))
			continue
		}
		d := decide(&queue.Reviewed{Key: key, Envelope: &env, Open: func() (queue.Body, error) { return s.openReviewed(key) }})
		w.verdict = r.verdict(&w, &env, d)
		if w.verdict == verdictLeave && (d.Verdict != queue.Keep || len(d.Messages) > 0) {
			return fmt.Errorf("pebblestore: review %s/%d: what was decided would repeat itself", key.Domain, seq)
		}
		if w.verdict == verdictLeave {
			continue
		}
		w.untold = [2]bool{before, w.verdict != verdictRemove && env.Untold()}
		r.leaves = r.leaves || w.verdict == verdictRemove
		r.work = append(r.work, w)
		r.updated = append(r.updated, env)
		r.messages = append(r.messages, d.Messages...)
	}
	return nil
}

// verdict is what a decision makes of an entry that is now as in env; verdictLeave: nothing.
func (r *review) verdict(w *settling, env *mail.Envelope, d queue.Decision) verdict {
	waits := r.stage == queue.Waiting
	switch {
	case d.Verdict == queue.Keep:
		return verdictLeave
	case r.stage == queue.Partial:
		stays := standing(env)
		if d.Verdict == queue.Update && !env.Untold() && stays != verdictRemove && stays.space() == w.space {
			return verdictUpdate
		}
		return verdictLeave
	case d.Verdict == queue.Drop && waits && settleOthers(env):
		return verdictHold
	case d.Verdict == queue.Drop:
		return verdictRemove
	case waits && standing(env) == verdictHold:
		return verdictHold
	case slices.ContainsFunc(env.Recipients, isPending) == waits:
		return verdictUpdate
	}
	return verdictLeave
}

// openReviewed opens the body of an entry for the time of a Review.
func (s *Store) openReviewed(key queue.Key) (queue.Body, error) {
	b, err := s.reopen(key)
	if b, ok := b.(*body); ok {
		b.inside = true
	}
	return b, err
}

func isPending(r mail.Recipient) bool { return r.State == mail.Pending }

func (s *Store) isDurable(d *domain, seq uint64) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return seq <= d.durable
}

// read reads one entry.
func (r *review) read(seq uint64) (env mail.Envelope, w settling, err error) {
	var rec []byte
	var closer io.Closer
	for _, space := range spacesOf(r.stage) {
		w.space = space
		if rec, closer, err = r.store.get(appendEntryKey(nil, space, r.domain.name, seq)); !errors.Is(err, pebble.ErrNotFound) {
			break
		}
	}
	if err != nil {
		return env, w, err
	}
	w.ledger, w.seq = &ledger{domain: r.domain}, seq
	env, stands, err := decodeEntry(r.domain.name, rec)
	if err == nil && r.stage == queue.Partial && !env.Untold() {
		err = pebble.ErrNotFound
	}
	w.o = outstanding{id: env.ID, size: env.WireSize, entry: len(rec), stands: stands, record: ownHead + int(env.WireSize), recipients: len(env.Recipients)}
	return env, w, errors.Join(err, closer.Close())
}

// findBody notes what must be known of a body under its id to delete it.
func (s *Store) findBody(w *settling) error {
	if w.o.stands == beside {
		return nil
	}
	rec, closer, err := s.get(appendBodyKey(nil, w.o.id))
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
		if err := s.record(b, w, &r.updated[i]); err != nil {
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

// record writes what becomes of an entry to b, except for the body of a shared one.
func (s *Store) record(b *pebble.Batch, w *settling, env *mail.Envelope) error {
	if err := w.setMark(b, w.untold[0], w.untold[1]); err != nil {
		return err
	}
	key := appendEntryKey(nil, w.space, w.ledger.domain.name, w.seq)
	if w.verdict == verdictUpdate {
		return b.Set(key, appendEntry(make([]byte, 0, entrySize(env)), env, w.o.stands), nil)
	}
	err := b.DeleteSized(key, uint32(w.o.entry), nil)
	switch {
	case err != nil:
		return err
	case w.verdict == verdictHold:
		key[0] = spaceHeld
		return b.Set(key, appendEntry(make([]byte, 0, entrySize(env)), env, w.o.stands), nil)
	case w.o.shared:
		return nil
	case w.o.stands == beside:
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
		w := &r.work[i]
		s.tally(r.domain, spaceUntold, w.mark, 0)
		switch w.verdict {
		case verdictRemove:
			s.tally(r.domain, w.space, -1, w.o.size)
			freed += w.o.size
		case verdictHold:
			s.tally(r.domain, w.space, -1, w.o.size)
			s.tally(r.domain, spaceHeld, 1, w.o.size)
		}
	}
	s.mu.Unlock()
	s.janitor.deleted(freed)
}
