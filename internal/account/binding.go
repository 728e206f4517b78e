package account

import (
	"crypto"
	"crypto/tls"
	"crypto/x509"

	_ "crypto/sha256" // hashes of tls-server-end-point
	_ "crypto/sha512"
)

// Channel binding types (RFC 5056): what ties a SCRAM exchange to the TLS connection it runs in.
const (
	bindExporter = "tls-exporter"         // RFC 9266: TLS 1.3, and 1.2 with the extended master secret
	bindUnique   = "tls-unique"           // RFC 5929 3: TLS 1.2 only (RFC 8446 C.5)
	bindEndPoint = "tls-server-end-point" // RFC 5929 4: a hash of our certificate
)

// bindable reports whether peer's connection has something to bind to.
func (a *Authenticator) bindable(peer *Peer) bool {
	for _, kind := range []string{bindEndPoint, bindUnique, bindExporter} { // cheap ones first
		if peer.channelBinding(kind) != nil {
			return true
		}
	}
	return false
}

// channelBinding returns the binding of that type, or nil if the connection has none.
func (p *Peer) channelBinding(kind string) []byte {
	if p.TLS == nil || !p.TLS.HandshakeComplete {
		return nil
	}
	switch kind {
	case bindExporter:
		// RFC 9266 2: no context, 32 octets. crypto/tls refuses it in TLS 1.2 without the extended
		// master secret, as RFC 9266 4.2 asks.
		data, err := p.TLS.ExportKeyingMaterial("EXPORTER-Channel-Binding", nil, 32)
		if err != nil {
			return nil
		}
		return data
	case bindUnique:
		if p.TLS.Version >= tls.VersionTLS13 || len(p.TLS.TLSUnique) == 0 {
			return nil
		}
		return p.TLS.TLSUnique
	case bindEndPoint:
		return endPoint(p.ServerCertificate)
	}
	return nil
}

// endPoint is the hash of RFC 5929 4.1: with the hash function of the certificate's signature, SHA-256 in
// place of MD5 and SHA-1. Where the signature has none of its own (Ed25519), the type is undefined.
func endPoint(c *x509.Certificate) []byte {
	if c == nil {
		return nil
	}
	var hash crypto.Hash
	switch c.SignatureAlgorithm {
	case x509.MD5WithRSA, x509.SHA1WithRSA, x509.DSAWithSHA1, x509.ECDSAWithSHA1,
		x509.SHA256WithRSA, x509.SHA256WithRSAPSS, x509.ECDSAWithSHA256, x509.DSAWithSHA256:
		hash = crypto.SHA256
	case x509.SHA384WithRSA, x509.SHA384WithRSAPSS, x509.ECDSAWithSHA384:
		hash = crypto.SHA384
	case x509.SHA512WithRSA, x509.SHA512WithRSAPSS, x509.ECDSAWithSHA512:
		hash = crypto.SHA512
	default:
		return nil
	}
	h := hash.New()
	h.Write(c.Raw)
	return h.Sum(nil)
}
