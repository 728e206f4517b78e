package pebblestore

import (
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"odmr/internal/mail"
	"odmr/queue"
)

func testRand(seed uint64) *rand.Rand { return rand.New(rand.NewPCG(seed, seed)) }

// eventually polls until ok, and fails the test after a minute.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for range 12_000 {
		if ok() {
			return
		}
		time.Sleep(5 * time.Millisecond)
	}
	t.Fatalf("not within a minute: %s", what)
}

// collectAll delivers everything that waits for domain and returns how many messages.
func collectAll(t *testing.T, s *Store, domain string) int {
	t.Helper()
	n, err := benchCollect(s, domain, queue.Limit{Messages: 16, Bytes: 1 << 20})
	if err != nil {
		t.Fatal(err)
	}
	return int(n)
}

// TestFull: with too little free space new mail is refused at each step, draining and settling go on, and
// acceptance resumes by itself.
func TestFull(t *testing.T) {
	var free atomic.Int64
	free.Store(1 << 40)
	opts := testOptions(t, vfs.NewMem())
	ev := opts.Events.(*events)
	opts.MinFreeSpace = 1 << 30
	opts.FreeSpace = func() (int64, error) { return free.Load(), nil }
	s := mustOpen(t, "queue", opts)
	for range 10 {
		putTest(t, s, 100, "a.example")
	}
	onItsWay, err := s.Begin(0)
	if err != nil {
		t.Fatal(err)
	}
	if err := onItsWay.Append(make([]byte, mail.ChunkSize)); err != nil {
		t.Fatal(err)
	}
	ready, err := s.Begin(0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.Begin(1 << 40); !errors.Is(err, queue.ErrFull) {
		t.Fatalf("a message larger than the disk: %v", err)
	}

	free.Store(1<<30 - 1)
	eventually(t, "refusal", func() bool { _, err := s.Begin(0); return errors.Is(err, queue.ErrFull) })
	if err := onItsWay.Append(make([]byte, mail.ChunkSize)); !errors.Is(err, queue.ErrFull) {
		t.Fatalf("Append: %v", err)
	}
	onItsWay.Abort()
	if err := ready.Commit(nil, []mail.Envelope{benchEnvelope("a.example", 0)}); !errors.Is(err, queue.ErrFull) {
		t.Fatalf("Commit: %v", err)
	}
	if n := collectAll(t, s, "a.example"); n != 10 {
		t.Fatalf("%d messages were drained while full", n)
	}
	free.Store(1 << 40)
	eventually(t, "acceptance", func() bool { _, err := s.Begin(0); return err == nil })
	putTest(t, s, 100, "a.example")
	eventually(t, "both events", func() bool { _, r, a := ev.counts(); return r == 1 && a == 1 })
}

// TestBurstBetweenLooks: what is written counts at once, not only at the next look at the disk.
func TestBurstBetweenLooks(t *testing.T) {
	opts := testOptions(t, vfs.NewMem())
	opts.MinFreeSpace, opts.Tick = 1<<20, time.Hour
	opts.FreeSpace = func() (int64, error) { return 4 << 20, nil }
	s := mustOpen(t, "queue", opts)
	for n := 0; ; n++ {
		in, err := s.Begin(100_000)
		if errors.Is(err, queue.ErrFull) {
			if n < 5 || n > 30 {
				t.Fatalf("refused after %d", n)
			}
			return
		}
		if err := in.Commit(make([]byte, 100_000), []mail.Envelope{benchEnvelope("a.example", 100_000)}); err != nil {
			t.Fatal(err)
		}
	}
}

// smallDisk is a file system that holds so many octets and then says ENOSPC, as a disk does.
type smallDisk struct {
	*vfs.MemFS
	mu       sync.Mutex
	capacity int64
	reserved map[string]int64 // by Preallocate, of the ballast only
	refused  int
}

func (d *smallDisk) used() (n int64) {
	for _, dir := range []string{"", "queue"} {
		names, _ := d.MemFS.List(dir)
		for _, name := range names {
			if fi, err := d.MemFS.Stat(d.PathJoin(dir, name)); err == nil && !fi.IsDir() {
				n += fi.Size()
			}
		}
	}
	for _, r := range d.reserved {
		n += r
	}
	return n
}

func (d *smallDisk) room(n int) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.used()+int64(n) > d.capacity {
		d.refused++
		return &vfsError{syscall.ENOSPC}
	}
	return nil
}

