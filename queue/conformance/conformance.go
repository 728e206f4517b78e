// Package conformance is the suite that every queue.Store must pass: each promise in package
// queue, as a test that can fail. It is imported by the tests of stores only.
package conformance

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"testing"

	"odmr/internal/mail"
	"odmr/queue"
)

// Harness is one store under test.
type Harness struct {
	Store queue.Store
	// Reopen closes the store in an orderly way and opens it again with the same content.
	Reopen func(t *testing.T) queue.Store
}

// Factory makes an empty store and closes it in t.Cleanup. Stores with a Check of their own run it there.
type Factory func(t *testing.T) *Harness

// Conformance runs the whole suite against the stores that open makes.
func Conformance(t *testing.T, open Factory) {
	for _, group := range [][]scenario{incomingScenarios, onceScenarios, leaseScenarios, settleScenarios, heldScenarios, adminScenarios, reviewScenarios, concurrencyScenarios} {
		for _, c := range group {
			t.Run(c.name, func(t *testing.T) {
				h := open(t)
				c.run(t, &suite{Harness: h, reopen: h.Reopen})
			})
		}
	}
}

type scenario struct {
	name string
	run  func(*testing.T, *suite)
}

// suite is a harness with what the scenarios have in common.
type suite struct {
	*Harness
	reopen func(t *testing.T) queue.Store
}

// restart closes and opens the store.
func (s *suite) restart(t *testing.T) {
	t.Helper()
	s.Store = s.reopen(t)
}

// content is a body of size octets that is different for each seed, with CRLF lines.
func content(seed, size int) []byte {
	b := make([]byte, 0, size+80)
	for i := 0; len(b) < size; i++ {
		b = fmt.Appendf(b, "message %d line %d of a body of %d octets\r\n", seed, i, size)
	}
	return b[:size]
}

// envelope is a plain envelope for domain with one recipient for each of locals (at least "user").
func envelope(domain string, size int, locals ...string) mail.Envelope {
	env := mail.Envelope{
		Domain: domain, Arrived: 1_700_000_000_000_000_000, ReversePath: "sender@elsewhere.example",
		Client: "192.0.2.1", Size: int64(size), WireSize: int64(size),
	}
	if len(locals) == 0 {
		locals = []string{"user"}
	}
	for _, l := range locals {
		env.Recipients = append(env.Recipients, mail.Recipient{Address: l + "@" + domain})
	}
	return env
}

// put commits a message for domains and returns its id.
func (s *suite) put(t *testing.T, body []byte, domains ...string) mail.ID {
	t.Helper()
	envs := make([]mail.Envelope, len(domains))
	for i, d := range domains {
		envs[i] = envelope(d, len(body))
	}
	return s.putEnvelopes(t, body, envs...)
}

func (s *suite) putEnvelopes(t *testing.T, body []byte, envs ...mail.Envelope) mail.ID {
	t.Helper()
	id, err := put(s.Store, body, envs)
	if err != nil {
		t.Fatalf("put: %v", err)
	}
	return id
}

// put hands a message in as a server does: whole chunks first, the rest with the commit, up to mail.LastPiece.
func put(st queue.Store, body []byte, envs []mail.Envelope) (mail.ID, error) {
	in, err := st.Begin(int64(len(body)))
	if err != nil {
		return 0, err
	}
	id := in.ID()
	buf := make([]byte, mail.ChunkSize)
	for len(body) > mail.LastPiece {
		n := copy(buf, body[:mail.ChunkSize])
		if err := in.Append(buf[:n]); err != nil {
			in.Abort()
			return id, err
		}
		clear(buf) // data is not retained
		body = body[n:]
	}
	last := bytes.Clone(body)
	err = in.Commit(last, envs)
	clear(last)
	return id, err
}

func (s *suite) acquire(t *testing.T, domains ...string) queue.Lease {
	t.Helper()
	l, err := s.Store.Acquire(domains)
	if err != nil {
		t.Fatalf("Acquire %v: %v", domains, err)
	}
	return l
}

