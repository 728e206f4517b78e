package account

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"strings"

	"github.com/emersion/go-sasl"
	"github.com/xdg-go/scram"
)

// scramExchange is the server's side of SCRAM-SHA-256 and SCRAM-SHA-256-PLUS (RFC 5802, RFC 7677)
// around the conversation of xdg-go/scram. That the mechanism, the peer's flag and the channel
// binding agree is decided here.
type scramExchange struct {
	auth  *Authenticator
	peer  *Peer
	plus  bool // the mechanism is SCRAM-SHA-256-PLUS
	state scramState
	conv  *scram.ServerConversation

	account *Account // nil: nobody has these credentials
	name    string   // as the peer wrote it
	failed  error    // why the lookup gave no credentials
}

type scramState uint8

const (
	scramBegun scramState = iota
	scramAsked            // an empty challenge asked for the first message
	scramFirst            // server-first was sent
	scramFinal            // server-final was sent: the peer has proved itself
	scramDone             // authenticated
	scramFailed
)

var _ sasl.Server = (*scramExchange)(nil)

var (
	errBindingFlag = errors.New("scram: the channel binding flag does not go with the mechanism (RFC 5802 6)")
	errDowngrade   = errors.New("scram: the peer was not told of SCRAM-SHA-256-PLUS, which was offered: a downgrade (RFC 5802 6)")
	errBindingType = errors.New("scram: channel binding of a type that this connection does not have")
	errIdentity    = errors.New("scram: authorization identity of somebody else")
	errScramSyntax = errors.New("scram: malformed first message")
)

func newSCRAM(a *Authenticator, p *Peer) Exchange { return &scramExchange{auth: a, peer: p} }

func newSCRAMPlus(a *Authenticator, p *Peer) Exchange {
	return &scramExchange{auth: a, peer: p, plus: true}
}

// Next implements Exchange and sasl.Server.
func (x *scramExchange) Next(response []byte) (challenge []byte, done bool, err error) {
	switch {
	case x.state >= scramDone:
		return nil, false, sasl.ErrUnexpectedClientResponse
	case x.state == scramBegun && response == nil:
		x.state = scramAsked
		return []byte{}, false, nil
	case x.state <= scramAsked:
		challenge, err = x.first(response)
	case x.state == scramFirst:
		challenge, err = x.final(response)
	case x.state == scramFinal && len(response) == 0:
		// SMTP's success reply carries no data, so that server-final went as a challenge, to which
		// the client has nothing to say (RFC 4422 5 (e), RFC 4954 4).
		x.state = scramDone
		return nil, true, nil
	default:
		err = sasl.ErrUnexpectedClientResponse
	}
	if err != nil {
		x.state = scramFailed
		return nil, false, err
	}
	return challenge, false, nil
}

// Account implements Exchange.
func (x *scramExchange) Account() string {
	if x.state != scramDone {
		return ""
	}
	return x.account.Name
}

// first takes client-first-message.
func (x *scramExchange) first(message []byte) ([]byte, error) {
	binding, err := x.binding(message)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrCredentials, err)
	}
	server, err := scram.SHA256.NewServer(x.credentials)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrUnavailable, err)
	}
	if x.plus {
		x.conv = server.NewConversationWithChannelBindingRequired(binding)
	} else {
		x.conv = server.NewConversation()
	}
	challenge, err := x.conv.Step(string(message))
	switch {
	case x.failed != nil:
		return nil, x.failed
	case err != nil:
		// The library's errors may quote what the peer sent.
		return nil, fmt.Errorf("%w: %w", ErrCredentials, errScramSyntax)
	}
	x.state = scramFirst
	return []byte(challenge), nil
}

// final takes client-final-message.
func (x *scramExchange) final(message []byte) ([]byte, error) {
	barred := x.peer.barred(x.account)
	verifier, err := x.conv.Step(string(message))
	if err != nil || !x.conv.Valid() || x.account == nil || barred {
		x.auth.doubt(x.account)
		return nil, ErrCredentials
	}
	if !mayActAs(x.account, x.name, x.conv.AuthzID()) {
		return nil, fmt.Errorf("%w: %w", ErrCredentials, errIdentity)
	}
	x.state = scramFinal
	return []byte(verifier), nil
}

// binding returns what the peer's flag, the first part of its first message, asks to be bound to.
func (x *scramExchange) binding(message []byte) (none scram.ChannelBinding, err error) {
	flag, _, ok := bytes.Cut(message, []byte{','})
	kind, bound := strings.CutPrefix(string(flag), "p=")
	switch {
	case !ok:
		return none, errScramSyntax
	case bound != x.plus:
		// RFC 5802 6: "p" goes with the -PLUS mechanism and with no other. Should this be one that did
		// not see -PLUS in the list, it says so with "y".
		if !bound && string(flag) == "y" {
			return none, errDowngrade
		}
		return none, errBindingFlag
	case !bound && string(flag) == "y" && x.auth.offers(SCRAMSHA256Plus, x.peer) != nil:
		return none, errDowngrade
	case !bound:
		return none, nil
	}
	data := x.peer.channelBinding(kind)
	if data == nil {
		return none, errBindingType
	}
	return scram.ChannelBinding{Type: scram.ChannelBindingType(kind), Data: data}, nil
}

// credentials is the library's lookup. For an account that does not exist, or has no SCRAM keys, it
// makes some up.
func (x *scramExchange) credentials(name string) (none scram.StoredCredentials, err error) {
	x.name = name
	if x.failed = x.peer.guard(name); x.failed != nil {
		return none, x.failed
	}
	found, err := x.auth.lookup(name)
	if err != nil {
		x.failed = err
		return none, err
	}
	keys := x.auth.fakeKeys(name)
	if found != nil && found.SCRAMSHA256 != nil {
		keys, x.account = found.keysFor(name), found
	}
	return scram.StoredCredentials{
		KeyFactors: scram.KeyFactors{Salt: string(keys.Salt), Iters: keys.Iterations},
		StoredKey:  keys.StoredKey[:],
		ServerKey:  keys.ServerKey[:],
	}, nil
}

// keysFor are the keys that who logs in as name proves to have: a has some.
func (a *Account) keysFor(name string) *SCRAMKeys {
	if a.SCRAMDomain != nil && canonical(name) != canonical(a.Name) {
		return a.SCRAMDomain
	}
	return a.SCRAMSHA256
}

// fakeKeys are what an account that does not exist shows: always the same salt for the same name, which
// nobody can tell from a real one, of the size and with the work factor that some share of the accounts have, and keys that no password has.
func (a *Authenticator) fakeKeys(name string) *SCRAMKeys {
	name = canonical(name)
	usual := keyKind{SCRAMIterations, SCRAMSaltSize}
	kind, secret := usual, a.secret
	if m, ok := a.dir.(mixed); ok {
		kind = m.keyKinds().of(binary.BigEndian.Uint64(keyedWith(a.secret, "kind", name)), usual)
	}
	if kind != usual { // a real one's salt does not outlive its work factor either
		secret = keyedWith(secret, "secret of a kind", fmt.Sprint(kind.iterations, kind.salt))
	}
	k := &SCRAMKeys{Salt: saltFor(secret, name, kind.salt), Iterations: kind.iterations}
	copy(k.StoredKey[:], keyedWith(a.secret, "stored key", name))
	copy(k.ServerKey[:], keyedWith(a.secret, "server key", name))
	return k
}
