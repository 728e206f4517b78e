package e2e

import (
	"bytes"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"odmr/internal/client"
	"odmr/internal/listening"
)

const (
	// patience is how long a test waits for anything at all: generous, because the machine may be busy.
	patience = 5 * time.Minute
	hostname = "mail.isp.example"
	password = "open sesame"
)

// Server is a running odmrd with a directory of its own.
type Server struct {
	t        testing.TB
	Dir      string // holds all of the following
	Data     string
	Accounts string
	flags    []string

	// Addresses of the run at present.
	ODMR, SMTP, LMTP, Admin string

	cmd  *exec.Cmd
	done chan error // gets Wait's result, once
	log  string     // file with all that odmrd wrote, over all runs
	from int64      // where the present run's part of the log begins
}

// newServer makes a server's directory and its accounts; Start starts it. flags go to odmrd as they
// are, behind the usual ones.
func newServer(t testing.TB, accounts []client.Account, flags ...string) *Server {
	t.Helper()
	dir := t.TempDir()
	s := &Server{t: t, Dir: dir, Data: filepath.Join(dir, "data"), Accounts: filepath.Join(dir, "accounts.yaml"), flags: flags, log: filepath.Join(dir, "odmrd.log")}
	for _, a := range accounts {
		s.addAccount(a)
	}
	t.Cleanup(s.cleanup)
	return s
}

// startServer is newServer and Start.
func startServer(t testing.TB, accounts []client.Account, flags ...string) *Server {
	t.Helper()
	s := newServer(t, accounts, flags...)
	s.Start()
	return s
}

// customer makes an account with the usual password.
func customer(name string, domains ...string) client.Account {
	return client.Account{User: name, Password: password, Domains: domains}
}

// addAccount uses odmrctl, as an operator would.
func (s *Server) addAccount(a client.Account) {
	s.t.Helper()
	args := []string{"--accounts", s.Accounts, "account", "add", a.User, "--password-stdin"}
	for _, d := range a.Domains {
		args = append(args, "--domain", d)
	}
	if out, err := runProgram(a.Password+"\n", "odmrctl", args...); err != nil {
		s.t.Fatalf("odmrctl account add %s: %v\n%s", a.User, err, out)
	}
}

// runProgram runs one of ours and returns all that it wrote.
func runProgram(stdin, name string, args ...string) (string, error) {
	cmd := exec.Command(filepath.Join(bin, name), args...)
	cmd.Stdin = strings.NewReader(stdin)
	out, err := cmd.CombinedOutput()
	return string(out), err
}

// odmrctl runs odmrctl on the server's queue and accounts.
func (s *Server) odmrctl(args ...string) (string, error) {
	return runProgram("", "odmrctl", append([]string{"--accounts", s.Accounts, "--data", s.Data}, args...)...)
}

// Start starts odmrd and waits until it listens.
func (s *Server) Start() {
	s.t.Helper()
	log, err := os.OpenFile(s.log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		s.t.Fatal(err)
	}
	defer log.Close()
	info, err := log.Stat()
	if err != nil {
		s.t.Fatal(err)
	}
	s.from = info.Size()
	args := append([]string{"--hostname", hostname, "--data", s.Data, "--accounts", s.Accounts, "--log-format", "json"}, s.flags...)
	for _, flag := range []string{"--odmr-listen", "--smtp-listen", "--lmtp-listen", "--admin-listen"} {
		if !slices.Contains(s.flags, flag) {
			args = append(args, flag, "127.0.0.1:0")
		}
	}
	s.cmd = exec.Command(filepath.Join(bin, "odmrd"), args...)
	s.cmd.Stdout, s.cmd.Stderr = log, log
	s.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL} // a test binary that is killed leaves nothing behind
	if err := s.cmd.Start(); err != nil {
		s.t.Fatal(err)
	}
	cmd, done := s.cmd, make(chan error, 1)
	s.done = done
	go func() { done <- cmd.Wait() }()
	until(s.t, "odmrd to listen", func() bool {
		select {
		case err := <-done:
			s.cmd, s.done = nil, nil
			s.t.Fatalf("odmrd ended at once: %v\n%s", err, s.Log())
		default:
		}
		return s.readListening()
	})
}

func (s *Server) readListening() bool {
	l, ok := listening.Find([]byte(s.Log()))
	first := func(a []string) string {
		if len(a) == 0 {
			return ""
		}
		return a[0]
	}
	s.ODMR, s.SMTP, s.LMTP, s.Admin = first(l.ODMR), first(l.SMTP), first(l.LMTP), first(l.Admin)
	return ok
}

// Log is what the present run has logged.
func (s *Server) Log() string {
	b, err := os.ReadFile(s.log)
	if err != nil {
		s.t.Fatal(err)
	}
	return string(b[min(s.from, int64(len(b))):])
}

// logged waits until the present run has logged something that matches.
func (s *Server) logged(pattern string) {
	s.t.Helper()
	re := regexp.MustCompile(pattern)
	until(s.t, "the log to say "+pattern, func() bool { return re.MatchString(s.Log()) })
}

