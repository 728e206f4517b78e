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

// smallTail is the size up to which the second and last piece of a body is loaded along with the first, so that its reader
// need not come back for it: in a drain of messages a little over a chunk that was one more wait for each.
const smallTail = 64 << 10

// body reads a message's content. A body in one piece is one segment that is held from the
// start; of a large one a piece is pinned from Next until its Release.
//
// If the message is removed while its large body is read, Next returns queue.ErrNotFound; what was
// read until then is right, as ids are never used again.
type body struct {
	store  *Store
	id     mail.ID
	beside ref // the entry that an own body is beside; else no domain
	size   int64
	left   int64  // octets that were not handed out yet
	chunks uint32 // 0: first is all there is
	next   uint32 // piece to be loaded next
	first  pin    // the first segment, until it was taken
	loaded bool   // first is there
	tail   pin    // the last piece, where it is small and follows first; until it was taken
	tailed bool   // tail is there
	skip   int64  // octets of the next piece that are not wanted: see Rewind
	again  bool   // a small body is to be loaded once more
	sought bool   // Rewind was called: places of pieces are reckoned
	closed bool
	inside bool // it is read within a call in progress, for which Close waits
}

// openBody reads the body record of id into b and pins the first segment.
func (s *Store) openBody(b *body, id mail.ID) (bodyShape, error) {
	v, closer, err := s.get(appendBodyKey(make([]byte, 0, bodyKeyLen), id))
	if err != nil {
		return bodyShape{}, err
	}
	shape, data, err := decodeBody(v, nil)
	if err != nil {
		return bodyShape{}, errors.Join(err, closer.Close())
	}
	*b = body{store: s, id: id, size: shape.size, left: shape.size, chunks: shape.chunks}
	shape.tail = nil // not ours to keep
	switch {
	case shape.chunks > 0:
		if err := closer.Close(); err != nil {
			return bodyShape{}, err
		}
		if err := b.begin(); err != nil {
			return bodyShape{}, err
		}
	case shape.size > 0:
		b.first, b.loaded = s.lend(data, closer), true
	default:
		if err := closer.Close(); err != nil {
			return bodyShape{}, err
		}
	}
	return shape, nil
}

// openAlone reads the first piece of a body that stands alone under id into b and pins it.
func (s *Store) openAlone(b *body, id mail.ID, size int64) error {
	*b = body{store: s, id: id, size: size, left: size, chunks: pieceCount(size)}
	return b.begin()
}

// begin pins what is read of a large body when it is opened.
func (b *body) begin() (err error) {
	if b.first, err = b.load(); err != nil {
		return err
	}
	b.loaded = true
	if b.next == b.chunks-1 && b.left <= smallTail {
		if b.tail, err = b.load(); err != nil {
			b.Close()
			return err
		}
		b.tailed = true
	}
	return nil
}

// openOwn reads the own body beside the entry at, which says p, into b and pins it.
func (s *Store) openOwn(b *body, at ref, p entryPeek) error {
	*b = body{store: s, id: p.id, beside: at, size: p.size}
	data, closer, err := b.pinned()
	if err != nil {
		return err
	}
	if len(data) == 0 {
		return closer.Close()
	}
	b.first, b.loaded = s.lend(data, closer), true
	return nil
}

// pinned reads a body in one piece.
func (b *body) pinned() (data []byte, closer io.Closer, err error) {
	if b.beside.domain == "" {
		return b.pinnedByID()
	}
	v, closer, err := b.store.get(appendEntryKey(make([]byte, 0, entryKeyLen(b.beside.domain)), spaceOwn, b.beside.domain, b.beside.seq))
	if err != nil {
		return nil, nil, err
	}
	id, data, err := decodeOwn(v)
	if err == nil && (id != b.id || int64(len(data)) != b.size) {
		err = fmt.Errorf("%w: own body of %v has %d octets, entry says %v and %d", errRecord, id, len(data), b.id, b.size)
	}
	if err != nil {
		return nil, nil, errors.Join(err, closer.Close())
	}
	return data, closer, nil
}

func (b *body) pinnedByID() (data []byte, closer io.Closer, err error) {
	v, closer, err := b.store.get(appendBodyKey(make([]byte, 0, bodyKeyLen), b.id))
	if err != nil {
		return nil, nil, err
	}
	shape, data, err := decodeBody(v, nil)
	if err == nil && (shape.chunks != 0 || int64(len(data)) != b.size) {
		err = fmt.Errorf("%w: body of %v has changed", errRecord, b.id)
	}
	if err != nil {
		return nil, nil, errors.Join(err, closer.Close())
	}
	return data, closer, nil
}

// load pins the next piece of a large body.
func (b *body) load() (pin, error) {
	if b.chunks == 0 {
		return b.reload()
	}
	p, err := b.store.piece(appendChunkKey(make([]byte, 0, chunkKeyLen), b.id, b.next))
	if errors.Is(err, pebble.ErrNotFound) {
		return pin{}, fmt.Errorf("piece %d of message %v: %w", b.next, b.id, queue.ErrNotFound)
	}
	if err != nil {
		return pin{}, fmt.Errorf("pebblestore: piece %d of message %v: %w", b.next, b.id, err)
	}
	last := b.next == b.chunks-1
	if n := int64(len(p.data)); n == 0 || n > b.left || last && n != b.left || b.sought && !last && n != mail.ChunkSize {
		p.Release()
		return pin{}, fmt.Errorf("pebblestore: piece %d of message %v: %w: %d octets where %d are left", b.next, b.id, errRecord, n, b.left)
	}
	b.left -= int64(len(p.data))
	b.next++
	p.data, b.skip = p.data[b.skip:], 0
	return p, nil
}

// reload pins a small body once more.
func (b *body) reload() (pin, error) {
	data, closer, err := b.pinned()
	if errors.Is(err, pebble.ErrNotFound) {
		return pin{}, fmt.Errorf("message %v: %w", b.id, queue.ErrNotFound)
	}
	if err != nil {
		return pin{}, fmt.Errorf("pebblestore: message %v: %w", b.id, err)
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
	case b.tailed:
		b.tailed = false
		return b.tail.segment(), true, nil
	case b.next >= b.chunks && !b.again:
		return queue.Segment{}, true, io.EOF
	}
	return queue.Segment{}, false, nil
}

func (b *body) Next() (queue.Segment, error) {
	if seg, ok, err := b.Ready(); ok {
		return seg, err
	}
	if !b.inside {
		if err := b.store.enter(); err != nil {
			return queue.Segment{}, err
		}
		defer b.store.leave()
	}
	p, err := b.load()
	if err != nil {
		return queue.Segment{}, err
	}
	return p.segment(), nil
}

// Rewind implements queue.LeasedBody.
func (b *body) Rewind(offset int64) {
	b.drop()
	b.sought, b.again, b.skip = true, false, 0
	switch {
	case offset >= b.size:
		b.next, b.left = b.chunks, 0
	case b.chunks == 0:
		b.again, b.skip = true, offset
	default:
		b.next = min(uint32(offset/mail.ChunkSize), b.chunks-1) // the last may be longer
		b.skip = offset - int64(b.next)*mail.ChunkSize
		b.left = b.size - int64(b.next)*mail.ChunkSize
	}
}

func (b *body) Close() {
	b.closed = true
	b.drop()
}

// drop gives back what is loaded and was not taken.
func (b *body) drop() {
	if b.loaded {
		b.loaded = false
		b.first.Release()
	}
	if b.tailed {
		b.tailed = false
		b.tail.Release()
	}
}
