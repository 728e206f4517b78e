package pebblestore

import (
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/cockroachdb/pebble/v2"

	"odmr/internal/mail"
	"odmr/queue"
)

// collector gathers the deliveries of one Next. It first reads a run of entries and then, with the same
// iterator, the own bodies beside them: two walks over neighbours instead of a search for each message.
//
// Small own bodies are copied into slabs (see slab). To hand out the engine's memory instead, each
// would need a Get of its own, which costs many times what copying some KiB does.
type collector struct {
	lease    *lease
	dst      []queue.Delivery
	messages int   // that may still be taken
	bytes    int64 // of segments, likewise
	taken    int
	run      []found      // entries whose bodies are to be read
	handed   queue.Counts // what the ledger at hand was not told yet
	slabs    slabWriter
	knows    bool     // placed is all that is there from the ledger's cursor on
	placed   []uint64 // see places
}

// found is an entry on its way to a delivery.
type found struct {
	seq   uint64
	entry int // octets of the record
	peek  entryPeek
	env   mail.Envelope
	err   error // it cannot be read, and is passed over
	later bool  // smaller ones go before it
}

// small says whether the body is copied into a slab.
func (f *found) small() bool {
	return f.err == nil && !f.later && f.peek.stands == beside && f.peek.size < pinnedFrom
}

func (c *collector) full() bool { return c.messages <= 0 || c.taken > 0 && c.bytes <= 0 }

// drain takes deliveries from g's domain, in order, as far as entries are durable. The cursor moves
// to where the next call begins, so that nobody walks over what was deleted in between.
func (c *collector) drain(g *ledger, waiting int64, durable uint64) error {
	defer c.tell(g)
	for {
		if err := c.drainPlaces(g, &g.kept); err != nil {
			return err
		}
		if err := c.drainNew(g, waiting, durable); err != nil || c.full() || len(g.overtaken) == 0 {
			return err
		}
		// No smaller one is left that may go before these, or so many wait already that it is their turn.
		if err := c.drainPlaces(g, &g.overtaken); err != nil {
			return err
		}
		if len(g.overtaken) == 0 {
			clear(g.behind)
		}
	}
}

// drainPlaces takes deliveries of the entries at known places, which leave the list.
func (c *collector) drainPlaces(g *ledger, places *[]uint64) error {
	for len(*places) > 0 && !c.full() {
		if seq := (*places)[0]; !c.lease.seen(g, seq) {
			if err := c.takeKept(g, seq); err != nil {
				return err
			}
		}
		*places = (*places)[1:]
	}
	return nil
}

// drainNew takes deliveries from the cursor on.
func (c *collector) drainNew(g *ledger, waiting int64, durable uint64) error {
	if c.full() || g.cursor > durable || len(g.overtaken) >= maxOvertaken {
		return nil
	}
	if c.knows && c.lease.small == 0 {
		return c.drainPlaced(g, durable)
	}
	c.lease.store.scans.Add(1)
	it, err := c.lease.store.db.NewIter(&pebble.IterOptions{
		LowerBound: appendEntryKey(nil, spaceEntry, g.domain.name, g.cursor),
		UpperBound: appendEntryKey(nil, spaceEntry, g.domain.name, durable+1),
	})
	if err != nil {
		return err
	}
	defer it.Close()
	c.run = make([]found, 0, min(int64(c.messages), waiting, 256))
	for first := true; g.cursor <= durable && !c.full() && len(g.overtaken) < maxOvertaken; first = false {
		if !first { // what was found could not be read
			it.SetBounds(appendEntryKey(nil, spaceEntry, g.domain.name, g.cursor), appendEntryKey(nil, spaceEntry, g.domain.name, durable+1))
		}
		dry, err := c.search(it, g)
		if err == nil {
			err = c.fetch(it, g)
		}
		if err != nil {
			return err
		}
		if dry {
			g.cursor = durable + 1
		}
	}
	return nil
}

