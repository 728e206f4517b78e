package pebblestore

import (
	"context"
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"math/bits"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/sstable"
	"github.com/cockroachdb/pebble/v2/sstable/blob"
	"github.com/cockroachdb/pebble/v2/sstable/block"
	"github.com/cockroachdb/pebble/v2/sstable/colblk"
	"github.com/cockroachdb/pebble/v2/vfs"

	"odmr/internal/mail"
)

// Pieces of large bodies that were flushed lie in Pebble's blob files, each the last value of a block. Pebble reads a block into memory that it takes for it
// and clears; of many sessions at once no processor has that at hand. So they are read here, into buffers that are used again, the one
// given back last first. Whatever is not found as expected is left to Pebble: it reads again, and what it says counts.
//
// What makes this safe: a blob file never changes once it is written, its number is never used again, and entries name the file by the number
// under which it was written. When Pebble moves what is left of it elsewhere, entries name it as before, and the file is gone.
//
// Processor time of the server for each message (odmrbench drain --size=256KiB --each=800, in turns, with nothing else running):
//
//	as Pebble reads                     198, 217, 213, 209 us
//	so (taken)                          201, 172, 208, 166 us
//	and 2 MiB ahead instead of 1 (taken)     169, 163, 163 us
//	and 512 KiB ahead                        185, 176, 173 us
//
// Files that were mapped (mmap and MADV_POPULATE_READ, 8 MiB at a time) cost as much as Pebble's reading, on a busy machine 207, 195, 213 and 217 us where that
// took 178, 193, 239 and 208: what is not copied is fetched twice from memory then, by the checksum and by the socket, page by page.
//
// Sent by sendfile(2) out of the file, once its checksum was verified 64 KiB at a time, they were no cheaper either: in three rounds of turns 156, 171 and 160 us, and
// the customers took 68, 82 and 71, where buffers took 166, 152 and 155, and the customers 59, 54 and 55. The kernel sends 64 KiB at a time so, and wakes the
// receiver for each, who finds them in no cache.

const (
	// largestBlock is a piece, and what stands around it.
	largestBlock = mail.LastPiece + 4<<10
	// smallestBlock is the size from which a value is read so: below, looking it up is what costs.
	smallestBlock = 32 << 10
	// bufferStep is what sizes of buffers are multiples of: so much of one may be wasted.
	bufferStep = 32 << 10
	// maxIdleBuffers bounds the octets of buffers that wait to be used again.
	maxIdleBuffers = 16 << 20
	// maxBlobFiles is how many files are kept open, beside Pebble's own, which are fewer as it need not open these. A queue of
	// some GB lies in a hundred files, each of which twenty sessions come to at another time; with 32 opening them again cost 4.5 us a message.
	maxBlobFiles = 256
)

// blobs are the store's blob files, as far as they are read here.
type blobs struct {
	fs  vfs.FS
	dir string

	reads atomic.Int64 // values that were read here

	mu    sync.Mutex // short: never held over I/O
	files map[uint64]*blobFile
	order []uint64                                  // of files, the one opened last at the end
	gone  uint64                                    // files that Pebble has deleted so far
	free  [largestBlock/bufferStep + 1 + 1][][]byte // by size in steps
	idle  int                                       // octets in free
}

// blobFile is an open file, and where its blocks begin; the last of starts is where the last block ends. Everything
// but users and dropped stays as it is.
type blobFile struct {
	file    vfs.File // nil: there is none, or not as expected
	starts  []uint64
	users   int
	dropped bool // closed by the last of the users
}

func (b *blobs) init(fs vfs.FS, dir string) {
	b.fs, b.dir, b.files = fs, dir, make(map[uint64]*blobFile)
}

