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
//
// A customer stays for a while (Stay) and takes what comes, as ISPs' customers with a line do, then leaves as an MTA does that
// is shut down, by 421, and dials in again after a moment (Think): with the defaults 2,000 customers, nearly all of them
// collecting at any time, and 190 calls a second. For that the server runs with --linger. Without Stay the server ends each session
// once all is collected; then most customers of such a crowd do not collect but dial in twice a second and find nothing, which
// measures logins.
type Mixed struct {
	Rate        float64       `default:"0" min:"0" help:"Messages that arrive per second; 0: Share of the peak, which is measured first."`
	Share       float64       `default:"0.3" min:"0.001" max:"1" help:"Part of the peak rate at which mail arrives."`
	Collecting  bool          `default:"true" negatable:"" help:"Measure the peak rate while the customers collect, too, and latency at Share of that, for half as long; not with Rate given."`
	PeakFor     time.Duration `default:"3s" min:"100ms" help:"How long the peak rate is measured."`
	For         time.Duration `default:"15s" min:"100ms" help:"How long."`
	Connections int           `default:"125" min:"1" help:"MX connections at once, at most."`
	Customers   int           `default:"2000" min:"1" help:"Customers that collect all the time; each waits a moment before it dials in again."`
	Stay        time.Duration `default:"10s" min:"0s" help:"Mean time that a customer stays for mail before it hangs up by 421; 0: the server ends the session by QUIT once all is collected."`
	Queued      int           `default:"5" min:"0" help:"Messages queued for each customer beforehand."`
	Think       time.Duration `default:"500ms" min:"0s" help:"Mean time between a customer's sessions."`
	Size        letters.Sizes `default:"4KiB" help:"Message sizes."`
	Offer       traffic.Offer `default:"chunking" help:"What the customers offer."`
}

// customersBusy is the part of the time that customers take over their mail: each message is
// acknowledged so late that the arriving mail keeps them busy for that long.
const customersBusy = 0.8

// mixedBuffer is how many octets a customer reads at a time: a few messages, for the harness needs the processors that it
// takes for itself to be few.
const mixedBuffer = 16 << 10

// mixedWindow is how many messages a connection may have unanswered, at the peak rate and below it: one that took one message at a time would
// add the wait for it to the latency, which was most of the p99.
const mixedWindow = 16

// rampUp is the time over which the customers dial in for the first time, before mail arrives and
// measuring begins: all of them in one moment is another scenario.
const rampUp = 2 * time.Second

// lingerFlags make the server keep a session open until the customer leaves.
var lingerFlags = []string{"--linger", "1h"}

