package admin

import (
	"maps"
	"slices"
	"sync"

	"odmr/queue"
)

// coming is what imports have on its way into queues: counted from when it is admitted until it is there, or is not to be. Quotas
// hold for what is held and what is coming together, so that no import exceeds one, and none leaves room.
type coming struct {
	admitting sync.Mutex // one letter at a time

	mu      sync.Mutex // guards the rest
	domains map[string]queue.Counts
	fewer   sync.Cond // a domain is none of them any more; of mu
}

// arriving is one message on its way into a domain's queue.
type arriving struct {
	domain string
	size   int64
}

// admit plans what becomes of a letter, and counts it as coming. What is durable and not answered yet is counted twice for a
// moment; so where a quota seems to be full the answer is not given before what it counts has come in. Mail of other accounts is not
// waited for: whoever brings it may stand still.
func (t *Intake) admit(in *arrival) (*plan, error) {
	c := &t.coming
	c.admitting.Lock()
	defer c.admitting.Unlock()
	p, err := t.plan(in, c.now())
	for err == nil && len(p.behind) > 0 { // of which nothing comes again meanwhile: fewer each time
		c.wait(p.behind)
		p, err = t.plan(in, c.now())
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

// wait returns when nothing is coming into the queues of domains.
func (c *coming) wait(domains []string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.fewer.L = &c.mu
	for slices.ContainsFunc(domains, func(d string) bool { return c.domains[d].Messages > 0 }) {
		c.fewer.Wait()
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
			c.fewer.Broadcast()
		}
	}
}
