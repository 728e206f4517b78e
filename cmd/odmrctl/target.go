package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"odmr/internal/admin"
	"odmr/internal/client"
	"odmr/internal/imports"
	"odmr/internal/mail"
	"odmr/queue"
)

// maildirTarget writes each entry into a file of its own, which is synced before it appears.
type maildirTarget struct {
	dir     string
	maildir *client.Maildir
	there   map[string]bool // names in new and cur, without flags
}

func openMaildirTarget(dir string) (*maildirTarget, error) {
	m := &maildirTarget{dir: dir, there: map[string]bool{}}
	var err error
	if m.maildir, err = client.OpenMaildir(dir, nil); err != nil {
		return nil, err
	}
	for _, sub := range []string{"new", "cur"} {
		files, err := os.ReadDir(filepath.Join(dir, sub))
		if err != nil {
			return nil, errors.Join(err, m.maildir.Close())
		}
		for _, f := range files {
			name, _, _ := strings.Cut(f.Name(), ":")
			m.there[name] = true
		}
	}
	return m, nil
}

func (m *maildirTarget) has(v *mail.Envelope) bool { return m.there[imports.EntryName(v)] }

func (m *maildirTarget) write(v *mail.Envelope, body queue.Body) error {
	sink, err := m.maildir.Deliver(imports.EntryName(v), v)
	if err != nil {
		return err
	}
	_, err = io.WriteString(sink, imports.Parameters(v))
	if err == nil {
		err = admin.CopyBody(&unstuffer{out: sink}, body)
	}
	if err != nil {
		sink.Abort()
		return err
	}
	if err := sink.Commit(); err != nil {
		return err
	}
	m.there[imports.EntryName(v)] = true
	return nil
}

// sync makes the names durable of files that a killed run, or a reader, has moved to where they are.
func (m *maildirTarget) sync() error {
	return errors.Join(syncDir(filepath.Join(m.dir, "new")), syncDir(filepath.Join(m.dir, "cur")))
}

func (m *maildirTarget) close() error { return m.maildir.Close() }

func syncDir(dir string) error {
	f, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}

// mboxTarget writes a file of mail, as a whole: beside it, and when it is complete and synced in its place. What is in a file
// that is there already comes first.
type mboxTarget struct {
	path  string
	there map[doneEntry]bool
	old   os.FileInfo // the file that was there before, or nil
	tmp   *os.File    // nil until something is to be added
	out   *bufio.Writer
}

func openMboxTarget(path string) (*mboxTarget, error) {
	m := &mboxTarget{path: path, there: map[doneEntry]bool{}}
	var err error
	if m.old, err = os.Lstat(path); errors.Is(err, fs.ErrNotExist) {
		return m, nil
	}
	old, err := imports.Open("mbox:"+path, imports.Options{})
	if err != nil {
		return nil, err
	}
	for i := range old.Len() {
		if l, err := old.Load(i); err == nil && l.Body { // an export's
			m.there[doneEntry{l.Envelope.Domain, l.Envelope.ID}] = true
		}
	}
	return m, old.Close()
}

func (m *mboxTarget) has(v *mail.Envelope) bool { return m.there[doneEntry{v.Domain, v.ID}] }

// begin makes the file in which all is gathered.
func (m *mboxTarget) begin() error {
	var err error
	if m.tmp, err = os.CreateTemp(filepath.Dir(m.path), "."+filepath.Base(m.path)+".*"); err != nil { // mode 0600
		return err
	}
	m.out = bufio.NewWriterSize(m.tmp, 64<<10)
	old, err := os.Open(m.path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	last := &lastOctet{out: m.out}
	if _, err = io.Copy(last, old); err == nil && last.octet != '\n' && last.octet != 0 {
		err = m.out.WriteByte('\n')
	}
	return errors.Join(err, old.Close())
}

// lastOctet remembers the last octet written.
type lastOctet struct {
	out   io.Writer
	octet byte
}

func (l *lastOctet) Write(p []byte) (int, error) {
	if len(p) > 0 {
		l.octet = p[len(p)-1]
	}
	return l.out.Write(p)
}

func (m *mboxTarget) write(v *mail.Envelope, body queue.Body) error {
	if m.tmp == nil {
		if err := m.begin(); err != nil {
			return err
		}
	}
	if err := m.out.Flush(); err != nil {
		return err
	}
	from, err := m.tmp.Seek(0, io.SeekCurrent)
	if err != nil {
		return err
	}
	_, _ = m.out.WriteString(imports.Separator(v) + "\n" + imports.Fields(v)) // a bufio.Writer keeps its first error for Flush
	if err := admin.CopyBody(&unstuffer{out: imports.NewQuoter(m.out)}, body); err != nil {
		// Half a letter must not stay, nor take the next one in.
		m.out.Reset(m.tmp)
		_, serr := m.tmp.Seek(from, io.SeekStart)
		return errors.Join(err, m.tmp.Truncate(from), serr)
	}
	_ = m.out.WriteByte('\n')
	if err := m.out.Flush(); err != nil {
		return err
	}
	m.there[doneEntry{v.Domain, v.ID}] = true
	return nil
}

func (m *mboxTarget) sync() error {
	if m.tmp != nil {
		if err := errors.Join(m.out.Flush(), m.tmp.Sync()); err != nil {
			return err
		}
	}
	if err := m.replace(); err != nil {
		return err
	}
	if m.tmp != nil {
		err := m.tmp.Close()
		if m.tmp = nil; err != nil {
			return err
		}
	}
	return syncDir(filepath.Dir(m.path))
}

// replace puts the new file, if there is one, in the old one's place, unless somebody has written there meanwhile: that would be lost,
// or what was there is there no more.
func (m *mboxTarget) replace() error {
	dir, err := os.Open(filepath.Dir(m.path))
	if err != nil {
		return err
	}
	defer dir.Close()
	if err := syscall.Flock(int(dir.Fd()), syscall.LOCK_EX); err != nil { // between two exports
		return err
	}
	now, err := os.Lstat(m.path)
	switch {
	case errors.Is(err, fs.ErrNotExist) && m.old == nil:
	case err != nil:
		return err
	case m.old == nil || !os.SameFile(now, m.old) || now.Size() != m.old.Size() || !now.ModTime().Equal(m.old.ModTime()):
		return fmt.Errorf("%s was written to meanwhile: it stays as it is, and so does the queue; run it again", m.path)
	}
	if m.tmp == nil {
		return nil
	}
	return os.Rename(m.tmp.Name(), m.path)
}

// close removes what did not become complete.
func (m *mboxTarget) close() error {
	if m.tmp == nil {
		return nil
	}
	return errors.Join(m.tmp.Close(), os.Remove(m.tmp.Name()))
}
