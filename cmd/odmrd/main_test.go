package main

import (
	"bytes"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/textproto"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/rs/zerolog"

	"odmr/engine"
	"odmr/internal/account"
	"odmr/internal/admin"
	"odmr/internal/listening"
	"odmr/internal/metrics"
	"odmr/queue"
)

// patience is how long a test waits for anything at all.
const patience = 5 * time.Minute

// asServer makes the test binary be odmrd, so that signals and exit statuses are real.
const asServer = "ODMRD_TEST_AS_SERVER"

func TestMain(m *testing.M) {
	if os.Getenv(asServer) != "" {
		main()
	}
	os.Exit(m.Run())
}

// daemon is a running odmrd.
type daemon struct {
	t        *testing.T
	dir      string
	accounts string
	cmd      *exec.Cmd
	ended    chan struct{}
	lines    listening.Line // the line that scripts read

	// What a run starts with, beyond the usual.
	program string              // in place of the test's own
	as      *syscall.Credential // the user
	env     []string
	files   []*os.File // handed over, with names
	names   []string

	mu  sync.Mutex
	out bytes.Buffer
}

func (d *daemon) Write(p []byte) (int, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.out.Write(p)
}

func (d *daemon) log() string {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.out.String()
}

// workDir is a directory whose path leaves room for the control socket's name.
func workDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "odmrd-test-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

// prepare makes a directory with an accounts file for one.example.
func prepare(t *testing.T) *daemon {
	t.Helper()
	dir := workDir(t)
	d := &daemon{t: t, dir: dir, accounts: filepath.Join(dir, "accounts")}
	d.addAccount("one", "one.example")
	return d
}

func (d *daemon) addAccount(name, domain string) {
	d.t.Helper()
	a, err := (&account.Account{Name: name, Domains: []string{domain}}).WithPassword("open sesame")
	if err != nil {
		d.t.Fatal(err)
	}
	if err := account.Edit(d.accounts, func(doc *account.Document) error { return doc.Add(a) }); err != nil {
		d.t.Fatal(err)
	}
}

// spawn starts odmrd with the usual flags and more, and does not wait.
func (d *daemon) spawn(flags ...string) {
	d.t.Helper()
	args := append([]string{"--hostname=mail.isp.example", "--data=" + filepath.Join(d.dir, "data"), "--accounts=" + d.accounts,
		"--odmr-listen=127.0.0.1:0", "--smtp-listen=127.0.0.1:0", "--lmtp-listen=127.0.0.1:0", "--admin-listen=127.0.0.1:0",
		"--store-memtable=1MiB", "--min-free-space=1MiB", "--shutdown-grace=1h"}, flags...)
	program := os.Args[0]
	if d.program != "" {
		program = d.program
	}
	d.spawnCommand(program, args...)
}

func (d *daemon) spawnCommand(name string, args ...string) {
	d.t.Helper()
	env := append(append(os.Environ(), asServer+"=1"), d.env...)
	if d.names != nil { // LISTEN_PID is known to the process itself only
		env = append(env, fmt.Sprintf("LISTEN_FDS=%d", len(d.files)), "LISTEN_FDNAMES="+strings.Join(d.names, ":"))
		name, args = "sh", append([]string{"-c", `LISTEN_PID=$$ exec "$0" "$@"`, name}, args...)
	}
	d.cmd = exec.Command(name, args...)
	d.cmd.Env, d.cmd.ExtraFiles, d.cmd.SysProcAttr = env, d.files, &syscall.SysProcAttr{Credential: d.as}
	d.cmd.Stderr = d
	d.cmd.Stdout = d
	if err := d.cmd.Start(); err != nil {
		d.t.Fatal(err)
	}
	d.ended = make(chan struct{})
	go func(cmd *exec.Cmd, ended chan struct{}) {
		_ = cmd.Wait() // its status is asked of cmd.ProcessState
		close(ended)
	}(d.cmd, d.ended)
	d.t.Cleanup(func() {
		select {
		case <-d.ended:
		default:
			d.cmd.Process.Kill()
			<-d.ended
		}
		if d.t.Failed() {
			d.t.Logf("odmrd wrote:\n%s", d.log())
		}
	})
}

// start spawns odmrd and waits until it listens.
func (d *daemon) start(flags ...string) *daemon {
	d.t.Helper()
	d.mu.Lock()
	d.out.Reset()
	d.mu.Unlock()
	d.spawn(flags...)
	d.waitFor("the listening line", func() bool {
		var ok bool
		d.lines, ok = listening.Find([]byte(d.log()))
		return ok
	})
	return d
}

