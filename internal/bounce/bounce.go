// Package bounce looks after the mail that no session settles: what a customer refused goes back to its sender, what
// waits for long is announced to it, and what nobody collects in time expires.
//
// A Reporter is one goroutine (Run), or whoever calls Pass. It reads the queue through queue.Reviewer, in small
// batches, each of which is one durable step: an entry leaves, and the report on it comes into being, or neither.
// A recipient that was refused is reported at once, also while others of the message wait, and never again. There is one
// report for each message and event, with all recipients that it concerns, or several that share them if they are very many. A
// report for a domain that is held here goes straight into that domain's queue, all others into mail.OutboundDomain's.
//
// What waits in a domain that is being collected is left alone until the session ends. Memory is bounded: some words for each
// domain with mail and each 4,096 messages of it, and one batch. It never sends anything itself, never reports on mail without a sender, and never lets
// mail go without a report that is due or a line in the log that says why there is none.
package bounce

import (
	"context"
	"errors"
	"strings"
	"time"

	"github.com/rs/zerolog"

	"odmr/internal/account"
	"odmr/internal/mail"
	"odmr/queue"
)

// Store is what a Reporter needs of a queue.
type Store interface {
	queue.Reviewer
	Domains(fn func(domain string, c queue.Counts) bool) error
	Totals() queue.Counts
}

// Policy is what holds for the mail of one domain.
type Policy struct {
	Retention   time.Duration // how long mail waits
	DelayNotice time.Duration // after which its sender is told that it still waits; 0: never
	Bounce      bool          // senders are told of what failed and expired
	Hold        bool          // collecting is paused: nothing expires, nobody is told of delays
}

// Observer is told what happens, for metrics. It must not block.
type Observer interface {
	// Reported says that a report came into being: failed, expired, delayed or relayed.
	Reported(kind string)
	// Discarded says that mail left the queue without a report: unasked (NOTIFY), no-sender, bounce-off.
	Discarded(reason string)
}

// Holds keeps when domains were last seen on hold, for until then the clock of their mail stood still. It may block.
type Holds interface {
	// Load returns what was kept last. After an error the clock of all mail begins anew.
	Load() (map[string]time.Time, error)
	// Save keeps all of it, durably, in place of what was kept.
	Save(map[string]time.Time) error
}

// Config is what a Reporter is made of. All fields are required but Wake, Holds and Observer.
type Config struct {
	Store    Store
	Hostname string                              // of this server, in reports
	Policy   func(domain string) (Policy, error) // an error: nothing is decided about the domain now
	Holds    Holds                               // nil: a restart forgets them
	Held     func(domain string) (bool, error)   // whether mail for domain (lower-case A-labels) is held here
	Now      func() time.Time
	Wake     func() // called when reports for the outside have come into being
	Observer Observer
	Logger   zerolog.Logger
}

const (
	// batch is how many entries one review decides about: few enough that a session that comes meanwhile hardly waits (some
	// milliseconds: not for the disk), and that their reports take a few MiB; and many for one sync of the disk, which is
	// what most of the time goes into.
	batch = 128
	// batchOctets is how many octets of reports a batch may have before it decides about no other entry: the reports on
	// one with a thousand recipients may have more than a MiB.
	batchOctets = 16 << 20
	// tick is how often the Reporter looks whether something has failed.
	tick = time.Second
	// sweep is how often it looks whether something has become old; what is asked of the store then is the domains'
	// names and, of each that is due, its head.
	sweep = 30 * time.Second
	// again is when a domain that was busy, or for which nothing could be done, is looked at again, and the
	// longest that a domain's head is taken for known: settings may have changed.
	again = 10 * time.Minute
	// workMost is how long it works at a stretch on domains in which there is nothing to be done: where 1,000 of them had 100
	// messages each, finding that out took 60 to 85 ms, and there may be ten times as many.
	workMost = 10 * time.Millisecond
)

