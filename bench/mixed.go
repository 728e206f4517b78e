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

// Mixed measures mail in and out at once at a fixed rate of arrival, customers dialling in and out.
type Mixed struct {
	Rate        float64       `default:"0" help:"Messages that arrive per second; 0: Share of the peak, which is measured first."`
	Share       float64       `default:"0.3" help:"Part of the peak rate at which mail arrives."`
	PeakFor     time.Duration `default:"3s" help:"How long the peak rate is measured."`
	For         time.Duration `default:"15s" help:"How long."`
	Connections int           `default:"125" help:"MX connections at once, at most."`
	Customers   int           `default:"2000" help:"Customers that collect all the time; each waits a moment before it dials in again."`
	Queued      int           `default:"5" help:"Messages queued for each customer beforehand."`
	Think       time.Duration `default:"500ms" help:"Mean time between a customer's sessions."`
	Size        letters.Sizes `default:"4KiB" help:"Message sizes."`
	Offer       traffic.Offer `default:"chunking" help:"What the customers offer."`
}

// customersBusy is the part of the time that customers take over their mail: each message is
// acknowledged so late that the arriving mail keeps them busy for that long.
const customersBusy = 0.8

// rampUp is the time over which the customers dial in for the first time, before mail arrives and
// measuring begins: all of them in one moment is another scenario.
const rampUp = 2 * time.Second

// collectLimit is how long the customers may take for what is left at the end.
const collectLimit = 60 * time.Second

// Run implements Scenario.
func (s *Mixed) Run(ctx context.Context, e *Env) ([]*result.Result, error) {
	if err := raiseFiles(s.Customers + s.Connections + idleReserve); err != nil {
		return nil, err
	}
	r := &result.Result{ID: "mixed", Title: "mail in at a fixed rate, latency from the intended time, while customers collect"}
	rate, err := s.rate(ctx, e, r)
	if err != nil {
		return nil, err
	}
	r.Param("arrivals", result.Number(rate)+"/s, Poisson")
	r.Param("size", s.Size.String())
	r.Param("connections", strconv.Itoa(s.connections()))
	r.Param("customers", strconv.Itoa(s.Customers))
	srv, stop, err := e.start(ctx, s.Customers)
	if err != nil {
		return nil, err
	}
	defer func() { stop(r) }()
	lone, err := e.fdatasync()
	if err != nil {
		return nil, err
	}
	first := uint64(s.Queued * s.Customers)
	m := &mixture{
		Mixed: s, bed: bed{e, srv, r}, perSecond: rate, first: first,
		ledger:  letters.NewLedger(first + uint64(3*rate*s.For.Seconds()) + 1000),
		latency: newHistogram(), late: newHistogram(), turns: newShared(),
	}
	if err := e.handIn(ctx, srv, batch{customers: s.Customers, each: s.Queued, sizes: s.Size, ledger: m.ledger}); err != nil {
		return nil, err
	}
	e.settle(ctx, srv, 5*time.Second)
	p, err := m.run(ctx)
	if err != nil {
		return nil, err
	}
	m.tell(p, lone)
	return []*result.Result{r}, nil
}

// connections is the largest number of connections up to Connections that divides the customers, so that each
// customer's mail keeps to one connection and its order can be checked.
func (s *Mixed) connections() int {
	n := max(1, min(s.Connections, s.Customers))
	for s.Customers%n != 0 {
		n--
	}
	return n
}

// rate is that of arrivals: given, or a share of the peak.
func (s *Mixed) rate(ctx context.Context, e *Env, r *result.Result) (float64, error) {
	if s.Rate > 0 {
		return s.Rate, nil
	}
	srv, stop, err := e.start(ctx, s.Customers)
	if err != nil {
		return 0, err
	}
	defer stop(nil)
	peak := Ingest{Connections: s.connections(), Size: s.Size, Transfer: traffic.Chunks, Window: 16, Customers: s.Customers}
	var counter traffic.Counter
	began := time.Now()
	if _, err := peak.drive(ctx, e, srv.SMTP[0], &counter, s.PeakFor); err != nil {
		return 0, err
	}
	full := float64(counter.Messages.Load()) / time.Since(began).Seconds()
	r.Notes = append(r.Notes, fmt.Sprintf("peak rate over the same connections, nobody collecting: %s/s; arrivals are %.0f %% of it", result.Number(full), 100*s.Share))
	return full * s.Share, nil
}

