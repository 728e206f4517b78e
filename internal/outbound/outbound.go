// Package outbound sends what this server itself has to say to the outside, which is reports to senders: through a
// smarthost, from the durable queue of mail.OutboundDomain.
//
// A Sender leases that queue as a session leases a customer's, so that no message goes out twice at once, and settles
// each message by the smarthost's reply: taken, it is gone; refused for now (4xx), or the line lost within it, it waits, longer each time, and only what
// goes to the same address with it; refused for good (5xx to RCPT or to the content), it is marked failed and dropped by whoever
// looks after failed mail, with a line in the log: there are no reports on reports. While the smarthost cannot be reached,
// refuses this server as such (a login is wrong or missing, relaying denied, MAIL refused), or refuses or drops many in a row for now,
// the whole queue waits, longer each time until a report is taken, and nothing is dropped. What was put off comes after all else.
// A message that cannot be read is passed over, and looked at again in the next pass.
//
// It is an SMTP client (RFC 5321) with STARTTLS (RFC 3207) and AUTH (RFC 4954), by go-smtp. A password never goes over
// a connection in clear text, but to this machine itself. It must never send a message without a null reverse-path.
package outbound

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/rs/zerolog"

	"odmr/codec"
	"odmr/internal/mail"
	"odmr/queue"
)

// Store is what a Sender needs of a queue.
type Store interface {
	Acquire(domains []string) (queue.Lease, error)
	Counts(domain string) queue.Counts
}

// Observer is told what happens, for metrics. It must not block.
type Observer interface {
	// Sent says that the smarthost answered about a message: sent, deferred, refused; or that it was not sent, for it cannot be read: unreadable.
	Sent(outcome string)
	// Unreachable says that a connection to the smarthost, or its greeting, TLS or login, failed.
	Unreachable()
	// Denied says that the smarthost refuses this server, whatever the report: it is set up wrongly, here or there.
	Denied()
}

// Config is what a Sender is made of.
type Config struct {
	Store     Store
	Smarthost Smarthost
	Now       func() time.Time
	Jitter    func() float64 // within 0..1, evenly
	Observer  Observer       // nil: nobody looks
	Logger    zerolog.Logger
}

const (
	// backoffLeast and backoffMost bound how long the queue waits after a failure; it doubles in between.
	backoffLeast = time.Minute
	backoffMost  = time.Hour
	// portion bounds what is held in memory at a time.
	portionMessages = 20
	portionBytes    = 1 << 20
	// look is how often the queue is looked at without having been woken: mail may have come from an operator's hand.
	look = time.Minute
)

// Sender is described in the package's comment.
type Sender struct {
	cfg    Config
	wake   chan struct{}
	fails  int                  // in a row
	until  time.Time            // nothing is tried before
	later  map[string]postponed // by address; at most maxPostponed
	taken  time.Time            // when the smarthost last took a report
	after  uint64               // the place in line at which the last round through what is new was given up; 0: it came to the end
	unread unread               // in the pass at hand
	took   bool                 // it has taken one in the pass at hand, which is not queued any more
}

// New makes a Sender.
func New(cfg Config) *Sender {
	if cfg.Observer == nil {
		cfg.Observer = nobody{}
	}
	return &Sender{cfg: cfg, wake: make(chan struct{}, 1), later: make(map[string]postponed)}
}

type nobody struct{}

func (nobody) Sent(string)  {}
func (nobody) Unreachable() {}
func (nobody) Denied()      {}

// Wake says that there is something to be sent. It does not block, and may be called by anyone.
func (s *Sender) Wake() {
	select {
	case s.wake <- struct{}{}:
	default: // is awake already
	}
}

// Run works until ctx ends; a message on its way is finished first, unless the smarthost takes too long.
func (s *Sender) Run(ctx context.Context) {
	for {
		s.Pass(ctx)
		t := time.NewTimer(max(s.until.Sub(s.cfg.Now()), 0))
		if s.fails == 0 {
			t.Reset(look)
		}
		wake := s.wake
		if s.fails > 0 {
			wake = nil // what is new waits like the rest
		}
		select {
		case <-ctx.Done():
			t.Stop()
			return
		case <-wake:
		case <-t.C:
		}
		t.Stop()
	}
}

