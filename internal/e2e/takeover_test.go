package e2e

import (
	"context"
	"errors"
	"io"
	"net"
	"regexp"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"odmr/internal/client"
)

// phoneLine is a customer's line that can be cut without either end noticing: from then on nothing is passed on, and
// nothing is closed.
type phoneLine struct {
	Addr string
	dead atomic.Bool
	mu   sync.Mutex
	open []net.Conn
}

func startLine(t *testing.T, target string) *phoneLine {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ln := &phoneLine{Addr: l.Addr().String()}
	var wg sync.WaitGroup
	t.Cleanup(func() {
		_ = l.Close()
		ln.close()
		wg.Wait()
	})
	wg.Go(func() {
		for {
			near, err := l.Accept()
			if err != nil {
				return
			}
			far, err := net.Dial("tcp", target)
			if err != nil {
				_ = near.Close()
				continue
			}
			ln.mu.Lock()
			ln.open = append(ln.open, near, far)
			ln.mu.Unlock()
			wg.Go(func() { ln.pass(near, far) })
			wg.Go(func() { ln.pass(far, near) })
		}
	})
	return ln
}

// pass passes on what comes while the line is up. Then it stops reading, so that what the server sends fills the
// sockets' buffers and no more.
func (l *phoneLine) pass(from, to net.Conn) {
	b := make([]byte, 16<<10)
	for {
		n, err := from.Read(b)
		if l.dead.Load() {
			return
		}
		if _, werr := to.Write(b[:n]); werr != nil || err != nil {
			_ = to.Close()
			_ = from.Close()
			return
		}
	}
}

// close ends what is left at both ends, long after.
func (l *phoneLine) close() {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, c := range l.open {
		_ = c.Close()
	}
}

// background runs one session of a, and returns what gives its outcome.
func background(t *testing.T, addr string, a client.Account, opts client.Options, r client.Receiver) (wait func() (client.Stats, error)) {
	t.Helper()
	type outcome struct {
		stats client.Stats
		err   error
	}
	done := make(chan outcome, 1)
	go func() {
		stats, err := client.Collect(t.Context(), addr, a, opts, r)
		done <- outcome{stats, err}
	}()
	return func() (client.Stats, error) {
		t.Helper()
		select {
		case o := <-done:
			return o.stats, o.err
		case <-time.After(2 * patience):
			t.Fatal("a session does not end")
			return client.Stats{}, nil
		}
	}
}

// TestTakeoverOfASilentLine cuts the line without either end noticing, at every protocol point of a reversed session.
// The customer that dials again gets what is left at once: nothing is lost, the order is kept, and what comes
// twice was in doubt, and says so in the log.
func TestTakeoverOfASilentLine(t *testing.T) {
	points := []cutPoint{{point: client.AtGreeting}, {point: client.AtEHLO}, {point: client.AtMAIL}, {point: client.AtRCPT}, {point: client.AtDATA},
		{point: client.AtBDAT}, {point: client.AtBody, after: 1}, {point: client.AtBody, after: 100_000}, {point: client.AtDot}, {point: client.AtCommitted}, {point: client.AtQUIT}}
	for name, offer := range offers {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s, met := atEach(t, points, offer, takeOverOnce)
			if n := s.metric("odmr_takeovers_total"); n < float64(met-1) { // after QUIT there may be nothing left to ask for
				t.Errorf("%v takeovers at %d points", n, met)
			}
		})
	}
}

func takeOverOnce(t *testing.T, s *Server, a client.Account, offer client.Offer, p cutPoint) {
	all := handInFour(t, s, a, 6_000_000)
	ln := startLine(t, s.ODMR)
	way, struck := approach{cutPoint: p}, make(chan struct{})
	hook := func(e client.Event) client.Response {
		if way.reached(e) && !ln.dead.Load() {
			ln.dead.Store(true)
			close(struck)
		}
		return client.Response{}
	}
	first := &client.Recorder{Keep: 10_000}
	wait := background(t, ln.Addr, a, client.Options{Timeout: 2 * patience, Offer: offer, Hook: hook}, first)
	select {
	case <-struck:
	case <-time.After(patience):
		t.Fatal("the session does not come to the point")
	}
	second := &client.Recorder{Keep: 10_000}
	collect(t, s, a, second)
	ln.close()
	stats, err := wait()
	if errors.Is(err, client.ErrLost) == (p.point == client.AtQUIT) || len(stats.Breaches) > 0 {
		t.Errorf("first session: %+v, %v", stats, err)
	}
	had, got := ids(t, first), ids(t, second)
	if n := len(got); n > len(all) || !slices.Equal(got, all[len(all)-n:]) {
		t.Fatalf("second session: %q", got)
	}
	twice := 0
	for _, id := range all {
		switch in := slices.Contains(had, id); {
		case !in && !slices.Contains(got, id):
			t.Errorf("%s is lost: first session %q, second %q", id, had, got)
		case in && slices.Contains(got, id):
			twice++
		}
	}
	doubt := regexp.MustCompile(`"domain":"` + regexp.QuoteMeta(a.Domains[0]) + `".*"in_doubt":true`)
	if n := len(doubt.FindAllString(s.Log(), -1)); twice > n {
		t.Errorf("%d messages came twice, %d were in doubt: first session %q, second %q", twice, n, had, got)
	}
}

