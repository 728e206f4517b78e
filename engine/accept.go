package engine

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"time"

	"golang.org/x/sys/unix"

	"odmr/engine/session"
)

const (
	// notSent is how many octets the kernel takes beyond those on their way to the peer (TCP_NOTSENT_LOWAT):
	// enough to keep a line busy while the next segment is fetched, and all that a slow one costs there.
	// Over loopback a 50 MB message went out at 300-700 MB/s with any value from 16 KiB upwards, and without.
	notSent = 64 << 10
	// acceptPause is the first wait after a failed accept, doubled up to acceptPauseMost: out of
	// descriptors, the only help is that sessions end.
	acceptPause     = 5 * time.Millisecond
	acceptPauseMost = time.Second
	// reservedFiles is how many descriptors are left to the store and everything else.
	reservedFiles = 1500
)

// Listening and accepting are done here and not by gnet: gnet's accept ends the whole server when
// the process is out of descriptors, cannot stop accepting while connections live, and does not tell
// which port was chosen. Accepted connections are enrolled in gnet's loops.
//
// There is one socket for each address, and a connection goes to the loop that has the fewest. SO_REUSEPORT with a socket for each loop was weighed
// and not taken: the kernel deals connections out by a hash, which leaves loops uneven where there are few (MXs keep theirs
// for hours, and a session never moves), and closing one of the sockets resets whatever waits in its backlog. What it would save is
// small: with 3,000 logins a second (odmrbench mixed) accepting and enrolling took 4 % of the profile.

// listener is one listening socket.
type listener struct {
	role Role
	tls  bool
	*Socket
}

// listen opens every listener, or none: of those that were open already none is left, either.
func (e *Engine) listen() error {
	var failed error
	for _, l := range e.cfg.Listeners {
		socket := l.Socket
		if socket == nil && failed == nil {
			var err error
			if socket, err = Listen(l.Addr); err != nil {
				failed = fmt.Errorf("listening for %s: %w", l.Role, err)
			}
		}
		if socket != nil {
			e.listeners = append(e.listeners, &listener{l.Role, l.TLS, socket})
		}
	}
	if failed != nil {
		e.unlisten()
	}
	return failed
}

func (e *Engine) unlisten() {
	for _, l := range e.listeners {
		_ = l.Close()
	}
}

// accept takes connections until the listener is closed.
func (e *Engine) accept(l *listener) {
	defer e.acceptors.Done()
	pause := acceptPause
	for {
		tc, err := l.accept()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err == nil {
			err = e.admit(l, tc)
		}
		if err == nil {
			pause = acceptPause
			continue
		}
		e.log.Warn().Err(err).Stringer("listener", l.role).Dur("pause", pause).Msg("accepting failed")
		select {
		case <-e.stopping:
			return
		case <-time.After(pause):
			pause = min(2*pause, acceptPauseMost)
		}
	}
}

// admit brings a connection into a loop, or turns it away because of a limit. An error is the
// server's trouble, not the connection's.
func (e *Engine) admit(l *listener, tc *net.TCPConn) error {
	if e.sessions.Add(1) > int64(e.cfg.MaxSessions) {
		e.sessions.Add(-1)
		e.cfg.Observer.SessionRefused()
		return e.turnAway(l, tc, []byte("421 4.3.2 "+e.cfg.Hostname+" Too many connections, try again later\r\n"))
	}
	a := &arrival{role: l.role, tls: l.tls, remote: remoteOf(tc)}
	if a.proxied = contains(e.cfg.Limits.ProxyNetworks, a.remote.Addr()); !a.proxied {
		var limit Limit
		if limit, a.counted = e.enter(now(), l.role, a.remote.Addr()); limit != LimitNone {
			e.sessions.Add(-1)
			e.sparse.Info().Stringer("listener", l.role).Stringer("client", a.remote).Stringer("limit", limit).Msg("connection turned away")
			return e.turnAway(l, tc, e.refusals[limit])
		}
	}
	_, err := e.client.EnrollContext(tc, a) // closes tc in any case
	if !a.opened {
		e.sessions.Add(-1)
		if a.counted {
			e.leave(a.remote.Addr())
		}
		if err == nil {
			err = errors.New("the connection could not be registered")
		}
		return err
	}
	return nil
}

// turnAway closes a connection that has not begun, with a reply in place of the greeting (RFC 5321 3.1,
// 3.8). A new socket takes so little at once.
func (e *Engine) turnAway(l *listener, tc *net.TCPConn, reply []byte) error {
	if !l.tls { // under TLS nobody could read it
		_, _ = tc.Write(reply)
	}
	return tc.Close()
}

// enter counts a client among those of its address, or says which limit it is over.
func (e *Engine) enter(now session.Time, role Role, addr netip.Addr) (limit Limit, counted bool) {
	switch {
	case role == ODMR && len(e.cfg.Limits.ODMRNetworks) > 0 && !contains(e.cfg.Limits.ODMRNetworks, addr):
		limit = LimitNetwork // RFC 2645 8
	case !e.exempt(role, addr):
		limit = e.addresses.enter(now, keyOf(addr))
		if limit == LimitNone && !e.networks.enter(addr, scarce(e.sessions.Load(), int64(e.cfg.MaxSessions))) {
			e.addresses.leave(keyOf(addr))
			limit = LimitNetworkSessions
		}
		counted = limit == LimitNone
	}
	if limit != LimitNone {
		e.cfg.Observer.LimitHit(limit)
	}
	return limit, counted
}

// leave takes back what enter counted.
func (e *Engine) leave(addr netip.Addr) {
	e.addresses.leave(keyOf(addr))
	e.networks.leave(addr)
}

// exempt reports whether limits by address do not count for a client.
func (e *Engine) exempt(role Role, addr netip.Addr) bool {
	return contains(e.cfg.Limits.Exempt, addr) || role != ODMR && contains(e.cfg.Trusted, addr)
}

// remoteOf is the peer's address. The zone of a link-local address is taken out of the socket's own copy:
// gnet would put the string into a pool of buffers when the connection ends.
func remoteOf(tc *net.TCPConn) netip.AddrPort {
	for _, a := range []net.Addr{tc.LocalAddr(), tc.RemoteAddr()} {
		if ta, ok := a.(*net.TCPAddr); ok {
			ta.Zone = ""
		}
	}
	ta, ok := tc.RemoteAddr().(*net.TCPAddr)
	if !ok {
		return netip.AddrPort{}
	}
	ap := ta.AddrPort()
	return netip.AddrPortFrom(ap.Addr().Unmap(), ap.Port())
}

// SessionRoom is how many sessions fit under a limit of open files: all but those that the store, the
// log and the operator's doors may need, and never less than half.
func SessionRoom(openFiles uint64) int64 {
	room := int64(min(openFiles, 1<<30))
	return room - min(reservedFiles, room/2)
}

// fitSessions lowers MaxSessions to what the process may open.
func (e *Engine) fitSessions() {
	var lim unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &lim); err != nil {
		return
	}
	if room := SessionRoom(lim.Cur); int64(e.cfg.MaxSessions) > room {
		e.log.Warn().Int("max_sessions", e.cfg.MaxSessions).Int64("lowered_to", room).Uint64("open_files_limit", lim.Cur).
			Msg("the limit of open files is too low for max-sessions")
		e.cfg.MaxSessions = int(room)
	}
}
