package sim

import (
	"bytes"
	"context"
	"hash/fnv"
	"strings"
	"time"

	"github.com/rs/zerolog"

	"odmr/codec"
	"odmr/internal/mail"
	"odmr/internal/outbound"
	"odmr/queue"
)

// report is one for the outside.
type report struct {
	to     string
	made   int64
	about  []told
	unsure bool // a crash tore the review that it came into being in
	end    ending
	maybe  bool // a crash tore what brought it to its end
}

// told is what a report says.
type told struct {
	recipient *recipient
	action    string
}

// ending is what became of a report.
type ending uint8

const (
	endsNot    ending = iota
	endTaken          // by the smarthost
	endRefused        // for good
	endLate           // it has waited for too long
)

// reportKey names a report: no two have the same content.
func reportKey(content []byte) uint64 {
	f := fnv.New64a()
	f.Write(content)
	return f.Sum64()
}

// reportMade says that a report for the outside came into being, perhaps.
func (l *ledger) reportMade(e *entry, m *queue.Message, unsure bool) {
	if m.Envelope.Domain != mail.OutboundDomain {
		return
	}
	var un codec.Unstuffer
	content := un.Append(nil, m.Body)
	r := &report{to: m.Envelope.Recipients[0].Address, made: l.w.now, unsure: unsure}
	if m.Envelope.ReversePath != "" || len(m.Envelope.Recipients) != 1 {
		l.w.fail(RuleReport, "a report on %v goes from %q to %+v", e, m.Envelope.ReversePath, m.Envelope.Recipients)
		return
	}
	l.read(content, &m.Envelope, func(about *recipient, action string) { r.about = append(r.about, told{about, action}) })
	key := reportKey(content)
	if l.reports[key] != nil {
		l.w.fail(RuleReport, "the same report on %v, twice", e)
	}
	l.reports[key] = r
}

// come notes that a report has come to its end, or to its reader: who gets it once more has got it once.
func (l *ledger) come(r *report, key uint64) {
	for _, t := range r.about {
		l.w.trace("report: %v %s", t.recipient, t.action)
		l.w.meet("a report: " + t.action)
		t.recipient.reported(t.action, mail.ID(key))
	}
}

// reportTaken says that the smarthost has a report.
func (l *ledger) reportTaken(h *handover) {
	key := reportKey(h.content)
	switch r := l.reports[key]; {
	case r == nil:
		l.w.fail(RulePhantom, "the smarthost got a report to %s that never came into being:\n%s", h.to, h.content)
	case r.to != h.to:
		l.w.fail(RuleReport, "a report to %s was sent to %s", r.to, h.to)
	case r.end != endsNot && !r.maybe:
		l.w.fail(RuleReport, "a report to %s comes again, it had come to its end: %d", r.to, r.end)
	default:
		l.come(r, key)
	}
}

// finalOutbound looks at the end of all reports.
func (l *ledger) finalOutbound() {
	for _, r := range l.reports {
		if r.end == endsNot && !r.unsure {
			l.w.fail(RuleReport, "a report to %s never left", r.to)
			return
		}
	}
}

// sending is package outbound's sender in one life of the server, and what is known of when it may try again.
type sending struct {
	h      *host
	sender *outbound.Sender
	keys   map[mail.ID]uint64 // of reports that were read
	soon   bool               // a pass is planned

	cancel func() // stops the pass at hand
	dying  bool   // the server dies in the pass at hand
	torn   bool   // with half of a settlement written
	blind  bool   // the disk does not read
	bad    bool   // the whole queue is to wait
	took   bool   // the smarthost has taken something in the pass at hand

	whole   wait
	address map[string]wait
	taken   int64 // when the smarthost last took something
}

// wait is how long something is left alone at the least.
type wait struct {
	fails int
	until int64
}

// again is the wait after one more failure: twice as long each time, up to an hour, less a quarter.
func (p wait) again(now int64) wait {
	d := min(time.Minute<<min(p.fails, 10), time.Hour)
	return wait{p.fails + 1, now + int64(d)*3/4}
}

