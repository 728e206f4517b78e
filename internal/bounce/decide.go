package bounce

import (
	"errors"
	"io"
	"time"

	"odmr/codec"
	"odmr/internal/dsn"
	"odmr/internal/mail"
	"odmr/queue"
)

// giveUp ends an entry: whoever is still pending has waited for too long. Its sender is told what it wants to know.
func (r *Reporter) giveUp(e *queue.Reviewed, p Policy, now time.Time) queue.Decision {
	drop := queue.Decision{Verdict: queue.Drop}
	about := ended(e.Envelope, true)
	if !p.Bounce || e.Envelope.ReversePath == "" || len(about) == 0 {
		return drop
	}
	var ok bool
	if drop.Messages, ok = r.report(e, about, time.Time{}, now); !ok {
		return queue.Decision{}
	}
	return drop
}

// tell tells the sender of an entry of which recipients wait, or are held, what became of the others.
func (r *Reporter) tell(e *queue.Reviewed, now time.Time) queue.Decision {
	d := queue.Decision{Verdict: queue.Update}
	if about := ended(e.Envelope, false); len(about) > 0 && e.Envelope.ReversePath != "" {
		var ok bool
		if d.Messages, ok = r.report(e, about, time.Time{}, now); !ok {
			return queue.Decision{}
		}
	}
	e.Envelope.Told()
	return d
}

// announce tells the sender of an entry that it still waits.
func (r *Reporter) announce(e *queue.Reviewed, w *watch, p Policy, now time.Time) queue.Decision {
	about := delayed(e.Envelope)
	if e.Envelope.DelayNotified || len(about) == 0 {
		return queue.Decision{}
	}
	messages, ok := r.report(e, about, w.since(e.Envelope).Add(p.Retention), now)
	if !ok {
		return queue.Decision{}
	}
	e.Envelope.DelayNotified = true
	return queue.Decision{Verdict: queue.Update, Messages: messages}
}

// ended are the recipients of an entry of which their sender is to be told that nothing more will be done: those that
// have been settled, and, with expired, those that still wait.
func ended(env *mail.Envelope, expired bool) (about []dsn.Recipient) {
	for i := range env.Recipients {
		r := &env.Recipients[i]
		d := dsn.Recipient{Address: r.Address, ORcpt: r.ORcpt, Reply: r.Reply}
		switch r.State {
		case mail.Failed:
		case mail.Relayed:
			d.Action = dsn.Relayed
		case mail.Pending:
			if !expired {
				continue
			}
			d.Expired = true
		default:
			continue
		}
		if dsn.Due(r.Notify, d.Action) {
			about = append(about, d)
		}
	}
	return about
}

// delayed are the recipients that wait and whose sender is to be told; none where there is no sender.
func delayed(env *mail.Envelope) (about []dsn.Recipient) {
	for i := range env.Recipients {
		r := &env.Recipients[i]
		if r.State == mail.Pending && dsn.Due(r.Notify, dsn.Delayed) && env.ReversePath != "" {
			about = append(about, dsn.Recipient{Address: r.Address, ORcpt: r.ORcpt, Reply: r.Reply, Action: dsn.Delayed})
		}
	}
	return about
}

// report writes a report; several that share the recipients among them, where what is to be said of all does not fit into
// a queue.Message. If that is not possible now, ok is false.
func (r *Reporter) report(e *queue.Reviewed, about []dsn.Recipient, until, now time.Time) (messages []queue.Message, ok bool) {
	domain, err := r.queueFor(e.Envelope.ReversePath)
	if err != nil {
		r.complain(err, e.Key.Domain)
		return nil, false
	}
	report := dsn.Report{
		Hostname: r.cfg.Hostname, Now: now, Envelope: e.Envelope, RetryUntil: until,
		Waited: now.Sub(time.Unix(0, e.Envelope.Arrived)),
	}
	if report.Original, report.Whole, err = original(e); err != nil { // the sender is told all the same
		r.complain(err, e.Key.Domain)
	}
	for n := len(about); len(about) > 0; n = min(n, len(about)) {
		var m queue.Message
		report.Recipients = about[:n]
		if m.Envelope, m.Body, err = dsn.Build(&report); err != nil {
			r.complain(err, e.Key.Domain)
			return nil, false
		}
		if len(m.Body) > mail.ChunkSize && n > 1 { // one recipient always fits, see mail.MaxReturned
			n /= 2
			continue
		}
		m.Envelope.Domain = domain
		messages = append(messages, m)
		about = about[n:]
		report.Part++
	}
	r.woken = r.woken || domain == mail.OutboundDomain
	return messages, true
}

// original reads as much of a message as a report may need, as its author wrote it.
func original(e *queue.Reviewed) (content []byte, whole bool, err error) {
	b, err := e.Open()
	if err != nil {
		return nil, false, err
	}
	defer b.Close()
	var un codec.Unstuffer
	for len(content) <= mail.MaxReturned {
		seg, ok, err := b.Ready()
		if !ok && err == nil {
			seg, err = b.Next()
		}
		if errors.Is(err, io.EOF) {
			return content, true, nil
		}
		if err != nil {
			return nil, false, err
		}
		content = un.Append(content, seg.Data[:min(len(seg.Data), 2*mail.MaxReturned)])
		seg.Release()
	}
	return content, false, nil
}

// kindOf is the word for what a review at stage tells of an entry.
func kindOf(stage queue.Stage, env *mail.Envelope) string {
	switch {
	case stage == queue.Waiting:
		return "expired"
	case has(env, mail.Failed):
		return "failed"
	}
	return "relayed"
}

// told logs and counts what was decided of an entry, when it is called.
func (r *Reporter) told(e *queue.Reviewed, d queue.Decision, kind string) func() {
	env := e.Envelope
	leaves := d.Verdict == queue.Drop && !has(env, mail.Held)
	if d.Verdict == queue.Update && kind == "expired" {
		kind = "delayed"
	}
	id, domain, from, n := env.ID, env.Domain, env.ReversePath, len(env.Recipients)
	why := ""
	if len(d.Messages) == 0 {
		switch {
		case from == "":
			why = "no-sender"
		case d.Verdict == queue.Update || len(ended(env, true)) == 0:
			why = "unasked"
		default:
			why = "bounce-off"
		}
	}
	return func() {
		ev := r.cfg.Logger.Info().Stringer("queue_id", id).Str("domain", domain).Str("from", from).Int("recipients", n).Str("event", kind)
		switch {
		case why == "":
			r.cfg.Observer.Reported(kind)
			ev.Str("report_in", d.Messages[0].Envelope.Domain).Msg("sender told")
		case leaves:
			r.cfg.Observer.Discarded(why)
			ev.Str("reason", why).Msg("message discarded")
		default:
			ev.Str("reason", why).Msg("recipients settled without a report, the message stays for the others")
		}
	}
}

func has(env *mail.Envelope, state mail.RecipientState) bool {
	for i := range env.Recipients {
		if env.Recipients[i].State == state {
			return true
		}
	}
	return false
}
