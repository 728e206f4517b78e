package pebblestore

import (
	"errors"
	"fmt"
	"math"
	"os"
	"time"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/bloom"
	"github.com/cockroachdb/pebble/v2/sstable/block"
	"github.com/cockroachdb/pebble/v2/vfs"
)

// Options says how a Store works. The zero value with Now set is a sound server.
type Options struct {
	// FS holds the files; nil is the disk.
	FS vfs.FS
	// Now is the clock. Required: this package never reads one itself.
	Now func() time.Time
	// Events hears what an operator should know; nil keeps quiet and ends the process on Fatal.
	Events Events
	// ObserveCommit is called with the time that each Commit took, from call to stable
	// storage; nil for nobody.
	ObserveCommit func(time.Duration)

	// MemTableSize is the size of one memtable in octets. Mail that is collected before a memtable
	// is full never costs more than the log. Up to six may exist at a time, and MaxPinned more, so that
	// with the block cache and 16 MiB of buffers (see blobs) they bound the store's memory: 416 MiB with the defaults, at the worst. As
	// many files of the log as memtables and one more are kept for use again. Default 32 MiB.
	MemTableSize int64
	// CacheSize is the block cache in octets. Default 16 MiB.
	CacheSize int64
	// MaxOpenFiles bounds the descriptors of tables. Default 1000.
	MaxOpenFiles int
	// Compactions is how many compactions may run at once. Default 2.
	Compactions int

	// MinFreeSpace is how much of the disk stays free, in octets: with less, new mail is
	// refused (queue.ErrFull), and draining goes on. The log and compactions need room to
	// make room, so it must be well above 0. Default 256 MiB and eight memtables.
	MinFreeSpace int64
	// FreeSpace says how much is free, in octets; nil asks FS. It is called from a goroutine of the
	// store and may block.
	FreeSpace func() (int64, error)
	// Ballast is a file of so many octets that is given up when the disk is full all the
	// same (somebody else filled it), so that the log's write succeeds and the process lives on. It
	// is made again when there is room. Default 64 MiB, negative for none.
	Ballast int64
	// MaxL0 is how many sublevels of level 0 may pile up before new mail is refused (queue.ErrFull) until
	// compactions have caught up: better than a stall that would hit draining too. Default 48.
	MaxL0 int

	// MaxPinned is how many generations of the memtable segments may pin; see the package doc. Default 6.
	MaxPinned int
	// FlushDeleted is how many octets of bodies must have been deleted for an idle store to flush, so
	// that the disk space is given back. Default 16 MiB, negative for never.
	FlushDeleted int64
	// Tick is how often free space is looked at and idleness is judged. Default 1 s.
	Tick time.Duration

	noSync bool // test only: commits do not wait for the disk. The crash test must fail with it
	manual bool // test only: Pebble compacts nothing by itself
	still  bool // see Still
	young  bool // test only: blob files are rewritten whatever their age
	poison bool // test only: segments are copies that are overwritten when released
}

// Events is what the store tells its owner. Calls come from any goroutine, may be concurrent,
// must return quickly and must not call the store.
type Events interface {
	// BackgroundError is an error of a flush or compaction; the store tries again by itself.
	BackgroundError(err error)
	// Corruption is a record, block or file that does not hold what was written.
	Corruption(err error)
	// DiskSlow is a write or sync that takes longer than 5 s and is still running.
	DiskSlow(path string, took time.Duration)
	// StallBegan says that writes are held up by flushes or compactions, until StallEnded.
	StallBegan(reason string)
	StallEnded()
	// Refusing says why new mail is refused from now on (queue.ErrFull); Accepting, that it is taken again.
	Refusing(reason string)
	Accepting()
	// Fatal gets the last line before the process ends. It must not return; if it does, the store
	// exits with status 1.
	Fatal(line string)
}

// Silent is an Events that ignores everything but Fatal, which prints to standard error and
// exits with status 1. Embed it to hear only some events.
type Silent struct{}

func (Silent) BackgroundError(error)          {}
func (Silent) Corruption(error)               {}
func (Silent) DiskSlow(string, time.Duration) {}
func (Silent) StallBegan(string)              {}
func (Silent) StallEnded()                    {}
func (Silent) Refusing(string)                {}
func (Silent) Accepting()                     {}

// Fatal prints line to standard error and exits with status 1.
func (Silent) Fatal(line string) {
	fmt.Fprintln(os.Stderr, line)
	os.Exit(1)
}

