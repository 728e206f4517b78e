package engine

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/panjf2000/gnet/v2"

	"odmr/engine/session"
)

// toy is a machine for tests: it echoes lines, and does what some of them say.
type toy struct {
	stuck    atomic.Bool // consumes nothing
	ended    int
	stopped  bool
	deadline session.Time
	ticks    int
	progress int
	consumed atomic.Int64
}

func (s *toy) Start(now session.Time, out *session.Output) {
	s.deadline = session.Never
	out.Reply = append(out.Reply, "220 toy\r\n"...)
}

func (s *toy) Input(now session.Time, b []byte, out *session.Output) int {
	if s.stuck.Load() {
		return 0
	}
	n := bytes.IndexByte(b, '\n') + 1
	s.consumed.Add(int64(n))
	line := strings.TrimSpace(string(b[:n]))
	switch {
	case n == 0:
	case line == "QUIT":
		out.Reply = append(out.Reply, "221 bye\r\n"...)
		out.Acts = append(out.Acts, session.Action{Kind: session.ActClose, At: len(out.Reply), Reason: "quit"})
	case line == "PANIC":
		out.Reply = append(out.Reply, "250 never seen\r\n"...)
		panic("planted")
	case line == "STUCK":
		s.stuck.Store(true)
	case strings.HasPrefix(line, "SAY "):
		var k int
		_, _ = fmt.Sscanf(line, "SAY %d", &k)
		out.Reply = append(out.Reply, bytes.Repeat([]byte("x"), k)...)
		out.Reply = append(out.Reply, "\r\n"...)
	case line == "TIMER":
		s.deadline = now + int64(250*time.Millisecond)
		out.Reply = append(out.Reply, "250 armed\r\n"...)
	default:
		out.Reply = append(out.Reply, "250 "+line+"\r\n"...)
	}
	return n
}

func (s *toy) Done(session.Time, uint32, *session.Result, *session.Output) {}
func (s *toy) Tick(now session.Time, out *session.Output) {
	s.ticks++
	s.deadline = session.Never
	out.Reply = append(out.Reply, "250 tick\r\n"...)
}
func (s *toy) Deadline() session.Time { return s.deadline }
func (s *toy) Progress(session.Time)  { s.progress++ }
func (s *toy) Stop(now session.Time, out *session.Output) {
	s.stopped = true
	out.Reply = append(out.Reply, "421 stopping\r\n"...)
	out.Acts = append(out.Acts, session.Action{Kind: session.ActClose, At: len(out.Reply), Reason: "stop"})
}
func (s *toy) End(session.Time, *session.Output) { s.ended++ }

// toyBox keeps the toys of one server, in the order of their connections.
type toyBox struct {
	mu  sync.Mutex
	all []*toy
}

func (b *toyBox) toy(i int) *toy {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.all[i]
}

func toys() (setting, *toyBox) {
	b := &toyBox{}
	return withMachine(func(*conn) session.Session {
		b.mu.Lock()
		defer b.mu.Unlock()
		m := &toy{}
		b.all = append(b.all, m)
		return m
	}), b
}

func TestEcho(t *testing.T) {
	set, _ := toys()
	s := newServer(t, set)
	p := s.dial(SMTP)
	p.expect("220")
	p.ask("hello", "250 hello")
	p.send("a", "b", "c")
	for _, want := range []string{"a", "b", "c"} {
		p.expect("250 " + want)
	}
	p.ask("QUIT", "221")
	p.eof()
}

func TestPanicEndsOneSession(t *testing.T) {
	set, all := toys()
	s := newServer(t, set, func(s *server, c *Config) { c.Loops = 1; s.crash = true })
	other := s.dial(SMTP)
	other.expect("220")
	p := s.dial(SMTP)
	p.expect("220")
	p.ask("PANIC", "421 4.3.0")
	p.eof()
	other.ask("still here", "250 still here")
	if n := s.panics.Load(); n != 1 {
		t.Errorf("%d panics counted, want 1", n)
	}
	other.ask("QUIT", "221")
	other.eof()
	s.shutdown(patience)
	if all.toy(1).ended != 0 {
		t.Error("a machine that panicked was called again")
	}
	if all.toy(0).ended != 1 {
		t.Errorf("End was called %d times", all.toy(0).ended)
	}
}

func TestTimer(t *testing.T) {
	set, _ := toys()
	s := newServer(t, set)
	p := s.dial(LMTP)
	p.expect("220")
	began := time.Now()
	p.ask("TIMER", "250 armed")
	p.expect("250 tick")
	if d := time.Since(began); d < 250*time.Millisecond {
		t.Errorf("the deadline passed %s too early", 250*time.Millisecond-d)
	}
	if s.seen.get(func(r *recorder) int { return r.lags }) == 0 {
		t.Error("no loop lag was reported")
	}
}

