package engine

import (
	"crypto/tls"
	"time"

	"github.com/panjf2000/gnet/v2/pkg/logging"
	"github.com/rs/zerolog"

	"odmr/internal/mail"
)

// What is logged: one line per session at its end, one per message in and out, and what went wrong.
// Never: secrets, SASL responses, content.

// log adds to ev what names the session.
func (c *conn) log(ev *zerolog.Event) *zerolog.Event {
	ev = ev.Stringer("session", c.xid).Stringer("listener", c.role).Stringer("client", c.remote)
	if c.balancer.IsValid() {
		ev = ev.Stringer("balancer", c.balancer)
	}
	if c.account != "" {
		ev = ev.Str("account", c.account)
	}
	return ev
}

// peerName is the name that the peer gave itself; worth no more than that.
func (c *conn) peerName() string {
	if m, ok := c.sess.(interface{ PeerName() string }); ok {
		return m.PeerName()
	}
	return ""
}

func (c *conn) logEnd() {
	ev := c.log(c.lp.eng.log.Info())
	if name := c.peerName(); name != "" {
		ev = ev.Str("peer_name", name)
	}
	if m, ok := c.sess.(interface{ Extensions() string }); ok {
		ev = ev.Str("extensions", m.Extensions())
	}
	if c.tls != nil && c.tls.version != 0 {
		ev = ev.Str("tls", tls.VersionName(c.tls.version))
	}
	s := &c.stats
	if c.role == ODMR {
		ev = ev.Bool("turned", c.everTurned).Int64("delivered", s.delivered).Int64("deferred", s.deferred).Int64("failed", s.failed).Int64("held", s.held)
	} else {
		ev = ev.Int64("accepted", s.accepted).Int64("refused", s.refused)
	}
	ev.Int64("octets_in", s.in).Int64("octets_out", s.out).
		Dur("duration_ms", time.Duration(c.closed-c.opened)).Str("reason", c.reason).Msg("session ended")
}

// logAccepted writes one line per customer domain of a message that was taken.
func (c *conn) logAccepted(j *commitJob, took time.Duration) {
	for i := range j.envelopes {
		env := &j.envelopes[i]
		c.log(c.lp.eng.log.Info()).Stringer("queue_id", env.ID).Str("domain", env.Domain).Str("from", env.ReversePath).
			Int("recipients", len(env.Recipients)).Int64("size", env.Size).Int64("wire_size", env.WireSize).
			Dur("duration_ms", took).Dur("commit_ms", j.took).Msg("message accepted")
	}
	var octets int64
	if len(j.envelopes) > 0 {
		octets = j.envelopes[0].WireSize
	}
	c.lp.eng.cfg.Observer.MessageIn(Accepted, octets)
}

// logSettled writes the line of a message whose outcome is durable, and counts it.
func (c *conn) logSettled(s *settlement, took time.Duration) {
	var n [mail.OutcomeUntouched + 1]int
	reply := ""
	for _, o := range s.Outcomes {
		n[min(o.Status, mail.OutcomeUntouched)]++
		if o.Status != mail.OutcomeDelivered && o.Reply != "" {
			reply = o.Reply
		}
	}
	env := &s.msg.delivery.Envelope
	outcome := Delivered
	switch {
	case n[mail.OutcomeDeferred] > 0, n[mail.OutcomeDelivered]+n[mail.OutcomeFailed]+n[mail.OutcomeHeld] == 0:
		outcome = Deferred
		c.stats.deferred++
	case n[mail.OutcomeHeld] > 0:
		outcome = Held
		c.stats.held++
	case n[mail.OutcomeFailed] > 0:
		outcome = Failed
		c.stats.failed++
	default:
		c.stats.delivered++
	}
	c.lp.eng.cfg.Observer.MessageOut(outcome, env.WireSize)
	ev := c.log(c.lp.eng.log.Info()).Stringer("queue_id", env.ID).Str("domain", env.Domain).Str("from", env.ReversePath).
		Int("recipients", len(env.Recipients)).Int("delivered", n[mail.OutcomeDelivered]).Int("deferred", n[mail.OutcomeDeferred]).
		Int("failed", n[mail.OutcomeFailed]).Int("held", n[mail.OutcomeHeld]).Int64("size", env.Size).Int64("wire_size", env.WireSize).Dur("duration_ms", took).
		Stringer("outcome", outcome)
	if reply != "" {
		ev = ev.Str("reply", reply)
	}
	if s.InDoubt {
		ev = ev.Bool("in_doubt", true)
	}
	if s.reason != "" {
		ev = ev.Str("reason", s.reason)
	}
	ev.Msg("message out")
}

func (c *conn) logRefusedATRN(j *acquireJob) {
	c.log(c.lp.eng.log.Info()).Int("code", j.refusal.Code).Str("reason", j.refusal.Text).Strs("domains", j.wanted).AnErr("cause", j.refusal.Cause).
		Msg("ATRN refused")
}

// gnetLogger passes on what gnet has to say. It logs things that are normal here (a stale event, a closed
// connection) as errors, so nothing of it is louder than a warning.
type gnetLogger struct{ log zerolog.Logger }

var _ logging.Logger = gnetLogger{}

func (l gnetLogger) Debugf(format string, args ...any) { l.log.Debug().Msgf("gnet: "+format, args...) }
func (l gnetLogger) Infof(format string, args ...any)  { l.log.Debug().Msgf("gnet: "+format, args...) }
func (l gnetLogger) Warnf(format string, args ...any)  { l.log.Debug().Msgf("gnet: "+format, args...) }
func (l gnetLogger) Errorf(format string, args ...any) { l.log.Warn().Msgf("gnet: "+format, args...) }
func (l gnetLogger) Fatalf(format string, args ...any) { l.log.Error().Msgf("gnet: "+format, args...) }
