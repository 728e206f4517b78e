package outbound

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/emersion/go-smtp"

	"odmr/internal/mail"
)

func (s *sink) set(change func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	change()
}

// deferPoison refuses for now what begins with "poison", and returns how often it has.
func (s *sink) deferPoison() *int {
	tries := new(int)
	s.dataErr = func(content string) error {
		if strings.HasPrefix(content, "poison") {
			*tries++
			return &smtp.SMTPError{Code: 451, EnhancedCode: smtp.EnhancedCode{4, 3, 0}, Message: "come again"}
		}
		return nil
	}
	return tries
}

// One report that is refused for now again and again waits for itself, longer each time; all others go out at once.
func TestOneReportIsDeferred(t *testing.T) {
	s := newSink(t, TLSNone)
	tries := s.deferPoison()
	w := newWorld(t, Smarthost{Addr: s.addr, TLS: TLSNone})
	w.put("poison@elsewhere.example", "poison\r\n", 0)
	began := w.now
	var tried []time.Duration
	for minute := range 200 {
		w.put(fmt.Sprintf("r%d@elsewhere.example", minute), "good\r\n", 0)
		before := *tries
		w.pass()
		if *tries > before {
			tried = append(tried, w.now.Sub(began))
		}
		if len(s.got) != minute+1 {
			t.Fatalf("minute %d: %d reports went out", minute, len(s.got))
		}
		w.wantWaiting(1)
		w.now = w.now.Add(time.Minute)
	}
	want := []time.Duration{0, 1, 3, 7, 15, 31, 63, 123, 183}
	for i, at := range want {
		if len(tried) != len(want) || tried[i] != at*time.Minute {
			t.Fatalf("tried at %v, want %v minutes", tried, want)
		}
	}
	s.set(func() { s.dataErr = nil })
	w.now = w.now.Add(backoffMost)
	w.pass()
	w.wantWaiting(0)
	if len(w.sender.later) != 0 {
		t.Errorf("remembered are %v", w.sender.later)
	}
}

// Reports within which the line is lost each time, wherever, do not keep those behind them; they wait for themselves,
// longer each time.
func TestReportsBreakTheLine(t *testing.T) {
	for _, at := range []string{"RCPT", "DATA", "dot"} {
		for _, bad := range []int{1, lostMost - 1, lostMost, 3*lostMost + 1} {
			s := newSink(t, TLSNone)
			s.poison = at
			w := newWorld(t, Smarthost{Addr: s.addr, TLS: TLSNone})
			for i := range bad {
				w.put(fmt.Sprintf("poison%d@elsewhere.example", i), "1\r\n", 0)
			}
			w.put("bob@elsewhere.example", "2\r\n", 0)
			passes := 0
			for ; w.seen["sent"] == 0 && passes < 50; passes++ {
				w.pass()
				w.now = w.now.Add(time.Second)
				if w.sender.until.After(w.now) {
					w.now = w.sender.until
				}
			}
			if want := 1 + bad/lostMost; w.seen["sent"] != 1 || passes != want || w.sender.fails != 0 {
				t.Fatalf("%s, %d bad ones: seen %v after %d passes, want %d", at, bad, w.seen, passes, want)
			}
			w.wantWaiting(int64(bad))
			tries := w.seen["deferred"]
			w.pass()
			if bad < lostMost && w.seen["deferred"] != tries {
				t.Errorf("%s, %d bad ones: tried again too early", at, bad)
			}
			s.set(func() { s.poison = "" })
			w.now = w.now.Add(2 * backoffMost)
			w.pass()
			w.wantWaiting(0)
		}
	}
}

// Many that are refused for now again and again stand in front of the others only once.
func TestManyAreDeferred(t *testing.T) {
	s := newSink(t, TLSNone)
	s.deferPoison()
	w := newWorld(t, Smarthost{Addr: s.addr, TLS: TLSNone})
	for i := range streakMost + 5 {
		w.put(fmt.Sprintf("p%d@elsewhere.example", i), "poison\r\n", 0)
	}
	w.put("bob@elsewhere.example", "good\r\n", 0)
	w.pass()
	if w.seen["sent"] != 0 || w.seen["deferred"] != streakMost {
		t.Fatalf("seen %v", w.seen)
	}
	w.now = w.sender.until
	w.pass()
	if w.seen["sent"] != 1 || w.seen["deferred"] != 2*streakMost+5 || w.sender.fails != 0 {
		t.Errorf("seen %v", w.seen)
	}
}

