package pebblestore

import (
	"bytes"
	"encoding/binary"
	"errors"
	"hash/crc32"
	"io"
	"math/bits"
	"slices"
	"strings"
	"testing"

	"github.com/cockroachdb/pebble/v2/objstorage/objstorageprovider"
	"github.com/cockroachdb/pebble/v2/sstable/blob"
	"github.com/cockroachdb/pebble/v2/vfs"

	"odmr/internal/mail"
	"odmr/queue"
)

// blobSizes are those of bodies that stand alone, and in how many pieces of how many octets at least.
var blobSizes = []struct{ size, pieces int }{
	{piecesFrom, 1}, {100_000, 1}, {mail.ChunkSize, 1}, {mail.LastPiece, 1}, {mail.ChunkSize + mail.LastPiece, 2}, {3*mail.ChunkSize + 40_000, 4}, {200_001, 1},
}

// blobStore has bodies of those sizes for a.example, in one flushed table and its blob file.
func blobStore(t *testing.T, fs vfs.FS) (s *Store, ids []mail.ID, pieces int) {
	t.Helper()
	opts := testOptions(t, fs)
	opts.MemTableSize, opts.FlushDeleted, opts.manual = 32<<20, -1, true
	s = mustOpen(t, "queue", opts)
	for _, c := range blobSizes {
		ids = append(ids, putTest(t, s, c.size, "a.example"))
		pieces += c.pieces
	}
	if err := s.db.Flush(); err != nil {
		t.Fatal(err)
	}
	return s, ids, pieces
}

// blobFiles are the paths of blob files.
func blobFiles(t *testing.T, fs vfs.FS) (paths []string) {
	t.Helper()
	names, err := fs.List("queue")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range names {
		if strings.HasSuffix(name, ".blob") {
			paths = append(paths, fs.PathJoin("queue", name))
		}
	}
	return paths
}

// Large bodies that were flushed are read from their file and not by Pebble, each as it was, while others are read into buffers
// that were given back. What is deleted then is kept by nobody.
func TestBlobsAreRead(t *testing.T) {
	fs := vfs.NewMem()
	s, ids, pieces := blobStore(t, fs)
	for round := range 3 {
		l, ds := lend(t, s, len(ids), "a.example")
		var segs []queue.Segment
		var want [][]byte
		for i, d := range ds {
			body := crashBody(ids[i], blobSizes[i].size)
			for {
				seg, err := d.Body.Next()
				if err == io.EOF {
					break
				}
				if err != nil {
					t.Fatal(err)
				}
				segs, want, body = append(segs, seg), append(want, body[:len(seg.Data)]), body[len(seg.Data):]
			}
			if len(body) > 0 {
				t.Errorf("of body %d %d octets are missing", i, len(body))
			}
		}
		for i, seg := range segs {
			if !bytes.Equal(seg.Data, want[i]) {
				t.Errorf("segment %d has other octets, or another's", i)
			}
			seg.Release()
		}
		if n := s.blobs.reads.Load(); n != int64(pieces*(round+1)) {
			t.Fatalf("%d pieces were read from files, want %d", n, pieces*(round+1))
		}
		if round == 2 {
			collect(t, l, ds)
		}
		l.Release()
	}
	if s.blobs.idle == 0 || s.blobs.idle > maxIdleBuffers {
		t.Errorf("%d octets wait to be used again", s.blobs.idle)
	}
	if len(s.blobs.files) == 0 {
		t.Error("no file is open")
	}
	if err := errors.Join(s.db.Flush(), s.db.Compact(t.Context(), []byte{0}, []byte{0xff}, false)); err != nil {
		t.Fatal(err)
	}
	eventually(t, "no file", func() bool {
		s.blobs.mu.Lock()
		defer s.blobs.mu.Unlock()
		return len(blobFiles(t, fs)) == 0 && len(s.blobs.files) == 0
	})
}

// An octet that has changed in a blob file is nobody's mail: what it is in is passed over, as Pebble says.
func TestBlobsAreVerified(t *testing.T) {
	fs := vfs.NewMem()
	s, ids, _ := blobStore(t, fs)
	files := blobFiles(t, fs)
	if len(files) != 1 {
		t.Fatalf("%d blob files", len(files))
	}
	f, err := fs.OpenReadWrite(files[0], vfs.WriteCategoryUnspecified)
	if err != nil {
		t.Fatal(err)
	}
	at := make([]byte, 1)
	_, err = f.ReadAt(at, 1000) // in the first
	at[0] ^= 4
	if _, err2 := f.WriteAt(at, 1000); errors.Join(err, err2, f.Close()) != nil {
		t.Fatal(err, err2)
	}
	ev := s.opts.Events.(*events)
	ev.lenient = true
	l, ds := lend(t, s, len(ids)-1, "a.example")
	for i, d := range ds {
		if got := restOf(t, d.Body); !bytes.Equal(got, crashBody(ids[i+1], blobSizes[i+1].size)) {
			t.Errorf("delivery %d has other octets", i)
		}
		d.Body.Close()
	}
	if n, _, _ := ev.counts(); n == 0 {
		t.Error("nobody was told")
	}
	l.Release()
	if err := s.Close(); err != nil { // without a check, which would find it, too
		t.Fatal(err)
	}
}

