package bench

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"

	"odmr/bench/letters"
	"odmr/bench/result"
	"odmr/bench/server"
	"odmr/bench/traffic"
)

// Ingest measures durable 250s per second.
type Ingest struct {
	Connections int              `default:"64" min:"1" help:"MX connections at once."`
	For         time.Duration    `default:"5s" min:"100ms" help:"How long."`
	Size        letters.Sizes    `default:"4KiB" help:"Message sizes: 4KiB, 4KiB:70,64KiB:30 (weights), or mail (a usual mix)."`
	LMTP        bool             `name:"lmtp" help:"LMTP instead of SMTP."`
	Transfer    traffic.Transfer `default:"bdat" help:"bdat: whole transactions back to back; data: pipelined groups, one round trip per message; lock-step: no pipelining."`
	Window      int              `default:"16" min:"1" help:"Messages unanswered on a connection, with bdat."`
	Customers   int              `default:"1000" min:"1" help:"Customers whose mail it is."`
}

// id sets a variant of the scenario apart.
func (s *Ingest) id() string {
	id := fmt.Sprintf("ingest-%s", s.Transfer)
	if s.LMTP {
		id += "-lmtp"
	}
	if s.Size.String() != "4KiB" {
		id += "-" + s.Size.String()
	}
	if s.Connections != 64 {
		id += fmt.Sprintf("-%d", s.Connections)
	}
	return id
}

// Run implements Scenario.
func (s *Ingest) Run(ctx context.Context, e *Env) ([]*result.Result, error) {
	r := &result.Result{ID: s.id(), Title: fmt.Sprintf("durable 250s, %d connections, %s", s.Connections, s.Transfer)}
	r.Param("size", s.Size.String())
	r.Param("connections", strconv.Itoa(s.Connections))
	r.Param("window", strconv.Itoa(s.Window))
	r.Param("customers", strconv.Itoa(s.Customers))
	srv, stop, err := e.start(ctx, s.Customers)
	if err != nil {
		return nil, err
	}
	defer func() { stop(r) }()
	if err := s.measure(ctx, e, srv, r); err != nil {
		return nil, err
	}
	if !e.NoCeilings {
		if err := s.ceilings(ctx, e, r); err != nil {
			return nil, err
		}
	}
	return []*result.Result{r}, nil
}

// measure runs the senders against the server.
func (s *Ingest) measure(ctx context.Context, e *Env, srv *server.Process, r *result.Result) error {
	addr := srv.SMTP
	if s.LMTP {
		addr = srv.LMTP
	}
	if len(addr) == 0 {
		return errors.New("the server has no listener for it")
	}
	depth, depthErr := srv.Metric("odmr_queue_messages")
	var counter traffic.Counter
	var latency *hdrhistogram.Histogram
	p, err := e.measure(srv, watched{title: r.ID, counter: &counter}, func() (err error) {
		latency, err = s.drive(ctx, e, addr[0], &counter, s.For)
		return err
	})
	if err != nil {
		return err
	}
	r.Add("rate", "durable 250s", p.perSecond(), "msg/s")
	p.tell(r, srv)
	r.Latency = append(r.Latency, result.Of("MAIL to durable 250", latency))
	if n := counter.Refused.Load(); n > 0 {
		r.Notes = append(r.Notes, fmt.Sprintf("the server refused %d messages", n))
	}
	after, err := srv.Metric("odmr_queue_messages")
	if err == nil && depthErr == nil {
		r.Expect("every 250 is a message in the queue", int64(after-depth)-p.messages,
			fmt.Sprintf("%d acknowledged, %d more in the queue", p.messages, int64(after-depth)))
	}
	return nil
}

// drive sends for so long over all connections and returns the latencies.
func (s *Ingest) drive(ctx context.Context, e *Env, addr string, counter *traffic.Counter, howLong time.Duration) (*hdrhistogram.Histogram, error) {
	protocol := traffic.SMTP
	if s.LMTP {
		protocol = traffic.LMTP
	}
	senders := make([]*traffic.Sender, s.Connections)
	latency := make([]*hdrhistogram.Histogram, s.Connections)
	for i := range senders {
		latency[i] = newHistogram()
		var err error
		senders[i], err = traffic.DialSender(ctx, addr, traffic.SenderOptions{
			Protocol: protocol, Transfer: s.Transfer, Window: s.Window, Stock: e.Stock, Sizes: s.Size, Counter: counter, Latency: latency[i],
		})
		if err != nil {
			return nil, err
		}
		defer senders[i].Close()
	}
	var ended atomic.Bool
	timer := time.AfterFunc(howLong, func() { ended.Store(true) })
	defer timer.Stop()
	errs := make([]error, len(senders))
	var all sync.WaitGroup
	for i, sender := range senders {
		all.Go(func() {
			id := uint64(i)
			errs[i] = sender.Run(func() (traffic.Letter, bool) {
				id += uint64(len(senders))
				return traffic.Letter{ID: id, Recipient: address(int(id) % s.Customers)}, !ended.Load()
			})
		})
	}
	all.Wait()
	for _, h := range latency[1:] {
		latency[0].Merge(h)
	}
	return latency[0], firstOf(errs)
}

// ceilings measures what the machine could have done.
func (s *Ingest) ceilings(ctx context.Context, e *Env, r *result.Result) error {
	const ceilingFor = 2 * time.Second
	if e.StoreAppend != nil {
		rate, err := e.storeRate(ctx, "store-append", StoreLoad{Writers: s.Connections, Size: int(s.Size.Mean()), For: ceilingFor})
		if err != nil {
			return err
		}
		r.Ceiling("store", fmt.Sprintf("the bare store, %d writers, synced", s.Connections), rate)
	}
	sink, err := e.startPart(ctx, PartSpec{Kind: "sink", Sizes: s.Size})
	if err != nil {
		return err
	}
	var counter traffic.Counter
	began := time.Now()
	_, err = s.drive(ctx, e, sink.addr, &counter, ceilingFor)
	took := time.Since(began).Seconds()
	if err := errors.Join(err, sink.close()); err != nil {
		return err
	}
	r.Ceiling("sink", "these senders into a sink", float64(counter.Messages.Load())/took)
	piece := int(s.Size.Mean())
	if s.Transfer == traffic.Chunks {
		piece = max(piece, min(64<<10, piece*s.Window))
	}
	rate, err := e.loopbackRate(ctx, loopback{connections: s.Connections, piece: piece, toPart: true})
	if err != nil {
		return err
	}
	r.Ceiling("loopback", fmt.Sprintf("raw loopback, writes of %s", result.Octets(float64(piece))), rate/(s.Size.Mean()+envelopeOctets))
	return nil
}

// envelopeOctets is about what MAIL, RCPT and BDAT take on the wire.
const envelopeOctets = 110

// storeRate asks a part for a rate of the bare store, in a directory of its own.
func (e *Env) storeRate(ctx context.Context, kind string, load StoreLoad) (float64, error) {
	dir, err := os.MkdirTemp(e.Dir, "store.")
	if err != nil {
		return 0, err
	}
	defer os.RemoveAll(dir)
	p, err := e.startPart(ctx, PartSpec{Kind: kind, Dir: dir, Load: load})
	if err != nil {
		return 0, err
	}
	return p.rate, p.close()
}