// mixture is one run of Mixed.
type mixture struct {
	*Mixed
	bed
	perSecond float64
	first     uint64 // number of the first message that arrives
	ledger    *letters.Ledger
	latency   *hdrhistogram.Histogram // from the intended time to the durable 250
	late      *hdrhistogram.Histogram // from the intended time to when it was sent
	turns     *sharedHistogram        // ATRN to first MAIL FROM
	in, out   traffic.Counter
	sessions  atomic.Int64 // customers after their turn, now
	dialled   atomic.Int64
	empty     atomic.Int64 // sessions answered 453
	hurry     atomic.Bool  // no more arrivals: customers take what is left as fast as they can
	done      atomic.Bool  // customers go home
	met       collected
}

// run is the measured part and the rest of the collecting.
func (m *mixture) run(ctx context.Context) (*phase, error) {
	senders, err := m.dial(ctx)
	if err != nil {
		return nil, err
	}
	var customers sync.WaitGroup
	w := watched{title: "mixed", counter: &m.in, gauges: []gauge{
		{name: "collected", unit: "msg/s", value: speed(&m.out)},
		{name: "customers collecting", unit: "sessions", value: func() float64 { return float64(m.sessions.Load()) }},
	}}
	for n := range m.Customers {
		customers.Go(func() { m.customer(ctx, n) })
	}
	time.Sleep(rampUp + rampUp/4)
	p, err := m.env.measure(m.srv, w, func() error { return m.arrive(senders) })
	m.hurry.Store(true)
	for deadline := time.Now().Add(collectLimit); m.ledger.ArrivedCount() < m.ledger.AckedCount() && time.Now().Before(deadline) && ctx.Err() == nil; {
		time.Sleep(20 * time.Millisecond)
	}
	m.done.Store(true)
	customers.Wait()
	return p, err
}

// dial connects the senders.
func (m *mixture) dial(ctx context.Context) ([]*traffic.Sender, error) {
	senders := make([]*traffic.Sender, m.connections())
	for i := range senders {
		var err error
		senders[i], err = traffic.DialSender(ctx, m.srv.SMTP[0], traffic.SenderOptions{
			Transfer: traffic.Chunks, Stock: m.env.Stock, Sizes: m.Size, Ledger: m.ledger, Counter: &m.in, Latency: newHistogram(),
		})
		if err != nil {
			return nil, err
		}
	}
	return senders, nil
}

// arrive sends each message when its time has come, or as soon after as its connection is free.
func (m *mixture) arrive(senders []*traffic.Sender) error {
	errs := make([]error, len(senders))
	late := make([]*hdrhistogram.Histogram, len(senders))
	began := time.Now()
	var all sync.WaitGroup
	for n, sender := range senders {
		late[n] = newHistogram()
		all.Go(func() { errs[n] = m.arriveOver(sender, share{n, len(senders)}, began, late[n]) })
	}
	all.Wait()
	for n, sender := range senders {
		m.latency.Merge(sender.Latency())
		m.late.Merge(late[n])
		sender.Close()
	}
	return firstOf(errs)
}

