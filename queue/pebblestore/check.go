package pebblestore

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"

	"github.com/cockroachdb/pebble/v2"

	"odmr/internal/mail"
	"odmr/queue"
)

// Check implements queue.Admin. It reads everything, bodies included, from a snapshot, while the
// store goes on. The invariants:
//
//  1. every key belongs to a known space and every record decodes;
//  2. an entry in space e has a pending recipient; one in h has none, and a held one; one in f has neither, and a failed
//     or a relayed one; no entry is in two of them;
//  3. every recipient is in its entry's domain, every field in its range;
//  4. every entry has an own body of its id, or a body record that names it, and that has the size that the entry
//     says; not both;
//  5. every own body and every body record has an entry, and the latter the pieces from 0 to its number, which add up to its size;
//  6. every piece has a body record, unless its message is on its way in;
//  7. no number is in use beyond the sequence's bound on disk;
//  8. the counts in memory are those of the entries, and the head of each domain that is not leased has no
//     entry below it but those known, and places names all from its beginning on;
//  9. beside an entry of which a sender is yet to be told something, while it waits or is held, stands a mark, and
//     beside no other;
//  10. every stamp has its time.
//
// What cannot be read is a violation, too, and what stands behind it is looked at all the same.
func (s *Store) Check(ctx context.Context, progress func(done, total int64), report func(queue.Violation)) (queue.Checked, error) {
	if err := s.enter(); err != nil {
		return queue.Checked{}, err
	}
	defer s.leave()
	c := s.freeze()
	defer c.snap.Close()
	c.ctx, c.report = ctx, report
	c.progress = func() {
		c.done++
		if progress != nil && (c.done%1024 == 0 || c.done == c.total) {
			progress(c.done, c.total)
		}
	}
	for _, pass := range [...]func() error{c.meta, c.entries, c.bodies, c.owns, c.chunks, c.marks, c.stamps, c.memory, c.strays} {
		if err := pass(); err != nil {
			return c.checked, fmt.Errorf("pebblestore: check: %w", err)
		}
	}
	return c.checked, nil
}

// checker is one run of Check.
type checker struct {
	store    *Store
	ctx      context.Context
	snap     *pebble.Snapshot
	known    []census
	totals   queue.Counts
	incoming map[mail.ID]struct{}
	progress func()
	report   func(queue.Violation)
	checked  queue.Checked

	bound       uint64
	done, total int64
	counted     map[string]*queue.Counts
	unread      map[string]int64 // entries that cannot be decoded; Open does not count them
	named       int64            // entries that a body record names
	blind       bool             // something could not be read, so that what is counted does not say much
	said        map[string]bool  // of what this was reported
}

