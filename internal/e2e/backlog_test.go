package e2e

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"odmr/internal/client"
	"odmr/internal/mail"
)

// slowConn reads 1 KiB a second.
type slowConn struct {
	net.Conn
	fast bool
	tick *time.Ticker
}

func (c *slowConn) Read(p []byte) (int, error) {
	if c.fast {
		return c.Conn.Read(p)
	}
	<-c.tick.C
	return c.Conn.Read(p[:min(len(p), 1024)])
}

// TestSlowCustomers gives each of 200 customers a backlog of 1 GB, lets all of them drain at once
// at 1 KiB a second, and checks that the server's memory stays under a bound that is far below one
// backlog, and that it serves others meanwhile.
//
// Every message is for all 200 customers: one body on disk and a queue entry for each, so that 200 GB of backlog
// cost 1 GB of disk. Each session reads its own entries; nothing in a session knows that
// others read the same body.
func TestSlowCustomers(t *testing.T) {
	const (
		customers = 200
		size      = 50_000_000
		messages  = 20
		// bound is what the server may take in all with its default flags: 256 MiB for bodies on their way out, 256 MiB
		// for those on their way in, and as much again as both for the store (memtables, block cache) and for
		// garbage that the runtime has not collected, with a quarter on top.
		bound    = 1280 << 20
		watching = 20 * time.Second
	)
	slow := customer("slow")
	var to []string
	for i := range customers {
		slow.Domains = append(slow.Domains, fmt.Sprintf("slow%d.example", i))
		to = append(to, fmt.Sprintf("a@slow%d.example", i))
	}
	quick := customer("quick", "quick.example")
	s := startServer(t, []client.Account{slow, quick}, "--max-message-size", "60MiB",
		"--sessions-per-account", "0", "--sessions-per-address", "0")
	body := content("big", kindBinary, size)
	for range messages {
		env := envelope("sender@mx.example", to...)
		env.Size = int64(len(body))
		handIn(t, s.SMTP, client.SenderOptions{Chunk: 1 << 20}, client.Message{Envelope: env, Content: bytes.NewReader(body)})
	}
	if n := s.metric("odmr_queue_bytes"); n < customers*1e9 {
		t.Errorf("the backlog is %.0f octets only", n)
	}
	ingested := s.Memory()

	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var wg sync.WaitGroup
	received := make([]atomic.Int64, customers)
	for i := range customers {
		wg.Go(func() {
			if err := drainSlowly(ctx, s.ODMR, slow, slow.Domains[i], &received[i]); !errors.Is(err, context.Canceled) {
				t.Errorf("customer %d: %v", i, err)
			}
		})
	}
	peak := s.Memory()
	all := func() bool { // have begun, which takes a busy machine longer
		for i := range received {
			if received[i].Load() == 0 {
				return false
			}
		}
		return true
	}
	for begun := time.Now(); time.Since(begun) < watching || !all() && time.Since(begun) < patience; time.Sleep(100 * time.Millisecond) {
		if m := s.Memory(); m.RSS > peak.RSS {
			peak = m
		}
	}
	reversed := s.metric("odmr_sessions", `state="reversed"`)
	// Meanwhile mail comes in and another customer is served.
	handIn(t, s.SMTP, client.SenderOptions{}, message("quick", kindText, 300_000, "a@quick.example"))
	if stats := collect(t, s, quick, &client.Recorder{}); stats.Messages != 1 {
		t.Errorf("the quick customer: %+v", stats)
	}
	peak.Peak = s.Memory().Peak
	cancel()
	wg.Wait()
	var total int64
	for i := range received {
		total += received[i].Load()
	}
	t.Logf("%d customers with %d MB each, reading %v for %v: after ingest %v, while draining %v; bound %d MiB; %d octets read, %v sessions",
		customers, messages*size/1_000_000, "1 KiB/s", watching, ingested, peak, bound>>20, total, reversed)
	if peak.Peak > bound {
		t.Errorf("peak %v is over the bound of %d MiB", peak, bound>>20)
	}
	if reversed != customers {
		t.Errorf("%v sessions were draining, not %d", reversed, customers)
	}
	for i := range received {
		if received[i].Load() == 0 {
			t.Errorf("customer %d got nothing at all", i)
		}
	}
}

func drainSlowly(ctx context.Context, addr string, a client.Account, domain string, received *atomic.Int64) error {
	raw, err := (&net.Dialer{}).DialContext(ctx, "tcp", addr)
	if err != nil {
		return err
	}
	// What the kernel holds for this end is small, so that the server feels the slowness at once.
	if err := raw.(*net.TCPConn).SetReadBuffer(4096); err != nil {
		return err
	}
	conn := &slowConn{Conn: raw, fast: true, tick: time.NewTicker(time.Second)}
	defer conn.tick.Stop()
	c, err := client.New(ctx, conn, client.Options{Offer: client.Offer{Pipelining: true}})
	if err != nil {
		return err
	}
	defer c.Close()
	if err := c.Hello(); err != nil {
		return err
	}
	if err := c.Login(a.User, a.Password); err != nil {
		return err
	}
	if err := c.ATRN(domain); err != nil {
		return err
	}
	conn.fast = false
	_, err = c.Serve(counting{received})
	return err
}

// counting counts octets of content and never sees a whole message.
type counting struct{ n *atomic.Int64 }

func (c counting) Begin(*mail.Envelope) (client.Sink, error) { return c, nil }
func (c counting) Write(p []byte) (int, error)               { c.n.Add(int64(len(p))); return len(p), nil }
func (c counting) Commit() error                             { return errors.New("it cannot have come whole") }
func (c counting) Abort()                                    {}
