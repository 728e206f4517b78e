package main

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// certificate makes a pair that ends then, and returns its flags.
func (d *daemon) certificate(ends time.Time) []string {
	d.t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		d.t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "mail.isp.example"}, NotBefore: ends.Add(-time.Hour), NotAfter: ends}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		d.t.Fatal(err)
	}
	secret, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		d.t.Fatal(err)
	}
	certFile, keyFile := filepath.Join(d.dir, "cert.pem"), filepath.Join(d.dir, "key.pem")
	if err := errors.Join(
		os.WriteFile(certFile, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o600),
		os.WriteFile(keyFile, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: secret}), 0o600),
	); err != nil {
		d.t.Fatal(err)
	}
	return []string{"--tls-cert=" + certFile, "--tls-key=" + keyFile}
}

// A certificate that has ended, or soon will, is no reason not to serve, but the log and the metrics say so.
func TestCertificateThatEnds(t *testing.T) {
	now := time.Now().Truncate(time.Second)
	for name, c := range map[string]struct {
		ends time.Time
		want string // "" is no word of it
	}{
		"ended": {now.Add(-time.Hour), `"level":"error".*has expired`},
		"soon":  {now.Add(24 * time.Hour), `"level":"warn".*expires soon`},
		"good":  {now.Add(60 * 24 * time.Hour), ""},
	} {
		t.Run(name, func(t *testing.T) {
			d := prepare(t)
			d.start(d.certificate(c.ends)...)
			if c.want != "" {
				d.logged(c.want)
			} else if strings.Contains(d.log(), "a certificate") {
				t.Error(d.log())
			}
			_, page := d.get("/metrics")
			if want := fmt.Sprintf("\nodmr_tls_certificate_expiry_timestamp_seconds %g\n", float64(c.ends.Unix())); !strings.Contains(page, want) {
				t.Errorf("no %q", want)
			}
			d.stop()
		})
	}
}

// Keys and accounts that everybody may read are told of; such as only a group may read are not.
func TestOpenSecretsAreToldOf(t *testing.T) {
	d := prepare(t)
	flags := d.certificate(time.Now().Add(60 * 24 * time.Hour))
	if err := errors.Join(os.Chmod(d.accounts, 0o644), os.Chmod(filepath.Join(d.dir, "key.pem"), 0o640)); err != nil {
		t.Fatal(err)
	}
	d.start(flags...)
	d.logged(`"level":"warn".*/accounts".*everybody on this machine may read`)
	if strings.Count(d.log(), "everybody on this machine") != 1 {
		t.Error(d.log())
	}
	d.stop()
}
