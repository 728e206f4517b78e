package engine

import (
	"errors"
	"io"

	"golang.org/x/sys/unix"

	"odmr/codec"
	"odmr/queue"
)

const (
	// bufferSize is how many octets a small owned buffer takes: a flight of commands or replies.
	bufferSize = 4 << 10
	// plainSize is how many octets of a body are unstuffed at a time for BDAT.
	plainSize = 32 << 10
	// keepBuffers is how many free buffers of each size a loop keeps.
	keepBuffers = 256
	// maxIovec is how many segments go to the kernel in one writev, and gatherOctets about how many octets.
	maxIovec     = 64
	gatherOctets = 512 << 10
	// flushOctets is what one connection may write before its loop turns to the others.
	flushOctets = 1 << 20
	// lookahead is how few octets of a body are left in memory when the next segment is fetched.
	lookahead = 64 << 10
)

// buffers are a loop's free buffers, so that nothing about them is locked.
type buffers struct {
	size int
	free [][]byte
}

func (p *buffers) get() []byte {
	if n := len(p.free); n > 0 {
		b := p.free[n-1]
		p.free[n-1] = nil
		p.free = p.free[:n-1]
		return b
	}
	return make([]byte, 0, p.size)
}

func (p *buffers) put(b []byte) {
	if cap(b) == p.size && len(p.free) < keepBuffers {
		p.free = append(p.free, b[:0])
	}
}

// piece is a run of the output stream: octets in a buffer of ours, or a body.
type piece struct {
	buf  []byte // owned: what was written here; goes back to loop.small
	sent int    // octets of buf that the kernel took
	src  *source
}

// sharedBody is a body that its message and the places of the stream where it stands own together. Only
// the first of these places reads: the others are away until their turn.
type sharedBody struct {
	queue.LeasedBody
	users int
}

// leave gives up one share.
func (b *sharedBody) leave() {
	if b.users--; b.users == 0 {
		b.Close()
	}
}

// source is a body in the stream. At most one segment, and the next one once little of it is left,
// are in memory, whatever the size of the body; nothing while it is away.
type source struct {
	body    *sharedBody
	plain   bool
	away    bool          // nothing is in memory: to be read again, from where left says
	charge  int64         // octets of prefetch memory that the body takes; 0 while it is away
	left    int64         // octets of the body in segments not taken yet
	cur     []byte        // octets that may go to the kernel now
	seg     queue.Segment // where cur comes from; released when cur and raw are used up
	raw     []byte        // plain: octets of seg that are still stuffed
	clear   []byte        // plain: the buffer that cur lies in; goes back to loop.large
	un      codec.Unstuffer
	block   plainBlock    // plain: what cur is, or was when the body was given up
	ahead   queue.Segment // fetched, to follow cur
	begun   bool          // some segment was taken
	dry     bool          // the store says that the next segment is not in memory
	fetch   bool          // a worker is fetching: Body is not to be touched
	broken  error         // the store failed
	retired bool          // the output is done with it; the worker is not
}

// plainBlock is a run of plain octets that were unstuffed together.
type plainBlock struct {
	at   int64           // where it begins in wire form
	un   codec.Unstuffer // as it was there
	size int             // plain octets in it that were made so far
	skip int             // plain octets that went to the kernel already and are still to be made again
}

// output is what a connection still has to write, in order. It belongs to the connection's loop.
type output struct {
	lp      *loop
	pieces  []piece
	head    int
	pending int64 // octets in owned buffers that the kernel has not taken
	held    int64 // octets of segments that are lent to this output
	bodies  int   // pieces that are bodies
	iov     [][]byte
	tls     *secure // nil in clear text
}

// errBodyShort says that a body ended before its size was reached, or went on behind it.
var errBodyShort = errors.New("engine: the body has not the size that it claims")

func (o *output) empty() bool { return o.head == len(o.pieces) }

// write appends a copy of p to the stream.
func (o *output) write(p []byte) {
	o.pending += int64(len(p))
	for len(p) > 0 {
		if o.empty() {
			o.pieces, o.head = o.pieces[:0], 0
		}
		last := len(o.pieces) - 1
		if last < o.head || o.pieces[last].src != nil || len(o.pieces[last].buf) == cap(o.pieces[last].buf) {
			o.pieces = append(o.pieces, piece{buf: o.lp.small.get()})
			last = len(o.pieces) - 1
		}
		b := &o.pieces[last].buf
		n := min(len(p), cap(*b)-len(*b))
		*b = append(*b, p[:n]...)
		p = p[n:]
	}
}

