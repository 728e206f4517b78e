package account

import (
	"bytes"
	"crypto/subtle"

	"github.com/emersion/go-sasl"
)

// candidate is the account that a password in clear is to be checked against.
type candidate struct {
	name    string
	account *Account // nil: there is none
	looked  bool
}

// look asks for the account, unless that has been done.
func (a *Authenticator) look(peer *Peer, c *candidate) (err error) {
	if c.looked {
		return nil
	}
	if err := peer.guard(c.name); err != nil {
		return err
	}
	c.account, err = a.lookup(c.name)
	c.looked = err == nil
	return err
}

// checkPassword verifies a password given in clear against the SCRAM keys of the account of that
// name. An account that does not exist, or has no such keys, costs the same derivation as a wrong
// password. (Where keys of several work factors are in use it costs one of them, see fakeKeys.)
func (a *Authenticator) checkPassword(peer *Peer, c *candidate, password string) (*Account, error) {
	if err := a.look(peer, c); err != nil {
		return nil, err
	}
	keys, good, barred := a.fakeKeys(c.name), false, peer.barred(c.account)
	if c.account != nil && c.account.SCRAMSHA256 != nil {
		keys, good = c.account.SCRAMSHA256, true
	}
	if len(password) > MaxPassword {
		password, good = "", false
	}
	prepared, err := prepare(password)
	if err != nil {
		prepared, good = "", false
	}
	given, err := deriveSCRAM(prepared, keys.Salt, keys.Iterations)
	if err != nil {
		return nil, err
	}
	if subtle.ConstantTimeCompare(given.StoredKey[:], keys.StoredKey[:]) != 1 || !good || barred {
		a.doubt(c.account)
		return nil, ErrCredentials
	}
	return c.account, nil
}

// plainText is the server's side of PLAIN (RFC 4616): one message, `[authzid] NUL authcid NUL passwd`.
type plainText struct {
	auth    *Authenticator
	peer    *Peer
	who     candidate
	account string
	asked   bool
	ended   bool
}

var (
	_ sasl.Server = (*plainText)(nil)
	_ Costly      = (*plainText)(nil)
)

func newPlain(a *Authenticator, p *Peer) Exchange { return &plainText{auth: a, peer: p} }

// Next implements Exchange and sasl.Server.
func (x *plainText) Next(response []byte) (challenge []byte, done bool, err error) {
	if x.ended {
		return nil, false, sasl.ErrUnexpectedClientResponse
	}
	if response == nil && !x.asked {
		x.asked = true
		return []byte{}, false, nil
	}
	x.ended = true
	identity, name, password, ok := splitPlain(response)
	if !ok {
		return nil, false, ErrCredentials
	}
	x.who.name = name
	found, err := x.auth.checkPassword(x.peer, &x.who, password)
	if err != nil {
		return nil, false, err
	}
	if !mayActAs(found, name, identity) {
		return nil, false, ErrCredentials
	}
	x.account = found.Name
	return nil, true, nil
}

func splitPlain(response []byte) (identity, name, password string, ok bool) {
	parts := bytes.Split(response, []byte{0})
	if len(parts) != 3 || len(parts[1]) == 0 || len(parts[2]) == 0 { // RFC 4616 2
		return "", "", "", false
	}
	return string(parts[0]), string(parts[1]), string(parts[2]), true
}

// Look implements Costly.
func (x *plainText) Look(response []byte) error {
	_, name, _, ok := splitPlain(response)
	if !ok || x.ended {
		return nil // Next says why
	}
	x.who.name = name
	return x.auth.look(x.peer, &x.who)
}

// Account implements Exchange.
func (x *plainText) Account() string { return x.account }

// Costly implements Costly.
func (x *plainText) Costly() bool { return true }

// mayActAs reports whether a, logged in as name, may act as identity, the authzid of RFC 4422 3.4.1:
// only as itself.
func mayActAs(a *Account, name, identity string) bool {
	return identity == "" || identity == name || identity == a.Name
}

// loginText is the server's side of LOGIN, which nobody standardised (draft-murchison-sasl-login): name
// and password, each asked for. Some clients send the name as initial response.
type loginText struct {
	auth    *Authenticator
	peer    *Peer
	who     candidate
	account string
	state   loginState
}

type loginState uint8

const (
	loginBegun loginState = iota
	loginName             // "Username:" was sent
	loginPassword
	loginEnded
)

var (
	_ sasl.Server = (*loginText)(nil)
	_ Costly      = (*loginText)(nil)
)

func newLogin(a *Authenticator, p *Peer) Exchange { return &loginText{auth: a, peer: p} }

// Next implements Exchange and sasl.Server.
func (x *loginText) Next(response []byte) (challenge []byte, done bool, err error) {
	switch {
	case x.state == loginBegun && response == nil:
		x.state = loginName
		return []byte("Username:"), false, nil
	case x.state <= loginName:
		x.who.name, x.state = string(response), loginPassword
		return []byte("Password:"), false, nil
	case x.state == loginPassword:
		x.state = loginEnded
		found, err := x.auth.checkPassword(x.peer, &x.who, string(response))
		if err != nil {
			return nil, false, err
		}
		x.account = found.Name
		return nil, true, nil
	}
	return nil, false, sasl.ErrUnexpectedClientResponse
}

// Account implements Exchange.
func (x *loginText) Account() string { return x.account }

// Look implements Costly.
func (x *loginText) Look([]byte) error { return x.auth.look(x.peer, &x.who) }

// Costly implements Costly.
func (x *loginText) Costly() bool { return x.state == loginPassword }
