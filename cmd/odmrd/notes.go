package main

import (
	"context"
	"fmt"
	"path/filepath"
	"time"

	"odmr/internal/notes"
)

// What outlives a restart beside the queue: hold.notes, when customers were last on hold, and shield.notes, what the bounce
// shield knows of their last messages.

// keepEvery is how often what the shield knows is written, if it has changed: a crash loses no more than that.
const keepEvery = 10 * time.Second

func (s *server) shieldNotes() string { return filepath.Join(s.cfg.Data, "shield.notes") }

// readHistories reads what the shield knew. Without it the shield begins anew.
func (s *server) readHistories() map[string]string {
	known, err := notes.Read(s.shieldNotes())
	if err != nil {
		s.log.Error().Err(err).Msg("what the bounce shield knew cannot be read: it begins anew")
	}
	return known
}

// keepHistories writes what the shield knows, at the end for the last time. Sessions have ended by then.
func (s *server) keepHistories(ctx context.Context) {
	var kept uint64
	for done := false; !done; {
		select {
		case <-ctx.Done():
			done = true
		case <-time.After(keepEvery):
		}
		known, changes := s.engine.Histories(kept)
		if known == nil {
			continue
		}
		if err := notes.Write(s.shieldNotes(), known); err != nil {
			s.log.Error().Err(err).Msg("what the bounce shield knows cannot be written, it will be tried again")
			continue
		}
		kept = changes
	}
}

// holdNotes is the file that a bounce.Reporter keeps its holds in.
type holdNotes string

// Load implements bounce.Holds.
func (f holdNotes) Load() (map[string]time.Time, error) {
	facts, err := notes.Read(string(f))
	if err != nil {
		return nil, err
	}
	holds := make(map[string]time.Time, len(facts))
	for domain, text := range facts {
		if holds[domain], err = time.Parse(time.RFC3339Nano, text); err != nil {
			return nil, fmt.Errorf("%s: %s: %w", string(f), domain, err)
		}
	}
	return holds, nil
}

// Save implements bounce.Holds.
func (f holdNotes) Save(holds map[string]time.Time) error {
	facts := make(map[string]string, len(holds))
	for domain, at := range holds {
		facts[domain] = at.UTC().Format(time.RFC3339Nano)
	}
	return notes.Write(string(f), facts)
}