// body appends b to the stream, which owns it from now on.
func (o *output) body(src *source) {
	if o.empty() {
		o.pieces, o.head = o.pieces[:0], 0
	}
	src.left = src.body.Size()
	o.pieces = append(o.pieces, piece{src: src})
	o.bodies++
}

// flushed is how a flush ended.
type flushed struct {
	n       int64 // octets that the kernel took
	blocked bool  // the kernel takes no more: wait until the socket is writable
	again   bool  // the turn's share is used up: go on later
	err     error // the connection is broken, or a body is
}

// flush writes what it may to fd. done is called for every body that was written whole.
func (o *output) flush(fd int, done func(*source)) flushed {
	if o.tls != nil {
		return o.flushTLS(fd, done)
	}
	return o.flushClear(fd, done)
}

func (o *output) flushClear(fd int, done func(*source)) flushed {
	var f flushed
	for f.n < flushOctets {
		o.trim(done)
		total, err := o.gather()
		if err != nil {
			f.err = err
			return f
		}
		if total == 0 {
			o.trim(done) // a body may have turned out to be empty
			return f
		}
		n, err := unix.Writev(fd, o.iov)
		clear(o.iov)
		switch {
		case err == unix.EINTR:
			continue
		case err == unix.EAGAIN:
			f.blocked = true
			return f
		case err != nil:
			f.err = err
			return f
		}
		f.n += int64(n)
		o.took(int64(n))
	}
	o.trim(done)
	f.again = !o.empty()
	return f
}

// gather collects in o.iov what can be written now and returns how many octets that is.
func (o *output) gather() (int, error) {
	o.iov = o.iov[:0]
	total := 0
	for i := o.head; i < len(o.pieces) && len(o.iov) < maxIovec && total < gatherOctets; i++ {
		p := &o.pieces[i]
		b := p.buf[min(p.sent, len(p.buf)):]
		if p.src != nil {
			if err := o.fill(p.src); err != nil {
				return 0, err
			}
			b = p.src.cur
		}
		if len(b) > 0 {
			o.iov = append(o.iov, b)
			total += len(b)
		}
		if p.src != nil && !p.src.lastPart() {
			break
		}
	}
	return total, nil
}

// took notes that the kernel took n octets of what was gathered.
func (o *output) took(n int64) {
	for i := o.head; n > 0; i++ {
		p := &o.pieces[i]
		if s := p.src; s != nil {
			k := min(n, int64(len(s.cur)))
			s.cur = s.cur[k:]
			n -= k
			if len(s.cur) == 0 && len(s.raw) == 0 {
				o.release(s)
			}
			continue
		}
		k := min(n, int64(len(p.buf)-p.sent))
		p.sent += int(k)
		o.pending -= k
		n -= k
	}
}

// trim takes what is used up out of the stream, and hands bodies to done.
func (o *output) trim(done func(*source)) {
	for !o.empty() {
		p := &o.pieces[o.head]
		switch s := p.src; {
		case s != nil && s.finished():
			o.pop()
			done(s)
		case s == nil && p.sent == len(p.buf):
			o.pop()
		default:
			return
		}
	}
}

// pop takes the first piece out of the stream.
func (o *output) pop() {
	p := &o.pieces[o.head]
	if p.src == nil {
		o.lp.small.put(p.buf)
	} else {
		o.bodies--
	}
	*p = piece{}
	o.head++
	if o.head >= 64 && o.head*2 >= len(o.pieces) {
		n := copy(o.pieces, o.pieces[o.head:])
		clear(o.pieces[n:])
		o.pieces, o.head = o.pieces[:n], 0
	}
}

// finished reports whether nothing of s is left to be written.
func (s *source) finished() bool { return s.lastPart() && len(s.cur) == 0 }

// lastPart reports whether nothing will follow cur.
func (s *source) lastPart() bool {
	return s.left == 0 && len(s.raw) == 0 && s.ahead.Data == nil && !s.fetch
}

