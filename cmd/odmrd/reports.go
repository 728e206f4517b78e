package main

import (
	"context"
	"crypto/x509"
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"sync"
	"time"

	"odmr/internal/account"
	"odmr/internal/bounce"
	"odmr/internal/config"
	"odmr/internal/mail"
	"odmr/internal/outbound"
	"odmr/internal/trust"
	"odmr/queue"
)

// reports are the goroutines that look after mail which no session settles.
type reports struct {
	stop    context.CancelFunc
	running sync.WaitGroup
}

// startReports begins to look after failed and old mail, and to send reports if there is a smarthost.
func (s *server) startReports() error {
	store := s.store.Load()
	s.metrics.ShowOutbound(func() queue.Counts {
		if store := s.store.Load(); store != nil {
			return store.Counts(mail.OutboundDomain)
		}
		return queue.Counts{}
	})
	ctx, cancel := context.WithCancel(context.Background())
	s.reports.stop = cancel
	wake := func() {}
	if s.cfg.Smarthost != "" {
		host, err := smarthost(s.cfg)
		if err != nil {
			return err
		}
		sender := outbound.New(outbound.Config{
			Store: store, Smarthost: host, Now: time.Now, Jitter: rand.Float64, Observer: s.metrics, Logger: s.log,
		})
		wake = sender.Wake
		s.reports.running.Go(func() { sender.Run(ctx) })
	} else if s.cfg.Bounce == "on" {
		s.log.Warn().Int64("waiting", store.Counts(mail.OutboundDomain).Messages).Dur("retention_ms", s.cfg.Retention).
			Msg("there is no --smarthost: reports to senders outside wait until they expire")
	}
	reporter := bounce.New(bounce.Config{
		Store: store, Hostname: s.cfg.Hostname, Policy: s.heldPolicy, Held: s.directory().Collectable,
		Now: time.Now, Wake: wake, Observer: s.metrics, Logger: s.log,
		Holds: holdNotes(filepath.Join(s.cfg.Data, "hold.notes")),
	})
	s.reports.running.Go(func() { reporter.Run(ctx) })
	return nil
}

func (s *server) stopReports() {
	if s.reports.stop != nil {
		s.reports.stop()
		s.reports.running.Wait()
	}
}

// heldPolicy is what holds for the mail of domain: its account's settings, or the flags. While the account cannot be looked up
// nothing is known to hold.
func (s *server) heldPolicy(domain string) (bounce.Policy, error) {
	p := bounce.Policy{Retention: s.cfg.Retention, DelayNotice: time.Duration(s.cfg.DelayNotice), Bounce: s.cfg.Bounce == "on"}
	a, err := s.owner(domain)
	if err != nil || a == nil {
		return p, err
	}
	if a.Policy.Retention != 0 {
		p.Retention = a.Policy.Retention
	}
	switch d := a.Policy.DelayNotice; d {
	case 0:
	case account.Off:
		p.DelayNotice = 0
	default:
		p.DelayNotice = d
	}
	if a.Policy.Bounce != account.AsServer {
		p.Bounce = a.Policy.Bounce == account.On
	}
	p.Hold = a.Policy.Hold == account.On
	return p, nil
}

// smarthost is what the flags say of it. Its files are looked at now, so that a slip shows at the start.
func smarthost(c *config.Config) (outbound.Smarthost, error) {
	h := outbound.Smarthost{
		Addr: c.Smarthost, Hostname: c.Hostname, TLS: outbound.TLSMode(c.SmarthostTLS), User: c.SmarthostUser,
		Password: func() (string, error) { return trust.ReadPassword(c.SmarthostPasswordFile) },
	}
	if c.SmarthostUser != "" {
		if _, err := h.Password(); err != nil {
			return h, fmt.Errorf("--smarthost-password-file: %w", err)
		}
	}
	if c.SmarthostCA != "" {
		h.Roots = func() (*x509.CertPool, error) { return trust.ReadRoots(c.SmarthostCA) }
		if _, err := h.Roots(); err != nil {
			return h, fmt.Errorf("--smarthost-ca: %w", err)
		}
	}
	return h, nil
}

// quotaCode is the reply to mail over a quota.
func quotaCode(c *config.Config) int {
	if c.QuotaReply == "552" {
		return 552
	}
	return 452
}
