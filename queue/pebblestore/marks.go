package pebblestore

import (
	"fmt"

	"github.com/cockroachdb/pebble/v2"

	"odmr/internal/mail"
)

// Marks say which entries have something that their sender is yet to be told (mail.Envelope.Untold) while others of their
// recipients wait or are held, so that nobody has to search the queue for them. A mark is written and deleted in the
// batch that makes it so.

// setMark writes to b what follows for the mark of the entry at r, and returns by how much the count of marks changes.
func setMark(b *pebble.Batch, r ref, before, after bool) (int64, error) {
	key := appendEntryKey(nil, spaceUntold, r.domain, r.seq)
	switch {
	case after && !before:
		return 1, b.Set(key, []byte{recordVersion}, nil)
	case before && !after:
		return -1, b.Delete(key, nil)
	}
	return 0, nil
}

// setMark notes in w what setMark says.
func (w *settling) setMark(b *pebble.Batch, before, after bool) (err error) {
	w.mark, err = setMark(b, ref{w.ledger.domain.name, w.seq}, before, after)
	return err
}

// unmark deletes the marks of entries, those that cannot be read included, and returns by how much each changes the count.
func (s *Store) unmark(b *pebble.Batch, entries []placed) ([]int64, error) {
	marks := make([]int64, len(entries))
	for i, p := range entries {
		marked, err := markOf(s.db, p.domain, p.seq)
		if err == nil {
			marks[i], err = setMark(b, p.ref, marked, false)
		}
		if err != nil {
			return nil, err
		}
	}
	return marks, nil
}

// remark brings the counts in line with marks that were written. Store.mu is held.
func (s *Store) remark(entries []placed, marks []int64) {
	for i, p := range entries {
		if d := s.domains[p.domain]; d != nil {
			s.tally(d, spaceUntold, marks[i], 0)
		}
	}
}

// countMarks takes the counts of marks.
func (s *Store) countMarks() error {
	it, err := s.passReporting([]byte{spaceUntold}, []byte{spaceUntold + 1})
	if err != nil {
		return err
	}
	defer it.Close()
	for ok := it.First(); ok; ok = it.Next() {
		name, _, good := parseEntryKey(it.Key(), spaceUntold)
		d := s.domains[string(name)]
		if !good || d == nil {
			s.opts.Events.Corruption(fmt.Errorf("pebblestore: bad key %x", it.Key()))
			continue
		}
		s.tally(d, spaceUntold, 1, 0)
	}
	return it.Error()
}

// markAll sets the marks of a store that was written without any. After a crash in the middle it begins again.
func (s *Store) markAll() error {
	for _, space := range [...]byte{spaceEntry, spaceHeld} {
		it, err := s.db.NewIter(&pebble.IterOptions{LowerBound: []byte{space}, UpperBound: []byte{space + 1}})
		if err != nil {
			return err
		}
		defer it.Close()
		for ok := it.First(); ok; ok = it.Next() {
			name, seq, good := parseEntryKey(it.Key(), space)
			env, _, err := decodeEntry(string(name), it.Value())
			if !good || err != nil || !env.Untold() {
				continue // what is bad is reported when it is counted
			}
			if err := s.db.Set(appendEntryKey(nil, spaceUntold, env.Domain, seq), []byte{recordVersion}, pebble.NoSync); err != nil {
				return err
			}
		}
		if err := it.Error(); err != nil {
			return err
		}
	}
	return nil
}

// markOf says whether there is a mark that names the entry at domain and seq.
func markOf(r pebble.Reader, domain string, seq uint64) (bool, error) {
	return has(r, appendEntryKey(nil, spaceUntold, domain, seq))
}

// settleOthers makes the end of an entry that of its recipients that are not held, and says whether there are such.
func settleOthers(env *mail.Envelope) (held bool) {
	for i := range env.Recipients {
		held = held || env.Recipients[i].State == mail.Held
	}
	if held {
		env.Told()
		for i := range env.Recipients {
			if r := &env.Recipients[i]; r.State == mail.Pending {
				r.State = mail.Bounced
			}
		}
	}
	return held
}
