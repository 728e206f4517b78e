package main

import (
	"crypto/tls"
	"fmt"

	"odmr/engine"
	"odmr/engine/session"
	"odmr/internal/certs"
)

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
		return fmt.Errorf("--tls-cert: %w", err)
	}
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