// Bounds of what Validate takes.
const (
	minMemTable = 64 << 10
	maxMemTable = 2 << 30 // Pebble's arena has 32-bit offsets
	minTick     = time.Millisecond
)

// memTables is how many memtables may exist (one in use, the others being flushed) before writes wait.
const memTables = 6

// EnsureDefaults fills in what is zero.
func (o *Options) EnsureDefaults() {
	def := func(p *int64, v int64) {
		if *p == 0 {
			*p = v
		}
	}
	defInt := func(p *int, v int) {
		if *p == 0 {
			*p = v
		}
	}
	def(&o.MemTableSize, 32<<20)
	def(&o.CacheSize, 16<<20)
	defInt(&o.MaxOpenFiles, 1000)
	defInt(&o.Compactions, 2)
	def(&o.MinFreeSpace, 256<<20+8*o.MemTableSize)
	def(&o.Ballast, 64<<20)
	defInt(&o.MaxL0, 48)
	defInt(&o.MaxPinned, 6)
	def(&o.FlushDeleted, 16<<20)
	if o.Tick == 0 {
		o.Tick = time.Second
	}
	if o.Events == nil {
		o.Events = Silent{}
	}
}

// Validate reports every problem at once, joined.
func (o *Options) Validate() error {
	var problems []error
	check := func(ok bool, format string, args ...any) {
		if !ok {
			problems = append(problems, fmt.Errorf("pebblestore: "+format, args...))
		}
	}
	check(o.Now != nil, "Now is required")
	check(o.MemTableSize >= minMemTable && o.MemTableSize <= maxMemTable,
		"MemTableSize %d is not within %d and %d", o.MemTableSize, minMemTable, maxMemTable)
	check(o.CacheSize > 0, "CacheSize %d is not positive", o.CacheSize)
	check(o.MaxOpenFiles >= 64, "MaxOpenFiles %d is less than 64", o.MaxOpenFiles)
	check(o.Compactions > 0, "Compactions %d is not positive", o.Compactions)
	check(o.MinFreeSpace > 0, "MinFreeSpace %d is not positive", o.MinFreeSpace)
	check(o.MaxL0 > 0, "MaxL0 %d is not positive", o.MaxL0)
	check(o.MaxPinned > 0, "MaxPinned %d is not positive", o.MaxPinned)
	check(o.Tick >= minTick, "Tick %v is less than %v", o.Tick, minTick)
	return errors.Join(problems...)
}

// compression is fast for keys, envelopes and small bodies, and none for the bodies in
// blob files: they are mostly base64, and are read once.
var compression = func() *block.CompressionProfile {
	p := *block.FastestCompression
	p.Name = "odmr"
	p.ValueBlocks = block.NoCompression.ValueBlocks
	return &p
}()

// noDepth is more blob files than the tables of one range refer to, unless the mail of 1,000 memtables waits: see engineOptions.
const noDepth = 1000

// separatedFrom is the size of the records that go to blob files, which compactions do not rewrite.
const separatedFrom = 1024

