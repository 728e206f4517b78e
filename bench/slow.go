package bench

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"sync"
	"time"

	"odmr/bench/letters"
	"odmr/bench/result"
	"odmr/bench/traffic"
)

// Slow measures what thousands of customers on slow lines cost the server and the others.
type Slow struct {
	Customers int           `default:"2000" min:"1" help:"Slow customers at once."`
	Rate      int           `default:"7000" min:"1" help:"Octets per second that each of them takes: 7000 is a modem's 56 kbit/s."`
	For       time.Duration `default:"12s" min:"100ms" help:"How long."`
	Size      letters.Sizes `default:"64KiB" help:"Message sizes."`
	Each      int           `default:"4" min:"1" help:"Messages for each; more than they can take meanwhile."`
}

const (
	// slowPiece is how much a slow customer reads at a time, in octets: a packet.
	slowPiece = 1400
	// slowReceive is the receive buffer of a slow customer, in octets, so that the kernel does not hide its slowness.
	slowReceive = 4096
	// bystanders is how many fast customers come and go meanwhile, one after another.
	bystanders = 2000
)

// Run implements Scenario.
func (s *Slow) Run(ctx context.Context, e *Env) ([]*result.Result, error) {
	if err := raiseFiles(s.Customers + idleReserve); err != nil {
		return nil, err
	}
	r := &result.Result{ID: "slow", Title: fmt.Sprintf("%d customers read at %d octets per second each", s.Customers, s.Rate)}
	r.Param("size", s.Size.String())
	r.Param("messages each", strconv.Itoa(s.Each))
	srv, stop, err := e.start(ctx, s.Customers+1)
	if err != nil {
		return nil, err
	}
	defer func() { stop(r) }()
	mail := uint64(s.Customers * s.Each)
	ledger := letters.NewLedger(mail + bystanders)
	if err := e.handIn(ctx, srv, batch{customers: s.Customers, each: s.Each, sizes: s.Size, ledger: ledger}); err != nil {
		return nil, err
	}
	e.settle(ctx, srv, 10*time.Second)
	if err := srv.Restart(ctx); err != nil { // so that memory used for handing in is not in the way
		return nil, err
	}
	before, err := srv.Usage()
	if err != nil {
		return nil, err
	}
	p, met, err := s.measure(ctx, &bed{e, srv, r}, ledger, mail)
	if err != nil {
		return nil, err
	}
	pace := float64(s.Customers * s.Rate)
	taken := float64(met.octets()) / p.seconds
	r.Add("share", "of what their lines can carry they got", 100*taken/pace, "%")
	r.AddLess("rss_per_session", "server: RSS per slow session, at its highest", float64(p.peak-before.RSS)/float64(s.Customers), "B")
	r.Add("least", "slowest customer got", float64(met.least())/p.seconds, "B/s")
	r.Add("most", "fastest customer got", float64(met.most())/p.seconds, "B/s")
	p.tell(r, srv)
	r.Notes = append(r.Notes, fmt.Sprintf("ceiling: %s, the sum of the lines", result.Figure{Value: pace, Unit: "B/s"}),
		fmt.Sprintf("%s RSS before they came; %s of mail queued for them", result.Octets(float64(before.RSS)), result.Octets(s.Size.Mean()*float64(mail))))
	v := ledger.Verdict()
	v.Lost = 0 // most of it is still queued, on purpose
	r.Expect("what arrived arrived once, unaltered, in order", v.Faults(), fmt.Sprintf("%d messages arrived whole; again %d, altered %d, strange %d, out of order %d",
		v.Arrived, v.Again, v.Altered, v.Strange, v.Disordered))
	r.Expect("no line was cut by the server", int64(met.cut), fmt.Sprintf("%d of %d sessions were cut", met.cut, s.Customers))
	return []*result.Result{r}, nil
}

// slowCrowd is what the slow customers met with.
type slowCrowd struct {
	throttles []*traffic.Throttle
	cut       int
}

func (c *slowCrowd) octets() (sum int64) {
	for _, t := range c.throttles {
		sum += t.Taken()
	}
	return sum
}