// Signal sends a signal to odmrd.
func (s *Server) Signal(sig syscall.Signal) {
	s.t.Helper()
	if err := s.cmd.Process.Signal(sig); err != nil {
		s.t.Fatal(err)
	}
}

// Wait waits until odmrd has ended and returns its exit status (-1: by a signal).
func (s *Server) Wait() int {
	s.t.Helper()
	select {
	case <-s.done:
	case <-time.After(2 * patience):
		_ = s.cmd.Process.Signal(syscall.SIGQUIT) // for the goroutines' stacks
		<-s.done
		s.t.Fatalf("odmrd did not end\n%s", tail(s.Log(), 20000))
	}
	code := s.cmd.ProcessState.ExitCode()
	s.cmd = nil
	return code
}

// Kill ends odmrd as a power cut would, as far as the process goes.
func (s *Server) Kill() {
	s.t.Helper()
	s.Signal(syscall.SIGKILL)
	s.Wait()
}

// Stop ends odmrd in order: SIGTERM must make it exit with status 0.
func (s *Server) Stop() {
	s.t.Helper()
	s.Signal(syscall.SIGTERM)
	if code := s.Wait(); code != 0 {
		s.t.Errorf("odmrd exited with status %d on SIGTERM\n%s", code, tail(s.Log(), 4000))
	}
}

// Check stops the server if it runs and verifies every invariant of its store.
func (s *Server) Check() {
	s.t.Helper()
	if s.cmd != nil {
		s.Stop()
	}
	if out, err := s.odmrctl("queue", "check"); err != nil {
		s.t.Errorf("queue check: %v\n%s", err, out)
	}
}

func (s *Server) cleanup() {
	if s.cmd != nil || s.done != nil {
		s.Check()
	}
	all, err := os.ReadFile(s.log)
	if err != nil {
		return // it was never started
	}
	for _, bad := range []string{"panic", "DATA RACE"} {
		if i := bytes.Index(all, []byte(bad)); i >= 0 {
			s.t.Errorf("the log has %q: %.2000s", bad, all[i:])
		}
	}
	if s.t.Failed() {
		s.t.Logf("end of odmrd's log:\n%s", tail(string(all), 6000))
	}
}

// Memory is what the kernel says about odmrd's memory, in octets.
type Memory struct{ RSS, Peak int64 }

func (m Memory) String() string {
	return fmt.Sprintf("RSS %d MiB, peak %d MiB", m.RSS>>20, m.Peak>>20)
}

// Memory reads odmrd's.
func (s *Server) Memory() Memory {
	s.t.Helper()
	m, err := memoryOf(s.cmd.Process.Pid)
	if err != nil {
		s.t.Fatal(err)
	}
	return m
}

// memoryOf reads VmRSS and VmHWM of a process that runs. The rusage of one that has ended would not do: Linux counts in
// it what the parent had when it started the process.
func memoryOf(pid int) (Memory, error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return Memory{}, err
	}
	field := func(name string) int64 {
		m := regexp.MustCompile(`(?m)^` + name + `:\s+(\d+) kB$`).FindSubmatch(b)
		if m == nil {
			err = fmt.Errorf("no %s in /proc/PID/status", name)
			return 0
		}
		kb, _ := strconv.ParseInt(string(m[1]), 10, 64)
		return kb << 10
	}
	m := Memory{RSS: field("VmRSS"), Peak: field("VmHWM")}
	return m, err
}

// Descriptors counts odmrd's open files.
func (s *Server) Descriptors() int {
	s.t.Helper()
	entries, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", s.cmd.Process.Pid))
	if err != nil {
		s.t.Fatal(err)
	}
	return len(entries)
}

// get fetches a page of the admin server.
func (s *Server) get(path string) (status int, body string) {
	s.t.Helper()
	resp, err := http.Get("http://" + s.Admin + path)
	if err != nil {
		s.t.Fatal(err)
	}
	defer resp.Body.Close()
	var b bytes.Buffer
	if _, err := b.ReadFrom(resp.Body); err != nil {
		s.t.Fatal(err)
	}
	return resp.StatusCode, b.String()
}

// metric is the sum of all samples of a metric whose labels contain all of with.
func (s *Server) metric(name string, with ...string) float64 {
	s.t.Helper()
	_, page := s.get("/metrics")
	sum, found := 0.0, false
	for _, line := range strings.Split(page, "\n") {
		series, value, ok := strings.Cut(line, " ")
		metric, labels, _ := strings.Cut(series, "{")
		if !ok || metric != name {
			continue
		}
		has := true
		for _, w := range with {
			has = has && strings.Contains(labels, w)
		}
		if v, err := strconv.ParseFloat(value, 64); err == nil && has {
			sum, found = sum+v, true
		}
	}
	if !found {
		s.t.Errorf("no metric %s %q", name, with)
	}
	return sum
}

// until polls cond; it fails the test when that takes too long.
func until(t testing.TB, what string, cond func() bool) {
	t.Helper()
	for end := time.Now().Add(patience); ; {
		if cond() {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("waited %v for %s", patience, what)
		}
		time.Sleep(5 * time.Millisecond)
	}
}

func tail(s string, n int) string {
	if len(s) <= n {
		return s
	}
	return "..." + s[len(s)-n:]
}
