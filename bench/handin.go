package bench

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"

	"odmr/bench/letters"
	"odmr/bench/server"
	"odmr/bench/traffic"
)

const (
	// maxLatency is the longest time that a histogram holds, in microseconds: 10 minutes.
	maxLatency = 600e6
	// handInConnections is how many connections hand mail in where that is not what is measured.
	handInConnections = 64
	// handInWindow is 2: one message is on its way while the one before is being written to disk.
	handInWindow = 2
)

// newHistogram makes a histogram of microseconds with three significant digits.
func newHistogram() *hdrhistogram.Histogram { return hdrhistogram.New(1, maxLatency, 3) }

// batch is mail for a range of customers, the same number for each. Message number
// first + i*customers + c is the i-th of customer from+c, so that the numbers of one customer have the
// same remainder by customers (if first is a multiple of it) and grow in the order of sending.
type batch struct {
	from, customers int
	each            int
	first           uint64
	sizes           letters.Sizes
	ledger          *letters.Ledger // may be nil
}

// total is how many messages a batch has.
func (b batch) total() int { return b.customers * b.each }

// handIn gives a batch to the server as fast as that goes: several connections, whole transactions
// back to back. Each customer's mail goes over one connection, in order.
func (e *Env) handIn(ctx context.Context, srv *server.Process, b batch) error {
	if b.total() == 0 {
		return nil
	}
	var counter traffic.Counter
	show, end := e.Progress("handing mail in", int64(b.total()))
	defer end()
	stop := make(chan struct{})
	defer close(stop)
	go func() {
		for tick := time.NewTicker(sampleEvery); ; {
			select {
			case <-stop:
				tick.Stop()
				return
			case <-tick.C:
				show(counter.Messages.Load())
			}
		}
	}()
	conns := min(handInConnections, b.customers)
	var all sync.WaitGroup
	errs := make([]error, conns)
	for n := range conns {
		all.Go(func() { errs[n] = e.handInOver(ctx, srv, b, &counter, share{n, conns}) })
	}
	all.Wait()
	if err := firstOf(errs); err != nil {
		return fmt.Errorf("handing mail in: %w", err)
	}
	if refused := counter.Refused.Load(); refused > 0 {
		return fmt.Errorf("handing mail in: the server refused %d messages", refused)
	}
	return nil
}

// share is what one of several connections does: the customers whose number leaves n when divided by of.
type share struct{ n, of int }

// handInOver is one connection's share.
func (e *Env) handInOver(ctx context.Context, srv *server.Process, b batch, counter *traffic.Counter, part share) error {
	s, err := traffic.DialSender(ctx, srv.SMTP[0], traffic.SenderOptions{
		Transfer: traffic.Chunks, Window: handInWindow, Stock: e.Stock, Sizes: b.sizes, Ledger: b.ledger, Counter: counter,
	})
	if err != nil {
		return err
	}
	i, c := 0, part.n
	err = s.Run(func() (traffic.Letter, bool) {
		if c >= b.customers {
			i, c = i+1, part.n
		}
		if i >= b.each {
			return traffic.Letter{}, false
		}
		l := traffic.Letter{ID: b.first + uint64(i*b.customers+c), Recipient: address(b.from + c)}
		c += part.of
		return l, true
	})
	if err != nil {
		s.Close()
		return err
	}
	if s.Refusal() != "" {
		err = fmt.Errorf("the server refused a message: %s", s.Refusal())
	}
	return errors.Join(err, s.Quit())
}

// crowd is customers that collect at the same time.
type crowd struct {
	from, customers int
	addr            string
	connect         traffic.CustomerOptions
	serve           traffic.ServeOptions
	// onATRN is told how long ATRN took to be answered by 250, onTurn how long the first MAIL FROM took from ATRN on; called
	// from many goroutines, and may be nil.
	onATRN, onTurn func(time.Duration)
}

// collected is what a crowd met with.
type collected struct {
	empty  atomic.Int64 // sessions answered 453
	failed atomic.Int64
	mu     sync.Mutex
	first  error
}

func (c *collected) fail(err error) {
	c.failed.Add(1)
	c.mu.Lock()
	if c.first == nil {
		c.first = err
	}
	c.mu.Unlock()
}

// gather connects and logs in every customer of a crowd, calls begin, and then lets all of them send ATRN
// at once and collect until the server says QUIT.
func (c crowd) gather(ctx context.Context, begin func(collect func())) (*collected, error) {
	out := new(collected)
	customers := make([]*traffic.Customer, c.customers)
	defer func() {
		for _, customer := range customers {
			if customer != nil {
				customer.Close()
			}
		}
	}()
	if err := inParallel(c.customers, 32, func(i int) (err error) {
		customers[i], err = c.login(ctx, c.from+i)
		return err
	}); err != nil {
		return nil, err
	}
	begin(func() {
		var all sync.WaitGroup
		for _, customer := range customers {
			all.Go(func() {
				waiting, err := c.collect(customer)
				switch {
				case err != nil:
					out.fail(err)
				case !waiting:
					out.empty.Add(1)
				}
			})
		}
		all.Wait()
	})
	return out, nil
}

func (c crowd) login(ctx context.Context, n int) (*traffic.Customer, error) {
	customer, err := traffic.DialCustomer(ctx, c.addr, c.connect)
	if err != nil {
		return nil, err
	}
	if err := customer.Login(customerOf(n).Name, Password); err != nil {
		customer.Close()
		return nil, err
	}
	return customer, nil
}

// collect is a customer's session from ATRN on.
func (c crowd) collect(customer *traffic.Customer) (waiting bool, err error) {
	began := time.Now()
	if waiting, err = customer.ATRN(); err != nil || !waiting {
		return waiting, err
	}
	if c.onATRN != nil {
		c.onATRN(time.Since(began))
	}
	o := c.serve
	if c.onTurn != nil {
		o.OnMail = func(first bool) {
			if first {
				c.onTurn(time.Since(began))
			}
		}
	}
	return true, customer.Serve(o)
}

// inParallel calls fn for 0 to n-1 on at most so many goroutines and returns the first error.
func inParallel(n, goroutines int, fn func(int) error) error {
	var next atomic.Int64
	errs := make([]error, min(n, goroutines))
	var all sync.WaitGroup
	for g := range errs {
		all.Go(func() {
			for i := int(next.Add(1)) - 1; i < n; i = int(next.Add(1)) - 1 {
				if errs[g] = fn(i); errs[g] != nil {
					return
				}
			}
		})
	}
	all.Wait()
	return firstOf(errs)
}

// firstOf is the first error: dozens of connections fail for the same reason.
func firstOf(errs []error) error {
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}

// sharedHistogram is a histogram that many goroutines write to.
type sharedHistogram struct {
	mu sync.Mutex
	h  *hdrhistogram.Histogram
}

func newShared() *sharedHistogram { return &sharedHistogram{h: newHistogram()} }

func (s *sharedHistogram) add(d time.Duration) {
	s.mu.Lock()
	_ = s.h.RecordValue(max(1, min(d.Microseconds(), maxLatency)))
	s.mu.Unlock()
}