// Pass sends what waits, unless it is to be left alone for now.
func (s *Sender) Pass(ctx context.Context) {
	if s.cfg.Now().Before(s.until) || ctx.Err() != nil || s.cfg.Store.Counts(mail.OutboundDomain).Messages == 0 {
		return
	}
	s.took, s.unread = false, unread{}
	err := s.drain(ctx)
	s.tellUnread()
	if err == nil {
		s.fails, s.until = 0, time.Time{}
		return
	}
	if s.took { // it takes only so many over one connection or in some time, perhaps: what fails now fails for the first time
		s.fails = 0
	}
	s.until = s.cfg.Now().Add(s.wait(s.fails))
	s.fails++
	if errors.Is(err, queue.ErrBusy) || errors.Is(err, queue.ErrClosed) {
		return
	}
	ev, text := s.cfg.Logger.Warn(), "reports cannot be sent now"
	if errors.Is(err, errDenied) {
		s.cfg.Observer.Denied()
		ev, text = s.cfg.Logger.Error(), "the smarthost refuses this server: look at its settings and at --smarthost-user; reports wait"
	}
	ev.Err(err).Str("smarthost", s.cfg.Smarthost.Addr).Time("next_try", s.until).
		Int64("waiting", s.cfg.Store.Counts(mail.OutboundDomain).Messages).Msg(text)
}

// drain sends all that waits and is due, over one connection unless that is lost: first what has not been put off. What was put off
// gets its turn also where all that is new is refused for now: some smarthosts refuse each address at first.
func (s *Sender) drain(ctx context.Context) error {
	r := round{sender: s}
	defer func() { r.c.quit() }()
	err := r.run(ctx)
	if err == nil && !r.more || err != nil && !byReports(err) {
		return err
	}
	r.again, r.lost, r.streak = true, 0, 0
	if again := r.run(ctx); again != nil && !byReports(again) {
		return again
	}
	return err
}

// byReports says that what ended a round need not be the smarthost.
func byReports(err error) bool { return errors.Is(err, errLost) || errors.Is(err, errStreak) }

// round is one way through the queue.
type round struct {
	sender *Sender
	c      *connection // nil: none
	again  bool        // through what was put off and is due; else through all that was not
	more   bool        // something is due that was put off
	lost   int         // lines in a row
	streak int         // reports in a row that were deferred
}

// mine says whether it is this round's to send to that address.
func (r *round) mine(to string) bool {
	_, put := r.sender.later[to]
	due := r.sender.due(to)
	r.more = r.more || put && due
	return due && put == r.again
}

func (r *round) run(ctx context.Context) error {
	lease, err := r.sender.cfg.Store.Acquire([]string{mail.OutboundDomain})
	if err != nil {
		return err
	}
	defer lease.Release()
	lease.PassOver(r.passOver)
	for ctx.Err() == nil {
		ds, failed := lease.Next(nil, queue.Limit{Messages: portionMessages, Bytes: portionBytes})
		if failed == nil && len(ds) == 0 {
			r.gave(0)
			return nil
		}
		for i := range ds {
			if !r.mine(ds[i].Envelope.Recipients[0].Address) || !r.again && ds[i].Key.Seq <= r.sender.after {
				ds[i].Body.Close()
				continue
			}
			sent, err := r.try(ctx, lease, &ds[i])
			if !sent {
				ds[i].Body.Close()
			}
			if byReports(err) {
				r.gave(ds[i].Key.Seq)
			}
			if err != nil || ctx.Err() != nil {
				return closeAll(ds[i+1:], err)
			}
		}
		if failed != nil { // what it brought before is sent
			return failed
		}
	}
	return nil
}

// gave notes where the round was given up. The next one goes on behind it: where there is no place to put off what is refused (see
// maxPostponed), the same would stand in front each time.
func (r *round) gave(seq uint64) {
	if !r.again {
		r.sender.after = seq
	}
}

