package pebblestore

import (
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"odmr/internal/mail"
	"odmr/queue"
)

// BenchmarkStay is what customers do who stay for their mail: 2,000 of them have a lease each, and a message of 4 KiB that comes in for
// one is collected at once. It reports the processor time for each message, and how long Next takes.
func BenchmarkStay(b *testing.B) {
	const customers, senders, size = 2000, 250, 4096
	s := benchStore(b, b.TempDir())
	defer s.Close()
	text := newBenchText()
	leases := make([]queue.Lease, customers)
	for i := range leases {
		l, err := s.Acquire([]string{fmt.Sprintf("customer%d.example", i)})
		if err != nil {
			b.Fatal(err)
		}
		defer l.Release()
		leases[i] = l
	}
	var next, nexts atomic.Int64
	var wg sync.WaitGroup
	stay := func(sender int) error {
		outcomes := []mail.Outcome{{Status: mail.OutcomeDelivered}}
		var before [customers / senders][]queue.Delivery // of each customer, not settled yet: what others do meanwhile takes the processor's caches
		settle := func(l queue.Lease, ds []queue.Delivery) error {
			if len(ds) == 0 {
				return nil
			}
			return l.Settle([]queue.Settlement{{Key: ds[0].Key, Outcomes: outcomes}})
		}
		for turn := 0; ; turn++ {
			i := next.Add(1)
			if i > int64(b.N) {
				break
			}
			at := turn % len(before)
			l := leases[sender+at*senders]
			in, err := s.Begin(size)
			if err == nil {
				err = in.Commit(text.body(i, size), []mail.Envelope{benchEnvelope(l.Domains()[0], size)})
			}
			if err != nil {
				return err
			}
			began := time.Now()
			ds, err := l.Next(nil, queue.Limit{Messages: 1, Bytes: 1 << 20})
			nexts.Add(int64(time.Since(began)))
			if err != nil || len(ds) != 1 {
				return fmt.Errorf("%d deliveries, %w", len(ds), err)
			}
			seg, err := ds[0].Body.Next()
			if err != nil || len(seg.Data) != size {
				return fmt.Errorf("body of %d octets, %w", len(seg.Data), err)
			}
			seg.Release()
			ds[0].Body.Close()
			err = settle(l, before[at])
			before[at] = ds
			if err != nil {
				return err
			}
		}
		for at := range before {
			if err := settle(leases[sender+at*senders], before[at]); err != nil {
				return err
			}
		}
		return nil
	}
	b.ReportAllocs()
	began := cpuTime(b)
	b.ResetTimer()
	for i := range senders {
		wg.Go(func() {
			if err := stay(i); err != nil {
				b.Error(err)
			}
		})
	}
	wg.Wait()
	b.StopTimer()
	b.ReportMetric(float64((cpuTime(b)-began).Nanoseconds())/1e3/float64(b.N), "cpu-us/op")
	b.ReportMetric(float64(nexts.Load())/1e3/float64(b.N), "next-us/op")
}
