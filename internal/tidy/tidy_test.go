package tidy

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/rogpeppe/go-internal/txtar"
)

// TestTree holds this repository to the rules.
func TestTree(t *testing.T) {
	findings, err := Check(os.DirFS(filepath.Join("..", "..")))
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range findings {
		t.Error(f)
	}
}

// TestPlanted checks trees in which rules are broken on purpose. The comment of each archive
// lists what must be found, line by line; @N@ in a file stands for N lines.
func TestPlanted(t *testing.T) {
	archives, err := filepath.Glob("testdata/*.txtar")
	if err != nil || len(archives) == 0 {
		t.Fatalf("no planted trees (%v)", err)
	}
	seen := map[string]bool{}
	for _, name := range archives {
		archive, err := txtar.ParseFile(name)
		if err != nil {
			t.Fatal(err)
		}
		files := fstest.MapFS{}
		for _, f := range archive.Files {
			files[f.Name] = &fstest.MapFile{Data: []byte(expand(string(f.Data)))}
		}
		findings, err := Check(files)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		var got strings.Builder
		for _, f := range findings {
			got.WriteString(f.String() + "\n")
			seen[f.Rule] = true
		}
		if want := string(archive.Comment); strings.TrimSpace(got.String()) != strings.TrimSpace(want) {
			t.Errorf("%s: got\n%s\nwant\n%s", name, got.String(), want)
		}
	}
	for _, rule := range []string{"toplevel", "name", "path", "length", "doc", "import", "pure", "params", "bool", "init", "clock"} {
		if !seen[rule] {
			t.Errorf("rule %q was never broken: nothing shows that it can fail", rule)
		}
	}
}

// expand replaces @69@ by 69 lines.
func expand(text string) string {
	for _, n := range []int{65, 68, 69, 148, 149, 797, 798} {
		mark := "@" + strconv.Itoa(n) + "@\n"
		text = strings.ReplaceAll(text, mark, strings.Repeat("\n", n))
	}
	return text
}
