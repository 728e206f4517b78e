package pebblestore

import (
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"odmr/internal/mail"
	"odmr/queue"
)

// benchStore is a store as a server runs it, on the disk.
func benchStore(b *testing.B, dir string) *Store {
	b.Helper()
	s, err := Open(dir, Options{Now: time.Now, Events: &events{t: b}})
	if err != nil {
		b.Fatal(err)
	}
	return s
}

func benchEnvelope(domain string, size int) mail.Envelope {
	return mail.Envelope{
		Domain: domain, Arrived: 1_700_000_000_000_000_000, ReversePath: "someone.with.a.name@elsewhere.example", Client: "192.0.2.1",
		Size: int64(size), WireSize: int64(size), Recipients: []mail.Recipient{{Address: "user@" + domain}},
	}
}

// benchText is what bodies are cut from: mail is mostly base64, no two messages alike, so that compression shows its true side.
type benchText []byte

func newBenchText() benchText {
	text := make(benchText, 16<<20)
	dice := rand.New(rand.NewPCG(1, 2))
	for i := range text {
		text[i] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"[dice.IntN(64)]
	}
	return text
}

// body is the body of message i, of size octets.
func (t benchText) body(i int64, size int) []byte {
	at := int(i) * 7919 % (len(t) - size)
	return t[at : at+size]
}

// benchFill commits n messages of size octets from so many goroutines, over 1,000 domains.
func benchFill(b *testing.B, s *Store, n, size, goroutines int) {
	b.Helper()
	body := make([]byte, size)
	for i := range body {
		body[i] = "abcdefghijklmnopqrstuvwxyz0123456789+/"[i*7919%38]
	}
	var next atomic.Int64
	var wg sync.WaitGroup
	for range goroutines {
		wg.Go(func() {
			for i := next.Add(1); i <= int64(n); i = next.Add(1) {
				in, err := s.Begin(int64(size))
				if err == nil {
					err = in.Commit(body, []mail.Envelope{benchEnvelope(fmt.Sprintf("customer%d.example", i%1000), size)})
				}
				if err != nil {
					b.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
}

// benchDrain collects everything, as so many sessions at once, and returns how many messages.
func benchDrain(b *testing.B, s *Store, sessions int) int64 {
	b.Helper()
	var domain, total atomic.Int64
	var wg sync.WaitGroup
	for range sessions {
		wg.Go(func() {
			for d := domain.Add(1) - 1; d < 1000; d = domain.Add(1) - 1 {
				n, err := benchCollect(s, fmt.Sprintf("customer%d.example", d), queue.Limit{Messages: 16, Bytes: 1 << 20})
				total.Add(n)
				if err != nil {
					b.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
	return total.Load()
}

func benchCollect(s *Store, domain string, limit queue.Limit) (n int64, err error) {
	l, err := s.Acquire([]string{domain})
	if err != nil {
		return 0, err
	}
	defer l.Release()
	outcomes := []mail.Outcome{{Status: mail.OutcomeDelivered, Reply: "250 ok"}}
	var ds []queue.Delivery
	var ts []queue.Settlement
	for {
		if ds, err = l.Next(ds[:0], limit); err != nil || len(ds) == 0 {
			return n, err
		}
		ts = ts[:0]
		for _, d := range ds {
			for {
				seg, err := d.Body.Next()
				if err == io.EOF {
					break
				}
				if err != nil {
					return n, err
				}
				seg.Release()
			}
			d.Body.Close()
			ts = append(ts, queue.Settlement{Key: d.Key, Outcomes: outcomes})
		}
		if err := l.Settle(ts); err != nil {
			return n, err
		}
		n += int64(len(ds))
	}
}

// BenchmarkCommit is synced commits of 4 KiB messages from 64 goroutines.
func BenchmarkCommit(b *testing.B) {
	s := benchStore(b, b.TempDir())
	defer s.Close()
	b.ReportAllocs()
	b.ResetTimer()
	benchFill(b, s, b.N, 4096, 64)
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "messages/s")
}

// BenchmarkDrain is Next and Settle of 4 KiB messages by 64 sessions, each settling 16 at a time.
func BenchmarkDrain(b *testing.B) {
	s := benchStore(b, b.TempDir())
	defer s.Close()
	benchFill(b, s, b.N, 4096, 256)
	b.ReportAllocs()
	b.ResetTimer()
	n := benchDrain(b, s, 64)
	b.ReportMetric(float64(n)/b.Elapsed().Seconds(), "messages/s")
	if n != int64(b.N) {
		b.Fatalf("%d messages, want %d", n, b.N)
	}
}

// BenchmarkOpen is opening a store with ODMR_BENCH_MESSAGES (100,000) messages of 2 KiB, after a crash (the log is
// replayed) and after an orderly end.
func BenchmarkOpen(b *testing.B) {
	n := 100_000
	if v := os.Getenv("ODMR_BENCH_MESSAGES"); v != "" {
		var err error
		if n, err = strconv.Atoi(v); err != nil {
			b.Fatal(err)
		}
	}
	dir := b.TempDir()
	s := benchStore(b, dir)
	benchFill(b, s, n, 2048, 512)
	b.ResetTimer()
	for range b.N {
		b.StopTimer()
		if err := s.Close(); err != nil {
			b.Fatal(err)
		}
		b.StartTimer()
		s = benchStore(b, dir)
	}
	if got := s.Totals().Messages; got != int64(n) {
		b.Fatalf("%d messages, want %d", got, n)
	}
	b.StopTimer()
	s.Close()
}

// BenchmarkCheck is the operator's check of the same store.
func BenchmarkCheck(b *testing.B) {
	s := benchStore(b, b.TempDir())
	defer s.Close()
	benchFill(b, s, 50_000, 2048, 512)
	b.ResetTimer()
	for range b.N {
		mustClean(b, s)
	}
}
