package engine

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/panjf2000/gnet/v2"
	"github.com/rs/zerolog"
	"golang.org/x/sys/unix"

	"odmr/engine/session"
	"odmr/internal/processors"
	"odmr/internal/recipients"
)

// cutTime bounds how long Shutdown waits, once the sessions were cut, for the store to come back
// with what is in flight.
const cutTime = 15 * time.Second

// Address is where a listener listens.
type Address struct {
	Role Role
	Addr net.Addr
	TLS  bool // from the first octet
}

// Engine is a server. Make it with New; Start, then Shutdown, each once. It does not own
// Config.Store: close that after Shutdown has returned.
type Engine struct {
	cfg Config
	log zerolog.Logger
	// sparse is log, for what may come thousands of times a second: ten of them are enough.
	sparse zerolog.Logger

	smtp, lmtp session.IngressConfig
	provider   session.ProviderConfig
	reversed   session.ReversedConfig
	newSession func(*conn) session.Session // newMachine, except in tests

	client    *gnet.Client // gnet's loops without a listener of its own
	loops     []*loop
	byLoop    map[gnet.EventLoop]*loop
	writable  *writable
	listeners []*listener
	acceptors sync.WaitGroup
	ticker    sync.WaitGroup
	stopping  chan struct{} // closed when Shutdown begins
	tickless  chan struct{} // closed when the loops need no more ticks
	ready     atomic.Bool

	tls    *tls.Config // nil: no certificate
	shakes handshakes

	histories histories
	learned   *recipients.Table // nil: nothing is learned

	writes, reads, lookups, passwords lane

	addresses addresses
	networks  networks
	accounts  accounts
	lockouts  lockouts
	intervals intervals
	tenures   tenures
	refusals  [NumLimits][]byte // in place of the greeting

	ingest    ingestBudget
	prefetch  prefetchBudget
	sessions  atomic.Int64 // sockets, for MaxSessions
	records   records
	panics    atomic.Int64
	lent      atomic.Int64  // octets of segments that outputs hold
	rechecks  atomic.Uint64 // calls of Recheck
	reclaimed atomic.Int64  // octets of bodies that were given up for others
}

// New checks cfg, fills in defaults and makes an Engine that does nothing yet.
func New(cfg Config) (*Engine, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	cfg.EnsureDefaults()
	e := &Engine{cfg: cfg, log: cfg.Logger, stopping: make(chan struct{}), tickless: make(chan struct{})}
	if r := &cfg.Recipients; r.Learn {
		e.learned = recipients.NewTable(recipients.Limits{Lifetime: r.Lifetime, PerDomain: r.PerDomain})
	}
	e.histories.init(cfg.Histories)
	e.sparse = e.log.Sample(&zerolog.BurstSampler{Burst: 10, Period: time.Second})
	e.newSession = e.newMachine
	e.tls = tlsConfig(&e.cfg.TLS)
	e.shakes.max, e.shakes.free = maxHandshakes, processors.Count()
	e.machines()
	lookups := lookupLane
	if !cfg.Directory.NonBlocking() {
		lookups = waitingLane
	}
	e.writes.init(e, "write", writeLane)
	e.reads.init(e, "read", cfg.Workers)
	e.lookups.init(e, "lookup", lookups)
	e.passwords.init(e, "password", max(1, processors.Count()/passwordPart))
	e.passwords.fair = new(shares[task])
	e.addresses.init(&cfg.Limits)
	e.accounts.limit = cfg.Limits.SessionsPerAccount
	e.lockouts.init(&cfg.Limits)
	e.intervals.init()
	e.tenures.init()
	e.refusals = limitReplies(cfg.Hostname)
	e.ingest.limit = cfg.IngestMemory
	e.prefetch.limit = cfg.PrefetchMemory
	e.prefetch.press = func() { e.broadcast(evReclaim) }
	return e, nil
}

// Start listens on every address and serves. When it returns nil, connections are accepted and
// Addrs is complete; after an error nothing runs and no port is held.
func (e *Engine) Start() error {
	e.fitSessions()
	if err := e.listen(); err != nil {
		return err
	}
	if err := e.startLoops(); err != nil {
		e.unlisten()
		return err
	}
	e.ticker.Go(e.tick)
	e.acceptors.Add(len(e.listeners))
	for _, l := range e.listeners {
		go e.accept(l)
	}
	e.ready.Store(true)
	return nil
}

