package queue

import "odmr/internal/mail"

// Stage says where in its life an entry stands.
type Stage uint8

const (
	Waiting Stage = iota // some recipient is pending: a session may be given it
	Settled              // nothing is pending: kept for the report that its sender is due (Counts.Failed)
	// Partial: some recipient is pending or held, and of another (Failed, Relayed) the sender is yet to be told
	// (Counts.Untold). Such an entry is at the stage Waiting, too, or held.
	Partial
)

// Reviewer is how a server looks after mail that no session settles: what has failed, waits for long or has expired.
type Reviewer interface {
	// Walk calls fn for the entries of domain at that stage, oldest first, from the place from on (0: the oldest),
	// until fn returns false. The Envelope must not be kept, and fn must not call the store. It blocks.
	Walk(domain string, stage Stage, from uint64, fn func(Key, *mail.Envelope) bool) error

	// Review decides about the entries of domain at that stage that stand at the places seqs, and carries out all
	// decisions and the messages that they bring into being in one durable step: after a crash all of it was
	// done, or nothing. An entry that is not there, or not at that stage any more, or whose body is not known to the store
	// and so could not leave with it, is passed over.
	//
	// Waiting entries are out of reach of sessions meanwhile: it returns ErrBusy, and has done nothing, if the
	// domain is leased, and an Acquire that comes waits. Partial ones are not: a session may be sending what is
	// pending of them, and what it settles waits. All that may become of those is an Update after which nothing is left untold.
	// So decide must not take long; it must not call the store but through what it is given. Review returns ErrFull, and has done nothing, where messages come into being
	// without an entry leaving, and there is no room for new mail. It blocks.
	Review(domain string, stage Stage, seqs []uint64, decide func(*Reviewed) Decision) error
}

// Reviewed is an entry that Review asks about. It is valid during the call only.
type Reviewed struct {
	Key      Key
	Envelope *mail.Envelope // what Update is to write may be changed in it: the recipients' states and replies, DelayNotified
	// Open reads the body; the caller closes it before it decides.
	Open func() (Body, error)
}

// Verdict says what becomes of a reviewed entry.
type Verdict uint8

const (
	Keep   Verdict = iota // it stays as it was, and brings no message into being
	Update                // it stays, as the Envelope now says: at the same stage, or held if a held recipient is what is left
	Drop                  // it leaves the queue; one with a held recipient is at its end for the others only, and waits for an operator
)

// Decision is what becomes of a reviewed entry, and what comes into being with it.
type Decision struct {
	Verdict  Verdict
	Messages []Message
}

// Message is a message for one domain, whole. ID and Domain's place in line come from the store.
type Message struct {
	Envelope mail.Envelope
	Body     []byte // in wire form, at most mail.ChunkSize octets
}
