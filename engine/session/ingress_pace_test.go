package session

import (
	"strings"
	"testing"
	"time"
)

// TestPaceOfContent: content that drips ends the session with 421, however it is sent; slow and steady content does not, nor does a pause in
// which the store is waited for.
func TestPaceOfContent(t *testing.T) {
	const rate = 20
	for name, c := range map[string]struct {
		each  int
		every time.Duration
		ends  bool
	}{
		"an octet before each time-out": {1, 3*time.Minute - time.Second, true},
		"a modem of 300 bit/s":          {300, 10 * time.Second, false},
		"a little too slow":             {19 * 30, 30 * time.Second, true},
		"a line that was lost":          {6000, 3*time.Minute - time.Second, false},
	} {
		for _, verb := range []string{"DATA\r\n", "BDAT 1000000\r\n", ""} {
			cfg := IngressConfig{Hostname: "mail.example", LeastRate: rate}.Defaults()
			s := NewIngress(&cfg, IngressPeer{Trusted: true})
			var out Output
			now := Time(1e18)
			say := func(text string) {
				for b, calls := []byte(text), 0; len(b) > 0 && !s.closed; calls++ {
					if calls > 100 {
						t.Fatalf("%s, %q: %.60q is not taken: %q", name, verb, b, out.Reply)
					}
					n := s.Input(now, b, &out)
					b = b[n:]
					for len(out.Acts) > 0 {
						acts := append([]Action(nil), out.Acts...)
						out.Acts = out.Acts[:0]
						for _, a := range acts {
							if a.Ticket != 0 {
								s.Done(now, a.Ticket, &Result{Domain: a.Domain}, &out)
							}
						}
					}
				}
			}
			s.Start(now, &out)
			say("EHLO x\r\nMAIL FROM:<>\r\nRCPT TO:<a@x.example>\r\n" + verb)
			out.Reset()
			for range 30 {
				now += Time(c.every)
				if now >= s.Deadline() {
					t.Fatalf("%s: the time-out is %v", name, time.Duration(s.Deadline()-now))
				}
				if verb == "" { // in chunks of their own
					say("BDAT " + "1\r\nx")
					say("BDAT " + "1\r\nx")
					if c.each > 2 {
						say("BDAT 600\r\n" + strings.Repeat("x", 600) + "BDAT 5400\r\n" + strings.Repeat("x", 5400))
					}
					continue
				}
				say(strings.Repeat("x", c.each))
			}
			ends := c.ends && (verb != "" || c.each == 1)
			if s.closed != ends || ends != strings.Contains(string(out.Reply), "421 4.4.2 Too slow") {
				t.Errorf("%s, %q: closed %v, %.100q", name, verb, s.closed, out.Reply)
			}
		}
	}
}

// TestPaceIsOfContentOnly: slowness does not undo what is said already, nor is a peer blamed for the disk. A message whose end comes late is
// committed and answered 250, or its client would send it again; likewise one that waits for a slow disk while the next drips; and a chunk
// that is refused gets its refusal.
func TestPaceIsOfContentOnly(t *testing.T) {
	cfg := IngressConfig{Hostname: "mail.example", LeastRate: 20}.Defaults()
	const step = 3*time.Minute - time.Second
	for name, says := range map[string][]string{ // with a pause before each
		"a late dot":        {"MAIL FROM:<>\r\nRCPT TO:<a@x.example>\r\nDATA\r\n", "x", "\r\n.\r\n", "NOOP\r\n"},
		"a late last chunk": {"MAIL FROM:<>\r\nRCPT TO:<a@x.example>\r\nBDAT 2 LAST\r\n", "x", "y", "NOOP\r\n"},
		"a slow disk":       {"MAIL FROM:<>\r\nRCPT TO:<a@x.example>\r\nBDAT 1 LAST\r\nxMAIL FROM:<>\r\nRCPT TO:<a@x.example>\r\nDATA\r\n", "x", "y", "z"},
		"a refused chunk":   {"BDAT 2 LAST\r\nx", "y", "NOOP\r\n"},
	} {
		s := NewIngress(&cfg, IngressPeer{Trusted: true})
		var out Output
		now, held, replies := Time(1e18), []uint32(nil), ""
		settle := func() {
			for len(out.Acts) > 0 {
				acts := append([]Action(nil), out.Acts...)
				out.Acts = out.Acts[:0]
				for _, a := range acts {
					switch {
					case a.Kind == ActCommit && name == "a slow disk":
						held = append(held, a.Ticket)
					case a.Ticket != 0:
						s.Done(now, a.Ticket, &Result{Domain: a.Domain}, &out)
					}
				}
			}
			replies += string(out.Reply)
			out.Reset()
		}
		s.Start(now, &out)
		for _, text := range append([]string{"EHLO x\r\n"}, says...) {
			for b, calls := []byte(text), 0; len(b) > 0 && !s.closed; calls++ {
				if calls > 100 {
					t.Fatalf("%s: %q is not taken: %q", name, b, replies)
				}
				b = b[s.Input(now, b, &out):]
				settle()
			}
			if now += Time(step); now >= s.Deadline() && text == says[0] {
				t.Fatalf("%s: the time-out is too near", name)
			}
		}
		want := "250 2.0.0 Ok: queued"
		if name == "a refused chunk" {
			want = "503 5.5.1"
		}
		for _, ticket := range held {
			s.Done(now, ticket, &Result{}, &out)
			settle()
		}
		if s.closed || !strings.Contains(replies, want) {
			t.Errorf("%s: closed %v, %q", name, s.closed, replies)
		}
	}
}
