package pebblestore

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"

	"odmr/internal/mail"
	"odmr/queue"
	"odmr/queue/conformance"
)

// TestReadErrors: a disk that cannot be read now and then gives errors, never wrong data and never
// a wrong "nothing there"; and when it can be read again, everything still is there.
func TestReadErrors(t *testing.T) {
	mem := vfs.NewMem()
	opts := testOptions(t, mem)
	s := mustOpen(t, "queue", opts)
	sizes := map[mail.ID]int{}
	for i := range 60 {
		size := []int{500, 9000, 2*mail.ChunkSize + 5}[i%3]
		sizes[putTest(t, s, size, "a.example", "b.example")] = size
	}
	if err := s.db.Flush(); err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}

	var injected, oneIn atomic.Int64 // one read in so many fails; 0: none
	var mu sync.Mutex                // guards rng: the store's own goroutine reads, too
	rng := testRand(1)
	faulty := errorfs.Wrap(mem, errorfs.InjectorFunc(func(op errorfs.Op) error {
		n := oneIn.Load()
		if n == 0 || op.Kind != errorfs.OpFileReadAt {
			return nil
		}
		injected.Add(1)
		mu.Lock()
		defer mu.Unlock()
		if rng.Int64N(n) > 0 {
			return nil
		}
		return errorfs.ErrInjected
	}))
	opts.FS, opts.CacheSize = faulty, 1 // nothing is cached
	opts.Events = &events{t: t, lenient: true}
	s = mustOpen(t, "queue", opts)
	failed, fine := 0, 0
	note := func(err error) bool {
		if err == nil {
			fine++
			return true
		}
		if !errors.Is(err, errorfs.ErrInjected) {
			t.Errorf("another error: %v", err)
		}
		failed++
		return false
	}
	for i := range 30 { // from often to seldom, for of how many files a call reads is Pebble's to say
		oneIn.Store(int64(2 + 2*i))
		l, err := s.Acquire([]string{"a.example"})
		if err != nil {
			t.Fatal(err)
		}
		ds, err := l.Next(nil, queue.Limit{Messages: 1000, Bytes: 1 << 40})
		if note(err) && len(ds) != len(sizes) {
			t.Fatalf("%d deliveries without an error, want %d", len(ds), len(sizes))
		}
		for _, d := range ds {
			body, err := conformance.ReadBody(d.Body)
			if note(err) && !bytes.Equal(body, crashBody(d.Envelope.ID, sizes[d.Envelope.ID])) {
				t.Fatalf("wrong body of %v", d.Envelope.ID)
			}
		}
		l.Release()
		n := 0
		if err := s.List("", func(queue.Entry) bool { n++; return true }); note(err) && n != 2*len(sizes) {
			t.Fatalf("%d listed without an error", n)
		}
		for id := range sizes {
			es, err := s.Show(id)
			if note(err) && len(es) != 2 {
				t.Fatalf("%d entries without an error", len(es))
			}
			break
		}
		_, err = s.Check(context.Background(), nil, func(v queue.Violation) { t.Errorf("check: %v", v) })
		note(err)
	}
	oneIn.Store(0)
	if failed == 0 || fine == 0 || injected.Load() == 0 {
		t.Fatalf("%d failed, %d did not: nothing was tested", failed, fine)
	}
	if n := collectAll(t, s, "a.example"); n != len(sizes) {
		t.Fatalf("%d messages afterwards, want %d", n, len(sizes))
	}
}

// TestSettleReadError: a settlement that needs to read and cannot settles nothing and can be repeated.
func TestSettleReadError(t *testing.T) {
	mem := vfs.NewMem()
	opts := testOptions(t, mem)
	s := mustOpen(t, "queue", opts)
	for range 5 {
		putTest(t, s, 9000, "a.example", "b.example")
	}
	if err := errors.Join(s.db.Flush(), s.Close()); err != nil {
		t.Fatal(err)
	}
	var on atomic.Bool
	opts.FS = errorfs.Wrap(mem, errorfs.InjectorFunc(func(op errorfs.Op) error {
		if on.Load() && op.Kind == errorfs.OpFileReadAt {
			return errorfs.ErrInjected
		}
		return nil
	}))
	opts.CacheSize = 1
	opts.Events = &events{t: t, lenient: true} // the store looks for old stamps by itself, and says so when it cannot
	s = mustOpen(t, "queue", opts)
	l, err := s.Acquire([]string{"a.example"})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Release()
	ds, err := l.Next(nil, queue.Limit{Messages: 5, Bytes: 1 << 30})
	if err != nil || len(ds) != 5 {
		t.Fatal(len(ds), err)
	}
	var ts []queue.Settlement
	for i, d := range ds {
		d.Body.Close()
		ts = append(ts, queue.Settlement{Key: d.Key, Outcomes: []mail.Outcome{{Status: mail.OutcomeStatus(i % 2)}}})
	}
	eventually(t, "Pebble has read what it wants to know of its tables", func() bool {
		m := s.db.Metrics()
		return m.Table.InitialStatsCollectionComplete && m.Table.PendingStatsCollectionCount == 0 && m.Compact.NumInProgress == 0
	})
	on.Store(true)
	for range 3 {
		if err := l.Settle(ts); !errors.Is(err, errorfs.ErrInjected) {
			t.Fatalf("Settle: %v", err)
		}
		if n := s.Totals().Messages; n != 10 {
			t.Fatalf("%d messages", n)
		}
	}
	on.Store(false)
	if err := l.Settle(ts); err != nil {
		t.Fatal(err)
	}
	if n := s.Totals().Messages; n != 7 {
		t.Fatalf("%d messages", n)
	}
}

