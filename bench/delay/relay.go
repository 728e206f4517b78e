// Package delay is a long line on a short one: a TCP relay that holds everything back for half a
// round trip in each direction, in the process, without any right over the machine's network.
//
// It delays and does nothing else: order and octets stay, throughput is not limited (but for
// what the kernel's socket buffers and maxHeld allow in flight), the end of either side is passed
// on. It must never hand anything over early; how late it is, a program finds out by Ping-ing
// through it, because timers are late by some hundredths of a millisecond.
package delay

import (
	"context"
	"errors"
	"net"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// maxHeld is how many octets one direction may hold at a time: a gigabit line of 200 ms has 25 MB in flight.
const maxHeld = 32 << 20

// piece is the most that is read at a time.
const piece = 64 << 10

// Relay passes connections on to a server, late.
type Relay struct {
	listener net.Listener
	target   string
	rtt      time.Duration
	cancel   context.CancelFunc
	running  sync.WaitGroup
}

// Listen starts a relay in front of target on a free loopback port. Every round trip through it
// takes rtt longer.
func Listen(ctx context.Context, target string, rtt time.Duration) (*Relay, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(ctx)
	r := &Relay{listener: l, target: target, rtt: rtt, cancel: cancel}
	context.AfterFunc(ctx, func() { _ = l.Close() })
	r.running.Go(func() { r.accept(ctx) })
	return r, nil
}

// Addr is where to connect.
func (r *Relay) Addr() string { return r.listener.Addr().String() }

// Close ends all connections and waits.
func (r *Relay) Close() {
	r.cancel()
	r.running.Wait()
}

func (r *Relay) accept(ctx context.Context) {
	for {
		near, err := r.listener.Accept()
		if errors.Is(err, net.ErrClosed) || ctx.Err() != nil {
			return
		}
		if err != nil {
			continue
		}
		r.running.Go(func() { r.serve(ctx, near) })
	}
}

// serve is one connection. The handshake with the server is short; the customer's own connect has
// been answered by the relay, so that the setting up of TCP is the one thing that is not delayed.
func (r *Relay) serve(ctx context.Context, near net.Conn) {
	defer near.Close()
	var d net.Dialer
	far, err := d.DialContext(ctx, "tcp", r.target)
	if err != nil {
		return
	}
	defer far.Close()
	stop := context.AfterFunc(ctx, func() {
		_ = near.Close()
		_ = far.Close()
	})
	defer stop()
	var both sync.WaitGroup
	both.Go(func() { carry(far, near, r.rtt/2) })
	both.Go(func() { carry(near, far, r.rtt-r.rtt/2) })
	both.Wait()
}

// parcel is what was read at once.
type parcel struct {
	due  time.Time
	data []byte
}

// carry brings what src says to dst, late by lag, and then the end of it.
func carry(dst, src net.Conn, lag time.Duration) {
	line := make(chan parcel, maxHeld/piece)
	var reader sync.WaitGroup
	reader.Go(func() {
		defer close(line)
		buf := make([]byte, piece)
		for {
			n, err := src.Read(buf)
			if n > 0 {
				line <- parcel{time.Now().Add(lag), append([]byte(nil), buf[:n]...)}
			}
			if err != nil {
				return
			}
		}
	})
	failed := false
	for p := range line {
		if failed {
			continue
		}
		sleepUntil(p.due)
		if _, err := dst.Write(p.data); err != nil {
			failed = true
			_ = src.Close()
		}
	}
	reader.Wait()
	if half, ok := dst.(*net.TCPConn); ok && !failed {
		time.Sleep(lag)
		_ = half.CloseWrite()
	}
}

// sleepUntil sleeps in the kernel, whose timers are ten times as sharp as time.Sleep's (that waits in
// epoll, by the millisecond), at the price of a thread.
func sleepUntil(due time.Time) {
	for {
		left := time.Until(due)
		if left <= 0 {
			return
		}
		ts := unix.NsecToTimespec(left.Nanoseconds())
		_ = unix.ClockNanosleep(unix.CLOCK_MONOTONIC, 0, &ts, nil) // a signal may wake it early: look again
	}
}
