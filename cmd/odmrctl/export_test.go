package main

import (
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"odmr/internal/admin"
	"odmr/internal/imports"
	"odmr/internal/mail"
	"odmr/queue"
)

// What is exported is each waiting message with its envelope, once, whether a server runs or not, and however often it is asked for.
func TestExport(t *testing.T) {
	data, dir := dataDir(t), filepath.Join(t.TempDir(), "out")
	store := open(t, data)
	first := put(t, store, "Subject: one\r\n\r\n..dot\r\n", "one.example", "two.example")
	put(t, store, "Subject: two\r\n\r\n"+strings.Repeat("..x\r\n", 100_000), "two.example")
	failOne(t, store, "one.example")
	stop := serve(t, data, store)
	export := func(want string, args ...string) {
		t.Helper()
		code, out, errs := command(t, data, append(append([]string{"export"}, args...), dir)...)
		if code != exitOK || out != want || errs != "" {
			t.Errorf("export %v: status %d\n%s%s\nwant %s", args, code, out, errs, want)
		}
	}
	const tail = " 0 have no recipient left that waits, 0 left the queue meanwhile\n"
	export("1 message exported, 0 were there already,"+tail, "--domain", "ONE.example")
	one := readOnly(t, dir, "one.example")
	if want := "Return-Path: <sender@isp.example>\nDelivered-To: box@one.example\nX-Envelope-To: box@one.example\n" +
		"X-ODMR-Mail: FROM:<sender@isp.example> ENVID=e1\nX-ODMR-Rcpt: TO:<box@one.example>\nX-ODMR-Arrived: 2023-11-14T22:13:20Z\n" +
		"X-ODMR-Client: 192.0.2.1\nX-ODMR-State: ID=" + first.String() + " DOMAIN=one.example ATTEMPTS=1\nSubject: one\n\n.dot\n"; one != want {
		t.Errorf("exported:\n%s\nwant:\n%s", one, want)
	}
	// A reader files it; a killed export leaves a piece.
	name := filepath.Base(only(t, dir, "new/*one.example"))
	if err := os.Rename(filepath.Join(dir, "new", name), filepath.Join(dir, "cur", name+":2,S")); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "tmp", name+".123"), []byte("Return-P"), 0o600); err != nil {
		t.Fatal(err)
	}
	stop()
	export("2 messages exported, 1 were there already," + tail)
	export("0 messages exported, 3 were there already," + tail)
	if !strings.Contains(only(t, dir, "new/*"+first.String()+".two.example"), first.String()) {
		t.Error("the message's id is not in the name")
	}
	if files, _ := filepath.Glob(filepath.Join(dir, "new", "*")); len(files) != 2 {
		t.Errorf("in new: %q", files)
	}
}

