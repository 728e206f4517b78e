package service

import (
	"errors"
	"fmt"
	"net"
	"os"

	"github.com/coreos/go-systemd/v22/activation"
	"golang.org/x/sys/unix"
)

// Sockets returns the listening TCP sockets that were handed to this process (LISTEN_PID, LISTEN_FDS),
// by their names in LISTEN_FDNAMES: systemd's FileDescriptorName=. It takes the variables out of the
// environment, so that a second call finds none. A descriptor that is anything else is an
// error, after which all are closed.
func Sockets() (map[string][]*net.TCPListener, error) {
	sockets := map[string][]*net.TCPListener{}
	var failed []error
	for _, f := range activation.Files(true) {
		l, err := listener(f)
		if err != nil {
			failed = append(failed, fmt.Errorf("the socket handed over as %q: %w", f.Name(), err))
		} else {
			sockets[f.Name()] = append(sockets[f.Name()], l)
		}
		_ = f.Close() // net has made a copy
	}
	if len(failed) == 0 {
		return sockets, nil
	}
	for _, named := range sockets {
		for _, l := range named {
			failed = append(failed, l.Close())
		}
	}
	return nil, errors.Join(failed...)
}

// listener makes a listener of f, which stays open. A socket that does not listen (systemd's Accept=yes hands
// over connections) would fail at every accept.
func listener(f *os.File) (*net.TCPListener, error) {
	accepting, err := unix.GetsockoptInt(int(f.Fd()), unix.SOL_SOCKET, unix.SO_ACCEPTCONN)
	if err != nil {
		return nil, os.NewSyscallError("getsockopt", err)
	}
	if accepting == 0 {
		return nil, errors.New("does not listen: it must be a ListenStream without Accept")
	}
	l, err := net.FileListener(f)
	if err != nil {
		return nil, err
	}
	tcp, ok := l.(*net.TCPListener)
	if !ok {
		return nil, errors.Join(fmt.Errorf("%s is no TCP socket", l.Addr().Network()), l.Close())
	}
	return tcp, nil
}
