package cache

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"odmr/internal/account"
)

// health is what is known of the Source: up, or why not.
type health struct {
	// telling is held from a change until the Observer knows of it, so that it is told in order. Nobody waits for it who
	// only asks.
	telling sync.Mutex

	mu   sync.Mutex
	err  error         // nil: up
	gone chan struct{} // closed while down
	look chan struct{} // has one element when Run should look at the Source
	soon chan struct{} // the same, without waiting
}

func (h *health) init() {
	h.gone = make(chan struct{})
	h.look = make(chan struct{}, 1)
	h.soon = make(chan struct{}, 1)
}

// hurry has Run look at the Source at once: something may have been mended.
func (h *health) hurry() {
	select {
	case h.soon <- struct{}{}:
	default:
	}
}

// pause is how long a Source that is down is left alone, going by what came of looking at it last.
func pause(looked error) time.Duration {
	if errors.Is(looked, ErrRefused) {
		return refusedInterval
	}
	return retryInterval
}

// failure returns account.ErrUnavailable with the reason while the Source is down.
func (h *health) failure() error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.err == nil {
		return nil
	}
	return fmt.Errorf("%w: %w", account.ErrUnavailable, h.err)
}

// fell returns a channel that is closed once the Source is down.
func (h *health) fell() <-chan struct{} {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.gone
}

// down notes that the Source does not answer.
func (d *Directory) down(err error) {
	h := &d.health
	h.telling.Lock()
	defer h.telling.Unlock()
	h.mu.Lock()
	news := h.err == nil || h.err.Error() != err.Error()
	if h.err == nil {
		close(h.gone)
	}
	h.err = err
	h.mu.Unlock()
	select {
	case h.look <- struct{}{}:
	default:
	}
	if news {
		d.cfg.Observer.Down(err)
	}
}

func (d *Directory) up() {
	h := &d.health
	h.telling.Lock()
	defer h.telling.Unlock()
	h.mu.Lock()
	was := h.err
	if was != nil {
		h.err, h.gone = nil, make(chan struct{})
	}
	h.mu.Unlock()
	if was != nil {
		d.cfg.Observer.Up()
	}
}

// Check looks at the Source once, within Timeout. Its error is what Observer.Down is told.
func (d *Directory) Check(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, d.cfg.Timeout)
	defer cancel()
	err := d.src.Check(ctx)
	if err != nil {
		d.down(err)
		return err
	}
	d.up()
	return nil
}

// Run looks at the Source from time to time, soon and often while it is down, until ctx ends.
func (d *Directory) Run(ctx context.Context) {
	var looked error
	for {
		timer := time.NewTimer(checkInterval)
		select {
		case <-ctx.Done():
			timer.Stop()
			return
		case <-d.health.look: // went down just now, or is still
			timer.Reset(pause(looked))
			select {
			case <-ctx.Done():
				timer.Stop()
				return
			case <-d.health.soon:
				timer.Stop()
			case <-timer.C:
			}
		case <-d.health.soon:
			timer.Stop()
		case <-timer.C:
		}
		looked = d.Check(ctx) // which tells the Observer
	}
}