// waitFor polls until ok, and fails when odmrd ends before.
func (d *daemon) waitFor(what string, ok func() bool) {
	d.t.Helper()
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); time.Sleep(5 * time.Millisecond) {
		if ok() {
			return
		}
		select {
		case <-d.ended:
			if ok() {
				return
			}
			d.t.Fatalf("odmrd ended before %s", what)
		default:
		}
	}
	d.t.Fatalf("waited %s for %s", patience, what)
}

func (d *daemon) logged(pattern string) {
	d.t.Helper()
	re := regexp.MustCompile(pattern)
	d.waitFor("a log line like "+pattern, func() bool { return re.MatchString(d.log()) })
}

func (d *daemon) signal(sig syscall.Signal) {
	d.t.Helper()
	if err := d.cmd.Process.Signal(sig); err != nil {
		d.t.Fatal(err)
	}
}

// exit waits for the end and returns the status.
func (d *daemon) exit() int {
	d.t.Helper()
	select {
	case <-d.ended:
		return d.cmd.ProcessState.ExitCode()
	case <-time.After(patience):
		d.t.Fatalf("still running after %s", patience)
		return -1
	}
}

// stop ends odmrd in order.
func (d *daemon) stop() {
	d.t.Helper()
	d.signal(syscall.SIGTERM)
	if code := d.exit(); code != exitOK {
		d.t.Errorf("exit status %d after SIGTERM", code)
	}
}

func (d *daemon) get(path string) (int, string) {
	d.t.Helper()
	resp, err := http.Get("http://" + d.lines.Admin[0] + path)
	if err != nil {
		d.t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		d.t.Fatal(err)
	}
	return resp.StatusCode, string(b)
}

// dial opens an SMTP connection and reads the greeting.
func (d *daemon) dial() *textproto.Conn {
	d.t.Helper()
	c, err := textproto.Dial("tcp", d.lines.SMTP[0])
	if err != nil {
		d.t.Fatal(err)
	}
	d.t.Cleanup(func() { c.Close() })
	d.expect(c, 220)
	d.say(c, 250, "EHLO mx.example")
	return c
}

func (d *daemon) expect(c *textproto.Conn, code int) {
	d.t.Helper()
	if _, _, err := c.ReadResponse(code); err != nil {
		d.t.Fatalf("want %d: %v", code, err)
	}
}

func (d *daemon) say(c *textproto.Conn, code int, line string) {
	d.t.Helper()
	if err := c.PrintfLine("%s", line); err != nil {
		d.t.Fatal(err)
	}
	d.expect(c, code)
}

// begin brings a transaction to the middle of its content.
func (d *daemon) begin(c *textproto.Conn) {
	d.t.Helper()
	d.say(c, 250, "MAIL FROM:<a@mx.example>")
	d.say(c, 250, "RCPT TO:<b@one.example>")
	d.say(c, 354, "DATA")
	if err := c.PrintfLine("Subject: x\r\n\r\nfirst half"); err != nil {
		d.t.Fatal(err)
	}
}

// refused reports whether the SMTP listener takes no more connections.
func (d *daemon) refused() bool {
	c, err := textproto.Dial("tcp", d.lines.SMTP[0])
	if err == nil {
		c.Close()
	}
	return err != nil
}

