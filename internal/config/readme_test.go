package config

import (
	"bytes"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

var update = flag.Bool("update", false, "write the table of flags into README.md")

const (
	tableBegin = "<!-- flags: written by make flags -->\n"
	tableEnd   = "<!-- /flags -->\n"
)

// TestReadmeShowsEveryFlag compares the README's table with the flags.
func TestReadmeShowsEveryFlag(t *testing.T) {
	name := filepath.Join("..", "..", "README.md")
	text, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	before, rest, ok := strings.Cut(string(text), tableBegin)
	have, after, ok2 := strings.Cut(rest, tableEnd)
	if !ok || !ok2 {
		t.Fatalf("README.md lacks the lines %q and %q", tableBegin, tableEnd)
	}
	var want bytes.Buffer
	if err := WriteTable(&want); err != nil {
		t.Fatal(err)
	}
	if have == want.String() {
		return
	}
	if !*update {
		t.Fatal("the table of flags in README.md is stale: run make flags")
	}
	if err := os.WriteFile(name, []byte(before+tableBegin+want.String()+tableEnd+after), 0o644); err != nil {
		t.Fatal(err)
	}
}
