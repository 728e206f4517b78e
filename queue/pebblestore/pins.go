package pebblestore

import (
	"io"
	"sync"
	"sync/atomic"

	"odmr/queue"
)

// pins counts what readers hold of Pebble's memory. A value of the engine, as long as it is
// held, keeps the memtables of its time in memory. Readers may be as slow as they like, so without
// a bound each of them could keep another memtable. Time is cut into generations at each
// flush; at most max generations are pinned at once, and when a further one would be, the
// segment is copied instead.
type pins struct {
	max    int
	copied atomic.Int64

	slabbed atomic.Int64 // segments lent out that are in slabs or in buffers of blobs

	mu         sync.Mutex
	generation uint64
	held       map[uint64]int64 // by generation
	total      int64
}

func (p *pins) init(limit int) {
	p.max = limit
	p.held = make(map[uint64]int64)
}

func (p *pins) nextGeneration() {
	p.mu.Lock()
	p.generation++
	p.mu.Unlock()
}

// take counts one more pin and says of which generation, or that there must be none.
func (p *pins) take() (generation uint64, ok bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	g := p.generation
	if p.held[g] == 0 && len(p.held) >= p.max {
		return 0, false
	}
	p.held[g]++
	p.total++
	return g, true
}

func (p *pins) give(generation uint64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.total--
	if p.held[generation]--; p.held[generation] == 0 {
		delete(p.held, generation)
	}
}

// lent is how many values are pinned.
func (p *pins) lent() int64 {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.total
}

// pin is one value of the engine on loan; it is the Released of its segment.
type pin struct {
	store      *Store
	closer     io.Closer
	data       []byte
	generation uint64
	copied     bool
	slab       *slab  // data is in it
	buf        []byte // data is in it, see blobs; neither: in the engine's memory or copied
}

// lend makes a segment's memory of data, which is valid until closer is closed. A flush between the
// read and this call makes the pin count for the next generation: off by one, never by more.
func (s *Store) lend(data []byte, closer io.Closer) pin {
	if !s.opts.poison {
		if g, ok := s.pins.take(); ok {
			return pin{store: s, closer: closer, data: data, generation: g}
		}
	}
	p := s.lendCopy(data)
	closer.Close()
	return p
}

func (s *Store) lendCopy(data []byte) pin {
	s.pins.copied.Add(1)
	return pin{store: s, data: append(make([]byte, 0, len(data)), data...), copied: true}
}

// poisonOctet overwrites released segments in tests.
const poisonOctet = 0xDB

// Release implements queue.Releaser.
func (p *pin) Release() {
	if p.store == nil {
		return
	}
	s := p.store
	p.store = nil
	if p.slab != nil {
		s.pins.slabbed.Add(-1)
		p.slab.release()
		p.slab = nil
		return
	}
	if p.buf != nil {
		s.pins.slabbed.Add(-1)
		if s.opts.poison {
			poison(p.buf)
		}
		s.blobs.put(p.buf)
		p.buf = nil
		return
	}
	if p.copied {
		if s.opts.poison {
			poison(p.data)
		}
		return
	}
	p.closer.Close()
	s.pins.give(p.generation)
}

func poison(b []byte) {
	for i := range b {
		b[i] = poisonOctet
	}
}

func (p *pin) segment() queue.Segment { return queue.Segment{Data: p.data, Released: p} }
