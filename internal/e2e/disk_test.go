package e2e

import (
	"errors"
	"fmt"
	"path/filepath"
	"syscall"
	"testing"

	"odmr/internal/client"
)

// smallDisk mounts a file system of its own of size octets, or skips the test where that is not allowed.
func smallDisk(t *testing.T, size int) string {
	t.Helper()
	dir := t.TempDir()
	err := syscall.Mount("tmpfs", dir, "tmpfs", 0, fmt.Sprintf("size=%d,mode=0700", size))
	if errors.Is(err, syscall.EPERM) || errors.Is(err, syscall.EACCES) {
		t.Skip("may not mount a small file system: needs root")
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(dir, syscall.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	return dir
}

// TestFullDisk: when space runs out new mail gets 452 4.3.1 while draining goes on, and as soon as there
// is room again mail is accepted, without a restart.
func TestFullDisk(t *testing.T) {
	// Large enough that the store's own files (write-ahead logs reserve over 100 MiB each) are not the whole of it.
	disk := smallDisk(t, 1900<<20)
	a := customer("tim", "example.org")
	s := newServer(t, []client.Account{a}, "--min-free-space", "200MiB")
	s.Data = filepath.Join(disk, "data")
	s.Start()
	refused := fillUp(t, s)
	if refused.Code != 452 || refused.Enhanced() != "4.3.1" {
		t.Errorf("a full disk: %v", refused)
	}
	var total int
	rec := &client.Recorder{}
	total = collect(t, s, a, rec).Messages
	if total < 20 {
		t.Errorf("only %d messages were accepted before and collected after", total)
	}
	until(t, "mail to be accepted again", func() bool { return sendOne(t, s, "again", 1000).Positive() })
	if stats := collect(t, s, a, rec); stats.Messages != 1 {
		t.Errorf("afterwards: %+v", stats)
	}
	t.Logf("%d messages of 8 MB were accepted before %v", total, refused)
}

// fillUp sends messages of 8 MB until one is refused, and returns why.
func fillUp(t *testing.T, s *Server) client.Reply {
	t.Helper()
	for i := range 1000 {
		if r := sendOne(t, s, fmt.Sprintf("m%d", i), 8_000_000); !r.Positive() {
			return r
		}
	}
	t.Fatal("the disk does not fill up")
	return client.Reply{}
}

// sendOne hands one message in over a connection of its own and returns the reply that decided.
func sendOne(t *testing.T, s *Server, id string, size int) client.Reply {
	t.Helper()
	c, err := client.DialSender(t.Context(), s.SMTP, client.SenderOptions{Timeout: patience})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	m := message(id, kindBinary, size, "a@example.org")
	r, err := c.Send(&m)
	if err != nil {
		t.Fatal(err)
	}
	if refused := r.Refusal(); refused != nil {
		var e *client.Error
		errors.As(refused, &e)
		return e.Reply
	}
	return r.Final[0]
}