// newSending makes the sender of one life.
func (h *host) newSending() {
	h.smart.last = nil
	h.sending = &sending{h: h, keys: map[mail.ID]uint64{}, address: map[string]wait{}}
	h.sending.forget()
}

// forget makes a sender that knows nothing.
func (o *sending) forget() {
	h := o.h
	o.sender = outbound.New(outbound.Config{
		Store: reportStore{h}, Now: func() time.Time { return time.Unix(0, h.w.now) }, Jitter: h.w.rng.Float64, Logger: zerolog.Nop(),
		Smarthost: outbound.Smarthost{
			Addr: "127.0.0.1:25", Hostname: "odmr.example", TLS: outbound.TLSNone, Dial: h.smart.dial,
			User: "odmr", Password: func() (string, error) { return "secret", nil },
		},
	})
}

// wake has the sender work soon. It is called by the reporter.
func (o *sending) wake() { o.plan(o.h.w.soon()) }

func (o *sending) plan(d time.Duration) {
	if o.soon || o.h.s.calm {
		return
	}
	o.soon = true
	o.h.w.after(d, func() {
		o.soon = false
		if o.h.sending == o {
			o.pass()
		}
	})
}

// pass has the sender do its work; the server may die in the middle of it, or be stopped.
func (o *sending) pass() {
	h := o.h
	if !h.up || h.stopping {
		return
	}
	h.speedUp()
	ctx, cancel := context.WithCancel(context.Background())
	o.cancel, o.bad, o.took = cancel, false, false
	if !h.s.calm && h.s.faulty && h.w.chance(60) {
		h.w.meet("reads failing while reports go out")
		h.disk.FailReads()
		o.blind = true
	}
	o.sender.Pass(ctx)
	h.disk.MendReads()
	o.blind = false
	stopped := ctx.Err() != nil
	cancel()
	if o.took {
		o.whole.fails = 0
	}
	switch {
	case o.bad:
		o.whole = o.whole.again(h.w.now)
	case h.w.now >= o.whole.until: // it may have found nothing that is due, and be content
		o.whole = wait{}
	}
	switch {
	case o.torn:
		h.torn = true
		h.crash(true)
	case o.dying:
		h.crash(h.w.chance(2))
	case stopped:
		h.stop()
	case h.raw.Counts(mail.OutboundDomain).Messages > 0:
		o.plan(h.w.within(10 * time.Minute))
	}
	if h.s.bug == BugImpatient {
		o.forget()
	}
}

// dialled looks at when the smarthost is dialled.
func (o *sending) dialled() {
	if w := o.h.w; w.now < o.whole.until {
		w.fail(RuleRetry, "the smarthost is dialled %v too early, after %d failures", time.Duration(o.whole.until-w.now), o.whole.fails)
	}
}

// failed says that it is not one report that failed.
func (o *sending) failed(why string) {
	o.bad = true
	o.h.w.trace("smarthost: %s", why)
}

// tries looks at when an address is tried.
func (o *sending) tries(to string) {
	w := o.h.w
	if p := o.address[to]; w.now < p.until {
		w.fail(RuleRetry, "a report to %s is tried %v too early, after %d failures", to, time.Duration(p.until-w.now), p.fails)
	}
}

// proven says whether the smarthost has shown lately that it takes what this server sends.
func (o *sending) proven() bool { return o.taken != 0 && o.h.w.now-o.taken < int64(time.Hour) }

// of returns the report in a message of the outbound queue.
func (o *sending) of(id mail.ID, open func() (queue.Body, error)) (*report, uint64) {
	l := o.h.ledger
	key, known := o.keys[id]
	if !known {
		b, err := open()
		if err != nil {
			l.w.fail(RuleStore, "the content of report %v: %v", id, err)
			return nil, 0
		}
		defer b.Close()
		var content bytes.Buffer
		var un codec.Unstuffer
		for {
			seg, ok, err := b.Ready()
			if !ok && err == nil {
				seg, err = b.Next()
			}
			if err != nil {
				break
			}
			content.Write(un.Append(nil, seg.Data))
			seg.Release()
		}
		key = reportKey(content.Bytes())
		o.keys[id] = key
	}
	r := l.reports[key]
	if r == nil {
		l.w.fail(RulePhantom, "%v is no report that came into being", id)
	}
	return r, key
}

