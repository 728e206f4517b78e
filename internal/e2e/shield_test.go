package e2e

import (
	"fmt"
	"strings"
	"testing"

	"odmr/internal/client"
)

// TestInteropShield: the customer's postfix was installed anew and knows nobody. What it refuses is held, an alarm is raised,
// nothing fails; once it is in order again and an operator has released it, every message arrives once.
func TestInteropShield(t *testing.T) {
	needProgram(t, "fetchmail")
	a := customer("tim", "example.org")
	s := startServer(t, []client.Account{a})
	const n = 40
	var messages []client.Message
	for i := range n {
		messages = append(messages, message(fmt.Sprintf("m%d", i), kindText, 2000, "user@example.org"))
	}
	handIn(t, s.SMTP, client.SenderOptions{}, messages...)
	fresh := startPostfix(t, "mta.customer.example", "virtual_mailbox_domains = example.org\nvirtual_mailbox_base = /nonexistent\n"+
		"virtual_mailbox_maps = inline:{nobody@example.org=nobody/}\nvirtual_uid_maps = static:65534\nvirtual_gid_maps = static:65534\n")
	if status, out := fetchmail(t, s, a, fresh.Addr); status != 0 {
		t.Errorf("fetchmail: status %d\n%s", status, tail(out, 3000))
	}
	if !strings.Contains(fresh.Log(), "User unknown in virtual mailbox table") {
		t.Fatalf("postfix refused nothing:\n%s", tail(fresh.Log(), 2000))
	}
	until(t, "the alarm", func() bool { return s.metric("odmr_shield_alarms_total") == 1 })
	held := s.metric("odmr_queue_held_messages")
	if held < 9 || s.metric("odmr_queue_failed_messages") != 0 || s.metric("odmr_queue_messages") != n-held {
		t.Errorf("%v held, %v failed, %v waiting", held, s.metric("odmr_queue_failed_messages"), s.metric("odmr_queue_messages"))
	}
	if out, err := s.odmrctl("queue", "held", "--domain", "example.org"); err != nil || !strings.Contains(out, "held: 550 5.1.1") {
		t.Errorf("queue held: %v\n%s", err, out)
	}
	// Nothing was learned of it: the user's mail is taken on.
	handIn(t, s.SMTP, client.SenderOptions{}, message("later", kindText, 2000, "user@example.org"))
	if out, err := s.odmrctl("queue", "release", "--domain", "example.org", "--all"); err != nil || !strings.Contains(out, fmt.Sprintf("%v messages released", held)) {
		t.Errorf("queue release: %v\n%s", err, out)
	}
	whole := startSink(t, client.FullOffer())
	if status, out := fetchmail(t, s, a, whole.addr); status != 0 {
		t.Errorf("fetchmail: status %d\n%s", status, tail(out, 3000))
	}
	var got []string
	for _, m := range whole.Messages() {
		got = append(got, idOf(t, m.Content))
	}
	want := make([]string, 0, n+1)
	for i := range n {
		want = append(want, fmt.Sprintf("m%d", i))
	}
	if want = append(want, "later"); fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("arrived in this order: %v", got)
	}
}
