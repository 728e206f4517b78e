package session

import (
	"bytes"
	"fmt"
	"slices"
	"strings"
	"testing"

	"odmr/internal/mail"
)

// cutMessages is how many messages the sessions below hold.
const cutMessages = 6

// reversedDialogue is a session with a sound server that takes everything: each entry of replies is
// what it says in one go, and the prefetch is answered as soon as it is made.
type reversedDialogue struct {
	m       *Reversed
	out     Output
	wire    []byte // what was written, a body as "<item>"
	settled map[uint32]Action
	closed  bool
	items   []Item
	more    bool // the first prefetch was answered
	hold    bool // later completions wait for release
	held    []Action
}

func newReversedDialogue(cfg ReversedConfig) *reversedDialogue {
	cfg.Hostname = "odmr.example"
	d := &reversedDialogue{m: NewReversed(&cfg, []string{"example.org"}), settled: map[uint32]Action{}}
	for i := range cutMessages {
		d.items = append(d.items, Item{Handle: uint32(i + 1), Envelope: reversedEnvelope(i + 1)})
	}
	d.call(func() { d.m.Start(scenarioEpoch, &d.out) })
	return d
}

func reversedEnvelope(n int) *mail.Envelope {
	return &mail.Envelope{ID: mail.ID(n), Domain: "example.org", ReversePath: fmt.Sprintf("s%d@far.example", n),
		Size: 100, WireSize: 100, Recipients: []mail.Recipient{{Address: fmt.Sprintf("u%d@example.org", n)}}}
}

// call performs what the machine wants; a settlement is durable at once.
func (d *reversedDialogue) call(f func()) {
	d.out.Reset()
	f()
	acts := slices.Clone(d.out.Acts)
	at := 0
	for _, a := range acts {
		switch a.Kind {
		case ActBody:
			d.wire = fmt.Appendf(append(d.wire, d.out.Reply[at:a.At]...), "<%d>", a.Item)
			at = a.At
		case ActSettle:
			if _, twice := d.settled[a.Item]; twice {
				panic(fmt.Sprintf("item %d settled twice", a.Item))
			}
			d.settled[a.Item] = a
		case ActClose:
			d.closed = true
		}
	}
	d.wire = append(d.wire, d.out.Reply[at:]...)
	for _, a := range acts {
		switch a.Kind {
		case ActSettle, ActPrefetch:
			if d.hold && d.more {
				d.held = append(d.held, a)
				continue
			}
		}
		switch a.Kind {
		case ActSettle:
			d.call(func() { d.m.Done(scenarioEpoch, a.Ticket, &Result{}, &d.out) })
		case ActPrefetch:
			res := &Result{}
			if !d.more {
				d.more, res.Items = true, d.items
			}
			d.call(func() { d.m.Done(scenarioEpoch, a.Ticket, res, &d.out) })
		}
	}
}

// release gives the completions that were held back.
func (d *reversedDialogue) release() {
	d.hold = false
	for _, a := range d.held {
		d.call(func() { d.m.Done(scenarioEpoch, a.Ticket, &Result{}, &d.out) })
	}
}

// say hands replies over, cut before the octets at cuts.
func (d *reversedDialogue) say(replies string, cuts ...int) {
	b, unread := []byte(replies), []byte(nil)
	for len(b) > 0 {
		n := len(b)
		if len(cuts) > 0 {
			n, cuts = min(n, max(1, cuts[0])), cuts[1:]
		}
		unread, b = append(unread, b[:n]...), b[n:]
		lent := bytes.Clone(unread)
		d.call(func() { unread = unread[d.m.Input(scenarioEpoch, lent, &d.out):] })
	}
}

// A message is unsure from when it went out until its final reply, and no more once the peer has said that it leaves.
func TestUnsure(t *testing.T) {
	for _, c := range []struct {
		caps, said string
		want       bool
	}{
		{"250 PIPELINING", "250 ok\r\n250 ok\r\n", false},
		{"250 PIPELINING", "250 ok\r\n250 ok\r\n354 go\r\n", true},
		{"250 PIPELINING", "250 ok\r\n250 ok\r\n354 go\r\n421 bye\r\n", false},
		{"250-PIPELINING\r\n250 CHUNKING", "", true}, // all six are on their way
		{"250-PIPELINING\r\n250 CHUNKING", "250 ok\r\n421 bye\r\n", false},
	} {
		d := newReversedDialogue(ReversedConfig{})
		d.say("220 mx\r\n")
		d.say("250-mx\r\n" + c.caps + "\r\n")
		d.say(c.said)
		if got := d.m.Unsure(); got != c.want {
			t.Errorf("%q %q: unsure %v, want %v; written %q", c.caps, c.said, got, c.want, d.wire)
		}
	}
}

// answers is what a server says that takes everything, to each line that was written.
func answers(written string) (replies []string) {
	for _, line := range strings.SplitAfter(written, "\r\n") {
		if i := strings.IndexByte(line, '>'); strings.HasPrefix(line, "<") && i > 0 {
			line = line[i+1:] // a body behind BDAT, or before the dot
		}
		switch {
		case line == "":
		case line == "DATA\r\n":
			replies = append(replies, "354 go on\r\n")
		case strings.HasPrefix(line, "QUIT"):
			replies = append(replies, "221 bye\r\n")
		default:
			replies = append(replies, "250 ok\r\n")
		}
	}
	return replies
}

