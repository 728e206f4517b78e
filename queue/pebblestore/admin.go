package pebblestore

import (
	"errors"
	"fmt"
	"math"
	"slices"

	"github.com/cockroachdb/pebble/v2"

	"odmr/internal/mail"
	"odmr/queue"
)

// census is a domain's state at a moment.
type census struct {
	name    string
	counts  queue.Counts
	durable uint64
	head    uint64
	kept    []uint64
	leased  bool
	places  places
}

// census returns the state of all domains that have entries, in the order of their names.
func (s *Store) census() []census {
	s.mu.Lock()
	all := make([]census, 0, len(s.domains))
	for _, d := range s.domains {
		if d.counts != (queue.Counts{}) {
			all = append(all, d.census())
		}
	}
	s.mu.Unlock()
	slices.SortFunc(all, func(a, b census) int {
		if a.name < b.name {
			return -1
		}
		return 1
	})
	return all
}

func (d *domain) census() census {
	return census{name: d.name, counts: d.counts, durable: d.durable, head: d.head, kept: slices.Clone(d.kept), leased: d.lease != nil,
		places: places{d.places.from, slices.Clone(d.places.list)}}
}

// Domains implements queue.Admin.
func (s *Store) Domains(fn func(domain string, c queue.Counts) bool) error {
	if err := s.enter(); err != nil {
		return err
	}
	defer s.leave()
	for _, c := range s.census() {
		if !fn(c.name, c.counts) {
			break
		}
	}
	return nil
}

// List implements queue.Admin. Entries that cannot be read are reported to Events and passed over: Check names them.
func (s *Store) List(domain string, fn func(queue.Entry) bool) error {
	if err := s.enter(); err != nil {
		return err
	}
	defer s.leave()
	for _, c := range s.census() {
		if domain != "" && c.name != domain {
			continue
		}
		if more, err := s.list(c, fn); err != nil || !more {
			return err
		}
	}
	return nil
}

// list walks over the deliverable, the failed and the held entries of a domain at once, by age.
func (s *Store) list(c census, fn func(queue.Entry) bool) (more bool, err error) {
	var its [len(entrySpaces)]*passage
	for i, space := range entrySpaces {
		it, err := s.passReporting(appendEntryKey(nil, space, c.name, 0), appendEntryKey(nil, space, c.name, c.durable+1))
		if err != nil {
			return false, err
		}
		defer it.Close()
		it.First()
		its[i] = it
	}
	for {
		var at *passage
		var least uint64
		for i, space := range entrySpaces {
			it := its[i]
			if !it.Valid() {
				if err := it.Error(); err != nil {
					return false, err
				}
				continue
			}
			if _, seq, _ := parseEntryKey(it.Key(), space); at == nil || seq < least {
				at, least = it, seq
			}
		}
		if at == nil {
			return true, nil
		}
		var env mail.Envelope
		rec, err := at.ValueAndErr()
		if err == nil {
			env, _, err = decodeEntry(c.name, rec)
		}
		if err != nil && !damaged(err) {
			return false, err
		}
		if err != nil {
			s.opts.Events.Corruption(fmt.Errorf("pebblestore: entry %s/%d: %w", c.name, least, err))
		} else if !fn(queue.Entry{Envelope: env, Leased: c.leased}) {
			return false, nil
		}
		at.Next()
	}
}

// placed is an entry and where it stands.
type placed struct {
	ref
	space  byte
	size   int64     // of the record
	wire   int64     // of the body, or -1: the entry was not counted
	stands bodyPlace // of the body
	env    mail.Envelope
	err    error // env could not be read
}

// whereabouts says where a message stands: beside the entry ref (an own body), or under its id (the zero value).
type whereabouts struct{ ref }

func (w whereabouts) own() bool { return w.domain != "" }

// locate finds message id. There is no index from ids to entries, which would cost every message a write; but
// an entry's place in line is given when its message has come in, so it is soon behind the id. In
// each domain the first second behind it is looked at, then a minute, then all: some searches
// per domain where the message is there, a scan over all later entries where it is not.
func (s *Store) locate(id mail.ID) (whereabouts, error) {
	_, closer, err := s.get(appendBodyKey(nil, id))
	if err == nil {
		return whereabouts{}, closer.Close()
	}
	if !errors.Is(err, pebble.ErrNotFound) {
		return whereabouts{}, err
	}
	it, err := s.passReporting([]byte{spaceEntry}, []byte{spaceHeld + 1})
	if err != nil {
		return whereabouts{}, err
	}
	defer it.Close()
	domains := s.census()
	from := uint64(id)
	for _, until := range [...]uint64{from + 1_000_000<<sequenceShift, from + 60_000_000<<sequenceShift, math.MaxUint64} {
		for i := range domains {
			for _, space := range entrySpaces {
				if seq := scanFor(it, space, domains[i].name, id, [2]uint64{from, until}); seq != 0 {
					return whereabouts{ref{domains[i].name, seq}}, nil
				}
			}
			if err := it.Error(); err != nil {
				return whereabouts{}, err
			}
		}
		from = until
	}
	return whereabouts{}, queue.ErrNotFound
}

