package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/rs/zerolog"

	"odmr/engine"
	"odmr/internal/account"
	"odmr/internal/account/cache"
	"odmr/internal/admin"
	"odmr/internal/certs"
	"odmr/internal/config"
	"odmr/internal/listening"
	"odmr/internal/metrics"
	"odmr/internal/service"
	"odmr/queue"
	"odmr/queue/pebblestore"
)

// adminGrace is how long requests at the operator's doors may go on once everything else has ended.
const adminGrace = 2 * time.Second

// server is everything that runs. Fields are set by start, in the order in which they stand, and
// taken down by close in the reverse order.
type server struct {
	cfg   *config.Config
	log   zerolog.Logger
	ready admin.Conditions
	stop  <-chan os.Signal

	sockets      []engine.Listener
	adminSockets []net.Listener

	accounts  *account.File       // nil if they are elsewhere
	elsewhere *cache.Directory    // nil if they are in a file
	keys      *account.Deriver    // of elsewhere
	certs     *certs.Certificates // nil without --tls-cert
	metrics   *metrics.Metrics
	store     atomic.Pointer[pebblestore.Store] // nil until open
	admin     *admin.Server
	control   *admin.Server
	engine    *engine.Engine
	serving   atomic.Pointer[engine.Engine] // the same, for goroutines that run before it does
	reports   reports

	stopWatch context.CancelFunc
	watching  sync.WaitGroup
}

// newServer makes a server that is not started; a signal in stop ends its start.
func newServer(cfg *config.Config, log zerolog.Logger, stop <-chan os.Signal) *server {
	s := &server{cfg: cfg, log: log, stop: stop}
	s.ready.Set(condStarting, "the queue is being opened")
	s.metrics = metrics.New(version, s.totals)
	return s
}

// totals is what metrics see of the queue.
func (s *server) totals() queue.Counts {
	if store := s.store.Load(); store != nil {
		return store.Totals()
	}
	return queue.Counts{}
}

// start brings everything up. After an error close takes down what is up.
func (s *server) start() error {
	if err := s.openSockets(); err != nil {
		return err
	}
	if err := s.becomeUser(); err != nil {
		return err
	}
	if err := s.openAccounts(); err != nil {
		return s.asUser(err)
	}
	if err := s.openCertificates(); err != nil {
		return s.asUser(err)
	}
	handler := admin.Handler(admin.Options{Version: version, Metrics: s.metrics.Handler(), Ready: &s.ready, Hosts: adminHosts(s.cfg)})
	s.admin = admin.Serve(handler, s.adminSockets...)
	if err := s.openStore(); err != nil {
		return s.asUser(err)
	}
	var err error
	if s.control, err = admin.ServeControl(s.cfg.Data, admin.Audited{Admin: s.store.Load(), Log: s.log}, s.intake()); err != nil {
		return s.asUser(fmt.Errorf("control socket: %w", err))
	}
	if err := s.startEngine(); err != nil {
		return err
	}
	if err := s.startReports(); err != nil {
		return err
	}
	s.watchFiles()
	s.ready.Clear(condStarting)
	s.logListening()
	s.tell(service.Ready)
	return nil
}

// watchFiles picks up what odmrctl changes, and renewed certificates.
func (s *server) watchFiles() {
	ctx, cancel := context.WithCancel(context.Background())
	s.stopWatch = cancel
	s.watching.Go(func() { s.watchAccounts(ctx) })
	s.watching.Go(func() { s.keepHistories(ctx) })
	if s.certs != nil {
		s.watching.Go(func() { s.certs.Watch(ctx, s.certificatesRead) })
	}
}