// piece reads the record under key, which may be large, and pins it. pebble.ErrNotFound says that there is none.
func (s *Store) piece(key []byte) (pin, error) {
	it, err := s.db.NewIter(&pebble.IterOptions{UseL6Filters: true})
	if err != nil {
		return pin{}, err
	}
	if !it.SeekPrefixGE(key) {
		if err := it.Close(); err != nil { // of the search, too
			return pin{}, err
		}
		return pin{}, pebble.ErrNotFound
	}
	if p, ok := s.lendBlock(it); ok {
		if err := it.Close(); err != nil {
			p.Release()
			return pin{}, err
		}
		return p, nil
	}
	v, err := it.ValueAndErr()
	if err != nil {
		it.Close()
		return pin{}, err
	}
	return s.lend(v, it), nil
}

// lendBlock reads the value that it is at, or says that Pebble is to do so.
func (s *Store) lendBlock(it *pebble.Iterator) (p pin, ok bool) {
	v := it.LazyValue()
	if v.Fetcher == nil || v.Fetcher.BlobFileID == 0 || v.Fetcher.Attribute.ValueLen < smallestBlock {
		return pin{}, false // it stands in a memtable or beside its key, or is small
	}
	at := blob.DecodeHandleSuffix(v.ValueOrHandle)
	f := s.blobs.open(uint64(v.Fetcher.BlobFileID))
	defer s.blobs.leave(f)
	if f.file == nil || int(at.BlockID)+1 >= len(f.starts) {
		return pin{}, false
	}
	start, n := int64(f.starts[at.BlockID]), int64(f.starts[at.BlockID+1]-f.starts[at.BlockID])
	if n <= block.TrailerLen || n > largestBlock {
		return pin{}, false
	}
	buf := s.blobs.get(int(n))
	if k, err := f.file.ReadAt(buf, start); k == len(buf) || err == nil {
		if data := lastValue(buf, int(at.ValueID), int(v.Fetcher.Attribute.ValueLen)); data != nil {
			s.pins.slabbed.Add(1)
			s.blobs.reads.Add(1)
			return pin{store: s, data: data, buf: buf}, true
		}
	}
	s.blobs.put(buf)
	return pin{}, false
}

// lastValue returns the value of a block with that index, of size octets, or nil if it is not the last one, or anything is wrong.
func lastValue(b []byte, index, size int) []byte {
	h := block.Handle{Length: uint64(len(b) - block.TrailerLen)}
	if block.CompressionIndicator(b[h.Length]) != block.NoCompressionIndicator || !intact(b, h) {
		return nil
	}
	// It is one column of octets: all values in a row, and one octet of padding behind them.
	end, least := int(h.Length)-1, int(colblk.HeaderSize(1, 0))
	if size > end-least {
		return nil
	}
	if head := colblk.DecodeHeader(b); head.Columns != 1 || int64(head.Rows) != int64(index)+1 {
		return nil
	}
	return b[end-size : end : end]
}

// castagnoli is the polynomial of Pebble's checksums.
var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// intact says whether the block b has its checksum. block.ValidateChecksum would look for the bit that is wrong, for many seconds;
// Pebble, which reads again then, does that once.
func intact(b []byte, h block.Handle) bool {
	c := crc32.Checksum(b[:h.Length+1], castagnoli)
	return binary.LittleEndian.Uint32(b[h.Length+1:]) == bits.RotateLeft32(c, -15)+0xa282ead8
}

// open returns the file with that number. The caller is one of its users until it leaves.
func (b *blobs) open(number uint64) *blobFile {
	b.mu.Lock()
	f := b.files[number]
	if f != nil {
		f.users++
	}
	gone := b.gone
	b.mu.Unlock()
	if f != nil {
		return f
	}
	f = openBlob(b.fs, b.fs.PathJoin(b.dir, fmt.Sprintf("%06d.blob", number)))
	f.users = 1
	b.mu.Lock()
	if b.files[number] != nil || b.gone != gone { // others were faster, or it may have been deleted since: this one is for the caller alone
		f.dropped = true
		b.mu.Unlock()
		return f
	}
	var oldest *blobFile
	if len(b.order) == maxBlobFiles {
		oldest = b.drop(b.order[0])
	}
	b.files[number] = f
	b.order = append(b.order, number)
	b.mu.Unlock()
	oldest.close()
	return f
}

