package account

import (
	"fmt"
	"sort"
)

// Table is a Directory in memory. It never changes and needs no lock.
type Table struct {
	accounts []*Account // sorted by name
	names    map[string]*Account
	domains  map[string]*Account
	known    identities
	kinds    *keyKinds
}

var (
	_ Directory  = (*Table)(nil)
	_ Identifier = (*Table)(nil)
)

// NewTable makes a Table. Two accounts with one name or one domain are an error. The
// accounts must not be changed afterwards.
func NewTable(accounts ...*Account) (*Table, error) {
	t := &Table{
		accounts: append([]*Account(nil), accounts...),
		names:    make(map[string]*Account, len(accounts)),
		domains:  make(map[string]*Account, len(accounts)),
		known:    newIdentities(),
	}
	for _, a := range accounts {
		if err := a.validate(); err != nil {
			return nil, err
		}
		if t.names[a.Name] != nil {
			return nil, fmt.Errorf("account %q exists twice", a.Name)
		}
		t.names[a.Name] = a
		for _, d := range a.Domains {
			if other := t.domains[d]; other != nil {
				return nil, fmt.Errorf("domain %s belongs to account %q and to account %q", d, other.Name, a.Name)
			}
			t.domains[d] = a
		}
		if err := t.known.add(a); err != nil {
			return nil, err
		}
	}
	sort.Slice(t.accounts, func(i, j int) bool { return t.accounts[i].Name < t.accounts[j].Name })
	t.kinds = newKeyKinds(t.accounts)
	return t, nil
}

// validate checks what a file's syntax cannot get wrong but a program can.
func (a *Account) validate() error {
	if err := CheckName(a.Name); err != nil {
		return err
	}
	if len(a.Domains) == 0 {
		return fmt.Errorf("account %q has no domain", a.Name)
	}
	for i, d := range a.Domains {
		if canon, err := ParseDomain(d); err != nil {
			return err
		} else if canon != d {
			return fmt.Errorf("domain %q is not written as %s", d, canon)
		}
		if i > 0 && a.Domains[i-1] >= d {
			return fmt.Errorf("the domains of account %q are not sorted, or one is there twice", a.Name)
		}
	}
	return a.validateIdentities()
}

func (a *Account) validateIdentities() error {
	for i, c := range a.Certificates {
		if canon, err := ParseCertificate(c.Kind, c.Value); err != nil {
			return err
		} else if canon != c {
			return fmt.Errorf("certificate %s is not written as %s", c, canon)
		}
		if i > 0 && compareCertificates(a.Certificates[i-1], c) >= 0 {
			return fmt.Errorf("the certificates of account %q are not sorted, or one is there twice", a.Name)
		}
	}
	for i, n := range a.Networks {
		if _, err := ParseNetwork(n.String()); err != nil {
			return err
		}
		if i > 0 && compareNetworks(a.Networks[i-1], n) >= 0 {
			return fmt.Errorf("the networks of account %q are not sorted, or one is there twice", a.Name)
		}
	}
	return nil
}

// Identify implements Identifier.
func (t *Table) Identify(peer Peer) ([]*Account, error) { return t.known.identify(&peer), nil }

// MayIdentify implements Identifier.
func (t *Table) MayIdentify(peer Peer) bool { return len(t.known.identify(&peer)) > 0 }

// NonBlocking is always true.
func (t *Table) NonBlocking() bool { return true }

// Accounts returns all accounts, sorted by name. The slice must not be changed.
func (t *Table) Accounts() []*Account { return t.accounts }

// Domains returns how many domains there are.
func (t *Table) Domains() int { return len(t.domains) }

// Collectable reports whether some account may collect domain.
func (t *Table) Collectable(domain string) (bool, error) { return t.domains[domain] != nil, nil }

// Owner returns the account that may collect domain, or ErrUnknown.
func (t *Table) Owner(domain string) (*Account, error) {
	if a := t.domains[domain]; a != nil {
		return a, nil
	}
	return nil, ErrUnknown
}

// Lookup returns the account of that name or, when there is none, the account that has name
// as one of its domains: many customers log in with their domain. Names are case-sensitive,
// domains are not. It does the same work whether there is such an account or not.
func (t *Table) Lookup(name string) (*Account, error) {
	var byDomain *Account
	if len(name) <= 4*maxDomain { // U-labels are longer in octets
		if d, err := ParseDomain(name); err == nil {
			byDomain = t.domains[d]
		}
	}
	if a := t.names[name]; a != nil {
		return a, nil
	}
	if byDomain != nil {
		return byDomain, nil
	}
	return nil, ErrUnknown
}

// Authorize returns the domains that account may collect: wanted itself, or all of the
// account's. The slice must not be changed. An account that has been removed since it
// authenticated is ErrUnknown.
func (t *Table) Authorize(account string, wanted []string) ([]string, error) {
	a := t.names[account]
	if a == nil {
		return nil, ErrUnknown
	}
	return a.Authorize(wanted, func(domain string) (bool, error) { return t.domains[domain] != nil, nil })
}
