package engine

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"time"

	"github.com/rs/zerolog"

	"odmr/engine/session"
	"odmr/internal/account"
	"odmr/internal/mail"
	"odmr/queue"
)

// Role says which protocol a listener speaks.
type Role uint8

const (
	SMTP Role = iota + 1 // mail in, RFC 5321
	LMTP                 // mail in, RFC 2033
	ODMR                 // mail out, RFC 2645
)

func (r Role) String() string {
	switch r {
	case SMTP:
		return "smtp"
	case LMTP:
		return "lmtp"
	case ODMR:
		return "odmr"
	}
	return "unknown"
}

// Listener is one address to listen on. Addr is "host:port"; port 0 lets the system choose
// (Engine.Addrs tells the choice), an empty host means all interfaces.
type Listener struct {
	Role   Role
	Addr   string
	Socket *Socket // one that listens already, in place of Addr; the engine closes it, Start's errors included
	TLS    bool    // TLS from the first octet; otherwise STARTTLS is offered where there is a certificate
}

// Authenticator starts SASL exchanges; *account.Authenticator is one. It is safe for
// concurrent use. Exchanges run on workers.
type Authenticator interface {
	// Mechanisms are the names offered to peer, in the order of the EHLO reply. It does not block.
	Mechanisms(peer account.Peer) []string
	// Start begins an exchange with peer. It does not block.
	Start(mechanism string, peer account.Peer) (account.Exchange, error)
}

// Timeouts are the waits of RFC 5321 4.5.3.2 and those that only this protocol has. Zero means the
// default of internal/mail.
type Timeouts struct {
	Handshake time.Duration // a TLS handshake, from the connection or from STARTTLS
	Login     time.Duration // ODMR: from the greeting until authenticated
	Command   time.Duration // a client's next command
	Greeting  time.Duration // the customer's 220 after the turn
	Envelope  time.Duration // the reply to EHLO, MAIL, RCPT
	DataInit  time.Duration // the reply to DATA
	DataBlock time.Duration // in which a peer must take or send some more of a message
	DataDone  time.Duration // the reply to the final dot
	Quit      time.Duration // the reply to QUIT
}

// Defaults that an operator may change.
const (
	DefaultMaxMessageSize = 50 << 20  // octets
	DefaultMaxSessions    = 20000     // connections at once; each costs a file descriptor
	DefaultWorkers        = 64        // goroutines reading from the store at once
	DefaultPrefetchMemory = 256 << 20 // octets of body held ready for customers
	DefaultIngestMemory   = 256 << 20 // octets of body on their way in
)

// Bounds that are not an operator's business.
const (
	// maxLoops is how many event loops there may be: a connection id has 8 bits for its loop.
	maxLoops = 256
	// minMemory is the least that PrefetchMemory and IngestMemory may be, in octets: a few messages.
	minMemory = 4 << 20
	// writeLane is how many appends and releases of leases may be in the store at once.
	writeLane = 1024
	// lookupLane is how many logins and lease requests may run at once, waitingLane where they may have to wait for a
	// directory elsewhere: more than the directory lets wait when it hangs (cache's maxWaiting), so that those whose answers
	// are in memory find a worker. Workers exist while there is work.
	lookupLane  = 128
	waitingLane = 4096
	// passwordPart is which part of the processors, one at least, is for logins that cost milliseconds of arithmetic: they are
	// nothing else, and event loops want a processor, too. They wait apart from all others, and see shares in which order.
	passwordPart = 2
)

// Config is what an Engine is made of. Hostname, Listeners, Store and Directory are
// required, Authenticator too where a listener speaks ODMR.
type Config struct {
	Hostname       string // in greetings, EHLO replies and Received fields
	Listeners      []Listener
	Loops          int // event loops; 0: as many as CPUs
	Store          queue.Store
	Directory      account.Directory
	Authenticator  Authenticator
	TLS            TLS
	Limits         Limits
	Collecting     Collecting
	Trusted        []netip.Prefix // clients that may hand in mail
	MaxMessageSize int64          // octets of content; 0: DefaultMaxMessageSize
	MaxSessions    int            // connections at once, the last eighth for networks with less than their share; 0: DefaultMaxSessions, or fewer where descriptors are short
	Workers        int            // goroutines reading from the store at once; 0: DefaultWorkers
	PrefetchMemory int64          // octets of body held ready for customers, over all sessions; 0: DefaultPrefetchMemory
	IngestMemory   int64          // octets of body on their way in, over all sessions; 0: DefaultIngestMemory
	MaxRecipients  int            // per message; 0: mail.MaxRecipients
	WindowMessages int            // messages of one customer's session that wait to be settled; 0: session.ReversedWindowMessages
	Shield         Shield
	Histories      map[string]string // of the life before: Engine.Histories
	Recipients     Recipients
	WindowBytes    int64 // their octets on the wire; 0: session.ReversedWindowBytes
	Quota          Quota
	Timeouts       Timeouts
	Logger         zerolog.Logger
	Observer       Observer // nil: nobody looks
}