// TestReversedCutAtEveryPoint ends a session after each number of replies: at every protocol point
// of lock-step, pipelined and chunked delivery. What was answered is settled as delivered, what was handed
// over whole is in doubt, all else is untouched; and the next session finds just what is left.
func TestReversedCutAtEveryPoint(t *testing.T) {
	for name, hello := range map[string]string{
		"lock-step":  "250 mx\r\n",
		"pipelining": "250-mx\r\n250 PIPELINING\r\n",
		"chunking":   "250-mx\r\n250-PIPELINING\r\n250 CHUNKING\r\n",
	} {
		t.Run(name, func(t *testing.T) {
			for cut := 0; ; cut++ {
				d := newReversedDialogue(ReversedConfig{})
				said, doubtful, whole := playUntil(d, hello, cut)
				d.call(func() { d.m.End(scenarioEpoch, &d.out) })
				checkCut(t, cut, d, said, doubtful)
				if whole {
					if len(said) != cutMessages {
						t.Fatalf("%d of %d messages were delivered", len(said), cutMessages)
					}
					return
				}
			}
		})
	}
}

// playUntil gives cut replies, and returns the messages that were finally answered and those whose body was
// written without a final reply. whole says that the session came to its end before.
func playUntil(d *reversedDialogue, hello string, cut int) (said, doubtful []uint32, whole bool) {
	pending := []string{"220 mx\r\n"}
	bodies, seen := []uint32{}, 0
	for n := 0; n < cut; n++ {
		if len(pending) == 0 {
			return said, bodies, true
		}
		reply := pending[0]
		pending = pending[1:]
		if seen == 0 && n == 1 {
			reply = hello
		}
		if strings.HasPrefix(reply, "#") { // the final reply to a body
			said, bodies = append(said, bodies[0]), bodies[1:]
			reply = reply[1:]
		}
		start := len(d.wire)
		d.say(reply)
		written := string(d.wire[start:])
		list := answers(written)
		for i, line := range strings.SplitAfter(written, "\r\n") {
			var item uint32
			if _, err := fmt.Sscanf(line, "<%d>", &item); err == nil {
				bodies = append(bodies, item)
			}
			if i < len(list) && (strings.HasSuffix(line, ">.\r\n") || strings.HasPrefix(line, "BDAT")) {
				list[i] = "#" + list[i]
			}
		}
		pending = append(pending, list...)
	}
	return said, bodies, false
}

func checkCut(t *testing.T, cut int, d *reversedDialogue, said, doubtful []uint32) {
	t.Helper()
	for i := uint32(1); i <= cutMessages; i++ {
		a, settled := d.settled[i]
		switch {
		case slices.Contains(said, i):
			if !settled || a.InDoubt || a.Outcomes[0].Status != mail.OutcomeDelivered {
				t.Errorf("cut %d: message %d was answered: %+v", cut, i, a)
			}
		case slices.Contains(doubtful, i):
			if !settled || !a.InDoubt || a.Outcomes[0].Status == mail.OutcomeDelivered || a.Outcomes[0].Status == mail.OutcomeFailed {
				t.Errorf("cut %d: message %d was handed over without answer: %+v", cut, i, a)
			}
		case settled:
			t.Errorf("cut %d: message %d was not handed over: %+v", cut, i, a)
		}
	}
}

// FuzzReversedSplit: any cutting of the input into reads gives the same dialogue, and nothing that a
// peer says makes the machine panic, write outside a transaction or settle twice.
func FuzzReversedSplit(f *testing.F) {
	for _, s := range []string{
		"250 mx\r\n250 ok\r\n250 ok\r\n354 go\r\n250 done\r\n250 ok\r\n550 no\r\n",
		"250-mx\r\n250 PIPELINING\r\n250 ok\r\n250 ok\r\n354 go\r\n451 done\r\n250 ok\r\n550 no\r\n354 go\r\n554 no\r\n421 bye\r\n",
		"250-mx\r\n250-PIPELINING\r\n250 CHUNKING\r\n250 ok\r\n250 ok\r\n250 done\r\n503 ok\r\n503 no\r\n503 go\r\n250 ok\r\n552 x\r\n",
		"500 what\r\n250 mx\r\n250-ok\r\n250 ok\r\n", "421 no\r\n", "hello\r\n", "250-a\r\n251 b\r\n",
	} {
		f.Add([]byte(s), []byte{1, 2, 3, 4, 5, 6, 7, 8})
	}
	f.Fuzz(func(t *testing.T, in, cuts []byte) {
		if len(in) > 1<<12 {
			return
		}
		play := func(cuts ...int) *reversedDialogue {
			d := newReversedDialogue(ReversedConfig{MaxRefusals: 6})
			d.hold = true // when completions come is not what is asked here
			d.say("220 mx\r\n")
			d.say(string(in), cuts...)
			d.release()
			d.call(func() { d.m.End(scenarioEpoch, &d.out) })
			return d
		}
		whole, octets, pieces := play(), play(slices.Repeat([]int{1}, len(in))...), make([]int, len(cuts))
		for i, c := range cuts {
			pieces[i] = int(c)
		}
		for _, got := range []*reversedDialogue{octets, play(pieces...)} {
			compareDialogues(t, whole, got)
		}
	})
}

func compareDialogues(t *testing.T, want, got *reversedDialogue) {
	t.Helper()
	if !bytes.Equal(want.wire, got.wire) || want.closed != got.closed || want.m.EndReason() != got.m.EndReason() {
		t.Fatalf("whole:\n%s\n%s\npieces:\n%s\n%s", want.wire, want.m.EndReason(), got.wire, got.m.EndReason())
	}
	for i := uint32(1); i <= cutMessages; i++ {
		w, g := want.settled[i], got.settled[i]
		if w.InDoubt != g.InDoubt || !slices.Equal(w.Outcomes, g.Outcomes) {
			t.Fatalf("item %d: %+v, in pieces %+v", i, w, g)
		}
	}
}