// startLoops starts gnet and gets hold of each of its loops.
func (e *Engine) startLoops() error {
	n := e.cfg.Loops
	if n == 0 {
		n = min(processors.Count(), maxLoops)
	}
	client, err := gnet.NewClient(&handler{eng: e}, gnet.WithNumEventLoop(n), gnet.WithLogger(gnetLogger{e.log}),
		gnet.WithTCPNoDelay(gnet.TCPDelay)) // sockets have TCP_NODELAY when they come; gnet need not set it again
	if err != nil {
		return err
	}
	if err := client.Start(); err != nil {
		return err
	}
	e.client = client
	e.byLoop = make(map[gnet.EventLoop]*loop, n)
	if err := e.findLoops(n); err != nil {
		_ = client.Stop()
		return err
	}
	if e.writable, err = newWritable(e.loops); err != nil {
		_ = client.Stop()
		return err
	}
	return nil
}

// findLoops opens a connection to nobody on each loop. gnet gives a new connection to the loop that has
// the fewest, so n of them at once find n loops.
func (e *Engine) findLoops(n int) error {
	for i := 0; i < n; i++ {
		fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
		if err != nil {
			return os.NewSyscallError("socketpair", err)
		}
		p := &probe{index: i, ended: make(chan struct{})}
		defer func() {
			_ = unix.Close(fds[1]) // the loop sees the end of the stream
			if p.el != nil {
				<-p.ended
			}
		}()
		f := os.NewFile(uintptr(fds[0]), "probe")
		nc, err := net.FileConn(f)
		_ = f.Close()
		if err != nil {
			return err
		}
		if _, err := e.client.EnrollContext(nc, p); err != nil {
			return fmt.Errorf("event loop %d: %w", i, err)
		}
		if p.el == nil || e.byLoop[p.el] != nil {
			return fmt.Errorf("event loop %d was not found", i)
		}
		lp := newLoop(e, i)
		lp.el, lp.epfd = p.el, p.epfd
		if p.noFd != nil {
			e.log.Warn().Err(p.noFd).Msg("sockets cannot be paused: a session that leaves too much unread is ended instead")
		}
		e.loops = append(e.loops, lp)
		e.byLoop[p.el] = lp
	}
	return nil
}

// Addrs are the addresses listened on, in the order of Config.Listeners, with the ports
// that the system chose. Valid after Start.
func (e *Engine) Addrs() []Address {
	addrs := make([]Address, len(e.listeners))
	for i, l := range e.listeners {
		addrs[i] = Address{l.role, l.Addr(), l.tls}
	}
	return addrs
}

// Ready reports whether the engine accepts connections.
func (e *Engine) Ready() bool { return e.ready.Load() }

// Sessions is how many connections there are.
func (e *Engine) Sessions() int { return int(e.sessions.Load()) }

// Shutdown stops accepting, lets each running transaction finish, and returns when every session has
// ended and every lease was released. When ctx ends first, the sessions that are left are cut,
// their settlements recorded, and the error is ctx.Err().
func (e *Engine) Shutdown(ctx context.Context) error {
	e.ready.Store(false)
	close(e.stopping)
	e.unlisten()
	e.acceptors.Wait()
	e.broadcast(evStop)
	err := e.records.wait(ctx)
	if err != nil {
		e.broadcast(evCut)
		cut, cancel := context.WithTimeout(context.Background(), cutTime)
		defer cancel()
		if e.records.wait(cut) != nil {
			e.log.Error().Int("sessions", e.records.count()).Msg("the store does not come back; leaving without it")
		}
	}
	close(e.tickless)
	e.ticker.Wait()
	e.writable.stop()
	for _, lp := range e.loops {
		lp.inbox.close() // nothing may wake a loop that gnet has ended
	}
	return errors.Join(err, e.client.Stop())
}

func (e *Engine) broadcast(kind eventKind) {
	for _, lp := range e.loops {
		lp.inbox.post(event{kind: kind})
	}
}

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

// records counts connection records: sessions, and what is still in flight for those that have ended.
type records struct {
	mu   sync.Mutex
	n    int
	none chan struct{} // closed when n becomes 0; nil if nobody waits
}

func (r *records) add() { r.mu.Lock(); r.n++; r.mu.Unlock() }

func (r *records) done() {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.n--; r.n == 0 && r.none != nil {
		close(r.none)
		r.none = nil
	}
}

func (r *records) count() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.n
}

// wait returns when there are none, or with ctx.Err().
func (r *records) wait(ctx context.Context) error {
	r.mu.Lock()
	if r.n == 0 {
		r.mu.Unlock()
		return nil
	}
	if r.none == nil {
		r.none = make(chan struct{})
	}
	none := r.none
	r.mu.Unlock()
	select {
	case <-none:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