// A session that takes nothing costs a bounded number of octets; the rest waits in the kernel.
func TestStuckSessionIsPaused(t *testing.T) {
	set, all := toys()
	s := newServer(t, set, func(s *server, c *Config) { c.Loops = 1 })
	if s.loops[0].epfd < 0 {
		t.Fatal("gnet's epoll instance was not found: pausing does not work with this version of gnet")
	}
	p := s.dial(SMTP)
	p.expect("220")
	p.ask("hello", "250")
	p.send("STUCK")
	m := all.toy(0)
	eventually(t, "stuck", m.stuck.Load)

	const flood = 64 << 20
	line := []byte(strings.Repeat("y", 62) + "\r\n")
	sent := make(chan int, 1)
	go func() {
		n := 0
		block := bytes.Repeat(line, 1<<10)
		for n < flood {
			k, err := p.Write(block)
			n += k
			if err != nil {
				break
			}
		}
		sent <- n
	}()
	var most int
	eventually(t, "the socket is paused", func() bool { return inspect(s, func(c *conn) bool { return c.paused }) })
	for range 50 {
		inspect(s, func(c *conn) bool { most = max(most, c.gc.InboundBuffered()); return true })
		time.Sleep(2 * time.Millisecond)
	}
	if most > 2*maxUnread {
		t.Errorf("%d octets were buffered for a session that reads nothing", most)
	}
	select {
	case n := <-sent:
		t.Fatalf("all %d octets were swallowed", n)
	default:
	}
	// It goes on as soon as the session does.
	m.stuck.Store(false)
	inspect(s, func(c *conn) bool { c.run(now()); return true })
	replies := make(chan int64, 1)
	go func() {
		n, _ := io.Copy(io.Discard, p.r)
		replies <- n
	}()
	if n := <-sent; n < flood {
		t.Fatalf("only %d octets were taken", n)
	}
	p.send("QUIT")
	if n, want := <-replies, int64(flood/64*68+len("221 bye\r\n")); n != want {
		t.Errorf("%d octets of replies, want %d", n, want)
	}
}

// inspect runs fn on the loop for the first connection that there is, and returns what fn does.
func inspect(s *server, fn func(*conn) bool) bool {
	for _, lp := range s.loops {
		result := make(chan bool, 1)
		lp.inbox.post(event{kind: evDone, job: &inspection{fn, result, lp}})
		if r := <-result; r {
			return true
		}
	}
	return false
}

// inspection is a job that no connection waits for: discarded on the loop, it looks around.
type inspection struct {
	fn     func(*conn) bool
	result chan bool
	lp     *loop
}

func (j *inspection) run()       {}
func (j *inspection) fail(error) {}
func (j *inspection) discard() {
	for _, c := range j.lp.conns {
		j.result <- j.fn(c)
		return
	}
	j.result <- false
}

// A client that sends commands and does not read replies costs a bounded number of octets.
func TestUnreadRepliesAreBounded(t *testing.T) {
	set, _ := toys()
	s := newServer(t, set, func(s *server, c *Config) { c.Loops = 1 })
	p := s.dial(SMTP)
	p.expect("220")
	go func() {
		block := bytes.Repeat([]byte("SAY 1000\r\n"), 1000)
		for range 1000 {
			if _, err := p.Write(block); err != nil {
				return
			}
		}
	}()
	eventually(t, "replies pile up", func() bool {
		return inspect(s, func(c *conn) bool { return c.out.pending > maxReplies && c.blocked })
	})
	var most int64
	for range 50 {
		inspect(s, func(c *conn) bool { most = max(most, c.out.pending); return true })
		time.Sleep(2 * time.Millisecond)
	}
	if most > 2*maxReplies {
		t.Errorf("%d octets of replies wait", most)
	}
	// When it reads after all, nothing is missing.
	for range 100_000 {
		if l := p.line(); len(l) != 1000 {
			t.Fatalf("a reply of %d octets", len(l))
		}
	}
}

func TestMaxSessions(t *testing.T) {
	set, _ := toys()
	s := newServer(t, set, func(s *server, c *Config) { c.MaxSessions = 2 })
	a, b := s.dial(SMTP), s.dial(ODMR)
	a.expect("220")
	b.expect("220")
	for range 5 {
		c := s.dial(LMTP)
		c.expect("421 4.3.2 mail.isp.example ")
		c.eof()
	}
	if n := s.seen.get(func(r *recorder) int { return r.refused }); n != 5 {
		t.Errorf("%d refusals counted, want 5", n)
	}
	a.ask("QUIT", "221")
	a.eof()
	a.Close()
	eventually(t, "a place is free", func() bool { return s.Sessions() < 2 })
	c := s.dial(LMTP)
	c.expect("220")
}

