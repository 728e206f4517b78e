package bench

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"strconv"
	"time"

	"golang.org/x/sys/unix"

	"odmr/bench/result"
	"odmr/bench/server"
	"odmr/bench/traffic"
)

// Idle measures what an authenticated session costs that does nothing.
type Idle struct {
	Sessions int           `default:"10000" min:"1" help:"Sessions at once."`
	Rest     time.Duration `default:"5s" min:"0s" help:"How long they rest before memory is looked at."`
	TLS      string        `name:"tls" default:"too" enum:"too,off,only" help:"Sessions in TLS (by STARTTLS): too, off or only."`
}

const (
	// idleWarm is how many sessions come and go before the first look, so that what the server sets up once is
	// not charged to the sessions.
	idleWarm = 200
	// idleReserve is how many descriptors the harness needs besides.
	idleReserve = 200
)

// Run implements Scenario.
func (s *Idle) Run(ctx context.Context, e *Env) ([]*result.Result, error) {
	if err := raiseFiles(s.Sessions + idleReserve); err != nil {
		return nil, err
	}
	var out []*result.Result
	if s.TLS != "only" {
		r, err := s.run(ctx, e, nil)
		if err != nil {
			return nil, err
		}
		out = append(out, r)
	}
	if s.TLS == "off" {
		return out, nil
	}
	r, err := s.run(ctx, e, anyServer())
	if errors.Is(err, errNoTLS) && len(out) > 0 {
		out[0].Notes = append(out[0].Notes, "sessions in TLS are not measured: "+err.Error())
		return out, nil
	}
	if err != nil {
		return out, err
	}
	return append(out, r), nil
}

var errNoTLS = errors.New("the server does not offer STARTTLS to customers")

// offersTLS is nil if the server offers STARTTLS, else errNoTLS.
func offersTLS(ctx context.Context, addr string) error {
	c, err := traffic.DialCustomer(ctx, addr, traffic.CustomerOptions{})
	if err != nil {
		return err
	}
	defer c.Close()
	offered, err := c.Offers("STARTTLS")
	if err == nil && !offered {
		err = errNoTLS
	}
	return err
}

// raiseFiles makes room for so many descriptors.
func raiseFiles(n int) error {
	var lim unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &lim); err != nil {
		return err
	}
	if lim.Cur >= uint64(n) {
		return nil
	}
	lim.Cur = lim.Max
	if lim.Max < uint64(n) {
		return fmt.Errorf("%d connections do not fit under the limit of %d open files (ulimit -Hn)", n, lim.Max)
	}
	return unix.Setrlimit(unix.RLIMIT_NOFILE, &lim)
}

// run opens the sessions, looks, and proves that they are alive and authenticated.
func (s *Idle) run(ctx context.Context, e *Env, config *tls.Config) (*result.Result, error) {
	r := &result.Result{ID: "idle-plain", Title: fmt.Sprintf("%d authenticated sessions at rest", s.Sessions)}
	if config != nil {
		r.ID, r.Title = "idle-tls", r.Title+", in TLS"
	}
	r.Param("sessions", strconv.Itoa(s.Sessions))
	var flags []string
	if config != nil {
		var err error
		if flags, err = e.certificate(); err != nil {
			return nil, err
		}
	}
	srv, stop, err := e.start(ctx, s.Sessions, flags...)
	if err != nil {
		return nil, err
	}
	defer func() { stop(r) }()
	if config != nil {
		if err := offersTLS(ctx, srv.ODMR[0]); err != nil {
			return nil, err
		}
	}
	c := crowd{addr: srv.ODMR[0], connect: traffic.CustomerOptions{Buffer: 512, TLS: config, StartTLS: config != nil}}
	if err := s.warm(ctx, c); err != nil {
		return nil, err
	}
	if err := s.look(ctx, &bed{e, srv, r}, c); err != nil {
		return nil, err
	}
	return r, s.ceiling(ctx, e, r)
}

// rest is what the server uses when it has nothing to do.
func (s *Idle) rest(srv *server.Process) (server.Usage, error) {
	_ = srv.Collect() // as the runtime does by itself within two minutes of idleness
	time.Sleep(s.Rest)
	return srv.Usage()
}

