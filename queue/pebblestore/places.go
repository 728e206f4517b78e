package pebblestore

import "slices"

// Most customers have a few messages waiting, which came in a while ago. To make an iterator and to seek with it, in all
// levels, costs several times what getting a few entries does whose places are known. So a domain remembers, in memory,
// where what came in lately stands. Nothing depends on it but speed: what is not remembered is searched for.

const (
	// maxPlaces bounds places.list: so many are got one by one in Next. With more, neighbours are read faster in a row.
	maxPlaces = 8
	// maxPlacesAll bounds the places of all domains, 8 octets each: 4 MiB in all. Beyond it new ones are not remembered.
	maxPlacesAll = 512 << 10
)

// places are all durable deliverable entries of a domain from from on. It may name entries that are gone. It
// belongs to Store.mu.
type places struct {
	from uint64
	list []uint64 // in order
}

// remember notes the entry with seq, which is behind all others, or forgets all of them. mu is held.
func (s *Store) remember(d *domain, seq uint64) {
	p := &d.places
	if len(p.list) == maxPlaces || s.remembered >= maxPlacesAll {
		s.forgetPlaces(d, seq+1)
		return
	}
	p.list = append(p.list, seq)
	s.remembered++
}

// forgetPlaces forgets what is below from: nobody will ask for it. mu is held.
func (s *Store) forgetPlaces(d *domain, from uint64) {
	p := &d.places
	n, _ := slices.BinarySearch(p.list, from)
	s.remembered -= n
	if p.list = p.list[n:]; len(p.list) == 0 {
		p.list = nil
	}
	p.from = max(p.from, from)
}

// places returns the entries from the cursor on, all of them durable, if they are known. Store.mu is held.
func (g *ledger) places(s *Store) (list []uint64, known bool) {
	d := g.domain
	if g.cursor < d.places.from {
		return nil, false
	}
	s.forgetPlaces(d, g.cursor)
	return slices.Clone(d.places.list), true
}

// drainPlaced takes deliveries of the entries from the cursor on, whose places are known.
//
// What comes in for a session that stays is in memory still, in the batch that put it in the log. Kept there for Next, which then has nothing to search for, it
// took 3.4 of 26.8 us from BenchmarkStay, but of the whole server (odmrbench mixed --rate=8000) no more than 3 of 139: too little for one more way on which mail
// can be handed out.
func (c *collector) drainPlaced(g *ledger, durable uint64) error {
	for _, seq := range c.placed {
		if c.full() {
			return nil
		}
		if err := c.takeKept(g, seq); err != nil {
			return err
		}
		g.cursor = seq + 1
	}
	g.cursor = durable + 1
	return nil
}
