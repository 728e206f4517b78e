package session

import (
	"bytes"
	"fmt"
	"strings"
	"testing"
	"time"

	"odmr/internal/mail"
)

// newScenarioReversed reads: domains a,b (default example.org); window, window-bytes, prefetch,
// prefetch-bytes, refusals, shield, shield-window, linger and keepalive (both in seconds) as ReversedConfig has them;
// history rra: messages refused and accepted in sessions before.
func newScenarioReversed(t *testing.T, sc *scenario) Session {
	domains := []string{"example.org"}
	if v, ok := sc.value("domains"); ok {
		domains = strings.Split(v, ",")
	}
	r := NewReversed(&ReversedConfig{
		Hostname:         "odmr.isp.example",
		PrefetchMessages: int(sc.number(t, "prefetch", 8)),
		PrefetchBytes:    sc.number(t, "prefetch-bytes", 0),
		WindowMessages:   int(sc.number(t, "window", 0)),
		WindowBytes:      sc.number(t, "window-bytes", 0),
		MaxRefusals:      int(sc.number(t, "refusals", 0)),
		ShieldRefusals:   int(sc.number(t, "shield", 0)),
		ShieldWindow:     int(sc.number(t, "shield-window", 0)),
		Linger:           time.Duration(sc.number(t, "linger", 0)) * time.Second,
		KeepAlive:        time.Duration(sc.number(t, "keepalive", 0)) * time.Second,
	}, domains)
	if v, ok := sc.value("history"); ok {
		var f Refusals
		for _, c := range v {
			f.note(c == 'r', int(sc.number(t, "shield-window", 0)))
		}
		r.Resume(&f)
	}
	return r
}

func TestReversedScenarios(t *testing.T) { runScenarios(t, "reversed", newScenarioReversed) }

// Two prefetches in flight whose outcomes come in the wrong order: the messages go in the queue's order.
func TestReversedPrefetchesOutOfOrder(t *testing.T) {
	d := newReversedDialogue(ReversedConfig{PrefetchMessages: 8, Prefetches: 2})
	d.items = reversedItems(1, 8)
	d.hold = true
	d.say("220 mx\r\n")                                   // brings items 1 to 8
	d.say("250-mx\r\n250-CHUNKING\r\n250 PIPELINING\r\n") // 1 to 4 go out, 4 more are asked for
	for range 4 {
		d.say("250 ok\r\n250 ok\r\n250 done\r\n") // 5 to 8 go out, and again 4 are asked for
	}
	held := d.held
	d.held = nil
	var fetches []Action
	for _, a := range held {
		if a.Kind == ActPrefetch {
			fetches = append(fetches, a)
		} else {
			d.call(func() { d.m.Done(scenarioEpoch, a.Ticket, &Result{}, &d.out) })
		}
	}
	if len(fetches) != 2 {
		t.Fatalf("%d prefetches in flight, want 2", len(fetches))
	}
	done := func(a Action, items []Item) {
		d.call(func() { d.m.Done(scenarioEpoch, a.Ticket, &Result{Items: items}, &d.out) })
	}
	done(fetches[1], reversedItems(13, 1))
	if bytes.Contains(d.wire, []byte("<s13@")) {
		t.Fatal("message 13 went out before the prefetch before it was answered")
	}
	done(fetches[0], reversedItems(9, 4))
	for range 5 {
		d.say("250 ok\r\n250 ok\r\n250 done\r\n")
	}
	at := 0
	for i := 1; i <= 13; i++ {
		n := bytes.Index(d.wire, fmt.Appendf(nil, "<s%d@", i))
		if n <= at {
			t.Fatalf("message %d at %d, the one before at %d:\n%s", i, n, at, d.wire)
		}
		at = n
	}
}

func reversedItems(first, n int) (items []Item) {
	for i := first; i < first+n; i++ {
		items = append(items, Item{Handle: uint32(i), Envelope: reversedEnvelope(i)})
	}
	return items
}

