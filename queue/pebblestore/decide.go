package pebblestore

import (
	"errors"
	"fmt"
	"slices"

	"github.com/cockroachdb/pebble/v2"

	"odmr/internal/mail"
	"odmr/queue"
)

// maxRevived bounds domain.revived: 4 KiB a domain. What is released beyond that while a session drains the domain
// is for the next one.
const maxRevived = 512

// Release implements queue.Admin.
func (s *Store) Release(domain string, id mail.ID) (int, error) {
	return s.decide(domain, id, mail.Pending)
}

// Bounce implements queue.Admin.
func (s *Store) Bounce(domain string, id mail.ID) (int, error) {
	return s.decide(domain, id, mail.Failed)
}

// decide makes all held recipients of message id become to.
func (s *Store) decide(domain string, id mail.ID, to mail.RecipientState) (int, error) {
	if err := s.enter(); err != nil {
		return 0, err
	}
	defer s.leave()
	at, err := s.locate(id)
	if err != nil {
		return 0, err
	}
	s.reviewing.Lock()
	defer s.reviewing.Unlock()
	b := s.db.NewBatch()
	n, err := s.enact(b, domain, id, whereTo{at, to})
	if err != nil {
		return 0, errors.Join(err, b.Close())
	}
	if err := s.settled(b); err != nil {
		return 0, fmt.Errorf("pebblestore: decide about %v: %w", id, err)
	}
	return n, nil
}

// whereTo is where a message stands, and what its held recipients become.
type whereTo struct {
	at whereabouts
	to mail.RecipientState
}

// enact puts the decision in the log and in memory. It holds up commits and settlements, but not while it waits
// for the disk. Leases go on: one that begins, or reads, between the log and the memory finds the
// entry by its scan or in domain.revived, and not twice (see collector.takeKept).
func (s *Store) enact(b *pebble.Batch, domain string, id mail.ID, w whereTo) (int, error) {
	s.frozen.Lock()
	defer s.frozen.Unlock()
	all, _, err := s.entries(id, w.at)
	if err != nil {
		return 0, err
	}
	var moved []placed
	var marks []int64
	var spaces []byte // where moved go
	for _, p := range all {
		before := p.env.Untold()
		switch {
		case domain != "" && p.domain != domain:
			continue
		case p.err != nil:
			return 0, fmt.Errorf("pebblestore: entry %s/%d: %w", p.domain, p.seq, p.err)
		case !redecide(&p.env, w.to):
			continue
		}
		space := standing(&p.env).space()
		if space != p.space {
			if err := b.DeleteSized(appendEntryKey(nil, p.space, p.domain, p.seq), uint32(p.size), nil); err != nil {
				return 0, err
			}
		}
		rec := appendEntry(make([]byte, 0, entrySize(&p.env)), &p.env, p.stands)
		if err := b.Set(appendEntryKey(nil, space, p.domain, p.seq), rec, nil); err != nil {
			return 0, err
		}
		n, err := setMark(b, p.ref, before, p.env.Untold())
		if err != nil {
			return 0, err
		}
		moved, spaces, marks = append(moved, p), append(spaces, space), append(marks, n)
	}
	if len(moved) == 0 {
		return 0, queue.ErrNotFound
	}
	if err := s.apply(b); err != nil {
		return 0, err
	}
	for _, tell := range s.moved(moved, spaces, marks) {
		tell()
	}
	return len(moved), nil
}

// moved brings the memory in line with entries that went to spaces, and with their marks, and returns whom the caller
// is to tell.
func (s *Store) moved(entries []placed, spaces []byte, marks []int64) (waiting []func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.remark(entries, marks)
	for i, p := range entries {
		d := s.domains[p.domain]
		if d == nil || spaces[i] == p.space {
			continue
		}
		s.tally(d, p.space, -1, p.wire)
		s.tally(d, spaces[i], 1, p.wire)
		if spaces[i] == spaceEntry {
			d.revive(p.seq, p.wire)
			waiting = d.told(waiting)
		}
	}
	return waiting
}

// redecide makes env's held recipients become to, and says whether there were any.
func redecide(env *mail.Envelope, to mail.RecipientState) (any bool) {
	for i := range env.Recipients {
		if r := &env.Recipients[i]; r.State == mail.Held {
			r.State, any = to, true
		}
	}
	return any
}

// revive notes that the entry with seq, of size octets, is deliverable again. Store.mu is held.
func (d *domain) revive(seq uint64, size int64) {
	switch {
	case d.lease == nil:
		d.keep(append(slices.Clone(d.kept), seq))
	case len(d.revived) < maxRevived:
		d.revived = append(d.revived, seq)
	default: // this lease will not hand it out, so it does not wait for it
		if d.passed == 0 || seq < d.passed {
			d.passed = seq
		}
		g := d.lease.find(d.name)
		g.handed.Messages++
		g.handed.Bytes += size
	}
}

// keep sets what the next lease looks at before it goes on at head: entries, in any order, of which those from head
// on are left to its scan. It takes entries over. Store.mu is held.
func (d *domain) keep(entries []uint64) {
	slices.Sort(entries)
	entries = slices.Compact(entries)
	if n, _ := slices.BinarySearch(entries, d.head); n < len(entries) {
		entries = entries[:n]
	}
	if len(entries) > maxKept {
		d.head = entries[maxKept]
		entries = entries[:maxKept]
	}
	d.kept = slices.Clone(entries)
}

// receive takes what was released since the last look, in order, to be handed out before what comes behind the
// cursor. Store.mu is held.
func (g *ledger) receive() {
	d := g.domain
	if len(d.revived) == 0 {
		return
	}
	g.kept = append(slices.Clone(g.kept), d.revived...)
	d.revived = nil
	slices.Sort(g.kept)
	g.kept = slices.Compact(g.kept)
}

// seen says that this lease has handed out the entry with seq and it is not settled, or stays for the next lease; or
// that it will be found behind the cursor.
func (l *lease) seen(g *ledger, seq uint64) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	_, out := g.out[seq]
	return out || seq >= g.cursor || slices.Contains(g.left, seq)
}