// stopVariable tells the test binary to be the process that TestFailStop watches.
const stopVariable = "ODMR_TEST_FAIL_STOP_DIR"

// TestFailStop: when the log cannot be written the process ends at once with one clear line, and what was
// acknowledged before is there.
func TestFailStop(t *testing.T) {
	if dir := os.Getenv(stopVariable); dir != "" {
		failStopChild(t, dir)
		return
	}
	for _, op := range []string{"write", "sync", "rotate"} {
		dir := t.TempDir()
		cmd := exec.Command(os.Args[0], "-test.run=^TestFailStop$")
		cmd.Env = append(os.Environ(), stopVariable+"="+dir, "ODMR_TEST_FAIL_STOP_OP="+op)
		var out, errs bytes.Buffer
		cmd.Stdout, cmd.Stderr = &out, &errs
		err := cmd.Run()
		var exit *exec.ExitError
		if !errors.As(err, &exit) || exit.ExitCode() != 1 {
			t.Fatalf("%s: %v\n%s%s", op, err, out.String(), errs.String())
		}
		line := strings.TrimSpace(errs.String())
		if strings.Count(line, "\n") > 0 || !strings.Contains(line, "storage failed, stopping at once") {
			t.Errorf("%s: last words %q", op, line)
		}
		acknowledged := strings.Fields(out.String())
		if len(acknowledged) < 5 {
			t.Fatalf("%s: %d messages before the fault", op, len(acknowledged))
		}
		s := mustOpen(t, dir, testOptions(t, nil))
		for _, word := range acknowledged {
			id, err := mail.ParseID(word)
			if err != nil {
				t.Fatalf("%q: %v", word, err)
			}
			if _, err := s.Show(id); err != nil {
				t.Errorf("%s: %v: %v", op, id, err)
			}
		}
	}
}

func failStopChild(t *testing.T, dir string) {
	var left atomic.Int64
	left.Store(1 << 60)
	kinds := map[string][]errorfs.OpKind{
		"write": {errorfs.OpFileWrite}, "rotate": {errorfs.OpFileWrite}, "sync": {errorfs.OpFileSync, errorfs.OpFileSyncData, errorfs.OpFileSyncTo},
	}[os.Getenv("ODMR_TEST_FAIL_STOP_OP")]
	opts := testOptions(t, errorfs.Wrap(vfs.Default, errorfs.InjectorFunc(func(op errorfs.Op) error {
		if !strings.HasSuffix(op.Path, ".log") {
			return nil
		}
		for _, k := range kinds {
			if op.Kind == k && left.Add(-1) < 0 {
				return errorfs.ErrInjected
			}
		}
		return nil
	})))
	opts.Events = nil // the default: standard error and exit
	s, err := Open(dir, opts)
	if err != nil {
		t.Fatal(err)
	}
	if os.Getenv("ODMR_TEST_FAIL_STOP_OP") != "rotate" {
		left.Store(10)
	}
	for i := range 1000 {
		fmt.Println(putTest(t, s, 100, "a.example"))
		if i == 10 && left.Load() > 10 { // found by the simulator: the log fails as Pebble goes to its next file
			left.Store(0)
			_, _ = s.db.AsyncFlush()
		}
	}
	t.Fatal("the log failed and nothing happened")
}

// told counts what a store says of errors.
type told struct {
	Silent
	background, corrupt atomic.Int64 // Pebble's own goroutines tell, too
}

func (t *told) BackgroundError(error) { t.background.Add(1) }
func (t *told) Corruption(error)      { t.corrupt.Add(1) }

// A body that cannot be read now is no damaged body: a Review leaves its entry, and says what is so; one that is not there is damaged.
func TestReviewReadErrors(t *testing.T) {
	mem := vfs.NewMem()
	opts := testOptions(t, mem).Still()
	s := mustOpen(t, "queue", opts)
	id := putTest(t, s, 500, "a.example", "b.example") // one body for both
	if err := errors.Join(s.db.Flush(), s.Close()); err != nil {
		t.Fatal(err)
	}
	var left atomic.Int64 // reads that succeed
	left.Store(1 << 40)
	opts.FS = errorfs.Wrap(mem, errorfs.InjectorFunc(func(op errorfs.Op) error {
		if op.Kind == errorfs.OpFileReadAt && left.Add(-1) < 0 {
			return errorfs.ErrInjected
		}
		return nil
	}))
	events := new(told)
	opts.CacheSize, opts.Events = 1, events
	s = mustOpen(t, "queue", opts)
	var seqs []uint64
	if err := s.Walk("a.example", queue.Waiting, 0, func(k queue.Key, _ *mail.Envelope) bool { seqs = append(seqs, k.Seq); return true }); err != nil {
		t.Fatal(err)
	}
	keep := func(*queue.Reviewed) queue.Decision { return queue.Decision{} }
	for n := range int64(12) {
		left.Store(n)
		if err := s.Review("a.example", queue.Waiting, seqs, keep); err != nil && !errors.Is(err, errorfs.ErrInjected) {
			t.Errorf("after %d reads: %v", n, err)
		}
	}
	left.Store(1 << 40)
	if background, corrupt := events.background.Load(), events.corrupt.Load(); background == 0 || corrupt != 0 {
		t.Errorf("told of %d errors and %d damages", background, corrupt)
	}
	if err := s.db.Delete(appendBodyKey(nil, id), nil); err != nil {
		t.Fatal(err)
	}
	if err := s.Review("a.example", queue.Waiting, seqs, keep); err != nil || events.corrupt.Load() != 1 {
		t.Errorf("without a body: %v, told of %d damages", err, events.corrupt.Load())
	}
	if err := s.Close(); err != nil {
		t.Error(err)
	}
}
