package engine

import (
	"fmt"
	"net"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"odmr/engine/session"
	"odmr/internal/mail"
)

// dotted is a body of about size octets that is different for each seed, in wire form and plain, with
// dots at the beginning of many lines.
func dotted(seed, size int) (wire, plain string) {
	var w, p strings.Builder
	for i := 0; w.Len() < size; i++ {
		line := fmt.Sprintf("line %d of message %d\r\n", i, seed)
		if (i+seed)%3 == 0 {
			line = strings.Repeat(".", i%4+1) + line
			w.WriteString(".")
		}
		w.WriteString(line)
		p.WriteString(line)
	}
	return w.String(), p.String()
}

// crowd starts a server with little memory and a domain with a scripted customer for each of n sessions.
func crowd(t *testing.T, n int) (*server, func() *peer) {
	names := make(chan string, n)
	set := []setting{withMachine(func(c *conn) session.Session {
		c.account = <-names
		_ = unix.SetsockoptInt(c.fd, unix.SOL_SOCKET, unix.SO_SNDBUF, 32<<10) // some kernels take megabytes
		return &scripted{what: map[uint32]string{}}
	}), func(_ *server, c *Config) { c.PrefetchMemory = minMemory }}
	for i := range n {
		set = append(set, withAccount(fmt.Sprint("c", i), fmt.Sprintf("c%d.example", i)))
	}
	s := newServer(t, set...)
	next := 0
	return s, func() *peer {
		names <- fmt.Sprint("c", next)
		next++
		p := s.dial(ODMR)
		_ = p.Conn.(*net.TCPConn).SetReadBuffer(32 << 10)
		p.expect("220")
		p.ask("LEASE", "250 lease")
		return p
	}
}

// Customers that do not read, however many, keep nobody from getting mail; and when they read after all,
// they get theirs, octet for octet.
func TestSlowReadersDoNotStarveOthers(t *testing.T) {
	const slow = 50
	s, enter := crowd(t, slow+1)
	wires, plains := make([]string, slow), make([]string, slow)
	for i := range slow {
		wires[i], plains[i] = dotted(i, 6*mail.ChunkSize)
		s.put(fmt.Sprintf("c%d.example", i), wires[i])
		s.put(fmt.Sprintf("c%d.example", i), "second\r\n")
	}
	var peers []*peer
	for i := range slow {
		p := enter()
		p.ask("NEXT 1", "250 next 1")
		p.ask("NEXT 1", "250 next 1") // held, and not begun
		if i%2 == 0 {
			p.send("BODY 0", "BODY 1")
		} else {
			p.send("BODY 0 plain", "BODY 1")
		}
		peers = append(peers, p)
	}
	wire, _ := dotted(slow, 3*mail.ChunkSize)
	s.put(fmt.Sprintf("c%d.example", slow), wire)
	quick := enter()
	quick.ask("NEXT 1", "250 next 1")
	quick.send("BODY 0")
	if quick.body(len(wire)) != wire {
		t.Error("the quick customer's body differs")
	}
	quick.ask("SETTLE 0", "250 settle")
	if s.reclaimed.Load() == 0 {
		t.Fatal("nobody had to give up anything: the test is too easy")
	}
	for i, p := range peers {
		want := wires[i]
		if i%2 > 0 {
			want = plains[i]
		}
		if p.body(len(want)) != want {
			t.Errorf("customer %d: the body differs", i)
		}
		if got := p.body(len("second\r\n")); got != "second\r\n" {
			t.Errorf("customer %d: second body %q", i, got)
		}
		p.ask("SETTLE 0", "250 settle")
	}
	eventually(t, "only what is held ready is charged", func() bool {
		s.prefetch.mu.Lock()
		defer s.prefetch.mu.Unlock()
		return s.prefetch.used <= slow*int64(len("second\r\n"))
	})
	if n := s.lent.Load(); n != 0 {
		t.Errorf("%d octets of segments are lent to nobody", n)
	}
}

// Customers that fetch messages and then say nothing keep them no longer than others can do without.
func TestSilentCustomersDoNotStarveOthers(t *testing.T) {
	const silent = 40
	s, enter := crowd(t, silent+1)
	wires := make([]string, silent+1)
	var peers []*peer
	for i := range silent + 1 { // each of them finds room, though not at once
		wires[i], _ = dotted(i, 2*mail.ChunkSize)
		s.put(fmt.Sprintf("c%d.example", i), wires[i])
		p := enter()
		p.ask("NEXT 1", "250 next 1")
		peers = append(peers, p)
	}
	for i, p := range peers {
		p.send("BODY 0")
		if p.body(len(wires[i])) != wires[i] {
			t.Errorf("customer %d: the body differs", i)
		}
		p.ask("SETTLE 0", "250 settle")
	}
}

// Sockets that are closed while their bodies wait for memory leave nothing behind.
func TestCloseWhileWaitingForMemory(t *testing.T) {
	const sessions = 30
	s, enter := crowd(t, sessions)
	var peers []*peer
	for i := range sessions {
		wire, _ := dotted(i, 8*mail.ChunkSize)
		s.put(fmt.Sprintf("c%d.example", i), wire)
		p := enter()
		p.ask("NEXT 1", "250 next 1")
		p.send("BODY 0")
		peers = append(peers, p)
	}
	// The memory is taken away, so that all who were slow wait for it.
	s.prefetch.charge(minMemory)
	for i := range peers {
		if i%2 == 0 {
			go func() { // makes the socket writable
				b := make([]byte, 1<<20)
				for range 8 {
					_, _ = peers[i].Read(b)
				}
			}()
		}
	}
	eventually(t, "bodies wait in line", func() bool {
		s.prefetch.mu.Lock()
		defer s.prefetch.mu.Unlock()
		for _, w := range s.prefetch.line {
			if w.kind == evRoom {
				return true
			}
		}
		return false
	})
	for _, p := range peers {
		_ = p.SetDeadline(time.Now())
		p.Close()
	}
	s.prefetch.charge(-minMemory)
	eventually(t, "all is given back", func() bool {
		s.prefetch.mu.Lock()
		defer s.prefetch.mu.Unlock()
		return s.prefetch.used == 0 && s.records.count() == 0
	})
}
