package certs

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"odmr/internal/certtest"
)

// write makes a new self-signed pair for names in dir.
func write(t *testing.T, dir, base string, names ...string) Pair {
	t.Helper()
	p := certtest.SelfSigned(t, &x509.Certificate{Subject: pkix.Name{CommonName: names[0]}, DNSNames: names})
	cert, key := certtest.Write(t, p, dir, base)
	return Pair{cert, key}
}

// replace renames over the file, as tools that renew certificates do.
func replace(t *testing.T, name string, text []byte) {
	t.Helper()
	if err := os.WriteFile(name+".new", text, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(name+".new", name); err != nil {
		t.Fatal(err)
	}
}

// chosen is the first name of the certificate that a client gets which asks for name.
func chosen(t *testing.T, c *Certificates, name string) *x509.Certificate {
	t.Helper()
	cert, err := c.Certificate(&tls.ClientHelloInfo{
		ServerName: name, SupportedVersions: []uint16{tls.VersionTLS13},
		SignatureSchemes: []tls.SignatureScheme{tls.ECDSAWithP256AndSHA256}, SupportedCurves: []tls.CurveID{tls.CurveP256},
	})
	if err != nil {
		t.Fatal(err)
	}
	return cert.Leaf
}

func TestChosenByName(t *testing.T) {
	dir := t.TempDir()
	c, err := Open(Files{Pairs: []Pair{write(t, dir, "a", "mail.isp.example"), write(t, dir, "b", "odmr.isp.example", "*.b.example")}})
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{
		"mail.isp.example": "mail.isp.example", "odmr.isp.example": "odmr.isp.example", "x.b.example": "odmr.isp.example",
		"unknown.example": "mail.isp.example", "": "mail.isp.example",
	} {
		if got := chosen(t, c, name).DNSNames[0]; got != want {
			t.Errorf("%q gets %s, want %s", name, got, want)
		}
	}
	if c.ClientCAs() != nil {
		t.Error("there are CAs without a file")
	}
}

func TestOpenSaysWhatIsWrong(t *testing.T) {
	dir := t.TempDir()
	a, b := write(t, dir, "a", "a.example"), write(t, dir, "b", "b.example")
	empty := filepath.Join(dir, "empty")
	replace(t, empty, nil)
	_, err := Open(Files{Pairs: []Pair{{a.Cert, b.Key}, {filepath.Join(dir, "none"), b.Key}}, ClientCA: empty})
	for _, want := range []string{"a.pem with", "does not match", "none with", empty + " has no certificate"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("nothing is said of %q: %v", want, err)
		}
	}
	if _, err := Open(Files{}); err == nil {
		t.Error("no certificate is good enough")
	}
}

// A broken version keeps the old one; the next good one counts, whoever notices it.
// The one that ends first counts, in whichever place.
func TestEnds(t *testing.T) {
	at := func(seconds int64) *tls.Certificate {
		return &tls.Certificate{Leaf: &x509.Certificate{NotAfter: time.Unix(seconds, 0)}}
	}
	for _, certs := range [][]*tls.Certificate{{at(5)}, {at(5), at(7)}, {at(9), at(7), at(5), at(6)}} {
		c := new(Certificates)
		c.now.Store(&set{certs: certs})
		if got := c.Ends().Unix(); got != 5 {
			t.Errorf("%d, want 5", got)
		}
	}
}

func TestReload(t *testing.T) {
	dir := t.TempDir()
	p := write(t, dir, "a", "one.example")
	c, err := Open(Files{Pairs: []Pair{p}, ClientCA: p.Cert})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	reports, ended := make(chan error, 100), make(chan struct{})
	go func() {
		c.watch(ctx, time.Millisecond, func(err error) { reports <- err })
		close(ended)
	}()
	defer func() { cancel(); <-ended }()
	next := func() error {
		t.Helper()
		select {
		case err := <-reports:
			return err
		case <-time.After(5 * time.Minute):
			t.Fatal("nothing was noticed")
			return nil
		}
	}
	cas := c.ClientCAs()
	replace(t, p.Cert, []byte("junk"))
	if err := next(); err == nil {
		t.Error("junk is a certificate")
	}
	if got := chosen(t, c, "").DNSNames[0]; got != "one.example" || c.ClientCAs() != cas {
		t.Errorf("in effect is %s", got)
	}
	for time.Sleep(20 * time.Millisecond); len(reports) > 0; { // each version is tried once
		t.Errorf("junk was tried again: %v", <-reports)
	}
	write(t, dir, "a", "two.example") // certificate first, then key: perhaps a broken one between
	for err := next(); err != nil; err = next() {
	}
	if got := chosen(t, c, "").DNSNames[0]; got != "two.example" || c.ClientCAs() == cas {
		t.Errorf("in effect is %s", got)
	}
	if all := c.Describe(); len(all) != 1 || !strings.HasPrefix(all[0], "two.example until 2") {
		t.Errorf("described as %q", all)
	}
	cancel()
	<-ended
	write(t, dir, "a", "three.example")
	if err := c.Reload(); err != nil || chosen(t, c, "").DNSNames[0] != "three.example" {
		t.Errorf("after SIGHUP: %v", err)
	}
}