// many is a limit that no scenario reaches.
var many = queue.Limit{Messages: 1 << 20, Bytes: 1 << 40}

func next(t *testing.T, l queue.Lease, limit queue.Limit) []queue.Delivery {
	t.Helper()
	ds, err := l.Next(nil, limit)
	if err != nil {
		t.Fatalf("Next: %v", err)
	}
	return ds
}

// ReadBody takes all segments of b, releasing each, and closes it.
func ReadBody(b queue.Body) ([]byte, error) {
	defer b.Close()
	var all []byte
	for {
		seg, ok, err := b.Ready()
		if !ok && err == nil {
			seg, err = b.Next()
		}
		if err == io.EOF {
			break
		}
		if err != nil {
			return all, err
		}
		all = append(all, seg.Data...)
		seg.Release()
	}
	if b.Size() != int64(len(all)) {
		return all, fmt.Errorf("body says %d octets and has %d", b.Size(), len(all))
	}
	return all, nil
}

func wantBody(t *testing.T, b queue.Body, want []byte) {
	t.Helper()
	got, err := ReadBody(b)
	if err != nil {
		t.Fatalf("read: %v", err)
	}
	if !bytes.Equal(got, want) {
		t.Fatalf("body of %d octets differs from the %d stored", len(got), len(want))
	}
}

// outcomes gives the same status to each recipient of d.
func outcomes(d queue.Delivery, status mail.OutcomeStatus, reply string) []mail.Outcome {
	os := make([]mail.Outcome, len(d.Envelope.Recipients))
	for i := range os {
		os[i] = mail.Outcome{Status: status, Reply: reply}
	}
	return os
}

// told is a Waiter that hands on what it is told.
type told chan error

func (c told) Committed(err error) { c <- err }

// SettleTo is l.Settle by way of its SettleTo.
func SettleTo(l queue.Lease, settlements []queue.Settlement) error {
	c := make(told, 1)
	l.SettleTo(settlements, c)
	return <-c
}

func settle(t *testing.T, l queue.Lease, ds []queue.Delivery, status mail.OutcomeStatus) {
	t.Helper()
	reply := map[mail.OutcomeStatus]string{
		mail.OutcomeDelivered: "250 2.0.0 ok", mail.OutcomeDeferred: "451 4.3.0 later", mail.OutcomeFailed: "550 5.1.1 no",
		mail.OutcomeHeld: "550 5.1.1 nobody",
	}[status]
	ts := make([]queue.Settlement, len(ds))
	for i, d := range ds {
		d.Body.Close()
		ts[i] = queue.Settlement{Key: d.Key, Outcomes: outcomes(d, status, reply)}
	}
	if err := SettleTo(l, ts); err != nil {
		t.Fatalf("SettleTo: %v", err)
	}
}

func ids(ds []queue.Delivery) []mail.ID {
	out := make([]mail.ID, len(ds))
	for i, d := range ds {
		out[i] = d.Envelope.ID
	}
	return out
}

func closeBodies(ds []queue.Delivery) {
	for _, d := range ds {
		d.Body.Close()
	}
}

func wantCounts(t *testing.T, what string, got, want queue.Counts) {
	t.Helper()
	if got != want {
		t.Fatalf("%s: %+v, want %+v", what, got, want)
	}
}

func wantError(t *testing.T, what string, err, want error) {
	t.Helper()
	if !errors.Is(err, want) {
		t.Fatalf("%s: error %v, want %v", what, err, want)
	}
}

// Clean runs the store's own Check and fails for each violation. Stores call it in their
// test's cleanup too.
func Clean(t *testing.T, st queue.Store) queue.Checked {
	t.Helper()
	n, err := st.Check(context.Background(), nil, func(v queue.Violation) {
		t.Errorf("check: %s %v: %s", v.Domain, v.ID, v.Problem)
	})
	if err != nil {
		t.Errorf("check: %v", err)
	}
	return n
}
