package e2e

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"odmr/internal/client"
)

// unix gives content the line ends that files have.
func unix(content []byte) []byte { return bytes.ReplaceAll(content, []byte("\r\n"), []byte("\n")) }

// sizeOf is how large message i is.
func sizeOf(i int) int { return 500 + i%40*500 }

// inMailbox is message n as a mail server puts it into a mailbox.
func inMailbox(id string, kind, size int, to string) []byte {
	top := fmt.Sprintf("Return-Path: <sender+%s@mx.example>\nDelivered-To: %s\n", id, to)
	return append([]byte(top), unix(content(id, kind, size))...)
}

// putMaildir writes messages m0, m1 and so on into a Maildir, half of them into cur.
func putMaildir(t *testing.T, dir string, messages int, at time.Time) {
	t.Helper()
	for _, sub := range []string{"tmp", "new", "cur"} {
		if err := os.MkdirAll(filepath.Join(dir, sub), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	for i := range messages {
		name := fmt.Sprintf("new/%d.M%dP1.host", at.Unix(), i)
		if i%2 == 1 {
			name = fmt.Sprintf("cur/%d.M%dP1.host:2,S", at.Unix(), i)
		}
		b := inMailbox(fmt.Sprintf("m%d", i), i%kinds, sizeOf(i), "a@example.org")
		if err := os.WriteFile(filepath.Join(dir, name), b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

// wantOnce checks that recorded messages are m0 to m(n-1), each once, unaltered.
func wantOnce(t *testing.T, got []*client.Received, n int) {
	t.Helper()
	seen := map[string]int{}
	for _, r := range got {
		id := idOf(t, r.Content)
		seen[id]++
		i, err := strconv.Atoi(strings.TrimPrefix(id, "m"))
		if err != nil {
			t.Errorf("message %q is not ours", id)
			continue
		}
		if want := content(id, i%kinds, sizeOf(i)); !bytes.Equal(r.Content, want) {
			t.Errorf("%s was altered: %s", id, difference(r.Content, want))
		}
		if from := "sender+" + id + "@mx.example"; r.Envelope.ReversePath != from || len(r.Envelope.Recipients) != 1 {
			t.Errorf("%s: envelope %+v", id, r.Envelope)
		}
	}
	for i := range n {
		if id := fmt.Sprintf("m%d", i); seen[id] != 1 {
			t.Errorf("%s came %d times, want once", id, seen[id])
		}
	}
}

// An import that is killed at any moment, or whose server is, and is run again, brings each message once, and loses none, even
// if the customer collects meanwhile.
func TestImportCrash(t *testing.T) {
	a := customer("tim", "example.org")
	s := startServer(t, []client.Account{a})
	const messages = 400
	dir := filepath.Join(s.Dir, "old")
	putMaildir(t, dir, messages, time.Now().Add(-time.Hour))
	got := &client.Recorder{Keep: 1 << 20}
	rounds, imported := crashRounds(t, 12), 0
	for i := range rounds {
		cmd := exec.Command(filepath.Join(bin, "odmrctl"), "--data", s.Data, "import", "--remove", "maildir:"+dir)
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		ended := make(chan struct{})
		go func() { _ = cmd.Wait(); close(ended) }()
		before := strings.Count(s.Log(), "message imported")
		until(t, "some messages to be imported", func() bool { // and then in the midst of others
			select {
			case <-ended:
				return true
			default:
				return strings.Count(s.Log(), "message imported")-before > messages/rounds/2
			}
		})
		if i%2 == 0 {
			_ = cmd.Process.Kill()
			<-ended
			imported += strings.Count(s.Log(), "message imported") - before
		} else {
			imported += strings.Count(s.Log(), "message imported") - before
			s.Kill()
			<-ended
			s.Start()
		}
		if i == 4 {
			collect(t, s, a, got)
		}
	}
	t.Logf("about %d of %d messages were imported before the last run", imported, messages)
	out, err := s.odmrctl("import", "--remove", dir)
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	t.Logf("the last run: %s", out)
	collect(t, s, a, got)
	wantOnce(t, got.Messages(), messages)
	if left, _ := filepath.Glob(filepath.Join(dir, "*", "*")); len(left) > 0 {
		t.Errorf("left in the Maildir: %q", left)
	}
}

// What was exported comes back as it was, whoever takes it: envelope, parameters, time and every octet.
func TestImportExported(t *testing.T) {
	accounts := []client.Account{customer("tim", "example.org"), customer("eva", "example.com")}
	from, to := startServer(t, accounts), startServer(t, accounts)
	for i := range kinds {
		m := message(fmt.Sprintf("m%d", i), i, 3000, "a@example.org", "ü@example.com", "b@example.org")
		m.Envelope.SMTPUTF8, m.Envelope.EnvID = true, "QQ+2B314"
		m.Envelope.Ret = 2
		m.Envelope.Recipients[0].ORcpt, m.Envelope.Recipients[0].Notify = "rfc822;x+2Dy@elsewhere.example", 6
		m.Envelope.Recipients[2].Notify = 1
		handIn(t, from.SMTP, client.SenderOptions{}, m)
	}
	handIn(t, from.LMTP, client.SenderOptions{Protocol: client.LMTP}, message("plain", kindDots, 300_000, "c@example.org"))
	entries := regexp.MustCompile(`"id":"[^"]*"`)
	list := func(s *Server) string {
		t.Helper()
		out, err := s.odmrctl("queue", "list", "--json")
		if err != nil {
			t.Fatal(err, out)
		}
		return entries.ReplaceAllString(out, `"id":""`)
	}
	dir := filepath.Join(from.Dir, "out")
	if out, err := from.odmrctl("export", dir); err != nil {
		t.Fatal(err, out)
	}
	for range 2 {
		if out, err := to.odmrctl("import", dir); err != nil {
			t.Fatal(err, out)
		}
		if got, want := list(to), list(from); got != want {
			t.Errorf("imported:\n%s\nwant:\n%s", got, want)
		}
	}
	for _, a := range accounts {
		want, got := &client.Recorder{Keep: 1 << 20}, &client.Recorder{Keep: 1 << 20}
		collect(t, from, a, want)
		collect(t, to, a, got)
		if len(got.Messages()) != len(want.Messages()) {
			t.Fatalf("%d messages for %s, want %d", len(got.Messages()), a.User, len(want.Messages()))
		}
		for i, r := range got.Messages() {
			if w := want.Messages()[i]; !bytes.Equal(r.Content, w.Content) {
				t.Errorf("message %d was altered: %s", i, difference(r.Content, w.Content))
			}
		}
	}
}

// What an import takes, leaves and says.
func TestImportReasons(t *testing.T) {
	s := newServer(t, []client.Account{customer("tim", "example.org"), customer("eva", "example.com")}, "--max-message-size", "64KiB")
	if out, err := s.odmrctl("account", "set", "eva", "--quota-messages", "1"); err != nil {
		t.Fatal(err, out)
	}
	s.Start()
	dir := filepath.Join(s.Dir, "old")
	put := func(name, text string) {
		t.Helper()
		if err := os.MkdirAll(filepath.Join(dir, filepath.Dir(name)), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	now := time.Now().Unix()
	for i, text := range map[int]string{
		0:  "Return-Path: <x@mx.example>\nDelivered-To: a@example.org\nSubject: taken\n\n.dot\n",
		1:  "Return-Path: <>\nX-Original-To: b@example.com\nDelivered-To: none@localhost\nSubject: taken, null sender, no end",
		3:  "Return-Path: <x@mx.example>\nDelivered-To: c@example.net\n\nnobody's\n",
		4:  "Return-Path: <x@mx.example>\nSubject: no recipient\nDelivered-To: a@example.org\n\nthe sender says so\n",
		5:  "Delivered-To: a@example.org\n\nno sender\n",
		6:  "Return-Path: <x@mx.example>\nDelivered-To: a@example.org\n\nbare\rCR\n",
		7:  "Return-Path: <x@mx.example>\nDelivered-To: a@example.org\n\nN\x00L\n",
		8:  "Return-Path: <x@mx.example>\nDelivered-To: a@example.org\n\n" + strings.Repeat("large\n", 20_000),
		10: "Return-Path: <x@mx.example>\nX-Original-To: root\nDelivered-To: box@localhost\n\nno domain\n",
		9:  "Return-Path: <x@mx.example>\r\nDelivered-To: a@example.org\r\nDelivered-To: b@example.net\r\n\r\nhalf\r\n",
	} {
		put(fmt.Sprintf("new/%d.m%d", now, i), text)
	}
	put("cur/1000000000.old:2,S", "Return-Path: <x@mx.example>\nDelivered-To: a@example.org\n\nold\n")
	put("tmp/unfinished", "Return-Path: <x@mx.example>\nDelivered-To: a@example.org\n\nnot whole\n")
	if err := os.Symlink("/etc/passwd", filepath.Join(dir, "new/link")); err != nil {
		t.Fatal(err)
	}
	run := func(status int, args ...string) string {
		t.Helper()
		out, err := s.odmrctl(append([]string{"import"}, args...)...)
		code := 0
		if err != nil {
			code = err.(*exec.ExitError).ExitCode()
		}
		if code != status {
			t.Errorf("import %v: status %d, want %d\n%s", args, code, status, out)
		}
		return out
	}
	wantLines := func(out string, want ...string) {
		t.Helper()
		for _, w := range want {
			if !regexp.MustCompile(`(?m)^` + w + `$`).MatchString(out) {
				t.Errorf("no line %q in\n%s", w, out)
			}
		}
	}
	reasons := []string{
		`left: new/\d+.m3 for c@example.net: 550 5.1.2 .*`, `left: new/\d+.m4: nothing at its top says who it is for.*`,
		`left: new/\d+.m5: nothing at its top says who sent it.*`, `left: new/\d+.m10: recipient <root>: .*`, `left: new/link: cannot be read: it is a symbolic link`,
		`left: new/\d+.m8 for a@example.org: 552 5.3.4 .*`, `left: new/\d+.m9 for b@example.net: 550 5.1.2 .*`,
		`left: cur/1000000000.old:2,S for a@example.org: 554 5.4.7 It arrived at 2001-09-09T01:46:40Z and would expire at once.*`,
	}
	wantLines(run(3, "--dry-run", "--remove", dir), append(reasons, `5 messages to be taken \(for 5 recipients\), 0 here already, 8 left`)...)
	out := run(3, "maildir:"+dir)
	wantLines(out, append(reasons, `left: new/\d+.m6 for a@example.org: 554 5.6.0 A carriage return.*`, `left: new/\d+.m7 for a@example.org: 554 5.6.0 A NUL.*`)...)
	wantLines(out, `3 messages taken \(for 3 recipients\), 0 here already, 10 left`)
	put(fmt.Sprintf("new/%d.m2", now), "Return-Path: <x@mx.example>\nDelivered-To: c@example.com\n\nover the quota\n")
	wantLines(run(3, dir), `left: new/\d+.m2 for c@example.com: 452 4.2.2 .*`, `0 messages taken \(for 0 recipients\), 2 here already, 11 left`)
	wantLines(run(3, "--waive=quota,size", "--repair", "--domain=Example.COM", dir), `1 message taken .*, 1 here already, 3 left, 8 not for this domain alone`)
	wantLines(run(3, "--waive=quota,size", "--repair", "--arrived=now", dir), `4 messages taken .*, 3 here already, 6 left`)
	run(3, "--remove", "--sender", "<>", "--recipient=z@example.org", "--waive=size", "--repair", "--arrived=now", dir)
	if left, _ := filepath.Glob(filepath.Join(dir, "[nct]*/*")); len(left) != 2 {
		t.Errorf("left behind: %q, want the link and what is not whole", left)
	}
	run(2, "--waive=domain", dir)
	run(1, "maildir:"+s.Data)
	got := &client.Recorder{Keep: 1 << 20}
	collect(t, s, customer("eva", "example.com"), got)
	if m := got.Messages(); len(m) != 2 || m[0].Envelope.ReversePath != "" || string(m[0].Content) != "Subject: taken, null sender, no end\r\n" {
		t.Errorf("%d messages: %+v", len(m), m)
	}
	s.Stop()
	if out := run(1, dir); !strings.Contains(out, "import needs a running server") {
		t.Errorf("without a server: %s", out)
	}
}

// A quota is kept to the message, whatever is on its way at the same time: also by messages for two domains of one account, and for two
// recipients in one domain.
func TestImportQuota(t *testing.T) {
	s := newServer(t, []client.Account{customer("tim", "example.org", "example.com"), customer("eva", "example.net")})
	if out, err := s.odmrctl("account", "set", "tim", "--quota-messages", "45"); err != nil {
		t.Fatal(err, out)
	}
	s.Start()
	dir := filepath.Join(s.Dir, "old")
	if err := os.MkdirAll(filepath.Join(dir, "new"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(filepath.Join(dir, "cur"), 0o700); err != nil {
		t.Fatal(err)
	}
	const letters, each = 100, 2 // of five: for one, for one and eva, for two in a domain, for both domains (two places), for none of his
	for i := range letters {
		to := [][]string{{"a@example.org"}, {"a@example.org", "e@example.net"}, {"a@example.org", "b@example.org"}, {"a@example.org", "a@example.com"}, {"e@example.net"}}[i%5]
		text := "Return-Path: <x@mx.example>\n"
		for _, r := range to {
			text += "Delivered-To: " + r + "\n"
		}
		name := fmt.Sprintf("%d.M%06d", time.Now().Unix(), i)
		if err := os.WriteFile(filepath.Join(dir, "new", name), []byte(text+fmt.Sprintf("Subject: %d\n\nx\n", i)), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	out, err := s.odmrctl("import", dir)
	if err == nil || !strings.Contains(out, "452 4.2.2") {
		t.Fatalf("%v\n%s", err, out)
	}
	// 45 places are 9 times those of five letters: all of the first 45.
	if !regexp.MustCompile(`(?m)^left: new/\d+\.M000045 for a@example.org: 452`).MatchString(out) || strings.Contains(out, "M000044") {
		t.Errorf("%s", out)
	}
	got := map[string]int{}
	for _, c := range []client.Account{customer("tim", "example.org", "example.com"), customer("eva", "example.net")} {
		r := &client.Recorder{Keep: 1 << 16}
		collect(t, s, c, r)
		got[c.User] = len(r.Messages())
	}
	if got["tim"] != 45 || got["eva"] != each*letters/5 {
		t.Errorf("collected %v", got)
	}
	if out, err := s.odmrctl("import", dir); err == nil || !strings.Contains(out, "452 4.2.2") {
		t.Fatalf("%v\n%s", err, out)
	}
	r := &client.Recorder{Keep: 1 << 16}
	if collect(t, s, customer("tim", "example.org", "example.com"), r); len(r.Messages()) != 45 {
		t.Errorf("then %d", len(r.Messages()))
	}
}

// Memory does not grow with what is imported: ODMR_IMPORT=100000 sets how many messages there are.
func TestImportMany(t *testing.T) {
	n := 3000
	if text := os.Getenv("ODMR_IMPORT"); text != "" {
		n, _ = strconv.Atoi(text)
	}
	s := startServer(t, []client.Account{customer("tim", "example.org")})
	dir := filepath.Join(s.Dir, "old")
	for _, sub := range []string{"new", "cur"} {
		if err := os.MkdirAll(filepath.Join(dir, sub), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	now := time.Now().Unix()
	for i := range n {
		text := fmt.Appendf(nil, "Return-Path: <s@mx.example>\nDelivered-To: a@example.org\nSubject: %d\n\n%s", i, strings.Repeat("four kilobytes of text in lines\n", 125))
		if err := os.WriteFile(filepath.Join(dir, fmt.Sprintf("new/%d.m%d", now, i)), text, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	cmd := exec.Command(filepath.Join(bin, "odmrctl"), "--data", s.Data, "import", dir)
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	began := time.Now()
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	peak, err := peakUntil(cmd.Process.Pid, ended)
	took := time.Since(began)
	if want := fmt.Sprintf("%d messages taken", n); err != nil || !strings.Contains(out.String(), want) {
		t.Fatalf("%v\n%s", err, tail(out.String(), 2000))
	}
	t.Logf("%d messages in %v: %.0f a second; peak %d MiB; the server: %v", n, took, float64(n)/took.Seconds(), peak, s.Memory())
	if limit := int64(64 + n/4096); peak == 0 || peak > limit { // MiB: 256 octets a message for its name
		t.Errorf("odmrctl took %d MiB, the bound is %d", peak, limit)
	}
}

// peakUntil is the highest RSS in MiB of a process, looked at every few milliseconds until it has ended.
func peakUntil(pid int, ended <-chan error) (peak int64, err error) {
	for tick := time.NewTicker(5 * time.Millisecond); ; {
		select {
		case err := <-ended:
			return peak, err
		case <-tick.C:
			if m, err := memoryOf(pid); err == nil { // else it is just ending
				peak = max(peak, m.Peak>>20)
			}
		}
	}
}
