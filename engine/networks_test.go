package engine

import (
	"fmt"
	"net/netip"
	"testing"
)

// TestNetworkLeavesRoom: one network with many addresses takes what there is room for, but for what is kept for those that have less.
func TestNetworkLeavesRoom(t *testing.T) {
	const most, kept = 64, 64 / keptPart
	s := newServer(t, withAccount("a", "a.example"), withLimits(Limits{SessionsPerAddress: 30}), func(s *server, c *Config) { c.MaxSessions = most })
	var crowd []*peer
	for i := range most - kept {
		p := s.dialFrom(fmt.Sprintf("127.0.1.%d", i+1), ODMR)
		p.expect("220")
		crowd = append(crowd, p)
	}
	for i := range 5 {
		p := s.dialFrom(fmt.Sprintf("127.0.1.%d", 200+i), ODMR)
		p.expect("421 4.7.0 mail.isp.example Too many sessions from your network")
		p.eof()
	}
	for range kept {
		s.dialFrom("127.0.2.1", ODMR).expect("220")
	}
	s.dialFrom("127.0.3.1", ODMR).expect("421 4.3.2")
	if n := s.seen.hits(LimitNetworkSessions); n != 5 {
		t.Errorf("%d refusals are counted", n)
	}
	for _, p := range crowd[:kept+1] {
		p.ask("QUIT", "221")
		p.eof()
	}
	eventually(t, "there is room", func() bool { return s.Sessions() == most-kept-1 })
	s.dialFrom("127.0.1.1", ODMR).expect("220") // it has no share of its own while there is
}

// TestNetworksAreForgotten: nothing is left of those that have gone, and those with few are never refused.
func TestNetworksAreForgotten(t *testing.T) {
	var n networks
	addr := func(i int) netip.Addr { return netip.AddrFrom4([4]byte{192, 0, byte(i), byte(i)}) }
	for i := range 100 {
		for range fewSessions {
			if !n.enter(addr(i), true) {
				t.Fatalf("network %d with few sessions is refused", i)
			}
		}
	}
	if n.enter(addr(1), true) || !n.enter(addr(1), false) {
		t.Error("a network with its share gets what is kept, or is refused while there is room")
	}
	n.leave(addr(1))
	for i := range 100 {
		for range fewSessions {
			n.leave(addr(i))
		}
	}
	if len(n.live) != 0 || n.total != 0 {
		t.Errorf("left behind: %d networks, %d sessions", len(n.live), n.total)
	}
}
