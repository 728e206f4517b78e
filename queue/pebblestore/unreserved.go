package pebblestore

import "github.com/cockroachdb/pebble/v2/vfs"

// unreserved is a file system that sets no space aside. Pebble would reserve more than a memtable's size for each
// file of the log: half a gigabyte of a new store that holds one message.
type unreserved struct{ vfs.FS }

// unreservedFile is a file of it.
type unreservedFile struct{ vfs.File }

// Preallocate does nothing.
func (unreservedFile) Preallocate(int64, int64) error { return nil }

// Create implements vfs.FS.
func (fs unreserved) Create(name string, category vfs.DiskWriteCategory) (vfs.File, error) {
	f, err := fs.FS.Create(name, category)
	if err != nil {
		return nil, err
	}
	return unreservedFile{f}, nil
}

// ReuseForWrite implements vfs.FS.
func (fs unreserved) ReuseForWrite(oldname, newname string, category vfs.DiskWriteCategory) (vfs.File, error) {
	f, err := fs.FS.ReuseForWrite(oldname, newname, category)
	if err != nil {
		return nil, err
	}
	return unreservedFile{f}, nil
}

// Unwrap implements vfs.FS.
func (fs unreserved) Unwrap() vfs.FS { return fs.FS }
