// Package sqldir looks accounts up in an SQL database: PostgreSQL, MariaDB and MySQL, or SQLite. It is a cache.Source.
//
// What is asked is text of the operator's: five queries with named parameters (Queries), which are the same for every
// database. What peers send goes into parameters only, never into the text of a query. Rows of the package's own schema
// (Schema) need no query to be written.
//
// Every call ends with its context. The package never writes to the database, never logs, and no error of it holds a
// secret: where the server says that a password was wrong, it does not say which.
package sqldir

import (
	"context"
	"database/sql"
	"embed"
	"errors"
	"fmt"
	"strings"
	"time"

	"odmr/internal/account"
	"odmr/internal/account/cache"
)

// Queries are what is asked. Parameters are written :name, and :domains or :identities for lists (IN (:domains)).
type Queries struct {
	// Account has :name, and columns by name: name, and any of secrets, password and settings. Several rows add up.
	Account string
	// Domains has :name, and one column: the account's domains.
	Domains string
	// Owners has :domains, and two columns: a domain and the name of the account that may collect it.
	Owners string
	// Identities has :identities, and two columns: an identity and the name of the account that is known by it. Empty: EXTERNAL is not
	// possible.
	Identities string
	// Recipients has :name, and one column: the addresses that mail is taken for, as user@domain or @domain. Empty: there are no lists.
	Recipients string
}

// Defaults are the queries for the tables of Schema.
var Defaults = Queries{
	Account: "SELECT name, secrets, password, settings FROM odmr_accounts WHERE name = :name",
	Domains: "SELECT domain FROM odmr_domains WHERE account = :name",
	Owners:  "SELECT domain, account FROM odmr_domains WHERE domain IN (:domains)",
}

//go:embed schema/*.sql
var schemas embed.FS

// Schema returns the tables that Defaults ask, for "postgres", "mysql" or "sqlite".
func Schema(kind string) (string, error) {
	text, err := schemas.ReadFile("schema/" + kind + ".sql")
	if err != nil {
		return "", fmt.Errorf("sqldir: no schema for %q", kind)
	}
	return string(text), nil
}

// Config is what a Source is made of.
type Config struct {
	URL          string // postgres://, mysql:// or sqlite:PATH
	PasswordFile string // holds the password instead of the URL; read for each connection. Empty: none
	CAFile       string // CAs that the server's certificate is verified against, MySQL only. Empty: as the URL says
	Unverified   bool   // a server on another machine may do without TLS, or without a certificate that verifies
	Queries      Queries
	Connections  int // at once
	Keys         *account.Deriver
}

// Source is a cache.Source. Make it with Open.
type Source struct {
	db      *sql.DB
	dialect *dialect
	queries struct{ account, domains, owners, identities, recipients query }
	keys    *account.Deriver
	idle    int // connections that may be kept
}

var _ cache.Source = (*Source)(nil)

const (
	// idleTime is how long a connection may be unused: less than what firewalls in between allow.
	idleTime = 5 * time.Minute
	// closeTime bounds how long the end waits for the goodbyes to a server that may hang.
	closeTime = 2 * time.Second
	// maxRows is how many rows an answer may have: see account.Record's bound on domains.
	maxRows = 10_001
)

// Open makes a Source. It does not connect; its errors are about cfg.
func Open(cfg Config) (*Source, error) {
	kind, _, _ := strings.Cut(cfg.URL, ":")
	s := &Source{dialect: dialects[kind], keys: cfg.Keys, idle: cfg.Connections + 1} // one for Check
	if s.dialect == nil {
		return nil, fmt.Errorf("sqldir: unknown kind of database %q", kind)
	}
	var problems []error
	for _, q := range []struct {
		compiled *query
		flag     string
		text     string
		param    string
		columns  int
	}{
		{&s.queries.account, "account", cfg.Queries.Account, "name", 0},
		{&s.queries.domains, "domains", cfg.Queries.Domains, "name", 1},
		{&s.queries.owners, "owners", cfg.Queries.Owners, "domains", 2},
		{&s.queries.identities, "identities", cfg.Queries.Identities, "identities", 2},
		{&s.queries.recipients, "recipients", cfg.Queries.Recipients, "name", 1},
	} {
		if q.text == "" && (q.flag == "identities" || q.flag == "recipients") {
			continue
		}
		var err error
		if *q.compiled, err = compile(q.text, q.param, s.dialect); err != nil {
			problems = append(problems, fmt.Errorf("query of %s: %w", q.flag, err))
		}
		q.compiled.what, q.compiled.columns, q.compiled.rows = q.flag, q.columns, maxRows
	}
	s.queries.recipients.rows = account.MaxRecipients + 1
	if err := errors.Join(problems...); err != nil {
		return nil, err
	}
	var err error
	if s.db, err = s.dialect.open(cfg); err != nil {
		return nil, err
	}
	s.db.SetMaxOpenConns(s.idle)
	s.db.SetMaxIdleConns(s.idle)
	s.db.SetConnMaxIdleTime(idleTime)
	s.db.SetConnMaxLifetime(s.dialect.lifetime)
	return s, nil
}

