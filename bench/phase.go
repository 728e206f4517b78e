package bench

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"runtime/pprof"
	"sync"
	"time"

	"odmr/bench/result"
	"odmr/bench/server"
	"odmr/bench/traffic"
)

// sampleEvery is how often throughput and memory are looked at.
const sampleEvery = 200 * time.Millisecond

// phase is the measured part of a scenario, seen from outside.
type phase struct {
	seconds  float64
	messages int64
	octets   int64
	rate     []result.Point // messages per second
	rss      []result.Point // octets
	before   server.Usage
	after    server.Usage
	peak     int64 // highest RSS seen
	own      time.Duration
	gauges   []gauge
}

// gauge is something else to look at whenever throughput is.
type gauge struct {
	name, unit string
	value      func() float64
	points     []result.Point
}

// speed makes a value of a counter: its growth per second since the last look.
func speed(counter *traffic.Counter) func() float64 {
	last, at := counter.Messages.Load(), time.Now()
	return func() float64 {
		now, count := time.Now(), counter.Messages.Load()
		rate := float64(count-last) / now.Sub(at).Seconds()
		last, at = count, now
		return rate
	}
}

// mean is the average of what a gauge showed.
func (g *gauge) mean() float64 {
	sum := 0.0
	for _, p := range g.points {
		sum += p[1]
	}
	return sum / float64(max(1, len(g.points)))
}

// watched is what a measured part is seen by.
type watched struct {
	title   string
	counter *traffic.Counter
	total   int64 // messages that there will be; 0: unknown
	gauges  []gauge
}

// measure runs work and samples w and the server meanwhile.
func (e *Env) measure(srv *server.Process, w watched, work func() error) (*phase, error) {
	p := &phase{gauges: w.gauges}
	title, counter := w.title, w.counter
	var err error
	if p.before, err = srv.Usage(); err != nil {
		return nil, err
	}
	own, err := server.Own()
	if err != nil {
		return nil, err
	}
	show, end := e.Progress(title, w.total)
	stopProfiles := e.profile(title, srv)
	messages, octets := counter.Messages.Load(), counter.Octets.Load()
	began := time.Now()
	done := make(chan struct{})
	var sampler sync.WaitGroup
	sampler.Go(func() { p.sample(srv, counter, began, done, show) })
	workErr := work()
	p.seconds = time.Since(began).Seconds()
	close(done)
	sampler.Wait()
	end()
	stopProfiles()
	p.messages, p.octets = counter.Messages.Load()-messages, counter.Octets.Load()-octets
	if p.after, err = srv.Usage(); err != nil && workErr == nil {
		workErr = err
	}
	if after, err := server.Own(); err == nil {
		p.own = after.CPU - own.CPU
	}
	p.peak = max(p.peak, p.after.RSS)
	return p, workErr
}

// sample looks at counter and server until done.
func (p *phase) sample(srv *server.Process, counter *traffic.Counter, began time.Time, done <-chan struct{}, show func(int64)) {
	tick := time.NewTicker(sampleEvery)
	defer tick.Stop()
	first := counter.Messages.Load()
	last, at := first, began
	for {
		select {
		case <-done:
			return
		case <-tick.C:
		}
		now, count := time.Now(), counter.Messages.Load()
		p.rate = append(p.rate, result.Point{now.Sub(began).Seconds(), float64(count-last) / now.Sub(at).Seconds()})
		last, at = count, now
		show(count - first)
		for i := range p.gauges {
			g := &p.gauges[i]
			g.points = append(g.points, result.Point{now.Sub(began).Seconds(), g.value()})
		}
		if u, err := srv.Usage(); err == nil && srv.Pid != 0 {
			p.rss = append(p.rss, result.Point{now.Sub(began).Seconds(), float64(u.RSS)})
			p.peak = max(p.peak, u.RSS)
		}
	}
}

// perSecond is the rate of messages.
func (p *phase) perSecond() float64 { return float64(p.messages) / p.seconds }

// tell puts what every measured part has into r: series, memory, processor time.
func (p *phase) tell(r *result.Result, srv *server.Process) {
	r.Seconds += p.seconds
	r.Series = append(r.Series, result.Series{Name: "throughput", Unit: "msg/s", Points: p.rate})
	for _, g := range p.gauges {
		r.Series = append(r.Series, result.Series{Name: g.name, Unit: g.unit, Points: g.points})
	}
	r.Add("octets", "content", float64(p.octets)/p.seconds, "B/s")
	if p.messages > 0 {
		r.AddLess("harness_cpu", "harness: processor time per message", float64(p.own.Microseconds())/float64(p.messages), "us")
	}
	r.Add("harness_cpus", "harness: processors in use", p.own.Seconds()/p.seconds, "")
	if srv.Pid == 0 {
		return
	}
	r.Series = append(r.Series, result.Series{Name: "RSS of the server", Unit: "B", Points: p.rss})
	cpu := p.after.CPU - p.before.CPU
	if p.messages > 0 {
		r.AddLess("server_cpu", "server: processor time per message", float64(cpu.Microseconds())/float64(p.messages), "us")
	}
	r.Add("server_cpus", "server: processors in use", cpu.Seconds()/p.seconds, "")
	r.AddLess("rss_peak", "server: highest RSS", float64(p.peak), "B")
	if p.octets > 0 {
		r.AddLess("written", "server: written to disk per octet of mail in this part", float64(p.after.Written-p.before.Written)/float64(p.octets), "")
	}
}

// profile takes profiles of server and harness until the returned function is called.
func (e *Env) profile(title string, srv *server.Process) (stop func()) {
	if e.Profile == "" {
		return func() {}
	}
	name := func(what string) string { return filepath.Join(e.Profile, title+"."+what+".pprof") }
	fetched := make(chan struct{})
	go func() {
		defer close(fetched)
		if err := srv.Profile(fmt.Sprintf("profile?seconds=%d", e.ProfileFor), name("server-cpu")); err != nil {
			e.Say("no profile of the server: %v", err)
		}
	}()
	own, err := os.Create(name("harness-cpu"))
	if err == nil {
		err = pprof.StartCPUProfile(own)
	}
	if err != nil {
		e.Say("no profile of the harness: %v", err)
	}
	return func() {
		pprof.StopCPUProfile()
		if own != nil {
			discard(own)
		}
		if err := srv.Profile("allocs", name("server-allocs")); err != nil {
			e.Say("no profile of the server's memory: %v", err)
		}
		if err := srv.SaveMetrics(filepath.Join(e.Profile, title+".metrics.txt")); err != nil {
			e.Say("no metrics of the server: %v", err)
		}
		<-fetched
	}
}

// settle waits until the server has been idle for a moment (compactions ended), for at most
// limit, and returns how long that took.
func (e *Env) settle(ctx context.Context, srv *server.Process, limit time.Duration) time.Duration {
	began := time.Now()
	if srv.Pid == 0 {
		return 0
	}
	const look = 500 * time.Millisecond
	for quiet := 0; quiet < 2 && time.Since(began) < limit && ctx.Err() == nil; {
		before, err := srv.Usage()
		time.Sleep(look)
		after, err2 := srv.Usage()
		if err != nil || err2 != nil {
			break
		}
		if after.CPU-before.CPU < look/20 && after.Written-before.Written < 1<<20 {
			quiet++
		} else {
			quiet = 0
		}
	}
	return time.Since(began)
}
