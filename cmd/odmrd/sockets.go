package main

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"net"
	"slices"
	"strings"
	"syscall"

	"odmr/engine"
	"odmr/internal/config"
	"odmr/internal/service"
)

// kind is one of the kinds of listeners that there are.
type kind struct {
	name  string // of the sockets that systemd hands over, and with -listen of the flag
	role  engine.Role
	tls   bool
	addrs []config.Listen
}

// adminKind is served by package admin, all others by the engine.
const adminKind = "admin"

// kinds are in the order of the flags.
func kinds(c *config.Config) []kind {
	return []kind{
		{"odmr", engine.ODMR, false, c.ODMRListen},
		{"odmrs", engine.ODMR, true, c.ODMRSListen},
		{"smtp", engine.SMTP, false, c.SMTPListen},
		{"lmtp", engine.LMTP, false, c.LMTPListen},
		{name: adminKind, addrs: c.AdminListen},
	}
}

// openSockets opens every port, before root is given up. Sockets that systemd hands over stand in place
// of the flag of their kind.
func (s *server) openSockets() error {
	given, err := service.Sockets()
	if err != nil {
		return err
	}
	defer func() { // what nobody took
		for _, l := range slices.Concat(slices.Collect(maps.Values(given))...) {
			_ = l.Close()
		}
	}()
	var names []string
	for _, k := range kinds(s.cfg) {
		names = append(names, k.name)
		handed := given[k.name]
		delete(given, k.name)
		if len(handed) > 0 {
			s.log.Info().Str("kind", k.name).Int("sockets", len(handed)).Msg("listening on what was handed over, in place of --" + k.name + "-listen")
		}
		if k.name == adminKind {
			err = s.openAdmin(handed, k.addrs)
		} else {
			err = s.openEngine(k, handed)
		}
		if err != nil {
			return err
		}
	}
	for name := range given {
		return fmt.Errorf("a socket was handed over as %q: FileDescriptorName= must be one of %s", name, strings.Join(names, ", "))
	}
	return nil
}

// openEngine opens the listeners of one kind for the engine.
func (s *server) openEngine(k kind, handed []*net.TCPListener) error {
	if len(handed) > 0 && k.tls && s.cfg.TLSCert == nil {
		return errors.Join(fmt.Errorf("a socket was handed over as %q: it needs --tls-cert", k.name), closeAll(handed))
	}
	add := func(socket *engine.Socket, err error) error {
		if err != nil {
			return listenFailed(k.name, err)
		}
		s.sockets = append(s.sockets, engine.Listener{Role: k.role, TLS: k.tls, Socket: socket})
		return nil
	}
	for i, l := range handed {
		if err := add(engine.Adopt(l)); err != nil {
			return errors.Join(err, closeAll(handed[i+1:]))
		}
	}
	if len(handed) > 0 {
		return nil
	}
	for _, addr := range k.addrs {
		if err := add(engine.Listen(string(addr))); err != nil {
			return err
		}
	}
	return nil
}

// listenFailed says which flag it was, and what can be done about it.
func listenFailed(kind string, err error) error {
	hint := ""
	switch {
	case errors.Is(err, fs.ErrPermission):
		hint = ": a port below 1024 needs CAP_NET_BIND_SERVICE, systemd's socket, or root and --user"
	case errors.Is(err, syscall.EADDRINUSE):
		hint = ": something listens there already, perhaps another odmrd"
	}
	return fmt.Errorf("--%s-listen: %w%s", kind, err, hint)
}

// openAdmin opens the listeners of the HTTP server.
func (s *server) openAdmin(handed []*net.TCPListener, addrs []config.Listen) error {
	for _, l := range handed {
		s.adminSockets = append(s.adminSockets, l)
	}
	if len(handed) > 0 {
		return nil
	}
	for _, addr := range addrs {
		l, err := net.Listen("tcp", string(addr))
		if err != nil {
			return listenFailed(adminKind, err)
		}
		s.adminSockets = append(s.adminSockets, l)
	}
	return nil
}

// adminHosts are the names by which the HTTP server is asked. None of them is one that a stranger could have mean our address.
func adminHosts(c *config.Config) []string {
	names := []string{c.Hostname}
	for _, addr := range c.AdminListen {
		if name := addr.Name(); name != "" {
			names = append(names, name)
		}
	}
	for _, host := range c.AdminHosts {
		names = append(names, string(host))
	}
	return names
}

// closeSockets closes what nobody serves; what somebody does is closed already.
func (s *server) closeSockets() {
	for _, l := range s.sockets {
		_ = l.Socket.Close()
	}
	_ = closeAll(s.adminSockets)
}

func closeAll[L net.Listener](listeners []L) error {
	var failed []error
	for _, l := range listeners {
		failed = append(failed, l.Close())
	}
	return errors.Join(failed...)
}
