// Package ldapdir looks accounts up in an LDAP directory (RFC 4511), by way of go-ldap. It is a cache.Source.
//
// An account is one entry: its name, its domains and its secrets are attributes (Attributes). What peers send is escaped into filters
// (RFC 4515 3) and nothing else. Schema is the object class for those who have none.
//
// Connections are few, bound once and used again; one that fails, or whose answer does not come before the context ends,
// is closed. The package never writes to the directory, never logs, and no error of it holds a secret.
package ldapdir

import (
	"context"
	_ "embed"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/go-ldap/ldap/v3"

	"odmr/internal/account"
	"odmr/internal/account/cache"
	"odmr/internal/trust"
)

// Attributes name the attributes of an account's entry.
type Attributes struct {
	Name     string // one value
	Domain   string // lower-case A-labels
	Secret   string // stored forms: lines that odmrctl account secrets writes, RFC 5803, Dovecot's
	Password string // in clear, or a stored form with its {SCHEME}, as in userPassword. Empty: not looked at
	Setting  string
	Identity string // empty: EXTERNAL is not possible
	// Recipient has the addresses that mail is taken for, as user@domain or @domain. Empty: there are no lists.
	Recipient string
}

// Defaults are the attributes of Schema.
var Defaults = Attributes{Name: "uid", Domain: "odmrDomain", Secret: "odmrSecret", Setting: "odmrSetting"}

// Set gives the attribute for one of name, domain, secret, password, setting, identity and recipient.
func (a *Attributes) Set(what, attribute string) error {
	field := map[string]*string{"name": &a.Name, "domain": &a.Domain, "secret": &a.Secret, "password": &a.Password,
		"setting": &a.Setting, "identity": &a.Identity, "recipient": &a.Recipient}[what]
	if field == nil {
		return fmt.Errorf("%q is none of name, domain, secret, password, setting, identity, recipient", what)
	}
	if attribute == "" || strings.Trim(attribute, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-.;") != "" {
		return fmt.Errorf("%q is not an attribute (RFC 4512 2.5)", attribute)
	}
	*field = attribute
	return nil
}

//go:embed schema/odmr.schema
var schemaFile string

//go:embed schema/odmr.ldif
var schemaLDIF string

// Schema returns the object class and its attributes as a file for slapd.conf's include.
func Schema() string { return schemaFile }

// SchemaLDIF returns the same for cn=config.
func SchemaLDIF() string { return schemaLDIF }

// BindExternal in place of a DN binds by SASL EXTERNAL: on ldapi as the user of the process.
const BindExternal = "EXTERNAL"

// Config is what a Source is made of.
type Config struct {
	URL          string // see parseURL
	StartTLS     bool   // before anything else; for ldap://
	CAFile       string // CAs that the server's certificate is verified against. Empty: the system's
	Unverified   bool   // a server on another machine may do without TLS
	Bind         string // DN, or BindExternal. Empty: anonymous
	PasswordFile string // holds the password of Bind; read for each connection
	Attributes   Attributes
	Connections  int // that are kept
	Keys         *account.Deriver
}

// Source is a cache.Source. Make it with Open.
type Source struct {
	cfg    Config
	target *target
	pool   pool
}

var _ cache.Source = (*Source)(nil)

const (
	// maxEntries is how many entries an answer may have: as many as domains are asked for at once.
	maxEntries = maxList + 1
	// maxList is how many values one filter asks for.
	maxList = 128
)

// Open makes a Source. It does not connect; its errors are about cfg.
func Open(cfg Config) (*Source, error) {
	t, err := parseURL(cfg.URL)
	switch {
	case err != nil:
		return nil, err
	case cfg.StartTLS && (t.tls || t.network == "unix"):
		return nil, errors.New("StartTLS goes with ldap:// only")
	case cfg.Bind != "" && cfg.Bind != BindExternal && cfg.PasswordFile == "":
		return nil, errors.New("a bind DN needs a password file")
	case cfg.Bind != "" && cfg.Bind != BindExternal:
		if _, err := ldap.ParseDN(cfg.Bind); err != nil {
			return nil, fmt.Errorf("bind: %q is not a DN (RFC 4514)", cfg.Bind)
		}
	}
	s := &Source{cfg: cfg, target: t}
	if err := s.pool.init(cfg, t); err != nil {
		return nil, err
	}
	if t.network != "unix" && !cfg.Unverified {
		if err := trust.CheckSecrecy(t.host, s.pool.tls); err != nil {
			return nil, fmt.Errorf("%w: use StartTLS or ldaps://", err)
		}
	}
	return s, nil
}

// Account implements cache.Source.
func (s *Source) Account(ctx context.Context, name string) (*account.Account, error) {
	a := &s.cfg.Attributes
	entry, err := s.entry(ctx, name, a.Domain, a.Secret, a.Password, a.Setting)
	if err != nil {
		return nil, err
	}
	record := account.Record{Name: name, Domains: values(entry, a.Domain), Secrets: values(entry, a.Secret),
		Passwords: values(entry, a.Password), Settings: values(entry, a.Setting)}
	return record.Account(s.cfg.Keys)
}

