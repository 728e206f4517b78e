package admin

import (
	"github.com/rs/zerolog"

	"odmr/internal/mail"
	"odmr/queue"
)

// Audited is a queue that writes what an operator does to it into the log.
type Audited struct {
	queue.Admin
	Log zerolog.Logger
}

// Remove implements queue.Admin.
func (a Audited) Remove(domain string, id mail.ID) (int, error) {
	n, err := a.Admin.Remove(domain, id)
	if err == nil {
		a.line(domain, id, n).Msg("message removed by the operator")
	}
	return n, err
}

// Release implements queue.Admin.
func (a Audited) Release(domain string, id mail.ID) (int, error) {
	n, err := a.Admin.Release(domain, id)
	if err == nil {
		a.line(domain, id, n).Msg("held message released by the operator")
	}
	return n, err
}

// Bounce implements queue.Admin.
func (a Audited) Bounce(domain string, id mail.ID) (int, error) {
	n, err := a.Admin.Bounce(domain, id)
	if err == nil {
		a.line(domain, id, n).Msg("held message bounced by the operator")
	}
	return n, err
}

func (a Audited) line(domain string, id mail.ID, queues int) *zerolog.Event {
	ev := a.Log.Info().Stringer("queue_id", id).Int("queues", queues)
	if domain != "" {
		ev = ev.Str("domain", domain)
	}
	return ev
}