// reportStore is the store as the sender of reports sees it.
type reportStore struct{ h *host }

// Counts implements outbound.Store.
func (s reportStore) Counts(domain string) queue.Counts { return s.h.raw.Counts(domain) }

// Acquire implements outbound.Store.
func (s reportStore) Acquire(domains []string) (queue.Lease, error) {
	l, err := s.h.raw.Acquire(domains)
	if err != nil {
		return nil, err
	}
	return &reportLease{Lease: l, o: s.h.sending, handed: map[queue.Key]*leasedReport{}}, nil
}

// reportLease is the lease of the outbound queue.
type reportLease struct {
	queue.Lease
	o      *sending
	handed map[queue.Key]*leasedReport
}

// leasedReport is a report that was handed out.
type leasedReport struct {
	*report
	key  uint64
	utf8 bool
}

// Next implements queue.Lease.
func (l *reportLease) Next(dst []queue.Delivery, limit queue.Limit) ([]queue.Delivery, error) {
	o := l.o
	if o.dying {
		return dst, queue.ErrClosed
	}
	from := len(dst)
	dst, err := l.Lease.Next(dst, limit)
	if o.blind { // the ledger is not
		o.h.disk.MendReads()
		defer o.h.disk.FailReads()
	}
	for i := range dst[from:] {
		d := &dst[from+i]
		r, key := o.of(d.Envelope.ID, func() (queue.Body, error) { return o.h.raw.Open(d.Envelope.ID) })
		if r == nil {
			continue
		}
		if r.end != endsNot && !r.maybe {
			o.h.w.fail(RuleReport, "a report to %s is queued again, it had come to its end: %d", r.to, r.end)
		}
		r.end, r.maybe, r.unsure = endsNot, false, false
		if to := d.Envelope.Recipients; len(to) != 1 || to[0].Address != r.to || d.Envelope.ReversePath != "" {
			o.h.w.fail(RuleReport, "a report to %s is queued from %q to %+v", r.to, d.Envelope.ReversePath, to)
		}
		l.handed[d.Key] = &leasedReport{r, key, d.Envelope.SMTPUTF8}
	}
	return dst, err
}

// Settle implements queue.Lease: the sender settles one report at a time.
func (l *reportLease) Settle(list []queue.Settlement) error {
	o, h := l.o, l.o.h
	hand := h.smart.last
	h.smart.last = nil
	r := l.handed[list[0].Key]
	if len(list) != 1 || len(list[0].Outcomes) != 1 || r == nil {
		h.w.fail(RuleStore, "the sender of reports settles %+v", list)
		return queue.ErrNotHandedOut
	}
	if o.dying {
		return queue.ErrClosed
	}
	h.s.bug.settlingReport(&list[0])
	if hand == nil {
		hand = &handover{to: r.to, want: mail.OutcomeDeferred}
		if r.utf8 && !strings.Contains(strings.Join(h.smart.offer, " "), "SMTPUTF8") {
			hand.want = mail.OutcomeFailed
			h.w.meet("a report that the smarthost cannot take")
		}
	}
	l.judge(r, hand, &list[0])
	l.heard(r, hand)
	h.written += callOctets
	die := h.w.rng.IntN(100)
	switch {
	case h.s.calm:
	case die == 0:
		h.w.meet("a crash before a report is settled")
		o.dying = true
		return queue.ErrClosed
	case die == 1 && h.tearable(callOctets):
		if err := h.raw.Sync(); err != nil {
			h.w.fail(RuleStore, "sync: %v", err)
		}
		h.disk.TearLog(int64(h.w.rng.IntN(1 << 8)))
		h.w.meet("a torn settlement of a report")
		o.dying, o.torn = true, true
	case die == 2:
		h.w.meet("a crash once a report is settled")
		o.dying = true
	}
	if h.s.bug == BugReportAgain && hand.want == mail.OutcomeDelivered {
		list[0].Outcomes[0].Status = mail.OutcomeDeferred
	}
	if err := l.Lease.Settle(list); err != nil { // what was to be read could not be
		return err
	}
	switch {
	case hand.want == mail.OutcomeDelivered:
		r.end, o.took = endTaken, true
	case hand.want == mail.OutcomeFailed:
		r.end = endRefused
		h.ledger.come(r.report, r.key)
	}
	r.maybe = r.end != endsNot && o.torn
	return nil
}

