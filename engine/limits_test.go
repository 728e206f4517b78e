package engine

import (
	"fmt"
	"net/netip"
	"testing"
	"time"

	"odmr/engine/session"
)

const second = session.Time(time.Second)

func key(addr string) addressKey { return keyOf(netip.MustParseAddr(addr)) }

func TestLRU(t *testing.T) {
	l := newLRU[int, string](3)
	for i := range 3 {
		*l.put(i) = fmt.Sprint(i)
	}
	l.get(0)          // now 1 is the oldest
	*l.put(3) = "3"   // and makes way
	*l.put(0) = "new" // changes what is there
	if l.get(1) != nil || l.len() != 3 || *l.get(0) != "new" || *l.get(2) != "2" || *l.get(3) != "3" {
		t.Errorf("%v", l.entries)
	}
	l.remove(2)
	l.remove(2)
	if v := l.put(4); *v != "" || l.len() != 3 {
		t.Errorf("a new entry holds %q", *v)
	}
	for i := range 1000 {
		l.put(i)
	}
	if l.len() != 3 || l.get(999) == nil || l.get(998) == nil || l.get(997) == nil {
		t.Errorf("%d entries", l.len())
	}
}

func TestAddressKey(t *testing.T) {
	for _, c := range []struct {
		a, b string
		same bool
	}{
		{"192.0.2.1", "192.0.2.1", true},
		{"192.0.2.1", "::ffff:192.0.2.1", true},
		{"192.0.2.1", "192.0.2.2", false},
		{"2001:db8::1", "2001:db8::ffff:2", true}, // one /64
		{"2001:db8:0:1::1", "2001:db8::1", false},
	} {
		if same := key(c.a) == key(c.b); same != c.same {
			t.Errorf("%s and %s: same %v, want %v", c.a, c.b, same, c.same)
		}
	}
}

func newAddresses(l Limits) *addresses {
	a := &addresses{}
	a.init(&l)
	return a
}

func TestConnectionRate(t *testing.T) {
	a := newAddresses(Limits{ConnectionsPerMinute: 60})
	now := 1000 * second
	count := func(addr string, n int) (in int) {
		for range n {
			if a.enter(now, key(addr)) == LimitNone {
				in++
			}
		}
		return in
	}
	if n := count("192.0.2.1", 1000); n != 60 {
		t.Errorf("%d at once, want 60", n)
	}
	if n := count("192.0.2.2", 1); n != 1 {
		t.Error("another address pays for it")
	}
	for range 30 { // one a second, however many try
		now += second
		if n := count("192.0.2.1", 50); n != 1 {
			t.Fatalf("%d within a second, want 1", n)
		}
	}
	now += 20 * second
	if n := count("192.0.2.1", 50); n != 20 {
		t.Errorf("%d after 20 s, want 20", n)
	}
	now += 3600 * second
	if n := count("192.0.2.1", 1000); n != 60 {
		t.Errorf("%d after an hour, want 60", n)
	}
	if n := count("2001:db8::1", 40) + count("2001:db8::2", 40); n != 60 {
		t.Errorf("%d from one /64, want 60", n)
	}
	if n := newAddresses(Limits{}).enter(now, key("192.0.2.1")); n != LimitNone {
		t.Errorf("no limit: %s", n)
	}
}

// The tables do not grow with the number of those who attack.
func TestLimitTablesAreBounded(t *testing.T) {
	a := newAddresses(Limits{ConnectionsPerMinute: 60})
	l := &lockouts{}
	l.init(&Limits{AuthFailures: 3, AuthLockout: time.Minute})
	for i := range maxPairs + 1000 {
		addr := keyOf(netip.AddrFrom4([4]byte{10, byte(i >> 16), byte(i >> 8), byte(i)}))
		a.enter(second, addr)
		l.failed(second, l.key(addr, "tim"))
		l.succeeded(second, l.key(addr, "ann"), l.key(addr, "ann"), "gw.example")
	}
	if a.rates.len() != maxBuckets || l.pairs.len() != maxPairs || l.clients.len() != maxClients {
		t.Errorf("%d rates, %d pairs, %d clients", a.rates.len(), l.pairs.len(), l.clients.len())
	}
}

func TestSessionsPerAddress(t *testing.T) {
	a := newAddresses(Limits{SessionsPerAddress: 3})
	one, two := key("192.0.2.1"), key("192.0.2.2")
	for range 3 {
		if l := a.enter(0, one); l != LimitNone {
			t.Fatal(l)
		}
	}
	if l := a.enter(0, one); l != LimitAddressSessions {
		t.Errorf("the fourth: %s", l)
	}
	if l := a.enter(0, two); l != LimitNone {
		t.Errorf("another address: %s", l)
	}
	a.leave(one)
	if l := a.enter(0, one); l != LimitNone {
		t.Errorf("after one has left: %s", l)
	}
	for range 3 {
		a.leave(one)
	}
	a.leave(two)
	if len(a.sessions) != 0 {
		t.Errorf("%d addresses without a session are remembered", len(a.sessions))
	}
}

func TestSessionsPerAccount(t *testing.T) {
	a := &accounts{limit: 2}
	for i, want := range []bool{true, true, false, false} {
		if a.enter("tim", 0) != want {
			t.Errorf("session %d: not %v", i+1, want)
		}
	}
	if !a.enter("two", 0) {
		t.Error("another account pays for it")
	}
	a.leave("tim")
	if !a.enter("tim", 0) {
		t.Error("a place is not free")
	}
	a.leave("tim")
	a.leave("tim")
	a.leave("two")
	if len(a.sessions) != 0 {
		t.Errorf("%v", a.sessions)
	}
	none := &accounts{}
	for range 100 {
		if !none.enter("tim", 0) {
			t.Fatal("a limit where there is none")
		}
	}
}

