package cache

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"sync"
	"time"

	"github.com/hashicorp/golang-lru/v2/simplelru"

	"odmr/internal/account"
)

// entry is one answer.
type entry[V any] struct {
	value V
	found bool // else a negative answer
	at    time.Time
}

// shelf is the memory for answers of one kind.
type shelf[V any] struct {
	d    *Directory
	kind string
	mu   sync.Mutex
	lru  *simplelru.LRU[string, entry[V]] // positive answers
	// absent are the negative ones. They have room of their own: whoever asks for names that there are not must not make those
	// forgotten that there are, on which customers rely while the Source is down.
	absent *simplelru.LRU[string, entry[V]]
	// kept, if there is one, is told of every answer, and of the one before it.
	kept func(key string, before, now V)
	// size, if there is one, is what an answer takes of room: those longest unused make way for more than that.
	size       func(V) int
	room, used int
}

func newShelf[V any](d *Directory, kind string) *shelf[V] {
	s := &shelf[V]{d: d, kind: kind}
	var err, err2 error
	s.lru, err = simplelru.NewLRU(max(d.cfg.Entries, 1), func(_ string, e entry[V]) {
		if s.size != nil {
			s.used -= s.size(e.value)
		}
	})
	s.absent, err2 = simplelru.NewLRU[string, entry[V]](max(d.cfg.Entries, 1), nil)
	if err := errors.Join(err, err2); err != nil {
		panic(err) // of a size below 1
	}
	return s
}

// add keeps an entry in place of the one before, and makes room for it. The lock is held.
func (s *shelf[V]) add(key string, e entry[V]) {
	if !e.found {
		s.lru.Remove(key)
		s.absent.Add(key, e)
		return
	}
	s.absent.Remove(key)
	if s.size == nil {
		s.lru.Add(key, e)
		return
	}
	s.lru.Remove(key)
	s.used += s.size(e.value)
	s.lru.Add(key, e)
	for s.used > s.room {
		s.lru.RemoveOldest()
	}
}

func (s *shelf[V]) get(key string) (entry[V], bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if e, ok := s.lru.Get(key); ok {
		return e, true
	}
	return s.absent.Get(key)
}

// put keeps an answer to a question that was asked in that generation.
func (s *shelf[V]) put(generation uint64, key string, e entry[V]) {
	e.at = s.d.cfg.Now()
	s.mu.Lock()
	before, _ := s.lru.Peek(key)
	if generation == s.d.generation.Load() {
		s.add(key, e)
	}
	s.mu.Unlock()
	if s.kept != nil {
		s.kept(key, before.value, e.value)
	}
}

func (s *shelf[V]) remove(key string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.lru.Remove(key)
	s.absent.Remove(key)
}

// expire makes an answer one that serves only while the Source is down. One that is already, it leaves alone: else doubts
// without end would use up the time for which it serves.
func (s *shelf[V]) expire(key string) {
	over := s.d.cfg.Now().Add(-s.d.cfg.TTL)
	s.mu.Lock()
	defer s.mu.Unlock()
	if e, ok := s.lru.Peek(key); ok && e.at.After(over) {
		e.at = over
		s.add(key, e)
	}
}

func (s *shelf[V]) purge() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.lru.Purge()
	s.absent.Purge()
}

// ask answers from memory what is no older than it may be (positive answers: age), else asks the Source with fetch, once for all
// who ask the same at the same time. While the Source is down older answers serve.
func (s *shelf[V]) ask(key string, age time.Duration, fetch func(context.Context) (entry[V], error)) (entry[V], error) {
	cfg := &s.d.cfg
	e, err := s.current(key, age, fetch)
	switch {
	case err == nil:
		return e, nil
	case e.found && errors.Is(err, account.ErrUnavailable) && cfg.Now().Sub(e.at) < cfg.TTL+cfg.StaleTTL:
		cfg.Observer.Answered(Stale)
		return e, nil
	}
	cfg.Observer.Answered(Unanswered)
	return entry[V]{}, err
}

// current is ask without answers that are older. With an error comes what is remembered.
func (s *shelf[V]) current(key string, age time.Duration, fetch func(context.Context) (entry[V], error)) (entry[V], error) {
	cfg := &s.d.cfg
	e, have := s.get(key)
	limit := cfg.NegativeTTL
	if e.found {
		limit = age
	}
	if have && cfg.Now().Sub(e.at) < limit {
		cfg.Observer.Answered(Memory)
		return e, nil
	}
	fetched, err := s.fly(key, fetch)
	if err != nil {
		return e, err
	}
	cfg.Observer.Answered(Fetched)
	return fetched, nil
}

// anew asks the Source whatever is remembered, and joins none who asked before.
func (s *shelf[V]) anew(key string, fetch func(context.Context) (entry[V], error)) (entry[V], error) {
	s.d.flights.Forget(s.flight(s.d.generation.Load(), key))
	return s.fly(key, fetch)
}

// flight is what questions that are the same have in common.
func (s *shelf[V]) flight(generation uint64, key string) string {
	return s.kind + "\x00" + strconv.FormatUint(generation, 10) + "\x00" + key
}

// fly asks the Source.
func (s *shelf[V]) fly(key string, fetch func(context.Context) (entry[V], error)) (entry[V], error) {
	d := s.d
	if err := d.enter(); err != nil {
		return entry[V]{}, err
	}
	defer d.waiting.Add(-1)
	generation := d.generation.Load()
	flight := s.flight(generation, key)
	v, err, _ := d.flights.Do(flight, func() (any, error) {
		var e entry[V]
		err := d.query(func(ctx context.Context) (err error) {
			e, err = fetch(ctx)
			return err
		})
		if err == nil {
			s.put(generation, key, e)
		}
		return e, err
	})
	return v.(entry[V]), err
}

// enter lets a caller wait for the Source, unless too many wait in vain already.
func (d *Directory) enter() error {
	if err := d.health.failure(); err != nil {
		return err
	}
	now := d.cfg.Now().UnixNano()
	n := d.waiting.Add(1)
	if n == 1 {
		d.answered.Store(now)
	}
	if n > maxWaiting && now-d.answered.Load() > int64(stallTime) {
		d.waiting.Add(-1)
		return fmt.Errorf("%w: %d wait for it already", account.ErrUnavailable, maxWaiting)
	}
	return nil
}

// query runs fn on one of the connections' slots.
func (d *Directory) query(fn func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(context.Background(), d.cfg.Timeout)
	defer cancel()
	fell := d.health.fell()
	select {
	case d.slots <- struct{}{}:
	case <-fell:
		return d.health.failure()
	case <-ctx.Done():
		return fmt.Errorf("%w: no connection was free", account.ErrUnavailable)
	}
	defer func() { <-d.slots }()
	if err := d.health.failure(); err != nil { // as long as it took to come here
		return err
	}
	began := d.cfg.Now()
	err := fn(ctx)
	ended := d.cfg.Now()
	if err != nil && !errors.Is(err, account.ErrRecord) {
		d.cfg.Observer.Queried(ended.Sub(began), err)
		d.down(err)
		return fmt.Errorf("%w: %w", account.ErrUnavailable, err)
	}
	d.cfg.Observer.Queried(ended.Sub(began), nil)
	d.answered.Store(ended.UnixNano())
	if err != nil {
		d.cfg.Observer.Unusable(err)
	}
	return err
}
