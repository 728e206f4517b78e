package conformance

import (
	"errors"
	"sync"
	"testing"

	"odmr/internal/mail"
	"odmr/queue"
)

var onceScenarios = []scenario{
	{"what is stamped comes in once", stampsOnce},
	{"stamps outlast the message and a restart", stampsOutlast},
	{"of many who bring the same one brings it", stampsConcurrent},
	{"a message that does not come in leaves no stamp", stampsAborted},
}

// stampOf is a stamp that is different for each n.
func stampOf(n int) (m queue.Stamp) {
	m[0], m[1], m[31] = byte(n), byte(n>>8), 1
	return m
}

// bring hands a message in that is tied to stamps.
func bring(st queue.Store, body []byte, domain string, stamps ...queue.Stamp) error {
	in, err := st.Begin(int64(len(body)))
	if err != nil {
		return err
	}
	in.Once(stamps)
	return in.Commit(body, []mail.Envelope{envelope(domain, len(body))})
}

func wantStamped(t *testing.T, st queue.Store, want []bool, stamps ...queue.Stamp) {
	t.Helper()
	got, err := st.Stamped(stamps)
	if err != nil || len(got) != len(want) {
		t.Fatalf("Stamped: %v, %v", got, err)
	}
	for i := range want {
		if got[i] != want[i] {
			t.Errorf("stamp %d: there %v, want %v", i, got[i], want[i])
		}
	}
}

func wantMessages(t *testing.T, st queue.Store, domain string, n int64) {
	t.Helper()
	if got := st.Counts(domain).Messages; got != n {
		t.Errorf("%d messages for %s, want %d", got, domain, n)
	}
}

func stampsOnce(t *testing.T, s *suite) {
	one, two, three := stampOf(1), stampOf(2), stampOf(3)
	wantStamped(t, s.Store, []bool{false, false}, one, two)
	if err := bring(s.Store, content(1, 100), "a.example", one, two); err != nil {
		t.Fatal(err)
	}
	wantStamped(t, s.Store, []bool{true, true, false}, one, two, three)
	for _, again := range [][]queue.Stamp{{one}, {two}, {three, one}} {
		if err := bring(s.Store, content(2, 300), "b.example", again...); !errors.Is(err, queue.ErrStamped) {
			t.Errorf("brought in again: %v", err)
		}
	}
	wantStamped(t, s.Store, []bool{false}, three)
	if err := bring(s.Store, content(3, 100), "a.example"); err != nil { // no stamps at all
		t.Fatal(err)
	}
	wantMessages(t, s.Store, "a.example", 2)
	wantMessages(t, s.Store, "b.example", 0)
}

func stampsOutlast(t *testing.T, s *suite) {
	if err := bring(s.Store, content(1, 100), "a.example", stampOf(1)); err != nil {
		t.Fatal(err)
	}
	l := s.acquire(t, "a.example")
	ds := next(t, l, many)
	if len(ds) != 1 {
		t.Fatalf("%d deliveries", len(ds))
	}
	closeBodies(ds)
	settle(t, l, ds, mail.OutcomeDelivered)
	l.Release()
	wantMessages(t, s.Store, "a.example", 0)
	s.restart(t)
	wantStamped(t, s.Store, []bool{true}, stampOf(1))
	if err := bring(s.Store, content(1, 100), "a.example", stampOf(1)); !errors.Is(err, queue.ErrStamped) {
		t.Errorf("brought in again: %v", err)
	}
}

func stampsConcurrent(t *testing.T, s *suite) {
	const bringers, messages = 8, 20
	var wg sync.WaitGroup
	var mu sync.Mutex
	taken := 0
	for range bringers {
		wg.Go(func() {
			for m := range messages {
				err := bring(s.Store, content(m, 500), "a.example", stampOf(m))
				switch {
				case err == nil:
					mu.Lock()
					taken++
					mu.Unlock()
				case !errors.Is(err, queue.ErrStamped):
					t.Errorf("message %d: %v", m, err)
				}
			}
		})
	}
	wg.Wait()
	if taken != messages {
		t.Errorf("%d were taken, want %d", taken, messages)
	}
	wantMessages(t, s.Store, "a.example", messages)
}

func stampsAborted(t *testing.T, s *suite) {
	in, err := s.Store.Begin(0)
	if err != nil {
		t.Fatal(err)
	}
	in.Once([]queue.Stamp{stampOf(1)})
	if err := in.Append(content(1, 1000)); err != nil {
		t.Fatal(err)
	}
	in.Abort()
	wantStamped(t, s.Store, []bool{false}, stampOf(1))
	if err := bring(s.Store, content(1, 100), "not\x00valid", stampOf(2)); err == nil {
		t.Error("a bad envelope was taken")
	}
	wantStamped(t, s.Store, []bool{false}, stampOf(2))
}
