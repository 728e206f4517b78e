package crashfs

import (
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// TestCloneWhileTheLogGoesOn: whoever takes clones and whoever goes from one file of the log to the next do not wait for each other.
func TestCloneWhileTheLogGoesOn(t *testing.T) {
	const files = 200000
	m := NewMem()
	f, err := m.Create("0.log", vfs.WriteCategoryUnspecified)
	if err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	var reached atomic.Int64
	go func() {
		for n := range files {
			reached.Store(int64(n))
			f, err := m.ReuseForWrite(fmt.Sprint(n, ".log"), fmt.Sprint(n+1, ".log"), vfs.WriteCategoryUnspecified)
			if err == nil {
				err = f.Close()
			}
			if err != nil {
				done <- err
				return
			}
		}
		done <- nil
	}()
	const patience = time.Minute // for one step of either
	before, since := int64(-1), time.Now()
	for {
		cloned := make(chan struct{})
		go func() { m.CrashClone(vfs.CrashCloneCfg{}); close(cloned) }()
		select {
		case <-cloned:
		case <-time.After(patience):
			t.Fatal("a clone waits for ever")
		}
		select {
		case err := <-done:
			if err != nil {
				t.Fatal(err)
			}
			return
		default:
		}
		if n := reached.Load(); n != before {
			before, since = n, time.Now()
		}
		if time.Since(since) > patience {
			t.Fatal("the log waits for ever")
		}
	}
}
