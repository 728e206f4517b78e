package pebblestore

import (
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"
)

// TestNewStoreIsSmall: a store with one message takes the disk about the room of that message, not the room that its
// files may grow to.
func TestNewStoreIsSmall(t *testing.T) {
	dir := t.TempDir()
	s := mustOpen(t, dir, Options{Now: time.Now, Events: &events{t: t}, Ballast: -1})
	putTest(t, s, 8<<20, "a.example")
	var blocks int64
	err := filepath.Walk(dir, func(_ string, info os.FileInfo, err error) error {
		if err != nil {
			return err
		}
		if st, ok := info.Sys().(*syscall.Stat_t); ok {
			blocks += st.Blocks
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if room := blocks * 512; room > 4*8<<20 {
		t.Fatalf("%d octets of disk for a message of 8 MiB", room)
	}
}
