package engine

import (
	"encoding/base64"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"

	"odmr/internal/account"
)

// TestShares: turns of networks, within them of addresses, and within those in the order of coming; and nothing is left behind.
func TestShares(t *testing.T) {
	var s shares[task]
	conn, whose := uint64(0), map[uint64]string{}
	push := func(addr string, n int) {
		for i := range n {
			conn++
			whose[conn] = fmt.Sprintf("%s#%d", addr, i+1)
			s.push(netip.MustParseAddr(addr), task{conn: conn})
		}
	}
	push("192.0.2.1", 4)
	push("192.0.2.2", 2)
	push("::ffff:192.0.2.2", 1) // the same address
	push("2001:db8:1::1", 1)
	push("2001:db8:1::2", 1) // the same /64
	push("2001:db8:1:2::1", 1)
	push("198.51.100.1", 1)
	var got []string
	for {
		next, ok := s.pop()
		if !ok {
			break
		}
		got = append(got, whose[next.conn])
		if len(got) == 2 {
			push("203.0.113.1", 1) // behind networks that wait, and before their next
		}
	}
	want := []string{
		"192.0.2.1#1", "2001:db8:1::1#1", "198.51.100.1#1", "192.0.2.2#1", "2001:db8:1:2::1#1", "203.0.113.1#1",
		"192.0.2.1#2", "2001:db8:1::2#1", "192.0.2.2#2", "192.0.2.1#3", "::ffff:192.0.2.2#1", "192.0.2.1#4",
	}
	if !slices.Equal(got, want) {
		t.Errorf("%q, want %q", got, want)
	}
	if !s.root.empty() || len(s.root.parts) != 0 {
		t.Errorf("left behind: %d parts", len(s.root.parts))
	}
}

// noted are logins that cost arithmetic, in the order in which they came to it.
type noted struct {
	*costlyLogins
	mu    sync.Mutex
	order []string
}

func (n *noted) Start(mechanism string, peer account.Peer) (account.Exchange, error) {
	x, err := n.costlyLogins.Start(mechanism, peer)
	if c, ok := x.(*costlyLogin); ok {
		x = &notedLogin{c, n}
	}
	return x, err
}

type notedLogin struct {
	*costlyLogin
	n *noted
}

func (x *notedLogin) Next(response []byte) ([]byte, bool, error) {
	x.n.mu.Lock()
	x.n.order = append(x.n.order, string(response))
	x.n.mu.Unlock()
	return x.costlyLogin.Next(response)
}

// flooded is a server whose one worker for arithmetic is busy, and behind it waits what a network of attackers has asked for.
func flooded(t *testing.T, attackers, each int) (s *server, n *noted, crowd []*peer) {
	t.Helper()
	n = &noted{}
	var slow door
	slow.close()
	s = newServer(t, withAccount("tim", "example.org"), withAccount("ann", "example.com"), func(s *server, c *Config) {
		n.costlyLogins = &costlyLogins{s.dir, &slow, nil}
		c.Authenticator = n
	})
	s.passwords.mu.Lock()
	s.passwords.max = 1
	s.passwords.mu.Unlock()
	for i := range attackers {
		for range each {
			p := s.dialFrom(fmt.Sprintf("127.0.1.%d", i+1), ODMR)
			p.expect("220")
			p.send("AUTH COSTLY " + base64.StdEncoding.EncodeToString([]byte("tim")))
			crowd = append(crowd, p)
		}
	}
	eventually(t, "the flood waits", func() bool { return slow.waiters() == 1 && s.waitingForArithmetic() == attackers*each-1 })
	return s, n, crowd
}

// waitingForArithmetic is how many logins are in the lane and not with a worker.
func (s *server) waitingForArithmetic() int {
	l := &s.passwords
	l.mu.Lock()
	defer l.mu.Unlock()
	return countTasks(&l.fair.root)
}

func countTasks[T any](s *share[T]) int {
	n := len(s.tasks)
	for _, p := range s.parts {
		n += countTasks(p)
	}
	return n
}

// TestPasswordFloodHoldsUpNobodyElse: a customer waits for one login of a network that asks for hundreds, from many addresses.
func TestPasswordFloodHoldsUpNobodyElse(t *testing.T) {
	s, n, crowd := flooded(t, 10, 20)
	p := s.dialFrom("127.0.2.1", ODMR)
	p.expect("220")
	p.send("AUTH COSTLY " + base64.StdEncoding.EncodeToString([]byte("ann")))
	eventually(t, "the customer waits", func() bool { return s.waitingForArithmetic() == len(crowd) })
	n.door.open()
	p.expect("235")
	for _, p := range crowd {
		if l := p.line(); !strings.HasPrefix(l, "235 ") {
			t.Fatalf("%q", l)
		}
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	// One was being computed, and perhaps the network's turn was next.
	if at := slices.Index(n.order, "ann"); at > 2 || len(n.order) != len(crowd)+1 {
		t.Errorf("the customer was number %d of %d", at+1, len(n.order))
	}
}

// TestPasswordsOfThoseWhoHungUp: what nobody waits for is not computed, so that hanging up and coming again makes no longer queue.
func TestPasswordsOfThoseWhoHungUp(t *testing.T) {
	s, n, crowd := flooded(t, 2, 20)
	for _, p := range crowd {
		p.Close()
	}
	eventually(t, "they have gone", func() bool { return s.Sessions() == 0 })
	p := s.dial(ODMR)
	p.expect("220")
	p.send("AUTH COSTLY " + base64.StdEncoding.EncodeToString([]byte("ann")))
	n.door.open()
	p.expect("235")
	eventually(t, "the lane is empty", func() bool { return s.waitingForArithmetic() == 0 })
	n.mu.Lock()
	defer n.mu.Unlock()
	if len(n.order) != 2 {
		t.Errorf("%d logins were computed, want that which had begun and the customer's", len(n.order))
	}
}
