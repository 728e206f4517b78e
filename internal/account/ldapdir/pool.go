package ldapdir

import (
	"context"
	"crypto/tls"
	"fmt"
	"net"
	"sync"

	"github.com/go-ldap/ldap/v3"

	"odmr/internal/trust"
)

// pool is the connections that are not in use. How many are in use at once is for the caller to bound.
type pool struct {
	cfg    Config
	target *target
	tls    *tls.Config // nil: neither ldaps nor StartTLS
	mu     sync.Mutex
	free   []*ldap.Conn
	closed bool
	// generation counts drains: a connection of an earlier one is not kept.
	generation int
}

func (p *pool) init(cfg Config, t *target) error {
	p.cfg, p.target = cfg, t
	if !t.tls && !cfg.StartTLS {
		return nil
	}
	p.tls = &tls.Config{ServerName: t.host, MinVersion: tls.VersionTLS12}
	if cfg.CAFile == "" {
		return nil
	}
	roots, err := trust.ReadRoots(cfg.CAFile)
	if err != nil {
		return fmt.Errorf("CA file: %w", err)
	}
	p.tls.RootCAs = roots
	return nil
}

// search asks on a connection that is free, else on a new one. A connection that turns out to have ended while it was not in
// use, as a server that was restarted leaves them, is made up for by one new one.
func (p *pool) search(ctx context.Context, request *ldap.SearchRequest) (*ldap.SearchResult, error) {
	c, generation := p.take()
	if c != nil {
		result, err := p.ask(ctx, c, generation, request)
		if err == nil || !ldap.IsErrorWithCode(err, ldap.ErrorNetwork) || ctx.Err() != nil {
			return result, err
		}
	}
	c, err := p.dial(ctx)
	if err != nil {
		return nil, err
	}
	return p.ask(ctx, c, generation, request)
}

// ask asks on c and then keeps it, or closes it if it is of no more use: the context has ended, or it has.
func (p *pool) ask(ctx context.Context, c *ldap.Conn, generation int, request *ldap.SearchRequest) (*ldap.SearchResult, error) {
	stop := context.AfterFunc(ctx, func() { c.Close() })
	result, err := c.Search(request)
	if !stop() {
		return nil, fmt.Errorf("search: %w", context.Cause(ctx))
	}
	if ldap.IsErrorWithCode(err, ldap.ErrorNetwork) || ldap.IsErrorAnyOf(err, ldap.LDAPResultUnavailable, ldap.LDAPResultBusy) {
		c.Close()
		return nil, err
	}
	p.put(c, generation)
	return result, err
}

func (p *pool) take() (*ldap.Conn, int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for len(p.free) > 0 {
		c := p.free[len(p.free)-1]
		p.free = p.free[:len(p.free)-1]
		if !c.IsClosing() {
			return c, p.generation
		}
	}
	return nil, p.generation
}

func (p *pool) put(c *ldap.Conn, generation int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed || generation != p.generation || len(p.free) > p.cfg.Connections || c.IsClosing() {
		go c.Close() // which takes its leave of the server
		return
	}
	p.free = append(p.free, c)
}

// drain closes the connections that are not in use, and those that are afterwards.
func (p *pool) drain() {
	p.mu.Lock()
	free := p.free
	p.free = nil
	p.generation++
	p.mu.Unlock()
	for _, c := range free {
		go c.Close()
	}
}

func (p *pool) close() {
	p.mu.Lock()
	p.closed = true
	p.mu.Unlock()
	p.drain()
}

// dial connects and binds.
func (p *pool) dial(ctx context.Context) (*ldap.Conn, error) {
	raw, err := (&net.Dialer{}).DialContext(ctx, p.target.network, p.target.addr)
	if err != nil {
		return nil, err
	}
	// What go-ldap does for itself knows no context.
	stop := context.AfterFunc(ctx, func() { raw.Close() })
	c, err := p.bound(ctx, raw)
	if !stop() {
		if err == nil {
			c.Close()
		}
		return nil, fmt.Errorf("connecting: %w", context.Cause(ctx))
	}
	return c, err
}

func (p *pool) bound(ctx context.Context, raw net.Conn) (*ldap.Conn, error) {
	if p.target.tls {
		secure := tls.Client(raw, p.tls)
		if err := secure.HandshakeContext(ctx); err != nil {
			raw.Close()
			return nil, err
		}
		raw = secure
	}
	c := ldap.NewConn(raw, p.target.tls)
	c.Start()
	if err := bindError(p.prepare(c)); err != nil {
		c.Close()
		return nil, err
	}
	return c, nil
}

// prepare secures and binds c.
func (p *pool) prepare(c *ldap.Conn) error {
	if p.cfg.StartTLS {
		if err := c.StartTLS(p.tls); err != nil {
			return err
		}
	}
	switch p.cfg.Bind {
	case "":
		return nil
	case BindExternal:
		return c.ExternalBind()
	}
	password, err := trust.ReadPassword(p.cfg.PasswordFile)
	if err != nil {
		return fmt.Errorf("password file: %w", err)
	}
	return c.Bind(p.cfg.Bind, password)
}
