// Package processors is how the server uses the machine's processors: how many there are (Count), how many of its threads may
// want one at a time (Widen), whether it takes one away from whoever is at work (Batch), and how often garbage is collected (Relax).
//
// What was measured on two processors, three runs each: `smtp-source -d -s 20`, messages a second and processor time of each, and two runs each
// of `odmrbench mixed --rate=8000`, the p99 of a 250:
//
//	as Go and Linux have it        9,032   10,265    9,997      118  102  102 us      45   72 ms
//	Batch                          9,954   12,351   11,498      101   80   85 us      60  223 ms
//	Widen                         10,096   11,040    9,496      109   97  112 us
//	both (taken)                  12,054   13,350   12,252       82   76   81 us      28   55 ms
//
// A thread of its own for the log, under the usual policy and with slices of 100 us, so that it takes the processor when the disk is done, was not taken:
// 12,565 / 11,654 / 11,061 messages a second in lock-step, against 13,499 / 12,069 / 12,346 without; one more for what tells sessions of it: 11,281 / 11,099 / 11,151.
//
// Tried on top of both and of workers that stay (see loop in engine), five runs each in turns on a busier machine (means): nothing else 12,160 at 79 us, three threads on two processors
// 11,220 at 91 us, slices of 0.2 ms 11,460 at 86 us, slices of 10 ms 12,440 at 79 us, a heap that grows to five times what is live
// between collections 12,400 at 78 us: none of it was taken for that.
//
// It is for main to call Widen, Batch and Relax, once, before anything else runs. They never ask for more than anybody may have.
package processors

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"runtime/debug"
	"strconv"

	"golang.org/x/sys/unix"
)

var count = runtime.GOMAXPROCS(0)

// Count is how many processors the process may use, of those that the machine, its affinity and its control group leave to it. Whoever bounds what is all
// arithmetic goes by it, not by GOMAXPROCS: see Widen.
func Count() int { return count }

// Widen lets twice as many threads run Go code as there are processors. A thread that waits in a system call (each event loop for its sockets, the
// log for the disk) keeps its right to run until the runtime's monitor takes it away, tens of microseconds later, and
// what could run waits for that. A GOMAXPROCS that the operator has set stays.
func Widen() {
	if os.Getenv("GOMAXPROCS") == "" {
		runtime.GOMAXPROCS(2 * count)
	}
}

// heapGrowth is by how many hundredths of what is live the heap grows between collections: see Relax.
const heapGrowth = 200

// Relax has garbage collected half as often as Go does. On two processors a collection takes most of one for 20 to 30 ms, during which a busy server falls
// behind: with 9,000 messages a second in and out (odmrbench mixed), a collection every 0.8 s made one message in a hundred 20 ms late. It costs
// memory for each session, beside what memtables no longer take (see pebblestore): of 10,000 idle ones 2.7 kB each in clear text and 23.3 kB in TLS instead of 2.8 and 18.8; a
// heap of five times what is live would cost 3.5 and 30.2. A GOGC that the operator has set stays.
func Relax() {
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(heapGrowth)
	}
}

// rounds is how often Batch looks for threads that were made meanwhile by one that was not asked yet.
const rounds = 16

// Batch puts all threads under SCHED_BATCH, sched(7), and with them all that come to be later: woken, they wait until whoever is at work has used
// up its share or waits itself. On a busy machine the events of many sessions gather meanwhile, and are served at one go; on an idle one
// nothing changes. Threads under another policy than the usual one are left to the operator who has put them there.
func Batch() error {
	for range rounds {
		tasks, err := os.ReadDir("/proc/self/task")
		if err != nil {
			return err
		}
		changed := false
		for _, task := range tasks {
			tid, err := strconv.Atoi(task.Name())
			if err != nil {
				return err
			}
			did, err := batch(tid)
			if err != nil && !errors.Is(err, unix.ESRCH) { // it has ended
				return fmt.Errorf("SCHED_BATCH: %w", err)
			}
			changed = changed || did
		}
		if !changed {
			return nil
		}
	}
	return nil
}

// batch says whether it changed the thread's policy.
func batch(tid int) (changed bool, err error) {
	attr, err := unix.SchedGetAttr(tid, 0)
	if err != nil || attr.Policy != unix.SCHED_NORMAL {
		return false, err
	}
	attr.Policy = unix.SCHED_BATCH
	return true, unix.SchedSetAttr(tid, attr, 0)
}
