package crashfs

import (
	"errors"
	"io"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// put writes to a new file and syncs it, its name included.
func put(t *testing.T, d *Disk, name, text string, unsynced string) vfs.File {
	t.Helper()
	fs := d.FS()
	f, err := fs.Create(name, vfs.WriteCategoryUnspecified)
	if err != nil {
		t.Fatal(err)
	}
	dir, err := fs.OpenDir("/")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.Write([]byte(text)); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(f.Sync(), dir.Sync(), dir.Close()); err != nil {
		t.Fatal(err)
	}
	if _, err := f.Write([]byte(unsynced)); err != nil {
		t.Fatal(err)
	}
	return f
}

func get(t *testing.T, d *Disk, name string) string {
	t.Helper()
	f, err := d.FS().Open(name)
	if err != nil {
		t.Fatal(err)
	}
	b, err := io.ReadAll(f)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// TestDisk: the dead process leaves what was written, the loss of power what was synced, and a torn log what
// came before the tear.
func TestDisk(t *testing.T) {
	d := New()
	f := put(t, d, "000001.log", "synced ", "written ")
	if got := get(t, d.Killed(), "000001.log"); got != "synced written " {
		t.Errorf("after a kill: %q", got)
	}
	if got := get(t, d.PowerLost(), "000001.log"); got != "synced " {
		t.Errorf("after a loss of power: %q", got)
	}
	d.TearLog(3)
	if n, err := f.Write([]byte("torn")); n != 4 || err != nil {
		t.Errorf("a torn write says %d, %v", n, err)
	}
	if err := f.Sync(); err != nil {
		t.Error(err)
	}
	if got := get(t, d.PowerLost(), "000001.log"); got != "synced written tor" {
		t.Errorf("after a tear: %q", got)
	}
	put(t, d, "other", "whole", "")
	if got := get(t, d.PowerLost(), "other"); got != "whole" {
		t.Errorf("another file after the tear: %q", got)
	}
}

// TestFaults: reads and the log fail when told to, and nothing else does.
func TestFaults(t *testing.T) {
	d := New()
	f := put(t, d, "000001.log", "some", "")
	r, err := d.FS().Open("000001.log")
	if err != nil {
		t.Fatal(err)
	}
	d.FailReads()
	if _, err := r.ReadAt(make([]byte, 2), 0); !errors.Is(err, ErrInjected) {
		t.Errorf("a failing read: %v", err)
	}
	d.MendReads()
	if _, err := r.ReadAt(make([]byte, 2), 0); err != nil {
		t.Errorf("a read: %v", err)
	}
	d.FailLog()
	if _, err := f.Write([]byte("x")); !errors.Is(err, ErrInjected) {
		t.Errorf("a failing write: %v", err)
	}
	put(t, d, "other", "whole", "")
}

// TestHeldSyncs: a sync of the log waits until it is let go, and what it would have kept is lost with the power before that.
func TestHeldSyncs(t *testing.T) {
	d := New()
	f := put(t, d, "000001.log", "kept ", "")
	d.HoldSyncs()
	if _, err := f.Write([]byte("lost")); err != nil {
		t.Fatal(err)
	}
	synced := make(chan error)
	go func() { synced <- f.SyncData() }()
	if got := get(t, d.PowerLost(), "000001.log"); got != "kept " {
		t.Errorf("without its sync: %q", got)
	}
	put(t, d, "other", "whole", "")
	select {
	case err := <-synced:
		t.Errorf("a held sync returned: %v", err)
	default:
	}
	d.LetSyncs()
	if err := <-synced; err != nil {
		t.Error(err)
	}
	if got := get(t, d.PowerLost(), "000001.log"); got != "kept lost" {
		t.Errorf("after the sync: %q", got)
	}
}
