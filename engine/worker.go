package engine

import (
	"context"
	"fmt"
	"runtime/debug"
	"runtime/pprof"
	"sync"
)

// job is a piece of blocking work: a value that holds what it needs, never a connection, and that keeps its
// result. It is a runner or a starter.
type job interface {
	// fail records err as the result: a worker panicked.
	fail(err error)
	// discard gives back what the result holds: there is no loop any more to take it.
	discard()
}

// runner is a job that a worker carries out; then it goes back to its loop.
type runner interface {
	job
	run()
}

// starter is a job that a worker only starts: it calls t.done itself when it is over.
type starter interface {
	job
	start(t task)
}

// task is a job on its way through a lane, and where it goes afterwards.
type task struct {
	job  job
	home *loop
	conn uint64
}

// done brings the job, which is over, back to its loop.
func (t *task) done() { t.home.inbox.post(event{kind: evDone, conn: t.conn, job: t.job}) }

// lane is a bounded number of workers for one kind of work, so that a stall in one kind does not
// hold up another. Workers are made on demand and leave when nothing is queued. Its queue is
// bounded by what sessions may have in flight: a few jobs each.
type lane struct {
	name  string
	max   int
	eng   *Engine
	mu    sync.Mutex
	queue []task
	head  int
	fair  *shares[task] // in place of queue, for fairJobs; nil: first come, first served
	busy  int

	labels context.Context // what profiles call its workers
}

func (l *lane) init(e *Engine, name string, most int) {
	l.eng, l.name, l.max = e, name, most
	l.labels = pprof.WithLabels(context.Background(), pprof.Labels("lane", name))
}

// submit queues j; its event comes to home's inbox. It does not block.
func (l *lane) submit(home *loop, conn uint64, j job) {
	l.mu.Lock()
	if l.fair != nil {
		l.fair.push(j.(fairJob).share(), task{j, home, conn})
	} else {
		l.queue = append(l.queue, task{j, home, conn})
	}
	start := l.busy < l.max
	if start {
		l.busy++
	}
	l.mu.Unlock()
	if start {
		go l.work()
	}
}

func (l *lane) work() {
	pprof.SetGoroutineLabels(l.labels)
	for {
		t, ok := l.next()
		if !ok {
			return
		}
		switch j := t.job.(type) {
		case starter:
			l.guard(j, func() { j.start(t) })
		case runner:
			l.guard(j, j.run)
			t.done()
		}
	}
}

func (l *lane) next() (task, bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.fair != nil {
		t, ok := l.fair.pop()
		if !ok {
			l.busy--
		}
		return t, ok
	}
	if l.head == len(l.queue) {
		l.queue, l.head = l.queue[:0], 0
		l.busy--
		return task{}, false
	}
	t := l.queue[l.head]
	l.queue[l.head] = task{}
	l.head++
	if l.head >= 64 && l.head*2 >= len(l.queue) { // the front half is used up
		n := copy(l.queue, l.queue[l.head:])
		clear(l.queue[n:])
		l.queue, l.head = l.queue[:n], 0
	}
	return t, true
}

// guard runs a part of j. A panic in the store fails the job, not the process.
func (l *lane) guard(j job, part func()) {
	defer func() {
		if p := recover(); p != nil {
			l.eng.panics.Add(1)
			l.eng.cfg.Observer.Panic()
			l.eng.log.Error().Str("lane", l.name).Interface("panic", p).Bytes("stack", debug.Stack()).Msg("panic in a worker")
			j.fail(fmt.Errorf("panic in a worker: %v", p))
		}
	}()
	part()
}
