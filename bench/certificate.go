package bench

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"math/big"
	"os"
	"path/filepath"
	"time"
)

// selfSigned makes a certificate that nobody else trusts, in DER, and its key. P-256 is what public certificates have.
func selfSigned() (cert []byte, key *ecdsa.PrivateKey, err error) {
	key, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, nil, err
	}
	template := x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "odmr.bench.example"}, DNSNames: []string{"odmr.bench.example"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
	}
	cert, err = x509.CreateCertificate(rand.Reader, &template, &template, &key.PublicKey, key)
	return cert, key, err
}

// loopbackTLS is how the writer of raw loopback speaks TLS: as the server does, in full records from the first.
func loopbackTLS() (*tls.Config, error) {
	cert, key, err := selfSigned()
	if err != nil {
		return nil, err
	}
	return &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{cert}, PrivateKey: key}}, DynamicRecordSizingDisabled: true}, nil
}

// anyServer is a client's configuration: the certificate is not what is measured.
func anyServer() *tls.Config { return &tls.Config{InsecureSkipVerify: true} }

// certificate makes one for the server and returns its flags.
func (e *Env) certificate() ([]string, error) {
	cert, key, err := selfSigned()
	if err != nil {
		return nil, err
	}
	secret, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, err
	}
	certFile, keyFile := filepath.Join(e.Dir, "cert.pem"), filepath.Join(e.Dir, "key.pem")
	err = errors.Join(
		os.WriteFile(certFile, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert}), 0o600),
		os.WriteFile(keyFile, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: secret}), 0o600),
	)
	return []string{"--tls-cert", certFile, "--tls-key", keyFile}, err
}
