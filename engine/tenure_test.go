package engine

import (
	"testing"
	"time"
)

// testTenures are tenures whose sessions never hear what they are told.
func testTenures() (r *tenures, ask func() *tenure) {
	r = new(tenures)
	r.init()
	lp := new(loop)
	lp.inbox.wake = func() error { return nil }
	return r, func() *tenure {
		return &tenure{of: r, home: lp, account: "tim", domains: []string{"a.example", "b.example"}}
	}
}

// TestWhoIsFasterKeepsItsPlace: between the end of a session that made way and what the one that asked for that does next, a third
// has claimed the domains. It keeps them for the interval, or the three would end each other for ever.
func TestWhoIsFasterKeepsItsPlace(t *testing.T) {
	r, ask := testTenures()
	c := &Collecting{TakeoverInterval: time.Hour}
	claim := func(tn *tenure, want claimed) {
		t.Helper()
		if got := r.claim(tn, c, now()); got != want {
			t.Fatalf("claim: %d, want %d", got, want)
		}
	}
	first, second, third, fourth := ask(), ask(), ask(), ask()
	claim(first, claimGranted)
	claim(second, claimWaits)
	r.yields(first)
	first.Release()
	claim(third, claimGranted)
	claim(second, claimRefused)
	claim(fourth, claimRefused)

	c.TakeoverInterval = time.Nanosecond // it is over
	claim(second, claimWaits)
	r.yields(third)
	third.Release()
	claim(second, claimGranted)
	if len(r.left) != 0 {
		t.Errorf("left, though somebody has them: %v", r.left)
	}
	c.TakeoverInterval = time.Hour
	claim(fourth, claimRefused)

	// That one ends by itself: its place goes to whoever comes, who has taken it from nobody.
	r.ends(second)
	second.Release()
	claim(fourth, claimGranted)
	claim(ask(), claimWaits)
}
