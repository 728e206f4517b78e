package config

import (
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strings"

	"odmr/internal/units"
)

// Accounts is where accounts are: the path of a file, or the URL of a database or a directory service.
type Accounts string

// sqlSchemes and ldapSchemes begin the URLs of Accounts.
var (
	sqlSchemes  = []string{"postgres", "postgresql", "mysql", "mariadb", "sqlite"}
	ldapSchemes = []string{"ldap", "ldaps", "ldapi"}
)

// SQL reports whether the accounts are in a database.
func (a Accounts) SQL() bool { return slices.Contains(sqlSchemes, a.scheme()) }

// LDAP reports whether they are in a directory service.
func (a Accounts) LDAP() bool { return slices.Contains(ldapSchemes, a.scheme()) }

// File reports whether they are in an accounts file.
func (a Accounts) File() bool { return !a.SQL() && !a.LDAP() }

// scheme is the URL's, "" if it is none.
func (a Accounts) scheme() string {
	scheme, rest, ok := strings.Cut(string(a), ":")
	if !ok || scheme != "sqlite" && !strings.HasPrefix(rest, "//") {
		return ""
	}
	return scheme
}

// UnmarshalText takes any text: what is wrong with it is said without quoting a password. See checkAccounts.
func (a *Accounts) UnmarshalText(text []byte) error {
	*a = Accounts(text)
	return nil
}

// hiddenPassword is what String has for a password.
const hiddenPassword = "xxxxx"

// String is the text without its password, fit to be shown.
func (a Accounts) String() string {
	text := string(a)
	if scheme := a.scheme(); scheme == "" || scheme == "sqlite" { // a path: no part of it is a password
		return text
	}
	head, query, asked := strings.Cut(text, "?")
	if i := strings.LastIndexByte(head, '@'); i >= 0 {
		begin := strings.Index(head, "://") + len("://")
		if user, _, ok := strings.Cut(head[begin:i], ":"); ok {
			head = head[:begin] + user + ":" + hiddenPassword + head[i:]
		}
	} else if i := strings.LastIndexByte(query, '@'); i >= 0 && strings.Count(head, ":") > 1 && a.SQL() {
		// A password with a question mark in it is no URL, and is still not shown.
		if u, err := url.Parse(text); err != nil || u.User != nil {
			return head[:strings.Index(head, "://")] + "://" + hiddenPassword + query[i:]
		}
	}
	if !asked {
		return head
	}
	params := strings.Split(query, "&")
	for i, p := range params {
		if name, _, ok := strings.Cut(p, "="); ok && slices.Contains([]string{"password", "sslpassword"}, strings.ToLower(name)) {
			params[i] = name + "=" + hiddenPassword
		}
	}
	return head + "?" + strings.Join(params, "&")
}

// hasPassword reports whether String hides something.
func (a Accounts) hasPassword() bool { return a.String() != string(a) }

// AttributeRule says which attribute of an LDAP entry has what.
type AttributeRule struct{ What, Attribute string }

// UnmarshalText reads WHAT=ATTRIBUTE.
func (r *AttributeRule) UnmarshalText(text []byte) error {
	what, attribute, ok := strings.Cut(string(text), "=")
	if !ok || what == "" || attribute == "" {
		return errors.New("not a choice of attribute: write WHAT=ATTRIBUTE, as name=uid")
	}
	*r = AttributeRule{what, attribute}
	return nil
}

func (r AttributeRule) String() string { return r.What + "=" + r.Attribute }

// checkAccounts reports what does not go together.
func (l *loader) checkAccounts() {
	c := l.cfg
	a := c.Accounts
	switch {
	case a == "":
		l.problem("accounts", "is empty")
	case a.File() && strings.Contains(string(a), "://"):
		l.problem("accounts", fmt.Sprintf("is neither a file nor a URL that is known: %s", strings.Join(append(slices.Clone(sqlSchemes), ldapSchemes...), ", ")))
	case a.SQL() && strings.Contains(string(a), ":"+hiddenPassword+"@"):
		l.problem("accounts", "has what --print-config shows in place of a password; give it with --accounts-password-file")
	case a.hasPassword() && c.AccountsPasswordFile != "":
		l.problem("accounts-password-file", "is given, and a password in --accounts")
	case a.scheme() == "sqlite" && c.AccountsPasswordFile != "":
		l.problem("accounts-password-file", "SQLite has no passwords")
	}
	if c.AccountsCacheNegative > c.AccountsCache && !l.refused("accounts-cache-negative", "accounts-cache") {
		l.problem("accounts-cache-negative", fmt.Sprintf("%s is longer than --accounts-cache, %s", units.FormatDuration(c.AccountsCacheNegative), units.FormatDuration(c.AccountsCache)))
	}
	for _, f := range []struct {
		flag  string
		given bool
		fits  bool
		with  string
	}{
		{"accounts-password-file", c.AccountsPasswordFile != "", !a.File(), "a URL"},
		{"accounts-ca", c.AccountsCA != "", !a.File(), "a URL"},
		{"accounts-unverified", c.AccountsUnverified, !a.File(), "a URL"},
		{"accounts-query-account", c.AccountsQueryAccount != "", a.SQL(), "a database"},
		{"accounts-query-domains", c.AccountsQueryDomains != "", a.SQL(), "a database"},
		{"accounts-query-owners", c.AccountsQueryOwners != "", a.SQL(), "a database"},
		{"accounts-query-identities", c.AccountsQueryIdentities != "", a.SQL(), "a database"},
		{"accounts-query-recipients", c.AccountsQueryRecipients != "", a.SQL(), "a database"},
		{"accounts-bind", c.AccountsBind != "", a.LDAP(), "LDAP"},
		{"accounts-starttls", c.AccountsStartTLS, a.LDAP(), "LDAP"},
		{"accounts-attributes", len(c.AccountsAttributes) > 0, a.LDAP(), "LDAP"},
	} {
		if f.given && !f.fits {
			l.problem(f.flag, "goes with --accounts of "+f.with+" only")
		}
	}
}
