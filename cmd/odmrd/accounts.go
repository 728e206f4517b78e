package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"time"

	"github.com/rs/zerolog"

	"odmr/internal/account"
	"odmr/internal/account/cache"
	"odmr/internal/account/ldapdir"
	"odmr/internal/account/sqldir"
	"odmr/internal/admin"
	"odmr/internal/config"
	"odmr/internal/metrics"
	"odmr/internal/trust"
)

// openAccounts reads the accounts file, if that is what --accounts names.
func (s *server) openAccounts() error {
	if !s.cfg.Accounts.File() {
		return nil
	}
	path := string(s.cfg.Accounts)
	accounts, err := account.OpenFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("--accounts: there is no file %s; make it with: odmrctl --accounts %s account add NAME --domain DOMAIN", path, path)
	}
	if err != nil {
		return fmt.Errorf("--accounts: %w", err)
	}
	s.accounts = accounts
	s.accountsRead(nil)
	return nil
}

// accountsRead tells log and metrics of a reading of the accounts file; a broken one changes nothing.
func (s *server) accountsRead(err error) {
	table := s.accounts.Table()
	s.metrics.AccountsRead(err, len(table.Accounts()), table.Domains())
	if err != nil {
		s.log.Error().Err(err).Int("accounts", len(table.Accounts())).Msg("accounts file is broken, the old accounts stay in effect")
		return
	}
	s.recheckSessions(0, 1)
	s.log.Info().Str("file", s.accounts.Path()).Int("accounts", len(table.Accounts())).Int("domains", table.Domains()).Msg("accounts read")
	s.warnIfOpen(s.accounts.Path())
}

// openElsewhere makes the directory of accounts that are not in a file. One that does not answer is no reason not to start:
// mail that waits is kept, and whoever asks is told to come again, as at any other time.
func (s *server) openElsewhere(secret []byte) error {
	if s.accounts != nil {
		return nil
	}
	c := s.cfg
	s.keys = account.NewDeriver(secret, c.AccountsCacheEntries)
	src, err := source(c, s.keys)
	if err != nil {
		if errors.Is(err, trust.ErrUnverified) {
			err = fmt.Errorf("%w, or say --accounts-unverified", err)
		}
		return fmt.Errorf("--accounts %s: %w", c.Accounts, err)
	}
	s.elsewhere = cache.New(src, cache.Config{
		TTL: c.AccountsCache, NegativeTTL: c.AccountsCacheNegative, StaleTTL: c.AccountsStale, Entries: c.AccountsCacheEntries,
		Timeout: c.AccountsTimeout, Connections: c.AccountsConnections, Now: time.Now,
		Observer: &directoryEvents{s.log, s.log.Sample(&zerolog.BurstSampler{Burst: 10, Period: time.Second}), s.metrics, &s.ready},
	})
	if s.elsewhere.Check(context.Background()) == nil {
		s.metrics.DirectoryUp()
		s.log.Info().Stringer("accounts", c.Accounts).Msg("accounts are looked up")
	}
	return nil
}

// source is the database or directory service that --accounts names.
func source(c *config.Config, keys *account.Deriver) (cache.Source, error) {
	if c.Accounts.SQL() {
		q := sqldir.Defaults
		for _, f := range []struct {
			given string
			query *string
		}{
			{c.AccountsQueryAccount, &q.Account}, {c.AccountsQueryDomains, &q.Domains},
			{c.AccountsQueryOwners, &q.Owners}, {c.AccountsQueryIdentities, &q.Identities},
			{c.AccountsQueryRecipients, &q.Recipients},
		} {
			if f.given != "" {
				*f.query = f.given
			}
		}
		return sqldir.Open(sqldir.Config{URL: string(c.Accounts), PasswordFile: c.AccountsPasswordFile, CAFile: c.AccountsCA,
			Unverified: c.AccountsUnverified, Queries: q, Connections: c.AccountsConnections, Keys: keys})
	}
	attributes := ldapdir.Defaults
	for _, r := range c.AccountsAttributes {
		if err := attributes.Set(r.What, r.Attribute); err != nil {
			return nil, fmt.Errorf("--accounts-attributes: %w", err)
		}
	}
	return ldapdir.Open(ldapdir.Config{URL: string(c.Accounts), StartTLS: c.AccountsStartTLS, CAFile: c.AccountsCA, Unverified: c.AccountsUnverified, Bind: c.AccountsBind,
		PasswordFile: c.AccountsPasswordFile, Attributes: attributes, Connections: c.AccountsConnections, Keys: keys})
}