// scanFor returns the place of the entry of message id, looking at span, or 0.
func scanFor(it *passage, space byte, domain string, id mail.ID, span [2]uint64) uint64 {
	for ok := it.SeekGE(appendEntryKey(nil, space, domain, span[0])); ok; ok = it.Next() {
		name, seq, good := parseEntryKey(it.Key(), space)
		if !good || string(name) != domain || seq > span[1] {
			return 0
		}
		rec, err := it.ValueAndErr()
		if damaged(err) {
			continue
		}
		if err != nil {
			return 0 // the iterator remembers it
		}
		if p, err := peekEntry(rec); err == nil && p.id == id && p.stands == beside {
			return seq
		}
	}
	return 0
}

// entries returns the entries of message id, which stands at at, that are still there, and its body as far
// as Remove needs it.
func (s *Store) entries(id mail.ID, at whereabouts) ([]placed, outstanding, error) {
	if at.own() {
		all, err := s.placed(nil, at.ref)
		o := outstanding{id: id, stands: beside}
		if len(all) > 0 {
			o.size, o.record = all[0].wire, ownHead+int(max(all[0].wire, 0))
		}
		return all, o, err
	}
	rec, closer, err := s.get(appendBodyKey(nil, id))
	if errors.Is(err, pebble.ErrNotFound) {
		return nil, outstanding{}, queue.ErrNotFound
	}
	if err != nil {
		return nil, outstanding{}, err
	}
	head, _, err := decodeBodyHead(rec)
	o := outstanding{id: id, size: head.size, record: len(rec), chunks: head.chunks, shared: len(head.refs) > 1}
	if err = errors.Join(err, closer.Close()); err != nil {
		return nil, o, fmt.Errorf("pebblestore: body of %v: %w", id, err)
	}
	var all []placed
	for _, r := range head.refs {
		if all, err = s.placed(all, r); err != nil {
			return nil, o, err
		}
	}
	return all, o, nil
}

// placed appends the entries at r.
func (s *Store) placed(all []placed, r ref) ([]placed, error) {
	for _, space := range entrySpaces {
		rec, closer, err := s.get(appendEntryKey(nil, space, r.domain, r.seq))
		if errors.Is(err, pebble.ErrNotFound) {
			continue
		}
		if err != nil {
			return nil, err
		}
		p := placed{ref: r, space: space, size: int64(len(rec)), wire: -1}
		p.env, p.stands, p.err = decodeEntry(r.domain, rec)
		if peek, err := peekEntry(rec); err == nil {
			p.wire = peek.size
		}
		if err := closer.Close(); err != nil {
			return nil, err
		}
		all = append(all, p)
	}
	return all, nil
}

// Show implements queue.Admin.
func (s *Store) Show(id mail.ID) ([]queue.Entry, error) {
	if err := s.enter(); err != nil {
		return nil, err
	}
	defer s.leave()
	at, err := s.locate(id)
	if err != nil {
		return nil, err
	}
	all, _, err := s.entries(id, at)
	if err != nil {
		return nil, err
	}
	var found []queue.Entry
	for _, p := range all {
		if p.err != nil {
			return nil, fmt.Errorf("pebblestore: entry %s/%d: %w", p.domain, p.seq, p.err)
		}
		s.mu.Lock()
		d := s.domains[p.domain]
		visible, leased := d != nil && p.seq <= d.durable, d != nil && d.lease != nil
		s.mu.Unlock()
		if visible {
			found = append(found, queue.Entry{Envelope: p.env, Leased: leased})
		}
	}
	if len(found) == 0 {
		return nil, queue.ErrNotFound
	}
	return found, nil
}

