package main

import (
	"bufio"
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// openTerminal returns both ends of a pseudo-terminal.
func openTerminal(t *testing.T) (master, slave *os.File) {
	t.Helper()
	fd, err := unix.Open("/dev/ptmx", unix.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Skipf("no pseudo-terminals here: %v", err)
	}
	master = os.NewFile(uintptr(fd), "ptmx")
	t.Cleanup(func() { master.Close() })
	if err := unix.IoctlSetPointerInt(fd, unix.TIOCSPTLCK, 0); err != nil {
		t.Fatal(err)
	}
	n, err := unix.IoctlGetInt(fd, unix.TIOCGPTN)
	if err != nil {
		t.Fatal(err)
	}
	slave, err = os.OpenFile(fmt.Sprintf("/dev/pts/%d", n), os.O_RDWR|syscall.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { slave.Close() })
	return master, slave
}

func echoes(t *testing.T, tty *os.File) bool {
	t.Helper()
	state, err := unix.IoctlGetTermios(int(tty.Fd()), unix.TCGETS)
	if err != nil {
		t.Fatal(err)
	}
	return state.Lflag&unix.ECHO != 0
}

// startAdd starts odmrctl account add on the terminal and returns it with its standard error.
func startAdd(t *testing.T, slave *os.File, accounts string) (*exec.Cmd, *bufio.Reader) {
	t.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Args = []string{"odmrctl", "--accounts", accounts, "account", "add", "tim", "--domain", "example.org"} // TestMain goes by the name
	cmd.Stdin = slave
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
	stderr, err := cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cmd.Process.Kill() })
	return cmd, bufio.NewReader(stderr)
}

// awaitPrompt reads up to a prompt and waits until the terminal shows no more what is typed.
func awaitPrompt(t *testing.T, stderr *bufio.Reader, master *os.File) string {
	t.Helper()
	prompt, err := stderr.ReadString(':')
	if err != nil {
		t.Fatalf("no prompt: %q %v", prompt, err)
	}
	for start := time.Now(); echoes(t, master); time.Sleep(time.Millisecond) {
		if time.Since(start) > 5*time.Minute {
			t.Fatal("the terminal still echoes")
		}
	}
	return prompt
}

func TestPromptDoesNotEcho(t *testing.T) {
	master, slave := openTerminal(t)
	accounts := filepath.Join(t.TempDir(), "accounts")
	cmd, stderr := startAdd(t, slave, accounts)
	for _, want := range []string{"Password for tim:", "Once more:"} {
		if got := awaitPrompt(t, stderr, master); strings.TrimSpace(got) != want {
			t.Errorf("prompt %q, want %q", got, want)
		}
		if _, err := master.WriteString("secretsecret\n"); err != nil {
			t.Fatal(err)
		}
	}
	if err := cmd.Wait(); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(accounts); err != nil {
		t.Error(err)
	}
	if !echoes(t, master) {
		t.Error("the terminal is left without echo")
	}
	// Whatever was echoed lies in the terminal before this.
	if _, err := slave.WriteString("the end"); err != nil {
		t.Fatal(err)
	}
	var seen []byte
	for buf := make([]byte, 256); !bytes.Contains(seen, []byte("the end")); {
		n, err := master.Read(buf)
		if err != nil {
			t.Fatal(err)
		}
		seen = append(seen, buf[:n]...)
	}
	if bytes.Contains(seen, []byte("secret")) {
		t.Errorf("echoed: %q", seen)
	}
}

// Ctrl-C at the prompt leaves nothing behind: no account, and a terminal that echoes.
func TestPromptInterrupted(t *testing.T) {
	master, slave := openTerminal(t)
	accounts := filepath.Join(t.TempDir(), "accounts")
	cmd, stderr := startAdd(t, slave, accounts)
	awaitPrompt(t, stderr, master)
	if _, err := master.WriteString("\x03"); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); cmd.ProcessState.ExitCode() != exitFailed {
		t.Errorf("%v", err)
	}
	if !echoes(t, master) {
		t.Error("the terminal is left without echo")
	}
	if _, err := os.Stat(accounts); err == nil {
		t.Error("an account was added")
	}
}