// vfsError wraps as *os.PathError does.
type vfsError struct{ error }

func (e *vfsError) Unwrap() error { return e.error }

func (d *smallDisk) Create(name string, c vfs.DiskWriteCategory) (vfs.File, error) {
	f, err := d.MemFS.Create(name, c)
	return &smallDiskFile{f, d, name}, err
}

func (d *smallDisk) ReuseForWrite(oldname, newname string, c vfs.DiskWriteCategory) (vfs.File, error) {
	f, err := d.MemFS.ReuseForWrite(oldname, newname, c)
	return &smallDiskFile{f, d, newname}, err
}

func (d *smallDisk) Remove(name string) error {
	d.mu.Lock()
	delete(d.reserved, name)
	d.mu.Unlock()
	return d.MemFS.Remove(name)
}

func (d *smallDisk) GetDiskUsage(string) (vfs.DiskUsage, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	return vfs.DiskUsage{AvailBytes: uint64(max(d.capacity-d.used(), 0)), TotalBytes: uint64(d.capacity)}, nil
}

type smallDiskFile struct {
	vfs.File
	disk *smallDisk
	name string
}

func (f *smallDiskFile) Write(p []byte) (int, error) {
	if err := f.disk.room(len(p)); err != nil {
		return 0, err
	}
	return f.File.Write(p)
}

func (f *smallDiskFile) Preallocate(off, n int64) error {
	if !strings.HasSuffix(f.name, ballastName) {
		return nil
	}
	if err := f.disk.room(int(n)); err != nil {
		return err
	}
	f.disk.mu.Lock()
	defer f.disk.mu.Unlock()
	f.disk.reserved[f.name] = n
	return nil
}

// TestDiskFull: somebody else fills the disk to the last octet. The write that would have ended the process
// succeeds on the ballast's room; new mail is refused, draining goes on; when there is room again, mail is
// taken and the ballast is back.
func TestDiskFull(t *testing.T) {
	disk := &smallDisk{MemFS: vfs.NewMem(), capacity: 64 << 20, reserved: map[string]int64{}}
	opts := testOptions(t, disk)
	ev := opts.Events.(*events)
	opts.MemTableSize, opts.MinFreeSpace, opts.Ballast = 256<<10, 8<<20, 16<<20
	s := mustOpen(t, "queue", opts)
	if disk.reserved[s.space.ballastPath()] != 16<<20 {
		t.Fatal("no ballast")
	}
	for range 20 {
		putTest(t, s, 10_000, "a.example")
	}
	// All is taken but a few octets, and no look at the disk happens in between: the guard is blind.
	in, err := s.Begin(0)
	if err != nil {
		t.Fatal(err)
	}
	disk.mu.Lock()
	free := disk.capacity - disk.used()
	disk.reserved["foreign"] = free - 100
	disk.mu.Unlock()
	s.space.free.Store(math.MaxInt64)
	s.space.refusing.Store(nil)
	err = in.Commit(make([]byte, 10_000), []mail.Envelope{benchEnvelope("a.example", 10_000)})
	if err != nil && !errors.Is(err, queue.ErrFull) {
		t.Fatalf("Commit on a full disk: %v", err)
	}
	want := 20
	if err == nil {
		want++
	}
	if n := collectAll(t, s, "a.example"); n != want {
		t.Fatalf("drained %d on a full disk, want %d", n, want)
	}
	disk.mu.Lock()
	refused := disk.refused
	disk.mu.Unlock()
	if refused == 0 {
		t.Fatal("the disk was never full: nothing was tested")
	}
	if _, err := s.Begin(0); !errors.Is(err, queue.ErrFull) {
		t.Fatalf("Begin on a full disk: %v", err)
	}
	disk.mu.Lock()
	delete(disk.reserved, "foreign")
	disk.mu.Unlock()
	eventually(t, "acceptance", func() bool { _, err := s.Begin(0); return err == nil })
	putTest(t, s, 100, "a.example")
	disk.mu.Lock()
	defer disk.mu.Unlock()
	if disk.reserved[s.space.ballastPath()] != 16<<20 {
		t.Fatal("the ballast is not back")
	}
	if _, r, a := ev.counts(); r == 0 || a == 0 {
		t.Fatalf("events: %d refusals, %d acceptances", r, a)
	}
}