// try sends one report. An error ends the round; sent says that the body was taken.
func (r *round) try(ctx context.Context, lease queue.Lease, d *queue.Delivery) (sent bool, err error) {
	s := r.sender
	if r.c == nil {
		if r.c, err = s.cfg.Smarthost.connect(ctx); err != nil {
			s.cfg.Observer.Unreachable()
			return false, err
		}
	}
	deferred, err := s.send(r.c, lease, d)
	if bad := (*unreadError)(nil); errors.As(err, &bad) {
		r.passOver(bad.id, bad.err)
		return true, nil
	}
	if r.streak++; !deferred {
		r.streak = 0
	}
	if !errors.Is(err, errLost) {
		r.lost = 0
		if err == nil && r.streak == streakMost {
			err = errStreak
		}
		return true, err
	}
	r.c.drop()
	r.c = nil
	if r.lost++; r.lost < lostMost {
		err = nil
	}
	return true, err
}

// errLost says that a line was lost within a report, perhaps because of it.
var errLost = errors.New("the connection was lost")

// errStreak says that it is not the reports that the smarthost refuses for now.
var errStreak = fmt.Errorf("the smarthost refused %d reports in a row for now", streakMost)

// closeAll closes the bodies of what is not sent, and returns err.
func closeAll(ds []queue.Delivery, err error) error {
	for i := range ds {
		ds[i].Body.Close()
	}
	return err
}

// send hands one message over and settles it. An error means that the connection is of no more use.
func (s *Sender) send(c *connection, lease queue.Lease, d *queue.Delivery) (deferred bool, err error) {
	env := &d.Envelope
	content, err := read(d.Body, env.Stuffed)
	if err == nil && env.ReversePath != "" {
		err = errors.New("it has a sender: it is no report")
	}
	if err != nil {
		return false, &unreadError{env.ID, err}
	}
	var failure error
	st := queue.Settlement{Key: d.Key, Outcomes: make([]mail.Outcome, len(env.Recipients))}
	for i := range env.Recipients {
		if env.Recipients[i].State != mail.Pending {
			st.Outcomes[i].Status = mail.OutcomeUntouched
			continue
		}
		c.proven = s.cfg.Now().Sub(s.taken) < backoffMost
		h := c.hand(env, &env.Recipients[i], content)
		st.Outcomes[i], st.InDoubt, failure = h.outcome, h.inDoubt, h.failure
		switch {
		case h.outcome.Status == mail.OutcomeDelivered:
			s.taken = s.cfg.Now()
			delete(s.later, env.Recipients[i].Address)
		case h.outcome.Status == mail.OutcomeDeferred && h.begun:
			s.postpone(env.Recipients[0].Address)
			if h.failure != nil {
				failure = fmt.Errorf("%w: %w", errLost, h.failure)
			} else if h.outcome.Reply[0] == '5' { // perhaps: see deniesRelay
				s.cfg.Observer.Denied()
			}
		}
	}
	word := "sent"
	for _, o := range st.Outcomes {
		switch o.Status {
		case mail.OutcomeDeferred:
			deferred, word = true, "deferred"
		case mail.OutcomeFailed:
			word = "refused"
		}
		s.cfg.Logger.Info().Stringer("queue_id", env.ID).Str("to", env.Recipients[0].Address).Str("outcome", word).Str("reply", o.Reply).
			Bool("in_doubt", st.InDoubt).Msg("report out")
	}
	s.cfg.Observer.Sent(word)
	if err := lease.Settle([]queue.Settlement{st}); err != nil {
		return deferred, err
	}
	s.took = s.took || word == "sent"
	return deferred, failure
}

// read reads a report, which is small, as it was before dots were stuffed.
func read(b queue.LeasedBody, stuffed bool) ([]byte, error) {
	defer b.Close()
	content := make([]byte, 0, b.Size())
	var un codec.Unstuffer
	for {
		seg, ok, err := b.Ready()
		if !ok && err == nil {
			seg, err = b.Next()
		}
		if errors.Is(err, io.EOF) {
			return content, nil
		}
		if err != nil {
			return nil, err
		}
		if stuffed {
			content = un.Append(content, seg.Data)
		} else {
			content = append(content, seg.Data...)
		}
		seg.Release()
	}
}
