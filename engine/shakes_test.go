package engine

import (
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"sync"
	"testing"

	"odmr/internal/certtest"
)

// shakesFrom has whole ClientHellos sent from some addresses of a network, each times over, and no more.
func (s *server) shakesFrom(network string, addresses, each int, hello []byte) {
	s.t.Helper()
	for i := range addresses {
		for range each {
			if _, err := s.tcpFrom(fmt.Sprintf("%s.%d", network, i+1)).Write(hello); err != nil {
				s.t.Fatal(err)
			}
		}
	}
}

func (s *server) tcpFrom(from string) net.Conn {
	s.t.Helper()
	d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(from)}}
	c, err := d.Dial("tcp", s.secureAddr())
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() { c.Close() })
	return c
}

// TestHandshakeFloodHoldsUpNobodyElse: a customer's handshake waits for one of a network that has begun hundreds, from many addresses.
func TestHandshakeFloodHoldsUpNobodyElse(t *testing.T) {
	ca := certtest.NewAuthority(t)
	var slow door
	var mu sync.Mutex
	var order []netip.Addr // in which handshakes were computed
	s := newServer(t, withTLS(ca), func(s *server, c *Config) {
		choose := c.TLS.Certificate
		c.TLS.Certificate = func(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
			mu.Lock()
			order = append(order, hello.Conn.(*wire).from)
			mu.Unlock()
			slow.pass()
			return choose(hello)
		}
	})
	s.shakes.mu.Lock()
	s.shakes.free = 1
	s.shakes.mu.Unlock()
	slow.close()
	waiting := func(n int) func() bool {
		return func() bool {
			s.shakes.mu.Lock()
			defer s.shakes.mu.Unlock()
			return slow.waiters() == 1 && countTasks(&s.shakes.line.root) == n
		}
	}
	const flood = 10 * 20
	s.shakesFrom("127.0.1", 10, 20, clientHello(t, trusting(ca)))
	eventually(t, "the flood waits", waiting(flood-1))
	raw, greeted := s.tcpFrom("127.0.2.1"), make(chan error, 1)
	go func() { greeted <- tls.Client(raw, trusting(ca)).Handshake() }()
	eventually(t, "the customer waits", waiting(flood))
	slow.open()
	if err := <-greeted; err != nil {
		t.Fatal(err)
	}
	eventually(t, "all are computed", func() bool { mu.Lock(); defer mu.Unlock(); return len(order) == flood+1 })
	// One was being computed, and perhaps the network's turn was next.
	if at := slices.Index(order, netip.MustParseAddr("127.0.2.1")); at > 2 {
		t.Errorf("the customer was number %d of %d", at+1, len(order))
	}
	eventually(t, "the place is free", func() bool { s.shakes.mu.Lock(); defer s.shakes.mu.Unlock(); return s.shakes.free == 1 })
}

// deaf is a connection from which nothing is read before the door is open.
type deaf struct {
	net.Conn
	door *door
}

func (h deaf) Read(b []byte) (int, error) { h.door.pass(); return h.Conn.Read(b) }

// TestHandshakeFloodEndsItsOwn: where there are too many, those of the flood are ended, not the customer's that is older; and a flood from
// a neighbour in the customer's network is told from the customer.
func TestHandshakeFloodEndsItsOwn(t *testing.T) {
	ca := certtest.NewAuthority(t)
	for _, network := range []string{"127.0.1", "127.0.2"} {
		s := newServer(t, withTLS(ca))
		s.shakes.mu.Lock()
		s.shakes.max = 20
		s.shakes.mu.Unlock()
		var far door
		far.close()
		customer, greeted := tls.Client(deaf{s.tcpFrom("127.0.2.200"), &far}, trusting(ca)), make(chan error, 1)
		go func() { greeted <- customer.Handshake() }()
		eventually(t, "the customer's handshake is under way", func() bool { return s.shakes.count() == 1 && far.waiters() == 1 })
		s.shakesFrom(network, 1, 60, clientHello(t, trusting(ca)))
		eventually(t, "the flood is ended", func() bool { return s.seen.get(func(r *recorder) int { return r.tlsFailed }) == 41 })
		far.open()
		if err := <-greeted; err != nil {
			t.Errorf("flood from %s: %v", network, err)
		}
		newPeer(t, customer).expect("220") // without which a client does not know
	}
}

