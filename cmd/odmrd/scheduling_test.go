package main

import (
	"fmt"
	"os"
	"strconv"
	"testing"

	"golang.org/x/sys/unix"
)

// Every thread of the server waits its turn where others are at work, unless that is not wanted.
func TestScheduling(t *testing.T) {
	if attr, err := unix.SchedGetAttr(0, 0); err != nil || attr.Policy != unix.SCHED_NORMAL {
		t.Skipf("these tests run under another policy than the usual one: %v", err)
	}
	for flag, want := range map[string]uint32{"batch": unix.SCHED_BATCH, "normal": unix.SCHED_NORMAL} {
		d := prepare(t).start("--scheduling=" + flag)
		tasks, err := os.ReadDir(fmt.Sprintf("/proc/%d/task", d.cmd.Process.Pid))
		if err != nil {
			t.Fatal(err)
		}
		n := 0
		for _, task := range tasks {
			tid, err := strconv.Atoi(task.Name())
			if err != nil {
				t.Fatal(err)
			}
			attr, err := unix.SchedGetAttr(tid, 0)
			if err != nil { // it has ended
				continue
			}
			if n++; attr.Policy != want {
				t.Errorf("%s: a thread has policy %d", flag, attr.Policy)
			}
		}
		if n < 2 {
			t.Errorf("%s: %d threads were asked", flag, n)
		}
		d.stop()
	}
}
