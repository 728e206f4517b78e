package main

import (
	"fmt"
	"strings"
	"time"

	"odmr/engine"
	"odmr/internal/admin"
	"odmr/internal/mail"
)

// gate lets mail in that odmrctl import brings, as mail that arrives is let in.
type gate struct{ *server }

// intake is the way in for odmrctl import.
func (s *server) intake() *admin.Intake { return &admin.Intake{Store: s.store.Load(), Gate: gate{s}} }

// waivers are the limits that an operator may put aside, by the names that odmrctl knows.
var waivers = map[string]engine.Waiver{"quota": engine.WaiveQuota, "size": engine.WaiveSize, "recipients": engine.WaiveRecipients}

// Admit implements admin.Gate. Mail that has waited longer than it may is not taken: it would go back to its sender at once.
func (g gate) Admit(a *admin.Asked) (string, *mail.Refusal) {
	e := g.serving.Load()
	if e == nil {
		return "", &mail.Refusal{Code: 451, Enhanced: "4.3.2", Text: "The server is starting"}
	}
	now := time.Now()
	ask := engine.Admission{Address: a.Recipient, Null: a.Envelope.ReversePath == "", Size: a.Envelope.Size, Now: now.UnixNano(), Ahead: a.Ahead}
	for _, w := range a.Waive {
		ask.Waived |= waivers[w]
	}
	domain, refusal := e.Admit(&ask)
	if refusal != nil {
		return "", refusal
	}
	p, err := g.heldPolicy(domain)
	if err != nil {
		return "", &mail.Refusal{Code: 451, Enhanced: "4.4.3", Text: "Directory unavailable, try again later", Cause: err}
	}
	if arrived := time.Unix(0, a.Envelope.Arrived); !p.Hold && now.Sub(arrived) >= p.Retention {
		return "", &mail.Refusal{Code: 554, Enhanced: "5.4.7", Text: fmt.Sprintf("It arrived at %s and would expire at once: mail waits for %s (--arrived=now takes it as new)",
			arrived.UTC().Format(time.RFC3339), strings.TrimSuffix(p.Retention.String(), "0m0s"))}
	}
	return domain, nil
}

// Imported implements admin.Gate.
func (g gate) Imported(envelopes []mail.Envelope) {
	for i := range envelopes {
		v := &envelopes[i]
		g.log.Info().Stringer("queue_id", v.ID).Str("domain", v.Domain).Str("from", v.ReversePath).Int("recipients", len(v.Recipients)).
			Int64("size", v.Size).Int64("wire_size", v.WireSize).Time("arrived", time.Unix(0, v.Arrived)).Msg("message imported")
		g.metrics.MessageIn(engine.Accepted, v.Size)
	}
}
