package admin

import (
	"maps"
	"sync"

	"odmr/queue"
)

// coming is what imports have on its way into queues: counted from when it is admitted until it is there, or is not to be. Quotas
// hold for what is held and what is coming together, so that no import exceeds one, and none leaves room.
type coming struct {
	admitting sync.Mutex // one letter at a time

	mu      sync.Mutex // guards the rest
	domains map[string]queue.Counts
	idle    sync.Cond // domains is empty; of mu
}

// arriving is one message on its way into a domain's queue.
type arriving struct {
	domain string
	size   int64
}

// admit plans what becomes of a letter, and counts it as coming. What is durable and not answered yet is counted twice for a
// moment; so where a quota seems to be full the answer is not given before all else has come in.
func (t *Intake) admit(in *arrival) (*plan, error) {
	c := &t.coming
	c.admitting.Lock()
	defer c.admitting.Unlock()
	ahead := c.now()
	p, err := t.plan(in, ahead)
	if err == nil && p.full && len(ahead) > 0 {
		c.wait()
		p, err = t.plan(in, nil)
	}
	if err != nil {
		return nil, err
	}
	for i := range p.envelopes {
		p.coming = append(p.coming, arriving{p.envelopes[i].Domain, in.env.Size})
	}
	c.begin(p.coming)
	return p, nil
}

func (c *coming) now() map[string]queue.Counts {
	c.mu.Lock()
	defer c.mu.Unlock()
	return maps.Clone(c.domains)
}

// wait returns when nothing is coming.
func (c *coming) wait() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.idle.L = &c.mu
	for len(c.domains) > 0 {
		c.idle.Wait()
	}
}

func (c *coming) begin(all []arriving) { c.count(all, 1) }
func (c *coming) end(all []arriving)   { c.count(all, -1) }

func (c *coming) count(all []arriving, n int64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.domains == nil {
		c.domains = make(map[string]queue.Counts)
	}
	for _, a := range all {
		v := c.domains[a.domain]
		v.Messages, v.Bytes = v.Messages+n, v.Bytes+n*a.size
		if c.domains[a.domain] = v; v.Messages == 0 {
			delete(c.domains, a.domain)
		}
	}
	if len(c.domains) == 0 {
		c.idle.Broadcast()
	}
}
