package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"

	"odmr/internal/listening"
)

// server is the running odmrd.
type server struct {
	cmd  *exec.Cmd
	done chan struct{} // closed when it has ended
	err  error         // how, valid after done
	log  string
	from int64 // where this run's part of the log begins
}

// startServer starts odmrd and waits until it listens; d's addresses are then those it has chosen.
func (d *demo) startServer(ctx context.Context) (*server, error) {
	s := &server{log: d.file("odmrd.log"), done: make(chan struct{})}
	log, err := os.OpenFile(s.log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, err
	}
	defer log.Close()
	if info, err := log.Stat(); err == nil {
		s.from = info.Size()
	}
	args := []string{"--hostname", hostname, "--data", d.file("server"), "--accounts", d.file("accounts"),
		"--odmr-listen", d.odmr, "--smtp-listen", d.smtp, "--lmtp-listen", d.lmtp, "--admin-listen", d.http, "--log-format", "json"}
	// Not tied to ctx: it is asked to end in order, and not by the terminal's Ctrl-C behind our back.
	s.cmd = exec.Command(filepath.Join(d.bin, "odmrd"), args...)
	s.cmd.Stdout, s.cmd.Stderr = log, log
	s.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGTERM}
	if err := s.cmd.Start(); err != nil {
		return nil, err
	}
	go func() {
		s.err = s.cmd.Wait()
		close(s.done)
	}()
	for deadline := time.Now().Add(patience); ; {
		if s.listening(d) {
			return s, nil
		}
		select {
		case <-s.done:
			return nil, fmt.Errorf("odmrd did not start: %w\n%s", s.err, s.tail())
		case <-ctx.Done():
			return nil, errors.Join(context.Cause(ctx), s.stop())
		case <-time.After(10 * time.Millisecond):
		}
		if time.Now().After(deadline) {
			return nil, errors.Join(fmt.Errorf("odmrd did not say within %v that it listens; see %s", patience, s.log), s.stop())
		}
	}
}

// listening reads the addresses from the line in which odmrd says where it listens.
func (s *server) listening(d *demo) bool {
	l, ok := listening.Find(s.read())
	if !ok || len(l.ODMR) == 0 || len(l.SMTP) == 0 || len(l.LMTP) == 0 || len(l.Admin) == 0 {
		return false
	}
	d.odmr, d.smtp, d.lmtp, d.http = l.ODMR[0], l.SMTP[0], l.LMTP[0], l.Admin[0]
	return true
}

// read returns what odmrd has logged in this run.
func (s *server) read() []byte {
	b, err := os.ReadFile(s.log)
	if err != nil {
		return nil
	}
	return b[min(s.from, int64(len(b))):]
}

// tail is the end of it, for an error.
func (s *server) tail() []byte {
	b := s.read()
	return b[max(0, len(b)-2000):]
}

// wait returns nil when ctx ends, or an error when odmrd ends by itself.
func (s *server) wait(ctx context.Context) error {
	select {
	case <-ctx.Done():
		return nil
	case <-s.done:
		return fmt.Errorf("odmrd has ended: %w\n%s", s.err, s.tail())
	}
}

// stop asks odmrd to end and waits until it has.
func (s *server) stop() error {
	select {
	case <-s.done:
		return nil // why was said elsewhere
	default:
	}
	if err := s.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		return err
	}
	<-s.done
	if s.err != nil {
		return fmt.Errorf("odmrd: %w\n%s", s.err, s.tail())
	}
	return nil
}
