package engine

import (
	"context"
	"errors"
	"net"
	"time"
)

// Address is where a listener listens.
type Address struct {
	Role Role
	Addr net.Addr
}

// Engine is a server. Make it with New; Start, then Shutdown, each once. It does not own
// Config.Store: close that after Shutdown has returned.
type Engine struct {
	cfg Config
}

// New checks cfg, fills in defaults and makes an Engine that does nothing yet.
func New(cfg Config) (*Engine, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	cfg.EnsureDefaults()
	return &Engine{cfg: cfg}, nil
}

// Start listens on every address and serves. When it returns nil, connections are accepted and
// Addrs is complete; after an error nothing runs and no port is held.
func (e *Engine) Start() error { return errors.New("engine: not built yet") }

// Addrs are the addresses listened on, in the order of Config.Listeners, with the ports
// that the system chose. Valid after Start.
func (e *Engine) Addrs() []Address { return nil }

// Ready reports whether the engine accepts connections.
func (e *Engine) Ready() bool { return false }

// Shutdown stops accepting, lets each running transaction finish, and returns when every session has
// ended and every lease was released. When ctx ends first, the sessions that are left are cut,
// their settlements recorded, and the error is ctx.Err().
func (e *Engine) Shutdown(ctx context.Context) error { return nil }

// Run starts the engine and serves until ctx ends, then shuts down, giving running
// transactions grace to finish. It returns nil after an orderly end, even if sessions had to be cut.
func (e *Engine) Run(ctx context.Context, grace time.Duration) error {
	if err := e.Start(); err != nil {
		return err
	}
	<-ctx.Done()
	stop, cancel := context.WithTimeout(context.Background(), grace)
	defer cancel()
	if err := e.Shutdown(stop); err != nil && !errors.Is(err, context.DeadlineExceeded) {
		return err
	}
	return nil
}