// Recipients implements cache.Source.
func (s *Source) Recipients(ctx context.Context, name string) ([]string, error) {
	attribute := s.cfg.Attributes.Recipient
	entry, err := s.entry(ctx, name, attribute)
	if errors.Is(err, account.ErrUnknown) { // removed since
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	return account.ParseRecipients(name, values(entry, attribute))
}

// Lists implements cache.Source.
func (s *Source) Lists() bool { return s.cfg.Attributes.Recipient != "" }

// entry is the account's, with some attributes.
func (s *Source) entry(ctx context.Context, name string, attributes ...string) (*ldap.Entry, error) {
	entries, err := s.search(ctx, equal(s.cfg.Attributes.Name, name), attributes...)
	if err != nil {
		return nil, err
	}
	var entry *ldap.Entry
	for _, e := range entries {
		own, err := s.name(e)
		switch {
		case err != nil:
			return nil, err
		case own != name: // matched without regard to case
		case entry != nil:
			return nil, fmt.Errorf("%w: account %q is in two entries", account.ErrRecord, name)
		default:
			entry = e
		}
	}
	if entry == nil {
		return nil, account.ErrUnknown
	}
	return entry, nil
}

// name is the entry's account name, of which there must be one.
func (s *Source) name(e *ldap.Entry) (string, error) {
	names := values(e, s.cfg.Attributes.Name)
	if len(names) != 1 {
		return "", fmt.Errorf("%w: entry %s: %d values of %s instead of one", account.ErrRecord, e.DN, len(names), s.cfg.Attributes.Name)
	}
	return names[0], nil
}

// values are an attribute's; its name is not case-sensitive (RFC 4512 2.5).
func values(e *ldap.Entry, attribute string) []string {
	if attribute == "" {
		return nil
	}
	return e.GetEqualFoldAttributeValues(attribute)
}

// Owners implements cache.Source.
func (s *Source) Owners(ctx context.Context, domains []string) (map[string]string, error) {
	return s.holders(ctx, s.cfg.Attributes.Domain, domains)
}

// Holders implements cache.Source.
func (s *Source) Holders(ctx context.Context, identities []string) (map[string]string, error) {
	return s.holders(ctx, s.cfg.Attributes.Identity, identities)
}

// holders returns which account has each of wanted among the values of attribute, asked in portions.
func (s *Source) holders(ctx context.Context, attribute string, wanted []string) (map[string]string, error) {
	found := make(map[string]string, len(wanted))
	for portion := range slices.Chunk(wanted, maxList) {
		filters := make([]string, len(portion))
		for i, v := range portion {
			filters[i] = equal(attribute, v)
		}
		entries, err := s.search(ctx, "(|"+strings.Join(filters, "")+")", attribute)
		if err != nil {
			return nil, err
		}
		for _, e := range entries {
			if err := s.claim(found, e, attribute, portion); err != nil {
				return nil, err
			}
		}
	}
	return found, nil
}

// claim enters e as the holder of those of wanted that it has.
func (s *Source) claim(found map[string]string, e *ldap.Entry, attribute string, wanted []string) error {
	name, err := s.name(e)
	if err != nil {
		return err
	}
	for _, v := range values(e, attribute) {
		if !slices.Contains(wanted, v) {
			continue
		}
		if other, ok := found[v]; ok && other != name {
			return fmt.Errorf("%w: %s is that of account %q and of account %q", account.ErrRecord, v, other, name)
		}
		found[v] = name
	}
	return nil
}

// Identities implements cache.Source.
func (s *Source) Identities() bool { return s.cfg.Attributes.Identity != "" }

// Check implements cache.Source: the base must be there, and may be looked below.
func (s *Source) Check(ctx context.Context) error {
	_, err := s.search(ctx, equal(s.cfg.Attributes.Name, "odmrd.invalid"), s.cfg.Attributes.Domain)
	return err
}

// Reset implements cache.Source.
func (s *Source) Reset() { s.pool.drain() }

// Close implements cache.Source.
func (s *Source) Close() { s.pool.close() }

// equal is a filter for one value (RFC 4515).
func equal(attribute, value string) string {
	return "(" + attribute + "=" + ldap.EscapeFilter(value) + ")"
}

// search asks for accounts that match filter, with their names and attributes.
func (s *Source) search(ctx context.Context, filter string, attributes ...string) ([]*ldap.Entry, error) {
	attributes = append(attributes, s.cfg.Attributes.Name)
	attributes = slices.DeleteFunc(attributes, func(a string) bool { return a == "" })
	if s.target.filter != "" {
		filter = "(&" + s.target.filter + filter + ")"
	}
	request := ldap.NewSearchRequest(s.target.base, s.target.scope, ldap.NeverDerefAliases, maxEntries, 0, false, filter, attributes, nil)
	result, err := s.pool.search(ctx, request)
	if err != nil {
		return nil, searchError(err)
	}
	return result.Entries, nil
}
