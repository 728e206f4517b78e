package engine

import (
	"golang.org/x/sys/unix"
)

// cipherQueue is the ciphertext that the kernel has not taken. It belongs to the connection's loop.
type cipherQueue struct {
	lp      *loop
	bufs    [][]byte // small and large buffers of the loop's
	sent    int      // octets of the first that the kernel took
	pending int      // octets in all
}

func (q *cipherQueue) empty() bool { return q.pending == 0 }

// write appends a copy of p.
func (q *cipherQueue) write(p []byte) {
	q.pending += len(p)
	for len(p) > 0 {
		last := len(q.bufs) - 1
		if last < 0 || len(q.bufs[last]) == cap(q.bufs[last]) {
			pool := &q.lp.small
			if len(p) > pool.size {
				pool = &q.lp.large
			}
			q.bufs = append(q.bufs, pool.get())
			last++
		}
		b := &q.bufs[last]
		n := min(len(p), cap(*b)-len(*b))
		*b = append(*b, p[:n]...)
		p = p[n:]
	}
}

// flush writes what fd takes, and adds to f what came of it.
func (q *cipherQueue) flush(fd int, f *flushed) {
	for !q.empty() && f.n < flushOctets {
		iov := q.lp.iov[:0]
		for i, b := range q.bufs[:min(len(q.bufs), maxIovec)] {
			if i == 0 {
				b = b[q.sent:]
			}
			iov = append(iov, b)
		}
		n, err := unix.Writev(fd, iov)
		clear(iov)
		q.lp.iov = iov
		switch {
		case err == unix.EINTR:
		case err == unix.EAGAIN:
			f.blocked = true
			return
		case err != nil:
			f.err = err
			return
		default:
			f.n += int64(n)
			q.took(n)
		}
	}
}

func (q *cipherQueue) took(n int) {
	q.pending -= n
	n += q.sent
	i := 0
	for ; i < len(q.bufs) && n >= len(q.bufs[i]); i++ {
		n -= len(q.bufs[i])
		q.recycle(q.bufs[i])
	}
	k := copy(q.bufs, q.bufs[i:])
	clear(q.bufs[k:])
	q.bufs, q.sent = q.bufs[:k], n
}

func (q *cipherQueue) recycle(b []byte) {
	q.lp.small.put(b) // each takes its own size only
	q.lp.large.put(b)
}

func (q *cipherQueue) drop() {
	for _, b := range q.bufs {
		q.recycle(b)
	}
	q.bufs, q.sent, q.pending = nil, 0, 0
}
