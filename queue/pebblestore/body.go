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
	skip   int64  // octets of the next piece that are not wanted: see Rewind
	again  bool   // a small body is to be loaded once more
	sought bool   // Rewind was called: places of pieces are reckoned
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
	if b.chunks == 0 {
		return b.reload()
	}
	v, closer, err := b.store.db.Get(appendChunkKey(make([]byte, 0, chunkKeyLen), b.id, b.next))
	if errors.Is(err, pebble.ErrNotFound) {
		return pin{}, fmt.Errorf("piece %d of message %v: %w", b.next, b.id, queue.ErrNotFound)
	}
	if err != nil {
		return pin{}, fmt.Errorf("pebblestore: piece %d of message %v: %w", b.next, b.id, err)
	}
	last := b.next == b.chunks-1
	if n := int64(len(v)); n == 0 || n > b.left || last && n != b.left || b.sought && !last && n != mail.ChunkSize {
		closer.Close()
		return pin{}, fmt.Errorf("pebblestore: piece %d of message %v: %w: %d octets where %d are left", b.next, b.id, errRecord, n, b.left)
	}
	b.left -= int64(len(v))
	b.next++
	p := b.store.lend(v, closer)
	p.data, b.skip = p.data[b.skip:], 0
	return p, nil
}

// reload pins a small body once more.
func (b *body) reload() (pin, error) {
	v, closer, err := b.store.db.Get(appendBodyKey(make([]byte, 0, bodyKeyLen), b.id))
	if errors.Is(err, pebble.ErrNotFound) {
		return pin{}, fmt.Errorf("message %v: %w", b.id, queue.ErrNotFound)
	}
	if err != nil {
		return pin{}, fmt.Errorf("pebblestore: message %v: %w", b.id, err)
	}
	shape, data, err := decodeBody(v, nil)
	if err == nil && (shape.chunks != 0 || int64(len(data)) != b.size) {
		err = fmt.Errorf("%w: body of %v has changed", errRecord, b.id)
	}
	if err != nil {
		return pin{}, errors.Join(err, closer.Close())
	}
	p := b.store.lend(data, closer)
	p.data, b.skip, b.again = p.data[b.skip:], 0, false
	return p, nil
}

func (b *body) Size() int64 { return b.size }

func (b *body) Ready() (queue.Segment, bool, error) {
	switch {
	case b.closed:
		return queue.Segment{}, true, errBodyClosed
	case b.loaded:
		b.loaded = false
		return b.first.segment(), true, nil
	case b.next >= b.chunks && !b.again:
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

// Rewind implements queue.LeasedBody.
func (b *body) Rewind(offset int64) {
	if b.loaded {
		b.loaded = false
		b.first.Release()
	}
	b.sought, b.again, b.skip = true, false, 0
	switch {
	case offset >= b.size:
		b.next, b.left = b.chunks, 0
	case b.chunks == 0:
		b.again, b.skip = true, offset
	default:
		b.next, b.skip = uint32(offset/mail.ChunkSize), offset%mail.ChunkSize
		b.left = b.size - int64(b.next)*mail.ChunkSize
	}
}

func (b *body) Close() {
	b.closed = true
	if b.loaded {
		b.loaded = false
		b.first.Release()
	}
}
