package bench

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"strconv"
	"strings"
	"time"

	"odmr/bench/peers"
	"odmr/bench/result"
	"odmr/bench/traffic"
	"odmr/internal/freeport"
)

// Peers measures other mail servers beside ours, all by Postfix's load tools.
type Peers struct {
	Messages int           `default:"6000" min:"1" help:"Messages of 4 KiB that each peer takes and relays."`
	Ours     int           `default:"40000" min:"1" help:"Messages that our server takes, and the bare sink: more, because it would be over too soon."`
	Relay    time.Duration `default:"10s" min:"100ms" help:"How long a peer relays at most; its rate is that of the messages that came by then."`
	Sessions int           `default:"20" min:"1" help:"Connections of smtp-source."`
	Only     string        `help:"Only those whose names begin with this, and ours."`
	Root     string        `default:"bin/peers" placeholder:"DIR" help:"Where make bench-peers has unpacked what cannot be installed side by side."`
}

const (
	peerSize  = 4096
	peerStall = 20 * time.Second // without any message a peer counts as stuck
)

// Run implements Scenario.
func (s *Peers) Run(ctx context.Context, e *Env) ([]*result.Result, error) {
	if err := peers.Tools(); err != nil {
		r := &result.Result{ID: "peers", Title: "other mail servers"}
		r.Notes = append(r.Notes, "not measured: "+err.Error())
		return []*result.Result{r}, nil
	}
	ours, err := s.ours(ctx, e)
	if err != nil {
		return nil, err
	}
	out := []*result.Result{ours}
	for _, peer := range peers.All(s.Root) {
		if !strings.HasPrefix(strings.ToLower(peer.Name()), strings.ToLower(s.Only)) {
			continue
		}
		r := &result.Result{ID: "peer-" + strings.ToLower(peer.Name())}
		version, err := peer.Version()
		if err != nil {
			r.Title = peer.Name()
			r.Notes = append(r.Notes, "not measured: "+err.Error())
			out = append(out, r)
			continue
		}
		r.Title = peer.Name() + " " + version + ": by smtp-source, and its queue to smtp-sink"
		if err := s.peer(ctx, e, peer, r); err != nil {
			return out, fmt.Errorf("%s: %w", peer.Name(), err)
		}
		out = append(out, r)
	}
	return out, nil
}

func (s *Peers) load(messages int) peers.Load {
	return peers.Load{Messages: messages, Size: peerSize, Sessions: s.Sessions, To: address(0)}
}

// ours is our server by smtp-source, and smtp-source's own ceiling.
func (s *Peers) ours(ctx context.Context, e *Env) (*result.Result, error) {
	r := &result.Result{ID: "ingest-smtp-source", Title: fmt.Sprintf("durable 250s by smtp-source -d -s %d -l %d", s.Sessions, peerSize)}
	r.Param("messages", strconv.Itoa(s.Ours))
	srv, stop, err := e.start(ctx, 1)
	if err != nil {
		return nil, err
	}
	defer func() { stop(r) }()
	p, err := e.measure(srv, watched{title: r.ID, counter: new(traffic.Counter)}, func() error {
		took, err := peers.Source(ctx, srv.SMTP[0], s.load(s.Ours))
		r.Add("rate", "durable 250s", float64(s.Ours)/took.Seconds(), "msg/s")
		return err
	})
	if err != nil {
		return nil, err
	}
	r.Seconds = p.seconds
	r.AddLess("server_cpu", "server: processor time per message", float64((p.after.CPU-p.before.CPU).Microseconds())/float64(s.Ours), "us")
	r.AddLess("rss_peak", "server: highest RSS", float64(p.peak), "B")
	if depth, err := srv.Metric("odmr_queue_messages"); err == nil {
		r.Expect("every 250 is a message in the queue", int64(s.Ours)-int64(depth), fmt.Sprintf("%d handed in, %.0f in the queue", s.Ours, depth))
	}
	sink, err := peers.StartSink(ctx)
	if err != nil {
		return nil, err
	}
	took, err := peers.Source(ctx, net.JoinHostPort("127.0.0.1", strconv.Itoa(sink.Port)), s.load(s.Ours))
	if err := errors.Join(err, sink.Stop()); err != nil {
		return nil, err
	}
	r.Ceiling("sink", "smtp-source into smtp-sink", float64(s.Ours)/took.Seconds())
	if !e.NoCeilings && e.StoreAppend != nil {
		rate, err := e.storeRate(ctx, "store-append", StoreLoad{Writers: s.Sessions, Size: peerSize, For: 2 * time.Second})
		if err != nil {
			return nil, err
		}
		r.Ceiling("store", fmt.Sprintf("the bare store, %d writers, synced", s.Sessions), rate)
	}
	return r, nil
}

// peer measures one peer.
func (s *Peers) peer(ctx context.Context, e *Env, peer peers.Peer, r *result.Result) (err error) {
	dir, err := os.MkdirTemp(e.Dir, "peer.")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	if err := os.Chmod(e.Dir, 0o711); err != nil { // peers' own users must come through
		return err
	}
	sink, err := peers.StartSink(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, sink.Stop()) }()
	port, err := freeport.Loopback()
	if err != nil {
		return err
	}
	running, err := peer.Start(ctx, dir, port, sink.Port)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, running.Stop()) }()
	show, end := e.Progress(r.ID, int64(2*s.Messages))
	defer end()
	took, err := peers.Source(ctx, net.JoinHostPort("127.0.0.1", strconv.Itoa(port)), s.load(s.Messages))
	if err != nil {
		return err
	}
	show(int64(s.Messages))
	r.Param("messages", strconv.Itoa(s.Messages))
	r.Add("rate", "durable 250s", float64(s.Messages)/took.Seconds(), "msg/s")
	if early := sink.Count(); early > 0 {
		return fmt.Errorf("%d messages went out before they were released", early)
	}
	releaseCtx, enough := context.WithCancel(ctx)
	defer enough()
	released := make(chan error, 1)
	go func() { released <- running.Release(releaseCtx) }()
	rate, err := sink.Await(ctx, int64(s.Messages), s.Relay, peerStall)
	enough()
	releaseErr := <-released
	if err != nil {
		return errors.Join(err, releaseErr)
	}
	r.Add("relay", "queue to smtp-sink", rate, "msg/s")
	r.Seconds = took.Seconds()
	return nil
}
