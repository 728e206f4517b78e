package bench

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"odmr/bench/delay"
	"odmr/bench/letters"
	"odmr/bench/result"
	"odmr/bench/traffic"
)

// WAN measures how many round trips a message takes over a long line.
type WAN struct {
	RTTs     []time.Duration `name:"rtt" default:"10ms,50ms,200ms" min:"0s" help:"Round trip times."`
	Messages int             `default:"1000" min:"1" help:"Messages for the customer at the end of each line."`
	Size     letters.Sizes   `default:"4KiB" help:"Message sizes."`
	Limit    time.Duration   `default:"55s" min:"100ms" help:"Fewer messages where one round trip for each would take longer than this."`
}

// pings is how often a line is timed; the median counts.
const pings = 11

// line is one customer behind one relay.
type line struct {
	rtt      time.Duration
	offer    traffic.Offer
	messages int
	first    uint64
	customer int
	target   string // of the relay

	measured time.Duration // round trip of a NOOP through the relay
	took     time.Duration // from ATRN to the end
}

func (l *line) roundTrips() float64 {
	return l.took.Seconds() / l.measured.Seconds() / float64(l.messages)
}

// Run implements Scenario. All lines are in use at once: nearly all that they do is wait.
func (s *WAN) Run(ctx context.Context, e *Env) ([]*result.Result, error) {
	r := &result.Result{ID: "wan", Title: "round trips per message over a long line (one customer on each, all at once)"}
	r.Param("size", s.Size.String())
	var lines []*line
	total := 0
	for _, rtt := range s.RTTs {
		for _, offer := range []traffic.Offer{traffic.OfferPipelining, traffic.OfferChunking} {
			l := &line{rtt: rtt, offer: offer, messages: s.Messages, first: uint64(total), customer: len(lines)}
			if offer == traffic.OfferPipelining {
				l.messages = max(1, min(l.messages, int(s.Limit/rtt)))
			}
			total += l.messages
			lines = append(lines, l)
		}
	}
	srv, stop, err := e.start(ctx, len(lines))
	if err != nil {
		return nil, err
	}
	defer func() { stop(r) }()
	ledger := letters.NewLedger(uint64(total))
	for _, l := range lines {
		l.target = srv.ODMR[0]
		if err := e.handIn(ctx, srv, batch{from: l.customer, customers: 1, each: l.messages, first: l.first, sizes: s.Size, ledger: ledger}); err != nil {
			return nil, err
		}
	}
	e.settle(ctx, srv, 5*time.Second)
	if err := s.measure(ctx, &bed{e, srv, r}, lines, ledger); err != nil {
		return nil, err
	}
	if !e.NoCeilings {
		return []*result.Result{r}, s.ceiling(ctx, e, r)
	}
	return []*result.Result{r}, nil
}

func (s *WAN) measure(ctx context.Context, b *bed, lines []*line, ledger *letters.Ledger) error {
	var counter traffic.Counter
	serve := traffic.ServeOptions{Ledger: ledger, Counter: &counter, Divide: 1}
	total := int64(0)
	for _, l := range lines {
		total += int64(l.messages)
	}
	p, err := b.env.measure(b.srv, watched{title: "wan", counter: &counter, total: total}, func() error {
		errs := make([]error, len(lines))
		var all sync.WaitGroup
		for i, l := range lines {
			all.Go(func() { errs[i] = l.collect(ctx, serve) })
		}
		all.Wait()
		return firstOf(errs)
	})
	if err != nil {
		return err
	}
	for _, l := range lines {
		key := fmt.Sprintf("%s_%s", l.rtt, l.offer)
		b.r.AddLess("rt_"+key, fmt.Sprintf("round trips per message, %v, %v", l.rtt, l.offer), l.roundTrips(), "")
		b.r.Add("rate_"+key, fmt.Sprintf("messages per second, %v, %v", l.rtt, l.offer), float64(l.messages)/l.took.Seconds(), "msg/s")
		b.r.Notes = append(b.r.Notes, fmt.Sprintf("%v, %v: %d messages in %.2f s; a NOOP through the relay took %s", l.rtt, l.offer, l.messages,
			l.took.Seconds(), result.Micros(float64(l.measured.Microseconds()))))
	}
	b.r.Seconds = p.seconds
	b.r.Series = append(b.r.Series, result.Series{Name: "throughput", Unit: "msg/s", Points: p.rate})
	checkCollected(b.r, ledger, new(collected))
	return nil
}

// collect is the customer's session through the relay.
func (l *line) collect(ctx context.Context, serve traffic.ServeOptions) error {
	relay, err := delay.Listen(ctx, l.target, l.rtt)
	if err != nil {
		return err
	}
	defer relay.Close()
	c := crowd{addr: relay.Addr()}
	customer, err := c.login(ctx, l.customer)
	if err != nil {
		return err
	}
	defer customer.Close()
	times := make([]time.Duration, 0, pings)
	for range pings {
		began := time.Now()
		if err := customer.Ping(); err != nil {
			return err
		}
		times = append(times, time.Since(began))
	}
	slices.Sort(times)
	l.measured = times[pings/2]
	serve.Offer = l.offer
	began := time.Now()
	waiting, err := customer.ATRN()
	if err == nil && !waiting {
		err = errors.New("nothing waits for the customer")
	}
	if err == nil {
		err = customer.Serve(serve)
	}
	l.took = time.Since(began)
	return err
}

// ceiling is the same over the same lines from a stand-in that has all at hand.
func (s *WAN) ceiling(ctx context.Context, e *Env, r *result.Result) error {
	standIn, err := e.startPart(ctx, PartSpec{Kind: "provider", Messages: s.Messages, Sizes: s.Size})
	if err != nil {
		return err
	}
	for _, rtt := range s.RTTs {
		l := &line{rtt: rtt, offer: traffic.OfferChunking, messages: s.Messages, target: standIn.addr}
		if err = l.collect(ctx, traffic.ServeOptions{}); err != nil {
			break
		}
		r.AddLess(fmt.Sprintf("standin_%s_chunking", rtt), fmt.Sprintf("ceiling: a stand-in with 64 messages in flight, %v, chunking", rtt), l.roundTrips(), "")
	}
	r.Notes = append(r.Notes, "ceiling with PIPELINING and DATA: 1 round trip per message, RFC 2920 allows no less")
	return errors.Join(err, standIn.close())
}