func TestShutdownStopsSessions(t *testing.T) {
	set, all := toys()
	s := newServer(t, set)
	var peers []*peer
	for range 10 {
		p := s.dial(SMTP)
		p.expect("220")
		peers = append(peers, p)
	}
	addr := s.addr(SMTP)
	done := make(chan struct{})
	go func() {
		defer close(done)
		for _, p := range peers {
			p.expect("421 stopping")
			p.eof()
			p.Close()
		}
	}()
	s.shutdown(patience)
	<-done
	for _, m := range all.all {
		if !m.stopped || m.ended != 1 {
			t.Errorf("stopped %v, ended %d times", m.stopped, m.ended)
		}
	}
	if _, err := dialOnce(addr); err == nil {
		t.Error("somebody still listens")
	}
	if s.Ready() {
		t.Error("a server that was shut down says that it is ready")
	}
}

// mute does not react to Stop.
type mute struct{ toy }

func (*mute) Stop(session.Time, *session.Output) {}

func TestShutdownCutsAfterGrace(t *testing.T) {
	s := newServer(t, withMachine(func(*conn) session.Session { return &mute{} }))
	p := s.dial(SMTP)
	p.expect("220")
	ctx, cancel := context.WithTimeout(context.Background(), 50*time.Millisecond)
	defer cancel()
	s.down = true
	if err := s.Shutdown(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("Shutdown returned %v", err)
	}
	p.eof()
}

func TestPortTaken(t *testing.T) {
	set, _ := toys()
	s := newServer(t, set)
	cfg := s.cfg
	socket, err := Listen("127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	cfg.Listeners = []Listener{{Role: SMTP, Addr: "127.0.0.1:0"}, {Role: ODMR, Addr: s.addr(ODMR)}, {Role: LMTP, Socket: socket}}
	e, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	if err = e.Start(); err == nil {
		t.Fatal("two servers on one port")
	}
	if !strings.Contains(err.Error(), s.addr(ODMR)) || !strings.Contains(err.Error(), "odmr") {
		t.Errorf("the error does not say which: %v", err)
	}
	for _, a := range []string{e.Addrs()[0].Addr.String(), socket.Addr().String()} {
		if _, err := dialOnce(a); err == nil {
			t.Errorf("%s is still held", a)
		}
	}
}

// What a client sends behind its last command must not destroy the reply to it.
func TestLastReplyArrives(t *testing.T) {
	set, _ := toys()
	s := newServer(t, set)
	for i := range 50 {
		p := s.dial(SMTP)
		p.expect("220")
		_, _ = p.Write([]byte("QUIT\r\n" + strings.Repeat("more\r\n", 2000*i)))
		p.expect("221")
		if _, err := p.r.ReadByte(); err != io.EOF { // not a reset
			t.Fatalf("with %d lines behind QUIT: %v", 2000*i, err)
		}
		p.Close()
	}
}

func TestManyConnections(t *testing.T) {
	set, _ := toys()
	s := newServer(t, set)
	const n = 500
	var peers []*peer
	for range n {
		peers = append(peers, s.dial(SMTP))
	}
	for i, p := range peers {
		p.expect("220")
		p.ask(fmt.Sprint("number ", i), fmt.Sprint("250 number ", i))
	}
	for _, lp := range s.loops {
		in := make(chan int, 1)
		lp.inbox.post(event{kind: evDone, job: &inspection{func(c *conn) bool { in <- len(c.lp.conns); return true }, make(chan bool, 1), lp}})
		if k := <-in; k < n/4 {
			t.Errorf("loop %d has %d of %d connections", lp.index, k, n)
		}
	}
	for _, p := range peers {
		p.Close()
	}
	eventually(t, "all gone", func() bool { return s.Sessions() == 0 && s.records.count() == 0 })
}

// Where gnet's epoll instance is not found (another version of gnet), input is bounded by ending the session.
func TestStuckSessionWithoutPausing(t *testing.T) {
	set, all := toys()
	s := newServer(t, set, func(s *server, c *Config) { c.Loops = 1 })
	p := s.dial(SMTP)
	p.expect("220")
	inspect(s, func(c *conn) bool { c.lp.epfd = -1; return true })
	p.send("STUCK")
	eventually(t, "stuck", func() bool { return all.toy(0).stuck.Load() })
	for range 1000 {
		if _, err := p.Write(make([]byte, capUnread/100)); err != nil {
			break
		}
	}
	eventually(t, "the session is ended", func() bool { return s.Sessions() == 0 })
}

func TestPollerOfSomethingElse(t *testing.T) {
	set, _ := toys()
	s := newServer(t, set)
	p := s.dial(SMTP)
	p.expect("220")
	type strange struct{ gnet.Conn }
	ok := inspect(s, func(c *conn) bool {
		fd, err := pollerOf(&strange{c.gc})
		return fd == -1 && err != nil
	})
	if !ok {
		t.Error("an epoll instance was found where there is none")
	}
}