// A smarthost that refuses everything for now is left alone after some reports; those that it refused do not stand in
// front of the others the next time.
func TestAllIsDeferred(t *testing.T) {
	for _, at := range []string{"MAIL", "RCPT"} {
		s := newSink(t, TLSNone)
		busy := &smtp.SMTPError{Code: 451, EnhancedCode: smtp.EnhancedCode{4, 3, 2}, Message: "overloaded"}
		tries := streakMost
		if at == "MAIL" {
			s.mailErr, tries = busy, 1
		} else {
			s.rcptErr = busy
		}
		w := newWorld(t, Smarthost{Addr: s.addr, TLS: TLSNone})
		for i := range streakMost + 5 {
			w.put(fmt.Sprintf("r%d@elsewhere.example", i), "1\r\n", 0)
		}
		w.pass()
		w.pass() // too early
		if w.seen["deferred"] != tries || s.sessions != 1 || w.sender.until != w.now.Add(backoffLeast) {
			t.Fatalf("%s: seen %v in %d sessions, until %v", at, w.seen, s.sessions, w.sender.until)
		}
		s.set(func() { s.mailErr, s.rcptErr = nil, nil })
		w.now = w.now.Add(backoffLeast)
		w.pass()
		w.wantWaiting(0)
	}
}

// What is remembered has a bound; beyond it nothing is lost.
func TestPostponedIsBounded(t *testing.T) {
	w := newWorld(t, Smarthost{})
	for i := range 3 * maxPostponed {
		w.sender.postpone(fmt.Sprintf("r%d@elsewhere.example", i))
	}
	if n := len(w.sender.later); n != maxPostponed || w.sender.due("r0@elsewhere.example") || !w.sender.due(fmt.Sprintf("r%d@elsewhere.example", maxPostponed)) {
		t.Fatalf("%d are remembered", n)
	}
	w.now = w.now.Add(3 * backoffMost)
	w.sender.postpone("new@elsewhere.example")
	if n := len(w.sender.later); n != 1 {
		t.Errorf("%d are remembered", n)
	}
}

// A smarthost that refuses this server as such gets nothing more and is told of; no report is dropped for it, and all
// go out when that is mended. Once it has taken one, what it refuses is the recipient,
// unless it speaks of relaying.
func TestDenied(t *testing.T) {
	reply := func(code int, enhanced smtp.EnhancedCode) error {
		return &smtp.SMTPError{Code: code, EnhancedCode: enhanced, Message: "no"}
	}
	for name, set := range map[string]func(s *sink){
		"MAIL, a login is wanted":       func(s *sink) { s.mailErr = reply(530, smtp.EnhancedCode{5, 7, 0}) },
		"MAIL, null reverse-path":       func(s *sink) { s.mailErr = reply(550, smtp.EnhancedCode{5, 1, 8}) },
		"RCPT, a login is wanted":       func(s *sink) { s.rcptErr = reply(530, smtp.EnhancedCode{5, 7, 0}) },
		"RCPT, relay access denied":     func(s *sink) { s.rcptErr = reply(554, smtp.EnhancedCode{5, 7, 1}) },
		"RCPT, without a code of X.Y.Z": func(s *sink) { s.rcptErr = reply(554, smtp.NoEnhancedCode) },
		"content, a login is wanted":    func(s *sink) { s.dataErr = func(string) error { return reply(530, smtp.EnhancedCode{5, 7, 0}) } },
	} {
		t.Run(name, func(t *testing.T) {
			s := newSink(t, TLSNone)
			set(s)
			w := newWorld(t, Smarthost{Addr: s.addr, TLS: TLSNone})
			w.put("ann@elsewhere.example", "1\r\n", 0)
			w.put("bob@elsewhere.example", "2\r\n", 0)
			for range 3 {
				w.pass()
				w.now = w.now.Add(backoffMost)
			}
			w.wantWaiting(2)
			if c := w.store.Counts(mail.OutboundDomain); c.Failed != 0 || w.seen["refused"] != 0 {
				t.Fatalf("%+v, seen %v", c, w.seen)
			}
			if w.seen["denied"] < 3 {
				t.Errorf("seen %v", w.seen)
			}
			s.set(func() { s.mailErr, s.rcptErr, s.dataErr = nil, nil, nil })
			w.pass()
			w.wantWaiting(0)
			s.set(func() { s.rcptErr = reply(554, smtp.EnhancedCode{5, 7, 1}) })
			w.put("ann@elsewhere.example", "3\r\n", 0)
			w.pass()
			if c := w.store.Counts(mail.OutboundDomain); c.Failed != 1 || c.Messages != 0 {
				t.Errorf("%+v", c)
			}
			// It may have been one for a domain of the smarthost's own.
			s.set(func() {
				s.rcptErr = &smtp.SMTPError{Code: 554, EnhancedCode: smtp.EnhancedCode{5, 7, 1}, Message: "Relay access denied"}
			})
			w.put("carol@elsewhere.example", "4\r\n", 0)
			w.pass()
			if c := w.store.Counts(mail.OutboundDomain); c.Failed != 1 || c.Messages != 1 {
				t.Errorf("relaying is denied: %+v", c)
			}
		})
	}
}

