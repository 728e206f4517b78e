package pebblestore

import (
	"context"
	"errors"

	"github.com/cockroachdb/pebble/v2"
)

// Still returns o for a simulation that must take the same course each time: the store does nothing by itself, neither
// the janitor's work nor Pebble's compactions, but when Housekeep is called. A server must not use it: its tables would
// never be compacted.
func (o Options) Still() Options {
	o.still, o.manual = true, true
	return o
}

// Housekeep does at once what a store does by itself in time: it deletes the pieces of messages that were given up,
// looks at the free space, flushes the memtable and compacts all tables. It blocks. For Options.Still.
func (s *Store) Housekeep(ctx context.Context) error {
	if err := s.enter(); err != nil {
		return err
	}
	defer s.leave()
	s.janitor.deleteForgotten()
	s.space.look()
	return errors.Join(s.db.Flush(), s.db.Compact(ctx, []byte{0}, []byte{0xff}, false))
}

// Sync returns when all that was written so far is on stable storage, pieces of incoming messages included.
func (s *Store) Sync() error {
	if err := s.enter(); err != nil {
		return err
	}
	defer s.leave()
	return s.db.LogData(nil, pebble.Sync)
}
