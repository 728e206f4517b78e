package pebblestore

import (
	"context"
	"flag"
	"sync"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"go.uber.org/goleak"

	"odmr/queue"
	"odmr/queue/conformance"
)

func TestMain(m *testing.M) {
	if err := flag.Set("rapid.nofailfile", "true"); err != nil { // the seed is in the failure text
		panic(err)
	}
	if underRace {
		if err := flag.Set("rapid.checks", "15"); err != nil {
			panic(err)
		}
	}
	goleak.VerifyTestMain(m)
}

// testOptions are those of a small store whose events fail the test.
func testOptions(t testing.TB, fs vfs.FS) Options {
	return Options{
		FS: fs, Now: newClock().now, Events: &events{t: t},
		MemTableSize: 1 << 20, CacheSize: 1 << 20, MinFreeSpace: 1, Ballast: -1, Tick: 5 * time.Millisecond, FlushDeleted: 64 << 10,
	}
}

// clock is a clock that moves on by itself, a little with each look.
type clock struct {
	mu sync.Mutex
	t  time.Time
}

func newClock() *clock { return &clock{t: time.Unix(1_700_000_000, 0)} }

func (c *clock) now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.t = c.t.Add(time.Microsecond)
	return c.t
}

func (c *clock) set(t time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.t = t
}

// events records what the store says, and fails the test for what nobody expects.
type events struct {
	Silent
	t        testing.TB
	mu       sync.Mutex
	lenient  bool
	problems []error
	refusals []string
	accepted int
}

func (e *events) problem(err error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.problems = append(e.problems, err)
	if !e.lenient {
		e.t.Errorf("event: %v", err)
	}
}

func (e *events) BackgroundError(err error) { e.problem(err) }
func (e *events) Corruption(err error)      { e.problem(err) }
func (e *events) Fatal(line string)         { panic(line) }

func (e *events) Refusing(reason string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.refusals = append(e.refusals, reason)
}

func (e *events) Accepting() {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.accepted++
}

func (e *events) counts() (problems, refusals, accepted int) {
	e.mu.Lock()
	defer e.mu.Unlock()
	return len(e.problems), len(e.refusals), e.accepted
}

// mustOpen opens a store that is checked and closed at the test's end, unless it was closed before.
func mustOpen(t testing.TB, dir string, opts Options) *Store {
	t.Helper()
	s, err := Open(dir, opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if s.closed.Load() {
			return
		}
		mustClean(t, s)
		if err := s.Close(); err != nil {
			t.Errorf("close: %v", err)
		}
	})
	return s
}

func mustClean(t testing.TB, s *Store) {
	t.Helper()
	for _, v := range violations(t, s) {
		t.Errorf("check: %s %v: %s", v.Domain, v.ID, v.Problem)
	}
}

func violations(t testing.TB, s *Store) (all []queue.Violation) {
	t.Helper()
	if _, err := s.Check(context.Background(), nil, func(v queue.Violation) { all = append(all, v) }); err != nil {
		t.Errorf("check: %v", err)
	}
	return all
}

func TestConformance(t *testing.T) {
	for _, c := range []struct {
		name string
		fs   func() vfs.FS
		edit func(*Options)
	}{
		{"memory", func() vfs.FS { return vfs.NewMem() }, func(*Options) {}},
		{"disk", func() vfs.FS { return nil }, func(*Options) {}},
		// Everything is flushed all the time, most segments are copied, and released ones are overwritten.
		{"tiny and poisoned", func() vfs.FS { return vfs.NewMem() }, func(o *Options) {
			o.MemTableSize, o.MaxPinned, o.FlushDeleted, o.Tick, o.poison = minMemTable, 1, 1, minTick, true
		}},
		{"tiny", func() vfs.FS { return vfs.NewMem() }, func(o *Options) {
			o.MemTableSize, o.MaxPinned, o.FlushDeleted, o.Tick = minMemTable, 1, 1, minTick
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			if underRace && (c.name == "memory" || c.name == "tiny") {
				t.Skip("the other two are enough under the race detector")
			}
			conformance.Conformance(t, func(t *testing.T) *conformance.Harness {
				opts := testOptions(t, c.fs())
				c.edit(&opts)
				dir := "queue"
				if opts.FS == nil {
					dir = t.TempDir()
				}
				s := mustOpen(t, dir, opts)
				h := &conformance.Harness{Store: s}
				h.Reopen = func(t *testing.T) queue.Store {
					mustClean(t, s)
					if err := s.Close(); err != nil {
						t.Fatal(err)
					}
					s = mustOpen(t, dir, opts)
					return s
				}
				return h
			})
		})
	}
}