// watch is what the Reporter knows of a domain.
type watch struct {
	settled round     // through what has failed
	partial round     // through what has failed of messages that wait or are held
	waiting time.Time // not before is there anything to be done about what waits
	ages    ages      // of what waits
	failed  ages      // of what has failed and is kept without a report (Policy.Bounce)

	notices ages      // of what waits and whose sender is yet to be told so
	held    time.Time // when the domain was last seen on hold: the clock stood still until then; see Holds
	seen    bool      // in the pass at hand
}

// round is a way through the entries of a domain at one stage, batch by batch.
type round struct {
	due time.Time // not before is there anything to be done
	// from is the place in line behind the last batch: what is before was dealt with, or cannot be now, and a walk over
	// what was deleted would cost more than the batch. 0 at the beginning.
	from uint64
	did  bool // something became of some entry
}

// batch notes that a batch up to the place last was reviewed, and something became of n entries.
func (r *round) batch(last uint64, n int) {
	r.from, r.did, r.due = last+1, r.did || n > 0, time.Time{}
}

// end begins anew, at once if this time something was done.
func (r *round) end(due time.Time) {
	if r.did {
		due = time.Time{}
	}
	*r = round{due: due}
}

// Reporter is described in the package's comment. It belongs to one goroutine.
type Reporter struct {
	cfg     Config
	watches map[string]*watch
	swept   time.Time
	kept    map[string]time.Time // of Holds, for domains that have no watch yet
	floor   time.Time            // the clock of no mail began before
	known   bool                 // all domains with mail have a watch
	changed bool                 // some domain's held differs from what is kept
	woken   bool                 // a report for the outside came into being in the batch at hand
	stretch int                  // see stretchMost
	pause   func(ctx context.Context, d time.Duration)
}

// New makes a Reporter.
func New(cfg Config) *Reporter {
	if cfg.Wake == nil {
		cfg.Wake = func() {}
	}
	if cfg.Observer == nil {
		cfg.Observer = nobody{}
	}
	r := &Reporter{cfg: cfg, watches: make(map[string]*watch), stretch: stretchMost, pause: pause}
	if cfg.Holds != nil {
		var err error
		if r.kept, err = cfg.Holds.Load(); err != nil {
			r.floor, r.changed = cfg.Now(), true
			cfg.Logger.Error().Err(err).Msg("when customers were on hold cannot be read: the retention of all mail begins anew")
		}
	}
	return r
}

// keep saves when domains were on hold, if that has changed.
func (r *Reporter) keep() {
	if !r.changed || !r.known || r.cfg.Holds == nil {
		return
	}
	holds := make(map[string]time.Time)
	for name, w := range r.watches {
		if !w.held.IsZero() {
			holds[name] = w.held
		}
	}
	if err := r.cfg.Holds.Save(holds); err != nil {
		r.complain(err, "")
		return
	}
	r.changed = false
}

type nobody struct{}

func (nobody) Reported(string)  {}
func (nobody) Discarded(string) {}

// Run works until ctx ends. It rests between batches at least as long as it worked, so that live sessions have the
// disk and the processor for themselves half of the time at the least.
func (r *Reporter) Run(ctx context.Context) {
	for ctx.Err() == nil {
		began := r.cfg.Now()
		more := r.Pass(ctx)
		rest := tick
		if more {
			rest = min(max(r.cfg.Now().Sub(began), time.Millisecond), tick)
		}
		r.pause(ctx, rest)
	}
	r.keep()
}

func pause(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
	case <-t.C:
	}
}

