// Package peers runs other mail servers beside ours: Postfix, Exim 4 and OpenSMTPD from Debian, each on a
// private configuration with its own directory and a loopback port, so that their figures come
// from the same run, the same disk and the same two processors.
//
// What they are asked is what a relay that holds mail does: take messages durably and keep them, then
// hand all of them on to a sink. The configurations are in this package, for anybody to check
// that they are fair: nothing is looked up, nothing is logged to disk, no limit but the
// machine stands in the way, and fsync is as their makers ship it. Each is measured by Postfix's own
// load tools, smtp-source and smtp-sink, as is our server beside them.
//
// A peer whose program is missing is Missing, with the reason; it is never guessed at. The package
// ends every process that it starts and touches no other, nor the system's own mail server.
package peers

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	"odmr/internal/freeport"
)

// Peer is a mail server that can be measured.
type Peer interface {
	// Name is what people call it.
	Name() string
	// Version is its version, or why it cannot be measured here.
	Version() (string, error)
	// Start makes it listen on port of 127.0.0.1, taking and holding all mail, in dir, which is its own and
	// empty. What Release lets go it will hand on to port sink.
	Start(ctx context.Context, dir string, port, sink int) (Running, error)
}

// Running is a peer that takes mail.
type Running interface {
	// Release lets everything that is held go to the sink, as fast as it can.
	Release(ctx context.Context) error
	// Stop ends it.
	Stop() error
}

// All are the peers that are known, whether they are installed or not. root is where packages that cannot be
// installed side by side have been unpacked, see `make bench-peers`.
func All(root string) []Peer { return []Peer{postfix{}, exim{root}, openSMTPD{root}} }

// Load is what the load tools of Postfix are told.
type Load struct {
	Messages int
	Size     int // octets of each message
	Sessions int // connections at once
	To       string
}

// Source runs smtp-source with sessions that stay connected (-d) and returns how long it took.
func Source(ctx context.Context, addr string, l Load) (time.Duration, error) {
	program, err := tool("smtp-source")
	if err != nil {
		return 0, err
	}
	var said strings.Builder
	cmd := exec.CommandContext(ctx, program, "-d", "-s", strconv.Itoa(l.Sessions), "-l", strconv.Itoa(l.Size),
		"-m", strconv.Itoa(l.Messages), "-f", "sender@bench.example", "-t", l.To, "-M", "mx.bench.example", addr)
	cmd.Stdout, cmd.Stderr = &said, &said
	began := time.Now()
	if err := cmd.Run(); err != nil {
		return 0, fmt.Errorf("smtp-source: %w: %s", err, said.String())
	}
	return time.Since(began), nil
}

// tool finds one of Postfix's programs, which are not in everybody's path.
func tool(name string) (string, error) {
	if path, err := exec.LookPath(name); err == nil {
		return path, nil
	}
	path := filepath.Join("/usr/sbin", name)
	if _, err := os.Stat(path); err != nil {
		return "", fmt.Errorf("%s is not installed (Debian: postfix)", name)
	}
	return path, nil
}

// Tools says whether smtp-source and smtp-sink are there.
func Tools() error {
	_, err := tool("smtp-source")
	_, err2 := tool("smtp-sink")
	return errors.Join(err, err2)
}

// Sink is a running smtp-sink.
type Sink struct {
	Port  int
	cmd   *exec.Cmd
	count atomic.Int64
	first atomic.Int64 // when the first message came, Unix nanoseconds
	done  chan struct{}
}

// StartSink starts smtp-sink.
func StartSink(ctx context.Context) (*Sink, error) {
	program, err := tool("smtp-sink")
	if err != nil {
		return nil, err
	}
	s := &Sink{done: make(chan struct{})}
	if s.Port, err = freeport.Loopback(); err != nil {
		return nil, err
	}
	args := []string{"-c", fmt.Sprintf("127.0.0.1:%d", s.Port), "1000"}
	if os.Getuid() == 0 { // it refuses to be root
		args = append([]string{"-u", "nobody"}, args...)
	}
	s.cmd = command(ctx, program, args...)
	out, err := s.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := s.cmd.Start(); err != nil {
		return nil, err
	}
	go s.read(out)
	return s, awaitPort(ctx, s.Port)
}

