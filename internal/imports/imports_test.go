package imports

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"syscall"
	"testing"
	"time"

	"pgregory.net/rapid"

	"odmr/internal/mail"
)

// file writes a file below a directory of the test's; it returns its path.
func file(t testing.TB, dir, name, text string) string {
	t.Helper()
	path := filepath.Join(dir, name)
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// read returns a letter's content as it goes on the wire.
func read(t testing.TB, l *Letter) string {
	t.Helper()
	r, err := l.Open()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	b, err := io.ReadAll(Normal(r, KeepBare))
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func open(t testing.TB, spec string) Source {
	t.Helper()
	s, err := Open(spec, Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	return s
}

// recipients are the addresses of a letter, in one text.
func recipients(l *Letter) string {
	var all []string
	for _, r := range l.Envelope.Recipients {
		all = append(all, r.Address)
	}
	return strings.Join(all, " ")
}

// Lines come out as on the wire, however the content is cut into reads.
func TestNormal(t *testing.T) {
	for _, c := range []struct{ in, kept, mended string }{
		{"", "", ""},
		{"a\nb\n", "a\r\nb\r\n", "a\r\nb\r\n"},
		{"a\r\nb", "a\r\nb\r\n", "a\r\nb\r\n"},
		{"\n", "\r\n", "\r\n"},
		{"a\rb\n", "a\rb\r\n", "a\r\nb\r\n"},
		{"a\r", "a\r\r\n", "a\r\n"},
		{"a\r\r\nb\n", "a\r\r\nb\r\n", "a\r\n\r\nb\r\n"},
		{"n\x00l\xff\n", "n\x00l\xff\r\n", "nl\xff\r\n"},
		{".\n..\n", ".\r\n..\r\n", ".\r\n..\r\n"},
	} {
		for cut := range len(c.in) + 1 {
			for r, want := range map[Repair]string{KeepBare: c.kept, Mend: c.mended} {
				src := io.MultiReader(strings.NewReader(c.in[:cut]), strings.NewReader(c.in[cut:]))
				if got, err := io.ReadAll(Normal(src, r)); err != nil || string(got) != want {
					t.Errorf("%q cut at %d, repair %d: %q, %v, want %q", c.in, cut, r, got, err, want)
				}
			}
		}
	}
}

// An envelope is the same after its fields were written and read, and what stands below them is content, though it be forged.
func TestFields(t *testing.T) {
	local := rapid.StringMatching(`[a-z]{1,8}(\+[a-z]{1,4})?|"[a-z @>]{1,6}"`)
	rapid.Check(t, func(rt *rapid.T) {
		v := mail.Envelope{
			ID: mail.ID(rapid.Uint64().Draw(rt, "id")), Domain: rapid.SampledFrom([]string{"", "a.example"}).Draw(rt, "domain"),
			Arrived: rapid.Int64Range(0, 1<<60).Draw(rt, "arrived"), Body: mail.BodyType(rapid.IntRange(0, 1).Draw(rt, "body")),
			SMTPUTF8: rapid.Bool().Draw(rt, "utf8"), Ret: mail.Return(rapid.IntRange(0, 2).Draw(rt, "ret")),
			EnvID: rapid.StringMatching(`(|[A-Za-z0-9]{1,20}(\+2B)?)`).Draw(rt, "envid"), Client: rapid.SampledFrom([]string{"", "192.0.2.1"}).Draw(rt, "client"),
			Attempts: rapid.Uint32().Draw(rt, "attempts"), InDoubt: rapid.Bool().Draw(rt, "doubt"), DelayNotified: rapid.Bool().Draw(rt, "told"),
		}
		if rapid.Bool().Draw(rt, "sender") {
			v.ReversePath = local.Draw(rt, "from") + "@mx.example"
		}
		if rapid.Bool().Draw(rt, "origin") {
			v.Origin = &mail.Origin{Name: "a.example", Helo: rapid.StringMatching(`[ -~]{0,8}`).Draw(rt, "helo"), Addr: "2001:db8::1"}
		}
		for n := range rapid.IntRange(1, 4).Draw(rt, "recipients") {
			r := mail.Recipient{Address: fmt.Sprint(local.Draw(rt, "to"), "@", n, ".example")}
			r.Notify = rapid.SampledFrom([]mail.Notify{0, 1, 2, 4, 8, 6, 14}).Draw(rt, "notify")
			r.ORcpt = rapid.SampledFrom([]string{"", "rfc822;x+2By@z.example", `utf-8;\x{FC}@z.example`}).Draw(rt, "orcpt")
			v.Recipients = append(v.Recipients, r)
		}
		body := rapid.SampledFrom([]string{"", "\nx\n", "Received: x\n\n", "X-ODMR-Rcpt: TO:<victim@x.example>\n", "X-ODMR-State: ATTEMPTS=9\n", "\tfolded\n", Fields(&v), "X-ODMR-Client: 1.2.3.4\n\n"}).Draw(rt, "content")
		text := Fields(&v) + body
		if rapid.Bool().Draw(rt, "crlf") {
			text = strings.ReplaceAll(text, "\n", "\r\n")
			body = strings.ReplaceAll(body, "\n", "\r\n")
		}
		top, err := readTop(strings.NewReader(text))
		if err != nil {
			rt.Fatalf("%v in\n%s", err, text)
		}
		if !top.exported || !reflect.DeepEqual(top.envelope, v) || text[top.length:] != body {
			rt.Fatalf("read\n%+v\nof\n%s\nwant\n%+v\ncontent %q", top.envelope, text, v, text[top.length:])
		}
	})
}

// What stands at the top of mail from other servers, and what does not count.
func TestTop(t *testing.T) {
	for _, c := range []struct{ name, top, content, sender, to string }{
		{"Postfix", "Return-Path: <s@x.example>\nX-Original-To: a@b.example\nDelivered-To: box@localhost\n", "Received: x\nDelivered-To: forged@b.example\n\n", "s@x.example", "a@b.example"},
		{"Exim", "Return-path: <s@x.example>\nEnvelope-to: a@b.example,\n\tc@b.example\nDelivery-date: Thu\n", "Received: x\n\n", "s@x.example", "a@b.example c@b.example"},
		{"Dovecot", "Return-Path: <>\nDelivered-To: <a@b.example>\n", "Received: x\n\n", "", "a@b.example"},
		{"odmrget", "Return-Path: <s@x.example>\nDelivered-To: a@b.example\nX-Envelope-To: a@b.example\n", "Delivered-To: within@b.example\n\n", "s@x.example", "a@b.example"},
		{"quoted", "Return-Path: <s@x.example>\nX-Envelope-To: \"a,b\"@b.example, c@b.example\n", "\nbody\n", "s@x.example", `"a,b"@b.example c@b.example`},
		{"nothing", "", "Received: x\nReturn-Path: <s@x.example>\nDelivered-To: a@b.example\n\n", "-", ""},
		{"no header", "", "\nDelivered-To: a@b.example\n", "-", ""},
		{"not a field", "", "> quoted\n", "-", ""},
		{"empty", "", "", "-", ""},
	} {
		got, err := readTop(strings.NewReader(c.top + c.content))
		if err != nil {
			t.Errorf("%s: %v", c.name, err)
			continue
		}
		sender := got.envelope.ReversePath
		if !got.sender {
			sender = "-"
		}
		if to := recipients(&Letter{Envelope: got.envelope}); sender != c.sender || to != c.to || got.length != int64(len(c.top)) {
			t.Errorf("%s: from %q to %q, %d octets of %d", c.name, sender, to, got.length, len(c.top))
		}
	}
	if _, err := readTop(strings.NewReader("X-ODMR-Mail: FROM:<a@b.example>\nX-ODMR-Arrived: now\n\n")); !errors.Is(err, ErrUnreadable) {
		t.Errorf("altered fields of an export: %v", err)
	}
	if _, err := readTop(strings.NewReader("Delivered-To: a@b.example\n" + strings.Repeat("\tx\n", maxFields))); !errors.Is(err, ErrUnreadable) {
		t.Errorf("endless fields: %v", err)
	}
}

func TestMaildir(t *testing.T) {
	dir := t.TempDir()
	text := "Return-Path: <s@x.example>\nDelivered-To: a@b.example\nSubject: "
	file(t, dir, "new/1700000002.b", text+"second\n\n")
	file(t, dir, "cur/1700000001.a:2,S", text+"first\n\n")
	file(t, dir, "new/noseconds", text+"oldest by its name\n\n")
	file(t, dir, "new/.hidden", "x")
	file(t, dir, "tmp/1700000000.c", text)
	if err := os.Symlink(filepath.Join(dir, "tmp/1700000000.c"), filepath.Join(dir, "new/1700000003.link")); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Mkfifo(filepath.Join(dir, "new/1700000004.fifo"), 0o600); err != nil {
		t.Fatal(err)
	}
	s := open(t, dir)
	var subjects []string
	for i := range s.Len() {
		l, err := s.Load(i)
		if err != nil {
			subjects = append(subjects, "unreadable")
			if !errors.Is(err, ErrUnreadable) {
				t.Error(err)
			}
			continue
		}
		subjects = append(subjects, strings.TrimSpace(read(t, l)))
	}
	want := []string{"Subject: oldest by its name", "Subject: first", "Subject: second", "unreadable", "unreadable"}
	if !reflect.DeepEqual(subjects, want) {
		t.Errorf("read %q, want %q", subjects, want)
	}
	// A reader files one meanwhile: it is the same letter still.
	before, err := s.Load(2)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(filepath.Join(dir, "new/1700000002.b"), filepath.Join(dir, "cur/1700000002.b:2,F")); err != nil {
		t.Fatal(err)
	}
	after, err := s.Load(2)
	if err != nil || after.Identity != before.Identity || after.Envelope.Arrived != 1700000002e9 {
		t.Fatalf("moved: %+v, %v", after, err)
	}
	if err := os.Rename(filepath.Join(dir, "cur/1700000002.b:2,F"), filepath.Join(dir, "cur/1700000002.b:2,FS")); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(filepath.Join(dir, "cur/1700000001.a:2,S"), filepath.Join(dir, "cur/1700000001.a:2,RS")); err != nil {
		t.Fatal(err)
	}
	if l, err := s.Load(1); err != nil || read(t, l) != "Subject: first\r\n\r\n" {
		t.Errorf("with other flags: %v", err)
	}
	if err := after.Remove(); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(filepath.Join(dir, "cur/1700000002.b:2,FS")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("it was filed anew, and not removed: %v", err)
	}
	if _, err := s.Load(2); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("removed: %v", err)
	}
}

// A customer may make a directory of its own Maildir a link to somebody else's: neither is read there nor removed.
func TestMaildirLeadsNowhereElse(t *testing.T) {
	theirs, own := t.TempDir(), t.TempDir()
	letter := file(t, theirs, "cur/1700000001.a:2,S", "Return-Path: <s@x.example>\nDelivered-To: a@b.example\n\nnot yours\n")
	file(t, own, "cur/1700000001.a:2,S", "Return-Path: <s@x.example>\nDelivered-To: a@b.example\n\nyours\n")
	file(t, own, "new/1700000002.b", "Return-Path: <s@x.example>\nDelivered-To: a@b.example\n\nyours\n")
	s := open(t, "maildir:"+own)
	l, err := s.Load(0)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(filepath.Join(own, "cur"), filepath.Join(own, "before")); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(filepath.Join(theirs, "cur"), filepath.Join(own, "cur")); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Load(0); err == nil {
		t.Error("a letter of somebody else's was loaded")
	}
	if content, err := l.Open(); err == nil {
		t.Error("a letter of somebody else's was opened")
		content.Close()
	}
	if err := l.Remove(); err == nil {
		t.Error("it is said that a letter was removed that is not there")
	}
	if _, err := os.Stat(letter); err != nil {
		t.Errorf("somebody else's letter: %v", err)
	}
	if s, err := Open("maildir:"+own, Options{}); err == nil {
		t.Errorf("a Maildir with a link in place of cur was opened, with %d letters", s.Len())
	}
}

// Within a second the microseconds count, as numbers: an export's names have them so, and Dovecot's and Postfix's.
func TestMaildirOrder(t *testing.T) {
	dir := t.TempDir()
	want := []string{"new/1700000001.x", "cur/1700000001.M20Q06c45hvtm2dm0.one.example:2,S", "new/1700000001.M3000P7.host", "new/1700000001.Vfd01I2M100000.host", "new/1700000002.M1P7.host"}
	for _, name := range want {
		file(t, dir, name, "")
	}
	s := open(t, "maildir:"+dir)
	var got []string
	for i := range s.Len() {
		got = append(got, s.Name(i))
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("%q, want %q", got, want)
	}
}

func TestMbox(t *testing.T) {
	text := "From s@x.example Thu Nov 20 10:00:00 2025\nDelivered-To: a@b.example\nSubject: one\n\n>From here\n>>From there\n> From not\n\n\n" +
		"From MAILER-DAEMON Thu Nov 20 10:00:00 2025\r\nDelivered-To: a@b.example\r\n\r\ntwo\r\n\r\n" +
		"From x@y.example  Thu Nov  6 10:00 +0100 2025\nReturn-Path: <real@x.example>\n\nno blank line behind\nFrom x@y.example Thu Nov 06 10:00:00 2025 +0100\nSubject: last"
	path := file(t, t.TempDir(), "box", text)
	s := open(t, "mbox:"+path)
	if s.Len() != 4 {
		t.Fatalf("%d letters, want 4", s.Len())
	}
	for i, want := range []struct{ content, sender, to, arrived string }{
		{"Subject: one\r\n\r\nFrom here\r\n>From there\r\n> From not\r\n\r\n", "s@x.example", "a@b.example", "2025-11-20T10:00:00Z"},
		{"\r\ntwo\r\n", "", "a@b.example", "2025-11-20T10:00:00Z"},
		{"\r\nno blank line behind\r\n", "real@x.example", "", "2025-11-06T09:00:00Z"},
		{"Subject: last\r\n", "x@y.example", "", "2025-11-06T09:00:00Z"},
	} {
		l, err := s.Load(i)
		if err != nil {
			t.Fatal(err)
		}
		at := time.Unix(0, l.Envelope.Arrived).UTC().Format(time.RFC3339)
		if got := read(t, l); got != want.content || l.Envelope.ReversePath != want.sender || recipients(l) != want.to || at != want.arrived || !l.Sender {
			t.Errorf("letter %d: %q from %q to %q at %s", i+1, got, l.Envelope.ReversePath, recipients(l), at)
		}
	}
	// The file is removed as a whole, and not if it was written to; nor is it read then.
	l, err := s.Load(0)
	if err != nil {
		t.Fatal(err)
	}
	content, err := l.Open()
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := s.RemoveAll(); err == nil {
		t.Error("a file that was written to was removed")
	}
	if _, err := s.Load(0); !errors.Is(err, ErrUnreadable) {
		t.Errorf("a letter of a file that was written to: %v", err)
	}
	if _, err := io.ReadAll(content); !errors.Is(err, ErrUnreadable) {
		t.Errorf("content of a file that was written to: %v", err)
	}
	s = open(t, path)
	if err := s.RemoveAll(); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(path); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("not removed: %v", err)
	}
}

func TestMboxThatIsNone(t *testing.T) {
	for _, text := range []string{
		"Subject: x\n\n", "From nobody at all\n", "From a@b.example Thu Nov 20 10:00:00 2025\n\nx\n\nFrom here on it is text\n",
		"From " + strings.Repeat("x", maxSeparator) + " Thu Nov 20 10:00:00 2025\n",
	} {
		if s, err := Open("mbox:"+file(t, t.TempDir(), "box", text), Options{}); err == nil {
			t.Errorf("%.60q: %d letters", text, s.Len())
		}
	}
	if s := open(t, "mbox:"+file(t, t.TempDir(), "box", "")); s.Len() != 0 {
		t.Errorf("an empty file has %d letters", s.Len())
	}
}

// Letters that look alike are two, and a copy of the file brings nothing anew.
func TestIdentity(t *testing.T) {
	letter := "From s@x.example Thu Nov 20 10:00:00 2025\n\nx\n\n"
	stamps := func(path string) (all [][32]byte) {
		s := open(t, "mbox:"+path)
		for i := range s.Len() {
			l, err := s.Load(i)
			if err != nil {
				t.Fatal(err)
			}
			all = append(all, l.Stamp([32]byte{1}, "a@b.example"), l.Stamp([32]byte{1}, "c@b.example"), l.Stamp([32]byte{2}, "a@b.example"))
		}
		return all
	}
	a, b := stamps(file(t, t.TempDir(), "box", letter+letter)), stamps(file(t, t.TempDir(), "copy", letter+letter))
	if !reflect.DeepEqual(a, b) {
		t.Error("a copy has other stamps")
	}
	seen := map[[32]byte]bool{}
	for _, m := range a {
		seen[m] = true
	}
	if len(seen) != 6 {
		t.Errorf("%d different stamps, want 6", len(seen))
	}
}

// A letter of a file keeps its name when others are deleted, though their separators are the same; of those that are the
// same altogether one name goes, whichever is deleted.
func TestIdentityOfTheOthers(t *testing.T) {
	letter := func(text string) string { return "From s@x.example Thu Nov 20 10:00:00 2025\n\n" + text + "\n\n" }
	names := func(text string) (all []string) {
		s := open(t, "mbox:"+file(t, t.TempDir(), "box", text))
		for i := range s.Len() {
			l, err := s.Load(i)
			if err != nil {
				t.Fatal(err)
			}
			all = append(all, l.Identity)
		}
		return all
	}
	a, b, empty := letter("a"), letter("b\n\n\n"), letter("")
	all := names(a + b + a + empty + "\n" + a)
	seen := map[string]bool{}
	for _, n := range all {
		seen[n] = true
	}
	if len(seen) != 5 {
		t.Fatalf("names %q", all)
	}
	for text, want := range map[string][]int{b + a + empty + "\n" + a: {1, 0, 3, 2}, a + a + a: {0, 2, 4}, a: {0}, b: {1}, empty + "\n" + b: {3, 1}, a[:len(a)-1]: {0}} {
		for i, n := range names(text) {
			if n != all[want[i]] {
				t.Errorf("%q: letter %d has another name", text, i)
			}
		}
	}
	if got := names(strings.ReplaceAll(a+b, "\n", "\r\n")); !reflect.DeepEqual(got, all[:2]) {
		t.Error("a copy with other line ends has other names")
	}
}

func TestDetect(t *testing.T) {
	dir := t.TempDir()
	for _, d := range []string{"m/new", "m/cur", "p/deferred", "p/active", "p/incoming", "e/input", "both/new", "both/cur", "both/input", "none"} {
		if err := os.MkdirAll(filepath.Join(dir, d), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	file(t, dir, "f", "")
	for path, want := range map[string]string{"m": "maildir", "p": "postfix", "e": "exim", "f": "mbox", "both": "", "none": "", "missing": ""} {
		if got, err := detect(filepath.Join(dir, path)); got != want || (err == nil) != (want != "") {
			t.Errorf("%s: %q, %v", path, got, err)
		}
	}
}

func FuzzTop(f *testing.F) {
	f.Add([]byte("Return-Path: <s@x.example>\nDelivered-To: a@b.example\n\nx\n"))
	f.Add([]byte(Fields(&mail.Envelope{Recipients: []mail.Recipient{{Address: "a@b.example"}}}) + "\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		top, err := readTop(bytes.NewReader(b))
		if err != nil {
			return
		}
		if top.length < 0 || top.length > int64(len(b)) {
			t.Fatalf("%d octets of %d", top.length, len(b))
		}
		if v := &top.envelope; top.exported && !bytes.HasPrefix(bytes.ReplaceAll(b, []byte("\r\n"), []byte("\n")), []byte(Fields(v))) {
			t.Fatalf("%q was taken for an export's", b)
		}
	})
}

// Whatever an mbox file holds, its letters do not overlap, and all can be read.
func FuzzMbox(f *testing.F) {
	f.Add([]byte("From s@x.example Thu Nov 20 10:00:00 2025\nDelivered-To: a@b.example\n\n>From here\n\nFrom s@x.example Thu Nov 20 10:00:00 2025\n"))
	dir := f.TempDir()
	f.Fuzz(func(t *testing.T, b []byte) {
		s, err := openMbox(file(t, dir, "box", string(b)))
		if err != nil {
			return
		}
		defer s.Close()
		at := int64(0)
		for i := range s.Len() {
			if p := s.letters[i]; p.from < at || p.to < p.from || p.to > int64(len(b)) {
				t.Fatalf("letter %d: %d to %d, after %d", i, p.from, p.to, at)
			}
			at = s.letters[i].to
			if l, err := s.Load(i); err == nil {
				read(t, l)
			}
		}
	})
}

func FuzzNormal(f *testing.F) {
	f.Add([]byte("a\r\nb\rc\nd\x00"), true)
	f.Fuzz(func(t *testing.T, b []byte, mend bool) {
		r := KeepBare
		if mend {
			r = Mend
		}
		out, err := io.ReadAll(Normal(bytes.NewReader(b), r))
		if err != nil {
			t.Fatal(err)
		}
		bare := bytes.ReplaceAll(out, []byte("\r\n"), nil)
		if bytes.IndexByte(bare, '\n') >= 0 || mend && bytes.ContainsAny(bare, "\r\x00") || len(out) > 0 && !bytes.HasSuffix(out, []byte("\r\n")) {
			t.Fatalf("%q became %q", b, out)
		}
	})
}

// What a quoter writes into an mbox file is read back as it was, however it is cut.
func TestQuoter(t *testing.T) {
	for _, content := range []string{"", "From x\r\n", "\r\n>From x\r\n>>>From y\r\n\r\n\r\n", "Fro\r\nFrom\r\n>Fr\r\nF\r\n>>\r\n", "a From b\r\n From c\r\n", "\xff\r\n>\r\n"} {
		for size := 1; size <= 7; size++ {
			v := mail.Envelope{ID: 7, ReversePath: "s@x.example", Arrived: 1_700_000_000_123_456_789, Recipients: []mail.Recipient{{Address: "a@b.example"}}}
			var text bytes.Buffer
			out := bufio.NewWriter(&text)
			for range 2 {
				fmt.Fprintf(out, "%s\n%s", Separator(&v), Fields(&v))
				q := NewQuoter(out)
				for rest := []byte(content); len(rest) > 0; rest = rest[min(size, len(rest)):] {
					_, _ = q.Write(rest[:min(size, len(rest))])
				}
				fmt.Fprintln(out)
			}
			_ = out.Flush()
			s := open(t, "mbox:"+file(t, t.TempDir(), "box", text.String()))
			if s.Len() != 2 {
				t.Fatalf("%q became %d letters", content, s.Len())
			}
			for i := range 2 {
				l, err := s.Load(i)
				if err != nil {
					t.Fatal(err)
				}
				if got := read(t, l); got != content || l.Envelope.ID != v.ID || l.Envelope.Arrived != v.Arrived {
					t.Errorf("%q in pieces of %d came back as %q: %+v", content, size, got, l.Envelope)
				}
			}
		}
	}
}