// TestWhoseHandshakeEnds: there is always one to end; it is of a network and an address that have their share or more, the oldest of such, and
// nothing is left in the end.
func TestWhoseHandshakeEnds(t *testing.T) {
	h := &handshakes{max: 6}
	var all []*wire
	begin := func(from string) {
		w := &wire{pipe: pipe{pool: h, from: netip.MustParseAddr(from)}}
		all = append(all, w)
		h.begin(w)
	}
	ended := func() (n []int) {
		for i, w := range all {
			if errors.Is(w.err, errCrowded) {
				n = append(n, i)
			}
		}
		return n
	}
	for _, step := range []struct {
		from string
		want []int
	}{
		{"192.0.2.1", nil}, {"198.51.100.1", nil}, {"198.51.100.2", nil}, {"198.51.100.2", nil}, {"198.51.100.2", nil}, {"2001:db8::1", nil},
		{"203.0.113.1", []int{3 - 1}},      // the oldest of 198.51.100.2
		{"203.0.113.1", []int{2, 3}},       // likewise
		{"203.0.113.1", []int{1, 2, 3}},    // both of 198.51.100 have as many, and it as 203.0.113
		{"2001:db8::2", []int{1, 2, 3, 6}}, // the oldest of 203.0.113.1
	} {
		begin(step.from)
		if got := ended(); !slices.Equal(got, step.want) {
			t.Fatalf("after %s %v were ended, want %v", step.from, got, step.want)
		}
	}
	for _, w := range all { // those that were ended, too
		h.end(w)
	}
	if h.count() != 0 || len(h.crowd) != 0 {
		t.Errorf("left behind: %d, %v", h.count(), h.crowd)
	}
}

// TestEndedHandshakeLeavesTheLine: one that is ended while it waits for a place waits no longer, and neither gets one nor gives one back; the
// next one does.
func TestEndedHandshakeLeavesTheLine(t *testing.T) {
	h := &handshakes{max: 2, free: 1}
	wait := func(from string) (*wire, chan struct{}) {
		w, entered := &wire{pipe: pipe{pool: h, from: netip.MustParseAddr(from)}}, make(chan struct{})
		h.begin(w)
		go func() { w.enter(); close(entered) }()
		return w, entered
	}
	in := func(entered chan struct{}) func() bool {
		return func() bool {
			select {
			case <-entered:
				return true
			default:
				return false
			}
		}
	}
	waiting := func(n int) func() bool {
		return func() bool { h.mu.Lock(); defer h.mu.Unlock(); return countTasks(&h.line.root) == n }
	}
	first, entered := wait("203.0.113.1")
	eventually(t, "the first has a place", in(entered))
	late := &wire{pipe: pipe{pool: h, from: netip.MustParseAddr("192.0.2.2")}}
	h.begin(late)
	flood, left := wait("192.0.2.1") // which ends the first, whose goroutine computes
	eventually(t, "it waits", waiting(1))
	next, come := wait("198.51.100.1") // which ends late
	eventually(t, "the next waits", waiting(2))
	late.enter()
	flood.kill(errSlow)
	eventually(t, "who was ended has left", in(left))
	if flood.holds || late.holds || !waiting(1)() || len(h.line.root.turns) != 1 {
		t.Errorf("places %v %v, %d in line", flood.holds, late.holds, countTasks(&h.line.root))
	}
	flood.leave()
	first.leave()
	eventually(t, "the next has the place", in(come))
	next.leave()
	if h.free != 1 || len(h.line.root.parts) != 0 {
		t.Errorf("%d places are free, %d networks left behind", h.free, len(h.line.root.parts))
	}
}
