package session

import (
	"strings"
	"testing"

	"odmr/internal/mail"
)

// TestReversedShieldSaysLast: a refusal that the shield keeps back is settled behind later messages. A recipient that one of these
// was taken for is known by then, and must not be learned as unknown.
func TestReversedShieldSaysLast(t *testing.T) {
	r := NewReversed(&ReversedConfig{Hostname: "odmr.example", ShieldRefusals: 2, ShieldWindow: 4}, []string{"a.example"})
	envelopes := []mail.Envelope{}
	for _, to := range []string{"box@a.example", "other@a.example", "box@A.example"} {
		envelopes = append(envelopes, mail.Envelope{ID: 1, Domain: "a.example", ReversePath: "s@far.example", Size: 10, WireSize: 10,
			Recipients: []mail.Recipient{{Address: to}}})
	}
	var out Output
	var items []Item
	for i := range envelopes {
		items = append(items, Item{Handle: uint32(i + 1), Envelope: &envelopes[i]})
	}
	said := map[uint32]mail.RcptVerdict{}
	act := func() {
		for len(out.Acts) > 0 {
			acts := append([]Action{}, out.Acts...)
			out.Reset()
			for _, a := range acts {
				switch a.Kind {
				case ActPrefetch:
					res := Result{Items: items}
					items = nil
					r.Done(0, a.Ticket, &res, &out)
				case ActSettle:
					said[a.Item] = a.Outcomes[0].Rcpt
					r.Done(0, a.Ticket, &Result{}, &out)
				}
			}
		}
	}
	r.Start(0, &out)
	refused := "550 5.1.1 no such user\r\n"
	for _, reply := range []string{"220 hello\r\n", "250 hello\r\n",
		"250 ok\r\n", refused, "250 reset\r\n",
		"250 ok\r\n", refused, "250 reset\r\n",
		"250 ok\r\n", "250 ok\r\n", "354 go on\r\n", "250 taken\r\n"} {
		r.Input(0, []byte(reply), &out)
		if strings.Contains(string(out.Reply), "QUIT") && reply != "250 taken\r\n" {
			t.Fatalf("QUIT behind %q", reply)
		}
		act()
	}
	if said[1] != mail.RcptUnsaid || said[2] != mail.RcptUnknown || said[3] != mail.RcptAccepted {
		t.Errorf("of the recipients is said %v", said)
	}
}