// arriveOver is one connection's share of the arrivals: a Poisson process of its own.
func (m *mixture) arriveOver(sender *traffic.Sender, part share, began time.Time, late *hdrhistogram.Histogram) error {
	random := rand.New(rand.NewPCG(1, uint64(part.n)))
	mean := float64(part.of) / m.perSecond * float64(time.Second)
	due := began
	for i := uint64(part.n); ; i += uint64(part.of) {
		due = due.Add(time.Duration(random.ExpFloat64() * mean))
		if due.Sub(began) > m.For {
			return nil
		}
		time.Sleep(time.Until(due))
		_ = late.RecordValue(max(1, time.Since(due).Microseconds()))
		l := traffic.Letter{ID: m.first + i, Recipient: address(int(i % uint64(m.Customers))), Since: due}
		if err := sender.Send(l); err != nil {
			return err
		}
	}
}

// pace is how long a customer takes over one message.
func (m *mixture) pace() time.Duration {
	if m.hurry.Load() {
		return 0
	}
	return m.busy()
}

// busy is how long a customer takes over one message while mail arrives.
func (m *mixture) busy() time.Duration {
	return time.Duration(customersBusy * float64(m.Customers) / m.perSecond * float64(time.Second))
}

// customer dials in, collects, hangs up, and comes back.
func (m *mixture) customer(ctx context.Context, n int) {
	random := rand.New(rand.NewPCG(2, uint64(n)))
	c := crowd{
		addr: m.srv.ODMR[0], connect: traffic.CustomerOptions{Buffer: 4 << 10},
		onTurn: func(d time.Duration) {
			m.turns.add(d)
			m.sessions.Add(1)
		},
		serve: traffic.ServeOptions{Offer: m.Offer, Ledger: m.ledger, Counter: &m.out, Pace: m.pace, Divide: uint64(m.Customers)},
	}
	time.Sleep(time.Duration(random.Int64N(int64(rampUp))))
	for !m.done.Load() && ctx.Err() == nil {
		if err := m.session(ctx, c, n); err != nil {
			m.met.fail(err)
		}
		think := m.Think
		if m.hurry.Load() {
			think /= 4
		}
		time.Sleep(time.Duration(random.ExpFloat64() * float64(think)))
	}
}

// session is one call of a customer.
func (m *mixture) session(ctx context.Context, c crowd, n int) error {
	turned := false
	onTurn := c.onTurn
	c.onTurn = func(d time.Duration) {
		turned = true
		onTurn(d)
	}
	defer func() {
		if turned {
			m.sessions.Add(-1)
		}
	}()
	customer, err := c.login(ctx, n)
	if err != nil {
		return err
	}
	m.dialled.Add(1)
	waiting, err := c.collect(customer)
	if err == nil && !waiting {
		m.empty.Add(1)
		return customer.Quit()
	}
	customer.Close()
	return err
}

// tell fills the result.
func (m *mixture) tell(p *phase, lone float64) {
	r := m.r
	durable := result.Of("durable 250, from the intended time", m.latency)
	r.Latency = append(r.Latency, durable, result.Of("lateness: intended time to sending", m.late), result.Of("ATRN to first MAIL FROM", m.turns.h))
	r.AddLess("p99", "p99 of a durable 250, from the intended time", durable.P99, "us")
	r.AddLess("fdatasync", "a lone fdatasync on this disk, median, before the run", lone, "us")
	r.AddLess("p99_fdatasyncs", "that p99 in lone fdatasyncs", durable.P99/max(lone, 1), "×")
	r.Add("arrived", "mail in", p.perSecond(), "msg/s")
	r.Add("collected", "mail out, meanwhile", p.gauges[0].mean(), "msg/s")
	r.Add("sessions", "customers collecting at a time, mean", p.gauges[1].mean(), "")
	r.Add("dialled", "sessions begun in all", float64(m.dialled.Load()), "")
	p.tell(r, m.srv)
	if n := m.in.Refused.Load(); n > 0 {
		r.Notes = append(r.Notes, fmt.Sprintf("the server refused %d messages", n))
	}
	r.Notes = append(r.Notes, fmt.Sprintf("customers take %v over a message; %d sessions found nothing (453)", m.busy().Round(time.Millisecond), m.empty.Load()))
	checkCollected(r, m.ledger, &m.met)
}