// A smarthost that takes only so many over one connection gets the others soon each time: it does not fail ever more.
func TestSomeOverEachConnection(t *testing.T) {
	s := newSink(t, TLSNone)
	s.most = 3
	w := newWorld(t, Smarthost{Addr: s.addr, TLS: TLSNone})
	const all, passes = 20, 7
	for i := range all {
		w.put(fmt.Sprintf("r%d@elsewhere.example", i), "1\r\n", 0)
	}
	for range passes {
		w.pass()
		w.now = w.now.Add(backoffLeast)
	}
	if w.wantWaiting(0); len(s.got) != all || s.sessions != passes {
		t.Errorf("%d reports in %d sessions", len(s.got), s.sessions)
	}
	s.set(func() {
		s.most, s.mailErr = 0, &smtp.SMTPError{Code: 421, EnhancedCode: smtp.EnhancedCode{4, 3, 2}, Message: "not now"}
	})
	w.put("ann@elsewhere.example", "1\r\n", 0)
	for _, want := range []time.Duration{1, 2, 4} {
		if w.pass(); w.sender.until.Sub(w.now) != want*time.Minute {
			t.Errorf("where none is taken it waits %v, want %d minutes", w.sender.until.Sub(w.now), want)
		}
		w.now = w.sender.until
	}
}

// What was put off gets its turn though all that is new is refused for now, and there is much of it each time.
func TestAllAreDeferredOnce(t *testing.T) {
	s := newSink(t, TLSNone)
	s.grey = map[string]bool{}
	w := newWorld(t, Smarthost{Addr: s.addr, TLS: TLSNone})
	const rounds = 5
	for round := range rounds {
		for i := range streakMost {
			w.put(fmt.Sprintf("r%d.%d@elsewhere.example", round, i), "1\r\n", 0)
		}
		w.pass()
		if len(s.got) != round*streakMost {
			t.Fatalf("%d reports went out after %d rounds", len(s.got), round+1)
		}
		w.now = w.now.Add(backoffLeast)
	}
	w.pass()
	w.wantWaiting(0)
}

// Where there is no place to put off what is refused for now it does not keep those behind it, and is tried in turns.
func TestNoPlaceToPutOff(t *testing.T) {
	s := newSink(t, TLSNone)
	s.deferPoison()
	w := newWorld(t, Smarthost{Addr: s.addr, TLS: TLSNone})
	for i := range maxPostponed {
		w.sender.later[fmt.Sprintf("r%d@elsewhere.example", i)] = postponed{1, w.now.Add(1000 * backoffMost)}
	}
	for i := range 2 * streakMost {
		w.put(fmt.Sprintf("p%d@elsewhere.example", i), "poison\r\n", 0)
	}
	w.put("bob@elsewhere.example", "good\r\n", 0)
	for pass := range 3 { // a streak, another, and the end
		w.pass()
		if sent := w.seen["sent"]; sent != pass/2 {
			t.Fatalf("%d reports sent in pass %d", sent, pass)
		}
		w.now = w.now.Add(backoffMost)
	}
	s.set(func() { s.dataErr = nil })
	w.now = w.now.Add(2 * backoffMost)
	w.pass()
	w.wantWaiting(0)
}
