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

// Space measures what the disk sees of a message that is taken, held and collected, and how soon the room
// is free again.
type Space struct {
	Customers int           `default:"20" min:"1" help:"Customers whose mail it is."`
	Messages  int           `default:"250000" min:"1" help:"Messages in all; many memtables' worth, so that the mail does reach its place on the disk."`
	Size      letters.Sizes `default:"4KiB" help:"Message sizes."`
	Hold      time.Duration `default:"10s" min:"0s" help:"How long the mail is held, at most; the server may be idle sooner."`
	Wait      time.Duration `default:"60s" min:"0s" help:"How long the space may take to come back."`
}

// spaceBack is the share of the mail's octets that may still be in use when its space counts as given back.
const spaceBack = 0.1

// disk is what the server's disk looks like at one moment.
type disk struct {
	mail    int64 // octets in files other than the store's logs
	logs    int64 // octets in those
	written int64 // octets written since the server's start
}

func look(srv *server.Process) (disk, error) {
	usage, err := srv.Usage()
	used, logs, err2 := srv.DiskUse()
	return disk{used - logs, logs, usage.Written}, errors.Join(err, err2)
}

// Run implements Scenario.
func (s *Space) Run(ctx context.Context, e *Env) ([]*result.Result, error) {
	if len(e.Target) > 0 {
		return nil, errors.New("the disk of a server that somebody else started cannot be looked at")
	}
	each := max(1, s.Messages/s.Customers)
	r := &result.Result{ID: "space", Title: "what the disk sees of mail taken, held and collected"}
	r.Param("size", s.Size.String())
	r.Param("messages", strconv.Itoa(each*s.Customers))
	srv, stop, err := e.start(ctx, s.Customers)
	if err != nil {
		return nil, err
	}
	defer func() { stop(r) }()
	empty, err := look(srv)
	if err != nil {
		return nil, err
	}
	ledger := letters.NewLedger(uint64(each * s.Customers))
	if err := e.handIn(ctx, srv, batch{customers: s.Customers, each: each, sizes: s.Size, ledger: ledger}); err != nil {
		return nil, err
	}
	taken, err := look(srv)
	if err != nil {
		return nil, err
	}
	waited := e.settle(ctx, srv, s.Hold)
	held, err := look(srv)
	if err != nil {
		return nil, err
	}
	drain := Drain{Customers: s.Customers, Each: each, Size: s.Size, Offer: traffic.OfferChunking}
	var counter traffic.Counter
	p, met, err := drain.collect(ctx, e, srv, traffic.ServeOptions{Offer: drain.Offer, Ledger: ledger, Counter: &counter, Divide: uint64(s.Customers)}, newShared())
	if err != nil {
		return nil, err
	}
	drained, err := look(srv)
	if err != nil {
		return nil, err
	}
	mail := s.Size.Mean() * float64(each*s.Customers)
	back, took, err := s.await(ctx, srv, r, empty.mail+int64(spaceBack*mail))
	if err != nil {
		return nil, err
	}
	r.AddLess("written", "written to disk per octet of mail, all in all", float64(back.written-empty.written)/mail, "")
	r.AddLess("written_taken", "of that when all was taken", float64(taken.written-empty.written)/mail, "")
	r.AddLess("written_held", "of that when it had been held", float64(held.written-empty.written)/mail, "")
	r.AddLess("written_drained", "of that when all was collected", float64(drained.written-empty.written)/mail, "")
	r.AddLess("back_seconds", "until the space was back", took.Seconds(), "s")
	r.AddLess("used_held", "files while it was held, besides logs, per octet of mail", float64(held.mail-empty.mail)/mail, "")
	r.AddLess("used_back", "files at the end, besides logs, more than of the empty store", float64(back.mail-empty.mail), "B")
	r.AddLess("logs", "logs at the end, which the store keeps to use them again", float64(back.logs), "B")
	r.Notes = append(r.Notes, fmt.Sprintf("held until the server was idle, %.1f s", waited.Seconds()),
		fmt.Sprintf("the space counts as back when the files besides logs take %.0f %% of the mail's octets; logs are made in full beforehand and used again (%s in the empty store)",
			100*spaceBack, result.Octets(float64(empty.logs))))
	p.tell(r, srv)
	checkCollected(r, ledger, met)
	late := int64(0)
	if took > s.Wait {
		late = 1
	}
	r.Expect("the space comes back", late, fmt.Sprintf("%s in use besides logs %.1f s after the drain", result.Octets(float64(back.mail)), took.Seconds()))
	return []*result.Result{r}, nil
}

// await looks at the disk every half second until at most target is in use besides logs, for Wait and a little.
func (s *Space) await(ctx context.Context, srv *server.Process, r *result.Result, target int64) (disk, time.Duration, error) {
	began := time.Now()
	series := result.Series{Name: "files after the drain", Unit: "B"}
	for {
		now, err := look(srv)
		took := time.Since(began)
		series.Points = append(series.Points, result.Point{took.Seconds(), float64(now.mail)})
		if err != nil || now.mail <= target || took > s.Wait+time.Second || ctx.Err() != nil {
			r.Series = append(r.Series, series)
			return now, took, err
		}
		time.Sleep(time.Second / 2)
	}
}
