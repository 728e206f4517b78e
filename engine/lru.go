package engine

// lru is a map that holds at most max entries: the one that was not looked at for the longest time
// makes way for a new one. It is not locked.
type lru[K comparable, V any] struct {
	max     int
	entries map[K]*lruEntry[K, V]
	ring    lruEntry[K, V] // head of a ring: next is the latest, prev the oldest
}

type lruEntry[K comparable, V any] struct {
	next, prev *lruEntry[K, V]
	key        K
	value      V
}

func newLRU[K comparable, V any](max int) *lru[K, V] {
	l := &lru[K, V]{max: max, entries: make(map[K]*lruEntry[K, V])}
	l.ring.next, l.ring.prev = &l.ring, &l.ring
	return l
}

// get returns the value of key, or nil. The pointer is good until the next call.
func (l *lru[K, V]) get(key K) *V {
	e := l.entries[key]
	if e == nil {
		return nil
	}
	l.unlink(e)
	l.link(e)
	return &e.value
}

// put returns the value of key, which is new and zero if there was none.
func (l *lru[K, V]) put(key K) *V {
	if v := l.get(key); v != nil {
		return v
	}
	var e *lruEntry[K, V]
	if len(l.entries) >= l.max {
		e = l.ring.prev
		l.unlink(e)
		delete(l.entries, e.key)
		*e = lruEntry[K, V]{}
	} else {
		e = new(lruEntry[K, V])
	}
	e.key = key
	l.entries[key] = e
	l.link(e)
	return &e.value
}

func (l *lru[K, V]) remove(key K) {
	if e := l.entries[key]; e != nil {
		l.unlink(e)
		delete(l.entries, key)
	}
}

func (l *lru[K, V]) len() int { return len(l.entries) }

func (l *lru[K, V]) link(e *lruEntry[K, V]) {
	e.next, e.prev = l.ring.next, &l.ring
	e.next.prev, l.ring.next = e, e
}

func (l *lru[K, V]) unlink(e *lruEntry[K, V]) {
	e.next.prev, e.prev.next = e.prev, e.next
}