// freeze takes a snapshot of disk and memory at one moment.
func (s *Store) freeze() *checker {
	s.frozen.Lock()
	defer s.frozen.Unlock()
	c := &checker{
		store: s, snap: s.db.NewSnapshot(), known: s.census(),
		incoming: make(map[mail.ID]struct{}), counted: make(map[string]*queue.Counts), unread: make(map[string]int64), said: make(map[string]bool),
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	c.totals = s.totals
	for id := range s.incoming {
		c.incoming[id] = struct{}{}
	}
	// Entries and, to a close guess, bodies: what progress counts.
	c.total = 2 * (s.totals.Messages + s.totals.Failed + s.totals.Held)
	return c
}

func (c *checker) violation(domain string, id mail.ID, format string, args ...any) {
	c.report(queue.Violation{Domain: domain, ID: id, Problem: fmt.Sprintf(format, args...)})
}

// each calls fn for every pair from lower to upper.
func (c *checker) each(lower, upper []byte, fn func(k, v []byte) error) error {
	it, err := c.pass(lower, upper)
	if err != nil {
		return err
	}
	defer it.Close()
	for n, ok := 0, it.First(); ok; ok = it.Next() {
		if n++; n%256 == 0 && c.ctx.Err() != nil {
			return c.ctx.Err()
		}
		v, err := it.ValueAndErr()
		if c.lost("the value of %q", it.Key(), err) {
			continue
		}
		if err != nil {
			return err
		}
		if err := fn(it.Key(), v); err != nil {
			return err
		}
	}
	return it.Error()
}

// pass walks over the keys from lower to upper, also behind what cannot be read.
func (c *checker) pass(lower, upper []byte) (*passage, error) {
	return c.store.gaps.pass(c.snap, lower, upper, func(from, to []byte, err error) {
		c.lost("what stands behind %q", from, fmt.Errorf("up to %q: %w", to, err))
	})
}

// lost says whether err is that something is not there any more that should be, and reports it once.
func (c *checker) lost(what string, key []byte, err error) bool {
	if err == nil || errors.Is(err, pebble.ErrNotFound) || !damaged(err) {
		return false
	}
	c.blind = true
	if what = fmt.Sprintf(what, key); !c.said[what] {
		c.said[what] = true
		c.violation("", 0, "%s cannot be read: %v", what, err)
	}
	return true
}

func (c *checker) meta() error {
	return c.each([]byte{spaceMeta}, []byte{spaceMeta + 1}, func(k, v []byte) error {
		n, err := decodeNumber(v)
		switch {
		case err != nil:
			c.violation("", 0, "%q: %v", k, err)
		case string(k) == string(keySequence):
			c.bound = n
		case string(k) != string(keyFormat):
			c.violation("", 0, "unknown key %x", k)
		case n != storeFormat:
			c.violation("", 0, "format %d", n)
		}
		return nil
	})
}

// entries is invariants 1 to 3 and 7, and 9 seen from the entries, and counts for 8.
func (c *checker) entries() error {
	for _, space := range entrySpaces {
		var at *census
		var domain string
		err := c.each([]byte{space}, []byte{space + 1}, func(k, v []byte) error {
			name, seq, ok := parseEntryKey(k, space)
			if !ok {
				c.violation("", 0, "bad key %x", k)
				return nil
			}
			if domain != string(name) {
				domain = string(name)
				at = c.find(domain)
			}
			c.checked.Entries++
			c.progress()
			c.entry(space, domain, seq, v)
			if space == spaceEntry && at != nil && !at.leased && seq < at.head && !slices.Contains(at.kept, seq) {
				c.violation(domain, 0, "entry %d is below the head %d: no lease would find it", seq, at.head)
			}
			if space == spaceEntry && at != nil && seq >= at.places.from && !slices.Contains(at.places.list, seq) {
				c.violation(domain, 0, "entry %d is not among the places that are known from %d on: no lease would find it", seq, at.places.from)
			}
			return nil
		})
		if err != nil {
			return err
		}
	}
	return nil
}

func (c *checker) find(domain string) *census {
	i, ok := slices.BinarySearchFunc(c.known, domain, func(k census, name string) int {
		switch {
		case k.name < name:
			return -1
		case k.name > name:
			return 1
		}
		return 0
	})
	if !ok {
		return nil
	}
	return &c.known[i]
}

func (c *checker) entry(space byte, domain string, seq uint64, v []byte) {
	counts := c.counted[domain]
	if counts == nil {
		counts = new(queue.Counts)
		c.counted[domain] = counts
	}
	env, _, err := decodeEntry(domain, v)
	if err != nil {
		c.violation(domain, 0, "entry %d: %v", seq, err)
		c.unread[domain]++
		return
	}
	if problem := checkEnvelope(&env); problem != "" {
		c.violation(domain, env.ID, "entry %d: %s", seq, problem)
	}
	if seq > c.bound || uint64(env.ID) > c.bound {
		c.violation(domain, env.ID, "entry %d: number beyond the bound %d", seq, c.bound)
	}
	switch space {
	case spaceEntry:
		counts.Messages++
		counts.Bytes += env.WireSize
	case spaceFailed:
		counts.Failed++
		counts.Kept += env.WireSize
	case spaceHeld:
		counts.Held++
		counts.Kept += env.WireSize
	}
	if env.Untold() {
		counts.Untold++
		if ok, err := markOf(c.snap, domain, seq); err != nil || !ok {
			c.violation(domain, env.ID, "entry %d: a sender is to be told something, and there is no mark (%v)", seq, err)
		}
	}
	if v := standing(&env); v == verdictRemove || v.space() != space {
		c.violation(domain, env.ID, "entry %d: stands in space %c, which is not that of its recipients' states", seq, space)
	}
	for _, other := range entrySpaces[:slices.Index(entrySpaces[:], space)] {
		key := appendEntryKey(nil, other, domain, seq)
		if ok, err := c.has(key); (err != nil || ok) && !c.lost("entry %q", key, err) {
			c.violation(domain, env.ID, "entry %d: in space %c and in %c at once (%v)", seq, other, space, err)
		}
	}
}

func (c *checker) has(key []byte) (bool, error) {
	if _, ok := c.store.gaps.find(key); ok {
		return false, errGap
	}
	return has(c.snap, key)
}

// get is Get of the snapshot, but for what is known not to be readable.
func (c *checker) get(key []byte) ([]byte, io.Closer, error) {
	if _, ok := c.store.gaps.find(key); ok {
		return nil, nil, errGap
	}
	return c.snap.Get(key)
}

// bodies is invariants 4 and 5, seen from the body record.
func (c *checker) bodies() error {
	return c.each([]byte{spaceBody}, []byte{spaceBody + 1}, func(k, v []byte) error {
		id, ok := parseBodyKey(k)
		if !ok {
			c.violation("", 0, "bad key %x", k)
			return nil
		}
		c.checked.Bodies++
		c.progress()
		head, _, err := decodeBodyHead(v)
		if err != nil {
			c.violation("", id, "body: %v", err)
			return nil
		}
		if uint64(id) > c.bound {
			c.violation("", id, "body: number beyond the bound %d", c.bound)
		}
		entries := int64(0)
		for _, r := range head.refs {
			n, err := c.namedEntry(id, &head, r)
			if err != nil {
				return err
			}
			entries += n
		}
		if entries == 0 {
			c.violation("", id, "body without an entry")
		}
		c.named += entries
		return c.pieces(id, &head)
	})
}

// namedEntry looks at the entry that body id names as r.
func (c *checker) namedEntry(id mail.ID, head *bodyHead, r ref) (found int64, err error) {
	for _, space := range entrySpaces {
		v, closer, err := c.get(appendEntryKey(nil, space, r.domain, r.seq))
		if errors.Is(err, pebble.ErrNotFound) {
			continue
		}
		if c.lost("entry %q", appendEntryKey(nil, space, r.domain, r.seq), err) {
			found++
			continue
		}
		if err != nil {
			return found, err
		}
		found++
		if p, err := peekEntry(v); err == nil && (p.id != id || p.size != head.size) {
			c.violation(r.domain, id, "entry %d says message %v of %d octets, its body is of %d", r.seq, p.id, p.size, head.size)
		} else if err == nil && p.stands == beside {
			c.violation(r.domain, id, "entry %d has an own body, and another under its id", r.seq)
		} else if err == nil && p.stands == alone && (len(head.refs) != 1 || head.chunks != pieceCount(head.size)) {
			c.violation(r.domain, id, "entry %d says that its body stands alone, the body has %d entries and %d pieces", r.seq, len(head.refs), head.chunks)
		}
		if err := closer.Close(); err != nil {
			return found, err
		}
	}
	return found, nil
}

// owns is invariants 4 and 5, seen from the own bodies.
func (c *checker) owns() error {
	return c.each([]byte{spaceOwn}, []byte{spaceOwn + 1}, func(k, v []byte) error {
		name, seq, ok := parseEntryKey(k, spaceOwn)
		if !ok {
			c.violation("", 0, "bad key %x", k)
			return nil
		}
		c.checked.Bodies++
		c.progress()
		domain := string(name)
		id, data, bad := decodeOwn(v)
		if bad != nil {
			c.violation(domain, 0, "own body %d: %v", seq, bad)
		}
		entries := 0
		for _, space := range entrySpaces {
			rec, closer, err := c.get(appendEntryKey(nil, space, domain, seq))
			if errors.Is(err, pebble.ErrNotFound) {
				continue
			}
			if c.lost("entry %q", appendEntryKey(nil, space, domain, seq), err) {
				entries++
				continue
			}
			if err != nil {
				return err
			}
			entries++
			p, err := peekEntry(rec)
			switch {
			case err != nil || bad != nil: // reported already
			case p.stands != beside:
				c.violation(domain, p.id, "entry %d does not know of its own body", seq)
			case p.id != id || p.size != int64(len(data)):
				c.violation(domain, id, "entry %d says message %v of %d octets, its own body is %v of %d", seq, p.id, p.size, id, len(data))
			}
			if err := closer.Close(); err != nil {
				return err
			}
		}
		if entries == 0 {
			c.violation(domain, id, "own body %d without an entry", seq)
		}
		c.named += int64(entries)
		return nil
	})
}

// pieces is invariant 5 for the pieces of one body.
func (c *checker) pieces(id mail.ID, head *bodyHead) error {
	if head.chunks == 0 {
		return nil
	}
	var next uint32
	var size int64
	err := c.each(appendChunkKey(nil, id, 0), appendChunkKey(nil, id+1, 0), func(k, v []byte) error {
		_, n, ok := parseChunkKey(k)
		if !ok || n != next {
			c.violation("", id, "piece %x where %d was expected", k, next)
		}
		if len(v) == 0 || len(v) > mail.LastPiece || len(v) > mail.ChunkSize && n+1 < head.chunks {
			c.violation("", id, "piece %d has %d octets", n, len(v))
		}
		next = n + 1
		size += int64(len(v))
		c.checked.Chunks++
		return nil
	})
	if err == nil && (next != head.chunks || size != head.size) {
		c.violation("", id, "%d pieces of %d octets where %d of %d were stored", next, size, head.chunks, head.size)
	}
	return err
}

// chunks is invariant 6. It looks at one piece of each message.
func (c *checker) chunks() error {
	it, err := c.pass([]byte{spaceChunk}, []byte{spaceChunk + 1})
	if err != nil {
		return err
	}
	defer it.Close()
	for ok := it.First(); ok; {
		if err := c.ctx.Err(); err != nil {
			return err
		}
		id, _, good := parseChunkKey(it.Key())
		if !good {
			c.violation("", 0, "bad key %x", it.Key())
			ok = it.Next()
			continue
		}
		there, err := c.has(appendBodyKey(nil, id))
		if c.lost("body %q", appendBodyKey(nil, id), err) {
			there, err = true, nil
		}
		if err != nil {
			return err
		}
		if _, coming := c.incoming[id]; !there && !coming {
			c.violation("", id, "pieces without a body record")
		}
		ok = it.SeekGE(appendChunkKey(nil, id+1, 0))
	}
	return it.Error()
}

// marks is invariant 9, seen from the marks.
func (c *checker) marks() error {
	return c.each([]byte{spaceUntold}, []byte{spaceUntold + 1}, func(k, v []byte) error {
		domain, seq, ok := parseEntryKey(k, spaceUntold)
		if !ok || string(v) != string([]byte{recordVersion}) {
			c.violation("", 0, "bad mark %x: %x", k, v)
			return nil
		}
		for _, space := range spacesOf(queue.Partial) {
			rec, closer, err := c.get(appendEntryKey(nil, space, string(domain), seq))
			if errors.Is(err, pebble.ErrNotFound) {
				continue
			}
			if c.lost("entry %q", appendEntryKey(nil, space, string(domain), seq), err) {
				return nil
			}
			if err != nil {
				return err
			}
			env, _, err := decodeEntry(string(domain), rec)
			if err := closer.Close(); err != nil {
				return err
			}
			if err != nil || env.Untold() { // one that cannot be read is reported already
				return nil
			}
		}
		c.violation(string(domain), 0, "a mark beside entry %d, of which nobody is to be told anything", seq)
		return nil
	})
}

// stamps is invariant 10.
func (c *checker) stamps() error {
	return c.each([]byte{spaceStamp}, []byte{spaceStamp + 1}, func(k, v []byte) error {
		if _, err := decodeNumber(v); err != nil || len(k) != stampKeyLen {
			c.violation("", 0, "stamp %x: %v", k, err)
		}
		return nil
	})
}

// memory is invariant 8.
func (c *checker) memory() error {
	var sum queue.Counts
	for _, k := range c.known {
		got := c.counted[k.name]
		if got == nil {
			got = new(queue.Counts)
		}
		if *got != k.counts && c.unread[k.name] == 0 && !c.blind {
			c.violation(k.name, 0, "counts in memory are %+v, on disk %+v", k.counts, *got)
		}
		delete(c.counted, k.name)
		sum.Messages += k.counts.Messages
		sum.Bytes += k.counts.Bytes
		sum.Failed += k.counts.Failed
		sum.Held += k.counts.Held
		sum.Kept += k.counts.Kept
		sum.Untold += k.counts.Untold
		c.checked.Domains++
	}
	for name, got := range c.counted {
		if c.unread[name] == 0 && !c.blind {
			c.violation(name, 0, "not in memory: %+v on disk", *got)
		}
		c.checked.Domains++
	}
	if sum != c.totals {
		c.violation("", 0, "totals are %+v, the domains' sum is %+v", c.totals, sum)
	}
	return nil
}

// strays names the entries without a body record that names them (invariant 4), if the count of those that were
// named says that there are any; and keys of no known space (invariant 1).
func (c *checker) strays() error {
	if c.named != c.checked.Entries {
		for _, space := range entrySpaces {
			if err := c.each([]byte{space}, []byte{space + 1}, func(k, v []byte) error { return c.stray(space, k, v) }); err != nil {
				return err
			}
		}
	}
	known := [...]byte{0, spaceBody, spaceChunk, spaceOwn, spaceEntry, spaceFailed, spaceHeld, spaceStamp, spaceMeta, spaceUntold}
	for i, space := range known {
		lower, upper := []byte{space + 1}, []byte{0xff, 0xff}
		if i == 0 {
			lower[0] = 0
		}
		if i+1 < len(known) {
			upper = []byte{known[i+1]}
		}
		if err := c.each(lower, upper, func(k, _ []byte) error {
			c.violation("", 0, "unknown key %x", k)
			return nil
		}); err != nil {
			return err
		}
	}
	return nil
}

func (c *checker) stray(space byte, k, v []byte) error {
	domain, seq, ok := parseEntryKey(k, space)
	p, err := peekEntry(v)
	if !ok || err != nil {
		return nil // reported already
	}
	id := p.id
	if p.stands == beside {
		key := appendEntryKey(nil, spaceOwn, string(domain), seq)
		if there, err := c.has(key); err != nil || there {
			if c.lost("own body %q", key, err) {
				return nil
			}
			return err
		}
		c.violation(string(domain), id, "entry %d has no body", seq)
		return nil
	}
	rec, closer, err := c.get(appendBodyKey(nil, id))
	if errors.Is(err, pebble.ErrNotFound) {
		c.violation(string(domain), id, "entry %d has no body", seq)
		return nil
	}
	if c.lost("body %q", appendBodyKey(nil, id), err) {
		return nil
	}
	if err != nil {
		return err
	}
	defer closer.Close()
	named := false
	_, _, err = decodeBody(rec, func(name []byte, n uint64) {
		named = named || string(name) == string(domain) && n == seq
	})
	if err == nil && !named {
		c.violation(string(domain), id, "entry %d is not named by its body", seq)
	}
	return nil
}
