package client

import (
	"crypto/tls"
	"errors"
	"fmt"
	"net"
)

// Security says how a Customer's connection is secured.
type Security uint8

const (
	ClearText   Security = iota // not at all
	StartTLS                    // STARTTLS after EHLO (RFC 3207)
	ImplicitTLS                 // from the first octet
)

var (
	// ErrNoTLS says that TLS was asked for and the provider does not offer it. Nothing is sent in clear then.
	ErrNoTLS = errors.New("the provider does not offer STARTTLS")
	// ErrTLS says that the handshake failed: not TLS at all, or a certificate that is not trusted or is another
	// server's.
	ErrTLS = errors.New("TLS")
)

// tlsFor returns cfg, or the usual one, with the server's name from addr ("host:port") if it has none.
func tlsFor(cfg *tls.Config, addr string) *tls.Config {
	if cfg == nil {
		cfg = &tls.Config{}
	}
	cfg = cfg.Clone()
	if host, _, err := net.SplitHostPort(addr); err == nil && cfg.ServerName == "" {
		cfg.ServerName = host
	}
	return cfg
}

// secure goes on under TLS. What the peer sent in clear before is not used afterwards (CVE-2011-0411).
func (w *wire) secure(cfg *tls.Config) error {
	if w.r.Buffered() > 0 || w.pending() {
		return fmt.Errorf("%w: the provider sent something in clear behind its reply to STARTTLS", ErrTLS)
	}
	w.rearm()
	tc := tls.Client(w.conn, cfg)
	if err := tc.HandshakeContext(w.ctx); err != nil {
		if lost := w.wrap(err); errors.Is(lost, ErrTimeout) || w.ctx.Err() != nil {
			return lost
		}
		return fmt.Errorf("%w: %w", ErrTLS, err)
	}
	w.conn = tc
	w.r.Reset(tc)
	w.w.Reset(tc)
	w.note(Us, "%s", tls.VersionName(tc.ConnectionState().Version))
	return nil
}

// StartTLS asks for TLS and goes on under it; Hello is to be called again. cfg must have a ServerName.
func (c *Customer) StartTLS(cfg *tls.Config) error {
	if _, ok := c.Extension("STARTTLS"); !ok {
		return ErrNoTLS
	}
	if _, err := c.command("STARTTLS", 220); err != nil {
		return err
	}
	c.exts = nil // RFC 3207 4.2
	return c.secure(cfg)
}

// greet says EHLO, and again under TLS where that is wanted by STARTTLS.
func (c *Customer) greet() error {
	err := c.Hello()
	if err == nil && c.opts.Security == StartTLS {
		if err = c.StartTLS(c.opts.TLS); err == nil {
			err = c.Hello()
		}
	}
	return err
}

// netConn is the TCP connection under conn.
func netConn(conn net.Conn) net.Conn {
	if tc, ok := conn.(*tls.Conn); ok {
		return tc.NetConn()
	}
	return conn
}
