package session

import (
	"slices"
	"testing"
)

// dialogue is a whole session: a Provider, and after the turn a Reversed machine, as a driver would
// exchange them.
type dialogue struct {
	Session
	provider *Provider // nil after the turn
	hostname string
	domains  []string
	offset   uint32 // of the Reversed machine's tickets: it counts from the start again
}

func (d *dialogue) Input(now Time, b []byte, out *Output) int {
	n := d.Session.Input(now, b, out)
	d.renumber(out)
	return n
}

func (d *dialogue) Done(now Time, ticket uint32, r *Result, out *Output) {
	if d.provider != nil && r.Domains != nil {
		d.domains = slices.Clone(r.Domains)
	}
	d.Session.Done(now, ticket-d.offset, r, out)
	d.renumber(out)
	if n := len(out.Acts); d.provider != nil && n > 0 && out.Acts[n-1].Kind == ActTurn {
		out.Acts = out.Acts[:n-1]
		d.provider = nil
		d.Session = NewReversed(&ReversedConfig{Hostname: d.hostname, PrefetchMessages: 8, PrefetchBytes: 1 << 20}, d.domains)
		d.offset = 1000
		d.Start(now, out)
		d.renumber(out)
	}
}

func (d *dialogue) renumber(out *Output) {
	for i := range out.Acts {
		if a := &out.Acts[i]; a.Ticket != 0 {
			a.Ticket += d.offset
		}
	}
}

// The whole way through both machines. Each machine's own scenarios go through the corners.
func TestDialogueScenarios(t *testing.T) {
	runScenarios(t, "dialogue", func(t *testing.T, sc *scenario) Session {
		p := newScenarioProvider(t, sc).(*Provider)
		return &dialogue{Session: p, provider: p, hostname: p.cfg.Hostname}
	})
}
