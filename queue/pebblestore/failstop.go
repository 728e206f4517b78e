package pebblestore

import (
	"strings"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// failStop is a file system on which an error of the write-ahead log ends the process where it happens. Left to itself Pebble
// reports most of them to its logger, but where it changes from one file of the log to the next it panics with
// a lock in the wrong state, which ends the process without a word that an operator could use.
type failStop struct {
	vfs.FS
	s *Store
}

// logFile is a file of the log.
type logFile struct {
	vfs.File
	s *Store
}

func (fs failStop) watch(name string, f vfs.File, err error) (vfs.File, error) {
	if err != nil || !strings.HasSuffix(name, ".log") {
		return f, err
	}
	return logFile{f, fs.s}, nil
}

// Create implements vfs.FS.
func (fs failStop) Create(name string, category vfs.DiskWriteCategory) (vfs.File, error) {
	f, err := fs.FS.Create(name, category)
	return fs.watch(name, f, err)
}

// ReuseForWrite implements vfs.FS.
func (fs failStop) ReuseForWrite(oldname, newname string, category vfs.DiskWriteCategory) (vfs.File, error) {
	f, err := fs.FS.ReuseForWrite(oldname, newname, category)
	return fs.watch(newname, f, err)
}

// Unwrap implements vfs.FS.
func (fs failStop) Unwrap() vfs.FS { return fs.FS }

func (f logFile) check(err error) error {
	if err != nil {
		f.s.fatal(err)
	}
	return err
}

// Write implements vfs.File.
func (f logFile) Write(p []byte) (int, error) {
	n, err := f.File.Write(p)
	return n, f.check(err)
}

// Sync implements vfs.File.
func (f logFile) Sync() error { return f.check(f.File.Sync()) }

// SyncData implements vfs.File.
func (f logFile) SyncData() error { return f.check(f.File.SyncData()) }

// SyncTo implements vfs.File.
func (f logFile) SyncTo(length int64) (bool, error) {
	full, err := f.File.SyncTo(length)
	return full, f.check(err)
}
