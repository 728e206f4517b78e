package engine

import (
	"odmr/engine/session"
	"odmr/internal/account"
)

// machines sets what the machines of this server share.
func (e *Engine) machines() {
	t := &e.cfg.Timeouts
	ingress := session.IngressConfig{
		Hostname:       e.cfg.Hostname,
		MaxMessageSize: e.cfg.MaxMessageSize,
		StartTLS:       e.cfg.TLS.Certificate != nil,
		MaxRecipients:  e.cfg.MaxRecipients,
		MaxErrors:      e.cfg.Limits.SessionErrors,
		CommandTimeout: t.Command,
		DataTimeout:    t.DataBlock,
		LeastRate:      e.cfg.Limits.LeastRate,
		RateWindow:     e.cfg.Limits.RateWindow,
	}.Defaults()
	e.smtp, e.lmtp = ingress, ingress
	e.smtp.Mode, e.lmtp.Mode = session.IngressSMTP, session.IngressLMTP
	e.smtp.TLSPolicy, e.lmtp.TLSPolicy = e.cfg.TLS.SMTP, e.cfg.TLS.LMTP
	e.provider = session.ProviderConfig{
		StartTLS:       e.cfg.TLS.Certificate != nil,
		TLSPolicy:      e.cfg.TLS.ODMR,
		Hostname:       e.cfg.Hostname,
		LoginTimeout:   t.Login,
		CommandTimeout: t.Command,
		MaxCommands:    e.cfg.Limits.LoginCommands,
		MaxErrors:      e.cfg.Limits.SessionErrors,
	}
	e.provider = e.provider.Defaults()
	e.reversed = session.ReversedConfig{
		Hostname:       e.cfg.Hostname,
		WindowMessages: e.cfg.WindowMessages,
		WindowBytes:    e.cfg.WindowBytes,
		ShieldRefusals: e.cfg.Shield.Refusals,
		ShieldWindow:   e.cfg.Shield.Window,
		KeepAlive:      e.cfg.Collecting.KeepAlive,
		Timeouts: session.ReversedTimeouts{
			Greeting: t.Greeting,
			Envelope: t.Envelope,
			DataInit: t.DataInit,
			DataDone: t.DataDone,
			Quit:     t.Quit,
		},
	}
}

// newMachine makes the machine of a new connection.
func (e *Engine) newMachine(c *conn) session.Session {
	switch c.role {
	case ODMR:
		return session.NewProvider(&e.provider)
	case LMTP:
		return session.NewIngress(&e.lmtp, e.peerOf(c))
	}
	return session.NewIngress(&e.smtp, e.peerOf(c))
}

// peerOf says who hands in mail.
func (e *Engine) peerOf(c *conn) session.IngressPeer {
	addr := c.remote.Addr()
	return session.IngressPeer{Client: addr.String(), Trusted: contains(e.cfg.Trusted, addr)}
}

// turn exchanges the machines: the provider's is out, and the reversed one sends what the lease
// holds (RFC 2645 5.3). It is started once the provider's output is queued. What the peer sent
// early goes to it as the octets they are.
func (c *conn) turn() {
	if c.drain.lease == nil {
		c.abandon("turn without a lease")
		return
	}
	e := c.lp.eng
	cfg := e.reversed
	cfg.Linger = c.drain.linger
	switch {
	case c.drain.shield == account.SwitchedOff:
		cfg.ShieldRefusals = 0
	case c.drain.shield == account.On && cfg.ShieldRefusals == 0:
		cfg.ShieldRefusals, cfg.ShieldWindow = session.ReversedShieldRefusals, session.ReversedShieldWindow
	}
	m := session.NewReversed(&cfg, c.drain.lease.Domains())
	e.histories.resume(c.account, m)
	c.online()
	c.sess = m
	c.turned, c.everTurned = true, true
	c.drain.joined = true
	c.forgetIdentity()
	e.prefetch.join()
	c.setState(StateReversed)
	if c.drain.doubt {
		c.lp.inbox.post(event{kind: evDoubt, conn: c.id})
	}
}