func (c *slowCrowd) least() int64 {
	least := c.throttles[0].Taken()
	for _, t := range c.throttles {
		least = min(least, t.Taken())
	}
	return least
}

func (c *slowCrowd) most() (most int64) {
	for _, t := range c.throttles {
		most = max(most, t.Taken())
	}
	return most
}

// measure lets the slow customers read for a while, and a fast one come and go, and hangs up.
func (s *Slow) measure(ctx context.Context, b *bed, ledger *letters.Ledger, first uint64) (*phase, *slowCrowd, error) {
	ctx, hangUp := context.WithCancel(ctx)
	defer hangUp()
	met := &slowCrowd{}
	customers := make([]*traffic.Customer, s.Customers)
	for range customers {
		met.throttles = append(met.throttles, &traffic.Throttle{Rate: s.Rate, Piece: slowPiece})
	}
	if err := inParallel(s.Customers, 32, func(i int) (err error) {
		c := crowd{addr: b.srv.ODMR[0], connect: traffic.CustomerOptions{Buffer: 2048, Receive: slowReceive}}
		if customers[i], err = c.login(ctx, i); err == nil {
			customers[i].Slow(met.throttles[i])
		}
		return err
	}); err != nil {
		return nil, nil, err
	}
	var counter traffic.Counter
	serve := traffic.ServeOptions{Offer: traffic.OfferChunking, Ledger: ledger, Counter: &counter, Divide: uint64(s.Customers)}
	var all sync.WaitGroup
	var mu sync.Mutex
	var hungUp bool
	p, err := b.env.measure(b.srv, watched{title: "slow", counter: &counter}, func() error {
		for _, customer := range customers {
			all.Go(func() {
				_, err := crowd{serve: serve}.collect(customer)
				mu.Lock()
				if err != nil && !hungUp {
					met.cut++
				}
				mu.Unlock()
				customer.Close()
			})
		}
		return s.bystander(ctx, b, ledger, first)
	})
	mu.Lock()
	hungUp = true
	mu.Unlock()
	hangUp()
	all.Wait()
	return p, met, err
}

// bystander hands a message in, lock-step, and collects it, over and over, and notes how long both took.
func (s *Slow) bystander(ctx context.Context, b *bed, ledger *letters.Ledger, first uint64) error {
	durable, turns := newHistogram(), newShared()
	sender, err := traffic.DialSender(ctx, b.srv.SMTP[0], traffic.SenderOptions{
		Transfer: traffic.Chunks, Stock: b.env.Stock, Sizes: letters.Fixed(4096), Ledger: ledger, Latency: durable,
	})
	if err != nil {
		return err
	}
	defer sender.Close()
	fast := crowd{
		addr: b.srv.ODMR[0], connect: traffic.CustomerOptions{Buffer: 16 << 10}, onTurn: turns.add,
		serve: traffic.ServeOptions{Offer: traffic.OfferChunking, Ledger: ledger},
	}
	interval := max(s.For/bystanders, 10*time.Millisecond)
	end := time.Now().Add(s.For)
	for n := uint64(0); n < bystanders && time.Now().Before(end); n++ {
		next := time.Now().Add(interval)
		if err := s.roundTrip(ctx, sender, fast, first+n); err != nil {
			return fmt.Errorf("a fast customer meanwhile: %w", err)
		}
		time.Sleep(time.Until(next))
	}
	time.Sleep(time.Until(end))
	b.r.Latency = append(b.r.Latency, result.Of("meanwhile: MAIL to durable 250", durable), result.Of("meanwhile: ATRN to first MAIL FROM", turns.h))
	return nil
}

// roundTrip is one message in and out again.
func (s *Slow) roundTrip(ctx context.Context, sender *traffic.Sender, fast crowd, id uint64) error {
	if err := sender.Send(traffic.Letter{ID: id, Recipient: address(s.Customers)}); err != nil {
		return err
	}
	customer, err := fast.login(ctx, s.Customers)
	if err != nil {
		return err
	}
	defer customer.Close()
	waiting, err := fast.collect(customer)
	if err == nil && !waiting {
		err = errors.New("the message that was just acknowledged does not wait")
	}
	return err
}
