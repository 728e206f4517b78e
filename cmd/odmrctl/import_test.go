package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"odmr/internal/admin"
	"odmr/internal/imports"
	"odmr/internal/mail"
	"odmr/queue/pebblestore"
)

// all lets everything in.
type all struct{}

func (all) Admit(a *admin.Asked) (string, *mail.Refusal) { return "example.org", nil }
func (all) Imported([]mail.Envelope)                     {}

// someLetters is a source; the content of letter still stands still for five seconds, once it is read for the second time.
type someLetters struct {
	n, still int
	opened   map[int]int
}

func (s *someLetters) Len() int          { return s.n }
func (s *someLetters) Name(i int) string { return fmt.Sprint("letter ", i) }
func (s *someLetters) RemoveAll() error  { return nil }
func (s *someLetters) Close() error      { return nil }
func (s *someLetters) Load(i int) (*imports.Letter, error) {
	l := &imports.Letter{Sender: true, Identity: fmt.Sprint("some ", i)}
	l.Envelope = mail.Envelope{Arrived: 1_700_000_000_000_000_000, Recipients: []mail.Recipient{{Address: "a@example.org"}}}
	l.Open = func() (io.ReadCloser, error) {
		content := strings.NewReader(fmt.Sprintf("Subject: %d\n\n%s", i, strings.Repeat("a line of many\n", 10_000)))
		if s.opened[i]++; i == s.still && s.opened[i] == 2 {
			return io.NopCloser(io.MultiReader(pause(5*time.Second), content)), nil
		}
		return io.NopCloser(content), nil
	}
	return l, nil
}

// pause is a reader of nothing that takes so long.
type pause time.Duration

func (p pause) Read([]byte) (int, error) { time.Sleep(time.Duration(p)); return 0, io.EOF }

// An import that stood still is ended by the server: the command says so, and what to do, and fails; run again it goes on
// where it was.
func TestImportStoodStill(t *testing.T) {
	dir := t.TempDir()
	store, err := pebblestore.Open(admin.QueueDir(dir), pebblestore.Options{Now: time.Now})
	if err != nil {
		t.Fatal(err)
	}
	intake := &admin.Intake{Store: store, Gate: all{}, Stall: 200 * time.Millisecond}
	client := taking(t, dir, store, intake)
	const letters = 5
	source := &someLetters{n: letters, still: 3, opened: map[int]int{}}
	run := func() (string, error) {
		var out bytes.Buffer
		i := &importer{cmd: &importCommand{Arrived: "kept"}, server: client, source: source, out: bufio.NewWriter(&out), now: time.Now}
		i.progress = newProgress(&surroundings{stderr: io.Discard, now: time.Now}, "importing", letters)
		err := i.run(t.Context())
		i.summary()
		err = errors.Join(err, i.out.Flush())
		return out.String(), err
	}
	_, err = run()
	if !errors.Is(err, admin.ErrStill) {
		t.Fatal(err)
	}
	var said bytes.Buffer
	if status := complain(&said, nil, err); status != exitFailed || said.String() != "odmrctl: the server has ended the import: nothing came for 200ms: run the same command again, and it goes on\n" {
		t.Errorf("status %d, %q", status, said.String())
	}
	intake.Stall = 0 // it may be slow
	before := store.Counts("example.org").Messages
	out, err := run()
	if want := fmt.Sprintf("%s taken (for %s), %d here already, 0 left\n", plural(letters-before, "message"), plural(letters-before, "recipient"), before); err != nil || out != want {
		t.Errorf("%v, %q, want %q", err, out, want)
	}
	if n := store.Counts("example.org").Messages; n != letters {
		t.Errorf("%d messages", n)
	}
}

// taking serves store and intake until the test ends.
func taking(t *testing.T, dir string, store *pebblestore.Store, intake *admin.Intake) *admin.Client {
	t.Helper()
	server, err := admin.ServeControl(dir, store, intake)
	if err != nil {
		t.Fatal(err)
	}
	client, err := admin.Dial(t.Context(), dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		client.Close()
		if err := errors.Join(server.Shutdown(context.Background()), store.Close()); err != nil {
			t.Error(err)
		}
	})
	return client
}