// judge compares what is to be recorded of a report with what the smarthost said.
func (l *reportLease) judge(r *leasedReport, hand *handover, st *queue.Settlement) {
	w := l.o.h.w
	got := &st.Outcomes[0]
	w.trace("smarthost: report to %s, %q, recorded as %d doubt=%v", r.to, hand.reply, got.Status, st.InDoubt)
	w.meet([...]string{mail.OutcomeDelivered: "a report taken", mail.OutcomeDeferred: "a report deferred", mail.OutcomeFailed: "a report refused for good"}[hand.want])
	switch {
	case hand.to != "" && hand.to != r.to:
		w.fail(RuleReport, "a report to %s was sent to %s", r.to, hand.to)
	case got.Status != hand.want:
		w.fail(RuleReport, "a report to %s, answered %q, is recorded as %d %q, not %d", r.to, hand.reply, got.Status, got.Reply, hand.want)
	case hand.doubt && !st.InDoubt:
		w.fail(RuleDoubt, "a report to %s went out whole without a reply, and is not recorded as in doubt", r.to)
	}
	if hand.doubt {
		w.meet("a report in doubt")
	}
}

// heard notes what the sender knows from an answer, for when it may try again.
func (l *reportLease) heard(r *leasedReport, hand *handover) {
	o, now := l.o, l.o.h.w.now
	switch {
	case hand.want == mail.OutcomeDelivered:
		o.taken = now
		delete(o.address, r.to)
	case hand.want == mail.OutcomeDeferred && hand.begun:
		o.address[r.to] = o.address[r.to].again(now)
	}
}

// settlingReport changes what the sender wants recorded.
func (b Bug) settlingReport(st *queue.Settlement) {
	switch {
	case b == BugReportLost && st.Outcomes[0].Status == mail.OutcomeDeferred:
		st.Outcomes[0].Status = mail.OutcomeDelivered
	case b == BugReportDoubt:
		st.InDoubt = false
	}
}

// reviewReports is the review of reports that failed or are old: nothing is reported on them.
func (s reviewed) reviewReports(stage queue.Stage, seqs []uint64, decide func(*queue.Reviewed) queue.Decision) error {
	h := s.h
	type dropped struct {
		*report
		key uint64
	}
	var gone []dropped
	err := s.Store.Review(mail.OutboundDomain, stage, seqs, func(e *queue.Reviewed) queue.Decision {
		r, key := h.sending.of(e.Envelope.ID, e.Open)
		d := decide(e)
		if h.s.bug == BugReportOnReport && d.Verdict == queue.Drop {
			env := *e.Envelope
			env.Recipients = []mail.Recipient{{Address: "postmaster@odmr.example"}}
			d.Messages = append(d.Messages, queue.Message{Envelope: env, Body: []byte("Subject: alas\r\n\r\n")})
		}
		if r == nil {
			return d
		}
		waited := time.Duration(h.w.now - r.made)
		switch {
		case len(d.Messages) > 0:
			h.w.fail(RuleReport, "a report on the report to %s", r.to)
		case d.Verdict == queue.Update:
			h.w.fail(RuleReport, "somebody is told that the report to %s waits", r.to)
		case d.Verdict == queue.Keep:
		case stage == queue.Settled && r.end != endRefused:
			h.w.fail(RuleReport, "the report to %s is discarded, and was not refused for good", r.to)
		case stage == queue.Waiting && waited < h.keeping.Retention:
			h.w.fail(RuleKept, "the report to %s expired after %v, the retention is %v", r.to, waited, h.keeping.Retention)
		default:
			gone = append(gone, dropped{r, key})
		}
		return d
	})
	if err != nil {
		return err
	}
	for _, r := range gone {
		if stage == queue.Waiting {
			h.w.meet("a report that expired")
			h.ledger.come(r.report, r.key)
			r.end, r.maybe = endLate, h.tearing
		}
	}
	return nil
}
