package session

import (
	"strings"
	"time"

	"odmr/codec"
	"odmr/internal/mail"
)

// ProviderConfig is what all Provider machines of a server share. It is not copied and must
// not be changed while a session uses it; ask Defaults to fill in what is zero.
type ProviderConfig struct {
	Hostname       string        // our name in greeting and EHLO reply; must not be empty
	StartTLS       bool          // a certificate is there: STARTTLS is offered
	TLSPolicy      TLSPolicy     // what is allowed in clear text
	MaxErrors      int           // refused commands, then 421 4.7.0
	MaxAuthErrors  int           // failed logins; the last of them is answered by 421 4.7.0
	MaxCommands    int           // commands before the login, then 421 4.7.0; 0: no limit
	LoginTimeout   time.Duration // from the greeting until authenticated, then 421 4.4.2
	CommandTimeout time.Duration // how long the next command may take after that, then 421 4.4.2
}

// ProviderMaxAuthErrors is the default of ProviderConfig.MaxAuthErrors: room for a mistyped
// password, none for guessing.
const ProviderMaxAuthErrors = 3

// Defaults returns c with its zero fields set to their defaults.
func (c ProviderConfig) Defaults() ProviderConfig {
	if c.MaxErrors <= 0 {
		c.MaxErrors = mail.MaxErrors
	}
	if c.MaxAuthErrors <= 0 {
		c.MaxAuthErrors = ProviderMaxAuthErrors
	}
	if c.LoginTimeout <= 0 {
		c.LoginTimeout = mail.TimeoutLogin
	}
	if c.CommandTimeout <= 0 {
		c.CommandTimeout = mail.TimeoutCommand
	}
	return c
}

// appendEHLO appends the reply to EHLO. RFC 2645 5.1.1: it lists AUTH and ATRN, already before
// authentication. Every line has text, for fetchmail needs some. PIPELINING is not offered: AUTH
// and ATRN, for which this port exists, must not be followed by anything. Nor is
// ENHANCEDSTATUSCODES: RFC 2034 4 then wants a code in every reply, and those to ATRN are
// given by RFC 2645 without; where other replies carry one, it is plain text to the customer.
//
// STARTTLS is listed where it may come: with a certificate, before TLS and before the login. Where the policy
// wants TLS for logins, AUTH is not listed in clear text (RFC 4954 4 wants it so of mechanisms that need TLS).
func (p *Provider) appendEHLO(dst []byte) []byte {
	lines := []string{p.cfg.Hostname}
	if p.mayStartTLS() {
		lines = append(lines, "STARTTLS")
	}
	if len(p.mechanisms) > 0 && (p.secure || p.cfg.TLSPolicy == TLSOptional) {
		lines = append(lines, "AUTH "+strings.Join(p.mechanisms, " "))
	}
	return codec.AppendReplyLines(dst, 250, append(lines, "ATRN")...)
}
