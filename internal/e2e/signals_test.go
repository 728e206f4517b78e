package e2e

import (
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"odmr/internal/client"
)

// TestTermFinishesTransaction: SIGTERM stops accepting at once and lets a running transaction finish.
func TestTermFinishesTransaction(t *testing.T) {
	a := customer("tim", "example.org")
	s := startServer(t, []client.Account{a})
	conn, err := net.Dial("tcp", s.SMTP)
	if err != nil {
		t.Fatal(err)
	}
	gate := &gatedReader{open: make(chan struct{}), entered: make(chan struct{}), rest: content("slow", kindText, 200_000)}
	c, err := client.NewSender(t.Context(), conn, client.SenderOptions{Timeout: patience})
	if err != nil {
		t.Fatal(err)
	}
	result := make(chan error, 1)
	go func() {
		r, err := c.Send(&client.Message{Envelope: envelope("x@mx.example", "a@example.org"), Content: gate})
		if err == nil {
			err = r.Refusal()
		}
		result <- err
	}()
	<-gate.entered // DATA has been answered with 354
	s.Signal(syscall.SIGTERM)
	until(t, "the server to stop accepting", func() bool {
		probe, err := net.Dial("tcp", s.SMTP)
		if err == nil {
			_ = probe.Close()
		}
		return err != nil
	})
	close(gate.open)
	if err := <-result; err != nil {
		t.Errorf("the transaction that was running: %v", err)
	}
	if code := s.Wait(); code != 0 {
		t.Errorf("exit status %d", code)
	}
	s.Start()
	if stats := collect(t, s, a, &client.Recorder{}); stats.Messages != 1 {
		t.Errorf("after a restart: %+v", stats)
	}
}

// gatedReader gives its content only after open is closed.
type gatedReader struct {
	open, entered chan struct{}
	told          bool
	rest          []byte
}

func (g *gatedReader) Read(p []byte) (int, error) {
	if !g.told {
		g.told = true
		close(g.entered)
		<-g.open
	}
	if len(g.rest) == 0 {
		return 0, io.EOF
	}
	n := copy(p, g.rest)
	g.rest = g.rest[n:]
	return n, nil
}

// TestTermIsBounded: a peer that never goes on does not keep the server from ending, and nothing is lost.
func TestTermIsBounded(t *testing.T) {
	a := customer("tim", "example.org")
	s := startServer(t, []client.Account{a}, "--shutdown-grace", "1s")
	handIn(t, s.SMTP, client.SenderOptions{}, message("one", kindText, 100, "a@example.org"))
	reached := make(chan struct{})
	hook := func(e client.Event) client.Response {
		if e.Point == client.AtDot {
			close(reached)
			return client.Response{Delay: 2 * patience} // longer than anything here; ends with the connection
		}
		return client.Response{}
	}
	c, err := client.Dial(t.Context(), s.ODMR, client.Options{Offer: client.FullOffer(), Hook: hook})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	go func() { _, _ = c.Collect(a, &client.Recorder{}) }()
	<-reached
	s.Stop()
	s.Start()
	if stats := collect(t, s, a, &client.Recorder{}); stats.Messages != 1 {
		t.Errorf("after a restart: %+v", stats)
	}
}

// greeted is a customer who has connected and said EHLO.
func greeted(t *testing.T, s *Server) *client.Customer {
	t.Helper()
	c, err := client.Dial(t.Context(), s.ODMR, client.Options{Timeout: patience})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	if err := c.Hello(); err != nil {
		t.Fatal(err)
	}
	return c
}

// login reports the code of a login.
func login(t *testing.T, s *Server, user, secret string) int {
	t.Helper()
	c := greeted(t, s)
	defer c.Close()
	if err := c.Login(user, secret); err != nil {
		return client.Code(err)
	}
	return 235
}

