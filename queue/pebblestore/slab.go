package pebblestore

import (
	"sync"
	"sync/atomic"
)

const (
	// slabSize is the most that several small bodies share. It goes back when the last of them is released, so
	// it bounds what a reader who stops in the middle holds beyond what it was lent.
	slabSize = 64 << 10
	// pinnedFrom is the size from which an own body is not copied, but lent from the engine's memory.
	pinnedFrom = 16 << 10
)

// slab is memory that the bodies of some neighbours are copied into.
type slab struct {
	buf    []byte
	refs   atomic.Int32 // segments, and one for who fills it
	pooled bool
}

var slabPool = sync.Pool{New: func() any { return &slab{buf: make([]byte, 0, slabSize), pooled: true} }}

func (b *slab) release() {
	if b.refs.Add(-1) == 0 && b.pooled {
		b.buf = b.buf[:0]
		slabPool.Put(b)
	}
}

// slabWriter fills slabs.
type slabWriter struct {
	store *Store
	at    *slab
	left  int64 // octets that are still to come
}

// begin says that left octets will come.
func (w *slabWriter) begin(s *Store, left int64) { w.store, w.left = s, left }

func (w *slabWriter) end() {
	if w.at != nil {
		w.at.release()
		w.at = nil
	}
}

// lend makes a segment of a copy of data, which is not empty and shorter than pinnedFrom.
func (w *slabWriter) lend(data []byte) pin {
	if w.store.opts.poison {
		return w.store.lendCopy(data)
	}
	if w.at == nil || cap(w.at.buf)-len(w.at.buf) < len(data) {
		w.end()
		if w.left > slabSize/2 {
			w.at = slabPool.Get().(*slab)
		} else { // of a short run nobody should hold more than its size
			w.at = &slab{buf: make([]byte, 0, max(int(w.left), len(data)))}
		}
		w.at.refs.Store(1)
	}
	b := w.at
	n := len(b.buf)
	b.buf = append(b.buf, data...)
	b.refs.Add(1)
	w.left -= int64(len(data))
	w.store.pins.slabbed.Add(1)
	return pin{store: w.store, data: b.buf[n:len(b.buf):len(b.buf)], slab: b}
}
