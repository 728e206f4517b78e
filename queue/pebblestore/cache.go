package pebblestore

import "github.com/cockroachdb/pebble/v2"

// blockCache is Pebble's cache of blocks, of CacheSize.
//
// Pebble takes what its memtables hold out of its cache. One of them alone is larger than this cache: it
// would keep nothing at all, and each search would read, check and decompress the same index blocks again. So the cache is made
// larger by what memtables may hold, and of that, what they do not hold is reserved here.
//
// Not safe for concurrent use: the janitor's, after Open.
type blockCache struct {
	cache   *pebble.Cache
	most    int64 // octets that memtables may hold
	spare   int64 // of them, reserved
	release func()
}

func (c *blockCache) init(o *Options) {
	c.most = int64(memTables+o.MaxPinned) * o.MemTableSize
	c.cache = pebble.NewCache(o.CacheSize + c.most)
	c.adjust(0)
}

// adjust takes account of what memtables hold now, in octets.
func (c *blockCache) adjust(held int64) {
	spare := max(c.most-held, 0)
	if spare == c.spare && c.release != nil {
		return
	}
	if c.release != nil {
		c.release() // first: with both of them the cache would be emptied
	}
	c.spare, c.release = spare, c.cache.Reserve(int(spare))
}

// close gives up this reference; the engine has its own while it is open.
func (c *blockCache) close() { c.cache.Unref() }
