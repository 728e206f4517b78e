package imports

import (
	"cmp"
	"errors"
	"io"
	"io/fs"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"
)

// maildir reads the letters in new and cur; those in tmp are not whole. A letter arrived when its name says (the seconds in front), or
// when its file was written. It is named by its file's name without the flags behind the colon, so that it may be read and filed meanwhile.
type maildir struct {
	root  *os.Root // its owner may make new and cur links to somebody else's
	names []string // "new/NAME", oldest first

	filed  map[string]string // names in cur without flags, and with, when it was last looked at
	looked time.Time         // cur's time then
}

func openMaildir(dir string) (*maildir, error) {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, err
	}
	m := &maildir{root: root}
	for _, sub := range []string{"new", "cur"} {
		files, err := fs.ReadDir(root.FS(), sub)
		if err != nil {
			return nil, errors.Join(err, root.Close())
		}
		for _, f := range files {
			if f.Name()[0] != '.' && !f.IsDir() { // "readers skip names that begin with a dot"
				m.names = append(m.names, sub+"/"+f.Name())
			}
		}
	}
	slices.SortStableFunc(m.names, func(a, b string) int {
		return cmp.Or(cmp.Compare(nameTime(a), nameTime(b)), cmp.Compare(nameMicro(a), nameMicro(b)), strings.Compare(a[4:], b[4:]))
	})
	return m, nil
}

// nameTime is the time in a name, in seconds, or 0.
func nameTime(name string) int64 {
	digits, _, _ := strings.Cut(name[4:], ".")
	n, err := strconv.ParseInt(digits, 10, 40)
	if err != nil || n < 0 {
		return 0
	}
	return n
}

// nameMicro is the part of a second in a name, in microseconds: M and digits within the part behind the seconds; or 0.
func nameMicro(name string) int64 {
	_, rest, _ := strings.Cut(name[4:], ".")
	part, _, _ := strings.Cut(rest, ".")
	_, digits, _ := strings.Cut(part, "M")
	end := strings.IndexFunc(digits, func(r rune) bool { return r < '0' || r > '9' })
	if end < 0 {
		end = len(digits)
	}
	n, err := strconv.ParseInt(digits[:end], 10, 40)
	if err != nil {
		return 0
	}
	return n
}

func (m *maildir) Len() int          { return len(m.names) }
func (m *maildir) Name(i int) string { return m.names[i] }
func (m *maildir) RemoveAll() error  { return nil }
func (m *maildir) Close() error      { return m.root.Close() }

func (m *maildir) Load(i int) (*Letter, error) {
	name := m.find(m.names[i])
	f, info, err := openIn(m.root, name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	t, err := readTop(f)
	if err != nil {
		return nil, err
	}
	id, _, _ := strings.Cut(m.names[i][4:], ":")
	l := &Letter{Envelope: t.envelope, Sender: t.sender, Identity: "maildir " + id, Alias: t.alias(), Body: t.exported}
	if !t.exported {
		if l.Envelope.Arrived = time.Unix(nameTime(m.names[i]), 0).UnixNano(); l.Envelope.Arrived == 0 {
			l.Envelope.Arrived = info.ModTime().UnixNano()
		}
	}
	l.Envelope.Recipients = dedupe(l.Envelope.Recipients)
	l.Open = func() (io.ReadCloser, error) {
		f, _, err := openIn(m.root, name)
		if err != nil {
			return nil, err
		}
		if _, err := f.Seek(t.length, io.SeekStart); err != nil {
			return nil, err
		}
		return f, nil
	}
	l.Remove = func() error { return removed(m.root.Remove(m.find(m.names[i]))) }
	return l, nil
}

// find is where the letter is now: a reader may have filed it, or changed its flags, since it was listed.
func (m *maildir) find(name string) string {
	if _, err := m.root.Lstat(name); err == nil {
		return name
	}
	id, _, _ := strings.Cut(name[4:], ":")
	if filed := m.filed[id]; filed != "" {
		if _, err := m.root.Lstat("cur/" + filed); err == nil {
			return "cur/" + filed
		}
	}
	m.look()
	if m.filed[id] == "" {
		return name
	}
	return "cur/" + m.filed[id]
}

// look reads cur anew, if it has changed: once for many that were filed together.
func (m *maildir) look() {
	info, err := m.root.Stat("cur")
	if err != nil || info.ModTime().Equal(m.looked) {
		return
	}
	files, err := fs.ReadDir(m.root.FS(), "cur")
	if err != nil {
		return
	}
	m.looked, m.filed = info.ModTime(), make(map[string]string, len(files))
	for _, f := range files {
		id, _, _ := strings.Cut(f.Name(), ":")
		m.filed[id] = f.Name()
	}
}
