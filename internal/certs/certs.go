// Package certs holds the server's certificates, their keys and the CAs of customers' certificates, and
// reads them again while the server runs.
//
// What is in effect is one immutable value behind an atomic pointer: readers take no lock and never wait,
// a session that has begun keeps what it began with, and a version of the files that cannot be used
// as a whole (a pair that does not fit, a CA file without CAs) leaves the old one in effect. The package
// must never log a key, nor put one in an error.
package certs

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"odmr/internal/trust"
)

// PollInterval is how often Watch looks at the files. Certificates are renewed days before they end.
const PollInterval = 5 * time.Second

// Pair is a certificate chain and its key, as files in PEM.
type Pair struct{ Cert, Key string }

// Files are where everything is read from. ClientCA may be empty.
type Files struct {
	Pairs    []Pair
	ClientCA string
}

// Certificates is what the files hold. It is safe for concurrent use.
type Certificates struct {
	files Files
	mu    sync.Mutex // of reloading
	seen  []version
	now   atomic.Pointer[set]
}

// set is one reading of all files. It is not changed.
type set struct {
	certs []*tls.Certificate
	cas   *x509.CertPool // nil if there is no file of CAs
}

// version tells one content of a file from another without reading it.
type version struct {
	size, mtime int64
	mode        os.FileMode
	same        os.FileInfo // identity: a renamed file may have any time
}

// Open reads the files.
func Open(files Files) (*Certificates, error) {
	c := &Certificates{files: files}
	if err := c.Reload(); err != nil {
		return nil, err
	}
	return c, nil
}

// Reload reads the files again. After an error what was read before stays in effect.
func (c *Certificates) Reload() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.reload(c.look())
}

// reload notes what it read, good or not, so that Watch tries each version once.
func (c *Certificates) reload(seen []version) error {
	c.seen = seen
	s, err := c.read()
	if err == nil {
		c.now.Store(s)
	}
	return err
}

func (c *Certificates) read() (*set, error) {
	if len(c.files.Pairs) == 0 {
		return nil, errors.New("no certificate")
	}
	s := &set{}
	var problems []error
	for _, p := range c.files.Pairs {
		cert, err := tls.LoadX509KeyPair(p.Cert, p.Key)
		if err != nil {
			problems = append(problems, fmt.Errorf("%s with %s: %w", p.Cert, p.Key, err))
			continue
		}
		s.certs = append(s.certs, &cert)
	}
	if c.files.ClientCA != "" {
		roots, err := trust.ReadRoots(c.files.ClientCA)
		if s.cas = roots; err != nil {
			problems = append(problems, fmt.Errorf("CAs of customers: %w", err))
		}
	}
	return s, errors.Join(problems...)
}

// look says which versions of the files there are.
func (c *Certificates) look() []version {
	var seen []version
	note := func(name string) {
		info, err := os.Stat(name)
		if err != nil {
			seen = append(seen, version{})
			return
		}
		seen = append(seen, version{info.Size(), info.ModTime().UnixNano(), info.Mode(), info})
	}
	for _, p := range c.files.Pairs {
		note(p.Cert)
		note(p.Key)
	}
	if c.files.ClientCA != "" {
		note(c.files.ClientCA)
	}
	return seen
}

func (v version) equal(o version) bool {
	if v.same == nil || o.same == nil {
		return v.same == nil && o.same == nil
	}
	return v.size == o.size && v.mtime == o.mtime && v.mode == o.mode && os.SameFile(v.same, o.same)
}

// Watch reads the files again whenever one has changed, until ctx ends, and calls report after each time
// with nil or the reason why what was read before stays in effect.
func (c *Certificates) Watch(ctx context.Context, report func(error)) {
	c.watch(ctx, PollInterval, report)
}

func (c *Certificates) watch(ctx context.Context, interval time.Duration, report func(error)) {
	ticker := time.NewTicker(interval)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
			if changed, err := c.refresh(); changed {
				report(err)
			}
		}
	}
}

// refresh reads the files if they are not the versions that were read last.
func (c *Certificates) refresh() (changed bool, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	seen := c.look()
	for i := range seen {
		if !seen[i].equal(c.seen[i]) {
			return true, c.reload(seen)
		}
	}
	return false, nil
}

// Certificate chooses the certificate for a client: the first that fits the name that it asks for, the
// versions and the algorithms that it knows, else the first.
func (c *Certificates) Certificate(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
	s := c.now.Load()
	for _, cert := range s.certs {
		if hello.SupportsCertificate(cert) == nil {
			return cert, nil
		}
	}
	return s.certs[0], nil
}

// ClientCAs are the CAs of customers' certificates; nil if there is no file of them.
func (c *Certificates) ClientCAs() *x509.CertPool { return c.now.Load().cas }

// Ends is when the first of the certificates in effect ends.
func (c *Certificates) Ends() time.Time {
	s := c.now.Load()
	first := s.certs[0].Leaf.NotAfter
	for _, cert := range s.certs[1:] {
		if cert.Leaf.NotAfter.Before(first) {
			first = cert.Leaf.NotAfter
		}
	}
	return first
}

// Describe says for the log which certificates are in effect: their names and when they end.
func (c *Certificates) Describe() []string {
	var all []string
	for _, cert := range c.now.Load().certs {
		names := cert.Leaf.DNSNames
		if len(names) == 0 {
			names = []string{cert.Leaf.Subject.CommonName}
		}
		all = append(all, fmt.Sprintf("%s until %s", strings.Join(names, ","), cert.Leaf.NotAfter.UTC().Format(time.DateOnly)))
	}
	return all
}
