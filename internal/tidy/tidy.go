// Package tidy holds the rules of the house as a check over the source tree: who may import
// whom, how long files and functions may be, where the clock may be read, what stands at the
// top level. Its test runs the check over this repository, so that a broken rule is a failing test, and
// over planted trees (testdata), so that a rule that cannot fail is one too.
//
// The rules are data where they can be (see rules.go). A rule is changed there, with its
// reason, never worked around in the code that breaks it. The package reads files through
// fs.FS and the standard library's parser; it must import nothing of the tree it judges.
package tidy

import (
	"bytes"
	"cmp"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"path"
	"slices"
	"strings"
)

// Finding is one place that breaks a rule.
type Finding struct {
	Path string // slash-separated, from the root of the tree
	Line int    // 0 if it concerns the whole file or folder
	Rule string // name of the rule, one word
	Text string // what is wrong
}

func (f Finding) String() string {
	return fmt.Sprintf("%s:%d: %s: %s", f.Path, f.Line, f.Rule, f.Text)
}

// tree is what has been read of the source tree so far.
type tree struct {
	files    fs.FS
	set      *token.FileSet
	packages map[string]*pkg // by folder
	ignored  map[string]bool // top-level entries that .gitignore names as /NAME/
	findings []Finding
}

// pkg is what the rules about whole packages need.
type pkg struct {
	name string
	docs []string // package comments of files that are not tests
	file string   // one of its files
}

// source is one parsed Go file.
type source struct {
	path string
	dir  string // "." at the root
	test bool
	ast  *ast.File
}

// Check applies all rules to the tree and returns what it found, in order of path and line.
func Check(files fs.FS) ([]Finding, error) {
	t := &tree{files: files, set: token.NewFileSet(), packages: map[string]*pkg{}, ignored: map[string]bool{}}
	if text, err := fs.ReadFile(files, ".gitignore"); err == nil {
		for _, line := range strings.Fields(string(text)) {
			if name, ok := strings.CutPrefix(line, "/"); ok {
				t.ignored[strings.TrimSuffix(name, "/")] = true
			}
		}
	}
	if err := t.topLevel(); err != nil {
		return nil, err
	}
	if err := fs.WalkDir(files, ".", t.visit); err != nil {
		return nil, err
	}
	t.packageDocs()
	slices.SortFunc(t.findings, func(a, b Finding) int {
		return cmp.Or(cmp.Compare(a.Path, b.Path), cmp.Compare(a.Line, b.Line), cmp.Compare(a.Rule, b.Rule), cmp.Compare(a.Text, b.Text))
	})
	return t.findings, nil
}

func (t *tree) report(name string, line int, rule, format string, args ...any) {
	t.findings = append(t.findings, Finding{Path: name, Line: line, Rule: rule, Text: fmt.Sprintf(format, args...)})
}

func (t *tree) topLevel() error {
	entries, err := fs.ReadDir(t.files, ".")
	if err != nil {
		return err
	}
	for _, e := range entries {
		name := e.Name()
		if !strings.HasPrefix(name, ".") && !t.ignored[name] && !slices.Contains(topLevel, name) {
			t.report(name, 0, "toplevel", "the top level is fixed: %s", strings.Join(topLevel, " "))
		}
	}
	return nil
}

// visit looks at one file or folder.
func (t *tree) visit(name string, entry fs.DirEntry, err error) error {
	if err != nil {
		return err
	}
	if entry.IsDir() {
		if name == ".git" || name == plantedTrees || t.ignored[name] {
			return fs.SkipDir
		}
		if slices.Contains(vagueNames, entry.Name()) {
			t.report(name, 0, "name", "say what the folder is for")
		}
		return nil
	}
	if !entry.Type().IsRegular() || name == ".git" { // in a linked work tree .git is a file
		return nil
	}
	text, err := fs.ReadFile(t.files, name)
	if err != nil {
		return err
	}
	if bytes.IndexByte(text, 0) >= 0 {
		return nil // not text
	}
	t.machinePaths(name, text)
	if strings.HasSuffix(name, ".go") && !strings.Contains("/"+name, "/testdata/") {
		return t.goFile(name, text)
	}
	return nil
}

func (t *tree) machinePaths(name string, text []byte) {
	for i, line := range bytes.Split(text, []byte("\n")) {
		if found := machinePath.FindSubmatch(line); found != nil {
			t.report(name, i+1, "path", "%s is a path of one machine", found[1])
		}
	}
}

func (t *tree) goFile(name string, text []byte) error {
	file, err := parser.ParseFile(t.set, name, text, parser.ParseComments|parser.SkipObjectResolution)
	if err != nil {
		return err
	}
	s := &source{path: name, dir: path.Dir(name), test: strings.HasSuffix(name, "_test.go"), ast: file}
	if base := strings.TrimSuffix(strings.TrimSuffix(path.Base(name), ".go"), "_test"); slices.Contains(vagueNames, base) {
		t.report(name, 0, "name", "say what the file is for")
	}
	if n := bytes.Count(text, []byte("\n")); n > maxFileLines {
		t.report(name, 0, "length", "%d lines, more than %d", n, maxFileLines)
	}
	t.notePackage(s)
	t.imports(s)
	t.functions(s)
	t.clock(s)
	t.pure(s)
	return nil
}

func (t *tree) notePackage(s *source) {
	if s.test {
		return
	}
	p := t.packages[s.dir]
	if p == nil {
		p = &pkg{name: s.ast.Name.Name, file: s.path}
		t.packages[s.dir] = p
	}
	if s.ast.Doc != nil {
		p.docs = append(p.docs, s.ast.Doc.Text())
	}
}

// packageDocs asks for one package comment per package, in the form that godoc expects.
func (t *tree) packageDocs() {
	for dir, p := range t.packages {
		want := "Package " + p.name + " "
		if p.name == "main" {
			want = "Command " + path.Base(dir) + " "
		}
		switch {
		case len(p.docs) == 0:
			t.report(p.file, 0, "doc", "package %s has no package comment", p.name)
		case len(p.docs) > 1:
			t.report(p.file, 0, "doc", "package %s has %d package comments", p.name, len(p.docs))
		case !strings.HasPrefix(p.docs[0], want):
			t.report(p.file, 0, "doc", "the package comment does not begin with %q", want)
		}
	}
}
