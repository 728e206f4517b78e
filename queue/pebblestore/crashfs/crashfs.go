// Package crashfs is a disk in memory for simulations of a whole server: it can lose power, at any moment
// and in the middle of a write, and it can fail.
//
// Contract: what a Disk leaves behind depends on what was written to it and on the calls made to it, and
// never on the timing of goroutines, so that a simulation with one seed takes one course. Pebble's own
// crash clones decide by dice, in the order of a map, which unsynced blocks survive; here either all or none
// do, and a torn write is one that is cut off at a given octet (TearLog).
//
// It is for tests only, and must never be given to a server that keeps real mail.
package crashfs

import (
	"errors"
	"strings"
	"sync"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// ErrInjected is every failure that a Disk was told to have.
var ErrInjected = errors.New("crashfs: injected error")

// Disk is a disk in memory. Its methods may be called from any goroutine.
type Disk struct {
	mem *Mem

	mu        sync.Mutex
	failReads bool
	failLog   bool
	torn      bool          // the log is cut off once left octets more have been written
	left      int64         // see torn
	held      chan struct{} // closed once syncs of the log may go on; nil: they may
}

// New returns an empty disk.
func New() *Disk { return &Disk{mem: NewMem()} }

// FS is the disk as a store sees it.
func (d *Disk) FS() vfs.FS { return disk{d.mem, d} }

// FailReads has every read from a file fail from now on.
func (d *Disk) FailReads() { d.setReads(true) }

// MendReads ends that.
func (d *Disk) MendReads() { d.setReads(false) }

func (d *Disk) setReads(fail bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.failReads = fail
}

// FailLog has every write to the write-ahead log fail from now on.
func (d *Disk) FailLog() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.failLog = true
}

// TearLog cuts the write-ahead log off: of what is written to it from now on only the first n octets reach
// the disk, though all writes and syncs seem to succeed. It is the last moment before Killed.
func (d *Disk) TearLog(n int64) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.torn, d.left = true, n
}

// HoldSyncs has every sync of the write-ahead log wait from now on, as on a disk that is slow: what was not synced before
// is lost with the power. LetSyncs lets them go on. How much of the log is written meanwhile depends on the timing of goroutines, so
// that Killed must not be called in between; and whoever writes more than some hundred kilobytes waits, too.
func (d *Disk) HoldSyncs() {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.held == nil {
		d.held = make(chan struct{})
	}
}

// LetSyncs ends HoldSyncs.
func (d *Disk) LetSyncs() {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.held != nil {
		close(d.held)
		d.held = nil
	}
}

// logSync waits while syncs are held.
func (d *Disk) logSync() {
	d.mu.Lock()
	held := d.held
	d.mu.Unlock()
	if held != nil {
		<-held
	}
}

// Killed is what the death of the process leaves: all that was written.
func (d *Disk) Killed() *Disk { return d.clone(100) }

// PowerLost is what a loss of power leaves at the least: what was synced.
func (d *Disk) PowerLost() *Disk { return d.clone(0) }

func (d *Disk) clone(percent int) *Disk {
	cfg := vfs.CrashCloneCfg{UnsyncedDataPercent: percent}
	if percent > 0 {
		cfg.RNG = newRand()
	}
	return &Disk{mem: d.mem.CrashClone(cfg)}
}

// logWrite says how much of a write of n octets to the log takes place.
func (d *Disk) logWrite(n int) (int, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	switch {
	case d.failLog:
		return 0, ErrInjected
	case d.torn:
		n = int(min(int64(n), d.left))
		d.left -= int64(n)
	}
	return n, nil
}

func (d *Disk) reading() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.failReads {
		return ErrInjected
	}
	return nil
}

// isLog says whether the file is one of the write-ahead log.
func isLog(name string) bool { return strings.HasSuffix(name, ".log") }
