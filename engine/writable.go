package engine

import (
	"encoding/binary"
	"os"

	"golang.org/x/sys/unix"
)

// writable tells connections that their sockets take octets again, which gnet does not. It is an
// epoll instance of its own, edge-triggered: a socket is entered once, when the kernel first refused
// octets (entering it reports at once if it is writable meanwhile), and leaves by being closed.
type writable struct {
	epfd, stopfd int
	loops        []*loop
	done         chan struct{}
}

func newWritable(loops []*loop) (*writable, error) {
	epfd, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return nil, os.NewSyscallError("epoll_create1", err)
	}
	stopfd, err := unix.Eventfd(0, unix.EFD_NONBLOCK|unix.EFD_CLOEXEC)
	if err != nil {
		_ = unix.Close(epfd)
		return nil, os.NewSyscallError("eventfd", err)
	}
	w := &writable{epfd: epfd, stopfd: stopfd, loops: loops, done: make(chan struct{})}
	// Id 0 belongs to no connection.
	if err := unix.EpollCtl(epfd, unix.EPOLL_CTL_ADD, stopfd, &unix.EpollEvent{Events: unix.EPOLLIN}); err != nil {
		_ = unix.Close(epfd)
		_ = unix.Close(stopfd)
		return nil, os.NewSyscallError("epoll_ctl", err)
	}
	go w.run()
	return w, nil
}

// watch makes the loop of connection id hear each time that fd becomes writable.
func (w *writable) watch(fd int, id uint64) error {
	ev := unix.EpollEvent{Events: unix.EPOLLOUT | unix.EPOLLET, Fd: int32(uint32(id)), Pad: int32(uint32(id >> 32))}
	return os.NewSyscallError("epoll_ctl", unix.EpollCtl(w.epfd, unix.EPOLL_CTL_ADD, fd, &ev))
}

func (w *writable) run() {
	defer close(w.done)
	var events [256]unix.EpollEvent
	for {
		n, err := unix.EpollWait(w.epfd, events[:], -1)
		if err == unix.EINTR {
			continue
		}
		if err != nil { // only a descriptor that is none: a bug that must not go unseen
			panic(os.NewSyscallError("epoll_wait", err))
		}
		for i := range events[:n] {
			id := uint64(uint32(events[i].Fd)) | uint64(uint32(events[i].Pad))<<32
			if id == 0 {
				return
			}
			w.loops[id%maxLoops].inbox.post(event{kind: evWritable, conn: id})
		}
	}
}

// stop ends the watch and waits for that.
func (w *writable) stop() {
	var one [8]byte
	binary.NativeEndian.PutUint64(one[:], 1)
	_, _ = unix.Write(w.stopfd, one[:]) // an eventfd takes it
	<-w.done
	_ = unix.Close(w.epfd)
	_ = unix.Close(w.stopfd)
}
