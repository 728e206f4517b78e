package pebblestore

import (
	"fmt"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"odmr/internal/mail"
	"odmr/queue"
)

// cpuTime is what the process has used, in all threads.
func cpuTime(b *testing.B) time.Duration {
	b.Helper()
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// bytesWritten is what the process has sent towards the disk so far, or 0 where the system does not say.
func bytesWritten(b *testing.B) (n int64) {
	b.Helper()
	io, err := os.ReadFile("/proc/self/io")
	if err != nil {
		return 0
	}
	if _, rest, ok := strings.Cut(string(io), "\nwrite_bytes: "); ok {
		if _, err := fmt.Sscan(rest, &n); err != nil {
			b.Fatal(err)
		}
	}
	return n
}

// BenchmarkInterleaved is what customers do to a server that took their mail in turns: b.N messages of 20 domains,
// handed in one after the other, then collected by all 20 at once, 64 messages a settlement. It
// reports processor time per message, apart for both halves, as the machine may be busy
// with other things.
func BenchmarkInterleaved(b *testing.B) {
	for _, size := range []int{1024, 4096, 12 << 10, 64 << 10, 256 << 10, 257 << 10, 300 << 10} {
		for _, flushed := range []bool{false, true} {
			b.Run(fmt.Sprintf("size=%d/flushed=%v", size, flushed), func(b *testing.B) { benchInterleaved(b, size, flushed) })
		}
	}
}

func benchInterleaved(b *testing.B, size int, flushed bool) {
	const domains, batch = 20, 64
	s := benchStore(b, b.TempDir())
	defer s.Close()
	text := newBenchText()
	began, before := cpuTime(b), bytesWritten(b)
	var next, total atomic.Int64
	var wg sync.WaitGroup
	for range 64 {
		wg.Go(func() {
			for i := next.Add(1); i <= int64(b.N); i = next.Add(1) {
				in, err := s.Begin(int64(size))
				last := text.body(i, size)
				if err == nil && size > mail.LastPiece {
					err = in.Append(last[:mail.ChunkSize])
					last = last[mail.ChunkSize:]
				}
				if err == nil {
					err = in.Commit(last, []mail.Envelope{benchEnvelope(fmt.Sprintf("customer%d.example", i%domains), size)})
				}
				if err != nil {
					b.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
	if flushed {
		if err := s.db.Flush(); err != nil {
			b.Fatal(err)
		}
	}
	filled := cpuTime(b)
	b.ResetTimer()
	for d := range domains {
		wg.Go(func() {
			n, err := benchCollect(s, fmt.Sprintf("customer%d.example", d), queue.Limit{Messages: batch, Bytes: 1 << 20})
			total.Add(n)
			if err != nil {
				b.Error(err)
			}
		})
	}
	wg.Wait()
	b.StopTimer()
	drained := cpuTime(b)
	b.ReportMetric(float64((filled-began).Microseconds())/float64(b.N), "cpu-us-in/op")
	b.ReportMetric(float64((drained-filled).Microseconds())/float64(b.N), "cpu-us-out/op")
	b.ReportMetric(float64(bytesWritten(b)-before)/float64(b.N)/float64(size), "written/octet")
	if total.Load() != int64(b.N) {
		b.Fatalf("%d messages, want %d", total.Load(), b.N)
	}
}
