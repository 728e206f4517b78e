package traffic

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"sync/atomic"
	"time"

	"odmr/codec"
)

const (
	// inBuffer is the usual size of a read buffer in octets: some dozen messages of 4 KiB.
	inBuffer = 128 << 10
	// outBuffer is how much is gathered before it is written.
	outBuffer = 64 << 10
	// copyLimit is the largest text that is copied into the gathered output; a larger one is given to
	// writev as it is.
	copyLimit = 16 << 10
	// maxLine and maxLines bound a reply of the server.
	maxLine, maxLines = 4096, 128
)

// ErrLost says that the connection ended where it should not.
var ErrLost = errors.New("connection lost")

// Error is a reply that the dialogue cannot go on from.
type Error struct {
	At   string // the command that was answered
	Code int
	Text string
}

func (e *Error) Error() string { return fmt.Sprintf("%s: %d %s", e.At, e.Code, e.Text) }

// wire is one connection with its buffers.
type wire struct {
	conn    net.Conn
	in      []byte
	r, w    int // in[r:w] was read and not consumed
	out     []byte
	vec     net.Buffers
	unwatch func() bool
	slow    *Throttle   // nil: read as fast as can be
	serving atomic.Bool // after the turn
	leaving atomic.Bool
}

func newWire(ctx context.Context, conn net.Conn, buffer int) *wire {
	c := &wire{conn: conn, in: make([]byte, buffer)}
	c.unwatch = context.AfterFunc(ctx, func() { _ = conn.Close() })
	return c
}

func (c *wire) close() {
	c.unwatch()
	_ = c.conn.Close()
}

// fill reads once, behind what is there. The buffer grows if it is full of one line.
func (c *wire) fill() error {
	if c.r == c.w {
		c.r, c.w = 0, 0
	} else if c.w == len(c.in) {
		if c.r == 0 {
			c.in = append(c.in, make([]byte, len(c.in))...)
		} else {
			c.w = copy(c.in, c.in[c.r:c.w])
			c.r = 0
		}
	}
	room := c.in[c.w:]
	if c.slow != nil {
		room = c.slow.take(room)
	}
	n, err := c.conn.Read(room)
	c.w += n
	if c.slow != nil {
		c.slow.took(n)
	}
	if n > 0 {
		return nil
	}
	if errors.Is(err, io.EOF) {
		return ErrLost
	}
	return fmt.Errorf("%w: %w", ErrLost, err)
}

// flush writes what was gathered.
func (c *wire) flush() error {
	if len(c.out) == 0 {
		return nil
	}
	_, err := c.conn.Write(c.out)
	c.out = c.out[:0]
	if err != nil {
		return fmt.Errorf("%w: %w", ErrLost, err)
	}
	return nil
}

// put gathers p, or writes it along with what was gathered if it is large.
func (c *wire) put(p []byte) error {
	if len(p) <= copyLimit {
		c.out = append(c.out, p...)
		if len(c.out) >= outBuffer {
			return c.flush()
		}
		return nil
	}
	c.vec = append(c.vec[:0], c.out, p)
	_, err := c.vec.WriteTo(c.conn)
	c.out = c.out[:0]
	if err != nil {
		return fmt.Errorf("%w: %w", ErrLost, err)
	}
	return nil
}

// reply returns the next reply, valid until the next read; gathered output goes out before it waits.
func (c *wire) reply() (codec.Reply, error) {
	for {
		rep, n, err := codec.NextReply(c.in[c.r:c.w], maxLine, maxLines)
		if err != nil {
			return codec.Reply{}, err
		}
		if n > 0 {
			c.r += n
			return rep, nil
		}
		if err := c.flush(); err != nil {
			return codec.Reply{}, err
		}
		if err := c.fill(); err != nil {
			return codec.Reply{}, err
		}
	}
}

// ask sends one line and wants a reply of that code.
func (c *wire) ask(line string, code int) (codec.Reply, error) {
	c.out = append(append(c.out, line...), '\r', '\n')
	return c.want(line, code)
}

// want reads a reply and wants that code.
func (c *wire) want(at string, code int) (codec.Reply, error) {
	rep, err := c.reply()
	if err != nil {
		return rep, fmt.Errorf("%s: %w", at, err)
	}
	if rep.Code != code {
		return rep, &Error{At: at, Code: rep.Code, Text: string(rep.Text)}
	}
	return rep, nil
}

// line returns the next line without its CRLF, or nil if there is no whole one yet.
func (c *wire) line() []byte {
	b := c.in[c.r:c.w]
	n := bytes.IndexByte(b, '\n')
	if n < 0 {
		return nil
	}
	c.r += n + 1
	b = b[:n]
	if n > 0 && b[n-1] == '\r' {
		b = b[:n-1]
	}
	return b
}

// Throttle makes a reader slow: a line of so many octets a second.
type Throttle struct {
	Rate  int // octets per second
	Piece int // octets read at a time
	next  time.Time
	taken atomic.Int64
}

// Taken is how many octets came through so far.
func (t *Throttle) Taken() int64 { return t.taken.Load() }

// take waits for the line's pace and returns how much of room may be read now.
func (t *Throttle) take(room []byte) []byte {
	time.Sleep(time.Until(t.next))
	return room[:min(len(room), t.Piece)]
}

// took says that n octets came: the line is busy with them for a while.
func (t *Throttle) took(n int) {
	busy := time.Duration(n) * time.Second / time.Duration(t.Rate)
	if now := time.Now(); now.Sub(t.next) > busy { // the line was idle; what it did not carry then is lost
		t.next = now
	}
	t.next = t.next.Add(busy)
	t.taken.Add(int64(n))
}