func newLockouts(failures int, lockout, delay time.Duration) *lockouts {
	l := &lockouts{}
	l.init(&Limits{AuthFailures: failures, AuthLockout: lockout, AuthDelay: delay})
	return l
}

func TestLockout(t *testing.T) {
	l := newLockouts(4, 15*time.Minute, time.Second)
	now := 1_000_000 * second
	tim := l.key(key("192.0.2.1"), "tim")
	for i, want := range []session.Time{1, 2, 4, 8} {
		if l.locked(now, tim) {
			t.Fatalf("locked after %d failures", i)
		}
		if d := l.failed(now, tim); d != want*second {
			t.Errorf("failure %d is answered after %s", i+1, time.Duration(d))
		}
	}
	if !l.locked(now, tim) || !l.locked(now+899*second, tim) {
		t.Error("not locked")
	}
	for what, other := range map[string]pairKey{
		"another account from there":        l.key(key("192.0.2.1"), "two"),
		"the same account from elsewhere":   l.key(key("192.0.2.9"), "tim"),
		"another account from elsewhere":    l.key(key("192.0.2.9"), "two"),
		"the same account from an IPv6 /64": l.key(key("2001:db8::1"), "tim"),
	} {
		if l.locked(now, other) {
			t.Errorf("%s is locked, too", what)
		}
	}
	now += 900 * second
	if l.locked(now, tim) {
		t.Error("locked for ever")
	}
	// It begins anew.
	if d := l.failed(now+second, tim); d != second || l.locked(now+second, tim) {
		t.Errorf("after the lock: %s", time.Duration(d))
	}
	l.failed(now+second, tim)
	l.succeeded(now, tim, tim, "")
	if l.pairs.len() != 0 {
		t.Error("a success forgets nothing")
	}
	// Slips that lie far apart never add up.
	for range 100 {
		now += 1000 * second
		if d := l.failed(now, tim); d != second || l.locked(now, tim) {
			t.Fatalf("failures far apart: %s, locked %v", time.Duration(d), l.locked(now, tim))
		}
	}
}

// TestClientsCountApart: a client by whose name the pair has logged in counts for itself, for a while; failures make no such name, nor does
// another pair.
func TestClientsCountApart(t *testing.T) {
	l := newLockouts(4, 15*time.Minute, time.Second)
	now := 1_000_000 * second
	tim := l.key(key("192.0.2.1"), "tim")
	l.failed(now, l.counts(now, tim, "gw.example"))
	if l.counts(now, tim, "gw.example") != tim {
		t.Error("a failure has made a client known")
	}
	l.succeeded(now, tim, tim, "")
	l.succeeded(now, tim, tim, "gw.example")
	own := l.counts(now, tim, "gw.example")
	if own == tim {
		t.Fatal("a login has not")
	}
	for hello, pair := range map[string]pairKey{"": tim, "other.example": tim, "gw.example": l.key(key("192.0.2.1"), "ann"), "GW.example": l.key(key("192.0.2.2"), "tim")} {
		if l.counts(now, pair, hello) != pair {
			t.Errorf("%q counts apart without a login", hello)
		}
	}
	for range 4 {
		l.failed(now, tim)
	}
	if !l.locked(now, tim) || l.locked(now, own) {
		t.Error("the neighbour is not locked, or the customer is")
	}
	for range 4 {
		l.failed(now, own)
	}
	if !l.locked(now, own) {
		t.Error("guesses by that name have no end")
	}
	if now += clientTime; l.counts(now, tim, "gw.example") != own || l.counts(now+1, tim, "gw.example") != tim {
		t.Error("remembered for another time than clientTime")
	}
}

func TestAuthDelayIsBounded(t *testing.T) {
	l := newLockouts(0, 0, time.Second) // never locked
	k := l.key(key("192.0.2.1"), "tim")
	var last session.Time
	for range 100 {
		last = l.failed(second, k)
	}
	if last != session.Time(maxAuthDelay) || l.locked(second, k) {
		t.Errorf("%s, locked %v", time.Duration(last), l.locked(second, k))
	}
	none := newLockouts(0, 0, 0)
	if d := none.failed(second, k); d != 0 {
		t.Errorf("a delay where there is none: %d", d)
	}
}

// 100,000 wrong passwords for one account, from one address and from ten thousand: the pairs that try are locked,
// the customer's own is not, at any moment.
func TestManyWrongPasswords(t *testing.T) {
	l := newLockouts(10, 15*time.Minute, time.Second)
	now := 1_000_000 * second
	own := l.key(key("198.51.100.1"), "tim")
	checked := 0
	for i := range 100_000 {
		addr := [4]byte{10, 0, 0, 1}
		if i%2 == 1 {
			addr = [4]byte{10, 1, byte(i % 10_000 >> 8), byte(i)}
		}
		k := l.key(keyOf(netip.AddrFrom4(addr)), "tim")
		if !l.locked(now, k) {
			checked++
			l.failed(now, k)
		}
		if l.locked(now, own) {
			t.Fatalf("locked out after %d wrong passwords of others", i)
		}
		if i%1000 == 0 { // it mistypes now and then
			l.failed(now, own)
			l.succeeded(now, own, own, "")
		}
		now += second / 1000
	}
	// The one address was allowed ten guesses of its 50,000.
	if checked > 10+50_000 || checked < 10 {
		t.Errorf("%d of 100000 passwords were looked at", checked)
	}
	one := 0
	k := l.key(key("10.0.0.2"), "tim")
	for range 50_000 {
		if !l.locked(now, k) {
			one++
			l.failed(now, k)
		}
		now += second / 1000
	}
	if one != 10 {
		t.Errorf("one address was allowed %d guesses in 50 s, want 10", one)
	}
}
