// Package trust is what a connection to another server rests on: its CAs, the password that it is given, and whether what is
// said to it could be heard, or answered, by somebody else. The files are the operator's, and read anew whenever they are asked for.
//
// No error holds a password.
package trust

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"strings"
)

// ReadPassword returns the password that is the only line of file. An empty one is an error: to LDAP it would be an anonymous
// bind, which succeeds (RFC 4513 5.1.2).
func ReadPassword(file string) (string, error) {
	text, err := os.ReadFile(file)
	if err != nil {
		return "", err
	}
	password := strings.TrimRight(string(text), "\r\n")
	if password == "" || strings.ContainsAny(password, "\r\n") {
		return "", fmt.Errorf("%s is not one line with a password", file)
	}
	return password, nil
}

// ReadRoots returns the CAs in file, which is PEM.
func ReadRoots(file string) (*x509.CertPool, error) {
	text, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(text) {
		return nil, fmt.Errorf("%s has no certificate in PEM", file)
	}
	return pool, nil
}

// Local reports whether host, a name or an address without a port, is this machine, so that nothing said to it is on a wire.
func Local(host string) bool {
	if host == "localhost" {
		return true
	}
	ip, err := netip.ParseAddr(host)
	return err == nil && ip.Unmap().IsLoopback()
}

// ErrUnverified says that secrets would go to another machine, or come from there, over a connection that is in clear or whose other
// end has not proved its name.
var ErrUnverified = errors.New("would give secrets to whoever answers in the server's place")

// CheckSecrecy returns nil if secrets may go to host, and what it answers may be believed, over a connection with TLS as in cfg, nil
// being clear text: only to this machine, or where the certificate is verified, its name included.
func CheckSecrecy(host string, cfg *tls.Config) error {
	switch {
	case Local(host):
		return nil
	case cfg == nil:
		return fmt.Errorf("clear text to %s %w", host, ErrUnverified)
	case cfg.InsecureSkipVerify:
		return fmt.Errorf("TLS to %s without verifying its certificate and name %w", host, ErrUnverified)
	}
	return nil
}