// read follows the counters, "sess=1 quit=0 mesg=17\r" and again.
func (s *Sink) read(out io.Reader) {
	defer close(s.done)
	r := bufio.NewReaderSize(out, 64<<10)
	for {
		line, err := r.ReadString('\r')
		if err != nil {
			return
		}
		_, digits, _ := strings.Cut(strings.TrimSpace(line), "mesg=")
		if n, err := strconv.ParseInt(strings.TrimSpace(digits), 10, 64); err == nil && n > 0 {
			s.first.CompareAndSwap(0, time.Now().UnixNano())
			s.count.Store(n)
		}
	}
}

// Count is how many messages came so far.
func (s *Sink) Count() int64 { return s.count.Load() }

// Await waits until n messages have come, or for longest since the first, and returns how many came per second
// from the first one on. It gives up when none has come for stall.
func (s *Sink) Await(ctx context.Context, n int64, longest, stall time.Duration) (rate float64, err error) {
	last, at := int64(0), time.Now()
	for {
		now := s.count.Load()
		since := time.Since(time.Unix(0, s.first.Load()))
		if now >= n || now > 0 && since > longest {
			return float64(now) / since.Seconds(), nil
		}
		if now > last {
			last, at = now, time.Now()
		}
		if time.Since(at) > stall {
			return 0, fmt.Errorf("%d of %d messages came to the sink, and then none for %v", now, n, stall)
		}
		select {
		case <-ctx.Done():
			return 0, context.Cause(ctx)
		case <-time.After(2 * time.Millisecond):
		}
	}
}

// Stop ends the sink.
func (s *Sink) Stop() error {
	_ = s.cmd.Process.Kill()
	<-s.done
	_ = s.cmd.Wait() // "killed", as it was
	return nil
}

// portWait is how long a program may take until it listens.
const portWait = 2 * time.Minute

func awaitPort(ctx context.Context, port int) error {
	deadline := time.Now().Add(portWait)
	for {
		conn, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", port))
		if err == nil {
			return conn.Close()
		}
		if time.Now().After(deadline) || ctx.Err() != nil {
			return fmt.Errorf("nobody listens: %w", err)
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// command is a process in a session of its own that does not outlive the harness.
func command(ctx context.Context, program string, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, program, args...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Pdeathsig: syscall.SIGTERM}
	return cmd
}

// run runs a program to its end and returns what it said.
func run(ctx context.Context, program string, args ...string) (string, error) {
	out, err := exec.CommandContext(ctx, program, args...).CombinedOutput()
	if err != nil {
		err = fmt.Errorf("%s %s: %w: %s", filepath.Base(program), strings.Join(args, " "), err, out)
	}
	return string(out), err
}

// daemon is a peer's main process, which leads its own session.
type daemon struct {
	cmd  *exec.Cmd
	log  *os.File
	done chan error
}

// startDaemon starts a peer whose standard error goes to a file in dir, and waits until port answers.
func startDaemon(ctx context.Context, dir string, port int, program string, args ...string) (*daemon, error) {
	log, err := os.Create(filepath.Join(dir, "stderr"))
	if err != nil {
		return nil, err
	}
	d := &daemon{cmd: command(context.WithoutCancel(ctx), program, args...), log: log, done: make(chan error, 1)}
	d.cmd.Stdout, d.cmd.Stderr = log, log
	d.cmd.Dir = dir
	if err := d.cmd.Start(); err != nil {
		return nil, errors.Join(err, log.Close())
	}
	go func() { d.done <- d.cmd.Wait() }()
	if err := awaitPort(ctx, port); err != nil {
		text, _ := os.ReadFile(log.Name())
		return nil, errors.Join(fmt.Errorf("%s: %w: %s", filepath.Base(program), err, text), d.stop())
	}
	return d, nil
}

// daemonWait is how long a daemon may take to end.
const daemonWait = 2 * time.Minute

// stop ends the daemon and what it has started, which are in its session's process group.
func (d *daemon) stop() error {
	defer d.log.Close()
	_ = d.cmd.Process.Signal(syscall.SIGTERM)
	var err error
	select {
	case <-d.done:
	case <-time.After(daemonWait):
		err = fmt.Errorf("%s did not end within %v", d.cmd.Path, daemonWait)
		_ = d.cmd.Process.Kill()
		<-d.done
	}
	_ = syscall.Kill(-d.cmd.Process.Pid, syscall.SIGKILL) // its children, if any are left
	return err
}