// Account implements cache.Source.
func (s *Source) Account(ctx context.Context, name string) (*account.Account, error) {
	rows, err := s.rows(ctx, &s.queries.account, []string{name})
	if err != nil {
		return nil, err
	}
	record := account.Record{Name: name}
	known := false
	for _, row := range rows.values {
		r := rows.record(row)
		if r.Name != name { // a collation that folds case
			continue
		}
		known = true
		record.Secrets = appendNew(record.Secrets, r.Secrets)
		record.Passwords = appendNew(record.Passwords, r.Passwords)
		record.Settings = appendNew(record.Settings, r.Settings)
	}
	if !known {
		return nil, account.ErrUnknown
	}
	domains, err := s.rows(ctx, &s.queries.domains, []string{name})
	if err != nil {
		return nil, err
	}
	for _, row := range domains.values {
		record.Domains = append(record.Domains, row[0])
	}
	return record.Account(s.keys)
}

// appendNew appends those of more that are not in list: an account's rows in a join repeat most columns.
func appendNew(list, more []string) []string {
	for _, m := range more {
		have := false
		for _, l := range list {
			have = have || l == m
		}
		if !have {
			list = append(list, m)
		}
	}
	return list
}

// Owners implements cache.Source.
func (s *Source) Owners(ctx context.Context, domains []string) (map[string]string, error) {
	return s.pairs(ctx, &s.queries.owners, domains)
}

// Holders implements cache.Source.
func (s *Source) Holders(ctx context.Context, identities []string) (map[string]string, error) {
	return s.pairs(ctx, &s.queries.identities, identities)
}

// Recipients implements cache.Source.
func (s *Source) Recipients(ctx context.Context, name string) ([]string, error) {
	rows, err := s.rows(ctx, &s.queries.recipients, []string{name})
	if err != nil {
		return nil, err
	}
	addresses := make([]string, len(rows.values))
	for i, row := range rows.values {
		addresses[i] = row[0]
	}
	return account.ParseRecipients(name, addresses)
}

// Lists implements cache.Source.
func (s *Source) Lists() bool { return s.queries.recipients.text != nil }

// pairs asks for the account of each of keys, in portions.
func (s *Source) pairs(ctx context.Context, q *query, keys []string) (map[string]string, error) {
	found := make(map[string]string, len(keys))
	for len(keys) > 0 {
		n := min(len(keys), maxList)
		answer, err := s.rows(ctx, q, keys[:n])
		if err != nil {
			return nil, err
		}
		keys = keys[n:]
		for _, row := range answer.values {
			if other, ok := found[row[0]]; ok && other != row[1] {
				return nil, fmt.Errorf("%w: %s is that of account %q and of account %q", account.ErrRecord, row[0], other, row[1])
			}
			found[row[0]] = row[1]
		}
	}
	return found, nil
}

// Identities implements cache.Source.
func (s *Source) Identities() bool { return s.queries.identities.text != nil }

// probe stands for a name, a domain and an identity that nobody has.
const probe = "odmrd.invalid"

// Check implements cache.Source: every query is asked for something that there is not.
func (s *Source) Check(ctx context.Context) error {
	for _, q := range []*query{&s.queries.account, &s.queries.domains, &s.queries.owners, &s.queries.identities, &s.queries.recipients} {
		if q.text == nil {
			continue
		}
		answer, err := s.rows(ctx, q, []string{probe})
		if err == nil && q == &s.queries.account {
			err = answer.checkAccount()
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// Reset implements cache.Source. A server that hangs is not waited for.
func (s *Source) Reset() {
	go func() {
		s.db.SetMaxIdleConns(-1)
		s.db.SetMaxIdleConns(s.idle)
	}()
}

// Close implements cache.Source.
func (s *Source) Close() {
	done := make(chan struct{})
	go func() {
		_ = s.db.Close() // of a server that has gone: nothing was written
		close(done)
	}()
	timer := time.NewTimer(closeTime)
	defer timer.Stop()
	select {
	case <-done:
	case <-timer.C: // the rest ends with the process
	}
}