// TestAccountsAreReadAgain: what odmrctl changes is picked up by itself, SIGHUP reads the file too, and a
// broken file keeps the old table and says line and reason.
func TestAccountsAreReadAgain(t *testing.T) {
	s := startServer(t, []client.Account{customer("tim", "example.org")})
	if code := login(t, s, "ann", password); code != 535 {
		t.Errorf("unknown account: %d", code)
	}
	s.addAccount(customer("ann", "ann.example"))
	until(t, "the new account to be known", func() bool { return login(t, s, "ann", password) == 235 })
	handIn(t, s.SMTP, client.SenderOptions{}, message("one", kindText, 100, "a@ann.example"))

	good, err := os.ReadFile(s.Accounts)
	if err != nil {
		t.Fatal(err)
	}
	broken := string(good) + "\n  - ] this is : not [ yaml\n"
	replaceFile(t, s.Accounts, broken)
	s.Signal(syscall.SIGHUP)
	s.logged(`(?i)"error":"[^"]*(line|:)\s*\d+`)
	if code := login(t, s, "ann", password); code != 235 {
		t.Errorf("a broken file has lost the table: %d", code)
	}
	replaceFile(t, s.Accounts, string(good))
	s.Signal(syscall.SIGHUP)
	if out, err := runProgram("another secret\n", "odmrctl", "--accounts", s.Accounts, "account", "passwd", "ann", "--password-stdin"); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	until(t, "the new password to be known", func() bool { return login(t, s, "ann", "another secret") == 235 })
	if code := login(t, s, "ann", password); code != 535 {
		t.Errorf("the old password: %d", code)
	}
	if out, err := s.odmrctl("account", "remove", "ann"); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	until(t, "the account to be gone", func() bool { return login(t, s, "ann", "another secret") == 535 })
	if strings.Contains(s.Log(), password) || strings.Contains(s.Log(), "another secret") {
		t.Error("a password is in the log")
	}
	if all, err := os.ReadFile(s.Accounts); err != nil || strings.Contains(string(all), password) {
		t.Errorf("a password is in the accounts file (%v)", err)
	}
}

// replaceFile puts a new file in the place of another, as an editor does.
func replaceFile(t *testing.T, name, text string) {
	t.Helper()
	next := filepath.Join(filepath.Dir(name), ".next")
	if err := os.WriteFile(next, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(next, name); err != nil {
		t.Fatal(err)
	}
}

// TestPortTaken: a port that somebody else has is a clear error, and so is a data directory in use.
func TestPortTaken(t *testing.T) {
	s := startServer(t, []client.Account{customer("tim", "example.org")})
	common := []string{"--hostname", hostname, "--accounts", s.Accounts, "--smtp-listen", "", "--lmtp-listen", "", "--admin-listen", ""}
	out, err := runProgram("", "odmrd", append(common, "--data", filepath.Join(s.Dir, "other"), "--odmr-listen", s.ODMR)...)
	if err == nil || !strings.Contains(out, s.ODMR) || !strings.Contains(out, "in use") {
		t.Errorf("port in use: %v\n%s", err, out)
	}
	out, err = runProgram("", "odmrd", append(common, "--data", s.Data, "--odmr-listen", "127.0.0.1:0")...)
	if err == nil || !strings.Contains(out, s.Data) {
		t.Errorf("data directory in use: %v\n%s", err, out)
	}
}

// TestProblemsOfConfiguration: all of them at once, with the flags' names and status 2.
func TestProblemsOfConfiguration(t *testing.T) {
	out, err := runProgram("", "odmrd", "--max-message-size", "lots", "--loops", "-3", "--trusted-networks", "here")
	if exit, ok := err.(interface{ ExitCode() int }); !ok || exit.ExitCode() != 2 {
		t.Errorf("%v", err)
	}
	for _, flag := range []string{"--max-message-size", "--loops", "--trusted-networks"} {
		if !strings.Contains(out, flag) {
			t.Errorf("%s is not named in\n%s", flag, out)
		}
	}
}
