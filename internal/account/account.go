// Package account knows the customers: their names, secrets and domains, and how they
// prove who they are (SASL, RFC 4422, through go-sasl's sasl.Server).
//
// A Directory answers who may collect what. File is the Directory in an accounts file: it answers from
// an immutable Table in memory, which a reload replaces as a whole, so that readers need no lock
// and never wait; a broken file leaves the old Table in effect. Document and Edit change the file:
// atomically, durably, under a lock, and keeping comments. An Authenticator starts Exchanges, each of
// which belongs to one session.
//
// An Authenticator offers each Peer what makes sense for it: CRAM-MD5 (RFC 2195), SCRAM-SHA-256 and -PLUS
// (RFC 5802, RFC 7677) with channel binding (RFC 5929, RFC 9266), PLAIN (RFC 4616) and LOGIN under TLS, and EXTERNAL
// (RFC 4422 appendix A) to those whose verified certificate or network stands in an account.
//
// Secrets are never kept in plain text: an account holds CRAM-MD5 contexts (the two
// inner states of HMAC-MD5, RFC 2195) and SCRAM-SHA-256 keys (RFC 5802, RFC 7677). The former are as
// good as the password to whoever can speak SASL, so the file is for the server's eyes only. This
// package never logs, no error of it quotes a secret, and from outside an unknown
// account cannot be told from a wrong password.
package account

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net/netip"
	"slices"
)

var (
	// ErrUnknown says that there is no such account. It never reaches the wire as such: a peer
	// sees the same reply, after the same work, as for a wrong secret.
	ErrUnknown = errors.New("no such account")
	// ErrNoAccess says that the account may not collect one of the domains (RFC 2645 5.2.1: 450).
	ErrNoAccess = errors.New("account: domain not accessible to this account")
	// ErrUnavailable says that the directory cannot answer now (451, 454; never 535).
	ErrUnavailable = errors.New("account: directory unavailable")
)

// Directory is where accounts are looked up. It is safe for concurrent use. Domains are
// lower-case A-labels throughout.
type Directory interface {
	// NonBlocking reports whether the methods below answer from memory, so that an event loop
	// may call them.
	NonBlocking() bool
	// Collectable reports whether some account may collect domain.
	Collectable(domain string) (bool, error)
	// Owner returns the account that may collect domain, or ErrUnknown.
	Owner(domain string) (*Account, error)
	// Lookup returns the account of that name or, when there is none, the account that may collect
	// the domain of that name (customers log in with either); otherwise ErrUnknown.
	Lookup(name string) (*Account, error)
	// Authorize returns the domains that account may collect: all of wanted or, if wanted is
	// empty, all that the account has. One inaccessible domain makes it ErrNoAccess; an account removed
	// since it authenticated is ErrUnknown. See AccessRefusal.
	Authorize(account string, wanted []string) ([]string, error)
}

// Account is one customer. It must not be changed once it is in a Directory.
type Account struct {
	Name    string
	Domains []string // sorted, lower-case A-labels
	// OwnHostname lets a lone ATRN argument that is not one of Domains mean "all domains":
	// fetchmail without fetchdomains sends its own host name.
	OwnHostname bool
	Policy      Policy
	// Recipients are the only ones that mail is taken for in the domains that they are in, sorted, as recipients.Entry
	// writes them; a domain of which none is there is open to all.
	Recipients  []string
	CRAMMD5     *CRAMMD5Context // nil: CRAM-MD5 is not possible for this account
	SCRAMSHA256 *SCRAMKeys      // nil: SCRAM-SHA-256, PLAIN and LOGIN are not possible for this account
	// SCRAMDomain are keys of the same password with another salt, for who logs in with one of Domains: one salt would tell
	// strangers which account a domain is. nil: SCRAMSHA256.
	SCRAMDomain *SCRAMKeys
	// Certificates and Networks say which peers are this customer without a password (EXTERNAL). Both are
	// sorted; no two accounts have an equal one.
	Certificates []Certificate
	Networks     []netip.Prefix
}

// Authorize is Directory.Authorize for an account that has been found. owned says whether a domain that is
// none of a's, in lower-case A-labels, is another account's; it is asked for the sake of OwnHostname only.
func (a *Account) Authorize(wanted []string, owned func(domain string) (bool, error)) ([]string, error) {
	if len(wanted) == 0 { // RFC 2645 5.2.1: no argument means every domain of the customer
		return a.Domains, nil
	}
	granted, respelt := make([]string, 0, len(wanted)), false
	for _, d := range wanted {
		canon, err := ParseDomain(d)
		switch {
		case err == nil && a.Has(canon):
			respelt = respelt || canon != d
			if !respelt || !slices.Contains(granted, canon) { // the caller sees to one spelling's being there once
				granted = append(granted, canon)
			}
			continue
		case a.OwnHostname && len(wanted) == 1:
			// The leniency for a host's own name never covers what is another customer's.
			if err == nil {
				other, err := owned(canon)
				if err != nil {
					return nil, err
				}
				if other {
					break
				}
			}
			return a.Domains, nil
		}
		return nil, fmt.Errorf("%w: %s", ErrNoAccess, clip(d))
	}
	return granted, nil
}

