package pebblestore

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"odmr/internal/mail"
	"odmr/queue"
	"odmr/queue/pebblestore/crashfs"
)

// bring hands in message n, tied to its stamp.
func bring(s *Store, n int) error {
	body := fmt.Appendf(nil, "message %d\r\n", n)
	in, err := s.Begin(0)
	if err != nil {
		return err
	}
	in.Once([]queue.Stamp{stampOf(n)})
	return in.Commit(body, []mail.Envelope{{Domain: "a.example", Size: int64(len(body)), WireSize: int64(len(body)),
		Recipients: []mail.Recipient{{Address: "x@a.example"}}}})
}

func stampOf(n int) queue.Stamp { return queue.Stamp{byte(n), byte(n >> 8)} }

// Wherever in the log the disk stops, there are as many messages as stamps, and the rest can be brought in: nothing is
// lost, nothing comes twice.
func TestStampsCrash(t *testing.T) {
	const messages = 40
	for tear := int64(0); tear < 9000; tear += 97 {
		disk := crashfs.New()
		s, err := Open("q", testOptions(t, disk.FS()).Still())
		if err != nil {
			t.Fatal(err)
		}
		disk.TearLog(tear)
		for n := range messages {
			if err := bring(s, n); err != nil {
				t.Fatal(err)
			}
		}
		s2, err := Open("q", testOptions(t, disk.Killed().FS()).Still())
		if err != nil {
			t.Fatal(err)
		}
		taken := 0
		there, err := s2.Stamped([]queue.Stamp{stampOf(0), stampOf(messages - 1)})
		if err != nil {
			t.Fatal(err)
		}
		if survived := s2.Counts("a.example").Messages; there[0] != (survived > 0) || there[1] != (survived == messages) {
			t.Errorf("torn at %d: %d messages, stamps %v", tear, survived, there)
		}
		before := s2.Counts("a.example").Messages
		for n := range messages {
			switch err := bring(s2, n); {
			case err == nil:
				taken++
			case !errors.Is(err, queue.ErrStamped):
				t.Fatal(err)
			}
		}
		if n := s2.Counts("a.example").Messages; n != messages || before+int64(taken) != messages {
			t.Errorf("torn at %d: %d messages in the end, %d survived and %d were brought again, want %d", tear, n, before, taken, messages)
		}
		_ = s.Close()
		if err := s2.Close(); err != nil {
			t.Error(err)
		}
	}
}

// Stamps whose time is over are forgotten, and no others.
func TestStampsAreForgotten(t *testing.T) {
	opts := testOptions(t, vfs.NewMem()).Still()
	now := time.Unix(1_700_000_000, 0)
	opts.Now = func() time.Time { return now }
	s, err := Open("q", opts)
	if err != nil {
		t.Fatal(err)
	}
	const old = stampsAtOnce + 10
	for n := range old {
		if err := bring(s, n); err != nil {
			t.Fatal(err)
		}
	}
	now = now.Add(queue.StampLifetime / 2)
	if err := bring(s, old); err != nil {
		t.Fatal(err)
	}
	s.janitor.forgetStamps()
	now = now.Add(queue.StampLifetime/2 + time.Second)
	over, cancel := context.WithCancel(context.Background())
	cancel()
	if err := s.deleteStamps(over, now); err != nil { // a store that is being closed does not wait for it
		t.Fatal(err)
	}
	if there, err := s.Stamped([]queue.Stamp{stampOf(0), stampOf(old)}); err != nil || !there[0] || !there[1] {
		t.Errorf("forgotten after the end: %v, %v", there, err)
	}
	s.janitor.forgetStamps()
	there, err := s.Stamped([]queue.Stamp{stampOf(0), stampOf(old - 1), stampOf(old)})
	if err != nil || there[0] || there[1] || !there[2] {
		t.Errorf("stamped: %v, %v", there, err)
	}
	if err := s.Close(); err != nil {
		t.Error(err)
	}
}
