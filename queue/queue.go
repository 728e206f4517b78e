// Package queue defines the durable queue of held mail: the Store interface and,
// beside it, the conformance suite that every store must pass.
//
// The vocabulary is that of the trade and of no particular engine: messages come in
// (Incoming), wait in the queues of their customer domains, are leased to one session
// (Lease), handed out in order (Delivery), read as segments (Body) and settled.
//
// Concurrency: a Store is safe for use by many goroutines. An Incoming, a Lease and a
// Body each belong to one caller at a time; calls may come from different goroutines,
// but never two at once, except that one Lease.Next and one Lease.Settle may run at the
// same time, so that reading need not wait for the disk, and Lease.Waiting beside both. Methods documented as blocking do disk or network I/O and must
// not be called on an event loop.
//
// Ordering: within a domain, messages are handed out in the order in which their
// Commits were durable: a message whose Commit began after another's had returned
// always comes after it.
package queue

import (
	"context"
	"errors"
	"time"

	"odmr/internal/mail"
)

var (
	// ErrBusy says that one of the domains is leased already.
	ErrBusy = errors.New("queue: domain is being drained by another session")
	// ErrLeaseLost says that the lease is no longer valid: it was released, or fenced off by a later one.
	ErrLeaseLost = errors.New("queue: lease lost")
	// ErrFull says that the store has no room for new mail; draining goes on. Reported to peers as 452 4.3.1.
	ErrFull = errors.New("queue: no space for new mail")
	// ErrNotFound says that no such message is queued.
	ErrNotFound = errors.New("queue: no such message")
	// ErrNotHandedOut says that a settlement names an entry that this lease has not handed out, or
	// that was settled already: a mistake of the caller. Nothing was settled.
	ErrNotHandedOut = errors.New("queue: no such delivery to be settled")
	// ErrStamped says that a stamp of the message is there already: see Incoming.Once.
	ErrStamped = errors.New("queue: the message was brought in before")
	// ErrClosed says that the store was closed.
	ErrClosed = errors.New("queue: store is closed")
)

// Store is a durable queue of held mail.
type Store interface {
	// Begin starts an incoming message of about size octets (0 if unknown). It does not block.
	// It returns ErrFull when the store does not take new mail at present.
	Begin(size int64) (Incoming, error)

	// Acquire leases all of domains, exclusively, or none of them (ErrBusy). An empty
	// queue is no error: see Lease.Waiting. It may block.
	Acquire(domains []string) (Lease, error)

	// Counts says what waits for domain (deliverable messages only). It does not scan and does not block.
	Counts(domain string) Counts
	// Totals is the sum of Counts over all domains. It does not scan and does not block.
	Totals() Counts

	// Stamped says which of stamps are there, each one durably. It blocks.
	Stamped(stamps []Stamp) ([]bool, error)

	Admin
	Reviewer

	// Close waits for calls in progress and closes the store. Leases and bodies must have been released.
	Close() error
}

// Admin is what an operator may do with a queue. All of it may block.
type Admin interface {
	// Domains calls fn for every domain that has entries, in order, until fn returns false.
	Domains(fn func(domain string, c Counts) bool) error
	// List calls fn for every entry of domain ("" for all domains), oldest first, until fn
	// returns false. The Entry and what it points to must not be kept after fn returns.
	List(domain string, fn func(Entry) bool) error
	// Show returns all entries of message id (one per customer domain), or ErrNotFound.
	Show(id mail.ID) ([]Entry, error)
	// Open reads the body of message id, in wire form, or says ErrNotFound. The caller closes it. It may have to search for it.
	Open(id mail.ID) (Body, error)
	// Remove deletes message id from the queue of domain ("" for all its domains). An entry in
	// a leased domain is refused with ErrBusy. It returns the number of entries removed.
	Remove(domain string, id mail.ID) (int, error)
	// Release makes the held recipients of message id in the queue of domain ("" for all its domains) pending
	// again, in their old place in line: before all that came in later. A session that is draining
	// the domain may get it still. It returns the number of entries changed, and ErrNotFound if nothing is held.
	Release(domain string, id mail.ID) (int, error)
	// Bounce makes the held recipients failed, as if they had been refused in an ordinary way. As Release.
	Bounce(domain string, id mail.ID) (int, error)
	// Check verifies every invariant of the store and reports each violation to report. It
	// returns how many entries and bodies were looked at. progress may be nil.
	Check(ctx context.Context, progress func(done, total int64), report func(Violation)) (Checked, error)
}