func (b *blobs) leave(f *blobFile) {
	b.mu.Lock()
	f.users--
	last := f.dropped && f.users == 0
	b.mu.Unlock()
	if last {
		f.close()
	}
}

// drop forgets a file, and returns it if nobody reads it: the caller closes it. mu is held.
func (b *blobs) drop(number uint64) *blobFile {
	f := b.files[number]
	if f == nil {
		return nil
	}
	delete(b.files, number)
	b.order = slices.DeleteFunc(b.order, func(n uint64) bool { return n == number })
	if f.dropped = true; f.users > 0 {
		return nil
	}
	return f
}

// deleted notes that Pebble has deleted a file: who keeps it open keeps its space.
func (b *blobs) deleted(number uint64) {
	b.mu.Lock()
	b.gone++
	f := b.drop(number)
	b.mu.Unlock()
	f.close()
}

// close closes all files; nobody reads any more. Buffers that are lent out may still be given back.
func (b *blobs) close() {
	b.mu.Lock()
	numbers := slices.Clone(b.order)
	b.mu.Unlock()
	for _, n := range numbers {
		b.deleted(n)
	}
}

func (f *blobFile) close() {
	if f != nil && f.file != nil {
		_ = f.file.Close() // it was only read
	}
}

// openBlob opens the file at path, or makes one of which nothing can be read: it will be so the next time, too.
func openBlob(fs vfs.FS, path string) *blobFile {
	file, err := fs.Open(path)
	if err != nil {
		return &blobFile{}
	}
	starts := blockStarts(file)
	if starts == nil {
		_ = file.Close()
		return &blobFile{}
	}
	return &blobFile{file: file, starts: starts}
}

// blockStarts reads where the blocks of a blob file begin, and where the last one ends. It returns nil for one that was made of another, whose
// blocks entries do not know, and for one that is damaged.
func blockStarts(file vfs.File) (starts []uint64) {
	defer func() {
		if recover() != nil { // as Pebble's decoders do
			starts = nil
		}
	}()
	ctx := context.Background()
	readable, err := sstable.NewSimpleReadable(file)
	if err != nil {
		return nil
	}
	r, err := blob.NewFileReader(ctx, readable, blob.FileReaderOptions{})
	if err != nil {
		return nil
	}
	index, err := r.ReadIndexBlock(ctx, block.NoReadEnv, nil)
	if err != nil {
		return nil
	}
	defer index.Release()
	const blocksBefore = 4 // octets ahead of the header: how many blocks the file had that this one was made of
	data := index.BlockData()
	if slices.Max(data[:blocksBefore]) != 0 {
		return nil
	}
	var d colblk.BlockDecoder
	d.Init(data, blocksBefore)
	offsets := colblk.DecodeColumn(&d, 1, d.Rows()+1, colblk.DataTypeUint, colblk.DecodeUnsafeUints)
	starts = make([]uint64, d.Rows()+1)
	for i := range starts {
		starts[i] = offsets.At(i)
	}
	if !slices.IsSorted(starts) {
		return nil
	}
	return starts
}

// get returns a buffer of n octets, at most largestBlock, whatever is in it.
func (b *blobs) get(n int) []byte {
	steps := (n + bufferStep - 1) / bufferStep
	b.mu.Lock()
	defer b.mu.Unlock()
	free := &b.free[steps]
	if last := len(*free) - 1; last >= 0 {
		buf := (*free)[last]
		(*free)[last] = nil
		*free = (*free)[:last]
		b.idle -= cap(buf)
		return buf[:n]
	}
	return make([]byte, n, steps*bufferStep)
}

// put takes a buffer back.
func (b *blobs) put(buf []byte) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.idle+cap(buf) <= maxIdleBuffers {
		b.idle += cap(buf)
		free := &b.free[cap(buf)/bufferStep]
		*free = append(*free, buf)
	}
}