// search fills run with the next entries, as many as the limit allows, and says whether there are no more.
func (c *collector) search(it *pebble.Iterator, g *ledger) (dry bool, err error) {
	c.run = c.run[:0]
	bytes, some, later := c.bytes, c.taken > 0, 0
	for ok := it.First(); ok; ok = it.Next() {
		if len(c.run)-later >= c.messages || some && bytes <= 0 || later >= maxOvertaken-len(g.overtaken) {
			return false, nil
		}
		name, seq, good := parseEntryKey(it.Key(), spaceEntry)
		if !good || string(name) != g.domain.name {
			return false, fmt.Errorf("%w: key %x", errRecord, it.Key())
		}
		rec, err := it.ValueAndErr()
		if err != nil {
			return false, err
		}
		f := read(g, seq, rec)
		if f.later = c.lease.waits(g, &f); f.later {
			f.env = mail.Envelope{}
			later++
		} else if f.err == nil {
			bytes -= min(f.peek.size, mail.LastPiece)
			some = true
		}
		c.run = append(c.run, f)
	}
	if err = it.Error(); err != nil && len(c.run) > 0 { // what was found before goes out; the next search says it
		return false, nil
	}
	return true, err
}

// read takes an entry's record apart.
func read(g *ledger, seq uint64, rec []byte) found {
	f := found{seq: seq, entry: len(rec)}
	if f.peek, f.err = peekEntry(rec); f.err != nil {
		f.peek.size = -1 // was not counted
		return f
	}
	f.env, _, f.err = decodeEntry(g.domain.name, rec)
	return f
}

// fetch makes deliveries of run.
func (c *collector) fetch(it *pebble.Iterator, g *ledger) error {
	var lowest, highest uint64
	var small int64
	for i := range c.run {
		if f := &c.run[i]; f.small() {
			if small == 0 {
				lowest = f.seq
			}
			highest = f.seq
			small += f.peek.size
		}
	}
	if small > 0 {
		it.SetBounds(appendEntryKey(nil, spaceOwn, g.domain.name, lowest), appendEntryKey(nil, spaceOwn, g.domain.name, highest+1))
		it.First()
	}
	c.slabs.begin(c.lease.store, small)
	defer c.slabs.end()
	bodies := make([]body, len(c.run))
	for i := range c.run {
		f, b := &c.run[i], &bodies[i]
		b.store = c.lease.store
		if f.later {
			g.overtaken = append(g.overtaken, f.seq)
			g.cursor = f.seq + 1
			continue
		}
		ok := false
		if f.small() {
			ok = c.copyBody(it, b, f, g.domain.name)
		}
		if err := c.take(g, f, b, ok); err != nil {
			return err
		}
		g.cursor = f.seq + 1
	}
	return nil
}

// maxSteps is how many keys are walked over before a search is cheaper.
const maxSteps = 4

// copyBody moves it, which is over own bodies, to that of f, and copies it. It says false if that is not
// there or not as it should be: why, a Get will tell.
func (c *collector) copyBody(it *pebble.Iterator, b *body, f *found, domain string) bool {
	for steps := 0; it.Valid(); steps++ {
		key := it.Key()
		at := binary.BigEndian.Uint64(key[len(key)-8:])
		if at > f.seq {
			return false
		}
		if at == f.seq {
			rec, err := it.ValueAndErr()
			if err != nil {
				return false
			}
			id, data, err := decodeOwn(rec)
			if err != nil || id != f.env.ID || int64(len(data)) != f.env.WireSize {
				return false
			}
			b.id, b.size, b.beside = id, int64(len(data)), ref{domain, f.seq}
			if len(data) > 0 {
				b.first, b.loaded = c.slabs.lend(data), true
			}
			it.Next()
			return true
		}
		if steps < maxSteps {
			it.Next()
		} else {
			it.SeekGE(appendEntryKey(nil, spaceOwn, domain, f.seq))
		}
	}
	return false
}

