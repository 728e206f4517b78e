package pebblestore

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/cockroachdb/pebble/v2"

	"odmr/queue"
)

const (
	stampKeyLen = 1 + len(queue.Stamp{})
	// stampsEach is how often stamps are looked through for those whose time is over.
	stampsEach = 24 * time.Hour
	// stampsAtOnce is how many are deleted in one batch.
	stampsAtOnce = 4096
)

// Once implements queue.Incoming.
func (in *incoming) Once(stamps []queue.Stamp) { in.stamps = stamps }

// Stamped implements queue.Store. A stamp may be in the log and not durable yet, so that where one is found the log is synced.
func (s *Store) Stamped(stamps []queue.Stamp) ([]bool, error) {
	if err := s.enter(); err != nil {
		return nil, err
	}
	defer s.leave()
	there, any := make([]bool, len(stamps)), false
	for i := range stamps {
		var err error
		if there[i], err = s.stamped(&stamps[i]); err != nil {
			return nil, err
		}
		any = any || there[i]
	}
	if any && !s.opts.noSync {
		if err := s.db.LogData(nil, pebble.Sync); err != nil {
			return nil, fmt.Errorf("pebblestore: stamps: %w", err)
		}
	}
	return there, nil
}

func appendStampKey(dst []byte, m *queue.Stamp) []byte {
	return append(append(dst, spaceStamp), m[:]...)
}

func (s *Store) stamped(m *queue.Stamp) (bool, error) {
	var room [stampKeyLen]byte
	there, err := has(s.db, appendStampKey(room[:0], m))
	if err != nil {
		err = fmt.Errorf("pebblestore: stamp: %w", err)
	}
	return there, err
}

func (s *Store) anyStamped(stamps []queue.Stamp) (bool, error) {
	for i := range stamps {
		if there, err := s.stamped(&stamps[i]); there || err != nil {
			return there, err
		}
	}
	return false, nil
}

// stamp adds stamps to b.
func (s *Store) stamp(b *pebble.Batch, stamps []queue.Stamp) error {
	if len(stamps) == 0 {
		return nil
	}
	var key [stampKeyLen]byte
	now := appendNumber(nil, uint64(s.opts.Now().UnixNano()))
	for i := range stamps {
		if err := b.Set(appendStampKey(key[:0], &stamps[i]), now, nil); err != nil {
			return err
		}
	}
	return nil
}

// forgetStamps deletes the stamps whose time is over, once a day. A stamp that is there is never written again, so that none
// can be deleted that was made meanwhile.
func (j *janitor) forgetStamps() {
	s := j.store
	now := s.opts.Now()
	if !j.sweptStamps.IsZero() && now.Sub(j.sweptStamps) < stampsEach {
		return
	}
	j.sweptStamps = now
	if err := s.deleteStamps(j.ctx, now.Add(-queue.StampLifetime)); err != nil {
		s.opts.Events.BackgroundError(fmt.Errorf("pebblestore: stamps: %w", err))
	}
}

// deleteStamps deletes the stamps made before. It leaves the rest to another time when ctx ends.
func (s *Store) deleteStamps(ctx context.Context, before time.Time) (err error) {
	it, err := s.db.NewIter(&pebble.IterOptions{LowerBound: []byte{spaceStamp}, UpperBound: []byte{spaceStamp + 1}})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, it.Close()) }()
	b := s.db.NewBatch()
	commit := func() error {
		b2 := b
		b = s.db.NewBatch()
		return errors.Join(b2.Commit(pebble.NoSync), b2.Close()) // if that is lost, it is done again
	}
	walked := 0
	for ok := it.First(); ok; ok = it.Next() {
		if walked%stampsAtOnce == 0 && ctx.Err() != nil {
			break
		}
		walked++
		at, err := decodeNumber(it.Value())
		if err != nil {
			s.opts.Events.Corruption(fmt.Errorf("pebblestore: stamp %x: %w", it.Key(), err))
			continue
		}
		if !time.Unix(0, int64(at)).Before(before) {
			continue
		}
		if err := b.Delete(it.Key(), nil); err != nil {
			return errors.Join(err, b.Close())
		}
		if b.Count() == stampsAtOnce {
			if err := commit(); err != nil {
				return errors.Join(err, b.Close())
			}
		}
	}
	err = commit()
	return errors.Join(err, b.Close())
}
