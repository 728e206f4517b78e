package processors

import (
	"os"
	"runtime"
	"runtime/debug"
	"strconv"
	"sync"
	"testing"

	"golang.org/x/sys/unix"
)

// policies counts this process's threads by policy.
func policies(t *testing.T) map[uint32]int {
	t.Helper()
	tasks, err := os.ReadDir("/proc/self/task")
	if err != nil {
		t.Fatal(err)
	}
	n := map[uint32]int{}
	for _, task := range tasks {
		tid, _ := strconv.Atoi(task.Name())
		if attr, err := unix.SchedGetAttr(tid, 0); err == nil {
			n[attr.Policy]++
		}
	}
	return n
}

func TestBatch(t *testing.T) {
	if n := policies(t); n[unix.SCHED_NORMAL] == 0 {
		t.Skipf("these tests run under another policy than the usual one: %v", n)
	}
	if err := Batch(); err != nil {
		t.Fatal(err)
	}
	before := policies(t)
	if before[unix.SCHED_NORMAL] != 0 || before[unix.SCHED_BATCH] == 0 {
		t.Fatalf("threads by policy: %v", before)
	}
	var there, seen sync.WaitGroup
	seen.Add(1)
	for range 32 { // new threads, for these keep theirs
		there.Add(1)
		go func() {
			runtime.LockOSThread() // and it ends with the goroutine
			there.Done()
			seen.Wait()
		}()
	}
	there.Wait()
	after := policies(t)
	seen.Done()
	if after[unix.SCHED_NORMAL] != 0 || after[unix.SCHED_BATCH] < 32 {
		t.Errorf("threads by policy with 32 more: %v", after)
	}
}

func TestWiden(t *testing.T) {
	before := runtime.GOMAXPROCS(0)
	defer runtime.GOMAXPROCS(before)
	t.Setenv("GOMAXPROCS", "3")
	Widen()
	if n := runtime.GOMAXPROCS(0); n != before {
		t.Errorf("%d threads though the operator has said how many", n)
	}
	t.Setenv("GOMAXPROCS", "")
	Widen()
	if n := runtime.GOMAXPROCS(0); n != 2*Count() || Count() != before {
		t.Errorf("%d threads on %d processors, which were %d", n, Count(), before)
	}
}

func TestRelax(t *testing.T) {
	before := debug.SetGCPercent(100)
	defer debug.SetGCPercent(before)
	for _, c := range []struct {
		gogc string
		want int
	}{{"70", 100}, {"", heapGrowth}} { // the runtime has looked at GOGC long ago
		t.Setenv("GOGC", c.gogc)
		Relax()
		if n := debug.SetGCPercent(100); n != c.want {
			t.Errorf("GOGC=%s: %d %%, want %d", c.gogc, n, c.want)
		}
	}
}
