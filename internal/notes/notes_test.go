package notes

import (
	"errors"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestNotes(t *testing.T) {
	file := filepath.Join(t.TempDir(), "notes")
	if facts, err := Read(file); err != nil || len(facts) != 0 {
		t.Fatal(facts, err)
	}
	for _, want := range []map[string]string{{"a.example": "1", "b c": "", "d": "x\ty"}, {}, {"a.example": "2"}} {
		if err := Write(file, want); err != nil {
			t.Fatal(err)
		}
		if got, err := Read(file); err != nil || !maps.Equal(got, want) {
			t.Fatalf("%v, want %v; %v", got, want, err)
		}
	}
	if err := Write(file, map[string]string{"a\tb": "1", "c": "x\ny", "d": "1"}); err != nil {
		t.Fatal(err)
	}
	if got, err := Read(file); err != nil || !maps.Equal(got, map[string]string{"d": "1"}) {
		t.Fatal(got, err)
	}
	if err := os.WriteFile(file+".new", []byte("what a crash left of a longer one"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := Write(file, map[string]string{}); err != nil {
		t.Fatal(err)
	}
	if got, err := Read(file); err != nil || len(got) != 0 {
		t.Fatal(got, err)
	}
	info, err := os.Stat(file)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Error(info.Mode(), err)
	}
	if left, err := os.ReadDir(filepath.Dir(file)); err != nil || len(left) != 1 {
		t.Error(left, err)
	}
}

// What is damaged is an error, and not less than there was.
func TestDamaged(t *testing.T) {
	file := filepath.Join(t.TempDir(), "notes")
	for _, text := range []string{"", "odmr notes 2\n", "odmr notes 1", "odmr notes 1\na\t1\nb\t", "odmr notes 1\na\n", "odmr notes 1\n\t1\n", "\x00\x00\x00"} {
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if facts, err := Read(file); !errors.Is(err, ErrForm) {
			t.Errorf("%q: %v, %v", text, facts, err)
		}
	}
}

// What could not be read again is not written, and what was there stays.
func TestTooLarge(t *testing.T) {
	file := filepath.Join(t.TempDir(), "notes")
	if err := Write(file, map[string]string{"a": "1"}); err != nil {
		t.Fatal(err)
	}
	large := strings.Repeat("x", maxFile/2)
	if err := Write(file, map[string]string{"a": large, "b": large}); !errors.Is(err, ErrLarge) {
		t.Fatal(err)
	}
	if facts, err := Read(file); err != nil || len(facts) != 1 || facts["a"] != "1" {
		t.Error(len(facts), err)
	}
}
