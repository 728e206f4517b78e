package crashfs

import (
	"sync"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// Mem is Pebble's file system in memory, of which crash clones can be taken while a store writes to it. Pebble's own locks
// itself for reading twice in ReuseForWrite, which is how a file of the log follows another: a clone that came to wait
// between the two had both wait for ever, and all who write with them.
type Mem struct {
	*vfs.MemFS
	reusing sync.Mutex
}

// NewMem returns an empty file system.
func NewMem() *Mem { return &Mem{MemFS: vfs.NewCrashableMem()} }

// ReuseForWrite implements vfs.FS.
func (m *Mem) ReuseForWrite(oldname, newname string, category vfs.DiskWriteCategory) (vfs.File, error) {
	m.reusing.Lock()
	defer m.reusing.Unlock()
	return m.MemFS.ReuseForWrite(oldname, newname, category)
}

// CrashClone is what a crash may leave at this moment.
func (m *Mem) CrashClone(cfg vfs.CrashCloneCfg) *Mem {
	m.reusing.Lock()
	defer m.reusing.Unlock()
	return &Mem{MemFS: m.MemFS.CrashClone(cfg)}
}