// fill makes s.cur hold octets if any can be had without blocking.
func (o *output) fill(s *source) error {
	for len(s.cur) == 0 && s.broken == nil {
		switch {
		case len(s.raw) > 0:
			s.unstuff()
			if len(s.cur) == 0 && len(s.raw) == 0 { // nothing but a stuffing dot
				o.release(s)
			}
		case s.ahead.Data != nil:
			seg := s.ahead
			s.ahead = queue.Segment{}
			o.use(s, seg)
		case s.left == 0 || s.fetch || s.away:
			return s.broken
		default:
			seg, ok, err := s.body.Ready()
			if err == nil && !ok {
				s.dry = true
				return nil
			}
			if err = o.lend(s, seg, err); err != nil {
				return err
			}
			o.use(s, seg)
		}
	}
	return s.broken
}

// unstuff makes cur of the next octets of raw.
func (s *source) unstuff() {
	if s.block.skip == 0 {
		s.block = plainBlock{at: s.wire() - int64(len(s.raw)), un: s.un}
	}
	n := min(len(s.raw), plainSize)
	s.clear = s.un.Append(s.clear[:0], s.raw[:n])
	s.raw = s.raw[n:]
	s.block.size += len(s.clear)
	k := min(s.block.skip, len(s.clear))
	s.cur = s.clear[k:]
	s.block.skip -= k
}

// wire is where the octets behind cur and raw begin in wire form.
func (s *source) wire() int64 { return s.body.Size() - s.left - int64(len(s.ahead.Data)) }

// giveUp puts s away: its segments go back, and it is read again from the first octet that the
// kernel has not taken. The worker must not have it.
func (o *output) giveUp(s *source) {
	switch at := s.wire(); {
	case s.away: // nothing is there
	case !s.plain:
		s.left = s.body.Size() - (at - int64(len(s.cur)))
	case len(s.cur) > 0 || s.block.skip > 0:
		s.left = s.body.Size() - s.block.at
		s.un = s.block.un
		s.block = plainBlock{at: s.block.at, un: s.un, skip: s.block.skip + s.block.size - len(s.cur)}
	default:
		s.left = s.body.Size() - (at - int64(len(s.raw)))
	}
	o.retire(s)
	s.away = s.left > 0
}

// lend puts seg, which came from the store with err, into the accounts.
func (o *output) lend(s *source, seg queue.Segment, err error) error {
	n := int64(len(seg.Data))
	if err == nil && (n == 0 || n > s.left) {
		seg.Release()
		err = errBodyShort
	}
	if err != nil {
		if err == io.EOF { // left says that octets are missing
			err = errBodyShort
		}
		s.broken = err
		return err
	}
	s.left -= n
	s.begun, s.dry = true, false
	o.held += n
	o.lp.eng.lent.Add(n)
	return nil
}

// use makes seg what is written next.
func (o *output) use(s *source, seg queue.Segment) {
	s.seg = seg
	if !s.plain {
		s.cur = seg.Data
		return
	}
	s.raw = seg.Data
	if s.clear == nil {
		s.clear = o.lp.large.get()
	}
}

// release gives the current segment of s back.
func (o *output) release(s *source) {
	o.unlend(&s.seg)
	s.cur, s.raw = nil, nil
}

func (o *output) unlend(seg *queue.Segment) {
	if n := int64(len(seg.Data)); n > 0 {
		o.held -= n
		o.lp.eng.lent.Add(-n)
		seg.Release()
	}
}

// wants returns the body whose next segment is to be fetched by a worker, or nil. Only the first body in
// the stream is worth it: the others have their first segment in memory.
func (o *output) wants() *source {
	for i := o.head; i < len(o.pieces); i++ {
		s := o.pieces[i].src
		if s == nil {
			continue
		}
		switch {
		case s.fetch, s.left == 0, s.broken != nil, s.ahead.Data != nil:
		case s.away, (s.begun || s.dry) && len(s.cur)+len(s.raw) <= lookahead:
			return s
		}
		return nil
	}
	return nil
}

// fetched takes the segment that a worker got for s.
func (o *output) fetched(s *source, seg queue.Segment, err error) {
	s.fetch, s.away = false, false
	if err = o.lend(s, seg, err); err == nil {
		s.ahead = seg
	}
}

// retire gives back what s holds, except its body.
func (o *output) retire(s *source) {
	o.release(s)
	o.unlend(&s.ahead)
	if s.clear != nil {
		o.lp.large.put(s.clear)
		s.clear = nil
	}
}

// drop gives back everything: the socket is gone. done is called for every body.
func (o *output) drop(done func(*source)) {
	for !o.empty() {
		src := o.pieces[o.head].src
		o.pop()
		if src != nil {
			done(src)
		}
	}
	o.pieces, o.head, o.pending = nil, 0, 0
}
