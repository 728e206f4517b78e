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
	said := hear(t, r, envelopes, []string{"220 hello\r\n", "250 hello\r\n",
		"250 ok\r\n", unknownUser, "250 reset\r\n",
		"250 ok\r\n", unknownUser, "250 reset\r\n",
		"250 ok\r\n", "250 ok\r\n", "354 go on\r\n", "250 taken\r\n"})
	if said[1] != mail.RcptUnsaid || said[2] != mail.RcptUnknown || said[3] != mail.RcptAccepted {
		t.Errorf("of the recipients is said %v", said)
	}
}

const unknownUser = "550 5.1.1 no such user\r\n"

// hear plays a session in which envelopes are handed out, and returns what is said of the first recipient of each.
func hear(t *testing.T, r *Reversed, envelopes []mail.Envelope, replies []string) map[uint32]mail.RcptVerdict {
	t.Helper()
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
	for i, reply := range replies {
		r.Input(0, []byte(reply), &out)
		if strings.Contains(string(out.Reply), "QUIT") && i < len(replies)-1 {
			t.Fatalf("QUIT behind reply %d, %q", i, reply)
		}
		act()
	}
	return said
}

// TestReversedUnknownInParts: a message that takes two transactions is settled behind another one that goes between them, and has
// the same recipient. Taken by then, it must not be learned as unknown.
func TestReversedUnknownInParts(t *testing.T) {
	for name, shield := range map[string]int{"without a shield": 0, "with one": 2} {
		r := NewReversed(&ReversedConfig{Hostname: "odmr.example", ShieldRefusals: shield, ShieldWindow: 4}, []string{"a.example"})
		var envelopes []mail.Envelope
		for _, to := range [][]string{{"box@a.example", "x@a.example", "y@a.example"}, {"box@a.example"}} {
			v := mail.Envelope{ID: 1, Domain: "a.example", ReversePath: "s@far.example", Size: 10, WireSize: 10}
			for _, address := range to {
				v.Recipients = append(v.Recipients, mail.Recipient{Address: address})
			}
			envelopes = append(envelopes, v)
		}
		said := hear(t, r, envelopes, []string{"220 hello\r\n", "250-hello\r\n250-PIPELINING\r\n250 CHUNKING\r\n",
			"250 ok\r\n", unknownUser, "250 ok\r\n", "452 4.5.3 too many\r\n", "250 taken\r\n",
			"250 ok\r\n", "250 ok\r\n", "250 taken\r\n", // that between
			"250 ok\r\n", "250 ok\r\n", "250 taken\r\n"})
		if len(said) != 2 || said[1] != mail.RcptUnsaid || said[2] != mail.RcptAccepted {
			t.Errorf("%s: of the recipients is said %v", name, said)
		}
	}
}
