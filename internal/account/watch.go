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
	// settle is how long after the first sign of a change the file is read, and how long it must not have been written to by
	// then: an editor that writes in place has finished, and several events make one reading.
	settle = 100 * time.Millisecond
	// restless is how long a file that is written to again and again is waited for.
	restless = 10 * time.Second
)

// Change is one re-reading of the file.
type Change struct {
	Err      error // nil, or why the old table stays in effect
	Accounts int   // in effect now
	Domains  int   // in effect now
}

// Watch re-reads the file whenever it has changed or a Reload was put off, until ctx ends, and calls report after each
// time, on the goroutine of the caller. now is the clock that files' times are by. A broken version is reported once. If the file system
// cannot be watched, polling alone goes on.
func (f *File) Watch(ctx context.Context, now func() time.Time, report func(Change)) {
	f.watch(ctx, PollInterval, now, report)
}

func (f *File) watch(ctx context.Context, poll time.Duration, now func() time.Time, report func(Change)) {
	events, faults, stop := f.notify()
	defer stop()
	ticker := time.NewTicker(poll)
	defer ticker.Stop()
	due := time.NewTimer(0) // at once: the file may have changed since it was read
	defer due.Stop()
	waiting := true // due is running; it is never put off, so that it comes
	var restlessSince time.Time
	soon := func() {
		if !waiting {
			waiting = true
			due.Reset(settle)
		}
	}
	for {
		select {
		case <-ctx.Done():
			return
		case e, ok := <-events:
			if !ok {
				events = nil // polling remains
			} else if filepath.Base(e.Name) == filepath.Base(f.path) {
				soon()
			}
		case _, ok := <-faults:
			if !ok {
				faults = nil
			} else { // an overflow, say: events were lost, so look
				soon()
			}
		case <-ticker.C:
			soon()
		case <-f.again:
			soon()
		case <-due.C:
			waiting = false
			at, clock := now(), now
			if !restlessSince.IsZero() && at.Sub(restlessSince) >= restless {
				clock = nil
			}
			changed, err := f.refresh(clock)
			if err == ErrUnsettled {
				if restlessSince.IsZero() {
					restlessSince = at
				}
				soon()
				continue
			}
			restlessSince = time.Time{}
			if changed {
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

// refresh reads the file if it is another version than the one last read, or a Reload is owed.
func (f *File) refresh(now func() time.Time) (changed bool, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	var id identity // zero if there is no file
	if info, err := os.Stat(f.path); err == nil {
		id = identify(info)
	}
	if id == f.seen && !f.owed {
		return false, nil
	}
	return true, f.reload(now)
}
