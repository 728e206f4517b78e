package e2e

import (
	"context"
	"fmt"
	"net"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"

	"odmr/internal/client"
)

// needDescriptors skips the test where a process may not have so many open files. (Go raises the soft limit
// to the hard one by itself, here as in odmrd.)
func needDescriptors(t *testing.T, n uint64) {
	t.Helper()
	var limit syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
		t.Fatal(err)
	}
	if limit.Max < n {
		t.Skipf("needs %d open files in a process, the limit is %d", n, limit.Max)
	}
}

// TestManyConnections has 5,000 customers connected and authenticated at once, idle at first and then
// all draining their own domain's mail. What that costs is printed.
func TestManyConnections(t *testing.T) {
	const (
		customers  = 5000
		perAccount = 100 // domains, so that the accounts are written in a moment
		each       = 2   // messages waiting for each
	)
	needDescriptors(t, customers+500)
	accounts, domains := manyDomains(customers, perAccount)
	s := startServer(t, accounts, "--sessions-per-account", "0", "--sessions-per-address", "0")
	fresh, own := s.Memory(), s.Descriptors() // some for each processor

	// One message for 500 customers at a time: one body, 500 queue entries.
	for i := range each {
		for at := 0; at < customers; at += 500 {
			var to []string
			for _, d := range domains[at : at+500] {
				to = append(to, "a@"+d)
			}
			handIn(t, s.SMTP, client.SenderOptions{}, message(fmt.Sprintf("m%d-%d", at, i), kindText, 4000, to...))
		}
	}

	ctx, cancel := context.WithTimeout(t.Context(), 3*patience)
	defer cancel()
	lines := make([]*client.Customer, customers)
	inParallel(t, 64, customers, func(i int) error {
		var err error
		lines[i], err = loggedIn(ctx, s, accounts[i/perAccount])
		return err
	})
	defer func() {
		for _, c := range lines {
			if c != nil {
				_ = c.Close()
			}
		}
	}()
	if t.Failed() {
		return
	}
	idle, fds := s.Memory(), s.Descriptors()
	if fds < customers {
		t.Errorf("%d descriptors with %d connections", fds, customers)
	}

	// All turn first; only then does any of them go on: 5,000 reversed sessions at once.
	inParallel(t, customers, customers, func(i int) error { return lines[i].ATRN(domains[i]) })
	turned := s.Memory()
	if n := s.metric("odmr_sessions", `state="reversed"`); n != customers {
		t.Errorf("%v reversed sessions", n)
	}
	var got atomic.Int64
	inParallel(t, customers, customers, func(i int) error {
		rec := &client.Recorder{}
		stats, err := lines[i].Serve(rec)
		if err == nil && (stats.Messages != each || len(stats.Breaches) > 0) {
			err = fmt.Errorf("%s: %+v", domains[i], stats)
		}
		for _, m := range rec.Messages() {
			if to := addresses(&m.Envelope); len(to) != 1 || to[0] != "a@"+domains[i] {
				err = fmt.Errorf("%s got mail for %q", domains[i], to)
			}
		}
		got.Add(int64(stats.Messages))
		return err
	})
	t.Logf("%d connections: started %v; all authenticated and idle %v, %d descriptors, %d octets each; all turned %v; after %d messages %v",
		customers, fresh, idle, fds, (idle.RSS-fresh.RSS)/customers, turned, got.Load(), s.Memory())
	for i, c := range lines {
		_ = c.Close()
		lines[i] = nil
	}
	until(t, "the descriptors to be given back", func() bool { return s.Descriptors() < own+200 })
}

// manyDomains makes accounts with so many domains each, customers in all.
func manyDomains(customers, perAccount int) (accounts []client.Account, domains []string) {
	for i := range customers / perAccount {
		a := customer(fmt.Sprintf("account%d", i))
		for j := range perAccount {
			a.Domains = append(a.Domains, fmt.Sprintf("c%d.example", i*perAccount+j))
		}
		domains = append(domains, a.Domains...)
		accounts = append(accounts, a)
	}
	return accounts, domains
}

// loggedIn connects as a customer that offers everything, and authenticates.
func loggedIn(ctx context.Context, s *Server, a client.Account) (*client.Customer, error) {
	conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", s.ODMR)
	if err != nil {
		return nil, err
	}
	c, err := client.New(ctx, conn, client.Options{Offer: client.FullOffer()})
	if err == nil {
		err = c.Hello()
	}
	if err == nil {
		err = c.Login(a.User, a.Password)
	}
	return c, err
}

// inParallel calls f for 0..n-1 from several goroutines and reports the first few errors.
func inParallel(t *testing.T, goroutines, n int, f func(i int) error) {
	t.Helper()
	var next, failures atomic.Int64
	var wg sync.WaitGroup
	for range goroutines {
		wg.Go(func() {
			for {
				i := int(next.Add(1)) - 1
				if i >= n {
					return
				}
				if err := f(i); err != nil && failures.Add(1) <= 5 {
					t.Errorf("%d: %v", i, err)
				}
			}
		})
	}
	wg.Wait()
	if n := failures.Load(); n > 5 {
		t.Errorf("%d failures in all", n)
	}
}
