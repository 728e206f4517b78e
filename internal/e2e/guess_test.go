package e2e

import (
	"context"
	"fmt"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"odmr/internal/client"
)

// guesses is how many wrong passwords are tried.
func guesses() int {
	if os.Getenv("ODMR_GUESSES") == "all" {
		return 100_000
	}
	return 10_000
}

// TestWrongPasswords guesses the password of one account from thousands of addresses, three in a connection and ten from an address, so
// that no limit stops a guess and each of them is looked at; without the delay that usually slows them down, as many in a second
// as leave a small machine, which guesses too, some air. The customer logs in all the while. What that costs it is printed.
//
// ODMR_GUESSES=all tries 100,000.
func TestWrongPasswords(t *testing.T) {
	const guessers, perSecond = 32, 2500
	all, perAddress := guesses(), 9 // the tenth would lock
	s := startServer(t, []client.Account{customer("tim", "example.org")}, "--limit-exempt", "", "--auth-delay", "0s",
		"--connections-per-minute", "0") // the customer's own would be over it
	ctx, cancel := context.WithTimeout(t.Context(), 5*patience)
	defer cancel()

	login := func() time.Duration {
		begun := time.Now()
		p, err := dialRaw(ctx, s.ODMR, "127.200.0.1")
		if err != nil {
			t.Fatal(err)
		}
		defer p.Close()
		if _, err := p.expect("220"); err != nil {
			t.Fatal(err)
		}
		if l, err := p.login("tim", password); err != nil || !strings.HasPrefix(l, "235") {
			t.Fatalf("the customer got %q, %v", l, err)
		}
		took := time.Since(begun)
		if _, err := p.ask("ATRN\r\n", "453"); err != nil {
			t.Fatal(err)
		}
		return took
	}
	const quietly = 200
	var before, during []time.Duration
	for range quietly {
		before = append(before, login())
	}

	var turn, tried, refused, ended atomic.Int64
	var begun time.Time
	wait := func() { time.Sleep(time.Until(begun.Add(time.Duration(turn.Add(1)) * time.Second / perSecond))) }
	guess := func(addr int) error { // nine guesses from one address
		from := fmt.Sprintf("127.1.%d.%d", addr>>8, addr&255)
		for range perAddress / 3 {
			p, err := dialRaw(ctx, s.ODMR, from)
			if err != nil {
				return err
			}
			if _, err = p.expect("220"); err != nil {
				p.Close()
				return err
			}
			for range 3 {
				wait()
				l, err := p.login("tim", "guess")
				switch {
				case err != nil:
					p.Close()
					return err
				case strings.HasPrefix(l, "535 5.7.8"):
					refused.Add(1)
				case strings.HasPrefix(l, "421 4.7.0"): // the third of a session
					ended.Add(1)
				default:
					t.Errorf("a guess got %q", l)
				}
				tried.Add(1)
			}
			p.Close()
		}
		return nil
	}
	begun = time.Now()
	var wg sync.WaitGroup
	wg.Go(func() { inParallel(t, guessers, all/perAddress+1, guess) })
	over := make(chan struct{})
	go func() { wg.Wait(); close(over) }()
	for attack := true; attack; {
		select {
		case <-over:
			attack = false
		default:
			during = append(during, login())
		}
	}
	took := time.Since(begun)
	if n := tried.Load(); n < int64(all) || refused.Load() != 2*ended.Load() {
		t.Errorf("%d guesses, %d refused, %d sessions ended", n, refused.Load(), ended.Load())
	}
	if n := s.metric("odmr_auth_total", `code="535"`) + s.metric("odmr_auth_total", `code="421"`); n != float64(tried.Load()) {
		t.Errorf("%v wrong passwords were counted of %d", n, tried.Load())
	}
	if n := s.metric("odmr_limit_hits_total", `limit="lockout"`); n != 0 {
		t.Errorf("%v guesses were not looked at", n)
	}
	middle := func(l []time.Duration) time.Duration { slices.Sort(l); return l[len(l)/2].Round(time.Microsecond) }
	a, b := middle(before), middle(during)
	t.Logf("%d wrong passwords in %v (%.0f/s) from %d addresses; %d logins of the customer meanwhile; median %v before, %v during (%.1f times), longest %v",
		tried.Load(), took.Round(time.Millisecond), float64(tried.Load())/took.Seconds(), all/perAddress+1, len(during), a, b, float64(b)/float64(a), during[len(during)-1].Round(time.Millisecond))

	// From here on the guesser's own address is locked for that account, and for nobody else.
	for range 20 {
		p, err := dialRaw(ctx, s.ODMR, "127.3.0.1")
		if err != nil {
			t.Fatal(err)
		}
		if _, err := p.expect("220"); err == nil {
			_, _ = p.login("tim", "guess")
		}
		p.Close()
	}
	p, err := dialRaw(ctx, s.ODMR, "127.3.0.1")
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	if _, err := p.expect("220"); err != nil {
		t.Fatal(err)
	}
	if l, err := p.login("tim", password); err != nil || !strings.HasPrefix(l, "421 4.7.0") {
		t.Errorf("the guesser's address is not locked: %q, %v", l, err)
	}
	login()
}
