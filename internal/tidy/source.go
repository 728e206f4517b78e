package tidy

import (
	"go/ast"
	"go/token"
	"slices"
	"strconv"
	"strings"
)

// within reports whether dir is room or below it.
func within(dir, room string) bool { return dir == room || strings.HasPrefix(dir, room+"/") }

// roomOf finds the row for dir: the one whose folder is the longest.
func roomOf(dir string) (room, bool) {
	best, found := room{}, false
	for _, r := range rooms {
		if within(dir, r.dir) && len(r.dir) > len(best.dir) {
			best, found = r, true
		}
	}
	return best, found
}

// mayImport applies a room's list; a room may always import what is its own.
func (r room) mayImport(target string) bool {
	if r.may == nil || within(target, r.dir) && !hasOwnRow(target, r.dir) {
		return true
	}
	return slices.ContainsFunc(r.may, func(entry string) bool {
		if below, ok := strings.CutSuffix(entry, "/..."); ok {
			return within(target, below)
		}
		return target == entry
	})
}

// hasOwnRow reports whether target has a row of its own other than that of dir.
func hasOwnRow(target, dir string) bool {
	r, ok := roomOf(target)
	return ok && r.dir != dir
}

// imports checks one file against the import table, the owners of libraries and purity.
func (t *tree) imports(s *source) {
	own, known := roomOf(s.dir)
	if !known && s.dir != "." {
		t.report(s.path, 0, "import", "folder %s has no row in the import table", s.dir)
	}
	for _, spec := range s.ast.Imports {
		target, err := strconv.Unquote(spec.Path.Value)
		if err != nil {
			continue // the parser has checked it
		}
		line := t.set.Position(spec.Pos()).Line
		if inner, ours := strings.CutPrefix(target, module+"/"); ours {
			t.ownImport(s, own, inner, line)
			continue
		}
		t.library(s, own, target, line)
	}
}

// ownImport judges an import of another room.
func (t *tree) ownImport(s *source, own room, target string, line int) {
	switch {
	case within(target, "cmd"):
		t.report(s.path, line, "import", "nobody imports %s", target)
	case within(target, "bench") && !within(s.dir, "bench") && !within(s.dir, benchCommand):
		t.report(s.path, line, "import", "only %s may import %s", benchCommand, target)
	case s.test:
	case slices.Contains(testOnly, target):
		t.report(s.path, line, "import", "%s is for tests", target)
	case !own.mayImport(target):
		t.report(s.path, line, "import", "%s must not import %s", own.dir, target)
	}
}

// library judges an import from outside the module.
func (t *tree) library(s *source, own room, target string, line int) {
	first, _, _ := strings.Cut(target, "/")
	standard := !strings.Contains(first, ".")
	for prefix, dirs := range owners {
		if within(target, prefix) && !slices.ContainsFunc(dirs, func(dir string) bool { return own.dir == dir || within(s.dir, dir) && !own.pure }) {
			t.report(s.path, line, "import", "only %s may import %s", strings.Join(dirs, " and "), target)
		}
	}
	switch {
	case s.test || !own.pure:
	case !standard:
		t.report(s.path, line, "import", "%s imports the standard library only, not %s", own.dir, target)
	case slices.Contains(impure, target):
		t.report(s.path, line, "pure", "%s is pure and must not import %s", own.dir, target)
	}
}

// functions checks lengths, parameters and names of functions.
func (t *tree) functions(s *source) {
	for _, decl := range s.ast.Decls {
		switch d := decl.(type) {
		case *ast.FuncDecl:
			t.function(s, d)
		case *ast.GenDecl:
			t.interfaces(s, d)
		}
	}
}

func (t *tree) function(s *source, d *ast.FuncDecl) {
	line := t.set.Position(d.Pos()).Line
	limit := maxFuncLines
	if s.test || slices.Contains(suites, s.dir) {
		limit = maxTestFuncLines
	}
	if n := t.set.Position(d.End()).Line - line + 1; n > limit {
		t.report(s.path, line, "length", "%s has %d lines, more than %d", d.Name.Name, n, limit)
	}
	if d.Recv == nil && d.Name.Name == "init" {
		t.report(s.path, line, "init", "no init(): whoever needs something set up calls it")
	}
	t.signature(s, d.Name, d.Type)
}

// interfaces checks the methods of interfaces as if they were functions.
func (t *tree) interfaces(s *source, d *ast.GenDecl) {
	if d.Tok != token.TYPE {
		return
	}
	for _, spec := range d.Specs {
		i, ok := spec.(*ast.TypeSpec).Type.(*ast.InterfaceType)
		if !ok {
			continue
		}
		for _, method := range i.Methods.List {
			if f, ok := method.Type.(*ast.FuncType); ok && len(method.Names) == 1 {
				t.signature(s, method.Names[0], f)
			}
		}
	}
}

func (t *tree) signature(s *source, name *ast.Ident, f *ast.FuncType) {
	line := t.set.Position(name.Pos()).Line
	count := 0
	for _, p := range f.Params.List {
		count += max(1, len(p.Names))
		typ := p.Type
		if variadic, ok := typ.(*ast.Ellipsis); ok {
			typ = variadic.Elt
		}
		if id, ok := typ.(*ast.Ident); ok && id.Name == "bool" && name.IsExported() && !s.test {
			t.report(s.path, line, "bool", "%s takes a bool, which says nothing where it is called", name.Name)
		}
	}
	if count > maxParams {
		t.report(s.path, line, "params", "%s has %d parameters, more than %d", name.Name, count, maxParams)
	}
}

// clock finds where the time of day is read.
func (t *tree) clock(s *source) {
	own, _ := roomOf(s.dir)
	if s.test || slices.ContainsFunc(clockRooms, func(dir string) bool { return within(s.dir, dir) }) && !own.pure {
		return
	}
	name := importName(s.ast, "time")
	if name == "" {
		return
	}
	ast.Inspect(s.ast, func(n ast.Node) bool {
		sel, ok := n.(*ast.SelectorExpr)
		if !ok {
			return true
		}
		if x, ok := sel.X.(*ast.Ident); ok && x.Name == name && slices.Contains(clockCalls, sel.Sel.Name) {
			t.report(s.path, t.set.Position(sel.Pos()).Line, "clock", "time.%s: here time is an argument", sel.Sel.Name)
		}
		return true
	})
}

// importName is the name under which a file knows a package, or "".
func importName(f *ast.File, target string) string {
	for _, spec := range f.Imports {
		if spec.Path.Value == strconv.Quote(target) {
			if spec.Name != nil {
				return spec.Name.Name
			}
			return target
		}
	}
	return ""
}

// pure finds goroutines and channels in pure rooms.
func (t *tree) pure(s *source) {
	if own, _ := roomOf(s.dir); s.test || !own.pure {
		return
	}
	ast.Inspect(s.ast, func(n ast.Node) bool {
		switch n.(type) {
		case *ast.GoStmt:
			t.report(s.path, t.set.Position(n.Pos()).Line, "pure", "no goroutines in a pure room")
		case *ast.ChanType:
			t.report(s.path, t.set.Position(n.Pos()).Line, "pure", "no channels in a pure room")
		}
		return true
	})
}
