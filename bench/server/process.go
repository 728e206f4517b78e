package server

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"odmr/internal/listening"
)

const (
	startWait = 2 * time.Minute  // until the server listens: it may have a large queue to open
	stopWait  = 45 * time.Second // from SIGTERM to the end; the server's own grace is 30 s
	lookEvery = 10 * time.Millisecond
)

// Options say what to start.
type Options struct {
	Binary   string   // odmrd
	Dir      string   // a directory of its own
	Accounts string   // accounts file
	LogLevel string   // of the server's log, which goes to the file "log" in Dir
	Args     []string // further flags, which win
}

// Addrs are the addresses of a server.
type Addrs = listening.Addrs

// Process is a running odmrd, or the addresses of one that somebody else started (Pid is 0 then, and
// there is nothing to stop or to account).
type Process struct {
	Addrs
	Pid  int
	how  Options
	dir  string
	cmd  *exec.Cmd
	log  *os.File
	done chan error
}

// Attach makes a Process of a server that runs already.
func Attach(a Addrs) *Process { return &Process{Addrs: a} }

// Start starts a server and waits until it listens.
func Start(ctx context.Context, o Options) (*Process, error) {
	if err := os.MkdirAll(o.Dir, 0o700); err != nil {
		return nil, err
	}
	log, err := os.OpenFile(filepath.Join(o.Dir, "log"), os.O_CREATE|os.O_RDWR|os.O_TRUNC, 0o600)
	if err != nil {
		return nil, err
	}
	local := "127.0.0.1:0"
	args := append([]string{"--hostname", "odmr.bench.example", "--data", filepath.Join(o.Dir, "data"), "--accounts", o.Accounts,
		"--odmr-listen", local, "--smtp-listen", local, "--lmtp-listen", local, "--admin-listen", local,
		"--log-level", o.LogLevel, "--log-format", "json"}, o.Args...)
	p := &Process{how: o, dir: o.Dir, log: log, done: make(chan error, 1)}
	p.cmd = exec.Command(o.Binary, args...)
	p.cmd.Env = slices.DeleteFunc(os.Environ(), func(v string) bool { return strings.HasPrefix(v, "ODMRD_") })
	p.cmd.Stdout, p.cmd.Stderr = log, log
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL} // no server outlives a harness that was killed
	if err := p.cmd.Start(); err != nil {
		return nil, errors.Join(fmt.Errorf("starting the server: %w", err), log.Close())
	}
	p.Pid = p.cmd.Process.Pid
	go func() { p.done <- p.cmd.Wait() }()
	if err := p.awaitListening(ctx); err != nil {
		return nil, errors.Join(err, p.Stop())
	}
	return p, nil
}

// awaitListening waits for the log line that names the addresses.
func (p *Process) awaitListening(ctx context.Context) error {
	deadline := time.Now().Add(startWait)
	for {
		select {
		case err := <-p.done:
			p.done <- err
			return fmt.Errorf("the server ended: %v\n%s", err, p.LogTail())
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-time.After(lookEvery):
		}
		text, err := os.ReadFile(p.log.Name())
		if err != nil {
			return err
		}
		if line, ok := listening.Find(text); ok {
			p.Addrs = line.Addrs
			return nil
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("the server does not listen after %v\n%s", startWait, p.LogTail())
		}
	}
}

// LogTail is the end of the server's log.
func (p *Process) LogTail() string {
	text, _ := os.ReadFile(p.log.Name())
	return string(text[max(0, len(text)-4096):])
}

// Alarms counts what the server logged as an error, or as a panic that it caught, and shows the first.
func (p *Process) Alarms() (n int, first string) {
	if p.Pid == 0 {
		return 0, ""
	}
	text, err := os.ReadFile(p.log.Name())
	if err != nil {
		return 1, err.Error()
	}
	for line := range bytes.Lines(text) {
		var entry struct{ Level string }
		plain := json.Unmarshal(line, &entry) != nil
		if plain || entry.Level == "error" || entry.Level == "fatal" || entry.Level == "panic" {
			if n++; n == 1 {
				first = string(bytes.TrimSpace(line[:min(len(line), 400)]))
			}
		}
	}
	return n, first
}

// DataDir is the server's --data directory, or "" of one that somebody else started.
func (p *Process) DataDir() string {
	if p.Pid == 0 {
		return ""
	}
	return filepath.Join(p.dir, "data")
}

// Restart stops the server and starts it again on the same data: what it keeps in memory of its past is
// gone. One that somebody else started stays as it is.
func (p *Process) Restart(ctx context.Context) error {
	if p.Pid == 0 {
		return nil
	}
	if err := p.Stop(); err != nil {
		return err
	}
	again, err := Start(ctx, p.how)
	if err != nil {
		return err
	}
	*p = *again
	return nil
}

// Stop ends the server in order, and by force if it does not obey; that is an error, as is
// an exit status other than 0.
func (p *Process) Stop() error {
	if p.Pid == 0 {
		return nil
	}
	defer p.log.Close()
	_ = p.cmd.Process.Signal(syscall.SIGTERM)
	select {
	case err := <-p.done:
		if err != nil {
			return fmt.Errorf("the server ended: %w\n%s", err, p.LogTail())
		}
		return nil
	case <-time.After(stopWait):
		_ = p.cmd.Process.Kill()
		<-p.done
		return fmt.Errorf("the server did not stop within %v of SIGTERM and was killed\n%s", stopWait, p.LogTail())
	}
}
