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
