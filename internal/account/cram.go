package account

import (
	"bytes"
	"crypto/md5"
	"crypto/rand"
	"crypto/subtle"
	"encoding/hex"
	"strconv"

	"github.com/emersion/go-sasl"
)

// cramMD5 is the server's side of CRAM-MD5 (RFC 2195): the server sends a challenge that
// nobody can foresee, the client answers with its name and HMAC-MD5(password, challenge).
type cramMD5 struct {
	auth      *Authenticator
	peer      *Peer
	challenge []byte // nil until sent
	account   string // set once authenticated
	ended     bool
}

var _ sasl.Server = (*cramMD5)(nil)

func newCRAMMD5(a *Authenticator, p *Peer) Exchange { return &cramMD5{auth: a, peer: p} }

// nobody's context stands in where there is no account, so that the same work is done. It is
// random, and its verdict does not count anyway.
func newNobody() *CRAMMD5Context {
	c := new(CRAMMD5Context)
	rand.Read(c.Inner[:])
	rand.Read(c.Outer[:])
	return c
}

// Next implements Exchange and sasl.Server.
func (c *cramMD5) Next(response []byte) (challenge []byte, done bool, err error) {
	if c.ended {
		return nil, false, sasl.ErrUnexpectedClientResponse
	}
	if c.challenge == nil {
		if response != nil { // RFC 4954 4: the server speaks first
			c.ended = true
			return nil, false, ErrInitialResponse
		}
		c.challenge = c.auth.newChallenge()
		return c.challenge, false, nil
	}
	c.ended = true
	if c.account, err = c.verify(response); err != nil {
		return nil, false, err
	}
	return nil, true, nil
}

// Account implements Exchange.
func (c *cramMD5) Account() string { return c.account }

// verify checks `name SP digest` and returns the account's name. The digest is behind the last
// blank: a name may contain some (RFC 2195 2 gives no grammar for it).
func (c *cramMD5) verify(response []byte) (string, error) {
	name, digits := []byte(nil), response
	if i := bytes.LastIndexByte(response, ' '); i >= 0 {
		name, digits = response[:i], response[i+1:]
	}
	var given [md5.Size]byte
	wellFormed := len(digits) == hex.EncodedLen(md5.Size)
	if wellFormed {
		_, err := hex.Decode(given[:], digits)
		wellFormed = err == nil
	}

	if err := c.peer.guard(string(name)); err != nil {
		return "", err
	}
	a, err := c.auth.lookup(string(name))
	if err != nil {
		return "", err
	}
	ctx, known := c.auth.nobody, false
	if a != nil && a.CRAMMD5 != nil {
		ctx, known = a.CRAMMD5, true
	}
	barred := c.peer.barred(a)
	want := ctx.sum(c.challenge)
	same := subtle.ConstantTimeCompare(given[:], want[:]) == 1
	if !same || !known || !wellFormed || barred {
		c.auth.doubt(a)
		return "", ErrCredentials
	}
	return a.Name, nil
}

// newChallenge makes `<random.time@hostname>` (RFC 2195 2, in the form of an RFC 5322 msg-id).
func (a *Authenticator) newChallenge() []byte {
	var r [16]byte
	rand.Read(r[:])
	b := make([]byte, 0, 64+len(a.hostname))
	b = append(b, '<')
	b = hex.AppendEncode(b, r[:])
	b = append(b, '.')
	b = strconv.AppendInt(b, a.clock().Unix(), 10)
	b = append(b, '@')
	b = append(b, a.hostname...)
	return append(b, '>')
}