func (c *collector) takeKept(g *ledger, seq uint64) error {
	s := c.lease.store
	rec, closer, err := s.get(appendEntryKey(nil, spaceEntry, g.domain.name, seq))
	if errors.Is(err, pebble.ErrNotFound) {
		return nil // removed by an operator, or handed out and settled since it was released
	}
	if err != nil {
		return err
	}
	f := read(g, seq, rec)
	if err := closer.Close(); err != nil {
		return err
	}
	return c.take(g, &f, &body{store: s}, false)
}

// take makes a delivery of an entry and its body, which is opened if it is not there. What cannot be
// read stays where it is and is passed over.
func (c *collector) take(g *ledger, f *found, b *body, open bool) error {
	s := c.lease.store
	if f.err != nil {
		c.passOver(g, f, f.err)
		return nil
	}
	o := outstanding{
		id: f.env.ID, size: f.env.WireSize, entry: f.entry, record: ownHead + int(f.env.WireSize), stands: f.peek.stands,
		recipients: len(f.env.Recipients), fresh: true,
	}
	if !open {
		var err error
		switch f.peek.stands {
		case beside:
			err = s.openOwn(b, ref{g.domain.name, f.seq}, f.peek)
		case alone:
			err = s.openAlone(b, f.env.ID, f.env.WireSize)
			o.record, o.chunks = aloneRecord(g.domain.name, o.size), pieceCount(o.size)
		default:
			var shape bodyShape
			shape, err = s.openBody(b, f.env.ID)
			o.record, o.chunks, o.shared = shape.record, shape.chunks, shape.refs > 1
		}
		switch {
		case damaged(err):
			c.passOver(g, f, err)
			return nil
		case err != nil && c.lease.unread != nil:
			c.lease.unread(f.env.ID, err)
			c.leave(g, f)
			return nil
		case err != nil:
			return err
		case b.size != f.env.WireSize:
			b.Close()
			c.passOver(g, f, fmt.Errorf("%w: body has %d octets, entry says %d", errRecord, b.size, f.env.WireSize))
			return nil
		}
	}
	for i := range f.env.Recipients {
		if f.env.Recipients[i].State != mail.Pending {
			o.fresh = false
		}
	}
	c.lease.mu.Lock()
	if g.out == nil {
		g.out = make(map[uint64]outstanding)
	}
	g.out[f.seq] = o
	c.lease.mu.Unlock()
	c.handed.Messages++
	c.handed.Bytes += o.size
	c.taken++
	c.messages--
	c.bytes -= int64(len(b.first.data))
	c.dst = append(c.dst, queue.Delivery{Key: queue.Key{Domain: g.domain.name, Seq: f.seq}, Envelope: f.env, Body: b})
	return nil
}

func (c *collector) passOver(g *ledger, f *found, err error) {
	c.lease.store.opts.Events.Corruption(fmt.Errorf("pebblestore: entry %s/%d stays in the queue: %w", g.domain.name, f.seq, err))
	c.leave(g, f)
}

// leave has an entry stay in the queue, which a later lease may find.
func (c *collector) leave(g *ledger, f *found) {
	if f.peek.size >= 0 { // else it was not counted
		c.handed.Messages++
		c.handed.Bytes += f.peek.size
	}
	c.lease.mu.Lock()
	g.leave(f.seq)
	c.lease.mu.Unlock()
}

// tell notes in the ledger what was handed out or passed over.
func (c *collector) tell(g *ledger) {
	s := c.lease.store
	s.mu.Lock()
	g.handed.Messages += c.handed.Messages
	g.handed.Bytes += c.handed.Bytes
	s.mu.Unlock()
	c.handed = queue.Counts{}
}

// damaged says whether an error in reading means that what was written is not there any more; else the disk may give it yet.
func damaged(err error) bool {
	return errors.Is(err, pebble.ErrNotFound) || errors.Is(err, queue.ErrNotFound) || errors.Is(err, errRecord) || pebble.IsCorruptionError(err)
}