// TestSpaceComesBack: after a drain the tables shrink by themselves, though nothing more is written.
// Pebble may or may not do that; here it is kept from it, so that the janitor must.
func TestSpaceComesBack(t *testing.T) {
	opts := testOptions(t, vfs.NewMem())
	// A drain that is slower than the janitor's ticks is tidied up behind in parts, and what is left at last may be twice FlushDeleted.
	opts.MemTableSize, opts.FlushDeleted, opts.manual = 1<<20, 256<<10, true
	s := mustOpen(t, "queue", opts)
	for i := range 400 {
		putTest(t, s, []int{3000, 30_000, mail.ChunkSize + 1}[i%20/9], "a.example") // inline, separated, chunked
	}
	// As deep as it gets: tombstones that stay further up do not reach it by a flush alone.
	if err := errors.Join(s.db.Flush(), s.db.Compact(t.Context(), []byte{0}, []byte{0xff}, false)); err != nil {
		t.Fatal(err)
	}
	tables := func() int64 {
		m := s.db.Metrics()
		total := m.Total()
		return total.TablesSize + int64(m.BlobFiles.LiveSize)
	}
	before := tables()
	if n := collectAll(t, s, "a.example"); n != 400 {
		t.Fatal(n)
	}
	eventually(t, "less than a tenth of the space", func() bool { return tables() < before/10 })
	t.Logf("%d octets before, %d after", before, tables())
}

// TestPinnedIsBounded: readers that never let go, each from another time, pin a bounded number of
// memtables; the others get copies, with the same content.
func TestPinnedIsBounded(t *testing.T) {
	opts := testOptions(t, vfs.NewMem())
	opts.MemTableSize, opts.MaxPinned, opts.FlushDeleted = 1<<20, 3, -1
	s := mustOpen(t, "queue", opts)
	var segs []queue.Segment
	var want []string
	for i := range 20 {
		id := putTest(t, s, 1000+i, fmt.Sprintf("d%d.example", i))
		b, err := s.Open(id)
		if err != nil {
			t.Fatal(err)
		}
		seg, _, err := b.Ready()
		if err != nil {
			t.Fatal(err)
		}
		b.Close()
		segs = append(segs, seg)
		want = append(want, string(crashBody(id, 1000+i)))
		if err := s.db.Flush(); err != nil {
			t.Fatal(err)
		}
	}
	f := s.Figures()
	if f.Pinned != 3 || f.Copied != 17 {
		t.Fatalf("%d pinned and %d copied, want 3 and 17", f.Pinned, f.Copied)
	}
	// Those pinned, the one in use, and one kept for use again; Pebble's own readers let go of others soon.
	const limit = (3 + 2) << 20
	eventually(t, "no more memtables than that", func() bool { return s.Figures().MemTables <= limit })
	for i := range segs {
		if string(segs[i].Data) != want[i] {
			t.Fatalf("segment %d differs", i)
		}
		segs[i].Release()
	}
	if f := s.Figures(); f.Pinned != 0 {
		t.Fatalf("%d are still pinned", f.Pinned)
	}
}

// TestPoison: in test mode a released segment is overwritten, so that use after release shows.
func TestPoison(t *testing.T) {
	opts := testOptions(t, vfs.NewMem())
	opts.poison = true
	s := mustOpen(t, "queue", opts)
	b, err := s.Open(putTest(t, s, 100, "a.example"))
	if err != nil {
		t.Fatal(err)
	}
	seg, _, err := b.Ready()
	if err != nil {
		t.Fatal(err)
	}
	b.Close()
	kept := seg.Data
	if kept[0] == poisonOctet {
		t.Fatal("poisoned before its release")
	}
	seg.Release()
	for _, c := range kept {
		if c != poisonOctet {
			t.Fatal("not poisoned")
		}
	}
}