// Pass does one batch for each domain that needs one, and says whether there may be more to do at once.
func (r *Reporter) Pass(ctx context.Context) (more bool) {
	now := r.cfg.Now()
	old := now.Sub(r.swept) >= sweep || now.Before(r.swept)
	if t := r.cfg.Store.Totals(); !old && t.Failed == 0 && t.Untold == 0 {
		return false
	}
	domains, err := r.domains(old)
	if err != nil {
		r.complain(err, "")
		return false
	}
	worked := time.Duration(0) // since it rested
	for _, d := range domains {
		if ctx.Err() != nil {
			return false
		}
		began := r.cfg.Now()
		did := false
		if d.counts.Failed > 0 && !now.Before(d.settled.due) {
			did = r.settled(d, queue.Settled, &d.settled)
		}
		if d.counts.Untold > 0 && !now.Before(d.partial.due) {
			did = r.settled(d, queue.Partial, &d.partial) || did
		}
		if old && d.counts.Messages > 0 && !now.Before(d.waiting) {
			did = r.waiting(d) || did
		}
		if r.woken {
			r.woken = false
			r.cfg.Wake()
		}
		worked += max(r.cfg.Now().Sub(began), 0)
		if more = more || did; did || worked >= workMost {
			r.pause(ctx, min(worked, tick)) // see Run
			worked = 0
		}
	}
	if old {
		r.keep()
	}
	if old && !more {
		r.swept = now
	}
	return more
}

// seenDomain is a domain in the pass at hand.
type seenDomain struct {
	*watch
	name   string
	counts queue.Counts
}

// domains lists the domains with mail. all forgets those that have none any more.
func (r *Reporter) domains(all bool) (list []seenDomain, err error) {
	err = r.cfg.Store.Domains(func(name string, c queue.Counts) bool {
		w := r.watches[name]
		if w == nil {
			w = &watch{held: r.floor}
			if at := r.kept[name]; at.After(w.held) {
				w.held = at
			}
			r.watches[name] = w
		}
		w.seen = true
		if c.Failed > 0 || c.Untold > 0 || all && c.Messages > 0 {
			list = append(list, seenDomain{w, name, c})
		}
		return true
	})
	if err == nil && all {
		r.kept, r.known = nil, true // whatever has mail has a watch now
	}
	for name, w := range r.watches {
		if all && err == nil && !w.seen && r.cfg.Now().Sub(w.held) > again {
			r.changed = r.changed || !w.held.IsZero()
			delete(r.watches, name)
		}
		w.seen = false
	}
	return list, err
}

// settled deals with a batch of what has failed, which is at stage, and says whether it got on.
func (r *Reporter) settled(d seenDomain, stage queue.Stage, rd *round) bool {
	now := r.cfg.Now()
	p, err := r.cfg.Policy(d.name)
	if err != nil {
		rd.due = now.Add(sweep)
		return false
	}
	due := now.Add(again)
	if !p.Bounce && stage == queue.Partial { // goes with what it is part of
		rd.end(due)
		return false
	}
	if !p.Bounce { // kept until its time is over, for whoever looks
		return r.discard(d, p, rd)
	}
	var seqs []uint64
	err = r.cfg.Store.Walk(d.name, stage, rd.from, func(k queue.Key, _ *mail.Envelope) bool {
		seqs = append(seqs, k.Seq)
		return len(seqs) < batch
	})
	if err == nil && len(seqs) == 0 {
		rd.end(due)
		return false
	}
	did := 0
	if err == nil {
		did, _, err = r.review(d.name, stage, seqs, func(e *queue.Reviewed) queue.Decision {
			if stage == queue.Partial {
				return r.tell(e, now)
			}
			return r.giveUp(e, p, now)
		})
	}
	if errors.Is(err, queue.ErrFull) { // reports while their mail stays need room: later
		*rd = round{due: now.Add(sweep)}
		return false
	}
	if err != nil {
		r.complain(err, d.name)
		*rd = round{due: due}
		return false
	}
	rd.batch(seqs[len(seqs)-1], did)
	return true
}

// discard ends a batch of what has failed, was kept without a report and is over time, and says whether it got on.
func (r *Reporter) discard(d seenDomain, p Policy, rd *round) (more bool) {
	now := r.cfg.Now()
	c := clock{now: now, retention: p.Retention}
	more, err := r.overdue(line{domain: d.name, stage: queue.Settled, there: d.counts.Failed, ages: &d.failed,
		decide: func(e *queue.Reviewed) queue.Decision { return r.giveUp(e, p, now) }}, &c)
	switch {
	case err != nil:
		r.complain(err, d.name)
		*rd = round{due: now.Add(again)}
	case more:
		*rd = round{}
	default:
		*rd = round{due: d.failed.due(&c, now.Add(again))}
	}
	return more
}

