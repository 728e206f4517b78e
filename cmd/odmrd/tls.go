package main

import (
	"crypto/tls"
	"fmt"
	"os"
	"time"

	"odmr/engine"
	"odmr/engine/session"
	"odmr/internal/certs"
)

// renewalDue is how long before its end a certificate should have been renewed: those that live for 90 days
// are renewed 30 days before.
const renewalDue = 14 * 24 * time.Hour

// openCertificates reads what --tls-cert, --tls-key and --tls-client-ca name.
func (s *server) openCertificates() error {
	if len(s.cfg.TLSCert) == 0 {
		return nil
	}
	files := certs.Files{ClientCA: s.cfg.TLSClientCA}
	for i, cert := range s.cfg.TLSCert {
		files.Pairs = append(files.Pairs, certs.Pair{Cert: cert, Key: s.cfg.TLSKey[i]})
	}
	var err error
	if s.certs, err = certs.Open(files); err != nil {
		return fmt.Errorf("--tls-cert, --tls-key, --tls-client-ca: %w", err)
	}
	s.metrics.ShowCertificates(s.certs.Ends)
	s.certificatesRead(nil)
	return nil
}

// certificatesRead tells the log of a reading of the certificates; broken ones change nothing.
func (s *server) certificatesRead(err error) {
	if err != nil {
		s.log.Error().Err(err).Strs("certificates", s.certs.Describe()).Msg("certificates are broken, the old ones stay in effect")
		return
	}
	s.log.Info().Strs("certificates", s.certs.Describe()).Msg("certificates read")
	switch left := time.Until(s.certs.Ends()); {
	case left <= 0:
		s.log.Error().Time("ended", s.certs.Ends()).Msg("a certificate has expired: customers who check it cannot log in; renew it")
	case left < renewalDue:
		s.log.Warn().Time("ends", s.certs.Ends()).Msg("a certificate expires soon: renew it")
	}
	for _, key := range s.cfg.TLSKey {
		s.warnIfOpen(key)
	}
}

// warnIfOpen tells the log of a file with secrets that everybody on the machine may read.
func (s *server) warnIfOpen(file string) {
	if info, err := os.Stat(file); err == nil && info.Mode().Perm()&0o007 != 0 {
		s.log.Warn().Str("file", file).Stringer("mode", info.Mode().Perm()).Msg("everybody on this machine may read the secrets in this file: chmod o= it")
	}
}

// tls is what the engine needs to know.
func (s *server) tls() engine.TLS {
	if s.certs == nil {
		return engine.TLS{}
	}
	t := engine.TLS{Certificate: s.certs.Certificate, MinVersion: tls.VersionTLS12}
	if s.cfg.TLSMinVersion == "1.3" {
		t.MinVersion = tls.VersionTLS13
	}
	if s.cfg.TLSClientCA != "" {
		t.ClientCAs = s.certs.ClientCAs
	}
	policies := map[string]session.TLSPolicy{"none": session.TLSOptional, "auth": session.TLSForLogin, "all": session.TLSForAll}
	roles := map[string]*session.TLSPolicy{"odmr": &t.ODMR, "smtp": &t.SMTP, "lmtp": &t.LMTP}
	for _, r := range s.cfg.TLSRequired {
		*roles[r.Role] = policies[r.When]
	}
	return t
}
