package main

import (
	"bufio"
	"bytes"
	"context"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// scripted is a provider that plays script: lines starting with "P: " are sent, lines starting with "C: " must
// be read and begin with the rest of the line. It returns its address.
func scripted(t *testing.T, script string) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		conn, err := l.Accept()
		if err != nil {
			return
		}
		defer conn.Close()
		_ = conn.SetDeadline(time.Now().Add(5 * time.Minute))
		r := bufio.NewReader(conn)
		for _, line := range strings.Split(strings.TrimSpace(script), "\n") {
			who, text, _ := strings.Cut(strings.TrimSpace(line), ": ")
			if who == "P" {
				_, _ = conn.Write([]byte(text + "\r\n"))
				continue
			}
			got, err := r.ReadString('\n')
			if err != nil || !strings.HasPrefix(got, text) {
				t.Errorf("the customer said %q (%v) for %q", got, err, text)
				return
			}
		}
	}()
	return l.Addr().String()
}

// login has the example of RFC 2195 2 in it.
const login = `
	P: 220 mail.isp.example ready
	C: EHLO
	P: 250-mail.isp.example
	P: 250-AUTH CRAM-MD5
	P: 250 ATRN
	C: AUTH CRAM-MD5
	P: 334 PDE4OTYuNjk3MTcwOTUyQHBvc3RvZmZpY2UucmVzdG9uLm1jaS5uZXQ+
	C: dGltIGI5MTNhNjAyYzdlZGE3YTQ5NWI0ZTZlNzMzNGQzODkw`

