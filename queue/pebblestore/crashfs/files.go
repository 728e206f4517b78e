package crashfs

import (
	"math/rand/v2"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// newRand is for clones that keep everything: no die decides anything there.
func newRand() *rand.Rand { return rand.New(rand.NewPCG(0, 0)) }

// disk is the file system of a Disk.
type disk struct {
	vfs.FS
	d *Disk
}

// file is a file of it.
type file struct {
	vfs.File
	d   *Disk
	log bool
}

// Write drops what a torn log does not take.
func (f file) Write(p []byte) (int, error) {
	n := len(p)
	if f.log {
		var err error
		if n, err = f.d.logWrite(n); err != nil {
			return 0, err
		}
	}
	if n == 0 {
		return len(p), nil
	}
	if n, err := f.File.Write(p[:n]); err != nil {
		return n, err
	}
	return len(p), nil
}

// Sync waits while syncs of the log are held; SyncData and SyncTo likewise.
func (f file) Sync() error {
	f.mayWait()
	return f.File.Sync()
}

// SyncData implements vfs.File.
func (f file) SyncData() error {
	f.mayWait()
	return f.File.SyncData()
}

// SyncTo implements vfs.File.
func (f file) SyncTo(length int64) (fullSync bool, err error) {
	f.mayWait()
	return f.File.SyncTo(length)
}

func (f file) mayWait() {
	if f.log {
		f.d.logSync()
	}
}

// ReadAt fails if reads do.
func (f file) ReadAt(p []byte, off int64) (int, error) {
	if err := f.d.reading(); err != nil {
		return 0, err
	}
	return f.File.ReadAt(p, off)
}

func (fs disk) wrap(name string, f vfs.File, err error) (vfs.File, error) {
	if err != nil {
		return nil, err
	}
	return file{f, fs.d, isLog(name)}, nil
}

// Create implements vfs.FS.
func (fs disk) Create(name string, category vfs.DiskWriteCategory) (vfs.File, error) {
	f, err := fs.FS.Create(name, category)
	return fs.wrap(name, f, err)
}

// Open implements vfs.FS.
func (fs disk) Open(name string, opts ...vfs.OpenOption) (vfs.File, error) {
	f, err := fs.FS.Open(name, opts...)
	return fs.wrap(name, f, err)
}

// OpenReadWrite implements vfs.FS.
func (fs disk) OpenReadWrite(name string, category vfs.DiskWriteCategory, opts ...vfs.OpenOption) (vfs.File, error) {
	f, err := fs.FS.OpenReadWrite(name, category, opts...)
	return fs.wrap(name, f, err)
}

// ReuseForWrite implements vfs.FS.
func (fs disk) ReuseForWrite(oldname, newname string, category vfs.DiskWriteCategory) (vfs.File, error) {
	f, err := fs.FS.ReuseForWrite(oldname, newname, category)
	return fs.wrap(newname, f, err)
}

// Unwrap implements vfs.FS.
func (fs disk) Unwrap() vfs.FS { return fs.FS }