// Counts is a number of messages and the sum of their wire sizes.
type Counts struct {
	Messages int64 // deliverable entries: at least one recipient is pending
	Bytes    int64 // sum of WireSize over them
	Failed   int64 // entries with nothing left to deliver that are kept for the report on them
	Held     int64 // entries with nothing left to deliver until an operator decides about them: see Admin.Release
	Kept     int64 // sum of WireSize over Failed and Held
	Untold   int64 // of Messages and Held: entries of which a sender is yet to be told something, see Partial
}

// Entry is one message in the queue of one domain, as the operator sees it.
type Entry struct {
	Envelope mail.Envelope
	Leased   bool // its domain is being drained at this moment
}

// Violation is one broken invariant found by Admin.Check.
type Violation struct {
	Domain  string  // may be empty
	ID      mail.ID // may be 0
	Problem string
}

// Checked counts what Admin.Check looked at.
type Checked struct {
	Domains, Entries, Bodies, Chunks int64
}

// Stamp names something that is to come in once, however often it is handed in. A store remembers stamps for StampLifetime,
// whatever becomes of the message.
type Stamp [32]byte

// StampLifetime is how long a Stamp is remembered at the least: longer than a move from one mail server to another takes, with all that
// may go wrong; a stamp takes some 60 octets on disk.
const StampLifetime = 90 * 24 * time.Hour

// Incoming is a message on its way in. Exactly one of Commit, Submit and Abort ends it.
type Incoming interface {
	// ID is the message's queue id, known from the start. It does not block.
	ID() mail.ID
	// Once ties the message to stamps, which must be different from each other: it comes into being, and they with it in one
	// durable step, only if none of them is there. Otherwise Commit says ErrStamped. It is called before Commit, if at all, and
	// does not block. stamps must stay untouched until then.
	Once(stamps []Stamp)
	// Append stores the next piece of the body (wire form), mail.ChunkSize octets except for
	// the last piece. It is not yet durable. It blocks; data is not retained.
	Append(data []byte) error
	// Commit stores the last piece of the body (possibly all of it, possibly empty; best of at most mail.LastPiece octets) with the
	// envelopes, one for each customer domain, and returns when all is on stable storage. It
	// sets ID in every envelope. It blocks; nothing is retained. After an error the message does not exist.
	Commit(last []byte, envelopes []mail.Envelope) error
	// Submit is Commit for those who have more to do: it returns as soon as the message has its place in line, and to is
	// told the outcome. It blocks only while the store cannot keep up. last and envelopes must stay untouched until to is told.
	Submit(last []byte, envelopes []mail.Envelope, to Waiter)
	// Abort forgets the message. It does not wait for the disk.
	Abort()
}

// Waiter is told what became of a Submit or a SettleTo. The call comes once, perhaps before Submit returns, on any goroutine. It
// must not block and must not call the store.
type Waiter interface{ Committed(err error) }

// Limit bounds one Lease.Next. At least one message is returned if any is waiting.
type Limit struct {
	Messages int   // at most so many
	Bytes    int64 // stop once the segments held reach so many octets
}