// openStore opens the queue in the data directory, which is made if missing.
func (s *server) openStore() error {
	if err := os.MkdirAll(s.cfg.Data, 0o700); err != nil {
		return fmt.Errorf("--data: %w", err)
	}
	info, err := os.Stat(s.cfg.Data)
	if err != nil {
		return fmt.Errorf("--data: %w", err)
	}
	switch open := info.Mode().Perm(); {
	case open&0o002 != 0: // they could lay a queue of theirs there, or a control socket that odmrctl trusts
		return fmt.Errorf("--data: everybody on this machine may write into %s (mode %v): chmod 700 it, and look whose files are in it", s.cfg.Data, open)
	case open&0o077 != 0:
		s.log.Warn().Str("data", s.cfg.Data).Stringer("mode", info.Mode().Perm()).Msg("others than the server may look into the data directory: chmod 700")
	}
	begun := time.Now()
	store, err := s.openOrStop(pebblestore.Options{
		Now:          time.Now,
		Events:       newStoreEvents(s.log, s.metrics, &s.ready),
		MemTableSize: int64(s.cfg.StoreMemtable),
		CacheSize:    int64(s.cfg.StoreCache),
		MinFreeSpace: int64(s.cfg.MinFreeSpace),
	})
	if err != nil {
		return fmt.Errorf("--data: %w", err)
	}
	s.store.Store(store)
	totals := store.Totals()
	s.log.Info().Str("data", s.cfg.Data).Int64("messages", totals.Messages).Int64("bytes", totals.Bytes).Int64("failed", totals.Failed).
		Dur("took_ms", time.Since(begun)).Msg("queue opened")
	return nil
}

// openOrStop opens the store, which takes for ever on a full disk, unless the server is to stop: to leave an opening
// alone is to be killed within it, and loses nothing.
func (s *server) openOrStop(o pebblestore.Options) (*pebblestore.Store, error) {
	type outcome struct {
		store *pebblestore.Store
		err   error
	}
	opened := make(chan outcome, 1)
	go func() {
		store, err := pebblestore.Open(admin.QueueDir(s.cfg.Data), o)
		opened <- outcome{store, err}
	}()
	select {
	case o := <-opened:
		return o.store, o.err
	case sig := <-s.stop:
		return nil, fmt.Errorf("the queue was still being opened, signal: %v", sig)
	}
}

func (s *server) startEngine() error {
	secret, err := authSecret(s.cfg.Data)
	if err != nil {
		return fmt.Errorf("--data: %w", err)
	}
	if err := s.openElsewhere(secret); err != nil {
		return err
	}
	auth, err := account.NewAuthenticator(s.directory(), account.AuthConfig{
		Hostname: s.cfg.Hostname, Mechanisms: s.cfg.SASLMechanisms, Clock: time.Now, Secret: secret,
	})
	if err != nil {
		return fmt.Errorf("--sasl-mechanisms: %w", err)
	}
	c := s.cfg
	s.engine, err = engine.New(engine.Config{
		Hostname: c.Hostname, Listeners: s.sockets, Loops: c.Loops, Store: s.store.Load(),
		Directory: s.directory(), Authenticator: auth, TLS: s.tls(), Trusted: c.TrustedNetworks,
		Limits: engine.Limits{
			Exempt: c.LimitExempt, ODMRNetworks: c.ODMRNetworks, ProxyNetworks: c.ProxyNetworks,
			SessionsPerAddress: c.SessionsPerAddress, SessionsPerAccount: c.SessionsPerAccount,
			ConnectionsPerMinute: c.ConnectionsPerMinute, LoginCommands: c.LoginCommands, SessionErrors: c.SessionErrors, LeastRate: c.LeastRate, RateWindow: c.RateWindow,
			AuthFailures: c.AuthFailures, AuthLockout: c.AuthLockout, AuthDelay: c.AuthDelay,
		},
		Collecting:     collecting(c),
		Quota:          engine.Quota{Messages: int64(c.QuotaMessages), Bytes: int64(c.QuotaBytes), Code: quotaCode(c)},
		MaxMessageSize: int64(c.MaxMessageSize), MaxSessions: c.MaxSessions, Workers: c.Workers,
		PrefetchMemory: int64(c.PrefetchMemory), IngestMemory: int64(c.IngestMemory),
		MaxRecipients: c.MaxRecipients, WindowMessages: c.WindowMessages, WindowBytes: int64(c.WindowBytes),
		Recipients: engine.Recipients{
			Learn: c.LearnRecipients == "on", Lifetime: c.LearnedLifetime, PerDomain: c.LearnedPerDomain, Delimiters: c.RecipientDelimiters,
		},
		Shield: engine.Shield{Refusals: c.ShieldRefusals, Window: c.ShieldWindow}, Histories: s.readHistories(),
		Timeouts: engine.Timeouts{
			Handshake: c.TLSHandshakeTimeout,
			Login:     c.LoginTimeout, Command: c.CommandTimeout, Greeting: c.GreetingTimeout, Envelope: c.EnvelopeTimeout,
			DataInit: c.DataInitTimeout, DataBlock: c.DataBlockTimeout, DataDone: c.DataDoneTimeout, Quit: c.QuitTimeout,
		},
		Logger: s.log, Observer: s.metrics,
	})
	if err != nil {
		return err
	}
	if err := s.engine.Start(); err != nil {
		s.engine = nil
		return err
	}
	s.serving.Store(s.engine)
	return nil
}