// EnsureDefaults replaces zero values by defaults.
func (c *Config) EnsureDefaults() {
	setDefault(&c.MaxMessageSize, DefaultMaxMessageSize)
	setDefault(&c.MaxSessions, DefaultMaxSessions)
	setDefault(&c.Workers, DefaultWorkers)
	setDefault(&c.PrefetchMemory, DefaultPrefetchMemory)
	setDefault(&c.IngestMemory, DefaultIngestMemory)
	if c.Shield.Refusals > 0 {
		setDefault(&c.Shield.Window, session.ReversedShieldWindow)
	}
	t := &c.Timeouts
	setDefault(&t.Handshake, mail.TimeoutHandshake)
	setDefault(&t.Login, mail.TimeoutLogin)
	setDefault(&t.Command, mail.TimeoutCommand)
	setDefault(&t.Greeting, mail.TimeoutGreeting)
	setDefault(&t.Envelope, mail.TimeoutEnvelope)
	setDefault(&t.DataInit, mail.TimeoutDataInit)
	setDefault(&t.DataBlock, mail.TimeoutDataBlock)
	setDefault(&t.DataDone, mail.TimeoutDataDone)
	setDefault(&t.Quit, mail.TimeoutQuit)
	setDefault(&c.Limits.RateWindow, session.RateWindow)
	setDefault(&c.Collecting.KeepAlive, session.ReversedKeepAlive)
	setDefault(&c.Collecting.IntervalCode, 453)
	if c.Observer == nil {
		c.Observer = NopObserver{}
	}
}

func setDefault[T comparable](v *T, d T) {
	var zero T
	if *v == zero {
		*v = d
	}
}

// Validate reports all problems at once, joined; nil if there are none. Zero values stand
// for defaults and are no problem.
func (c *Config) Validate() error {
	var problems []error
	bad := func(format string, args ...any) { problems = append(problems, fmt.Errorf(format, args...)) }
	if c.Hostname == "" {
		bad("Hostname: must be set")
	}
	if c.Store == nil {
		bad("Store: must be set")
	}
	if c.Directory == nil {
		bad("Directory: must be set")
	}
	c.validateListeners(bad)
	c.TLS.validate(bad)
	c.Limits.validate(bad)
	c.Quota.validate(bad)
	c.Shield.validate(bad)
	c.Collecting.validate(bad)
	for i, p := range c.Trusted {
		if !p.IsValid() {
			bad("Trusted[%d]: not a network", i)
		}
	}
	if c.Loops < 0 || c.Loops > maxLoops {
		bad("Loops: %d is not within 0..%d", c.Loops, maxLoops)
	}
	if c.MaxMessageSize < 0 {
		bad("MaxMessageSize: %d is negative", c.MaxMessageSize)
	}
	if c.MaxSessions < 0 {
		bad("MaxSessions: %d is negative", c.MaxSessions)
	}
	if c.Workers < 0 {
		bad("Workers: %d is negative", c.Workers)
	}
	if c.MaxRecipients < 0 || c.WindowMessages < 0 || c.WindowBytes < 0 {
		bad("MaxRecipients, WindowMessages, WindowBytes: must not be negative")
	}
	if c.PrefetchMemory != 0 && c.PrefetchMemory < minMemory {
		bad("PrefetchMemory: %d is less than %d", c.PrefetchMemory, minMemory)
	}
	if c.IngestMemory != 0 && c.IngestMemory < minMemory {
		bad("IngestMemory: %d is less than %d", c.IngestMemory, minMemory)
	}
	for _, d := range c.Timeouts.all() {
		if d < 0 {
			bad("Timeouts: %s is negative", d)
		}
	}
	return errors.Join(problems...)
}

func (c *Config) validateListeners(bad func(format string, args ...any)) {
	if len(c.Listeners) == 0 {
		bad("Listeners: at least one is needed")
	}
	seen := make(map[string]bool)
	for i, l := range c.Listeners {
		if l.Role < SMTP || l.Role > ODMR {
			bad("Listeners[%d]: unknown role %d", i, l.Role)
		}
		if l.Role == ODMR && c.Authenticator == nil {
			bad("Listeners[%d]: ODMR needs an Authenticator", i)
		}
		if l.TLS && c.TLS.Certificate == nil {
			bad("Listeners[%d]: TLS needs a certificate", i)
		}
		if l.Socket != nil {
			continue
		}
		_, port, err := net.SplitHostPort(l.Addr)
		switch {
		case err != nil:
			bad("Listeners[%d]: %q: %w", i, l.Addr, err)
		case port != "0" && seen[l.Addr]:
			bad("Listeners[%d]: %q is listed twice", i, l.Addr)
		}
		seen[l.Addr] = true
	}
}

func (t *Timeouts) all() [9]time.Duration {
	return [...]time.Duration{t.Handshake, t.Login, t.Command, t.Greeting, t.Envelope, t.DataInit, t.DataBlock, t.DataDone, t.Quit}
}