// An mbox file that somebody else writes to while an export adds to it stays as they left it.
func TestMboxTargetWrittenMeanwhile(t *testing.T) {
	const letter = "From s@x.example Thu Nov 20 10:00:00 2025\n\nx\n\n"
	v := mail.Envelope{ID: 7, Domain: "one.example", Recipients: []mail.Recipient{{Address: "a@one.example"}}}
	for name, before := range map[string]string{"was there": letter, "came meanwhile": ""} {
		for _, add := range []bool{true, false} {
			path := filepath.Join(t.TempDir(), "box")
			if before != "" {
				if err := os.WriteFile(path, []byte(before), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			m, err := openMboxTarget(path)
			if err != nil {
				t.Fatal(err)
			}
			if add {
				if err := m.write(&v, emptyBody{}); err != nil {
					t.Fatal(err)
				}
			}
			if err := os.WriteFile(path, []byte(before+letter), 0o600); err != nil {
				t.Fatal(err)
			}
			if err := m.sync(); err == nil {
				t.Errorf("%s, adding %v: no error", name, add)
			}
			if err := m.close(); err != nil {
				t.Error(err)
			}
			if b, err := os.ReadFile(path); err != nil || string(b) != before+letter {
				t.Errorf("%s, adding %v: %q, %v", name, add, b, err)
			}
			if left := only(t, filepath.Dir(path), "*"); left != path {
				t.Errorf("left behind: %s", left)
			}
		}
	}
}

// emptyBody is a body of no octets.
type emptyBody struct{ queue.Body }

func (emptyBody) Next() (queue.Segment, error) { return queue.Segment{}, io.EOF }

func only(t *testing.T, dir, pattern string) string {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(dir, pattern))
	if err != nil || len(files) != 1 {
		t.Fatalf("%s: %q %v, want one file", pattern, files, err)
	}
	return files[0]
}

func readOnly(t *testing.T, dir, suffix string) string {
	t.Helper()
	b, err := os.ReadFile(only(t, dir, "new/*"+suffix))
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// A recipient about whom something was decided is not exported: the file would be delivered to whom refused it.
func TestWaiting(t *testing.T) {
	v := mail.Envelope{Recipients: []mail.Recipient{{Address: "a", State: mail.Delivered}, {Address: "b"}, {Address: "c", State: mail.Failed},
		{Address: "d", State: mail.Held}, {Address: "e", State: mail.Relayed}}}
	w := waiting(&v)
	if len(w.Recipients) != 2 || w.Recipients[0].Address != "b" || w.Recipients[1].Address != "d" || len(v.Recipients) != 5 {
		t.Errorf("waiting: %+v of %+v", w.Recipients, v.Recipients)
	}
}

func TestEntryNameIsShortEnough(t *testing.T) {
	v := mail.Envelope{ID: 1, Domain: strings.Repeat("a.", 120) + "example"}
	if n := len(imports.EntryName(&v)); n > 200 {
		t.Errorf("%d octets", n)
	}
}

// With --remove what is exported leaves the queue, but for what a report is due on and what is being collected; an mbox file
// that is there already gets what it lacks.
func TestExportRemove(t *testing.T) {
	for _, kind := range []string{"maildir:", "mbox:"} {
		data := dataDir(t)
		path := filepath.Join(t.TempDir(), "out")
		store := open(t, data)
		put(t, store, "Subject: due\r\n\r\nFrom here\r\n", "one.example", "two.example")
		put(t, store, "Subject: plain\r\n", "one.example")
		failOne(t, store, "one.example")
		lease, err := store.Acquire([]string{"two.example"})
		if err != nil {
			t.Fatal(err)
		}
		stop := serve(t, data, store)
		const tail = " 0 have no recipient left that waits, 0 left the queue meanwhile\n"
		code, out, errs := command(t, data, "export", "--remove", kind+path)
		if want := "3 messages exported, 0 were there already," + tail + "1 message removed from the queue, 1 stay because a report on them is due\n"; out != want || code != exitFailed ||
			!strings.Contains(errs, "stays in the queue") {
			t.Errorf("%s: status %d\n%s%s", kind, code, out, errs)
		}
		lease.Release()
		put(t, store, "Subject: late\r\n", "two.example")
		code, out, errs = command(t, data, "export", "--remove", kind+path)
		if want := "1 message exported, 2 were there already," + tail + "2 messages removed from the queue, 1 stay because a report on them is due\n"; out != want || code != exitOK {
			t.Errorf("%s again: status %d\n%s%s", kind, code, out, errs)
		}
		if n := store.Totals(); n.Messages != 1 {
			t.Errorf("%s: %+v left", kind, n)
		}
		stop()
		source, err := imports.Open(kind+path, imports.Options{})
		if err != nil || source.Len() != 4 {
			t.Fatalf("%s: %v", kind, err)
		}
		for i := range 4 {
			l, err := source.Load(i)
			if err != nil || l.Envelope.EnvID != "e1" {
				t.Errorf("%s letter %d: %v", kind, i, err)
			}
		}
		_ = source.Close()
	}
}

// busyTarget is a target in whose time a customer calls.
type busyTarget struct {
	target
	call func()
}

func (b *busyTarget) sync() error { b.call(); return b.target.sync() }

// What a customer refused while the rest was exported is not removed: its sender is yet to be told.
func TestExportRefusedMeanwhile(t *testing.T) {
	data := dataDir(t)
	store := open(t, data)
	put(t, store, "Subject: one\r\n", "one.example")
	put(t, store, "Subject: two\r\n", "one.example")
	stop := serve(t, data, store)
	defer stop()
	q, err := admin.Dial(t.Context(), data)
	if err != nil {
		t.Fatal(err)
	}
	defer q.Close()
	dir, err := openTarget(filepath.Join(t.TempDir(), "out"))
	if err != nil {
		t.Fatal(err)
	}
	x := &exporter{q: q, remove: true, target: &busyTarget{dir, func() { failOne(t, store, "one.example") }}}
	err = errors.Join(x.run("", &surroundings{stderr: io.Discard, now: time.Now}), dir.close())
	if want := (exported{written: 2, removed: 1, kept: 1}); err != nil || x.count != want {
		t.Errorf("%v, %+v, want %+v", err, x.count, want)
	}
	if n := store.Counts("one.example"); n.Messages != 1 || n.Untold != 1 {
		t.Errorf("left: %+v", n)
	}
}

// What an export removes from the queue of a stopped server is logged, too: on standard error, in the words of the server.
func TestRemovedWithoutServer(t *testing.T) {
	data := dataDir(t)
	store := open(t, data)
	put(t, store, "Subject: one\r\n", "one.example")
	put(t, store, "Subject: two\r\n", "two.example")
	var ids []string
	if err := store.List("", func(e queue.Entry) bool { ids = append(ids, e.Envelope.ID.String()); return true }); err != nil {
		t.Fatal(err)
	}
	if err := store.Close(); err != nil {
		t.Fatal(err)
	}
	code, out, errs := command(t, data, "export", "--domain", "one.example", "--remove", filepath.Join(t.TempDir(), "out"))
	if want := `"queue_id":"` + ids[0] + `","queues":1,"domain":"one.example"`; code != exitOK || !strings.Contains(errs, want) || !strings.Contains(errs, `"message":"message removed by the operator"`) {
		t.Errorf("status %d\n%s%s", code, out, errs)
	}
}

// A slip in the kind of a target makes no directory of that name.
func TestExportNoKind(t *testing.T) {
	data := dataDir(t)
	if err := open(t, data).Close(); err != nil {
		t.Fatal(err)
	}
	t.Chdir(t.TempDir())
	if code, _, errs := command(t, data, "export", "mailbox:out"); code != exitUsage || !strings.Contains(errs, `"mailbox" is no kind of target: write maildir: or mbox: in front of mailbox:out`) {
		t.Errorf("status %d, %s", code, errs)
	}
	if code, _, errs := command(t, data, "export", "maildir:a:b"); code != exitOK {
		t.Errorf("status %d, %s", code, errs)
	}
}