// look opens the sessions and compares before and after.
func (s *Idle) look(ctx context.Context, b *bed, c crowd) error {
	before, err := s.rest(b.srv)
	if err != nil {
		return err
	}
	sessions := make([]*traffic.Customer, s.Sessions)
	defer func() {
		for _, session := range sessions {
			if session != nil {
				session.Close()
			}
		}
	}()
	var counter traffic.Counter
	p, err := b.env.measure(b.srv, watched{title: b.r.ID, counter: &counter, total: int64(s.Sessions)}, func() error {
		return inParallel(s.Sessions, 16, func(i int) (err error) {
			if sessions[i], err = c.login(ctx, i); err == nil {
				counter.Messages.Add(1)
			}
			return err
		})
	})
	if err != nil {
		return err
	}
	after, err := s.rest(b.srv)
	if err != nil {
		return err
	}
	r, n := b.r, float64(s.Sessions)
	r.AddLess("rss_per_session", "RSS per session at rest", float64(after.RSS-before.RSS)/n, "B")
	r.AddLess("rss_per_session_fresh", "RSS per session right after all had logged in", float64(p.after.RSS-before.RSS)/n, "B")
	r.AddLess("rss", "server: RSS with all sessions at rest", float64(after.RSS), "B")
	r.Add("logins", "connections, EHLO and CRAM-MD5", n/p.seconds, "1/s")
	r.AddLess("login_cpu", "server: processor time per login", float64((p.after.CPU-p.before.CPU).Microseconds())/n, "us")
	r.Series = append(r.Series, result.Series{Name: "RSS of the server", Unit: "B", Points: p.rss}, result.Series{Name: "logins", Unit: "1/s", Points: p.rate})
	r.Seconds = p.seconds
	r.Notes = append(r.Notes, fmt.Sprintf("RSS is looked at after a garbage collection and %v of rest; %s before the first session", s.Rest, result.Octets(float64(before.RSS))),
		fmt.Sprintf("the server has %d descriptors open; the kernel's own memory for the sockets is not in RSS", b.srv.Files()))
	alive, err := s.alive(sessions)
	text := fmt.Sprintf("%d of %d answered ATRN with 453", alive, s.Sessions)
	if err != nil {
		text += ", then: " + err.Error()
	}
	r.Expect("sessions alive and authenticated", int64(s.Sessions-alive), text)
	return nil
}

func (s *Idle) warm(ctx context.Context, c crowd) error {
	return inParallel(min(idleWarm, s.Sessions), 16, func(i int) error {
		session, err := c.login(ctx, i)
		if err != nil {
			return err
		}
		return session.Quit()
	})
}

// alive asks every session for its mail: only an authenticated one is told that there is none.
func (s *Idle) alive(sessions []*traffic.Customer) (int, error) {
	alive := 0
	for i, session := range sessions {
		waiting, err := session.ATRN()
		if err != nil {
			return alive, fmt.Errorf("session %d: %w", i, err)
		}
		if !waiting {
			alive++
		}
	}
	return alive, nil
}

// ceiling is how many logins per second the harness manages with a stand-in.
func (s *Idle) ceiling(ctx context.Context, e *Env, r *result.Result) error {
	if e.NoCeilings || r.ID != "idle-plain" {
		return nil
	}
	standIn, err := e.startPart(ctx, PartSpec{Kind: "provider"})
	if err != nil {
		return err
	}
	c := crowd{addr: standIn.addr, connect: traffic.CustomerOptions{Buffer: 512}}
	n := min(s.Sessions, 2000)
	began := time.Now()
	err = inParallel(n, 16, func(i int) error {
		session, err := c.login(ctx, i)
		if err != nil {
			return err
		}
		return session.Quit()
	})
	r.Add("standin_logins", "ceiling: logins at a stand-in for the server", float64(n)/time.Since(began).Seconds(), "1/s")
	if cerr := standIn.close(); err == nil {
		err = cerr
	}
	return err
}
