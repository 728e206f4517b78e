package client

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"syscall"
	"time"
)

const (
	// readBuffer holds the longest line of the SASL exchange (mail.MaxAuthLine) and is the unit
	// in which message content is passed on.
	readBuffer = 16 << 10
	// writeBuffer gathers the replies to one pipelined group.
	writeBuffer = 4 << 10
	// hangUpWait bounds how long an orderly end waits for the peer's own.
	hangUpWait = 10 * time.Second
	// maxReplyLines bounds one reply; the longest known EHLO replies have about 20 lines.
	maxReplyLines = 256
)

// ErrLost says that the connection ended at a place where the protocol does not allow it.
var ErrLost = errors.New("connection lost")

// ErrTimeout says that the peer did not go on within Options.Timeout.
var ErrTimeout = errors.New("timed out waiting for the peer")

// ErrLineTooLong says that the peer sent a line longer than any that is allowed.
var ErrLineTooLong = errors.New("line too long")

// Side says who wrote a line of a transcript.
type Side uint8

const (
	Us   Side = iota // this end
	Peer             // the other end
)

// Transcript is called with every line of a dialogue, without its CRLF. Message content and
// secrets are described in brackets, not shown.
type Transcript func(from Side, line string)

// past is a deadline that has always gone by.
var past = time.Unix(1, 0)

// wire is one connection seen as lines and runs of octets, with one idle time-out for
// reading and writing. Its errors are ErrLost, ErrTimeout, ErrLineTooLong or the context's.
type wire struct {
	conn       net.Conn
	r          *bufio.Reader
	w          *bufio.Writer
	ctx        context.Context
	unwatch    func() bool
	timeout    time.Duration
	watchdog   *time.Timer
	transcript Transcript
}

// newWire takes over conn. timeout 0 means none.
func newWire(ctx context.Context, conn net.Conn, timeout time.Duration, t Transcript) *wire {
	w := &wire{
		conn:       conn,
		r:          bufio.NewReaderSize(conn, readBuffer),
		w:          bufio.NewWriterSize(conn, writeBuffer),
		ctx:        ctx,
		timeout:    timeout,
		transcript: t,
	}
	expire := func() { _ = conn.SetDeadline(past) }
	w.unwatch = context.AfterFunc(ctx, expire)
	if timeout > 0 {
		w.watchdog = time.AfterFunc(timeout, expire)
	}
	return w
}

// close closes the connection; what was not flushed is dropped.
func (w *wire) close() error {
	w.unwatch()
	if w.watchdog != nil {
		w.watchdog.Stop()
	}
	return w.conn.Close()
}

// hangUp closes the connection so that all that was written reaches the peer: closing a socket
// with unread input would reset the connection, and the peer might lose our last replies.
func (w *wire) hangUp() {
	if half, ok := w.conn.(interface{ CloseWrite() error }); ok && half.CloseWrite() == nil {
		_ = w.conn.SetReadDeadline(time.Now().Add(hangUpWait))
		_, _ = io.Copy(io.Discard, w.conn)
	}
	_ = w.close()
}

// reset drops the connection with whatever is on its way, in both directions.
func (w *wire) reset() {
	if tcp, ok := netConn(w.conn).(*net.TCPConn); ok {
		_ = tcp.SetLinger(0)
	}
	_ = w.close()
}

// rearm starts the idle time-out anew. Once it has struck, the connection stays dead.
func (w *wire) rearm() {
	if w.watchdog != nil {
		w.watchdog.Reset(w.timeout)
	}
}

// wrap turns an error of the connection into one of this package's.
func (w *wire) wrap(err error) error {
	switch {
	case err == nil:
		return nil
	case w.ctx.Err() != nil:
		return context.Cause(w.ctx)
	case errors.Is(err, os.ErrDeadlineExceeded):
		return fmt.Errorf("%w (%v)", ErrTimeout, w.timeout)
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return ErrLost
	case errors.Is(err, bufio.ErrBufferFull):
		return ErrLineTooLong
	default:
		return fmt.Errorf("%w: %w", ErrLost, err)
	}
}

// lineReady reports whether a whole line can be read without waiting.
func (w *wire) lineReady() bool {
	b, _ := w.r.Peek(w.r.Buffered())
	return bytes.IndexByte(b, '\n') >= 0
}

// readLine returns the next line without its CRLF (or LF); it is valid until the next read.
// What was written before is flushed if there is anything to wait for.
func (w *wire) readLine() ([]byte, error) {
	if !w.lineReady() {
		if err := w.flush(); err != nil {
			return nil, err
		}
	}
	w.rearm()
	b, err := w.r.ReadSlice('\n')
	if err != nil {
		return nil, w.wrap(err)
	}
	b = bytes.TrimSuffix(b[:len(b)-1], []byte{'\r'})
	if w.transcript != nil {
		w.transcript(Peer, string(b))
	}
	return b, nil
}

// window returns what has been read and not consumed, at least one octet; it waits if it must.
func (w *wire) window() ([]byte, error) {
	if w.r.Buffered() == 0 {
		if err := w.flush(); err != nil {
			return nil, err
		}
		w.rearm()
		if _, err := w.r.Peek(1); err != nil {
			return nil, w.wrap(err)
		}
	}
	return w.r.Peek(w.r.Buffered())
}

// discard consumes n octets of the window.
func (w *wire) discard(n int) { _, _ = w.r.Discard(n) }

// writeLine queues one line.
func (w *wire) writeLine(line string) error { return w.writeSecret(line, line) }

// writeSecret queues line and shows shown in the transcript.
func (w *wire) writeSecret(line, shown string) error {
	if w.transcript != nil {
		w.transcript(Us, shown)
	}
	w.rearm()
	_, _ = w.w.WriteString(line)
	_, err := w.w.WriteString("\r\n")
	return w.wrap(err)
}

// writeAll queues b, which goes out in pieces so that each piece has the idle time-out of its own.
func (w *wire) writeAll(b []byte) error {
	for len(b) > 0 {
		n := min(len(b), 64<<10)
		w.rearm()
		if _, err := w.w.Write(b[:n]); err != nil {
			return w.wrap(err)
		}
		b = b[n:]
	}
	return nil
}

func (w *wire) flush() error {
	if w.w.Buffered() == 0 {
		return nil
	}
	w.rearm()
	return w.wrap(w.w.Flush())
}

// note puts a remark into the transcript.
func (w *wire) note(from Side, format string, args ...any) {
	if w.transcript != nil {
		w.transcript(from, "["+fmt.Sprintf(format, args...)+"]")
	}
}

// pending reports whether the peer has sent octets that were not consumed. It does not wait,
// so false means "not that we know". Only a plain TCP socket is looked into.
func (w *wire) pending() bool {
	if w.r.Buffered() > 0 {
		return true
	}
	sc, ok := w.conn.(syscall.Conn)
	if !ok {
		return false
	}
	raw, err := sc.SyscallConn()
	if err != nil {
		return false
	}
	found := false
	_ = raw.Control(func(fd uintptr) {
		var one [1]byte
		n, _, err := syscall.Recvfrom(int(fd), one[:], syscall.MSG_PEEK|syscall.MSG_DONTWAIT)
		found = err == nil && n > 0
	})
	return found
}

// sleep waits for d or until the context ends.
func (w *wire) sleep(d time.Duration) error {
	if d <= 0 {
		return nil
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-w.ctx.Done():
		return context.Cause(w.ctx)
	}
}
