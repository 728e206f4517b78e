package bench

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"time"

	"odmr/bench/letters"
	"odmr/bench/result"
	"odmr/bench/server"
	"odmr/bench/traffic"
)

// Turn measures how long it takes from ATRN to the first MAIL FROM, by how much other customers
// have queued.
type Turn struct {
	Backlogs []int         `default:"1000,100000,1000000" min:"0" help:"Messages of other customers, ascending."`
	Others   int           `default:"10000" min:"1" help:"Those other customers."`
	Probes   int           `default:"1000" min:"1" help:"Customers that collect one message each, one after another, at each backlog."`
	Size     letters.Sizes `default:"512B" help:"Size of the others' messages."`
}

// bed is what a measured part lies in.
type bed struct {
	env *Env
	srv *server.Process
	r   *result.Result
}

// settleLimit is how long the scenario waits for compactions before it measures.
const settleLimit = 20 * time.Second

// Run implements Scenario.
func (s *Turn) Run(ctx context.Context, e *Env) ([]*result.Result, error) {
	r := &result.Result{ID: "turn", Title: "from ATRN to the first MAIL FROM, with the mail of others queued"}
	r.Param("probes", strconv.Itoa(s.Probes))
	r.Param("others", strconv.Itoa(s.Others))
	r.Param("size", s.Size.String())
	probes := s.Probes * len(s.Backlogs)
	srv, stop, err := e.start(ctx, probes+s.Others)
	if err != nil {
		return nil, err
	}
	defer func() { stop(r) }()
	queued := 0
	for i, backlog := range s.Backlogs {
		if err := s.queue(ctx, &bed{e, srv, r}, probes, backlog-queued); err != nil {
			return nil, err
		}
		queued = max(queued, backlog)
		if err := s.probe(ctx, &bed{e, srv, r}, i*s.Probes, queued); err != nil {
			return nil, err
		}
	}
	s.compare(r)
	if !e.NoCeilings {
		return []*result.Result{r}, s.ceiling(ctx, e, r)
	}
	return []*result.Result{r}, nil
}

// queue hands in n more messages for the others, whose accounts begin at first: as many for each as
// can be, and the rest for the first of them.
func (s *Turn) queue(ctx context.Context, b *bed, first, n int) error {
	if n <= 0 {
		return nil
	}
	began := time.Now()
	for _, part := range []batch{{customers: s.Others, each: n / s.Others}, {customers: n % s.Others, each: 1}} {
		part.from, part.sizes = first, s.Size
		if err := b.env.handIn(ctx, b.srv, part); err != nil {
			return err
		}
	}
	took := time.Since(began).Seconds()
	b.r.Notes = append(b.r.Notes, fmt.Sprintf("%s more messages handed in within %.1f s, %s/s", result.Number(float64(n)), took, result.Number(float64(n)/took)))
	return nil
}

// probe measures the turns of the customers from first on, at one backlog.
func (s *Turn) probe(ctx context.Context, b *bed, first, backlog int) error {
	e, srv, r := b.env, b.srv, b.r
	ledger := letters.NewLedger(uint64(s.Probes))
	if err := e.handIn(ctx, srv, batch{from: first, customers: s.Probes, each: 1, sizes: letters.Fixed(4096), ledger: ledger}); err != nil {
		return err
	}
	waited := e.settle(ctx, srv, settleLimit)
	id := fmt.Sprintf("turn-%d", backlog)
	var counter traffic.Counter
	turns := newShared()
	met := new(collected)
	p, err := e.measure(srv, watched{title: id, counter: &counter, total: int64(s.Probes)}, func() error {
		return s.turns(ctx, srv.ODMR[0], first, traffic.ServeOptions{Offer: traffic.OfferChunking, Ledger: ledger, Counter: &counter}, turns)
	})
	if err != nil {
		return err
	}
	l := result.Of(fmt.Sprintf("%s others queued", result.Number(float64(backlog))), turns.h)
	r.Latency = append(r.Latency, l)
	r.AddLess(fmt.Sprintf("p99_%d", backlog), fmt.Sprintf("p99 with %s others queued", result.Number(float64(backlog))), l.P99, "us")
	r.AddLess(fmt.Sprintf("p50_%d", backlog), fmt.Sprintf("median with %s others queued", result.Number(float64(backlog))), l.P50, "us")
	r.AddLess(fmt.Sprintf("rss_%d", backlog), fmt.Sprintf("server: highest RSS with %s others queued", result.Number(float64(backlog))), float64(p.peak), "B")
	r.Seconds += p.seconds
	r.Notes = append(r.Notes, fmt.Sprintf("with %s queued: measured after the server had settled for %.1f s", result.Number(float64(backlog)), waited.Seconds()))
	checkCollected(r, ledger, met)
	return nil
}

// turns lets customers collect one after another.
func (s *Turn) turns(ctx context.Context, addr string, first int, serve traffic.ServeOptions, turns *sharedHistogram) error {
	c := crowd{addr: addr, serve: serve, onTurn: turns.add, connect: traffic.CustomerOptions{Buffer: 16 << 10}}
	for n := range s.Probes {
		customer, err := c.login(ctx, first+n)
		if err != nil {
			return err
		}
		waiting, err := c.collect(customer)
		customer.Close()
		if err != nil {
			return err
		}
		if !waiting {
			return fmt.Errorf("customer %s was told that nothing waits", customerOf(first+n).Name)
		}
	}
	return nil
}

// compare puts the ratio of the largest backlog to the smallest in front.
func (s *Turn) compare(r *result.Result) {
	if len(r.Latency) < 2 {
		return
	}
	least, most := r.Latency[0], r.Latency[len(r.Latency)-1]
	ratio := result.Figure{Key: "p99_ratio", Name: fmt.Sprintf("p99, %s against %s", most.Name, strings.TrimSuffix(least.Name, " others queued")),
		Value: most.P99 / max(least.P99, 1), Unit: "×", Less: true}
	r.Figures = append([]result.Figure{ratio}, r.Figures...)
}

// ceiling is the same turn with a stand-in that has nothing to look up.
func (s *Turn) ceiling(ctx context.Context, e *Env, r *result.Result) error {
	standIn, err := e.startPart(ctx, PartSpec{Kind: "provider", Messages: 1, Sizes: letters.Fixed(4096)})
	if err != nil {
		return err
	}
	turns := newShared()
	err = s.turns(ctx, standIn.addr, 0, traffic.ServeOptions{Offer: traffic.OfferChunking}, turns)
	r.Latency = append(r.Latency, result.Of("ceiling: a stand-in for the server", turns.h))
	if cerr := standIn.close(); err == nil {
		err = cerr
	}
	return err
}
