package cache

import (
	"context"
	"time"
)

// Recipients implements account.Lister. A list that cannot be looked up is none: mail is refused for what the
// customer says, never for an outage.
func (d *Directory) Recipients(name string) []string { return d.recipients(name, d.cfg.TTL) }

// RecentRecipients implements account.Lister: as with a refused domain, the mailbox may be new.
func (d *Directory) RecentRecipients(name string) []string {
	return d.recipients(name, min(d.cfg.TTL, d.cfg.NegativeTTL))
}

func (d *Directory) recipients(name string, age time.Duration) []string {
	if !d.src.Lists() {
		return nil
	}
	e, err := d.lists.current(name, age, func(ctx context.Context) (entry[[]string], error) {
		list, err := d.src.Recipients(ctx, name)
		return entry[[]string]{value: list, found: true}, err
	})
	if err != nil {
		d.cfg.Observer.Answered(Unanswered)
		return nil
	}
	return e.value
}
