package e2e

import (
	"regexp"
	"strings"
	"testing"

	"odmr/internal/client"
)

var queueID = regexp.MustCompile(`\b[0-9a-hjkmnp-tv-z]{13}\b`)

// TestQueueCommands runs odmrctl queue on a running server, through its socket, and on a stopped one.
func TestQueueCommands(t *testing.T) {
	a := customer("tim", "example.org", "example.com")
	s := startServer(t, []client.Account{a})
	handIn(t, s.SMTP, client.SenderOptions{},
		message("one", kindText, 5000, "a@example.org", "b@example.com"), message("two", kindText, 300_000, "c@example.com"))
	mustSay := func(want string, args ...string) string {
		t.Helper()
		out, err := s.odmrctl(args...)
		if err != nil || !strings.Contains(out, want) {
			t.Errorf("odmrctl %s: %v, no %q in\n%s", strings.Join(args, " "), err, want, out)
		}
		return out
	}
	for _, state := range []string{"running", "stopped"} {
		t.Run(state, func(t *testing.T) {
			if state == "stopped" {
				s.Stop()
			}
			list := mustSay("sender+one@mx.example", "queue", "list")
			found := queueID.FindAllString(list, -1)
			if len(found) != 3 {
				t.Fatalf("%d entries, want 3\n%s", len(found), list)
			}
			show := mustSay("b@example.com", "queue", "show", found[0])
			if !strings.Contains(show, "a@example.org") {
				t.Errorf("show:\n%s", show)
			}
			mustSay("", "queue", "check")
			if out, err := s.odmrctl("queue", "show", "0000000000000"); err == nil {
				t.Errorf("show of nothing: %s", out)
			}
		})
	}
	s.Start()
	list := mustSay("", "queue", "list")
	mustSay("", "queue", "remove", queueID.FindString(list))
	rec := &client.Recorder{Keep: 1000}
	collect(t, s, a, rec)
	for _, m := range rec.Messages() {
		if idOf(t, m.Content) == "one" && strings.HasSuffix(addresses(&m.Envelope)[0], "org") {
			t.Error("a removed message was delivered")
		}
	}
	mustSay("", "queue", "check")
}
