package pebblestore

import (
	"errors"
	"fmt"
	"io"

	"github.com/cockroachdb/pebble/v2"

	"odmr/internal/mail"
	"odmr/queue"
)

var errBodyClosed = errors.New("pebblestore: body was closed")

// body reads a message's content. A small body is one segment that is pinned from the
// start; of a large one a piece is pinned from Next until its Release.
//
// If the message is removed while its large body is read, Next returns queue.ErrNotFound; what was
// read until then is right, as ids are never used again.
type body struct {
	store  *Store
	id     mail.ID
	size   int64
	left   int64  // octets that were not handed out yet
	chunks uint32 // 0: first is all there is
	next   uint32 // piece to be loaded next
	first  pin    // the first segment, until it was taken
	loaded bool   // first is there
	closed bool
}

// openBody reads the body record of id and pins the first segment.
func (s *Store) openBody(id mail.ID) (*body, bodyShape, error) {
	v, closer, err := s.db.Get(appendBodyKey(make([]byte, 0, bodyKeyLen), id))
	if err != nil {
		return nil, bodyShape{}, err
	}
	shape, data, err := decodeBody(v, nil)
	if err != nil {
		return nil, bodyShape{}, errors.Join(err, closer.Close())
	}
	b := &body{store: s, id: id, size: shape.size, left: shape.size, chunks: shape.chunks}
	shape.tail = nil // not ours to keep
	switch {
	case shape.chunks > 0:
		if err := closer.Close(); err != nil {
			return nil, bodyShape{}, err
		}
		if b.first, err = b.load(); err != nil {
			return nil, bodyShape{}, err
		}
		b.loaded = true
	case shape.size > 0:
		b.first, b.loaded = s.lend(data, closer), true
	default:
		if err := closer.Close(); err != nil {
			return nil, bodyShape{}, err
		}
	}
	return b, shape, nil
}

// load pins the next piece of a large body.
func (b *body) load() (pin, error) {
	v, closer, err := b.store.db.Get(appendChunkKey(make([]byte, 0, chunkKeyLen), b.id, b.next))
	if errors.Is(err, pebble.ErrNotFound) {
		return pin{}, fmt.Errorf("piece %d of message %v: %w", b.next, b.id, queue.ErrNotFound)
	}
	if err != nil {
		return pin{}, fmt.Errorf("pebblestore: piece %d of message %v: %w", b.next, b.id, err)
	}
	last := b.next == b.chunks-1
	if n := int64(len(v)); n == 0 || n > b.left || last && n != b.left {
		closer.Close()
		return pin{}, fmt.Errorf("pebblestore: piece %d of message %v: %w: %d octets where %d are left", b.next, b.id, errRecord, n, b.left)
	}
	b.left -= int64(len(v))
	b.next++
	return b.store.lend(v, closer), nil
}

func (b *body) Size() int64 { return b.size }

func (b *body) Ready() (queue.Segment, bool, error) {
	switch {
	case b.closed:
		return queue.Segment{}, true, errBodyClosed
	case b.loaded:
		b.loaded = false
		return b.first.segment(), true, nil
	case b.next >= b.chunks:
		return queue.Segment{}, true, io.EOF
	}
	return queue.Segment{}, false, nil
}

func (b *body) Next() (queue.Segment, error) {
	if seg, ok, err := b.Ready(); ok {
		return seg, err
	}
	if err := b.store.enter(); err != nil {
		return queue.Segment{}, err
	}
	defer b.store.leave()
	p, err := b.load()
	if err != nil {
		return queue.Segment{}, err
	}
	return p.segment(), nil
}

func (b *body) Close() {
	b.closed = true
	if b.loaded {
		b.loaded = false
		b.first.Release()
	}
}
