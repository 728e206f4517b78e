package imports

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"odmr/internal/mail"
)

// record is one of a Postfix queue file.
func record(kind byte, data string) string {
	return string(kind) + string(binary.AppendUvarint(nil, uint64(len(data)))) + data
}

// queueFile is a queue file as Postfix writes it, with more records in each group.
func queueFile(envelope, content, extra string) string {
	return record('C', fmt.Sprintf("%15d %15d %15d %15d %15d %15d", 10, 100, 1, 0, 10, 0)) + record('T', "1700000000 123456") + record('A', "rewrite_context=local") +
		record('S', "s@x.example") + envelope + record('M', "") + content + record('X', "") + extra + record('E', "")
}

// putQueue writes a queue file, whole.
func putQueue(t testing.TB, dir, name, text string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Join(dir, "deferred"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(file(t, dir, name, text), 0o700); err != nil {
		t.Fatal(err)
	}
}

// loadQueue reads the one letter of a queue that has this file.
func loadQueue(t testing.TB, text string) (*Letter, error) {
	t.Helper()
	dir := t.TempDir()
	putQueue(t, dir, "deferred/A/ABC", text)
	s := open(t, "postfix:"+dir)
	if s.Len() != 1 {
		t.Fatalf("%d letters", s.Len())
	}
	return s.Load(0)
}

const someLines = "\x4e\x0cSubject: one" + "\x4e\x00" + "\x4c\x03abc" + "\x4e\x03def"

func TestPostfix(t *testing.T) {
	text := queueFile(record('A', "encoding=8bit")+record('A', "ret_flags=2")+record('A', "envelope_id=QQ+1")+record('A', "notify_flags=6")+record('A', "dsn_orig_rcpt=rfc822;a=b@y.example")+
		record('O', "orig@b.example")+record('R', "a@b.example")+record('A', "notify_flags=1")+record('D', "done@b.example")+record('/', "canceled@b.example"),
		someLines, record('r', "receipt@x.example")+record('R', "c@b.example")+record('R', "a@b.example"))
	l, err := loadQueue(t, text)
	if err != nil {
		t.Fatal(err)
	}
	v := l.Envelope
	if v.ReversePath != "s@x.example" || v.Arrived != 1700000000_123456000 || v.Body != mail.Body8BitMIME || v.Ret != mail.ReturnHeaders || v.EnvID != "QQ+2B1" || v.SMTPUTF8 {
		t.Errorf("envelope %+v", v)
	}
	if recipients(l) != "a@b.example c@b.example" || v.Recipients[0].Notify != 6 || v.Recipients[0].ORcpt != "rfc822;a+3Db@y.example" || v.Recipients[1] != (mail.Recipient{Address: "c@b.example"}) {
		t.Errorf("recipients %+v", v.Recipients)
	}
	if got := read(t, l); got != "Subject: one\r\n\r\nabcdef\r\n" {
		t.Errorf("content %q", got)
	}
	// Cut off anywhere, it is no letter.
	for n := range len(text) - 1 {
		if _, err := loadQueue(t, text[:n]); !errors.Is(err, ErrUnreadable) {
			t.Errorf("cut off at %d of %d: %v", n, len(text), err)
		}
	}
}

func TestPostfixThatIsLeft(t *testing.T) {
	rcpt := record('R', "a@b.example")
	front := len(queueFile("", "", "")) - len(record('M', "")+record('X', "")+record('E', ""))
	for name, text := range map[string]string{
		"no recipient":     queueFile(record('D', "a@b.example"), someLines, ""),
		"content filter":   queueFile(rcpt+record('L', "smtp:127.0.0.1:10024"), someLines, ""),
		"redirected":       queueFile(rcpt, someLines, record('>', "other@b.example")),
		"VERP":             queueFile(rcpt+record('V', "+="), someLines, ""),
		"no sender":        strings.Replace(queueFile(rcpt, someLines, ""), record('S', "s@x.example"), "", 1),
		"circle":           queueFile(rcpt+record('p', fmt.Sprintf("%15d", front)), someLines, ""),
		"nowhere":          queueFile(rcpt+record('p', "-5"), someLines, ""),
		"past the end":     queueFile(rcpt+record('p', "1000000"), someLines, ""),
		"huge record":      queueFile(rcpt+"R\xff\xff\xff\x7f", someLines, ""),
		"endless length":   queueFile(rcpt+"R\xff\xff\xff\xff\xff\xff\xff\xff", someLines, ""),
		"content of what?": queueFile(rcpt, someLines+record('S', "x"), ""),
		"two contents":     queueFile(rcpt, someLines, record('M', "")),
		"empty":            "",
	} {
		if _, err := loadQueue(t, text); !errors.Is(err, ErrUnreadable) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// A milter has put a line in place of another, and a recipient at the end: pointers lead there and back.
func TestPostfixPointers(t *testing.T) {
	at := func(n int) string { return record('p', fmt.Sprintf("%15d", n)) }
	front := queueFile("", "", "")
	front = front[:len(front)-len(record('M', "")+record('X', "")+record('E', ""))] + record('R', "a@b.example") + record('M', "")
	size := len(at(0))
	first, back := record('N', "Subject: x"), record('N', "")+record('N', "body")
	end := front + first + at(len(front)+len(first)+size+len(back)+len(record('X', ""))+size+len(record('E', ""))) + back + record('X', "")
	lines := record('N', "X-Added: y") + record('N', "X-Too: z")
	rcpt := len(end) + size + len(record('E', "")) + len(lines) + size
	text := end + at(rcpt) + record('E', "") + lines + at(len(front)+len(first)+size) + record('R', "added@b.example") + at(len(end)+size)
	l, err := loadQueue(t, text)
	if err != nil {
		t.Fatal(err)
	}
	if got := read(t, l); got != "Subject: x\r\nX-Added: y\r\nX-Too: z\r\n\r\nbody\r\n" || recipients(l) != "a@b.example added@b.example" {
		t.Errorf("content %q for %s", got, recipients(l))
	}
}

func TestPostfixQueue(t *testing.T) {
	dir := t.TempDir()
	text := queueFile(record('R', "a@b.example"), someLines, "")
	putQueue(t, dir, "deferred/A/ABC2", text)
	putQueue(t, dir, "active/ABC1", strings.Replace(text, "1700000000", "1700000001", 1))
	putQueue(t, dir, "incoming/ABC3", strings.Replace(text, "1700000000", "1600000000", 1))
	putQueue(t, dir, "hold/ABC4", text)
	file(t, dir, "incoming/unfinished", text)
	if err := os.Symlink(filepath.Join(dir, "hold/ABC4"), filepath.Join(dir, "deferred/link")); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Mkfifo(filepath.Join(dir, "deferred/fifo"), 0o700); err != nil {
		t.Fatal(err)
	}
	file(t, dir, "maildrop/ABC5", text)
	s := open(t, dir)
	var names []string
	for i := range s.Len() {
		if _, err := s.Load(i); err == nil {
			names = append(names, s.Name(i))
		} else if !errors.Is(err, ErrUnreadable) {
			t.Error(err)
		}
	}
	if want := "[incoming/ABC3 deferred/A/ABC2 active/ABC1]"; fmt.Sprint(names) != want || s.Len() != 7 {
		t.Errorf("read %v of %d, want %s", names, s.Len(), want)
	}
	if held, err := Open(dir, Options{Hold: true}); err != nil || held.Len() != 8 {
		t.Errorf("with hold: %v", err)
	}
	// Postfix is at work on one.
	f, err := os.Open(filepath.Join(dir, "active/ABC1"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for _, how := range []int{syscall.LOCK_EX, syscall.LOCK_SH} { // the queue manager, those who deliver
		if err := syscall.Flock(int(f.Fd()), how); err != nil {
			t.Fatal(err)
		}
		if _, err := s.Load(s.Len() - 1); !errors.Is(err, ErrUnreadable) {
			t.Errorf("a locked file: %v", err)
		}
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_UN); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Load(s.Len() - 1); err != nil {
		t.Errorf("no more locked: %v", err)
	}
	// It was stopped before it sent a bounce.
	file(t, dir, "bounce/ABC1", "<x@b.example>: unknown\n")
	if _, err := s.Load(s.Len() - 1); !errors.Is(err, ErrUnreadable) {
		t.Errorf("a report is due: %v", err)
	}
}

// spoolHead is a file -H with two recipients, an option with lines of its own, and a tree of those served.
const spoolHead = "1abc-H\nmail 8 8\n<s@x.example>\n1700000000 1\n-received_time_usec .123456\n--helo_name <evil>\n-aclm _x 5\na\n-b\n\n-body_8bitmime 8\n-smtputf8\n" +
	"-dsn_envid QQ+2B1\n-dsn_ret 2\nYN served@B.example\nNN also@b.example\n4\nserved@b.example\na@b.example rfc822;a+2By@z.example 22,20  0,-1#3\n" +
	"journaled@b.example\nc@b.example err@x.example 13,-1#1\n\n017* Subject: deleted\n013  Subject: one\n008F From: x\n"

func putSpool(t testing.TB, dir, id, head, body string) {
	t.Helper()
	file(t, dir, "input/"+id+"-H", head)
	file(t, dir, "input/"+id+"-D", body)
}

func TestExim(t *testing.T) {
	head := spoolHead
	dir := t.TempDir()
	putSpool(t, dir, "1abc", head, "1abc-D\nbody\n")
	file(t, dir, "input/1abc-J", "journaled@b.example\n")
	s := open(t, dir)
	if s.Len() != 1 {
		t.Fatalf("%d letters", s.Len())
	}
	l, err := s.Load(0)
	if err != nil {
		t.Fatal(err)
	}
	v := l.Envelope
	if v.ReversePath != "s@x.example" || v.Arrived != 1700000000_123456000 || v.Body != mail.Body8BitMIME || !v.SMTPUTF8 || v.EnvID != "QQ+2B1" || v.Ret != mail.ReturnHeaders || !v.DelayNotified {
		t.Errorf("envelope %+v", v)
	}
	if recipients(l) != "a@b.example c@b.example" || v.Recipients[0].ORcpt != "rfc822;a+2By@z.example" || v.Recipients[0].Notify != mail.NotifySuccess|mail.NotifyDelay {
		t.Errorf("recipients %+v", v.Recipients)
	}
	if got := read(t, l); got != "Subject: one\r\nFrom: x\r\n\r\nbody\r\n" {
		t.Errorf("content %q", got)
	}
	at := strings.Index(head, "013  Subject")
	for n := range at { // where the header begins it may end, too: then it is a message without one
		putSpool(t, dir, "1abc", head[:n], "1abc-D\nbody\n")
		if l, err := s.Load(0); !errors.Is(err, ErrUnreadable) && n < strings.Index(head, "017*") {
			t.Errorf("cut off at %d: %+v, %v", n, l, err)
		}
	}
}

func TestEximThatIsLeft(t *testing.T) {
	change := func(old, new string) string { return strings.Replace(spoolHead, old, new, 1) }
	for name, head := range map[string]string{
		"other name":     change("1abc-H", "2abc-H"),
		"no sender":      change("<s@x.example>", "s@x.example"),
		"no time":        change("1700000000 1", "x 1"),
		"frozen":         change("-smtputf8", "-frozen 1700000000"),
		"long value":     change("_x 5", "_x 99999999999"),
		"negative value": change("_x 5", "_x -5"),
		"broken tree":    change("YN served", "YX served"),
		"many":           change("\n4\n", "\n400000000\n"),
		"long orcpt":     change("22,20", "2222,20"),
		"long field":     change("017* ", "999999999999* "),
		"cut field":      change("008F", "0077F"),
		"empty":          "",
	} {
		dir := t.TempDir()
		putSpool(t, dir, "1abc", head, "1abc-D\n")
		if l, err := open(t, "exim:"+dir).Load(0); !errors.Is(err, ErrUnreadable) {
			t.Errorf("%s: %+v, %v", name, l, err)
		}
	}
	dir := t.TempDir()
	putSpool(t, dir, "1abc", spoolHead, "1xyz-D\n")
	file(t, dir, "input/a/2abc-H", strings.Replace(spoolHead, "1abc", "2abc", 1)) // no -D
	s := open(t, dir)
	if l, err := s.Load(0); err != nil {
		t.Error(err)
	} else if _, err := l.Open(); !errors.Is(err, ErrUnreadable) {
		t.Errorf("a body of another letter: %v", err)
	}
	if _, err := s.Load(1); !errors.Is(err, ErrUnreadable) {
		t.Errorf("no body: %v", err)
	}
}

// A message is removed only if it is as it was read, while nobody delivers it.
func TestEximRemove(t *testing.T) {
	for name, change := range map[string]func(t *testing.T, dir string){
		"":                func(*testing.T, string) {},
		"somebody has it": func(t *testing.T, dir string) { file(t, dir, "input/1abc-J", "a@b.example\n") },
		"written anew": func(t *testing.T, dir string) {
			file(t, dir, "input/1abc-H.new", spoolHead)
			if err := os.Rename(filepath.Join(dir, "input/1abc-H.new"), filepath.Join(dir, "input/1abc-H")); err != nil {
				t.Fatal(err)
			}
		},
		"no daemon's number": func(t *testing.T, dir string) { file(t, dir, "exim-daemon.pid", fmt.Sprintln(os.Getpid())) },
	} {
		dir := t.TempDir()
		putSpool(t, dir, "1abc", spoolHead, "1abc-D\r\nbody\r\n")
		l, err := open(t, "exim:"+dir).Load(0)
		if err != nil {
			t.Fatal(err)
		}
		change(t, dir)
		gone := name == "" || name == "no daemon's number"
		if err := l.Remove(); (err == nil) != gone {
			t.Errorf("%q: %v", name, err)
		}
		if _, err := os.Stat(filepath.Join(dir, "input/1abc-H")); (err != nil) != gone {
			t.Errorf("%q: removed: %v", name, err != nil)
		}
	}
}

// octetsOfFirst reads the first letter of a hostile source, if that can be read, and says how long its content is.
func octetsOfFirst(t *testing.T, s Source) (n int64) {
	t.Helper()
	l, err := s.Load(0)
	if err != nil {
		return 0
	}
	if len(l.Envelope.Recipients) == 0 {
		t.Fatal("a letter for nobody")
	}
	r, err := l.Open()
	if err != nil {
		return 0
	}
	defer r.Close()
	n, _ = io.Copy(io.Discard, r)
	return n
}

func FuzzPostfix(f *testing.F) {
	f.Add([]byte(queueFile(record('R', "a@b.example"), someLines, "")))
	f.Add([]byte(queueFile(record('R', "a@b.example")+record('p', "              0")+record('w', "xx"), someLines+record('p', "             90"), "")))
	dir := f.TempDir()
	f.Fuzz(func(t *testing.T, b []byte) {
		putQueue(t, dir, "deferred/ABC", string(b))
		s, err := openPostfix(dir, Options{})
		if err != nil {
			t.Fatal(err)
		}
		// Pointers do not make more of a content than its file has.
		if n := octetsOfFirst(t, s); n > int64(len(b)) {
			t.Fatalf("%d octets of a file of %d", n, len(b))
		}
	})
}

func FuzzExim(f *testing.F) {
	f.Add([]byte(spoolHead), []byte("1abc-D\nbody\n"))
	f.Add([]byte("1abc-H\nx 1 1\n<>\n1 0\nXX\n1\na@b.example\n\n"), []byte("1abc-D\n"))
	dir := f.TempDir()
	f.Fuzz(func(t *testing.T, head, body []byte) {
		putSpool(t, dir, "1abc", string(head), string(body))
		s, err := openExim(dir, Options{})
		if err != nil {
			t.Fatal(err)
		}
		octetsOfFirst(t, s)
	})
}
