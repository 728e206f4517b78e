// Package certtest makes certificates for tests: valid for a day, with keys that nobody has seen before. Only tests may import it.
package certtest

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// Authority signs certificates.
type Authority struct {
	*tls.Certificate
	Pool *x509.CertPool // of itself
}

// NewAuthority makes one.
func NewAuthority(t testing.TB) *Authority {
	t.Helper()
	return authority(SelfSigned(t, &x509.Certificate{Subject: pkix.Name{CommonName: "test CA"}, KeyUsage: x509.KeyUsageCertSign}))
}

func authority(c *tls.Certificate) *Authority {
	a := &Authority{c, x509.NewCertPool()}
	a.Pool.AddCert(c.Leaf)
	return a
}

// Issue signs what tmpl asks for.
func (a *Authority) Issue(t testing.TB, tmpl *x509.Certificate) *tls.Certificate {
	t.Helper()
	return sign(t, tmpl, a.Certificate, newKey(t))
}

// Server signs a server's certificate for names.
func (a *Authority) Server(t testing.TB, names ...string) *tls.Certificate {
	t.Helper()
	return a.Issue(t, &x509.Certificate{DNSNames: names, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}})
}

// Client signs a client's certificate, with name as its subject.
func (a *Authority) Client(t testing.TB, name string) *tls.Certificate {
	t.Helper()
	return a.Issue(t, &x509.Certificate{Subject: pkix.Name{CommonName: name}, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}})
}

// SelfSigned makes a certificate that is its own authority.
func SelfSigned(t testing.TB, tmpl *x509.Certificate) *tls.Certificate {
	t.Helper()
	return SelfSignedWith(t, tmpl, newKey(t))
}

// SelfSignedWith is SelfSigned with a key of any kind.
func SelfSignedWith(t testing.TB, tmpl *x509.Certificate, key crypto.Signer) *tls.Certificate {
	t.Helper()
	tmpl.IsCA, tmpl.BasicConstraintsValid = true, true
	return sign(t, tmpl, nil, key)
}

func newKey(t testing.TB) crypto.Signer {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// sign has by sign tmpl, or tmpl itself if by is nil.
func sign(t testing.TB, tmpl *x509.Certificate, by *tls.Certificate, key crypto.Signer) *tls.Certificate {
	t.Helper()
	serial, err := rand.Int(rand.Reader, big.NewInt(1<<62))
	if err != nil {
		t.Fatal(err)
	}
	tmpl.SerialNumber = serial
	tmpl.NotBefore, tmpl.NotAfter = time.Now().Add(-time.Hour), time.Now().Add(24*time.Hour)
	parent, signer := tmpl, crypto.PrivateKey(key)
	if by != nil {
		parent, signer = by.Leaf, by.PrivateKey
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, parent, key.Public(), signer)
	if err != nil {
		t.Fatal(err)
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return &tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key, Leaf: leaf}
}

// Write writes BASE.pem and BASE.key, 0600, renaming them into place as tools that renew certificates do, and returns their paths.
func Write(t testing.TB, c *tls.Certificate, dir, base string) (cert, key string) {
	t.Helper()
	der, err := x509.MarshalPKCS8PrivateKey(c.PrivateKey)
	if err != nil {
		t.Fatal(err)
	}
	write := func(name, kind string, der []byte) string {
		name = filepath.Join(dir, name)
		if err := os.WriteFile(name+".new", pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(name+".new", name); err != nil {
			t.Fatal(err)
		}
		return name
	}
	return write(base+".pem", "CERTIFICATE", c.Certificate[0]), write(base+".key", "PRIVATE KEY", der)
}
