package account

import (
	"fmt"
	"io"
	"io/fs"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

// maxFile is the largest accounts file read, in octets: millions of accounts, and a bound
// should the name lead to something else.
const maxFile = 1 << 30

// File is a Directory kept in an accounts file and answered from memory. Readers never wait:
// a reload makes a new Table and swaps it in. A broken file leaves the old Table in effect.
type File struct {
	path  string
	table atomic.Pointer[Table]

	mu   sync.Mutex // serialises Reload; guards what follows
	seen identity   // the version of the file that was last read, broken or not
}

var (
	_ Directory  = (*File)(nil)
	_ Identifier = (*File)(nil)
)

// OpenFile reads the accounts file at path. A file that is missing or broken is an error.
func OpenFile(path string) (*File, error) {
	f := &File{path: path}
	if err := f.Reload(); err != nil {
		return nil, err
	}
	return f, nil
}

// Path returns the file's name.
func (f *File) Path() string { return f.path }

// Table returns the accounts in effect at this moment.
func (f *File) Table() *Table { return f.table.Load() }

// NonBlocking is always true.
func (f *File) NonBlocking() bool { return true }

// Collectable implements Directory.
func (f *File) Collectable(domain string) (bool, error) { return f.Table().Collectable(domain) }

// Owner implements Directory.
func (f *File) Owner(domain string) (*Account, error) { return f.Table().Owner(domain) }

// Lookup implements Directory.
func (f *File) Lookup(name string) (*Account, error) { return f.Table().Lookup(name) }

// Identify implements Identifier.
func (f *File) Identify(peer Peer) ([]*Account, error) { return f.Table().Identify(peer) }

// MayIdentify implements Identifier.
func (f *File) MayIdentify(peer Peer) bool { return f.Table().MayIdentify(peer) }

// Authorize implements Directory.
func (f *File) Authorize(account string, wanted []string) ([]string, error) {
	return f.Table().Authorize(account, wanted)
}

// Reload reads the file again, changed or not. On error (line and reason of each problem) the
// old table stays in effect.
func (f *File) Reload() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.reload()
}

// reload needs mu.
func (f *File) reload() error {
	data, id, err := readFile(f.path)
	f.seen = id
	if err != nil {
		return err
	}
	doc, err := Parse(f.path, data)
	if err != nil {
		return err
	}
	f.table.Store(doc.table())
	return nil
}

// identity tells versions of a file apart. Every field changes with a rename over the file, and
// time and size with a write in place.
type identity struct {
	dev, ino uint64
	size     int64
	modified time.Time
}

func identify(info fs.FileInfo) identity {
	id := identity{size: info.Size(), modified: info.ModTime()}
	if st, ok := info.Sys().(*syscall.Stat_t); ok {
		id.dev, id.ino = uint64(st.Dev), uint64(st.Ino)
	}
	return id
}

// readFile returns the file's content and version.
func readFile(path string) ([]byte, identity, error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, identity{}, fmt.Errorf("accounts file: %w", err)
	}
	defer file.Close()
	info, err := file.Stat()
	if err != nil {
		return nil, identity{}, fmt.Errorf("accounts file: %w", err)
	}
	id := identify(info)
	if !info.Mode().IsRegular() {
		return nil, id, fmt.Errorf("accounts file %s is not a regular file", path)
	}
	if info.Size() > maxFile {
		return nil, id, fmt.Errorf("accounts file %s is larger than %d MiB", path, maxFile>>20)
	}
	data, err := io.ReadAll(io.LimitReader(file, maxFile))
	if err != nil {
		return nil, id, fmt.Errorf("accounts file: %w", err)
	}
	return data, id, nil
}
