package e2e

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"odmr/internal/client"
)

// demoRun is a running `make run`.
type demoRun struct {
	t    *testing.T
	data string
	cmd  *exec.Cmd
	mu   sync.Mutex
	out  bytes.Buffer
}

func (d *demoRun) Write(p []byte) (int, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.out.Write(p)
}

func (d *demoRun) said() string {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.out.String()
}

func startDemo(t *testing.T, data string, flags ...string) *demoRun {
	t.Helper()
	d := &demoRun{t: t, data: data}
	d.cmd = exec.Command(filepath.Join(bin, "demo"), append([]string{"--bin", bin, "--data", data}, flags...)...)
	d.cmd.Stdout, d.cmd.Stderr = d, d
	d.cmd.WaitDelay = time.Minute
	d.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGTERM}
	if err := d.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	return d
}

var anyPorts = []string{"--odmr", "127.0.0.1:0", "--smtp", "127.0.0.1:0", "--lmtp", "127.0.0.1:0", "--admin", "127.0.0.1:0", "--mta", "127.0.0.1:0"}

// serving waits until the demo has shown everything.
func (d *demoRun) serving() {
	d.t.Helper()
	until(d.t, "the demo to serve", func() bool {
		if strings.Contains(d.said(), "demo: ") {
			d.t.Fatalf("the demo failed:\n%s", d.said())
		}
		return strings.Contains(d.said(), "serving until Ctrl-C\n")
	})
}

// interrupt is Ctrl-C: the demo must end with status 0, and odmrd with it.
func (d *demoRun) interrupt() {
	d.t.Helper()
	if err := d.cmd.Process.Signal(syscall.SIGINT); err != nil {
		d.t.Fatal(err)
	}
	if err := d.cmd.Wait(); err != nil {
		d.t.Errorf("after Ctrl-C: %v\n%s", err, d.said())
	}
	log, err := os.ReadFile(filepath.Join(d.data, "odmrd.log"))
	if err != nil || !strings.Contains(string(log), `"stopped"`) {
		d.t.Errorf("odmrd was not stopped in order (%v)\n%s", err, tail(string(log), 1000))
	}
}

// pasted finds the line to paste that begins with name.
func (d *demoRun) pasted(name string) []string {
	d.t.Helper()
	m := regexp.MustCompile(`(?m)^(?:\S*/)?` + name + ` .*$`).FindString(d.said())
	if m == "" {
		d.t.Fatalf("no line to paste with %s in\n%s", name, d.said())
	}
	var args []string
	for _, quoted := range regexp.MustCompile(`'[^']*'|\S+`).FindAllString(m, -1) {
		args = append(args, strings.Trim(quoted, "'"))
	}
	return args
}

func (d *demoRun) delivered() int {
	found, _ := filepath.Glob(filepath.Join(d.data, "Maildir", "new", "*"))
	return len(found)
}

// TestDemo runs what `make run` runs, pastes its lines, and interrupts it.
func TestDemo(t *testing.T) {
	data := filepath.Join(t.TempDir(), "demo")
	d := startDemo(t, data, anyPorts...)
	d.serving()
	for _, want := range []string{"C: ATRN example.org,example.com\n", "P: 250 ", "P: MAIL FROM:<alice@mx.example>", "P: QUIT\n", "3 messages, "} {
		if !strings.Contains(d.said(), want) {
			t.Errorf("no %q on the screen:\n%s", want, d.said())
		}
	}
	if n := d.delivered(); n != 3 {
		t.Errorf("%d messages in the Maildir", n)
	}
	for _, secret := range []string{"password", "fetchmailrc", "accounts"} {
		if info, err := os.Stat(filepath.Join(data, secret)); err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("%s: %v, %v", secret, info, err)
		}
	}
	swaks := d.pasted("swaks") // its server's address is all that is needed here
	handIn(t, swaks[2], client.SenderOptions{}, message("more", kindText, 100, "tim@example.org"))
	for _, line := range []string{"odmrctl", "odmrget"} {
		args := d.pasted(line)
		out, err := exec.Command(args[0], args[1:]...).CombinedOutput()
		if err != nil {
			t.Errorf("%q: %v\n%s", args, err, out)
		}
	}
	if n := d.delivered(); n != 4 {
		t.Errorf("%d messages in the Maildir", n)
	}
	d.interrupt()

	again := startDemo(t, data, anyPorts...)
	again.serving()
	if !strings.Contains(again.said(), "from an earlier run") {
		t.Errorf("the account was not kept:\n%s", again.said())
	}
	again.interrupt()
}

// TestDemoPortTaken: a taken port is named, with what to do, before anything is started.
func TestDemoPortTaken(t *testing.T) {
	s := startServer(t, []client.Account{customer("tim", "example.org")})
	flags := append([]string{}, anyPorts...)
	flags[3] = s.SMTP
	d := startDemo(t, filepath.Join(t.TempDir(), "demo"), flags...)
	err := d.cmd.Wait()
	if code := d.cmd.ProcessState.ExitCode(); code != 1 {
		t.Errorf("status %d (%v)", code, err)
	}
	for _, want := range []string{s.SMTP, "in use", "--smtp"} {
		if !strings.Contains(d.said(), want) {
			t.Errorf("no %q in\n%s", want, d.said())
		}
	}
}

// TestInteropDemo pastes the lines for swaks and fetchmail.
func TestInteropDemo(t *testing.T) {
	programs := map[string]string{"swaks": needProgram(t, "swaks"), "fetchmail": needProgram(t, "fetchmail")}
	d := startDemo(t, filepath.Join(t.TempDir(), "demo"), anyPorts...)
	d.serving()
	defer d.interrupt()
	for _, name := range []string{"swaks", "fetchmail"} {
		args := d.pasted(name)
		cmd := exec.Command(programs[name], args[1:]...)
		cmd.Env = append(os.Environ(), "HOME="+d.data)
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Errorf("%q: %v\n%s", args, err, out)
		}
	}
	if n := d.delivered(); n != 4 {
		t.Errorf("%d messages in the Maildir\n%s", n, d.said())
	}
	if want := "customer's MTA: "; !strings.Contains(d.said(), want) {
		t.Errorf("no %q on the screen", want)
	}
}