// Identifier is a Directory that knows customers by their certificate or their line. Without it
// EXTERNAL is not offered.
type Identifier interface {
	// MayIdentify reports whether Identify is worth a try for peer, so that EXTERNAL is offered. It does not block.
	MayIdentify(peer Peer) bool
	// Identify returns the accounts that peer is without a password: those that its verified certificate
	// names, else the one whose network, the narrowest, holds its address. None is no error.
	Identify(peer Peer) ([]*Account, error)
}

// Doubter is a Directory that answers from memory what may have changed since. Doubt tells it that a login at the
// account has failed with what it gave, which may be an old secret. It does not block.
type Doubter interface{ Doubt(account string) }

// Renewer is a Directory that answers from memory what may have changed since. AuthorizeAnew is Authorize without memory; while nobody can
// be asked it is ErrUnavailable.
type Renewer interface {
	AuthorizeAnew(account string, wanted []string) ([]string, error)
}

// Lister is a Directory that has the lists of recipients apart from its accounts, whose Recipients are empty. Both lists are like
// Account.Recipients, and nil where the directory cannot answer: mail is never refused for that.
type Lister interface {
	// Recipients is the account's list.
	Recipients(account string) []string
	// RecentRecipients is one that is so new that a refusal may rest on it.
	RecentRecipients(account string) []string
}

// CRAMMD5Context holds what HMAC-MD5 makes of a secret: the MD5 chaining states after the
// inner and the outer padded key.
type CRAMMD5Context struct {
	Inner, Outer [16]byte
}

// SCRAMKeys are the stored form of a password for SCRAM-SHA-256 (RFC 5802 3).
type SCRAMKeys struct {
	Salt       []byte
	Iterations int
	StoredKey  [32]byte
	ServerKey  [32]byte
}

// Peer is what is known of a client before it has said who it is. What it is offered, and what
// EXTERNAL and channel binding rest on, depends on it.
type Peer struct {
	Addr netip.AddrPort // the client's; the one in the PROXY header where a balancer brought it
	// TLS is nil in clear text. VerifiedChains is empty unless the client's certificate was verified
	// against the CAs of --tls-client-ca.
	TLS *tls.ConnectionState
	// ServerCertificate is our own certificate of this connection, for the channel binding
	// tls-server-end-point (RFC 5929 4), which is not possible if it is nil.
	ServerCertificate *x509.Certificate
	// Guard, if there is one, is asked as soon as the peer has named an account and before any work is
	// done for it. Its error ends the exchange. name is canonical; whether there is such an account
	// nobody knows yet.
	Guard func(name string) error
	// Barred, if there is one, is asked before the proof is judged: whether none counts for that account now, "" if there is no such
	// account. The peer is not told: the reply is that to a wrong secret, after the same work.
	Barred func(account string) bool
}

func (p *Peer) guard(name string) error {
	if p.Guard == nil {
		return nil
	}
	return p.Guard(canonical(name))
}

// barred reports whether no proof of being a counts, which may be nil.
func (p *Peer) barred(a *Account) bool {
	name := ""
	if a != nil {
		name = a.Name
	}
	return p.Barred != nil && p.Barred(name)
}

// canonical writes a login name in the one way that all spellings of it share: domains are not
// case-sensitive.
func canonical(name string) string {
	if len(name) <= 4*maxDomain {
		if d, err := ParseDomain(name); err == nil {
			return d
		}
	}
	return name
}

// Exchange is one SASL exchange on the server's side.
type Exchange interface {
	// Next takes the client's decoded response (nil: no initial response) and returns the next
	// challenge, or done. An error is a refusal and ends the exchange: see AuthRefusal.
	Next(response []byte) (challenge []byte, done bool, err error)
	// Account is who authenticated, valid once Next has returned done.
	Account() string
}

// Costly is an Exchange some of whose Next mean a key derivation: milliseconds of arithmetic, which should have workers of
// their own.
type Costly interface {
	Exchange
	// Costly reports whether the coming Next is such a one.
	Costly() bool
	// Look is the part of the coming Next that may wait for a directory, so that it can be done elsewhere before it. An error
	// is Next's, and ends the exchange.
	Look(response []byte) error
}