func TestServesAndStopsAndHoldsMailOverARestart(t *testing.T) {
	d := prepare(t).start()
	for what, addrs := range map[string][]string{"odmr": d.lines.ODMR, "smtp": d.lines.SMTP, "lmtp": d.lines.LMTP, "admin": d.lines.Admin} {
		if len(addrs) != 1 || strings.HasSuffix(addrs[0], ":0") || !strings.HasPrefix(addrs[0], "127.0.0.1:") {
			t.Errorf("%s listens on %v", what, addrs)
		}
	}
	if d.lines.PID != d.cmd.Process.Pid {
		t.Errorf("pid %d, want %d", d.lines.PID, d.cmd.Process.Pid)
	}
	if code, body := d.get("/readyz"); code != 200 {
		t.Errorf("/readyz: %d %s", code, body)
	}
	c := d.dial()
	d.begin(c)
	d.say(c, 250, ".")
	d.say(c, 221, "QUIT")
	d.waitFor("the message in the metrics", func() bool {
		_, body := d.get("/metrics")
		return strings.Contains(body, "\nodmr_queue_messages 1\n") && strings.Contains(body, `odmr_messages_in_total{outcome="accepted"} 1`)
	})
	err := filepath.WalkDir(filepath.Join(d.dir, "data"), func(path string, e os.DirEntry, err error) error {
		if err != nil {
			return nil // gone in the meantime
		}
		if info, err := e.Info(); err == nil && info.Mode().Perm()&0o077 != 0 {
			t.Errorf("%s has mode %s", path, info.Mode())
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
	d.stop()
	d.start("--admin-listen=", "--lmtp-listen=")
	if !strings.Contains(d.log(), `"messages":1`) {
		t.Error("the message is not there after a restart")
	}
	if d.lines.Admin == nil || len(d.lines.Admin)+len(d.lines.LMTP) != 0 {
		t.Errorf("listeners that are off: admin %v, lmtp %v", d.lines.Admin, d.lines.LMTP)
	}
	d.signal(syscall.SIGINT)
	if code := d.exit(); code != exitOK {
		t.Errorf("exit status %d after SIGINT", code)
	}
}

// TestAdminHosts: the operator's pages are there under the server's own names and no other.
func TestAdminHosts(t *testing.T) {
	d := prepare(t).start("--hostname=mail.isp.example", "--admin-listen=localhost:0", "--admin-hosts=scrape.isp.example,odmr-1")
	for host, want := range map[string]int{
		"": 200, "localhost": 200, "mail.isp.example": 200, "scrape.isp.example": 200, "odmr-1": 200, "isp.example": 421, "rebound.example": 421,
	} {
		r, err := http.NewRequest(http.MethodGet, "http://"+d.lines.Admin[0]+"/metrics", nil)
		if err != nil {
			t.Fatal(err)
		}
		r.Host = host
		resp, err := http.DefaultClient.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if resp.StatusCode != want {
			t.Errorf("asked as %q: %s, want %d", host, resp.Status, want)
		}
	}
	d.stop()
}

func TestListeningLineInConsoleFormat(t *testing.T) {
	d := prepare(t)
	d.spawn("--log-format=console", "--log-level=error")
	d.logged(`listening .*odmr=\["127\.0\.0\.1:[1-9]\d*"\].* smtp=\["127\.0\.0\.1:[1-9]\d*"\]`)
	d.stop()
}

// TestRunningTransactionFinishes: after SIGTERM nobody new comes in, and what runs gets its 250.
func TestRunningTransactionFinishes(t *testing.T) {
	d := prepare(t).start()
	c := d.dial()
	d.begin(c)
	d.signal(syscall.SIGTERM)
	d.waitFor("the listener to close", d.refused)
	if code, body := d.get("/readyz"); code != 503 || !strings.Contains(body, condStopping) {
		t.Errorf("/readyz while stopping: %d %s", code, body)
	}
	d.say(c, 250, "second half\r\n.")
	if code := d.exit(); code != exitOK {
		t.Errorf("exit status %d", code)
	}
	d.start()
	if !strings.Contains(d.log(), `"messages":1`) {
		t.Error("the message that got its 250 is not there")
	}
	d.stop()
}

// Who could not log in stands in the log by the name that was tried, of which a long one is cut off; the proof does not.
func TestRefusedLoginIsLoggedByName(t *testing.T) {
	d := prepare(t).start()
	for login, logged := range map[string]string{"one": "one", "no such \"one\"": `no such \\"one\\"`, strings.Repeat("x", 100): strings.Repeat("x", 64)} {
		c, err := textproto.Dial("tcp", d.lines.ODMR[0])
		if err != nil {
			t.Fatal(err)
		}
		d.t.Cleanup(func() { c.Close() })
		d.expect(c, 220)
		d.say(c, 250, "EHLO customer.example")
		d.say(c, 334, "AUTH CRAM-MD5")
		d.say(c, 535, base64.StdEncoding.EncodeToString([]byte(login+" 0123456789abcdef0123456789abcdef")))
		d.logged(`"login":"` + logged + `".*"authentication refused"`)
	}
	if strings.Contains(d.log(), "0123456789abcdef") {
		t.Error(d.log())
	}
	d.stop()
}

func TestGraceEnds(t *testing.T) {
	d := prepare(t).start("--shutdown-grace=100ms")
	c := d.dial()
	d.begin(c)
	d.stop()
	d.logged("sessions were cut")
	if _, err := c.ReadLine(); err == nil {
		// A 421 may be said first; then the connection must end.
		if _, err := c.ReadLine(); err == nil {
			t.Error("the session goes on")
		}
	}
}

func TestSecondSignalEndsAtOnce(t *testing.T) {
	d := prepare(t).start()
	d.begin(d.dial())
	d.signal(syscall.SIGTERM)
	d.logged(`"stopping"`)
	d.signal(syscall.SIGTERM)
	if code := d.exit(); code != exitFailure {
		t.Errorf("exit status %d", code)
	}
}

// An opening of the queue that does not end, as on a full disk, ends with the first signal. Here the log to be read is
// a pipe that nobody writes to.
func TestSignalWhileTheQueueIsOpened(t *testing.T) {
	d := prepare(t).start()
	d.stop()
	if err := syscall.Mkfifo(filepath.Join(d.dir, "data", "queue", "999999.log"), 0o600); err != nil {
		t.Fatal(err)
	}
	d.spawn()
	d.logged(`"accounts read".*\n(.*\n)*.*"accounts read"`)
	d.signal(syscall.SIGTERM)
	if code := d.exit(); code != exitFailure {
		t.Errorf("exit status %d", code)
	}
	d.logged(`"not started"`)
	d.logged(`the queue was still being opened, signal: terminated`)
}

// A full disk makes flushes fail a hundred times a second, which must not be what fills the disk of the log.
func TestRetriesAreLoggedSparsely(t *testing.T) {
	var log bytes.Buffer
	e := newStoreEvents(zerolog.New(&log), metrics.New("v1", func() queue.Counts { return queue.Counts{} }), new(admin.Conditions))
	for range 10000 {
		e.BackgroundError(errors.New("no space left on device"))
	}
	if lines := strings.Count(log.String(), "no space left"); lines == 0 || lines > 10*retriesLogged {
		t.Errorf("%d lines", lines)
	}
}

func TestAccountsAreReadAgain(t *testing.T) {
	d := prepare(t).start()
	knows := func(domain string) bool {
		c := d.dial() // a session has so many errors
		defer c.Close()
		d.say(c, 250, "MAIL FROM:<>")
		c.PrintfLine("RCPT TO:<x@%s>", domain)
		_, _, err := c.ReadResponse(250)
		return err == nil
	}
	if !knows("one.example") || knows("two.example") {
		t.Fatal("the accounts file is not what decides")
	}
	d.addAccount("two", "two.example")
	d.waitFor("the change to be picked up without a signal", func() bool { return knows("two.example") })

	good, err := os.ReadFile(d.accounts)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(d.accounts, append([]byte("what is this\n"), good...), 0o600); err != nil {
		t.Fatal(err)
	}
	d.signal(syscall.SIGHUP)
	d.logged(`accounts:1:.*accounts file is broken`)
	if !knows("one.example") || !knows("two.example") {
		t.Error("the old accounts are no longer in effect")
	}
	if err := os.WriteFile(d.accounts, good, 0o600); err != nil {
		t.Fatal(err)
	}
	before := strings.Count(d.log(), `"accounts read"`)
	d.signal(syscall.SIGHUP)
	d.waitFor("the accounts to be read", func() bool { return strings.Count(d.log(), `"accounts read"`) > before })
	if code, body := d.get("/metrics"); code != 200 || !strings.Contains(body, "\nodmr_account_domains 2\n") {
		t.Error("metrics do not show two domains")
	}

	// Half of it, without fault, and somebody is still writing.
	half, _, _ := strings.Cut(string(good), "account two")
	if err := os.WriteFile(d.accounts, []byte(half), 0o600); err != nil {
		t.Fatal(err)
	}
	d.waitFor("a reload that finds the file being written", func() bool {
		now := time.Now()
		if err := os.Chtimes(d.accounts, now, now); err != nil {
			t.Error(err)
		}
		d.signal(syscall.SIGHUP)
		return strings.Contains(d.log(), "the accounts file is just being written")
	})
	if err := os.WriteFile(d.accounts, good, 0o600); err != nil {
		t.Fatal(err)
	}
	d.waitFor("the whole file to be in effect", func() bool { return knows("two.example") })
	d.stop()
}

// TestStartFailures: each with exit status 1 and what is wrong.
func TestStartFailures(t *testing.T) {
	running := prepare(t).start()
	for name, c := range map[string]struct {
		change func(d *daemon) []string
		want   string
	}{
		"no accounts": {func(d *daemon) []string { return []string{"--accounts=" + filepath.Join(d.dir, "none")} },
			`make it with: odmrctl --accounts .*/none account add NAME --domain DOMAIN`},
		"broken accounts": {func(d *daemon) []string {
			if err := os.WriteFile(d.accounts, []byte("what is this\n"), 0o600); err != nil {
				t.Error(err)
			}
			return nil
		}, `--accounts: .*accounts:1:`},
		"data is taken": {func(*daemon) []string { return []string{"--data=" + filepath.Join(running.dir, "data")} }, `--data: .*in use`},
		"data is open": {func(d *daemon) []string {
			data := filepath.Join(d.dir, "open")
			if err := errors.Join(os.Mkdir(data, 0o700), os.Chmod(data, 0o1777)); err != nil {
				t.Error(err)
			}
			return []string{"--data=" + data}
		}, `--data: everybody on this machine may write into .*open`},
		"data is a file": {func(d *daemon) []string { return []string{"--data=" + d.accounts} }, `--data: .*not a directory`},
		"port is taken": {func(*daemon) []string { return []string{"--smtp-listen=" + running.lines.SMTP[0]} },
			`smtp.*address already in use: something listens there already`},
		"admin port is taken": {func(*daemon) []string { return []string{"--admin-listen=" + running.lines.Admin[0]} },
			`--admin-listen: .*address already in use`},
	} {
		t.Run(name, func(t *testing.T) {
			d := prepare(t)
			d.spawn(c.change(d)...)
			if code := d.exit(); code != exitFailure {
				t.Errorf("exit status %d", code)
			}
			if !regexp.MustCompile(c.want).MatchString(d.log()) {
				t.Errorf("%s does not match\n%s", c.want, d.log())
			}
		})
	}
	if code, body := running.get("/readyz"); code != 200 {
		t.Errorf("the running server suffered: %d %s", code, body)
	}
	running.stop()
}

// TestMaxSessionsMustFitUnderTheLimitOfOpenFiles starts a shell that has lowered it.
func TestMaxSessionsMustFitUnderTheLimitOfOpenFiles(t *testing.T) {
	d := prepare(t)
	d.spawnCommand("sh", "-c", `ulimit -n 200; exec "$0" "$@"`, os.Args[0], "--max-sessions=150", "--loops=-1")
	if code := d.exit(); code != exitConfig {
		t.Errorf("exit status %d", code)
	}
	for _, want := range []string{"--max-sessions: 150 does not fit", "200 of which 100 remain", "--loops: "} {
		if !strings.Contains(d.log(), want) {
			t.Errorf("missing %q", want)
		}
	}
}

// TestCommandLine runs what needs no server.
func TestCommandLine(t *testing.T) {
	for _, c := range []struct {
		args   []string
		code   int
		stdout string
		stderr string
	}{
		{[]string{"--help"}, exitOK, "--shutdown-grace=DURATION", ""},
		{[]string{"--version"}, exitOK, "odmrd " + version + "\n", ""},
		{[]string{"--print-config", "--hostname=a.example"}, exitOK, "hostname: a.example\n", ""},
		{[]string{"--nonsense", "--loops=x"}, exitConfig, "", "odmrd: the configuration has 2 problems:\n  --nonsense: there is no such flag"},
		{[]string{"--print-config", "--loops=x"}, exitConfig, "", "--loops: \"x\" is not a whole number"},
	} {
		var stdout, stderr bytes.Buffer
		if code := run(c.args, &stdout, &stderr); code != c.code {
			t.Errorf("%v: exit status %d, want %d", c.args, code, c.code)
		}
		if !strings.Contains(stdout.String(), c.stdout) || (c.stdout == "") != (stdout.Len() == 0) {
			t.Errorf("%v: stdout %q", c.args, stdout.String())
		}
		if !strings.Contains(stderr.String(), c.stderr) || (c.stderr == "") != (stderr.Len() == 0) {
			t.Errorf("%v: stderr %q", c.args, stderr.String())
		}
	}
	var help bytes.Buffer
	if run([]string{"--help"}, &help, io.Discard); !strings.Contains(strings.Join(strings.Fields(help.String()), " "), fmt.Sprintf("0 means %d,", engine.DefaultMaxSessions)) {
		t.Error("--help gives another default of --max-sessions than the engine")
	}
	if code := run([]string{"--help"}, brokenWriter{}, io.Discard); code != exitFailure {
		t.Errorf("--help on a broken pipe: exit status %d", code)
	}
}

type brokenWriter struct{}

func (brokenWriter) Write([]byte) (int, error) { return 0, errors.New("broken pipe") }