// What was exported twice, into a Maildir and into a file, comes in once: from whichever first, and though a reader has named
// the files anew.
func TestImportOfTwoExports(t *testing.T) {
	data, dir := dataDir(t), t.TempDir()
	store := open(t, data)
	const messages = 4
	for i, body := range []string{"Subject: x\r\n\r\nFrom here\r\n", "Subject: same\r\n\r\n\r\n\r\n", "Subject: same\r\n\r\n\r\n\r\n", "\r\n"} {
		put(t, store, body, "example.org")
		if i == 0 {
			failOne(t, store, "example.org")
		}
	}
	if err := store.Close(); err != nil {
		t.Fatal(err)
	}
	maildir, mbox := "maildir:"+filepath.Join(dir, "out"), "mbox:"+filepath.Join(dir, "box")
	for _, target := range []string{maildir, mbox} {
		if code, _, errs := command(t, data, "export", target); code != exitOK {
			t.Fatal(errs)
		}
	}
	for _, sources := range [][]string{{maildir, mbox, maildir}, {mbox, maildir, mbox}} {
		to := dataDir(t)
		store := open(t, to)
		taking(t, to, store, &admin.Intake{Store: store, Gate: all{}})
		for i, source := range sources {
			want := fmt.Sprintf("%d messages taken (for 7 recipients), 0 here already, 0 left\n", messages)
			if i > 0 {
				want = fmt.Sprintf("0 messages taken (for 0 recipients), %d here already, 0 left\n", messages)
			}
			if code, out, errs := command(t, to, "import", source); code != exitOK || out != want {
				t.Errorf("%q: %s: status %d\n%s%s, want %s", sources, source, code, out, errs, want)
			}
		}
		files, err := filepath.Glob(filepath.Join(dir, "out", "new", "*"))
		if err != nil || len(files) != messages {
			t.Fatal(files, err)
		}
		for _, f := range files {
			if err := os.Rename(f, f+",S=9"); err != nil {
				t.Fatal(err)
			}
		}
		if _, out, errs := command(t, to, "import", maildir); out != fmt.Sprintf("0 messages taken (for 0 recipients), %d here already, 0 left\n", messages) {
			t.Errorf("renamed: %s%s", out, errs)
		}
	}
}

// What is wrong with the command line is told without a server.
func TestImportJudgesFlagsFirst(t *testing.T) {
	data := dataDir(t)
	path := filepath.Join(t.TempDir(), "box")
	if err := os.WriteFile(path, []byte("From x Thu Nov 20 10:00:00 2025\n\nx\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		args   []string
		status int
		want   string
	}{
		{[]string{"--domain", "-x"}, exitUsage, "-x"},
		{[]string{"--recipient", "tim"}, exitUsage, "recipient <tim>: Bad recipient address syntax"},
		{[]string{"--recipient", "tim@example.org", "--sender", "a b"}, exitUsage, "sender <a b>"},
		{[]string{"--recipient", "tim@example.org", "--domain", "example.com"}, exitUsage, "recipient <tim@example.org>: is not in --domain example.com"},
		{[]string{"--waive", "quotas"}, exitUsage, "quota"},
		{[]string{"--recipient", "tim@EXAMPLE.org", "--domain", "example.org", "--sender", "<>"}, exitFailed, "import needs a running server"},
	} {
		code, out, errs := command(t, data, append(append([]string{"import"}, c.args...), "mbox:"+path)...)
		if code != c.status || out != "" || !strings.Contains(errs, c.want) {
			t.Errorf("%q: status %d\n%s%s\nwant %d, %s", c.args, code, out, errs, c.status, c.want)
		}
	}
	if code, _, errs := command(t, data, "import", "maildir:"+path+".not"); code != exitFailed || !strings.Contains(errs, "no such file") {
		t.Errorf("no source: status %d, %s", code, errs)
	}
}
