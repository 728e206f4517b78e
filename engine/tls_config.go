package engine

import (
	"crypto/tls"
	"crypto/x509"
	"strings"

	"odmr/engine/session"
)

// TLS says how connections are secured; the zero value: not at all.
//
// What is decided here and not for configuration: TLS 1.2 is the least, with those ciphers of crypto/tls that RFC 9325 4.2 recommends
// or that are as good, and the curves that it prefers, of which X25519MLKEM768 is the first. No OCSP response is stapled: who needs
// a certificate to be short-lived takes one that is. There is no ALPN, for none is registered for these protocols, and what a client
// offers is ignored. Renegotiation is refused, as crypto/tls does it on servers. There are no session
// tickets: a session lasts for many messages, so that a full handshake for each costs little, and then
// what was verified of a client was verified for this session, a replaced certificate is gone with its
// sessions, and a connection carries nothing from another.
type TLS struct {
	// Certificate chooses the server's certificate for a client, by SNI if it likes; nil: no TLS. It
	// is called on workers and should answer from memory.
	Certificate func(*tls.ClientHelloInfo) (*tls.Certificate, error)
	// ClientCAs returns the CAs that clients' certificates are verified against. If it is nil or returns
	// nil, clients are not asked for one. One that does not verify is no reason to end the session:
	// account.Peer then has no VerifiedChains.
	ClientCAs  func() *x509.CertPool
	MinVersion uint16 // 0: tls.VersionTLS12
	// What is refused in clear text.
	ODMR, SMTP, LMTP session.TLSPolicy
}

// authenticating are the ciphers of TLS 1.2 with forward secrecy that authenticate what they encrypt (AEAD). Of those that do not, with CBC,
// crypto/tls has no Encrypt-then-MAC (RFC 7366).
func authenticating() (ids []uint16) {
	for _, suite := range tls.CipherSuites() {
		if strings.Contains(suite.Name, "_GCM_") || strings.Contains(suite.Name, "_CHACHA20_POLY1305_") {
			ids = append(ids, suite.ID)
		}
	}
	return ids
}

func (t *TLS) validate(bad func(format string, args ...any)) {
	if t.MinVersion != 0 && (t.MinVersion < tls.VersionTLS12 || t.MinVersion > tls.VersionTLS13) {
		bad("TLS.MinVersion: %s is not offered", tls.VersionName(t.MinVersion))
	}
	if t.Certificate != nil {
		return
	}
	if t.ODMR|t.SMTP|t.LMTP != session.TLSOptional {
		bad("TLS: required, and there is no certificate")
	}
	if t.ClientCAs != nil {
		bad("TLS.ClientCAs: without a certificate")
	}
}
