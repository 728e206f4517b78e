package account

import (
	"errors"

	"github.com/emersion/go-sasl"
)

// external is the server's side of EXTERNAL (RFC 4422 appendix A): the peer is known by its TLS
// certificate or its line already. Its one message is the authorization identity: empty, or the
// name of an account that the peer is.
type external struct {
	auth    *Authenticator
	peer    *Peer
	account string
	asked   bool
	ended   bool
}

var _ sasl.Server = (*external)(nil)

// errAmbiguous says that a certificate names several accounts and the peer none of them.
var errAmbiguous = errors.New("external: the certificate is that of several accounts, and none was asked for")

func newExternal(a *Authenticator, p *Peer) Exchange { return &external{auth: a, peer: p} }

// identified reports whether peer is a customer without further proof, as far as that can be said without
// waiting.
func (a *Authenticator) identified(peer *Peer) bool {
	who, ok := a.dir.(Identifier)
	return ok && who.MayIdentify(*peer)
}

// Next implements Exchange and sasl.Server.
func (x *external) Next(response []byte) (challenge []byte, done bool, err error) {
	if x.ended {
		return nil, false, sasl.ErrUnexpectedClientResponse
	}
	if response == nil && !x.asked {
		x.asked = true
		return []byte{}, false, nil
	}
	x.ended = true
	if x.account, err = x.verify(string(response)); err != nil {
		return nil, false, err
	}
	return nil, true, nil
}

// Account implements Exchange.
func (x *external) Account() string { return x.account }

// verify returns the account that the peer is, and wants to be if identity is not empty.
func (x *external) verify(identity string) (string, error) {
	who, ok := x.auth.dir.(Identifier)
	if !ok {
		return "", ErrCredentials
	}
	found, err := who.Identify(*x.peer)
	if err != nil {
		return "", errors.Join(ErrUnavailable, err)
	}
	if identity == "" {
		switch len(found) {
		case 0:
			return "", ErrCredentials
		case 1:
			return found[0].Name, nil
		}
		return "", errors.Join(ErrCredentials, errAmbiguous)
	}
	for _, a := range found {
		if a.Name == identity || a.Has(canonical(identity)) {
			return a.Name, nil
		}
	}
	return "", ErrCredentials
}
