package main

import (
	"errors"
	"fmt"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"odmr/bench"
	"odmr/internal/account"
	"odmr/internal/mail"
	"odmr/queue"
	"odmr/queue/pebblestore"
)

// deps is what package bench may not know itself.
func deps() bench.Deps {
	d := bench.Deps{WriteAccounts: writeAccounts, StoreAppend: storeAppend, StoreDrain: storeDrain}
	if self, err := os.Executable(); err == nil {
		d.Part = []string{self, "part"}
	}
	return d
}

// writeAccounts makes an accounts file with CRAM-MD5 secrets only: SCRAM keys are slow to derive on
// purpose, and ten thousand of them would take a minute.
func writeAccounts(file string, customers []bench.Customer) error {
	secret := account.DeriveCRAMMD5(bench.Password)
	return account.Edit(file, func(d *account.Document) error {
		for _, c := range customers {
			if err := d.Add(&account.Account{Name: c.Name, Domains: []string{c.Domain}, CRAMMD5: secret}); err != nil {
				return err
			}
		}
		return nil
	})
}

// openStore opens the store as odmrd does.
func openStore(dir string) (*pebblestore.Store, error) {
	return pebblestore.Open(dir, pebblestore.Options{Now: time.Now})
}

// envelope is that of a bench message of that size.
func envelope(domain string, size int) mail.Envelope {
	return mail.Envelope{
		Domain: domain, ReversePath: "sender@bench.example", Client: "127.0.0.1",
		Size: int64(size), WireSize: int64(size), Recipients: []mail.Recipient{{Address: "box@" + domain}},
	}
}

// put commits one message.
func put(s queue.Store, domain string, body []byte) error {
	in, err := s.Begin(int64(len(body)))
	if err != nil {
		return err
	}
	for len(body) > mail.LastPiece {
		if err := in.Append(body[:mail.ChunkSize]); err != nil {
			return err
		}
		body = body[mail.ChunkSize:]
	}
	return in.Commit(body, []mail.Envelope{envelope(domain, len(body))})
}

// storeAppend is how many synced messages per second the bare store takes from load.Writers.
func storeAppend(dir string, load bench.StoreLoad) (rate float64, err error) {
	s, err := openStore(dir)
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, s.Close()) }()
	var count atomic.Int64
	began := time.Now()
	end := began.Add(load.For)
	err = concurrently(load.Writers, func(n int) error {
		body := make([]byte, load.Size)
		domain := fmt.Sprintf("d%d.bench.example", n)
		for time.Now().Before(end) {
			if err := put(s, domain, body); err != nil {
				return err
			}
			count.Add(1)
		}
		return nil
	})
	return float64(count.Load()) / time.Since(began).Seconds(), err
}

// Bounds of what storeDrain asks for at once.
const (
	drainMessages = 64
	drainOctets   = 1 << 20
)

// storeDrain is how many messages per second the bare store hands out and settles over load.Writers
// leases, load.Each messages each.
func storeDrain(dir string, load bench.StoreLoad) (rate float64, err error) {
	s, err := openStore(dir)
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, s.Close()) }()
	domain := func(n int) string { return fmt.Sprintf("d%d.bench.example", n) }
	body := make([]byte, load.Size)
	const fillers = 4 // for each domain, so that syncs are shared
	if err := concurrently(load.Writers*fillers, func(n int) error {
		for i := n / load.Writers; i < load.Each; i += fillers {
			if err := put(s, domain(n%load.Writers), body); err != nil {
				return err
			}
		}
		return nil
	}); err != nil {
		return 0, err
	}
	var count atomic.Int64
	began := time.Now()
	err = concurrently(load.Writers, func(n int) error {
		lease, err := s.Acquire([]string{domain(n)})
		if err != nil {
			return err
		}
		defer lease.Release()
		return drainLease(lease, &count)
	})
	return float64(count.Load()) / time.Since(began).Seconds(), err
}

// drainLease reads and settles all that a lease hands out.
func drainLease(lease queue.Lease, count *atomic.Int64) error {
	var deliveries []queue.Delivery
	var settlements []queue.Settlement
	delivered := []mail.Outcome{{Status: mail.OutcomeDelivered, Reply: "250 ok"}}
	for {
		var err error
		deliveries, err = lease.Next(deliveries[:0], queue.Limit{Messages: drainMessages, Bytes: drainOctets})
		settlements = settlements[:0]
		for i := range deliveries {
			d := &deliveries[i]
			for {
				seg, err := d.Body.Next()
				if err != nil {
					break // io.EOF; anything else would have come from lease.Next
				}
				seg.Release()
			}
			d.Body.Close()
			settlements = append(settlements, queue.Settlement{Key: d.Key, Outcomes: delivered})
		}
		if err != nil || len(deliveries) == 0 {
			return err
		}
		if err := lease.Settle(settlements); err != nil {
			return err
		}
		count.Add(int64(len(settlements)))
	}
}

// concurrently runs fn(0) to fn(n-1) at once and returns all errors.
func concurrently(n int, fn func(int) error) error {
	errs := make([]error, n)
	var all sync.WaitGroup
	for i := range n {
		all.Go(func() { errs[i] = fn(i) })
	}
	all.Wait()
	return errors.Join(errs...)
}
