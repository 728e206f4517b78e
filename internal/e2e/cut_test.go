package e2e

import (
	"errors"
	"fmt"
	"slices"
	"testing"

	"odmr/internal/client"
)

// cutPoint is where and how a line is cut.
type cutPoint struct {
	point client.Point
	after int64 // at AtBody: once so many octets have come
	cut   client.Cut
}

func (c cutPoint) String() string {
	how := map[client.Cut]string{client.CutBefore: "before answer", client.CutAfter: "after answer", client.CutReset: "reset"}[c.cut]
	if c.point == client.AtBody {
		return fmt.Sprintf("body %d %s", c.after, how)
	}
	return fmt.Sprintf("%v %s", c.point, how)
}

func cutPoints() []cutPoint {
	var l []cutPoint
	for _, p := range []client.Point{client.AtGreeting, client.AtEHLO, client.AtMAIL, client.AtRCPT, client.AtDATA, client.AtBDAT, client.AtDot, client.AtCommitted, client.AtQUIT} {
		for _, c := range []client.Cut{client.CutBefore, client.CutAfter, client.CutReset} {
			if p != client.AtBDAT || c != client.CutAfter {
				l = append(l, cutPoint{p, 0, c})
			}
		}
	}
	for _, octets := range []int64{1, 100_000} {
		l = append(l, cutPoint{client.AtBody, octets, client.CutBefore}, cutPoint{client.AtBody, octets, client.CutReset})
	}
	return l
}

// TestLineCut cuts the line at every protocol point of a reversed session, in its second message
// of four where there is a message. The session after it must bring exactly what was not
// acknowledged: nothing is lost, nothing that was acknowledged comes again. After a reset the last
// acknowledgements may have been lost with the connection, so that some may come again.
func TestLineCut(t *testing.T) {
	for name, offer := range offers {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if _, met := atEach(t, cutPoints(), offer, cutOnce); met < 20 {
				t.Errorf("only %d points", met)
			}
		})
	}
}

// atEach runs once for each point that a session with that offer comes to, with an account for a domain of its own, on
// one server. It returns how many points those were.
func atEach(t *testing.T, points []cutPoint, offer client.Offer, once func(*testing.T, *Server, client.Account, client.Offer, cutPoint)) (s *Server, met int) {
	t.Helper()
	a := customer("tim")
	for i := range points {
		a.Domains = append(a.Domains, fmt.Sprintf("cut%d.example", i))
	}
	s = startServer(t, []client.Account{a})
	for i, p := range points {
		if (p.point == client.AtDATA) == offer.Chunking && (p.point == client.AtDATA || p.point == client.AtBDAT) {
			continue
		}
		met++
		one := a
		one.Domains = a.Domains[i : i+1]
		t.Run(p.String(), func(t *testing.T) { once(t, s, one, offer, p) })
	}
	return s, met
}

// handInFour hands four messages for a's domain in, the last of that size, and returns their ids.
func handInFour(t *testing.T, s *Server, a client.Account, last int) (all []string) {
	t.Helper()
	var messages []client.Message
	for i, size := range []int{200, 300_000, 5000, last} {
		id := fmt.Sprintf("m%d", i)
		all = append(all, id)
		messages = append(messages, message(id, i%2, size, "a@"+a.Domains[0]))
	}
	handIn(t, s.SMTP, client.SenderOptions{}, messages...)
	return all
}

// approach watches a session come to a point, in its second message where there is a message.
type approach struct {
	cutPoint
	mails int
}

// reached says whether e is that point.
func (p *approach) reached(e client.Event) bool {
	if e.Point == client.AtMAIL {
		p.mails++
	}
	early := p.point == client.AtGreeting || p.point == client.AtEHLO || p.point == client.AtQUIT
	return e.Point == p.point && e.Octets >= p.after && (early || p.mails == 2)
}

func cutOnce(t *testing.T, s *Server, a client.Account, offer client.Offer, p cutPoint) {
	all := handInFour(t, s, a, 200)
	way, struck := approach{cutPoint: p}, false
	hook := func(e client.Event) client.Response {
		if !way.reached(e) || struck {
			return client.Response{}
		}
		struck = true
		return client.Response{Cut: p.cut}
	}
	first := &client.Recorder{Keep: 5000}
	stats, err := client.Collect(t.Context(), s.ODMR, a, client.Options{Timeout: patience, Offer: offer, Hook: hook}, first)
	if !struck || !errors.Is(err, client.ErrLost) || len(stats.Breaches) > 0 {
		t.Fatalf("struck %v, stats %+v, error %v", struck, stats, err)
	}
	second := &client.Recorder{Keep: 5000}
	collect(t, s, a, second)

	acknowledged, rest := all[:stats.Messages], all[stats.Messages:]
	if got := ids(t, first); !slices.Equal(got[:min(len(got), stats.Messages)], acknowledged) {
		t.Errorf("first session: %q, acknowledged %q", got, acknowledged)
	}
	got := ids(t, second)
	if p.cut == client.CutReset {
		if n := len(got); n < len(rest) || !slices.Equal(got, all[len(all)-n:]) {
			t.Errorf("after a reset: %q came, not acknowledged were %q", got, rest)
		}
		return
	}
	if !slices.Equal(got, rest) {
		t.Errorf("second session: %q, not acknowledged were %q", got, rest)
	}
}
