package e2e

import (
	"bytes"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"odmr/internal/client"
)

// readmeBlock returns the indented block of README.md that holds text, without its indentation.
func readmeBlock(t *testing.T, text string) string {
	t.Helper()
	readme, err := os.ReadFile("../../README.md")
	if err != nil {
		t.Fatal(err)
	}
	for block := range strings.SplitSeq(string(readme), "\n\n") {
		if !strings.HasPrefix(block, "    ") || !strings.Contains(block, text) {
			continue
		}
		lines := strings.Split(block, "\n")
		for i := range lines {
			lines[i] = strings.TrimPrefix(lines[i], "    ")
		}
		return strings.Join(lines, "\n") + "\n"
	}
	t.Fatalf("README.md has no example with %q", text)
	return ""
}

// adapt replaces what cannot be the same in a test: addresses, directories, passwords. What is to be
// replaced must be there.
func adapt(t *testing.T, text string, pairs ...string) string {
	t.Helper()
	for i := 0; i < len(pairs); i += 2 {
		if !strings.Contains(text, pairs[i]) {
			t.Fatalf("README.md's example has no %q any more:\n%s", pairs[i], text)
		}
		text = strings.ReplaceAll(text, pairs[i], pairs[i+1])
	}
	return text
}

// run runs the command lines, which begin with the names of programs of ours.
func run(t *testing.T, stdin, lines string) string {
	t.Helper()
	var all strings.Builder
	for line := range strings.Lines(lines) {
		if words := strings.Fields(line); len(words) > 0 {
			out, err := runProgram(stdin, words[0], words[1:]...)
			if err != nil {
				t.Fatalf("%s: %v\n%s", strings.TrimSpace(line), err, out)
			}
			all.WriteString(out)
		}
	}
	return all.String()
}

// The README's account, its odmrget line and what it says of the exit status are true.
func TestReadmeCustomer(t *testing.T) {
	s := newServer(t, nil)
	addReadmeAccount(t, s)
	s.Start()
	host, port, _ := net.SplitHostPort(s.ODMR)
	secret := filepath.Join(s.Dir, "password")
	if err := os.WriteFile(secret, []byte(password+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	get := adapt(t, readmeBlock(t, "odmrget --server"), "mail.isp.example:366", host+":"+port,
		"~/.odmr-password", secret, "~/Maildir", filepath.Join(s.Dir, "Maildir"))
	run(t, "", get) // nothing waits: status 0
	handIn(t, s.SMTP, client.SenderOptions{}, message("readme", kindDots, 3000, "a@example.org", "b@example.com"))
	if out := run(t, "", get); !strings.Contains(out, "2 messages") { // one for each domain
		t.Errorf("odmrget says %q, want 2 messages", out)
	}
	if files, _ := filepath.Glob(filepath.Join(s.Dir, "Maildir/new/*")); len(files) != 2 {
		t.Errorf("the Maildir holds %d messages, want 2", len(files))
	}
}

// addReadmeAccount runs the README's account line.
func addReadmeAccount(t *testing.T, s *Server) {
	t.Helper()
	run(t, password+"\n", adapt(t, readmeBlock(t, "account add tim"), "runuser -u odmr -- ", "",
		"/etc/odmr/accounts", s.Accounts, "account add tim", "account add tim --password-stdin"))
}

// The README's main.cf and .fetchmailrc carry mail from one MTA to another.
func TestInteropReadme(t *testing.T) {
	needProgram(t, "fetchmail")
	s := newServer(t, nil)
	addReadmeAccount(t, s)
	s.Start()
	postmap := needProgram(t, "postmap")
	table := filepath.Join(s.Dir, "odmr_domains")
	if err := os.WriteFile(table, []byte(readmeBlock(t, "example.org   odmr")), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(s.Dir, "main.cf"), []byte("compatibility_level = 3.6\n"), 0o644); err != nil { // postmap insists on one
		t.Fatal(err)
	}
	if out, err := exec.Command(postmap, "-c", s.Dir, "hash:"+table).CombinedOutput(); err != nil {
		t.Fatalf("postmap: %v\n%s", err, out)
	}
	for dir := s.Dir; dir != os.TempDir() && dir != "/"; dir = filepath.Dir(dir) { // postfix' processes are other users
		if err := os.Chmod(dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	mx := startPostfix(t, "mx.isp.example", adapt(t, readmeBlock(t, "relay_domains = hash:"),
		"127.0.0.1:2424", s.LMTP, "/etc/postfix/odmr_domains", table))
	want := content("readme", kindEight, 5000)
	handIn(t, mx.Addr, client.SenderOptions{Name: "sender.example"}, message("readme", kindEight, 5000, "a@example.org"))
	mx.waitEmpty()
	mx.checkAllSent()
	mta := startSink(t, client.FullOffer())
	host, port, _ := net.SplitHostPort(s.ODMR)
	status, out := fetchmailWith(t, adapt(t, readmeBlock(t, "protocol ODMR"), "mail.isp.example", host, "port 366", "port "+port,
		"the password", password, "localhost/25", strings.Replace(mta.addr, ":", "/", 1)))
	if status != 0 {
		t.Fatalf("fetchmail: status %d\n%s", status, tail(out, 3000))
	}
	got := mta.Messages()
	if len(got) != 1 {
		t.Fatalf("%d messages arrived, want 1", len(got))
	}
	_, body, _ := bytes.Cut(got[0].Content, []byte("X-Test-Id: ")) // what stands above is trace
	if body = append([]byte("X-Test-Id: "), body...); !bytes.Equal(body, want) {
		t.Errorf("the message was altered: %s", difference(body, want))
	}
}
