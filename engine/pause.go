package engine

import (
	"fmt"
	"os"
	"reflect"

	"github.com/panjf2000/gnet/v2"
	"golang.org/x/sys/unix"

	"odmr/engine/session"
)

const (
	// maxUnread is how many octets a session may leave unread before its socket is not read any more:
	// several times the longest line. What follows waits in the kernel, and so does the peer.
	maxUnread = 64 << 10
	// resumeUnread is how few octets must be left before the socket is read again.
	resumeUnread = maxUnread / 2
	// capUnread ends a session that leaves so many octets unread where its socket cannot be paused.
	capUnread = 4 * maxUnread
)

// gnetEvents is what gnet v2.10.0 registers a connection for in its epoll instance.
const gnetEvents = unix.EPOLLIN | unix.EPOLLPRI

// pollerOf finds the epoll instance in which gnet registered c. gnet reads from a socket whenever it is
// readable and buffers without a bound; the only remedy is to change the registration behind its
// back. The descriptor is read by reflection from gnet's unexported fields (loop.poller.fd; reading an
// integer needs no unsafe), and proved by a harmless change of c's own registration: only the epoll instance
// that holds c accepts it.
func pollerOf(c gnet.Conn) (epfd int, err error) {
	defer func() {
		if p := recover(); p != nil {
			epfd, err = -1, fmt.Errorf("gnet has other fields than expected: %v", p)
		}
	}()
	v := reflect.ValueOf(c)
	for _, name := range []string{"loop", "poller", "fd"} {
		v = v.Elem().FieldByName(name)
	}
	epfd = int(v.Int())
	if err := watchReads(epfd, c.Fd(), gnetEvents); err != nil {
		return -1, err
	}
	return epfd, nil
}

func watchReads(epfd, fd int, events uint32) error {
	ev := unix.EpollEvent{Events: events, Fd: int32(fd)}
	return os.NewSyscallError("epoll_ctl", unix.EpollCtl(epfd, unix.EPOLL_CTL_MOD, fd, &ev))
}

// throttle pauses or resumes reading from c's socket after what it left unread. Nor is anything read while a command waits
// for commits: gnet takes the end of the input for the end of the connection, and a client that closes its half behind
// the final dot and QUIT (Exim, by default) would never hear the 250, and hand the message in again and again.
func (c *conn) throttle() {
	unread, ordering := c.gc.InboundBuffered(), c.ordering()
	switch {
	case c.paused && unread <= resumeUnread && !ordering:
		c.setPaused(false)
	case !c.paused && (unread > maxUnread || ordering) && c.lp.epfd >= 0:
		c.setPaused(true)
	case unread > capUnread && c.lp.epfd < 0:
		c.because("too much unread input")
		c.lastWord("421 4.3.2 Too much input, closing connection\r\n")
	}
}

// ordering reports whether a command waits for commits, or the end of a long message for the piece before it.
func (c *conn) ordering() bool {
	m, ok := c.sess.(*session.Ingress)
	return ok && m.Ordering()
}

// setPaused stops or starts reading. Errors and hang-ups are reported while paused, too.
func (c *conn) setPaused(paused bool) {
	if c.paused == paused {
		return
	}
	var events uint32 = gnetEvents
	if paused {
		events = 0
	}
	if err := watchReads(c.lp.epfd, c.fd, events); err != nil {
		c.abandon("pausing: " + err.Error())
		return
	}
	c.paused = paused
}