// Run implements Scenario.
func (s *Mixed) Run(ctx context.Context, e *Env) ([]*result.Result, error) {
	if err := raiseFiles(s.Customers + s.Connections + idleReserve); err != nil {
		return nil, err
	}
	r := &result.Result{ID: "mixed", Title: "mail in at a fixed rate, latency from the intended time, while customers collect"}
	stages, err := s.stages(ctx, e, r)
	if err != nil {
		return nil, err
	}
	main := stages[len(stages)-1]
	r.Param("arrivals", result.Number(main.perSecond)+"/s, Poisson")
	r.Param("size", s.Size.String())
	r.Param("connections", fmt.Sprintf("%d, of %d messages unanswered at the most", s.connections(), mixedWindow))
	r.Param("customers", strconv.Itoa(s.Customers))
	var flags []string
	if s.Stay > 0 {
		r.Param("stay", s.Stay.String()+" on average")
		flags = lingerFlags
	}
	srv, stop, err := e.start(ctx, s.Customers, flags...)
	if err != nil {
		return nil, err
	}
	defer func() { stop(r) }()
	lone, err := e.fdatasync()
	if err != nil {
		return nil, err
	}
	m := &mixture{
		Mixed: s, bed: bed{e, srv, r}, ledger: letters.NewLedger(stages[len(stages)-1].end),
		turns: newShared(), present: make([]atomic.Pointer[traffic.Customer], s.Customers),
	}
	if err := e.handIn(ctx, srv, batch{customers: s.Customers, each: s.Queued, sizes: s.Size, ledger: m.ledger}); err != nil {
		return nil, err
	}
	e.settle(ctx, srv, 5*time.Second)
	p, err := m.run(ctx, stages)
	if err != nil {
		return nil, err
	}
	m.tell(p, stages, lone)
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

// stage is a stretch of time in which mail arrives at one rate.
type stage struct {
	name       string  // set apart from the scenario's own; "" for the one that the scenario is about
	flood      bool    // as fast as the server takes it, while customers collect as fast as they can; perSecond comes out of it
	perSecond  float64 // behind a flood it is known when that is over; until then it bounds how many numbers the stage gets
	length     time.Duration
	first, end uint64                  // numbers that its messages may have
	latency    *hdrhistogram.Histogram // from the intended time to the durable 250
	late       *hdrhistogram.Histogram // from the intended time to when it was sent
}

// stages are what is measured, one after the other; the last is what the scenario is about.
//
// Of the peak there are two: what the server takes while nobody collects, of which the last stage has its share, and what it takes while all customers
// collect. A share of the latter says how it is with a server that has something left.
func (s *Mixed) stages(ctx context.Context, e *Env, r *result.Result) ([]*stage, error) {
	list := []*stage{{perSecond: s.Rate, length: s.For}}
	if s.Rate <= 0 {
		peak, err := s.peak(ctx, e)
		if err != nil {
			return nil, err
		}
		r.Notes = append(r.Notes, fmt.Sprintf("peak rate over the same connections, nobody collecting: %s/s; arrivals are %.0f %% of it", result.Number(peak), 100*s.Share))
		list[0].perSecond = peak * s.Share
		if s.Collecting {
			list = []*stage{
				{name: "flood", flood: true, perSecond: peak, length: s.PeakFor},
				{name: "collecting", perSecond: peak * s.Share, length: s.For / 2}, list[0],
			}
		}
	}
	first := uint64(s.Queued * s.Customers)
	for _, at := range list {
		at.first = first
		of := uint64(s.Customers)
		first += (uint64(3*at.perSecond*at.length.Seconds())+1000)/of*of + of
		at.end = first
		at.latency, at.late = newHistogram(), newHistogram()
	}
	return list, nil
}

// peak is how much mail the server takes over the same connections while nobody collects.
func (s *Mixed) peak(ctx context.Context, e *Env) (float64, error) {
	srv, stop, err := e.start(ctx, s.Customers)
	if err != nil {
		return 0, err
	}
	defer stop(nil)
	peak := Ingest{Connections: s.connections(), Size: s.Size, Transfer: traffic.Chunks, Window: mixedWindow, Customers: s.Customers}
	var counter traffic.Counter
	began := time.Now()
	if _, err := peak.drive(ctx, e, srv.SMTP[0], &counter, s.PeakFor); err != nil {
		return 0, err
	}
	return float64(counter.Messages.Load()) / time.Since(began).Seconds(), nil
}

// mixture is one run of Mixed.
type mixture struct {
	*Mixed
	bed
	now      atomic.Pointer[stage]
	ledger   *letters.Ledger
	turns    *sharedHistogram // ATRN to its 250, or without Stay to the first MAIL FROM
	in, out  traffic.Counter
	sessions atomic.Int64 // customers after their turn, now
	dialled  atomic.Int64
	empty    atomic.Int64 // sessions answered 453
	hurry    atomic.Bool  // customers take what there is as fast as they can
	done     atomic.Bool  // customers go home
	present  []atomic.Pointer[traffic.Customer]
	met      collected
}

// run is the measured part and the rest of the collecting. What it returns is the last stage.
func (m *mixture) run(ctx context.Context, stages []*stage) (p *phase, err error) {
	var customers sync.WaitGroup
	m.now.Store(stages[0])
	for n := range m.Customers {
		customers.Go(func() { m.customer(ctx, n) })
	}
	time.Sleep(rampUp + rampUp/4)
	for i, at := range stages {
		m.hurry.Store(at.flood)
		if p, err = m.stage(ctx, at); err != nil {
			break
		}
		if at.flood {
			at.perSecond = p.perSecond()
			stages[i+1].perSecond = m.Share * at.perSecond
			allCollected(ctx, m.ledger)
			m.env.settle(ctx, m.srv, 5*time.Second)
		}
	}
	m.hurry.Store(true)
	allCollected(ctx, m.ledger)
	m.done.Store(true)
	for n := range m.present {
		if c := m.present[n].Load(); c != nil {
			c.Leave()
		}
	}
	customers.Wait()
	return p, err
}

// stage is one stage of the measured part.
func (m *mixture) stage(ctx context.Context, at *stage) (*phase, error) {
	m.now.Store(at)
	senders, err := m.dial(ctx)
	if err != nil {
		return nil, err
	}
	title := m.r.ID
	if at.name != "" {
		title += "-" + at.name
	}
	w := watched{title: title, counter: &m.in, gauges: []gauge{
		{name: "collected", unit: "msg/s", value: speed(&m.out)},
		{name: "customers collecting", unit: "sessions", value: func() float64 { return float64(m.sessions.Load()) }},
	}}
	return m.env.measure(m.srv, w, func() error { return m.arrive(senders, at) })
}

// dial connects the senders.
func (m *mixture) dial(ctx context.Context) ([]*traffic.Sender, error) {
	senders := make([]*traffic.Sender, m.connections())
	for i := range senders {
		var err error
		senders[i], err = traffic.DialSender(ctx, m.srv.SMTP[0], traffic.SenderOptions{
			Transfer: traffic.Chunks, Window: mixedWindow, Stock: m.env.Stock, Sizes: m.Size, Ledger: m.ledger, Counter: &m.in, Latency: newHistogram(),
		})
		if err != nil {
			return nil, err
		}
	}
	return senders, nil
}

// arrive sends each message when its time has come, be those before it answered or not, or as soon after as its connection has room.
func (m *mixture) arrive(senders []*traffic.Sender, at *stage) error {
	errs := make([]error, len(senders))
	late := make([]*hdrhistogram.Histogram, len(senders))
	began := time.Now()
	var all sync.WaitGroup
	for n, sender := range senders {
		late[n] = newHistogram()
		o := arrivals{sender: sender, part: share{n, len(senders)}, began: began, late: late[n]}
		all.Go(func() { errs[n] = m.arriveOver(at, o) })
	}
	all.Wait()
	for n, sender := range senders {
		at.latency.Merge(sender.Latency())
		at.late.Merge(late[n])
		sender.Close()
	}
	return firstOf(errs)
}

// arrivals are one connection's share of a stage.
type arrivals struct {
	sender *traffic.Sender
	part   share
	began  time.Time
	late   *hdrhistogram.Histogram
}

// arriveOver is one connection's share of the arrivals: a Poisson process of its own, or one message behind the other.
func (m *mixture) arriveOver(at *stage, o arrivals) error {
	if at.flood {
		return m.floodOver(at, o)
	}
	random := rand.New(rand.NewPCG(1, at.first+uint64(o.part.n)))
	mean := float64(o.part.of) / at.perSecond * float64(time.Second)
	due := o.began
	for id := at.first + uint64(o.part.n); id < at.end; id += uint64(o.part.of) {
		due = due.Add(time.Duration(random.ExpFloat64() * mean))
		if due.Sub(o.began) > at.length {
			return o.sender.Until(time.Time{})
		}
		if err := o.sender.Until(due); err != nil {
			return err
		}
		if err := o.sender.Post(traffic.Letter{ID: id, Recipient: address(int(id % uint64(m.Customers))), Since: due}); err != nil {
			return err
		}
		_ = o.late.RecordValue(max(1, time.Since(due).Microseconds()))
	}
	return fmt.Errorf("more than %d messages fell due", at.end-at.first)
}

// floodOver is one connection's share of a flood.
func (m *mixture) floodOver(at *stage, o arrivals) error {
	for id := at.first + uint64(o.part.n); id < at.end && time.Since(o.began) < at.length; id += uint64(o.part.of) {
		if err := o.sender.Post(traffic.Letter{ID: id, Recipient: address(int(id % uint64(m.Customers)))}); err != nil {
			return err
		}
	}
	return o.sender.Until(time.Time{})
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
	return time.Duration(customersBusy * float64(m.Customers) / m.now.Load().perSecond * float64(time.Second))
}

// customer dials in, collects, hangs up, and comes back.
func (m *mixture) customer(ctx context.Context, n int) {
	random := rand.New(rand.NewPCG(2, uint64(n)))
	c := crowd{
		addr: m.srv.ODMR[0], connect: traffic.CustomerOptions{Buffer: mixedBuffer},
		serve: traffic.ServeOptions{Offer: m.Offer, Ledger: m.ledger, Counter: &m.out, Pace: m.pace, Divide: uint64(m.Customers)},
	}
	time.Sleep(time.Duration(random.Int64N(int64(rampUp))))
	for !m.done.Load() && ctx.Err() == nil {
		if m.Stay > 0 {
			c.serve.Until = time.Now().Add(time.Duration(random.ExpFloat64() * float64(m.Stay)))
		}
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
	turn := func(time.Duration) {
		turned = true
		m.sessions.Add(1)
	}
	defer func() {
		if turned {
			m.sessions.Add(-1)
		}
	}()
	if m.Stay > 0 { // the first message may be a while in coming
		c.onATRN = func(d time.Duration) { turn(d); m.turns.add(d) }
	} else {
		c.onTurn = func(d time.Duration) { turn(d); m.turns.add(d) }
	}
	customer, err := c.login(ctx, n)
	if err != nil {
		return err
	}
	m.dialled.Add(1)
	m.present[n].Store(customer)
	defer m.present[n].Store(nil)
	if m.done.Load() { // too late to be told to leave
		return customer.Quit()
	}
	waiting, err := c.collect(customer)
	if err == nil && !waiting {
		m.empty.Add(1)
		return customer.Quit()
	}
	customer.Close()
	return err
}

// tell fills the result. p is the last stage.
func (m *mixture) tell(p *phase, stages []*stage, lone float64) {
	r, at := m.r, stages[len(stages)-1]
	durable := result.Of("durable 250, from the intended time", at.latency)
	turns := "ATRN to its 250"
	if m.Stay <= 0 {
		turns = "ATRN to first MAIL FROM"
	}
	r.Latency = append(r.Latency, durable, result.Of("lateness: intended time to sending", at.late), result.Of(turns, m.turns.h))
	r.AddLess("p99", "p99 of a durable 250, from the intended time", durable.P99, "us")
	r.AddLess("fdatasync", "a lone fdatasync on this disk, median, before the run", lone, "us")
	r.AddLess("p99_fdatasyncs", "that p99 in lone fdatasyncs", durable.P99/max(lone, 1), "×")
	for _, at := range stages[:len(stages)-1] {
		m.tellCollecting(at, lone)
	}
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

// tellCollecting fills in what came of the peak while customers collect.
func (m *mixture) tellCollecting(at *stage, lone float64) {
	if at.flood {
		m.r.Add("peak_collecting", "peak rate while the customers collect", at.perSecond, "msg/s")
		return
	}
	durable := result.Of(fmt.Sprintf("at %.0f %% of the peak while they collect, %s/s, before: durable 250", 100*m.Share, result.Number(at.perSecond)), at.latency)
	m.r.Latency = append(m.r.Latency, durable)
	m.r.AddLess("p99_collecting", fmt.Sprintf("p99 at %.0f %% of that", 100*m.Share), durable.P99, "us")
	m.r.AddLess("p99_collecting_fdatasyncs", "that p99 in lone fdatasyncs", durable.P99/max(lone, 1), "×")
}
