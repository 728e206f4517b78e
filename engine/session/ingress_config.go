package session

import (
	"time"

	"odmr/internal/mail"
)

// IngressMode says which protocol a listener speaks.
type IngressMode uint8

const (
	IngressSMTP IngressMode = iota // RFC 5321
	IngressLMTP                    // RFC 2033
)

// IngressConfig is what all sessions of a listener share. It is not copied and must not be
// changed while a session uses it; ask Defaults to fill in what is zero.
type IngressConfig struct {
	Hostname       string // our name in greeting, EHLO reply and Received fields; must not be empty
	Mode           IngressMode
	StartTLS       bool          // a certificate is there: STARTTLS is offered
	TLSPolicy      TLSPolicy     // what is allowed in clear text; TLSForLogin is as good as TLSOptional, for there is no login
	MaxMessageSize int64         // octets of content; one more is refused (552 5.3.4)
	MaxRecipients  int           // per message; further ones get 452 4.5.3
	MaxErrors      int           // 5xx replies without an accepted message in between, then 421 4.7.0
	CommandTimeout time.Duration // how long the next command may take, then 421 4.4.2
	DataTimeout    time.Duration // how long the next piece of content may take, then 421 4.4.2
	LeastRate      int           // octets of content a second, averaged over RateWindow, then 421 4.4.2; 0: no bound
	RateWindow     time.Duration // 0: RateWindow
}

// IngressMaxMessageSize is the default of IngressConfig.MaxMessageSize, in octets.
const IngressMaxMessageSize = 50 << 20

// Defaults returns c with its zero fields set to their defaults.
func (c IngressConfig) Defaults() IngressConfig {
	if c.MaxMessageSize <= 0 {
		c.MaxMessageSize = IngressMaxMessageSize
	}
	if c.MaxRecipients <= 0 {
		c.MaxRecipients = mail.MaxRecipients
	}
	if c.MaxErrors <= 0 {
		c.MaxErrors = mail.MaxErrors
	}
	if c.CommandTimeout <= 0 {
		c.CommandTimeout = mail.TimeoutCommand
	}
	if c.DataTimeout <= 0 {
		c.DataTimeout = mail.TimeoutDataBlock
	}
	if c.RateWindow <= 0 {
		c.RateWindow = RateWindow
	}
	return c
}

// IngressPeer is who is at the other end of one session.
type IngressPeer struct {
	// Client is the peer's IP address without port, for the Received field and the envelope;
	// empty if it has none (a local socket).
	Client string
	// Trusted clients may hand in mail; all others get 550 5.7.1 to MAIL.
	Trusted bool
}