// Open implements queue.Admin.
func (s *Store) Open(id mail.ID) (queue.Body, error) {
	if err := s.enter(); err != nil {
		return nil, err
	}
	defer s.leave()
	at, err := s.locate(id)
	if err != nil {
		return nil, err
	}
	b := new(body)
	if at.own() {
		return s.reopen(queue.Key{Domain: at.domain, Seq: at.seq})
	}
	if _, err = s.openBody(b, id); errors.Is(err, pebble.ErrNotFound) {
		return nil, queue.ErrNotFound
	}
	if err != nil {
		return nil, fmt.Errorf("pebblestore: body of %v: %w", id, err)
	}
	return b, nil
}

// reopen reads the body of the entry that key names, in whichever space.
func (s *Store) reopen(key queue.Key) (queue.Body, error) {
	p, err := s.peek(key)
	if err != nil {
		return nil, err
	}
	b := new(body)
	if p.stands == beside {
		err = s.openOwn(b, ref{key.Domain, key.Seq}, p)
	} else {
		_, err = s.openBody(b, p.id)
	}
	if errors.Is(err, pebble.ErrNotFound) {
		return nil, queue.ErrNotFound
	}
	if err != nil {
		return nil, fmt.Errorf("pebblestore: body of %s/%d: %w", key.Domain, key.Seq, err)
	}
	return b, nil
}

// peek looks at the entry that key names, in whichever space.
func (s *Store) peek(key queue.Key) (p entryPeek, err error) {
	for _, space := range entrySpaces {
		rec, closer, err := s.get(appendEntryKey(nil, space, key.Domain, key.Seq))
		if errors.Is(err, pebble.ErrNotFound) {
			continue
		}
		if err != nil {
			return p, err
		}
		p, err = peekEntry(rec)
		return p, errors.Join(err, closer.Close())
	}
	return p, queue.ErrNotFound
}

// Remove implements queue.Admin. If one of the entries meant is in a leased domain, none is removed.
func (s *Store) Remove(domain string, id mail.ID) (int, error) {
	if err := s.enter(); err != nil {
		return 0, err
	}
	defer s.leave()
	at, err := s.locate(id) // may scan, so nobody is held up for it; a message never moves
	if err != nil {
		return 0, err
	}
	s.reviewing.Lock()
	defer s.reviewing.Unlock()
	b := s.db.NewBatch()
	n, err := s.remove(b, domain, id, at)
	if err != nil {
		return 0, errors.Join(err, b.Close())
	}
	if err := s.settled(b); err != nil {
		return 0, fmt.Errorf("pebblestore: remove: %w", err)
	}
	return n, nil
}

// remove puts the removal in the log and in memory. It holds up commits and settlements, but not
// while it waits for the disk.
func (s *Store) remove(b *pebble.Batch, domain string, id mail.ID, at whereabouts) (int, error) {
	s.frozen.Lock()
	defer s.frozen.Unlock()
	all, o, err := s.entries(id, at)
	if err != nil {
		return 0, err
	}
	meant := slices.DeleteFunc(slices.Clone(all), func(p placed) bool { return domain != "" && p.domain != domain })
	if len(meant) == 0 {
		return 0, queue.ErrNotFound
	}
	release, err := s.hold(meant)
	if err != nil {
		return 0, err
	}
	defer release()
	for _, p := range meant {
		if err := b.DeleteSized(appendEntryKey(nil, p.space, p.domain, p.seq), uint32(p.size), nil); err != nil {
			return 0, err
		}
	}
	marks, err := s.unmark(b, meant)
	if err != nil {
		return 0, err
	}
	if len(meant) == len(all) {
		if at.own() {
			err = b.DeleteSized(appendEntryKey(nil, spaceOwn, at.domain, at.seq), uint32(o.record), nil)
		} else {
			err = deleteBody(b, &o)
		}
		if err != nil {
			return 0, err
		}
		s.janitor.deleted(o.size)
	}
	if err := s.apply(b); err != nil {
		return 0, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, p := range meant {
		if d := s.domains[p.domain]; d != nil && p.wire >= 0 {
			s.tally(d, p.space, -1, p.wire)
		}
	}
	s.remark(meant, marks)
	return len(meant), nil
}

// hold keeps leases off the domains of entries until release is called, or says queue.ErrBusy.
func (s *Store) hold(entries []placed) (release func(), err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	var held []*domain
	for _, p := range entries {
		d := s.domains[p.domain]
		if d == nil {
			continue
		}
		if d.lease != nil {
			for _, d := range held {
				d.held--
			}
			return nil, queue.ErrBusy
		}
		d.held++
		held = append(held, d)
	}
	return func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		for _, d := range held {
			d.held--
			s.drop(d)
		}
		s.unheld.Broadcast()
	}, nil
}
