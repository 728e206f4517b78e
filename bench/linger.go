package bench

import (
	"context"
	"fmt"
	"math/rand/v2"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"

	"odmr/bench/letters"
	"odmr/bench/result"
	"odmr/bench/traffic"
)

// Linger measures how soon mail that arrives reaches a customer whose session stays open, and what such a session costs.
type Linger struct {
	Sessions    int           `default:"2000" min:"1" help:"Sessions that wait for mail."`
	Rate        float64       `default:"200" min:"0.1" help:"Messages that arrive per second, each for one of them."`
	For         time.Duration `default:"10s" min:"100ms" help:"How long."`
	Connections int           `default:"16" min:"1" help:"MX connections that they come over."`
	Rest        time.Duration `default:"3s" min:"0s" help:"How long the sessions rest before memory is looked at."`
	Size        letters.Sizes `default:"4KiB" help:"Message sizes."`
	Offer       traffic.Offer `default:"chunking" help:"What the customers offer."`
}

// Run implements Scenario.
func (s *Linger) Run(ctx context.Context, e *Env) ([]*result.Result, error) {
	if err := raiseFiles(s.Sessions + s.Connections + idleReserve); err != nil {
		return nil, err
	}
	r := &result.Result{ID: "linger", Title: fmt.Sprintf("mail that arrives for %d sessions that wait for it", s.Sessions)}
	r.Param("sessions", strconv.Itoa(s.Sessions))
	r.Param("arrivals", result.Number(s.Rate)+"/s, Poisson")
	r.Param("size", s.Size.String())
	srv, stop, err := e.start(ctx, s.Sessions, "--linger", "1h")
	if err != nil {
		return nil, err
	}
	defer func() { stop(r) }()
	w := &waiters{
		Linger: s, bed: bed{e, srv, r},
		ledger: letters.NewLedger(uint64(2*s.Rate*s.For.Seconds()) + 1000),
		due:    make([]atomic.Int64, int(2*s.Rate*s.For.Seconds())+1000),
		handed: newHistogram(), arrived: newShared(),
	}
	return []*result.Result{r}, w.run(ctx)
}

// waiters is one run of Linger.
type waiters struct {
	*Linger
	bed
	ledger  *letters.Ledger
	due     []atomic.Int64          // when each message was to be sent, in Unix nanoseconds
	handed  *hdrhistogram.Histogram // intended time to durable 250
	arrived *sharedHistogram        // intended time to the customer having the whole message
	in, out traffic.Counter
	leaving atomic.Bool // customers hang up
	met     collected
}

func (w *waiters) run(ctx context.Context) error {
	idle := Idle{Rest: w.Rest}
	c := crowd{addr: w.srv.ODMR[0], connect: traffic.CustomerOptions{Buffer: 512}}
	if err := (&Idle{Sessions: w.Sessions}).warm(ctx, c); err != nil {
		return err
	}
	before, err := idle.rest(w.srv)
	if err != nil {
		return err
	}
	sessions := make([]*traffic.Customer, w.Sessions)
	var all sync.WaitGroup
	defer func() {
		w.leaving.Store(true)
		for _, session := range sessions {
			if session != nil {
				session.Close()
			}
		}
		all.Wait()
	}()
	if err := inParallel(w.Sessions, 16, func(i int) (err error) {
		sessions[i], err = w.wait(ctx, c, &all, i)
		return err
	}); err != nil {
		return err
	}
	after, err := idle.rest(w.srv)
	if err != nil {
		return err
	}
	p, err := w.env.measure(w.srv, watched{title: w.r.ID, counter: &w.in, gauges: []gauge{{name: "delivered", unit: "msg/s", value: speed(&w.out)}}},
		func() error { return w.arrive(ctx) })
	if err != nil {
		return err
	}
	allCollected(ctx, w.ledger)
	end := result.Of("arrival to customer, from the intended time", w.arrived.h)
	w.r.Latency = append(w.r.Latency, end, result.Of("of that, to the durable 250", w.handed))
	w.r.AddLess("p50", "median from arrival to customer", end.P50, "us")
	w.r.AddLess("p99", "p99 from arrival to customer", end.P99, "us")
	w.r.AddLess("rss_per_session", "RSS per session that waits", float64(after.RSS-before.RSS)/float64(w.Sessions), "B")
	w.r.Add("arrived", "mail in", p.perSecond(), "msg/s")
	p.tell(w.r, w.srv)
	v := w.ledger.Verdict()
	w.r.Expect("exactly once, unaltered", v.Faults(), v.String())
	text := "every session stayed until the end"
	if n := w.met.failed.Load(); n > 0 {
		text = fmt.Sprintf("%d sessions ended, the first: %v", n, w.met.first)
	}
	w.r.Expect("sessions", w.met.failed.Load(), text)
	return nil
}

// wait makes one session that waits.
func (w *waiters) wait(ctx context.Context, c crowd, all *sync.WaitGroup, i int) (*traffic.Customer, error) {
	session, err := c.login(ctx, i)
	if err != nil {
		return nil, err
	}
	turned, err := session.ATRN()
	if err == nil && !turned {
		err = fmt.Errorf("customer %s got 453: the server does not let sessions stay (--linger)", customerOf(i).Name)
	}
	if err != nil {
		return session, err
	}
	all.Go(func() {
		err := session.Serve(traffic.ServeOptions{Offer: w.Offer, Ledger: w.ledger, Counter: &w.out, OnLetter: func(id uint64) {
			w.arrived.add(time.Since(time.Unix(0, w.due[id].Load())))
		}})
		if !w.leaving.Load() {
			w.met.fail(fmt.Errorf("a session ended: %w", err))
		}
	})
	return session, nil
}

// arrive sends each message when its time has come, over several connections.
func (w *waiters) arrive(ctx context.Context) error {
	errs := make([]error, w.Connections)
	var all sync.WaitGroup
	var merge sync.Mutex
	began := time.Now()
	for n := range w.Connections {
		all.Go(func() {
			sender, err := traffic.DialSender(ctx, w.srv.SMTP[0], traffic.SenderOptions{
				Transfer: traffic.Chunks, Stock: w.env.Stock, Sizes: w.Size, Ledger: w.ledger, Counter: &w.in, Latency: newHistogram(),
			})
			if err != nil {
				errs[n] = err
				return
			}
			defer sender.Close()
			errs[n] = w.arriveOver(sender, share{n, w.Connections}, began)
			merge.Lock()
			w.handed.Merge(sender.Latency())
			merge.Unlock()
		})
	}
	all.Wait()
	return firstOf(errs)
}

// arriveOver is one connection's share of the arrivals: a Poisson process of its own.
func (w *waiters) arriveOver(sender *traffic.Sender, part share, began time.Time) error {
	random := rand.New(rand.NewPCG(3, uint64(part.n)))
	mean := float64(part.of) / w.Rate * float64(time.Second)
	due := began
	for id := uint64(part.n); id < uint64(len(w.due)); id += uint64(part.of) {
		due = due.Add(time.Duration(random.ExpFloat64() * mean))
		if due.Sub(began) > w.For {
			return nil
		}
		time.Sleep(time.Until(due))
		w.due[id].Store(due.UnixNano())
		if err := sender.Send(traffic.Letter{ID: id, Recipient: address(random.IntN(w.Sessions)), Since: due}); err != nil {
			return err
		}
	}
	return nil
}