// Nothing that could end a line, or the path, is ever written, whatever the store hands out.
func TestReversedUnsafeAddresses(t *testing.T) {
	for _, address := range []string{
		"a\r\nDATA\r\n@example.org", "a\n@example.org", "a\r@example.org", "a\x00@example.org", "a\x7f@example.org",
		"a>b@example.org", "a> SIZE=1 <@example.org", "a b@example.org", `"a@example.org`, `"a\`, `a\"b@example.org`, "",
		"\"a\tb\"@example.org", strings.Repeat("a", 3000) + "@example.org", `"a"b">@example.org`,
	} {
		for _, reverse := range []bool{false, true} {
			if reverse && address == "" {
				continue // the null reverse-path
			}
			d := newReversedDialogue(ReversedConfig{})
			env := d.items[0].Envelope
			if reverse {
				env.ReversePath = address
			} else {
				env.Recipients[0].Address = address
			}
			d.items = d.items[:1]
			d.say("220 mx\r\n")
			d.say("250-mx\r\n250-DSN\r\n250 PIPELINING\r\n")
			if got := string(d.wire); got != "EHLO odmr.example\r\nQUIT\r\n" {
				t.Errorf("%q: wrote %q", address, got)
			}
			if a := d.settled[1]; a.Outcomes[0].Status != mail.OutcomeDeferred || a.Reason == "" || d.m.Stats().Misrouted != 1 {
				t.Errorf("%q: %+v", address, a)
			}
		}
	}
	for _, address := range []string{`"a>b"@example.org`, `"a b"@example.org`, `"a\"b"@example.org`, "a+b=c@EXAMPLE.org", "Postmaster"} {
		if !reversedSafePath(address) || !reversedInDomain(address, "example.org") {
			t.Errorf("%q is fine", address)
		}
	}
	for _, value := range []string{"", "a b", "a\r\nQUIT", "a\x00", strings.Repeat("x", 2000)} {
		if reversedSafeValue(value) {
			t.Errorf("DSN value %q is not to be written", value)
		}
	}
}

// A message whose sizes contradict each other must not become a chunk: what is beyond it would be commands.
func TestReversedContradictingSizes(t *testing.T) {
	for _, sizes := range [][2]int64{{99, 100}, {101, 100}, {-1, -1}} {
		d := newReversedDialogue(ReversedConfig{})
		d.items[0].Envelope.Size, d.items[0].Envelope.WireSize = sizes[0], sizes[1]
		d.items = d.items[:1]
		d.say("220 mx\r\n")
		d.say("250-mx\r\n250-CHUNKING\r\n250 PIPELINING\r\n")
		if bytes.Contains(d.wire, []byte("BDAT")) || d.settled[1].Outcomes[0].Status != mail.OutcomeDeferred {
			t.Errorf("%v: %q, %+v", sizes, d.wire, d.settled[1])
		}
	}
}

// Vectors of RFC 3492 7.1 and names in use.
func TestReversedSameDomain(t *testing.T) {
	for _, c := range []struct {
		written, domain string
		same            bool
	}{
		{"EXAMPLE.org", "example.org", true}, {"example.org", "example.com", false}, {"", "example.org", false},
		{"bücher.example", "xn--bcher-kva.example", true}, {"BÜCHER.Example", "xn--bcher-kva.example", true},
		{"bücher.example", "xn--bcher-kvb.example", false}, {"bücher.example", "bucher.example", false},
		{"x.bücher.example", "xn--bcher-kva.example", false}, {"bücher", "xn--bcher-kva.example", false},
		{"他们为什么不说中文.example", "xn--ihqwcrb4cv8a8dqg056pqjye.example", true},
		{"למההםפשוטלאמדבריםעברית.example", "xn--4dbcagdahymbxekheh6e0a7fei0b.example", true},
		{"почемужеонинеговорятпорусски.example", "xn--b1abfaaepdrnnbgefbadotcwatmq2g4l.example", true},
		{"3年b組金八先生.example", "xn--3b-ww4c5e180e575a65lsy2b.example", true},
		{"münchen.straße.example", "xn--mnchen-3ya.xn--strae-oqa.example", true},
		{"b\xffcher.example", "xn--bcher-kva.example", false},
	} {
		if got := reversedSameDomain(c.written, c.domain); got != c.same {
			t.Errorf("%q, %q: %v", c.written, c.domain, got)
		}
	}
}

// The window grows while replies flow, and is halved once when they lag.
func TestReversedWindowAdapts(t *testing.T) {
	d := newReversedDialogue(ReversedConfig{WindowMessages: 32})
	d.items = reversedItems(1, 60)
	d.say("220 mx\r\n")
	d.say("250-mx\r\n250-CHUNKING\r\n250 PIPELINING\r\n")
	flying := func() int { return bytes.Count(d.wire, []byte("BDAT")) - len(d.settled) }
	if n := flying(); n != reversedFirstWindow {
		t.Fatalf("%d messages in flight at first", n)
	}
	for range 8 {
		d.say("250 ok\r\n250 ok\r\n250 done\r\n")
	}
	if n := flying(); n != reversedFirstWindow+8 {
		t.Fatalf("%d messages in flight after 8 replies", n)
	}
	late := scenarioEpoch + reversedLag + 1
	for range 3 {
		d.call(func() { d.m.Input(late, []byte("250 ok\r\n250 ok\r\n250 done\r\n"), &d.out) })
	}
	if d.m.window != (reversedFirstWindow+8)/2 {
		t.Fatalf("window %d after replies that lag", d.m.window)
	}
	if s := d.m.Stats(); s.Window != reversedFirstWindow+8 || s.Messages != 11 || s.Delivered != 11 || s.Bytes != 1100 {
		t.Errorf("%+v", s)
	}
	d = newReversedDialogue(ReversedConfig{WindowBytes: 250})
	d.say("220 mx\r\n")
	d.say("250-mx\r\n250-CHUNKING\r\n250 PIPELINING\r\n")
	if n := flying(); n != 2 {
		t.Fatalf("%d messages of 100 octets in flight with a window of 250", n)
	}
}

