package account

import (
	"context"
	"os"
	"path/filepath"
	"time"

	"github.com/fsnotify/fsnotify"
)

const (
	// PollInterval is how often Watch looks at the file even if no event came: file systems exist
	// that send none (NFS), and symbolic links whose target changes elsewhere.
	PollInterval = 15 * time.Second
	// settle is how long the file must have been left alone before it is read: an editor that
	// writes in place is not read half-way.
	settle = 100 * time.Millisecond
)

// Change is one re-reading of the file.
type Change struct {
	Err      error // nil, or why the old table stays in effect
	Accounts int   // in effect now
	Domains  int   // in effect now
}

// Watch re-reads the file whenever it has changed, until ctx ends, and calls report after each
// time, on the goroutine of the caller. A broken version is reported once. If the file system
// cannot be watched, polling alone goes on.
func (f *File) Watch(ctx context.Context, report func(Change)) {
	f.watch(ctx, PollInterval, report)
}

func (f *File) watch(ctx context.Context, poll time.Duration, report func(Change)) {
	events, faults, stop := f.notify()
	defer stop()
	ticker := time.NewTicker(poll)
	defer ticker.Stop()
	quiet := time.NewTimer(0) // at once: the file may have changed since it was read
	defer quiet.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case e, ok := <-events:
			if !ok {
				events = nil // polling remains
				continue
			}
			if filepath.Base(e.Name) == filepath.Base(f.path) {
				quiet.Reset(settle)
			}
		case _, ok := <-faults: // an overflow, say: events were lost, so look
			if !ok {
				faults = nil
				continue
			}
			quiet.Reset(settle)
		case <-ticker.C:
			quiet.Reset(settle)
		case <-quiet.C:
			if changed, err := f.refresh(); changed {
				t := f.Table()
				report(Change{Err: err, Accounts: len(t.accounts), Domains: len(t.domains)})
			}
		}
	}
}

// notify watches the directory, because a rename over the file ends a watch on the file itself.
// Without events (nil channels) polling does the work alone.
func (f *File) notify() (events <-chan fsnotify.Event, faults <-chan error, stop func()) {
	w, err := fsnotify.NewWatcher()
	if err != nil {
		return nil, nil, func() {}
	}
	if err := w.Add(filepath.Dir(f.path)); err != nil {
		w.Close()
		return nil, nil, func() {}
	}
	return w.Events, w.Errors, func() { w.Close() }
}

// refresh reads the file if it is another version than the one last read.
func (f *File) refresh() (changed bool, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	var id identity // zero if there is no file
	if info, err := os.Stat(f.path); err == nil {
		id = identify(info)
	}
	if id == f.seen {
		return false, nil
	}
	return true, f.reload()
}
