package pebblestore

import "io"

// get is Get of the database, whose errors it tells all. Where a value stands apart from its key and cannot be read, Get returns
// none and no error (Pebble v2.1.7), and only Close says why: taken at its word, a disk that fails to read once had damaged the record.
// No record is empty.
func (s *Store) get(key []byte) ([]byte, io.Closer, error) {
	v, closer, err := s.db.Get(key)
	if err != nil || len(v) > 0 {
		return v, closer, err
	}
	if err := closer.Close(); err != nil {
		return nil, nil, err
	}
	return nil, nothing{}, nil
}

// nothing is the closer of an empty value.
type nothing struct{}

// Close implements io.Closer.
func (nothing) Close() error { return nil }
