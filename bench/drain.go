package bench

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"time"

	"odmr/bench/letters"
	"odmr/bench/result"
	"odmr/bench/server"
	"odmr/bench/traffic"
)

// Drain measures customers that collect at the same time.
type Drain struct {
	Customers int           `default:"20" min:"1" help:"Customers at once."`
	Each      int           `default:"10000" min:"1" help:"Messages for each."`
	Size      letters.Sizes `default:"4KiB" help:"Message sizes."`
	TLS       bool          `name:"tls" help:"Customers collect in TLS (by STARTTLS), beside raw TLS over loopback."`
	Offer     traffic.Offer `default:"chunking" help:"What the customers offer: data (lock-step), pipelining (PIPELINING), chunking (PIPELINING and CHUNKING)."`
}

func (s *Drain) id() string {
	id := "drain-" + s.Offer.String()
	if s.Size.String() != "4KiB" {
		id += "-" + s.Size.String()
	}
	if s.Customers != 20 {
		id += fmt.Sprintf("-%d", s.Customers)
	}
	if s.TLS {
		id += "-tls"
	}
	return id
}

// Run implements Scenario.
func (s *Drain) Run(ctx context.Context, e *Env) ([]*result.Result, error) {
	r := &result.Result{ID: s.id(), Title: fmt.Sprintf("%d customers collect %d messages each, offering %s", s.Customers, s.Each, s.Offer)}
	r.Param("size", s.Size.String())
	r.Param("customers", strconv.Itoa(s.Customers))
	r.Param("messages each", strconv.Itoa(s.Each))
	var flags []string
	if s.TLS {
		var err error
		r.Title += ", in TLS"
		if flags, err = e.certificate(); err != nil {
			return nil, err
		}
	}
	srv, stop, err := e.start(ctx, s.Customers, flags...)
	if err != nil {
		return nil, err
	}
	defer func() { stop(r) }()
	ledger := letters.NewLedger(uint64(s.Customers * s.Each))
	if err := e.handIn(ctx, srv, batch{customers: s.Customers, each: s.Each, sizes: s.Size, ledger: ledger}); err != nil {
		return nil, err
	}
	e.settle(ctx, srv, 5*time.Second)
	if err := s.measure(ctx, e, srv, ledger, r); err != nil {
		return nil, err
	}
	if !e.NoCeilings {
		if err := s.ceilings(ctx, e, r); err != nil {
			return nil, err
		}
	}
	return []*result.Result{r}, nil
}

func (s *Drain) measure(ctx context.Context, e *Env, srv *server.Process, ledger *letters.Ledger, r *result.Result) error {
	var counter traffic.Counter
	turns := newShared()
	p, met, err := s.collect(ctx, e, srv, traffic.ServeOptions{
		Offer: s.Offer, Ledger: ledger, Counter: &counter, Divide: uint64(s.Customers),
	}, turns)
	if err != nil {
		return err
	}
	r.Add("rate", "messages collected", p.perSecond(), "msg/s")
	p.tell(r, srv)
	r.Latency = append(r.Latency, result.Of("ATRN to first MAIL FROM", turns.h))
	checkCollected(r, ledger, met)
	return nil
}

// collectLimit is how long the customers may take for what is left at the end.
const collectLimit = 60 * time.Second

// allCollected waits for the customers to have all that the server took, for at most collectLimit.
func allCollected(ctx context.Context, ledger *letters.Ledger) {
	for deadline := time.Now().Add(collectLimit); ledger.ArrivedCount() < ledger.AckedCount() && time.Now().Before(deadline) && ctx.Err() == nil; {
		time.Sleep(20 * time.Millisecond)
	}
}

// checkCollected adds what has to hold after all was collected.
func checkCollected(r *result.Result, ledger *letters.Ledger, met *collected) {
	v := ledger.Verdict()
	r.Expect("exactly once, unaltered, in order", v.Faults(), v.String())
	text := "every session ended by QUIT, or by the customer's own 421"
	if n := met.failed.Load(); n > 0 {
		text = fmt.Sprintf("%d sessions ended otherwise, the first: %v", n, met.first)
	}
	r.Expect("sessions", met.failed.Load(), text)
}

// collect lets all customers collect, measured.
func (s *Drain) collect(ctx context.Context, e *Env, srv *server.Process, serve traffic.ServeOptions, turns *sharedHistogram) (*phase, *collected, error) {
	c := crowd{customers: s.Customers, addr: srv.ODMR[0], serve: serve, onTurn: turns.add}
	if s.TLS {
		c.connect = traffic.CustomerOptions{TLS: anyServer(), StartTLS: true}
	}
	var p *phase
	var measureErr error
	met, err := c.gather(ctx, func(collect func()) {
		p, measureErr = e.measure(srv, watched{title: s.id(), counter: serve.Counter, total: int64(s.Customers * s.Each)}, func() error {
			collect()
			return nil
		})
	})
	return p, met, errors.Join(err, measureErr)
}

// ceilingMessages bounds the stand-in's run: enough for a second or so.
const ceilingMessages = 200_000

func (s *Drain) ceilings(ctx context.Context, e *Env, r *result.Result) error {
	if s.TLS {
		return s.loopbacks(ctx, e, r)
	}
	mean := s.Size.Mean()
	each := max(1, min(s.Each, ceilingMessages/s.Customers))
	standIn, err := e.startPart(ctx, PartSpec{Kind: "provider", Messages: each, Sizes: s.Size})
	if err != nil {
		return err
	}
	var counter traffic.Counter
	fake := *s
	fake.Each = each
	quiet := *e
	quiet.Profile = ""
	ledger := letters.NewLedger(uint64(s.Customers * each))
	p, met, err := fake.collect(ctx, &quiet, server.Attach(server.Addrs{ODMR: []string{standIn.addr}}),
		traffic.ServeOptions{Offer: s.Offer, Ledger: ledger, Counter: &counter}, newShared())
	if err := errors.Join(err, standIn.close()); err != nil {
		return err
	}
	if met.failed.Load() > 0 {
		return fmt.Errorf("these customers from a stand-in: %w", met.first)
	}
	r.Ceiling("standin", "these customers from a stand-in for the server", p.perSecond())
	if err := s.loopbacks(ctx, e, r); err != nil {
		return err
	}
	if e.StoreDrain != nil && mean <= 64<<10 {
		rate, err := e.storeRate(ctx, "store-drain", StoreLoad{Writers: s.Customers, Size: int(mean), Each: each})
		if err != nil {
			return err
		}
		r.Ceiling("store", fmt.Sprintf("the bare store, %d leases, read and settled", s.Customers), rate)
	}
	return nil
}

// loopbacks adds what raw loopback carries, in TLS where the customers are.
func (s *Drain) loopbacks(ctx context.Context, e *Env, r *result.Result) error {
	mean := s.Size.Mean()
	piece := max(int(mean), 64<<10)
	for _, look := range []bool{false, true} {
		rate, err := e.loopbackRate(ctx, loopback{connections: s.Customers, piece: piece, look: look, tls: s.TLS})
		if err != nil {
			return err
		}
		key, name := "loopback", fmt.Sprintf("raw loopback, writes of %s", result.Octets(float64(piece)))
		if s.TLS {
			name = fmt.Sprintf("raw TLS over loopback (crypto/tls, full records), writes of %s", result.Octets(float64(piece)))
		}
		if look {
			key, name = "loopback_look", name+", the reader hashing as ours does"
		}
		r.Ceiling(key, name, rate/(mean+envelopeOctets))
	}
	return nil
}
