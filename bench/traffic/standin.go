package traffic

import (
	"context"
	"encoding/base64"
	"net"
	"strings"
	"sync"

	"odmr/bench/letters"
)

// Sink is an MX that takes everything and keeps nothing: what the harness's senders reach where the
// other end costs next to nothing. It looks at the mail as a customer does.
func Sink(ctx context.Context, l net.Listener, counter *Counter) error {
	return each(ctx, l, func(c *wire) {
		c.out = append(c.out, "220 sink.bench.example ESMTP\r\n"...)
		_ = c.serve(ServeOptions{Offer: OfferChunking, Counter: counter})
	})
}

// each is Each with a wire on every connection, which it closes.
func each(ctx context.Context, l net.Listener, serve func(*wire)) error {
	return Each(ctx, l, func(conn net.Conn) {
		c := newWire(ctx, conn, inBuffer)
		defer c.close()
		serve(c)
	})
}

// Each serves every connection on a goroutine until ctx ends, and waits for them. serve closes its connection, when ctx ends at
// the latest.
func Each(ctx context.Context, l net.Listener, serve func(net.Conn)) error {
	stop := context.AfterFunc(ctx, func() { _ = l.Close() })
	defer stop()
	var all sync.WaitGroup
	defer all.Wait()
	for {
		conn, err := l.Accept()
		if ctx.Err() != nil {
			return nil
		}
		if err != nil {
			return err
		}
		all.Go(func() { serve(conn) })
	}
}

// Plan is what a Provider gives to each customer.
type Plan struct {
	Messages int           // for each session
	Sizes    letters.Sizes //
	Stock    *letters.Stock
	Window   int // messages in flight; 0: 64
}

// Provider is an ODMR server that believes any password and has the same mail for everybody, made as it
// goes: what the harness's customers reach where the other end costs next to nothing. The n-th
// session's numbers are n*Plan.Messages and up.
func Provider(ctx context.Context, l net.Listener, plan Plan) error {
	var mu sync.Mutex
	sessions := uint64(0)
	return each(ctx, l, func(c *wire) {
		mu.Lock()
		first := sessions * uint64(plan.Messages)
		sessions++
		mu.Unlock()
		_ = provide(c, plan, first)
	})
}

// provide is one session.
func provide(c *wire, plan Plan, first uint64) error {
	c.out = append(c.out, "220 provider.bench.example ESMTP\r\n"...)
	for {
		line := c.line()
		if line == nil {
			if err := c.flush(); err != nil {
				return err
			}
			if err := c.fill(); err != nil {
				return err
			}
			continue
		}
		verb, _, _ := strings.Cut(string(line), " ")
		switch verb {
		case "EHLO":
			c.out = append(c.out, "250-provider.bench.example\r\n250-AUTH CRAM-MD5\r\n250 ATRN\r\n"...)
		case "NOOP":
			c.out = append(c.out, ok...)
		case "AUTH":
			c.out = append(c.out, "334 "+base64.StdEncoding.EncodeToString([]byte("<1.1@bench>"))+"\r\n"...)
		case "ATRN":
			c.out = append(c.out, "250 turning\r\n"...)
			return reverse(c, plan, first)
		case "QUIT":
			c.out = append(c.out, "221 bye\r\n"...)
			return c.flush()
		default: // the response to the challenge
			c.out = append(c.out, "235 welcome\r\n"...)
		}
	}
}

// reverse is the session after the turn.
func reverse(c *wire, plan Plan, first uint64) error {
	if _, err := c.want("greeting", 220); err != nil {
		return err
	}
	rep, err := c.ask("EHLO provider.bench.example", 250)
	if err != nil {
		return err
	}
	transfer := LockStep
	for line := range rep.All() {
		switch string(line) {
		case "PIPELINING":
			transfer = max(transfer, Data)
		case "CHUNKING":
			transfer = Chunks
		}
	}
	window := plan.Window
	if window <= 0 {
		window = 64
	}
	s := newSender(c, SenderOptions{Transfer: transfer, Window: window, Stock: plan.Stock, Sizes: plan.Sizes})
	id, end := first, first+uint64(plan.Messages)
	err = s.Run(func() (Letter, bool) {
		id++
		return Letter{ID: id - 1, Recipient: "customer@bench.example"}, id <= end
	})
	if err != nil {
		return err
	}
	return s.Quit()
}
