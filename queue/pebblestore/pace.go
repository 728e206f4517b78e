package pebblestore

import (
	"sync/atomic"
	"time"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"
)

// pace has a flush write no faster than it must: in half the time in which its memtable became full. Left to itself it writes 32 MiB
// as fast as a processor and the disk can, during which commits wait for both. Nothing is held up by a flush that takes longer: there may be six
// memtables, and once a second one is full, this one goes on at full speed. For what that gains see engineOptions.
type pace struct {
	now   func() time.Time
	sleep func(time.Duration)
	// perPiece is how long a flush rests after each piece that it wrote, in nanoseconds.
	perPiece atomic.Int64
	// before is when the flush before began; Pebble runs one at a time, and calls begin under its lock.
	before time.Time
}

const (
	// flushPiece is how many octets a flush writes between two rests: a millisecond or two.
	flushPiece = 256 << 10
	// longestFlush bounds how long rests make a flush of a memtable that took long to become full.
	longestFlush = 500 * time.Millisecond
	// flushCategory is what Pebble calls files that a flush writes.
	flushCategory = vfs.DiskWriteCategory("pebble-memtable-flush")
)

func (p *pace) init(s *Store) {
	p.now, p.sleep, p.before = s.opts.Now, time.Sleep, s.opts.Now()
	if s.opts.still { // its clock is a simulation's
		p.sleep = func(time.Duration) {}
	}
}

// begin notes that a flush begins.
func (p *pace) begin(info pebble.FlushInfo) {
	now := p.now()
	took := min(now.Sub(p.before)/2, longestFlush)
	p.before = now
	if info.Input != 1 || took <= 0 { // others are full already, or the clock was set
		p.hurry()
		return
	}
	p.perPiece.Store(int64(took) * flushPiece / int64(max(info.InputBytes, flushPiece)))
}

// hurry has the flush that is running write as fast as it can.
func (p *pace) hurry() { p.perPiece.Store(0) }

// paced is a file system on which flushes keep a pace.
type paced struct {
	vfs.FS
	pace *pace
}

// pacedFile is what a flush writes.
type pacedFile struct {
	vfs.File
	pace *pace
	owed int // octets written since the last rest
}

// Create implements vfs.FS.
func (fs paced) Create(name string, category vfs.DiskWriteCategory) (vfs.File, error) {
	f, err := fs.FS.Create(name, category)
	if err != nil || category != flushCategory {
		return f, err
	}
	return &pacedFile{File: f, pace: fs.pace}, nil
}

// Unwrap implements vfs.FS.
func (fs paced) Unwrap() vfs.FS { return fs.FS }

// Write implements vfs.File.
func (f *pacedFile) Write(b []byte) (int, error) {
	n, err := f.File.Write(b)
	for f.owed += n; f.owed >= flushPiece; f.owed -= flushPiece {
		if rest := f.pace.perPiece.Load(); rest > 0 {
			f.pace.sleep(time.Duration(rest))
		}
	}
	return n, err
}
