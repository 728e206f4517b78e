package outbound

import (
	"fmt"

	"odmr/internal/mail"
)

// unread is what could not be read in a pass. It waits for the next one, and is told of once in each.
type unread struct {
	n     int
	first mail.ID
	err   error // of the first
}

// unreadError says that a message cannot be sent, whatever the smarthost says.
type unreadError struct {
	id  mail.ID
	err error
}

func (e *unreadError) Error() string { return fmt.Sprintf("report %v: %v", e.id, e.err) }

// passOver notes a message that cannot be read. Each round comes by it, and one counts it.
func (r *round) passOver(id mail.ID, err error) {
	u := &r.sender.unread
	if r.again {
		return
	}
	if u.n++; u.n == 1 {
		u.first, u.err = id, err
	}
	r.sender.cfg.Observer.Sent("unreadable")
}

// tellUnread logs what the pass has passed over.
func (s *Sender) tellUnread() {
	if u := &s.unread; u.n > 0 {
		s.cfg.Logger.Error().Err(u.err).Stringer("queue_id", u.first).Int("reports", u.n).
			Msg("reports cannot be read: they are passed over, and looked at again later; run odmrctl queue check")
	}
}
