package account

import (
	"crypto/rand"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"odmr/internal/mail"
)

var (
	// ErrCredentials says that the proof was wrong: bad secret, unknown account, or an account
	// without a secret for the mechanism. A peer cannot tell which (535 5.7.8).
	ErrCredentials = errors.New("account: authentication failed")
	// ErrMechanism says that the mechanism is not offered to this peer (504 5.5.4).
	ErrMechanism = errors.New("account: mechanism not offered")
	// ErrInitialResponse says that an initial response came for a mechanism in which the server
	// speaks first (RFC 4954 4: 501 5.7.0).
	ErrInitialResponse = errors.New("account: initial response where the server speaks first")
	// ErrGuarded says that a Guard did not let the attempt pass: nothing was checked (421 4.7.0).
	ErrGuarded = errors.New("account: too many failed logins for this account from this address")
)

// The mechanisms, by their registered names.
const (
	CRAMMD5         = "CRAM-MD5" // the one that RFC 2645 5.1.2 requires
	External        = "EXTERNAL"
	SCRAMSHA256Plus = "SCRAM-SHA-256-PLUS"
	SCRAMSHA256     = "SCRAM-SHA-256"
	Plain           = "PLAIN"
	Login           = "LOGIN"
)

// mechanism is a row of the table of mechanisms.
type mechanism struct {
	name string
	// offered says whether peer may use it; nil: everybody may.
	offered func(*Authenticator, *Peer) bool
	start   func(*Authenticator, *Peer) Exchange
}

// mechanisms are all that are implemented, the one list from which flags, EHLO and AUTH come.
// The first two are the pair of RFC 2645 5.1.2; of the others the stronger come first. Clients
// choose by themselves.
var mechanisms = []mechanism{
	{CRAMMD5, nil, newCRAMMD5},
	{External, (*Authenticator).identified, newExternal},
	{SCRAMSHA256Plus, (*Authenticator).bindable, newSCRAMPlus},
	{SCRAMSHA256, nil, newSCRAM},
	{Plain, (*Authenticator).encrypted, newPlain},
	{Login, (*Authenticator).encrypted, newLogin},
}

// Implemented returns the names of all mechanisms that AuthConfig.Mechanisms may list.
func Implemented() []string {
	names := make([]string, len(mechanisms))
	for i, m := range mechanisms {
		names[i] = m.name
	}
	return names
}

// AuthConfig is what an Authenticator needs besides the Directory.
type AuthConfig struct {
	Hostname   string           // stands in challenges
	Mechanisms []string         // offered, in this order; empty means Implemented()
	Clock      func() time.Time // stands in challenges; required
	// Secret, SecretSize octets, keys the salts that are shown for accounts that do not exist. It should
	// outlive the process: a salt that changes with a restart would tell that it is none. Nil: a random one.
	Secret []byte
}

// SecretSize is the size of AuthConfig.Secret in octets.
const SecretSize = 32

// Authenticator starts SASL exchanges. It is safe for concurrent use; each Exchange belongs
// to one session. It never logs and never keeps what a peer sent.
type Authenticator struct {
	dir      Directory
	hostname string
	clock    func() time.Time
	secret   []byte
	offered  []*mechanism
	nobody   *CRAMMD5Context
}

// NewAuthenticator makes an Authenticator that looks accounts up in dir.
func NewAuthenticator(dir Directory, cfg AuthConfig) (*Authenticator, error) {
	if dir == nil || cfg.Clock == nil || cfg.Hostname == "" {
		return nil, errors.New("account: an authenticator needs a directory, a clock and a host name")
	}
	a := &Authenticator{
		dir:      dir,
		hostname: cfg.Hostname,
		clock:    cfg.Clock,
		secret:   slices.Clone(cfg.Secret),
		nobody:   newNobody(),
	}
	switch len(a.secret) {
	case SecretSize:
	case 0:
		a.secret = make([]byte, SecretSize)
		rand.Read(a.secret)
	default:
		return nil, fmt.Errorf("account: a secret of %d octets instead of %d", len(a.secret), SecretSize)
	}
	names := cfg.Mechanisms
	if len(names) == 0 {
		names = Implemented()
	}
	for _, name := range names {
		m := find(strings.ToUpper(name))
		if m == nil {
			return nil, fmt.Errorf("account: unknown mechanism %q; there is %s", name, strings.Join(Implemented(), " "))
		}
		if slices.Contains(a.offered, m) {
			return nil, fmt.Errorf("account: mechanism %q is named twice", name)
		}
		a.offered = append(a.offered, m)
	}
	return a, nil
}