// logListening writes the line that scripts wait for: message "listening" with the addresses,
// chosen ports included, of each kind of listener. Its field names do not change.
func (s *server) logListening() {
	addrs, odmrs := map[engine.Role][]string{engine.ODMR: {}, engine.SMTP: {}, engine.LMTP: {}}, []string{}
	for _, a := range s.engine.Addrs() {
		if a.TLS {
			odmrs = append(odmrs, a.Addr.String())
			continue
		}
		addrs[a.Role] = append(addrs[a.Role], a.Addr.String())
	}
	s.log.Log().Str(zerolog.LevelFieldName, zerolog.InfoLevel.String()). // whatever --log-level is
										Strs("odmr", addrs[engine.ODMR]).Strs("odmrs", odmrs).Strs("smtp", addrs[engine.SMTP]).Strs("lmtp", addrs[engine.LMTP]).
										Strs("admin", s.admin.Addrs()).Int("pid", os.Getpid()).Str("version", version).Msg(listening.Message)
}

// serve waits for signals and ends in order.
func (s *server) serve(stop, hangup <-chan os.Signal) int {
	for {
		select {
		case <-hangup:
			s.tell(service.Reloading)
			s.reloadAccounts()
			if s.certs != nil {
				s.certificatesRead(s.certs.Reload())
			}
			s.tell(service.Ready)
			continue
		case sig := <-stop:
			s.log.Info().Stringer("signal", sig).Dur("grace_ms", s.cfg.ShutdownGrace).Msg("stopping")
			s.tell(service.Stopping)
		}
		break
	}
	s.ready.Set(condStopping, "the server is shutting down")
	ctx, cancel := context.WithTimeout(context.Background(), s.cfg.ShutdownGrace)
	defer cancel()
	if err := s.close(ctx); err != nil {
		s.log.Error().Err(err).Msg("not stopped in order")
		return exitFailure
	}
	s.log.Info().Msg("stopped")
	return exitOK
}

// tell says something to the service manager, if there is one.
func (s *server) tell(notify func() error) {
	if err := notify(); err != nil {
		s.log.Warn().Err(err).Msg("the service manager does not listen")
	}
}

// close takes down what is up; ctx bounds how long sessions may go on. That sessions had to be
// cut is logged and no error.
func (s *server) close(ctx context.Context) error {
	var failed []error
	if s.engine != nil {
		err := s.engine.Shutdown(ctx)
		if errors.Is(err, context.DeadlineExceeded) {
			s.log.Warn().Msg("sessions were cut when --shutdown-grace ended")
			err = nil
		}
		failed = append(failed, err)
	}
	s.stopReports()
	if s.stopWatch != nil {
		s.stopWatch()
		s.watching.Wait()
	}
	if s.elsewhere != nil {
		s.elsewhere.Close()
	}
	grace, cancel := context.WithTimeout(context.Background(), adminGrace)
	defer cancel()
	if s.control != nil {
		failed = append(failed, s.control.Shutdown(grace))
	}
	if store := s.store.Swap(nil); store != nil {
		failed = append(failed, store.Close())
	}
	if s.admin != nil {
		failed = append(failed, s.admin.Shutdown(grace))
	}
	s.closeSockets()
	return errors.Join(failed...)
}

// collecting is how customers' sessions follow each other and wait for mail.
func collecting(c *config.Config) engine.Collecting {
	e := engine.Collecting{
		TakeoverInterval: c.TakeoverInterval, Linger: c.Linger, KeepAlive: c.LingerNoop,
		ATRNWait: c.ATRNWait, ATRNInterval: c.ATRNInterval, IntervalCode: 453,
	}
	if c.OnBusy == "refuse" {
		e.OnBusy = engine.BusyRefuse
	}
	if c.ATRNIntervalReply == "450" {
		e.IntervalCode = 450
	}
	return e
}
