package engine

import (
	"bytes"
	"context"
	"io"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"odmr/engine/session"
)

// A message that is in doubt when its session is cut comes again. What of it has not reached the customer by then must not reach it
// afterwards, or it would be taken twice: neither what waits here, encrypted already, nor what the kernel has.
func TestMessageInDoubtIsNotSentToItsEnd(t *testing.T) {
	const size = 150 << 10 // more than the customer's kernel takes, and less than the server's does
	ends := map[string]func(*server){
		"shutdown": func(s *server) {
			ctx, cancel := context.WithCancel(context.Background())
			cancel()
			s.down = true
			_ = s.Shutdown(ctx)
		},
		"timeout": func(s *server) {
			inspect(s, func(c *conn) bool {
				c.lp.enter(c, func(c *conn, _ session.Time) { c.tick(c.deadline()) })
				return true
			})
		},
	}
	for name, end := range ends {
		t.Run(name, func(t *testing.T) {
			s := newServer(t, withAccount("a", "a.example"))
			s.hold("a.example", strings.Repeat(strings.Repeat("large ", 12)+"\r\n", size/74))
			p := s.login("a")
			_ = socket(p.Conn).SetReadBuffer(16 << 10)
			inspect(s, func(c *conn) bool {
				return unix.SetsockoptInt(c.fd, unix.SOL_SOCKET, unix.SO_SNDBUF, 2*size) == nil
			})
			c := &customer{peer: p}
			c.toBody()
			eventually(t, "all is in the kernel", func() bool {
				return inspect(s, func(c *conn) bool { return c.stats.out > size && c.out.drained() })
			})
			end(s)
			eventually(t, "the session has ended", func() bool { return s.seen.states()[StateReversed] == 0 })
			_ = c.SetReadDeadline(time.Now().Add(patience))
			got, _ := io.ReadAll(c.r)
			if bytes.HasSuffix(got, []byte("\r\n.\r\n")) {
				t.Error("the message was sent to its end")
			}
			eventually(t, "the lease was released", func() bool { return s.records.count() == 0 })
			if n := s.store.Counts("a.example").Messages; n != 1 {
				t.Errorf("%d messages are queued, want 1", n)
			}
		})
	}
}