func find(name string) *mechanism {
	for i := range mechanisms {
		if mechanisms[i].name == name {
			return &mechanisms[i]
		}
	}
	return nil
}

// Mechanisms returns the names of the mechanisms offered to peer, as the AUTH line of EHLO
// lists them: those of AuthConfig that make sense for it. It does not block.
func (a *Authenticator) Mechanisms(peer Peer) []string {
	names := make([]string, 0, len(a.offered))
	for _, m := range a.offered {
		if m.offered == nil || m.offered(a, &peer) {
			names = append(names, m.name)
		}
	}
	return names
}

// offers reports whether the mechanism of that name is offered to peer.
func (a *Authenticator) offers(name string, peer *Peer) *mechanism {
	for _, m := range a.offered {
		if m.name == name && (m.offered == nil || m.offered(a, peer)) {
			return m
		}
	}
	return nil
}

// encrypted keeps passwords off the wire where others can read them.
func (a *Authenticator) encrypted(peer *Peer) bool { return peer.TLS != nil }

// NonBlocking reports whether the exchanges' Next asks a directory in memory. It may still take
// milliseconds of arithmetic.
func (a *Authenticator) NonBlocking() bool { return a.dir.NonBlocking() }

// Start begins an exchange with peer, or returns ErrMechanism. It does not block. Names are
// case-insensitive (RFC 4954 4).
func (a *Authenticator) Start(mechanism string, peer Peer) (Exchange, error) {
	m := a.offers(strings.ToUpper(mechanism), &peer)
	if m == nil {
		return nil, ErrMechanism
	}
	return m.start(a, &peer), nil
}

// lookup returns the account of that name, or nil if there is none.
func (a *Authenticator) lookup(name string) (*Account, error) {
	found, err := a.dir.Lookup(name)
	switch {
	case errors.Is(err, ErrUnknown):
		return nil, nil
	case err != nil:
		return nil, fmt.Errorf("%w: %w", ErrUnavailable, err)
	}
	return found, nil
}

// doubt tells the directory that what it knows of an account did not fit a login.
func (a *Authenticator) doubt(found *Account) {
	if d, ok := a.dir.(Doubter); ok && found != nil {
		d.Doubt(found.Name)
	}
}

// AuthRefusal turns an error of Start or of Exchange.Next into the reply to AUTH, as in RFC 4954
// 4 and 6. It returns nil for nil. The error itself is the Cause, for the log.
func AuthRefusal(err error) *mail.Refusal {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, ErrUnavailable):
		return &mail.Refusal{Code: 454, Enhanced: "4.7.0", Text: "Temporary authentication failure", Cause: err}
	case errors.Is(err, ErrMechanism):
		return &mail.Refusal{Code: 504, Enhanced: "5.5.4", Text: "Unrecognized authentication type", Cause: err}
	case errors.Is(err, ErrInitialResponse):
		return &mail.Refusal{Code: 501, Enhanced: "5.7.0", Text: "No initial response with this mechanism", Cause: err}
	case errors.Is(err, ErrGuarded):
		return &mail.Refusal{Code: 421, Enhanced: "4.7.0", Text: "Too many failed logins for this account from your address, try again later", Cause: err}
	default:
		return &mail.Refusal{Code: 535, Enhanced: "5.7.8", Text: "Authentication credentials invalid", Cause: err}
	}
}

// AccessRefusal does the same for an error of Directory.Authorize: RFC 2645 5.2.1 gives 450
// for a domain that is not accessible and 451 where access cannot be verified.
func AccessRefusal(err error) *mail.Refusal {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, ErrNoAccess), errors.Is(err, ErrUnknown):
		return &mail.Refusal{Code: 450, Text: "ATRN request refused", Cause: err}
	default:
		return &mail.Refusal{Code: 451, Text: "Unable to process ATRN request now", Cause: err}
	}
}