// steadyReversed is a pipelined or chunked session that never runs dry; one step is one message.
type steadyReversed struct {
	d       *Reversed
	out     Output
	replies []byte
	res     Result
	items   []Item
	next    int
	pending []Action
	now     Time
}

func newSteadyReversed(hello, replies string) *steadyReversed {
	s := &steadyReversed{d: NewReversed(&ReversedConfig{Hostname: "odmr.example"}, []string{"example.org"}), replies: []byte(replies)}
	s.items = reversedItems(1, 512)
	s.out.Reset()
	s.d.Start(1, &s.out)
	s.input([]byte("220 mx\r\n"))
	s.input([]byte(hello))
	return s
}

func (s *steadyReversed) input(b []byte) {
	s.now++
	s.out.Reset()
	if n := s.d.Input(s.now, b, &s.out); n != len(b) {
		panic("input left over")
	}
	s.perform()
	for len(s.pending) > 0 {
		a := s.pending[0]
		s.pending = s.pending[:copy(s.pending, s.pending[1:])]
		s.res = Result{}
		if a.Kind == ActPrefetch {
			n := min(a.Messages, len(s.items)/2)
			if s.next+n > len(s.items) {
				s.next = 0
			}
			s.res.Items = s.items[s.next : s.next+n]
			s.next += n
		}
		s.out.Reset()
		s.d.Done(s.now, a.Ticket, &s.res, &s.out)
		s.perform()
	}
}

func (s *steadyReversed) perform() {
	for i := range s.out.Acts {
		switch a := &s.out.Acts[i]; a.Kind {
		case ActPrefetch, ActSettle:
			s.pending = append(s.pending, *a)
		case ActClose:
			panic("closed: " + a.Reason)
		}
	}
}

const (
	steadyPipelined = "250 2.0.0 queued\r\n250 2.1.0 ok\r\n250 2.1.5 ok\r\n354 go on\r\n"
	steadyChunked   = "250 2.1.0 ok\r\n250 2.1.5 ok\r\n250 2.0.0 queued\r\n"
)

// The steady path costs no allocation per message but what the driver keeps: the outcomes, cut off a
// slab of 32, and the text of a final reply that differs from the one before (here it does not).
func TestReversedAllocations(t *testing.T) {
	pipelined := newSteadyReversed("250-mx\r\n250 PIPELINING\r\n", steadyPipelined)
	pipelined.input([]byte("250 2.1.0 ok\r\n250 2.1.5 ok\r\n354 go on\r\n"))
	chunked := newSteadyReversed("250-mx\r\n250-CHUNKING\r\n250 PIPELINING\r\n", steadyChunked)
	for name, s := range map[string]*steadyReversed{"pipelined": pipelined, "chunked": chunked} {
		step := func() { s.input(s.replies) }
		for range 2000 { // grow what is reused
			step()
		}
		if n := testing.AllocsPerRun(2000, step); n >= 1 {
			t.Errorf("%s: %v allocations per message", name, n)
		}
	}
}

func BenchmarkReversed(b *testing.B) {
	run := func(name string, s *steadyReversed) {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				s.input(s.replies)
			}
		})
	}
	pipelined := newSteadyReversed("250-mx\r\n250 PIPELINING\r\n", steadyPipelined)
	pipelined.input([]byte("250 2.1.0 ok\r\n250 2.1.5 ok\r\n354 go on\r\n"))
	run("pipelined", pipelined)
	run("chunked", newSteadyReversed("250-mx\r\n250-CHUNKING\r\n250 PIPELINING\r\n", steadyChunked))
}

// A session that gets its mail one by one, resting in between, takes no memory for outcomes of more; a busy one takes
// them off large slabs.
func TestReversedOutcomesSlab(t *testing.T) {
	r := new(Reversed)
	for range 3 {
		if o := r.newOutcomes(1); len(o) != 1 || len(r.outcomes) != 0 {
			t.Fatalf("%d outcomes, %d more were made", len(o), len(r.outcomes))
		}
		r.rest()
	}
	slabs := 0
	for range 1000 {
		if len(r.outcomes) == 0 {
			slabs++
		}
		r.newOutcomes(1)
	}
	if slabs > 5+1000/outcomesSlab+1 || r.slab != outcomesSlab {
		t.Errorf("%d slabs for 1000 outcomes, the last of %d", slabs, r.slab)
	}
	if o := r.newOutcomes(100); len(o) != 100 || cap(o) != 100 {
		t.Errorf("%d outcomes, room for %d", len(o), cap(o))
	}
}
