package engine

import (
	"net/netip"
	"slices"
)

// shares is a queue, of tasks or whatever else waits, in which networks take turns, within a network its addresses, and the tasks of one address go in
// the order in which they came. So whoever brings one task waits for as many as there are networks that have some, however many those
// have brought. It holds only what waits: it is as large as its tasks are many.
type shares[T any] struct{ root share[T] }

// share is what one key has of the part above it: tasks, or parts of its own that take turns.
type share[T any] struct {
	key   addressKey
	tasks []T
	parts map[addressKey]*share[T] // those that have tasks
	turns []*share[T]              // the same, the next first
}

// fairJob is a job that goes through a lane with shares.
type fairJob interface {
	job
	share() netip.Addr // whose share it is of
}

// Prefixes of the networks that take turns: what one owner of many addresses mostly has.
const (
	shareBits4 = 24
	shareBits6 = 48
)

func networkOf(addr netip.Addr) addressKey {
	addr = addr.Unmap().WithZone("")
	bits := shareBits6
	if addr.Is4() {
		bits = shareBits4
	}
	p, err := addr.Prefix(bits)
	if err != nil { // no address: a test's connection
		return addressKey{}
	}
	return addressKey(p.Addr().As16())
}

func (s *shares[T]) push(addr netip.Addr, t T) {
	s.root.part(networkOf(addr)).part(keyOf(addr)).add(t)
}

// part returns the part with that key, which the caller adds to at once.
func (s *share[T]) part(key addressKey) *share[T] {
	p := s.parts[key]
	if p == nil {
		p = &share[T]{key: key}
		if s.parts == nil {
			s.parts = make(map[addressKey]*share[T])
		}
		s.parts[key] = p
		s.turns = append(s.turns, p)
	}
	return p
}

func (s *share[T]) add(t T) { s.tasks = append(s.tasks, t) }

func (s *share[T]) empty() bool { return len(s.tasks)+len(s.turns) == 0 }

// pop takes the task whose turn it is.
func (s *shares[T]) pop() (t T, ok bool) {
	if s.root.empty() {
		return t, false
	}
	return s.root.pop(), true
}

// drop takes out those tasks of addr that is says.
func (s *shares[T]) drop(addr netip.Addr, is func(T) bool) {
	network := s.root.parts[networkOf(addr)]
	if network == nil {
		return
	}
	if address := network.parts[keyOf(addr)]; address != nil {
		address.tasks = slices.DeleteFunc(address.tasks, is)
		network.tidy(address)
		s.root.tidy(network)
	}
}

// tidy takes out p if it is empty.
func (s *share[T]) tidy(p *share[T]) {
	if p.empty() {
		delete(s.parts, p.key)
		s.turns = slices.DeleteFunc(s.turns, func(t *share[T]) bool { return t == p })
	}
}

func (s *share[T]) pop() T {
	if len(s.turns) == 0 {
		var none T
		t := s.tasks[0]
		s.tasks[0] = none
		s.tasks = s.tasks[1:]
		return t
	}
	p := s.turns[0]
	s.turns[0] = nil
	s.turns = s.turns[1:]
	t := p.pop()
	if p.empty() {
		delete(s.parts, p.key)
	} else {
		s.turns = append(s.turns, p)
	}
	return t
}
