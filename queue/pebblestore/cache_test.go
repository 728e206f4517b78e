package pebblestore

import (
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"

	"odmr/queue"
)

// The cache has its size whatever the memtables hold: without that it would be empty here, and each lookup would read its blocks again.
func TestBlockCacheHasItsSize(t *testing.T) {
	opts := testOptions(t, vfs.NewMem())
	opts.MemTableSize, opts.CacheSize, opts.FlushDeleted, opts.manual = 8<<20, 1<<20, -1, true
	s := mustOpen(t, "queue", opts)
	list := func() {
		n := 0
		if err := s.List("a.example", func(queue.Entry) bool { n++; return true }); err != nil || n != 480 {
			t.Fatalf("%d listed: %v", n, err)
		}
	}
	held := func() int64 {
		m := s.db.Metrics()
		return int64(m.MemTable.Size + m.MemTable.ZombieSize)
	}
	for range 12 { // they begin small, and double
		for range 40 {
			putTest(t, s, 30_000, "a.example")
		}
		if err := s.db.Flush(); err != nil {
			t.Fatal(err)
		}
	}
	if n := held(); n < 2*opts.CacheSize {
		t.Fatalf("memtables hold %d octets: nothing would be tested", n)
	}
	eventually(t, "what was read once is in the cache", func() bool { // from the janitor's next tick on
		before := s.db.Metrics().BlockCache
		list()
		after := s.db.Metrics().BlockCache
		return after.Misses == before.Misses && after.Hits > before.Hits
	})
	if n := s.db.Metrics().BlockCache.Size; n == 0 || n > 2*opts.CacheSize {
		t.Errorf("the cache has %d octets, its size is %d", n, opts.CacheSize)
	}
	if n := collectAll(t, s, "a.example"); n != 480 {
		t.Errorf("%d messages", n)
	}
	if n := s.db.Metrics().BlockCache.Size; n > 2*opts.CacheSize { // a block for each part of the cache more
		t.Errorf("the cache has %d octets, its size is %d", n, opts.CacheSize)
	}
}