// TestTakeoverOfASilentLingeringLine: the line goes while nothing is on its way, and mail comes before the customer is
// back. What the server has sent into the void is in doubt and comes first.
func TestTakeoverOfASilentLingeringLine(t *testing.T) {
	a := customer("tim", "example.org")
	s := startServer(t, []client.Account{a}, "--linger", "1h")
	ln := startLine(t, s.ODMR)
	lost := &client.Recorder{Keep: 1000}
	wait := background(t, ln.Addr, a, client.Options{Timeout: 2 * patience, Offer: client.FullOffer()}, lost)
	until(t, "the session to linger", func() bool { return s.metric("odmr_sessions", `state="linger"`) == 1 })
	ln.dead.Store(true)
	handIn(t, s.SMTP, client.SenderOptions{}, message("m0", kindText, 500, "a@example.org"))
	until(t, "it to be sent", func() bool { return s.metric("odmr_sessions", `state="reversed"`) == 1 })
	handIn(t, s.SMTP, client.SenderOptions{}, message("m1", kindText, 500, "a@example.org"))

	rec := &client.Recorder{Keep: 1000}
	fresh := background(t, s.ODMR, a, client.Options{Timeout: 2 * patience, Offer: client.FullOffer()}, rec)
	until(t, "what was on its way", func() bool { return len(rec.Messages()) == 2 })
	handIn(t, s.SMTP, client.SenderOptions{}, message("m2", kindText, 500, "a@example.org"))
	until(t, "mail that comes", func() bool { return len(rec.Messages()) == 3 })
	if got := ids(t, rec); !slices.Equal(got, []string{"m0", "m1", "m2"}) {
		t.Errorf("received %q", got)
	}
	s.Stop()
	if stats, err := fresh(); err != nil || !stats.Quit {
		t.Errorf("%+v, %v", stats, err)
	}
	ln.close()
	if stats, err := wait(); !errors.Is(err, client.ErrLost) || stats.Messages != 0 {
		t.Errorf("the lost session: %+v, %v", stats, err)
	}
}

// TestTakeoverFight: two customers that are both alive want the same domains for ever. The second gets them, and keeps
// them for --takeover-interval.
func TestTakeoverFight(t *testing.T) {
	a := customer("tim", "example.org")
	s := startServer(t, []client.Account{a}, "--linger", "1h", "--takeover-interval", "1h")
	var ended atomic.Int32
	fight := func() error {
		_, err := client.Collect(t.Context(), s.ODMR, a, client.Options{Timeout: 2 * patience, Offer: client.FullOffer()}, &client.Recorder{})
		ended.Add(1)
		return err
	}
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	var refused atomic.Int32
	for range 2 {
		wg.Go(func() {
			for ctx.Err() == nil {
				if err := fight(); client.Code(err) == 451 {
					refused.Add(1)
				} else if err != nil && !errors.Is(err, client.ErrLost) && !errors.Is(err, io.EOF) && ctx.Err() == nil {
					t.Errorf("unexpected: %v", err)
				}
			}
		})
	}
	until(t, "many to be refused", func() bool { return refused.Load() >= 50 })
	if n := s.metric("odmr_takeovers_total"); n != 1 {
		t.Errorf("%v takeovers", n)
	}
	if n := ended.Load() - refused.Load(); n > 1 {
		t.Errorf("%d sessions were ended", n)
	}
	cancel()
	s.Stop()
	wg.Wait()
}

// TestTakeoverByAStranger: a customer that asks for somebody else's domain ends no session, whatever it asks for besides.
func TestTakeoverByAStranger(t *testing.T) {
	tim, eve := customer("tim", "example.org", "example.com"), customer("eve", "evil.example")
	s := startServer(t, []client.Account{tim, eve}, "--linger", "1h")
	rec := &client.Recorder{Keep: 1000}
	wait := background(t, s.ODMR, tim, client.Options{Timeout: 2 * patience, Offer: client.FullOffer()}, rec)
	until(t, "the session to linger", func() bool { return s.metric("odmr_sessions", `state="linger"`) == 1 })
	for _, domains := range [][]string{{"example.org"}, {"example.com", "example.org"}, {"evil.example", "example.org"}, {"EXAMPLE.org", "evil.example"}} {
		e := eve
		e.Domains = domains
		if _, err := client.Collect(t.Context(), s.ODMR, e, client.Options{Timeout: patience}, &client.Recorder{}); client.Code(err) != 450 {
			t.Errorf("ATRN %q: %v", domains, err)
		}
	}
	handIn(t, s.SMTP, client.SenderOptions{}, message("one", kindText, 100, "a@example.org"))
	until(t, "mail in the old session", func() bool { return len(rec.Messages()) == 1 })
	if n := s.metric("odmr_takeovers_total"); n != 0 {
		t.Errorf("%v takeovers", n)
	}
	s.Stop()
	if stats, err := wait(); err != nil || !stats.Quit {
		t.Errorf("%+v, %v", stats, err)
	}
}