// When Pebble has moved what is left of a blob file elsewhere, entries name the old one, and it is gone: Pebble reads then.
func TestBlobsAreRewritten(t *testing.T) {
	fs := vfs.NewMem()
	opts := testOptions(t, fs)
	opts.MemTableSize, opts.FlushDeleted, opts.young = 32<<20, -1, true
	s := mustOpen(t, "queue", opts)
	var ids []mail.ID
	const size, many = 100_000, 40
	for range many {
		ids = append(ids, putTest(t, s, size, "a.example"))
	}
	deep := func() {
		if err := errors.Join(s.db.Flush(), s.db.Compact(t.Context(), []byte{0}, []byte{0xff}, false)); err != nil {
			t.Fatal(err)
		}
	}
	deep()
	before := blobFiles(t, fs)
	l, ds := lend(t, s, many, "a.example")
	collect(t, l, ds[:many*3/4])
	for _, d := range ds[many*3/4:] {
		d.Body.Close()
	}
	l.Release()
	if s.blobs.reads.Load() != many {
		t.Fatalf("%d pieces were read from files", s.blobs.reads.Load())
	}
	deep()
	eventually(t, "other files", func() bool {
		after := blobFiles(t, fs)
		return len(after) > 0 && !slices.ContainsFunc(after, func(name string) bool { return slices.Contains(before, name) })
	})
	for range 2 {
		l, ds = lend(t, s, many/4, "a.example")
		for i, d := range ds {
			if got := restOf(t, d.Body); !bytes.Equal(got, crashBody(ids[many*3/4+i], size)) {
				t.Errorf("delivery %d has other octets", i)
			}
			d.Body.Close()
		}
		l.Release()
	}
	if n := s.blobs.reads.Load(); n != many {
		t.Errorf("%d pieces were read from files that entries do not mean", n-many)
	}
}

// A file that was made of another one says so in its index, and is not read; nor is one that is cut off.
func TestBlobsAreRefused(t *testing.T) {
	fs := vfs.NewMem()
	var b blobs
	b.init(fs, "")
	write := func(name string, data []byte) {
		f, err := fs.Create(name, vfs.WriteCategoryUnspecified)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := f.Write(data); errors.Join(err, f.Close()) != nil {
			t.Fatal(err)
		}
	}
	f, err := fs.Create("000007.blob", vfs.WriteCategoryUnspecified)
	if err != nil {
		t.Fatal(err)
	}
	w := blob.NewFileWriter(7, objstorageprovider.NewFileWritable(f), blob.FileWriterOptions{})
	for range 3 {
		w.AddValue(crashBody(1, 100_000))
	}
	if _, err := w.Close(); err != nil {
		t.Fatal(err)
	}
	good := b.open(7)
	if len(good.starts) != 4 {
		t.Fatalf("blocks begin at %d", good.starts)
	}
	info, err := good.file.Stat()
	if err != nil {
		t.Fatal(err)
	}
	data := make([]byte, info.Size())
	if _, err := good.file.ReadAt(data, 0); err != nil {
		t.Fatal(err)
	}
	const footer = 38
	index := data[good.starts[3] : len(data)-footer]
	write("000008.blob", data[:len(data)-1])
	index[0] = 3
	write("000009.blob", data) // its index is damaged
	sum := index[len(index)-4:]
	binary.LittleEndian.PutUint32(sum, bits.RotateLeft32(crc32.Checksum(index[:len(index)-4], castagnoli), -15)+0xa282ead8)
	write("000010.blob", data) // and here it is as it should be, for other blocks
	for number := uint64(8); number <= 11; number++ {
		f := b.open(number)
		if f.file != nil || f.starts != nil {
			t.Errorf("file %d is read", number)
		}
		b.leave(f)
	}
	b.leave(good)
	// More files than are kept open.
	for number := uint64(100); number < 100+2*maxBlobFiles; number++ {
		b.leave(b.open(number))
	}
	if len(b.files) != maxBlobFiles || len(b.order) != maxBlobFiles || !good.dropped {
		t.Errorf("%d and %d files", len(b.files), len(b.order))
	}
	b.close()
	if len(b.files) != 0 {
		t.Errorf("%d files are left", len(b.files))
	}
}

// A file that Pebble deletes while it is being opened is kept open by who reads it, and by nobody else: its space would never be given back.
func TestBlobDeletedWhileOpened(t *testing.T) {
	mem := vfs.NewMem()
	var b blobs
	b.init(deletingFS{mem, func() { b.deleted(7) }}, "")
	f := b.open(7)
	b.leave(f)
	if len(b.files) != 0 || len(b.order) != 0 || !f.dropped {
		t.Errorf("%d files are kept open", len(b.files))
	}
	b.fs = mem
	b.leave(b.open(8))
	if len(b.files) != 1 {
		t.Error("the next one is not kept open")
	}
}

// deletingFS has something happen when a file was opened.
type deletingFS struct {
	vfs.FS
	opened func()
}

func (fs deletingFS) Open(name string, opts ...vfs.OpenOption) (vfs.File, error) {
	defer fs.opened()
	return fs.FS.Open(name, opts...)
}
