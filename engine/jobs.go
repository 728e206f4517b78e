package engine

import (
	"errors"
	"net/netip"
	"sync/atomic"
	"time"

	"odmr/engine/session"
	"odmr/internal/account"
	"odmr/internal/mail"
	"odmr/queue"
)

// The jobs: what blocks, as values. See job.

// authJob is one step of a SASL exchange.
type authJob struct {
	ticket    uint32
	from      netip.Addr  // the peer's
	gone      atomic.Bool // nobody waits for the outcome any more
	exchange  account.Exchange
	response  []byte // nil: none
	look      bool   // only ask the directory: exchange is account.Costly
	challenge []byte
	done      bool
	err       error
}

func (j *authJob) run() {
	if j.gone.Load() { // to hang up is no way to have more computed than one has sessions
		j.err = errGone
		return
	}
	if j.look {
		j.err = j.exchange.(account.Costly).Look(j.response)
		return
	}
	j.challenge, j.done, j.err = j.exchange.Next(j.response)
}
func (j *authJob) fail(err error) { j.done, j.err = false, errors.Join(account.ErrUnavailable, err) }
func (j *authJob) discard()       {}

func (j *authJob) share() netip.Addr { return j.from }

// errGone says that a peer that was to be authenticated has gone. Nobody reads it.
var errGone = errors.New("engine: the peer has gone")

// routeJob asks a directory that is not in memory for a recipient's domain.
type routeJob struct {
	ticket uint32
	eng    *Engine
	rcpt   routing
	result session.Result
}

func (j *routeJob) run()           { j.result = j.eng.takes(&j.rcpt) }
func (j *routeJob) fail(err error) { j.result = routeResult(j.rcpt.domain, false, err) }
func (j *routeJob) discard()       {}

// appendJob stores a piece of an incoming message.
type appendJob struct {
	ticket uint32
	in     queue.Incoming
	data   []byte
	err    error
}

func (j *appendJob) run()           { j.err = j.in.Append(j.data) }
func (j *appendJob) fail(err error) { j.err = err }
func (j *appendJob) discard()       { j.in.Abort() }

// commitJob makes an incoming message durable. It is over when the store says so, and needs no worker until then.
type commitJob struct {
	ticket    uint32
	in        queue.Incoming
	msg       incoming // its account
	data      []byte
	envelopes []mail.Envelope
	durably
}

func (j *commitJob) start(t task) {
	j.begin(t)
	j.in.Submit(j.data, j.envelopes, j)
}

func (j *commitJob) discard() {}

// durably is the part of a job that is over when the store says so.
type durably struct {
	way   task // home
	over  atomic.Bool
	began time.Time
	took  time.Duration
	err   error
}

func (j *durably) begin(t task) { j.way, j.began = t, time.Now() }

// Committed implements queue.Waiter.
func (j *durably) Committed(err error) {
	if j.over.CompareAndSwap(false, true) {
		j.err, j.took = err, time.Since(j.began)
		j.way.done()
	}
}

func (j *durably) fail(err error) { j.Committed(err) }

// nextJob takes messages from a lease.
type nextJob struct {
	ticket     uint32
	lease      *heldLease
	limit      queue.Limit
	reserved   int64 // octets of prefetch memory taken for it
	deliveries []queue.Delivery
	err        error
}

func (j *nextJob) run()           { j.deliveries, j.err = j.lease.Next(nil, j.limit) }
func (j *nextJob) fail(err error) { j.err = err }
func (j *nextJob) discard() {
	for i := range j.deliveries {
		j.deliveries[i].Body.Close()
	}
	j.lease.discard()
}

// fetchJob reads the next segment of a body.
type fetchJob struct {
	src  *source // names the body to the loop; not for the worker
	body *sharedBody
	seg  queue.Segment
	err  error
}

func (j *fetchJob) run()           { j.seg, j.err = j.body.Next() }
func (j *fetchJob) fail(err error) { j.err = err }
func (j *fetchJob) discard() {
	j.seg.Release()
	j.body.Close()
}

// settleJob records what became of messages. It needs no worker while it waits for the disk, either.
type settleJob struct {
	lease       *heldLease
	settlements []queue.Settlement
	durably
}

func (j *settleJob) start(t task) {
	j.begin(t)
	j.lease.SettleTo(j.settlements, j)
}

func (j *settleJob) discard() { j.lease.discard() }

// releaseJob gives a lease back.
type releaseJob struct{ lease *heldLease }

func (j *releaseJob) run()       { j.lease.Release() }
func (j *releaseJob) fail(error) {}
func (j *releaseJob) discard()   {}

// errIngestMemory says that IngestMemory is used up.
var errIngestMemory = errors.New("engine: too much mail is coming in at once")

// ingestRefusal says why a message is not taken.
func ingestRefusal(err error) *mail.Refusal {
	if errors.Is(err, queue.ErrFull) {
		return &mail.Refusal{Code: 452, Enhanced: "4.3.1", Text: "Insufficient system storage", Cause: err}
	}
	if err == errIngestMemory {
		return &mail.Refusal{Code: 452, Enhanced: "4.3.1", Text: "Too much mail is coming in, try again later", Cause: err}
	}
	return &mail.Refusal{Code: 451, Enhanced: "4.3.0", Text: "Local error in processing", Cause: err}
}

// routeResult is the answer to ActRoute.
func routeResult(domain string, collectable bool, err error) session.Result {
	switch {
	case err != nil:
		return session.Result{Refusal: &mail.Refusal{Code: 451, Enhanced: "4.4.3", Text: "Directory unavailable, try again later", Cause: err}}
	case !collectable:
		return session.Result{Refusal: &mail.Refusal{Code: 550, Enhanced: "5.1.2", Text: "No mail is held here for this domain"}}
	}
	return session.Result{Domain: domain}
}
