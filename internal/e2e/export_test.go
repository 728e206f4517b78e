package e2e

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"odmr/internal/client"
)

// An export that is killed at any moment and run again has each message whole, once, and takes none away from the customer.
func TestExportCrash(t *testing.T) {
	a := customer("tim", "example.org")
	s := startServer(t, []client.Account{a})
	const messages = 60
	var in []client.Message
	for i := range messages {
		in = append(in, message(fmt.Sprintf("m%d", i), i%kinds, 2000+i*2000, "a@example.org", "b@example.org"))
	}
	handIn(t, s.SMTP, client.SenderOptions{}, in...)
	dir := filepath.Join(s.Dir, "out")
	for i := range crashRounds(t, 8) {
		cmd := exec.Command(filepath.Join(bin, "odmrctl"), "--data", s.Data, "export", dir)
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Duration(5+7*i) * time.Millisecond) // somewhere in its course, wherever that is
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	}
	if out, err := s.odmrctl("export", dir); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	files, err := filepath.Glob(filepath.Join(dir, "new", "*"))
	if err != nil || len(files) != messages {
		t.Fatalf("%d files (%v), want %d", len(files), err, messages)
	}
	seen := map[string]bool{}
	for _, name := range files {
		b, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		id := idOf(t, b)
		var n int
		if _, err := fmt.Sscanf(id, "m%d", &n); err != nil || seen[id] {
			t.Errorf("%q exported twice, or not ours (%v)", id, err)
		}
		seen[id] = true
		want := bytes.ReplaceAll(content(id, n%kinds, 2000+n*2000), []byte("\r\n"), []byte("\n"))
		if !bytes.HasSuffix(b, want) {
			t.Errorf("%s was exported altered", id)
		}
		top := "Return-Path: <sender+" + id + "@mx.example>\nDelivered-To: a@example.org\nDelivered-To: b@example.org\n"
		if !bytes.HasPrefix(b, []byte(top)) {
			t.Errorf("%s: on top: %.200q", id, b)
		}
	}
	if stats := collect(t, s, a, &client.Recorder{}); stats.Messages != messages {
		t.Errorf("the customer collected %d, want %d", stats.Messages, messages)
	}
}

// An export that takes mail out, killed at any moment and run again, and the import of what it wrote: each message is in one place, and
// comes to the customer once, as it was.
func TestExportRemoveCrash(t *testing.T) {
	a := customer("tim", "example.org")
	for _, kind := range []string{"maildir:", "mbox:"} {
		s := startServer(t, []client.Account{a})
		const messages = 60
		var in []client.Message
		for i := range messages {
			in = append(in, message(fmt.Sprintf("m%d", i), i%kinds, sizeOf(i), "a@example.org"))
		}
		handIn(t, s.SMTP, client.SenderOptions{}, in...)
		target := kind + filepath.Join(s.Dir, "out")
		for i := range crashRounds(t, 6) {
			cmd := exec.Command(filepath.Join(bin, "odmrctl"), "--data", s.Data, "export", "--remove", target)
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			time.Sleep(time.Duration(10+10*i) * time.Millisecond) // somewhere in its course, wherever that is
			_ = cmd.Process.Kill()
			_ = cmd.Wait()
		}
		if out, err := s.odmrctl("export", "--remove", target); err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
		if stats := collect(t, s, a, &client.Recorder{}); stats.Messages != 0 {
			t.Errorf("%s the customer collected %d", kind, stats.Messages)
		}
		s.logged("message removed by the operator")
		to := startServer(t, []client.Account{a})
		if out, err := to.odmrctl("import", "--remove", target); err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
		got := &client.Recorder{Keep: 1 << 20}
		collect(t, to, a, got)
		for _, r := range got.Messages() {
			r.Content = original(t, r.Content)
		}
		wantOnce(t, got.Messages(), messages)
	}
}
