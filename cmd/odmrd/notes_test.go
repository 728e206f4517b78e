package main

import (
	"maps"
	"os"
	"path/filepath"
	"testing"
	"time"
)

func TestHoldNotes(t *testing.T) {
	f := holdNotes(filepath.Join(t.TempDir(), "hold.notes"))
	if holds, err := f.Load(); err != nil || len(holds) != 0 {
		t.Fatal(holds, err)
	}
	want := map[string]time.Time{"a.example": time.Unix(1, 2).UTC(), "b.example": time.Date(2026, 11, 24, 12, 0, 0, 0, time.UTC)}
	if err := f.Save(want); err != nil {
		t.Fatal(err)
	}
	if got, err := f.Load(); err != nil || !maps.Equal(got, want) {
		t.Fatal(got, err)
	}
	if err := os.WriteFile(string(f), []byte("odmr notes 1\na.example\tyesterday\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if holds, err := f.Load(); err == nil {
		t.Error(holds)
	}
}