// waiting deals with a batch of what is old, and says whether it got on.
func (r *Reporter) waiting(d seenDomain) bool {
	now, w := r.cfg.Now(), d.watch
	p, err := r.cfg.Policy(d.name)
	if err != nil {
		w.waiting = now.Add(sweep)
		return false
	}
	w.waiting = now.Add(again)
	if p.Hold {
		w.held, w.waiting, r.changed = now, now.Add(sweep), true
		return false
	}
	c := clock{now, w.held, p.Retention}
	did, err := r.overdue(line{domain: d.name, stage: queue.Waiting, there: d.counts.Messages, ages: &w.ages,
		decide: func(e *queue.Reviewed) queue.Decision { return r.giveUp(e, p, now) }}, &c)
	if err == nil && !did && p.DelayNotice > 0 {
		did, err = r.notify(d, p, now)
	}
	if errors.Is(err, queue.ErrBusy) {
		w.waiting = now.Add(sweep)
		return false
	}
	if err != nil {
		r.complain(err, d.name)
		return false
	}
	w.waiting = w.ages.due(&c, w.waiting)
	if did {
		w.waiting = time.Time{}
	}
	return did
}

// notify tells the senders of a batch of entries that these still wait.
func (r *Reporter) notify(d seenDomain, p Policy, now time.Time) (did bool, err error) {
	w := d.watch
	c := clock{now, w.held, p.DelayNotice}
	did, err = r.overdue(line{
		domain: d.name, stage: queue.Waiting, there: d.counts.Messages, ages: &w.notices, stays: true,
		concerns: func(v *mail.Envelope) bool { return !v.DelayNotified && len(delayed(v)) > 0 },
		decide:   func(e *queue.Reviewed) queue.Decision { return r.announce(e, w, p, now) },
	}, &c)
	if errors.Is(err, queue.ErrFull) { // there is no room for what is not strictly needed: later
		return false, nil
	}
	if err == nil {
		w.waiting = w.notices.due(&c, w.waiting)
	}
	return did, err
}

// since is when the clock began for an entry.
func (w *watch) since(env *mail.Envelope) time.Time {
	if arrived := time.Unix(0, env.Arrived); arrived.After(w.held) {
		return arrived
	}
	return w.held
}

// review has a batch decided about, and returns of how many something became, and the first place that was left to the next
// batch for its octets, 0 if none was.
func (r *Reporter) review(domain string, stage queue.Stage, seqs []uint64, decide func(*queue.Reviewed) queue.Decision) (n int, rest uint64, err error) {
	var after []func() // log and metrics, once it is durable
	octets := 0
	err = r.cfg.Store.Review(domain, stage, seqs, func(e *queue.Reviewed) queue.Decision {
		if octets >= batchOctets {
			if rest == 0 {
				rest = e.Key.Seq
			}
			return queue.Decision{}
		}
		kind := kindOf(stage, e.Envelope)
		d := decide(e)
		for i := range d.Messages {
			octets += len(d.Messages[i].Body)
		}
		if d.Verdict != queue.Keep {
			after = append(after, r.told(e, d, kind))
		}
		return d
	})
	if err != nil {
		return 0, 0, err
	}
	for _, fn := range after {
		fn()
	}
	return len(after), rest, nil
}

func (r *Reporter) complain(err error, domain string) {
	if !errors.Is(err, queue.ErrClosed) {
		r.cfg.Logger.Error().Err(err).Str("domain", domain).Msg("looking after mail failed, it will be tried again")
	}
}

func earlier(a, b time.Time) time.Time {
	if b.Before(a) {
		return b
	}
	return a
}

// queueFor is the domain whose queue a report to address belongs into.
func (r *Reporter) queueFor(address string) (string, error) {
	domain, err := account.ParseDomain(address[strings.LastIndexByte(address, '@')+1:])
	if err != nil {
		return mail.OutboundDomain, nil
	}
	held, err := r.cfg.Held(domain)
	if err != nil || !held {
		return mail.OutboundDomain, err
	}
	return domain, nil
}
