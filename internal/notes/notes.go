// Package notes keeps a few facts of a server over its restart: names and values, all in one small file.
//
// A file is replaced whole, and is on disk when Write returns: a crash leaves the one before or the new one. Its values are
// text of at most a line. It must never be used for what is written often, or grows with the mail that is held.
package notes

import (
	"bufio"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// head is the first line of a file, with the version of its form.
const head = "odmr notes 1"

// maxFile bounds a file, in octets: 100,000 names with a window of 1,000 messages each.
const maxFile = 128 << 20

// ErrLarge says that facts are more than a file may have: what was written before stays.
var ErrLarge = errors.New("notes: more than a file may have")

// ErrForm says that a file is not one of these, or of another version, or was cut short.
var ErrForm = errors.New("notes: not a file of notes of this version")

// Read returns the facts in file, none if there is no such file.
func Read(file string) (map[string]string, error) {
	info, err := os.Stat(file)
	if errors.Is(err, fs.ErrNotExist) {
		return map[string]string{}, nil
	}
	if err != nil {
		return nil, err
	}
	if info.Size() > maxFile {
		return nil, fmt.Errorf("%s: %w", file, ErrForm)
	}
	text, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	lines := strings.Split(string(text), "\n")
	if len(lines) < 2 || lines[0] != head || lines[len(lines)-1] != "" {
		return nil, fmt.Errorf("%s: %w", file, ErrForm)
	}
	facts := make(map[string]string, len(lines))
	for i, line := range lines[1 : len(lines)-1] {
		name, value, ok := strings.Cut(line, "\t")
		if !ok || name == "" {
			return nil, fmt.Errorf("%s, line %d: %w", file, i+2, ErrForm)
		}
		facts[name] = value
	}
	return facts, nil
}

// Write replaces file by facts, by way of file.new: what a crash leaves of that is written over by the next Write. One Write
// of a file runs at a time. Only its user may read it (0600). Names with a TAB or a line's end in them, of which there are
// none among domains and accounts, are left out.
func Write(file string, facts map[string]string) (err error) {
	size := len(head) + 1
	for name, value := range facts {
		size += len(name) + len(value) + 2
	}
	if size > maxFile { // it could not be read again
		return fmt.Errorf("%s: %w: %d octets", file, ErrLarge, size)
	}
	f, err := os.OpenFile(file+".new", os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, os.Remove(f.Name()))
		}
	}()
	out := bufio.NewWriter(f)
	_, _ = out.WriteString(head + "\n") // Flush says what went wrong
	for _, name := range slices.Sorted(maps.Keys(facts)) {
		if value := facts[name]; name != "" && !strings.ContainsAny(name, "\t\n") && !strings.Contains(value, "\n") {
			_, _ = out.WriteString(name + "\t" + value + "\n")
		}
	}
	if err = errors.Join(out.Flush(), f.Sync(), f.Close()); err != nil {
		return err
	}
	if err = os.Rename(f.Name(), file); err != nil {
		return err
	}
	dir, err := os.Open(filepath.Dir(file))
	if err != nil {
		return err
	}
	return errors.Join(dir.Sync(), dir.Close())
}