// engineOptions are Pebble's options for o. What was tried, with BenchmarkInterleaved: 60,000 messages of 20 customers
// in turns (base64, which does not compress), flushed, and collected by all 20 at once. Octets are what the process
// sent to the disk per octet of mail, flushes and compactions of the whole benchmark included.
//
//	                                            octets written   octets written
//	                                            1 KiB messages   4 KiB messages
//	records in blob files from 1,000,000 (none)      4.40             4.17
//	                      from     4,096             4.40             2.14
//	                      from     1,024 (taken)     2.53             2.14
//	                      and tables uncompressed    2.85             2.23
//	memtable of 128 MiB, blob files from 4,096         -              2.13
//
// Where tables of one key range refer to more than MaxBlobReferenceDepth blob files, a compaction writes the records anew. A message is read once, wherever it
// lies, so that this gains nothing, and makes the size of memtables, of which each becomes a blob file, count. Octets written for each octet of 4 KiB messages that the
// whole server took, held and handed out (odmrbench space), and its highest RSS:
//
//	                               250,000 messages   1,000,000
//	depth     10, memtable 128 MiB       2.42            4.03      467 MB
//	          10            32 MiB       4.85              -       262 MB
//	          64            32 MiB       2.60            3.22      281 MB
//	       1,000           128 MiB         -             2.58      476 MB
//	       1,000            64 MiB         -             2.64      346 MB
//	       1,000            32 MiB (taken) -             2.71      274 MB
//
// A smaller memtable is on its way to the disk for 25 ms instead of 100, during which a busy server falls behind. Three rounds in turns of odmrbench mixed, 9,000 messages a
// second in and out, p99 of a 250: 50, 26 and 24 ms with 128 MiB and depth 10; 17, 17 and 18 ms with 32 MiB, 22, 15 and 19 ms with 64, both with a heap as in
// processors.Relax.
//
// Four times as many flushes may lie on level 0 (L0CompactionThreshold) before compactions take them further down: with two of them compactions took a fifth of
// the server's processor time. Messages of 4 KiB a second in (64 connections) and out (20 customers), two rounds in turns:
//
//	memtables of 128 MiB, 2          40,200  44,600    148,900  162,900
//	              32 MiB, 2          41,000  43,200    155,000  159,200
//	                      4          47,400  49,600    180,900  168,200
//	                      8 (taken)  48,800  52,900    157,400  178,800
//
// Written for each octet were 2.53 (250,000 messages) and 2.62 (1,000,000) then, and from ATRN to MAIL FROM it took no longer than with 2, be a million of others' held.
//
// Of processor time the layout of bodies (see keys) is nearly all that counts in Next and Settle: a message of 4 KiB
// collected cost 52 us with bodies under their ids, and 9 to 10 us beside their entries; there
// compression, block sizes and level 0 made no difference that stood out from the noise of a busy machine.
// Bodies from 32 KiB on stand under their ids (see piecesFrom). 6,000 messages of 257 KiB, flushed, and what each cost of processor
// time in Next and Settle, and octets written for each octet:
//
//	beside their entries                                192-307 us      2.3-2.6
//	under their ids, 256 KiB and a crumb                     206 us      2.01
//	in one piece, without a look at the record (taken)       104 us      2.01
//
// What was left was reading (half of it), the checksum, and clearing the memory: see blobs.
// The block cache, once it has its size (see blockCache; without that it holds nothing whatever its size). Processor time in Next and Settle of
// 5,000 messages of 256 KiB, and of 60,000 of 4 KiB, in two rounds of turns on a busy machine:
//
//	nothing is kept           103, 110 us      7.9, 7.8 us
//	 1 MiB                     84,  97 us      8.5, 7.5 us
//	16 MiB (taken)             97, 105 us      7.4, 7.5 us
//	64 MiB                    112, 128 us      9.4, 10.6 us
//
// It is worth having for the index. Of the bodies none is read twice, and the more of them it keeps, the more memory must be
// cleared that no processor has at hand.
// The least time between two syncs of the log (WALMinSyncInterval), with 20 connections in lock-step through the whole server, messages a second and
// processor time of each, in two rounds: none (taken) 9,412 and 9,487, 108 and 103 us; 300 us 9,906 and 10,143, 96 and 92 us; 600 us 9,139 and 9,647,
// 99 and 91 us; 1 ms 7,954 and 8,174, 111 and 108 us. But with 8,000 messages a second in and out at once (odmrbench mixed) the p99 of a
// 250 was 53 and 53 ms with none, 231 and 144 ms with 300 us, and 190 and 70 ms with 1 ms.
// Files of the log that are laid out and cleared beforehand halve a lone fdatasync here (30 kB a time: 225, 232, 172 us
// appended, 134, 104, 101 us over zeros) but made no difference to the whole server, 9,440 and 9,330 messages a second in lock-step
// without, 9,646 and 9,535 with them, as processors are what is short then. Pebble reuses its files after the third anyway. With the threads
// under SCHED_BATCH and workers that stay (see loop in engine), three rounds each, means: neither 11,340 messages a second at 82 us, 2 MiB of zeros written ahead 11,670 at 83 us, 150 us between
// syncs 11,290 at 82 us.
// Flushes keep a pace (see pace). With 8,000 messages a second in and out (odmrbench mixed), four rounds in turns each time, the median p99 of a 250 was 16.4, 17.0 and
// 14.4 ms without it, 11.5 (50 MB a second), 10.9 and 12.7 ms (as it is now) with it; with memtables of 512 MiB, none of which was flushed meanwhile, 8.1 ms. With 12,500 a second, three
// rounds, 30 and 72 ms without, 23 and 68 ms with it. Threads for flushes and compactions that leave processors to others (nice 5 and 10) added nothing to that, and under SCHED_IDLE commits
// waited for 583 ms for what a flush held. Neither did shorter turns on a processor (0.5 ms), or a thread for the log that takes it at once.
// Bloom filters, 10 bits a key, spare a search for a large body a block of each table that does not have it: with them 3,000
// messages of 256 KiB, flushed, cost 149 us in Next and Settle, without them 230 us. Scans do not use them.
// DeleteRange for runs of settled mail was not taken: Settle's deletions cost 2 us a message, and each range
// tombstone in a memtable makes the next iterator sort all of them anew.
func (s *Store) engineOptions() *pebble.Options {
	o := &s.opts
	p := &pebble.Options{
		FormatMajorVersion:          pebble.FormatValueSeparation,
		Logger:                      (*logger)(s),
		EventListener:               s.listener(),
		MemTableSize:                uint64(o.MemTableSize),
		MemTableStopWritesThreshold: memTables,
		MaxOpenFiles:                o.MaxOpenFiles,
		L0CompactionThreshold:       8,
		L0StopWritesThreshold:       math.MaxInt32, // Begin refuses first: see MaxL0
		BytesPerSync:                1 << 20,
		DisableAutomaticCompactions: o.manual,
		FlushDelayDeleteRange:       10 * time.Second,
		CompactionConcurrencyRange:  func() (int, int) { return 1, o.Compactions },
	}
	rewriteAge := time.Minute
	if o.young {
		rewriteAge = 0
	}
	if o.still {
		p.FlushDelayDeleteRange = 0
	}
	p.TargetFileSizes[0] = 8 << 20
	for i := range p.Levels {
		p.Levels[i].Compression = func() *block.CompressionProfile { return compression }
		p.Levels[i].BlockSize = 32 << 10
		p.Levels[i].FilterPolicy = bloom.FilterPolicy(10)
	}
	p.Experimental.EnableColumnarBlocks = func() bool { return true } // value separation is ignored without it
	p.Experimental.ValueSeparationPolicy = func() pebble.ValueSeparationPolicy {
		return pebble.ValueSeparationPolicy{
			Enabled:               true,
			MinimumSize:           separatedFrom,
			MaxBlobReferenceDepth: noDepth,
			RewriteMinimumAge:     rewriteAge,
			TargetGarbageRatio:    0.3,
		}
	}
	return p
}