// get runs odmrget against addr.
func get(t *testing.T, addr string, more ...string) (status int, stdout, stderr, maildir string) {
	t.Helper()
	dir := t.TempDir()
	secret := filepath.Join(dir, "secret")
	if err := os.WriteFile(secret, []byte("tanstaaftanstaaf\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	maildir = filepath.Join(dir, "Maildir")
	var out, errs bytes.Buffer
	args := append([]string{"--server", addr, "--user", "tim", "--password-file", secret, "--maildir", maildir, "--name", "customer.example", "--timeout", "5m"}, more...)
	status = run(context.Background(), args, nil, &out, &errs)
	return status, out.String(), errs.String(), maildir
}

func TestCollects(t *testing.T) {
	addr := scripted(t, login+`
		P: 235 2.7.0 ok
		C: ATRN example.org,example.com
		P: 250 now reversing
		C: 220 customer.example
		P: EHLO mail.isp.example
		C: 250-customer.example
		C: 250-PIPELINING
		C: 250-SIZE 2048
		C: 250-8BITMIME
		C: 250-SMTPUTF8
		C: 250-DSN
		C: 250-CHUNKING
		C: 250 ENHANCEDSTATUSCODES
		P: MAIL FROM:<a@x.example>
		C: 250
		P: RCPT TO:<b@example.org>
		C: 250
		P: RCPT TO:<c@example.org>
		C: 250
		P: DATA
		C: 354
		P: Subject: hello
		P: ..
		P: .
		C: 250
		P: QUIT
		C: 221`)
	status, stdout, stderr, maildir := get(t, addr, "--domain", "example.org", "--domain", "example.com", "--verbose", "--max-message-size", "2KiB")
	if status != 0 {
		t.Fatalf("status %d\n%s%s", status, stdout, stderr)
	}
	found, _ := filepath.Glob(maildir + "/new/*")
	if len(found) != 1 {
		t.Fatalf("delivered: %q", found)
	}
	content, err := os.ReadFile(found[0])
	want := "Return-Path: <a@x.example>\nDelivered-To: b@example.org\nDelivered-To: c@example.org\nX-Envelope-To: b@example.org,\n\tc@example.org\nSubject: hello\n.\n"
	if err != nil || string(content) != want {
		t.Errorf("got %q (%v)", content, err)
	}
	if want := found[0] + ": from <a@x.example> to <b@example.org>, <c@example.org>\n1 message, 19 octets\n"; stdout != want {
		t.Errorf("stdout %q", stdout)
	}
	for _, line := range []string{"C: ATRN example.org,example.com\n", "P: 250 now reversing\n", "P: QUIT\n"} {
		if !strings.Contains(stderr, line) {
			t.Errorf("no %q in the dialogue:\n%s", line, stderr)
		}
	}
}

func TestExitStatus(t *testing.T) {
	refuse := func(reply string) string {
		return login + "\nP: 235 ok\nC: ATRN\nP: " + reply + "\nC: QUIT\nP: 221 bye"
	}
	for _, c := range []struct {
		name, script string
		status       int
		says         string
	}{
		{"nothing waits", refuse("453 You have no mail"), 0, ""},
		{"not our domain", refuse("450 ATRN request refused"), 77, "450 ATRN request refused"},
		{"directory down", refuse("451 unable to process"), 75, "451"},
		{"no ODMR", refuse("502 command not implemented"), 76, "502"},
		{"wrong password", login + "\nP: 535 5.7.8 wrong\nC: QUIT\nP: 221 bye", 77, "535"},
		{"overloaded", "P: 421 4.3.2 too many", 75, "421"},
		{"no SMTP", "P: SSH-2.0-OpenSSH", 76, "not an SMTP reply"},
		{"lost", login, 75, "connection lost"},
		{"lost after the turn", login + "\nP: 235 ok\nC: ATRN\nP: 250 go\nC: 220", 75, "connection lost"},
	} {
		t.Run(c.name, func(t *testing.T) {
			status, _, stderr, _ := get(t, scripted(t, c.script))
			if status != c.status || !strings.Contains(stderr, c.says) {
				t.Errorf("status %d, want %d; says %q", status, c.status, stderr)
			}
		})
	}
}

func TestUsage(t *testing.T) {
	dir := t.TempDir()
	empty := filepath.Join(dir, "empty")
	if err := os.WriteFile(empty, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	common := []string{"--server", "127.0.0.1:1", "--user", "tim"}
	for _, c := range []struct {
		name   string
		args   []string
		status int
		says   string
	}{
		{"nothing", nil, 2, "missing flags"},
		{"unknown flag", []string{"--frobnicate"}, 2, "unknown flag"},
		{"no password file", append(common, "--password-file", dir+"/none", "--maildir", dir+"/m"), 2, "--password-file: open"},
		{"no password", append(common, "--password-file", empty, "--maildir", dir+"/m"), 2, "no password"},
		{"bad size", append(common, "--password-file", empty, "--maildir", dir+"/m", "--max-message-size", "5M"), 2, "--max-message-size: not a size"},
		{"bad time", append(common, "--password-file", empty, "--maildir", dir+"/m", "--timeout", "soon"), 2, "--timeout: not a duration"},
		{"negative time", append(common, "--password-file", empty, "--maildir", dir+"/m", "--timeout=-5s"), 2, "--timeout: not a duration"},
		{"bad domain", append(common, "--password-file", empty, "--maildir", dir+"/m", "--domain", "a b"), 2, `--domain: "a b" is not a domain name`},
		{"no user", []string{"--server", "127.0.0.1:1", "--user=", "--password-file", empty, "--maildir", dir + "/m"}, 2, "--user is empty"},
		{"no port", []string{"--server", "mail.isp.example:", "--user=tim", "--password-file", empty, "--maildir", dir + "/m"}, 2, "--server: "},
		{"no CAs", append(common, "--password-file", "-", "--maildir", dir+"/m", "--tls", "--tls-ca", empty), 2, "--tls-ca: "},
		{"maildir is a file", append(common, "--password-file", "-", "--maildir", empty), 73, "not a directory"},
		{"no server", append(common, "--password-file", "-", "--maildir", dir+"/m"), 75, "127.0.0.1:1"},
	} {
		t.Run(c.name, func(t *testing.T) {
			var out, errs bytes.Buffer
			status := run(context.Background(), c.args, strings.NewReader("secret\n"), &out, &errs)
			if status != c.status || !strings.Contains(errs.String(), c.says) {
				t.Errorf("status %d, want %d; says %q", status, c.status, errs.String())
			}
		})
	}
}

func TestHelp(t *testing.T) {
	var out, errs bytes.Buffer
	if status := run(context.Background(), []string{"--help"}, nil, &out, &errs); status != 0 || !strings.Contains(out.String(), "Exit status:") {
		t.Errorf("status %d: %s%s", status, &out, &errs)
	}
}

func TestVersion(t *testing.T) {
	var out, errs bytes.Buffer
	if status := run(context.Background(), []string{"--version"}, nil, &out, &errs); status != 0 || out.String() != "odmrget unversioned\n" {
		t.Errorf("status %d: %s%s", status, &out, &errs)
	}
}

func TestWithPort(t *testing.T) {
	for in, want := range map[string]string{
		"isp.example": "isp.example:366", "isp.example:3660": "isp.example:3660", "::1": "[::1]:366", "[::1]": "[::1]:366",
		"[::1]:3660": "[::1]:3660", "192.0.2.1": "192.0.2.1:366",
	} {
		if got := withPort(in); got != want {
			t.Errorf("%s: %s, want %s", in, got, want)
		}
	}
}
