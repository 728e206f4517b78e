package pebblestore

import (
	"bytes"
	"fmt"
	"slices"
	"sync"

	"github.com/cockroachdb/pebble/v2"

	"odmr/internal/mail"
)

// A block of a table that cannot be read ends every walk over keys that comes to it, whatever stands behind. So a walk is a passage: it
// searches for the first key behind the block, says from where to where nothing can be seen, and goes on there. What other tables have
// in between is not seen either.

const (
	// maxBroken is how many such places one walk goes beyond: where there are more it is the disk, and the walk fails.
	maxBroken = 64
	// maxKeyLen is the longest key: an entry's, see keys.go.
	maxKeyLen = 1 + mail.MaxDomain + 1 + 8
	// maxGaps is how many places are remembered, so that what lies behind them need not be searched for again.
	maxGaps = 1024
)

// gaps are the places of a store that cannot be read, as far as they are known.
type gaps struct {
	mu   sync.Mutex
	list []gap
}

// errGap says that something stands where nothing can be read.
var errGap = fmt.Errorf("%w: it stands where nothing can be read", errRecord)

// gap is one: behind from, before to.
type gap struct{ from, to []byte }

// find says where the gap ends in which key is.
func (g *gaps) find(key []byte) (to []byte, ok bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, p := range g.list {
		if bytes.Compare(p.from, key) < 0 && bytes.Compare(key, p.to) < 0 {
			return p.to, true
		}
	}
	return nil, false
}

func (g *gaps) add(from, to []byte) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if len(g.list) < maxGaps {
		g.list = append(g.list, gap{from, to})
	}
}

// passage is an iterator that goes on behind what cannot be read. It is used forwards only, by First, Next and SeekGE.
type passage struct {
	*pebble.Iterator
	over   pebble.Reader
	gaps   *gaps
	lower  []byte // of the bounds; what is before was passed
	upper  []byte
	last   []byte                           // where it stands, or stood last
	lost   func(from, to []byte, err error) // is told of each place: behind from, before to
	broken int
	done   bool // all that is left cannot be read
}

// pass walks over the keys from lower to upper. The caller closes it. What the bounds are must not be changed.
func (g *gaps) pass(over pebble.Reader, lower, upper []byte, lost func(from, to []byte, err error)) (*passage, error) {
	it, err := over.NewIter(&pebble.IterOptions{LowerBound: lower, UpperBound: upper})
	if err != nil {
		return nil, err
	}
	return &passage{Iterator: it, over: over, gaps: g, lower: lower, upper: upper, lost: lost}, nil
}

func (p *passage) First() bool {
	p.begin(p.lower)
	return p.at(p.Iterator.First())
}

// begin has a walk begin at key: what came of the one before it says nothing about this one.
func (p *passage) begin(key []byte) {
	p.last, p.done, p.broken = append(p.last[:0], key...), false, 0
}

func (p *passage) Next() bool { return p.at(p.Iterator.Next()) }

func (p *passage) SeekGE(key []byte) bool {
	p.begin(key)
	return p.at(p.Iterator.SeekGE(key))
}

// at notes where the iterator has come to, and goes on if it could not.
func (p *passage) at(valid bool) bool {
	for !valid && damaged(p.Iterator.Error()) && p.broken < maxBroken {
		p.broken++
		broken := p.Iterator.Error()
		from := slices.Clone(p.last)
		to, known := p.gaps.find(append(slices.Clone(from), 0))
		if !known {
			var err error
			if to, err = p.behind(from); err != nil { // another error: it stays at this one
				return false
			}
			if !bytes.Equal(to, append(from[:len(from):len(from)], 0)) {
				p.gaps.add(from, to)
			}
		}
		p.lost(from, to, broken)
		if bytes.Compare(to, p.upper) >= 0 {
			p.done = true
			return false
		}
		p.last = append(p.last[:0], to...)
		valid = p.Iterator.SeekGE(to)
	}
	if valid {
		p.last = append(p.last[:0], p.Iterator.Key()...)
	}
	return valid
}

// Error is nil where the walk has come to its end.
func (p *passage) Error() error {
	if p.done {
		return nil
	}
	return p.Iterator.Error()
}

// behind is the first key from which on can be read again, behind from. A search fails for each key up to the last of the block, which is
// so found octet by octet. One that fails takes long (Pebble looks for a bit that may have flipped, some 70 ms), so that they are few:
// one for each octet that the last key has and from has not.
func (p *passage) behind(from []byte) ([]byte, error) {
	it, err := p.over.NewIter(&pebble.IterOptions{LowerBound: append(slices.Clone(from), 0), UpperBound: p.upper})
	if err != nil {
		return nil, err
	}
	defer it.Close()
	fails := func(key []byte) bool {
		if err != nil || it.SeekGE(key) || it.Error() == nil {
			return false
		}
		if !damaged(it.Error()) {
			err = it.Error()
		}
		return true
	}
	if fails(before(p.upper)) {
		return p.upper, err
	}
	end := make([]byte, 0, maxKeyLen+1)
	for len(end) < len(from) { // what both have
		next := append(end, from[len(end)])
		if next[len(end)] == 0xff || fails(append(end[:len(end):len(end)], next[len(end)]+1)) {
			break
		}
		end = next
	}
	for len(end) < maxKeyLen && err == nil {
		octet := 255
		for octet >= 0 && !fails(append(end, byte(octet))) {
			octet--
		}
		if octet < 0 {
			break
		}
		end = append(end, byte(octet))
	}
	if err != nil {
		return nil, err
	}
	end = append(end, 0)
	if bytes.Compare(end, from) <= 0 { // it can be read by now
		end = append(slices.Clone(from), 0)
	}
	return end, nil
}

// before is the last key that there may be before upper.
func before(upper []byte) []byte {
	key := slices.Clone(upper)
	for len(key) > 0 && key[len(key)-1] == 0 {
		key = key[:len(key)-1]
	}
	if len(key) > 0 {
		key[len(key)-1]--
	}
	for len(key) < maxKeyLen {
		key = append(key, 0xff)
	}
	return key
}

// lostEntries is what is said of a place in line that cannot be read.
func lostEntries(from, to []byte, err error) error {
	return fmt.Errorf("pebblestore: what stands behind %q and before %q cannot be read: %w", from, to, err)
}

// passReporting is pass over the database, with Events told of what cannot be read.
func (s *Store) passReporting(lower, upper []byte) (*passage, error) {
	return s.gaps.pass(s.db, lower, upper, func(from, to []byte, err error) { s.opts.Events.Corruption(lostEntries(from, to, err)) })
}
