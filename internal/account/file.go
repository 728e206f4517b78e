package account

import (
	"errors"
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

	mu    sync.Mutex // serialises Reload; guards what follows
	seen  identity   // the version of the file that was last read, broken or not
	owed  bool       // a Reload was put off: Watch reads the file, changed or not
	again chan struct{}
}

// ErrUnsettled says that the file is being written in place, or was a moment ago, and was not read: half a file may be without fault, and
// those whose accounts are in the other half would be nobody's customers.
var ErrUnsettled = errors.New("accounts file is just being written")

var (
	_ Directory  = (*File)(nil)
	_ Identifier = (*File)(nil)
)

// OpenFile reads the accounts file at path. A file that is missing or broken is an error. There are no accounts yet that could stay in
// effect, so one that is being written is read all the same; what is written later Watch sees.
func OpenFile(path string) (*File, error) {
	f := &File{path: path, again: make(chan struct{}, 1)}
	if err := f.reload(nil); err != nil {
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

// Reload reads the file again, changed or not. On error (line and reason of each problem) the old table stays in effect. It never
// waits: a file that is just being written is ErrUnsettled, and Watch reads it, and reports that, by the rule for changes. now is the clock
// that files' times are by.
func (f *File) Reload(now func() time.Time) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	err := f.reload(now)
	if err == ErrUnsettled {
		f.owed = true
		select {
		case f.again <- struct{}{}:
		default:
		}
	}
	return err
}

// reload needs mu. By a clock of nil the file is read whoever is writing it.
func (f *File) reload(now func() time.Time) error {
	data, id, err := readFile(f.path, now)
	if err == ErrUnsettled {
		return err
	}
	f.seen, f.owed = id, false
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

// young says whether that version was written just now. A time to come is that of another clock, and says nothing.
func (id *identity) young(now time.Time) bool {
	age := now.Sub(id.modified)
	return age >= 0 && age < settle
}

// readFile returns the file's content and version, or ErrUnsettled if it was written to just before or meanwhile, by the clock now if
// there is one.
func readFile(path string, now func() time.Time) ([]byte, identity, error) {
	file, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0) // a pipe without a writer would be waited for
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
	if now != nil && id.young(now()) {
		return nil, id, ErrUnsettled
	}
	data, err := io.ReadAll(io.LimitReader(file, maxFile))
	if err != nil {
		return nil, id, fmt.Errorf("accounts file: %w", err)
	}
	// It was old enough, so that whatever was written since has another time.
	if info, err = file.Stat(); now != nil && (err != nil || identify(info) != id) {
		return nil, id, ErrUnsettled
	}
	return data, id, nil
}
