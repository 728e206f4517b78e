package engine

import (
	"context"
	"errors"
	"net"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// keepAlive frees the domains of a customer whose line broke without a word after 2 minutes.
var keepAlive = net.KeepAliveConfig{Enable: true, Idle: time.Minute, Interval: 15 * time.Second, Count: 4}

// Socket listens already, before there is an engine: a port that only root may open, or one that was
// opened by whoever started the process. An Engine that was given it closes it.
type Socket struct {
	tcp *net.TCPListener
	// adopted sockets give their connections the defaults of package net and not keepAlive.
	adopted bool
}

// Listen opens addr ("host:port", as in Listener) as the engine would.
func Listen(addr string) (*Socket, error) {
	lc := net.ListenConfig{Control: socketOptions, KeepAliveConfig: keepAlive}
	ln, err := lc.Listen(context.Background(), "tcp", addr)
	if err != nil {
		return nil, err
	}
	return &Socket{tcp: ln.(*net.TCPListener)}, nil
}

// Adopt makes a Socket of a listener that somebody else has opened. It is the Socket's from then on,
// and closed after an error.
func Adopt(tcp *net.TCPListener) (*Socket, error) {
	raw, err := tcp.SyscallConn()
	if err == nil {
		err = socketOptions("", "", raw)
	}
	if err != nil {
		return nil, errors.Join(err, tcp.Close())
	}
	return &Socket{tcp, true}, nil
}

// Addr is the address listened on, with the port that the system chose.
func (s *Socket) Addr() net.Addr { return s.tcp.Addr() }

// Close stops listening.
func (s *Socket) Close() error { return s.tcp.Close() }

// accept waits for a connection.
func (s *Socket) accept() (*net.TCPConn, error) {
	tc, err := s.tcp.AcceptTCP()
	if err == nil && s.adopted {
		_ = tc.SetKeepAliveConfig(keepAlive) // fails for a connection that is gone again: the loop sees that
	}
	return tc, err
}

// socketOptions sets what accepted sockets inherit.
func socketOptions(_, _ string, raw syscall.RawConn) error {
	var err error
	if e := raw.Control(func(fd uintptr) {
		err = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_NOTSENT_LOWAT, notSent)
	}); e != nil {
		return e
	}
	return err
}