// Lease is the exclusive right to drain a set of domains. A lease that is not released
// (crash) ends with the process or, in a replicated store, with its time limit.
type Lease interface {
	// Domains are the leased domains. The slice must not be changed.
	Domains() []string
	// Waiting counts the deliverable messages that this lease has not handed out yet,
	// those that arrived since included. It does not block.
	Waiting() Counts
	// Notify makes fn be called once, as soon as Waiting is not empty: perhaps before Notify returns, and on any
	// goroutine. fn must neither block nor call the store. A later Notify takes the place of an earlier one; nil, and
	// Release, take it back, though a call that is under way by then still comes. It does not block, and costs
	// nothing while it waits.
	Notify(fn func())
	// SmallFirst lets messages of at most that many octets on the wire go before larger ones that came earlier, as far
	// as the store can see ahead within reason; but never before one of the same reverse-path, so that each
	// sender's order stays. It is called before Next, if at all. It does not block.
	SmallFirst(octets int64)
	// PassOver has Next pass over messages whose body cannot be read for now, rather than say so: fn is told of each, within
	// Next, and a later lease may find it again. It is for queues in which the order does not matter. It is called before Next, if
	// at all. It does not block; fn must not call the store.
	PassOver(fn func(id mail.ID, err error))
	// Next appends deliveries to dst: messages that this lease has not handed out before, in
	// order within each domain, with their first body segment loaded. Nothing appended means
	// that the queue is dry for now; mail that arrives later is found by a later call. It blocks.
	// On an error what was appended is valid.
	Next(dst []Delivery, limit Limit) ([]Delivery, error)
	// Settle records outcomes and returns when they are durable. An entry whose recipients are all
	// Delivered leaves the queue; a Deferred recipient stays pending for a later lease; an entry
	// with none pending and some Failed is kept apart for its bounce, and one with none pending and some Held until
	// an operator has decided. One with some Failed beside others is at the stage Partial meanwhile. ErrLeaseLost settles nothing. It blocks.
	Settle(settlements []Settlement) error
	// SettleTo is Settle for those who have more to do: it returns as soon as the outcomes have their place in the log, and to
	// is told what became of them. Until then a Settle is running, and settlements must stay untouched. It may have to read.
	SettleTo(settlements []Settlement, to Waiter)
	// Release ends the lease. What was not settled is pending as before. Bodies stay readable until closed.
	Release()
}

// Delivery is one message handed out by a lease.
type Delivery struct {
	Key      Key           // names the entry in Settle
	Envelope mail.Envelope // recipients that are already settled are included; send the Pending ones
	Body     LeasedBody    // owned by the caller, who must close it
}

// Key names one entry: a domain's place in line. Keys of a domain are in queue order.
type Key struct {
	Domain string
	Seq    uint64
}

// Settlement is the outcome of one delivery attempt.
type Settlement struct {
	Key      Key
	Outcomes []mail.Outcome // parallel to Envelope.Recipients
	InDoubt  bool           // the body went out whole and no final reply came: say so in the entry
}

// Body is the content of a message in wire form (CRLF lines, dot-stuffed, no final dot), read in segments.
type Body interface {
	// Size is the octets of all segments together.
	Size() int64
	// Ready returns the next segment if it is in memory already: ok is false when Next must be
	// called instead. io.EOF ends the body. It does not block.
	Ready() (seg Segment, ok bool, err error)
	// Next returns the next segment, or io.EOF after the last. It blocks.
	Next() (Segment, error)
	// Close gives up what was not taken with Ready or Next. Segments taken stay valid until
	// their own Release.
	Close()
}

// LeasedBody is a Body that can be read again, as long as its entry is neither settled nor the lease released.
// It is how a reader that has to wait gives its memory back and goes on later.
type LeasedBody interface {
	Body
	// Rewind gives up what is loaded and was not taken; the next segment begins at offset, which is within
	// 0..Size. Unless that is the end, Ready then says that Next must be called. It does not block.
	Rewind(offset int64)
}

// Segment is a run of octets lent by the store: read-only, valid until Release.
type Segment struct {
	Data     []byte
	Released Releaser // nil if nothing is to be released
}

// Releaser takes back what was lent. It may be called on any goroutine, once.
type Releaser interface{ Release() }

// Release gives the segment back; Data must not be touched afterwards.
func (s *Segment) Release() {
	r := s.Released
	s.Data, s.Released = nil, nil
	if r != nil {
		r.Release()
	}
}