// listener passes on what concerns an operator.
func (s *Store) listener() *pebble.EventListener {
	ev := s.opts.Events
	return &pebble.EventListener{
		BackgroundError: func(err error) { ev.BackgroundError(err) },
		DataCorruption: func(info pebble.DataCorruptionInfo) {
			ev.Corruption(fmt.Errorf("pebblestore: %s: %w", info.Path, info.Details))
		},
		DiskSlow:        func(info pebble.DiskSlowInfo) { ev.DiskSlow(info.Path, info.Duration) },
		WriteStallBegin: func(info pebble.WriteStallBeginInfo) { ev.StallBegan(info.Reason) },
		WriteStallEnd:   func() { ev.StallEnded() },
		BlobFileDeleted: func(info pebble.BlobFileDeleteInfo) { s.blobs.deleted(uint64(info.FileNum)) },
		// A flush begins right after the memtable was rotated: segments read from here on pin another one.
		FlushBegin: func(info pebble.FlushInfo) {
			s.pins.nextGeneration()
			s.pace.begin(info)
		},
		// A memtable is full. If a flush is running this is the next one; if none is, this one's begins in a moment.
		WALCreated: func(pebble.WALCreateInfo) { s.pace.hurry() },
	}
}

// logger is what Pebble logs to. Only its fatal line matters: it comes when the log or the manifest could not be
// written, after which nothing may be promised.
type logger Store

func (l *logger) Infof(string, ...any)  {}
func (l *logger) Errorf(string, ...any) {}

func (l *logger) Fatalf(format string, args ...any) {
	(*Store)(l).fatal(fmt.Errorf(format, args...))
}

// fatal ends the process: see the package doc.
func (s *Store) fatal(err error) {
	s.opts.Events.Fatal(fmt.Sprintf("pebblestore: %s: the queue's storage failed, stopping at once; nothing acknowledged is lost: %v", s.dir, err))
	os.Exit(1)
}
