package session

import "odmr/internal/mail"

// ReversedConfig is what the operator sets for all Reversed machines. It is copied by
// NewReversed; a zero field means its default.
type ReversedConfig struct {
	Hostname string // what EHLO says; must not be empty

	// PrefetchMessages and PrefetchBytes bound what one session holds fetched ahead of what it
	// has sent: a number of messages, and the octets of their first segments (a longer body
	// counts as mail.ChunkSize). One message is always allowed.
	PrefetchMessages int
	PrefetchBytes    int64

	// WindowMessages and WindowBytes bound the messages that were begun and whose settlement
	// is not durable yet, and their octets on the wire: after a crash never more is sent
	// again than that. One message is always allowed.
	WindowMessages int
	WindowBytes    int64

	// MaxRefusals is how many 4xx and 5xx replies in a row, without a message accepted in
	// between, the session takes before it says QUIT: Postfix drops a client with 421 after 20.
	// Negative means no bound.
	MaxRefusals int
}

// Defaults of ReversedConfig.
const (
	ReversedPrefetchMessages = 256
	ReversedPrefetchBytes    = 1 << 20
	ReversedWindowMessages   = 256
	ReversedWindowBytes      = 4 << 20
	ReversedMaxRefusals      = 18
)

// ReversedStats counts what one session did.
type ReversedStats struct {
	Messages  int64 // messages taken by the customer for at least one recipient
	Delivered int64 // recipients with a final 2xx
	Deferred  int64 // recipients with a 4xx
	Failed    int64 // recipients with a 5xx, or that could not be sent to this customer at all
	InDoubt   int64 // messages handed over whole that got no final reply
	Misrouted int64 // messages not sent because they are not this session's, or cannot be written safely
	EightBit  int64 // 8-bit messages sent although 8BITMIME was not offered
	Bytes     int64 // octets of content of Messages, once per transaction
	Refusals  int64 // 4xx and 5xx replies of any kind
	Window    int64 // the widest the window grew, in messages
}

// NewReversed returns the machine for one session that holds the lease of domains
// (lower-case A-labels). Neither argument is kept to be changed later.
func NewReversed(cfg *ReversedConfig, domains []string) *Reversed {
	r := &Reversed{cfg: cfg.withDefaults(), domains: make(map[string]struct{}, len(domains))}
	for _, d := range domains {
		r.domains[d] = struct{}{}
	}
	return r
}

func (c ReversedConfig) withDefaults() ReversedConfig {
	if c.PrefetchMessages <= 0 {
		c.PrefetchMessages = ReversedPrefetchMessages
	}
	if c.PrefetchBytes <= 0 {
		c.PrefetchBytes = ReversedPrefetchBytes
	}
	if c.WindowMessages <= 0 {
		c.WindowMessages = ReversedWindowMessages
	}
	if c.WindowBytes <= 0 {
		c.WindowBytes = ReversedWindowBytes
	}
	if c.MaxRefusals == 0 {
		c.MaxRefusals = ReversedMaxRefusals
	}
	return c
}

// Reversed is the SMTP client after the turn (RFC 2645 5.3).
type Reversed struct {
	cfg     ReversedConfig
	domains map[string]struct{}
	stats   ReversedStats
	peer    string
	reason  string
	base    Time
}

var _ Session = (*Reversed)(nil)

// Stats returns the counters so far.
func (r *Reversed) Stats() ReversedStats { return r.stats }

// State names the state for logs and metrics.
func (r *Reversed) State() string { return "greeting" }

// PeerName is the name that the customer's server gave in its reply to EHLO or HELO.
func (r *Reversed) PeerName() string { return r.peer }

// EndReason says why the session ended; empty while it runs.
func (r *Reversed) EndReason() string { return r.reason }

// Start waits for the customer's 220 (RFC 2645 5.3); nothing is written before it.
func (r *Reversed) Start(now Time, out *Output) { r.base = now }

// Input takes replies.
func (r *Reversed) Input(now Time, b []byte, out *Output) int { return len(b) }

// Done takes the outcome of a prefetch or a settlement.
func (r *Reversed) Done(now Time, ticket uint32, res *Result, out *Output) {}

// Tick ends the session when the customer was silent for too long.
func (r *Reversed) Tick(now Time, out *Output) {}

// Deadline is when Tick is due.
func (r *Reversed) Deadline() Time { return r.base + Time(mail.TimeoutGreeting) }

// Progress moves the deadline: the customer is reading.
func (r *Reversed) Progress(now Time) { r.base = now }

// Stop begins no further message; QUIT follows those in flight.
func (r *Reversed) Stop(now Time, out *Output) {}

// End settles what is in doubt.
func (r *Reversed) End(now Time, out *Output) {}
