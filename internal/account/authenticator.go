package account

import (
	"errors"
	"fmt"
	"strings"
	"time"

	"odmr/internal/mail"
)

var (
	// ErrCredentials says that the proof was wrong: bad secret, unknown account, or an account
	// without a secret for the mechanism. A peer cannot tell which (535 5.7.8).
	ErrCredentials = errors.New("account: authentication failed")
	// ErrMechanism says that the mechanism is not offered (504 5.5.4).
	ErrMechanism = errors.New("account: mechanism not offered")
	// ErrInitialResponse says that an initial response came for a mechanism in which the server
	// speaks first (RFC 4954 4: 501 5.7.0).
	ErrInitialResponse = errors.New("account: initial response where the server speaks first")
)

// CRAMMD5 is the mechanism that RFC 2645 5.1.2 requires.
const CRAMMD5 = "CRAM-MD5"

// mechanisms are all that are implemented, the one list from which flags, EHLO and AUTH come.
var mechanisms = []struct {
	name  string
	start func(*Authenticator) Exchange
}{
	{CRAMMD5, newCRAMMD5},
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
}

// Authenticator starts SASL exchanges. It is safe for concurrent use; each Exchange belongs
// to one session. It never logs and never keeps what a peer sent.
type Authenticator struct {
	dir      Directory
	hostname string
	clock    func() time.Time
	offered  []string
	start    map[string]func(*Authenticator) Exchange // by name in upper case
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
		start:    make(map[string]func(*Authenticator) Exchange),
		nobody:   newNobody(),
	}
	names := cfg.Mechanisms
	if len(names) == 0 {
		names = Implemented()
	}
	for _, name := range names {
		name = strings.ToUpper(name)
		if a.start[name] != nil {
			return nil, fmt.Errorf("mechanism %s is listed twice", name)
		}
		for _, m := range mechanisms {
			if m.name == name {
				a.start[name] = m.start
			}
		}
		if a.start[name] == nil {
			return nil, fmt.Errorf("unknown mechanism %q (known: %s)", name, strings.Join(Implemented(), " "))
		}
		a.offered = append(a.offered, name)
	}
	return a, nil
}

// Mechanisms returns the names of the mechanisms offered to peer, as the AUTH line of EHLO
// lists them. The slice must not be changed. It does not block.
func (a *Authenticator) Mechanisms(Peer) []string { return a.offered }

// NonBlocking reports whether the exchanges' Next answers from memory, so that an event loop
// may call it.
func (a *Authenticator) NonBlocking() bool { return a.dir.NonBlocking() }

// Start begins an exchange with peer, or returns ErrMechanism. It does not block. Names are
// case-insensitive (RFC 4954 4).
func (a *Authenticator) Start(mechanism string, peer Peer) (Exchange, error) {
	start := a.start[strings.ToUpper(mechanism)]
	if start == nil {
		return nil, ErrMechanism
	}
	return start(a), nil
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
