package e2e

import (
	"context"
	"crypto/tls"
	"fmt"
	"path/filepath"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"odmr/internal/client"
)

// TestTLSReloadUnderLoad replaces the certificate again and again, on SIGHUP and by itself, while MTAs hand in mail and customers collect it over
// connections that run throughout, and others shake hands without a pause. No session ends, no handshake fails, no
// message is lost, and each new certificate is served.
func TestTLSReloadUnderLoad(t *testing.T) {
	const senders, shakers, renewals = 3, 4, 12
	var accounts []client.Account
	for i := range senders {
		accounts = append(accounts, customer(fmt.Sprintf("c%d", i), fmt.Sprintf("c%d.example", i)))
	}
	s, secure, ca := startTLSServer(t, accounts)
	first := trust(t, ca)

	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	var wg sync.WaitGroup
	var shaken, sent, got, collecting atomic.Int64
	for range shakers {
		wg.Go(func() {
			for ctx.Err() == nil {
				c, err := tls.Dial("tcp", secure, &tls.Config{InsecureSkipVerify: true}) // whichever it is
				if err != nil {
					t.Errorf("a handshake: %v", err)
					return
				}
				c.Close()
				shaken.Add(1)
			}
		})
	}
	for i, a := range accounts {
		up := make(chan struct{})
		wg.Go(func() { // one connection throughout
			p, err := dialRaw(context.Background(), s.SMTP, "")
			if err == nil {
				_, err = p.expect("220")
			}
			if err == nil {
				_, err = p.ask("STARTTLS\r\n", "220")
			}
			if err != nil {
				t.Error(err)
				close(up)
				return
			}
			defer p.Close()
			under := tls.Client(p.Conn, first)
			p.Conn = under
			p.r.Reset(under)
			_, err = p.ask("EHLO mx.isp.example\r\n", "250")
			close(up)
			for err == nil && ctx.Err() == nil {
				for _, step := range [][2]string{{"MAIL FROM:<>\r\n", "250"}, {"RCPT TO:<x@" + a.Domains[0] + ">\r\n", "250"}, {"DATA\r\n", "354"}, {"Subject: x\r\n\r\nx\r\n.\r\n", "250"}} {
					if err == nil {
						_, err = p.ask(step[0], step[1])
					}
				}
				if err == nil {
					sent.Add(1)
				}
			}
			if err != nil {
				t.Errorf("sender %d: %v", i, err)
			}
		})
		<-up
		wg.Go(func() { // one connection throughout: mail arrives as it drains
			opts := client.Options{Security: client.ImplicitTLS, TLS: first, Offer: client.FullOffer(), Timeout: patience}
			for sent.Load() <= senders && ctx.Err() == nil {
				time.Sleep(time.Millisecond)
			}
			c, err := client.Dial(context.Background(), secure, opts)
			if err != nil {
				t.Error(err)
				return
			}
			collecting.Add(1)
			stats, err := c.Collect(a, &client.Recorder{OnCommit: func(*client.Received) error { got.Add(1); return nil }})
			if err != nil || !stats.Quit {
				t.Errorf("customer %d: %+v, %v", i, stats, err)
			}
		})
	}
	until(t, "all to be under way", func() bool { // all: who trusts the first certificate could not begin later
		return collecting.Load() == senders && got.Load() > senders && shaken.Load() > shakers
	})
	for i := range renewals {
		name := fmt.Sprintf("renewal%d.example", i)
		certificate(t, filepath.Dir(ca), hostname, name)
		next := trust(t, ca)
		if i != renewals/2 { // that one is found by looking
			s.Signal(syscall.SIGHUP)
		}
		before := sent.Load()
		until(t, "the new certificate", func() bool {
			c, err := tls.Dial("tcp", secure, next)
			if err != nil {
				return false
			}
			defer c.Close()
			return len(c.ConnectionState().PeerCertificates[0].DNSNames) == 2 && c.ConnectionState().PeerCertificates[0].DNSNames[1] == name
		})
		until(t, "the sessions to go on", func() bool { return sent.Load() > before })
	}
	stop()
	wg.Wait()
	for _, a := range accounts {
		got.Add(int64(collect(t, s, a, &client.Recorder{}).Messages))
	}
	if got.Load() != sent.Load() {
		t.Errorf("%d messages of %d", got.Load(), sent.Load())
	}
	t.Logf("%d renewals, %d handshakes, %d messages", renewals, shaken.Load(), sent.Load())
}
