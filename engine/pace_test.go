package engine

import (
	"io"
	"strings"
	"testing"
	"time"
)

// A customer takes some of a message now and then, each time before it is too late, and never all of it: that ends the session, and is
// counted. One that is fast enough, or under no such limit, gets it.
func TestMessageTakenTooSlowly(t *testing.T) {
	for rate, ends := range map[int]bool{0: false, 1: false, 1 << 40: true} {
		s := newServer(t, withAccount("a", "a.example"), func(_ *server, c *Config) {
			c.Limits.LeastRate, c.Limits.RateWindow = rate, 100*time.Millisecond
		})
		const size = 24 << 20 // more than sockets hold
		s.hold("a.example", strings.Repeat(strings.Repeat("x", 510)+"\r\n", size/512))
		p := s.turned("a", "ATRN")
		p.begins()
		read := 0
		for read < size-600_000 {
			n, err := io.CopyN(io.Discard, p.r, 16<<10)
			read += int(n)
			if err != nil {
				break
			}
			if ends {
				time.Sleep(20 * time.Millisecond)
			}
		}
		if hits := s.seen.get(func(r *recorder) int { return r.limits[LimitTooSlow] }); (hits == 1) != ends || (read < size-600_000) != ends {
			t.Errorf("rate %d: %d octets were taken, and the limit was hit %d times", rate, read, hits)
		}
		p.Close()
		eventually(t, "the lease is back", s.free)
	}
}
