package traffic

import (
	"errors"
	"fmt"
	"io"
	"os"
	"time"
)

// leaveLimit is how long a customer that leaves waits for the server to close its side.
const leaveLimit = 10 * time.Second

// Leave makes a customer that serves leave as an MTA does that is shut down: it answers the next MAIL with 421, or says so
// unasked if none is there (RFC 5321 3.8), closes its side, and reads until the server closes the other one. What it has
// answered with 250 it has; nothing else. It may be called from any goroutine.
func (c *Customer) Leave() {
	c.leaving.Store(true)
	if c.serving.Load() { // else Serve will see to it
		_ = c.conn.SetReadDeadline(time.Now()) // wakes a reader; an error means that the connection is gone
	}
}

// due reports whether the customer is to leave.
func (s *server) due() bool {
	return s.leaving.Load() || !s.o.Until.IsZero() && !time.Now().Before(s.o.Until)
}

// late goes on after a read that a deadline has ended: it was meant for one who waits for mail, and the rest of a message
// has no deadline.
func (s *server) late(err error) error {
	if !errors.Is(err, os.ErrDeadlineExceeded) {
		return err
	}
	return s.conn.SetReadDeadline(time.Time{})
}

// leave ends the session. Without reading on until the end, the kernel would answer what is still on its way with a reset,
// which may destroy the last replies: the server would have to send again what they were for.
func (s *server) leave() error {
	s.out = append(s.out, "421 4.3.2 customer.bench.example shutting down\r\n"...)
	if err := s.flush(); err != nil {
		return err
	}
	s.quit = true
	half, ok := s.conn.(interface{ CloseWrite() error })
	if !ok {
		return fmt.Errorf("%T cannot be closed by half", s.conn)
	}
	if err := half.CloseWrite(); err != nil {
		return fmt.Errorf("%w: %w", ErrLost, err)
	}
	for limit := time.Now().Add(leaveLimit); time.Now().Before(limit); {
		if err := s.conn.SetReadDeadline(limit); err != nil {
			return err
		}
		if _, err := io.Copy(io.Discard, s.conn); !errors.Is(err, os.ErrDeadlineExceeded) {
			return nil // by a reset or not, it has closed, and had all our replies before
		} // else the time is up, or Leave was called meanwhile
	}
	return fmt.Errorf("the server did not close within %v of 421", leaveLimit)
}