// directory is where the engine looks accounts up.
func (s *server) directory() account.Directory {
	if s.accounts != nil {
		return s.accounts
	}
	return s.elsewhere
}

// owner is the account that may collect domain, nil if there is none.
func (s *server) owner(domain string) (*account.Account, error) {
	a, err := s.directory().Owner(domain)
	if errors.Is(err, account.ErrUnknown) {
		return nil, nil
	}
	return a, err
}

// reloadAccounts reads the accounts file again, or forgets what was looked up.
func (s *server) reloadAccounts() {
	if s.accounts != nil {
		err := s.accounts.Reload(time.Now)
		if errors.Is(err, account.ErrUnsettled) {
			s.log.Info().Str("file", s.accounts.Path()).Msg("the accounts file is just being written; the old accounts stay in effect until it is left alone, then it is read")
			return
		}
		s.accountsRead(err)
		return
	}
	s.keys.Forget()
	s.elsewhere.Drop()
	s.recheckSessions(0, 1)
	s.log.Info().Stringer("accounts", s.cfg.Accounts).Msg("accounts that were remembered are forgotten")
}

// watchAccounts picks up what odmrctl changes in the file, or looks after the directory, until ctx ends.
func (s *server) watchAccounts(ctx context.Context) {
	if s.accounts != nil {
		s.accounts.Watch(ctx, time.Now, func(c account.Change) { s.accountsRead(c.Err) })
		return
	}
	s.watching.Go(func() { s.recheckInTurn(ctx) })
	s.elsewhere.Run(ctx)
}

// recheckSessions has the sessions that drain mail ended whose accounts may not any more.
func (s *server) recheckSessions(part, parts int) {
	if s.engine != nil { // not yet, at the start
		s.engine.Recheck(part, parts)
	}
}

// recheckParts is in how many parts sessions are asked for. It is prime to how they are numbered.
const recheckParts = 31

// recheckInTurn asks for every session once in the time for which its account is remembered: nobody tells of a change.
func (s *server) recheckInTurn(ctx context.Context) {
	ticker := time.NewTicker(max(s.cfg.AccountsCache, time.Second) / recheckParts)
	defer ticker.Stop()
	for part := 0; ; part = (part + 1) % recheckParts {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
			s.recheckSessions(part, recheckParts)
		}
	}
}

// directoryEvents brings what a directory elsewhere tells of itself to the log, to the metrics and to readiness.
type directoryEvents struct {
	log     zerolog.Logger
	sparse  zerolog.Logger
	metrics *metrics.Metrics
	ready   *admin.Conditions
}

var _ cache.Observer = (*directoryEvents)(nil)

func (e *directoryEvents) Answered(o cache.Origin) { e.metrics.DirectoryAnswered(o.String()) }

func (e *directoryEvents) Queried(took time.Duration, err error) {
	why := ""
	switch {
	case errors.Is(err, cache.ErrRefused):
		why = "refused"
	case err != nil:
		why = "down"
	}
	e.metrics.DirectoryQueried(took, why)
}

func (e *directoryEvents) Down(err error) {
	if errors.Is(err, cache.ErrRefused) {
		e.metrics.DirectoryRefuses()
	} else {
		e.metrics.DirectoryDown()
	}
	e.ready.Set(condDirectory, "accounts cannot be looked up, only those remembered are served: "+err.Error())
	e.log.Error().Err(err).Msg("accounts cannot be looked up; logins and mail for what is not remembered are put off")
}

func (e *directoryEvents) Up() {
	e.metrics.DirectoryUp()
	e.ready.Clear(condDirectory)
	e.log.Info().Msg("accounts are looked up again")
}

func (e *directoryEvents) Unusable(err error) {
	e.metrics.DirectoryUnusable()
	e.sparse.Error().Err(err).Msg("the record of an account cannot be used, its logins and mail are put off")
}
