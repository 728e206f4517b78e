package main

import (
	"fmt"
	"net/netip"
	"slices"

	"odmr/internal/account"
)

// identityFlags are what makes a peer an account without a password (SASL EXTERNAL).
type identityFlags struct {
	CertEmail  []string `sep:"none" placeholder:"ADDRESS" group:"external" help:"Mail address among the subject alternative names of the customer's TLS certificate; may be repeated, as all of these."`
	CertDNS    []string `name:"cert-dns" sep:"none" placeholder:"HOST" group:"external" help:"Host name among its subject alternative names."`
	CertCN     []string `name:"cert-cn" sep:"none" placeholder:"NAME" group:"external" help:"Common name of its subject."`
	CertSHA256 []string `name:"cert-sha256" sep:"none" placeholder:"HEX" group:"external" help:"SHA-256 fingerprint of the whole certificate."`
	Network    []string `sep:"none" placeholder:"CIDR" group:"external" help:"Network of a line that nobody but the customer has: whoever connects from there is the customer. The narrowest of several counts."`
}

// parse returns what the flags say, in canonical form.
func (f *identityFlags) parse() ([]account.Certificate, []netip.Prefix, error) {
	var certificates []account.Certificate
	for _, list := range []struct {
		kind   account.CertificateKind
		values []string
	}{{account.CertEmail, f.CertEmail}, {account.CertDNS, f.CertDNS}, {account.CertCN, f.CertCN}, {account.CertSHA256, f.CertSHA256}} {
		for _, v := range list.values {
			c, err := account.ParseCertificate(list.kind, v)
			if err != nil {
				return nil, nil, err
			}
			certificates = append(certificates, c)
		}
	}
	var networks []netip.Prefix
	for _, v := range f.Network {
		n, err := account.ParseNetwork(v)
		if err != nil {
			return nil, nil, err
		}
		networks = append(networks, n)
	}
	return certificates, networks, nil
}

// add gives a what the flags say.
func (f *identityFlags) add(a *account.Account) error {
	certificates, networks, err := f.parse()
	if err != nil {
		return err
	}
	for _, c := range certificates {
		if slices.Contains(a.Certificates, c) {
			return fmt.Errorf("account %q has certificate %s already", a.Name, c)
		}
		a.Certificates = append(a.Certificates, c)
	}
	for _, n := range networks {
		if slices.Contains(a.Networks, n) {
			return fmt.Errorf("account %q has network %s already", a.Name, n)
		}
		a.Networks = append(a.Networks, n)
	}
	return nil
}

// remove takes what the flags say away from a.
func (f *identityFlags) remove(a *account.Account) error {
	certificates, networks, err := f.parse()
	if err != nil {
		return err
	}
	for _, c := range certificates {
		i := slices.Index(a.Certificates, c)
		if i < 0 {
			return fmt.Errorf("account %q does not have certificate %s", a.Name, c)
		}
		a.Certificates = slices.Delete(a.Certificates, i, i+1)
	}
	for _, n := range networks {
		i := slices.Index(a.Networks, n)
		if i < 0 {
			return fmt.Errorf("account %q does not have network %s", a.Name, n)
		}
		a.Networks = slices.Delete(a.Networks, i, i+1)
	}
	return nil
}

func (f *identityFlags) empty() bool {
	return len(f.CertEmail)+len(f.CertDNS)+len(f.CertCN)+len(f.CertSHA256)+len(f.Network) == 0
}

type accountIdentity struct {
	Add    identityAdd    `cmd:"" help:"Let an account log in by a certificate or from a network."`
	Remove identityRemove `cmd:"" help:"Take that back."`
}

type identityAdd struct {
	Name string `arg:"" help:"Account name."`
	identityFlags
}

func (identityAdd) Help() string {
	return `Certificates count only if they were issued by a CA of odmrd's --tls-client-ca.

Examples:
  odmrctl --accounts FILE account identity add tim --cert-dns gw.example.org
  odmrctl --accounts FILE account identity add tim --network 192.0.2.32/29`
}

func (a *identityAdd) Run(c *cli) error {
	if a.empty() {
		return usageError("account identity add needs --cert-… or --network")
	}
	return c.change(a.Name, a.identityFlags.add)
}

type identityRemove struct {
	Name string `arg:"" help:"Account name."`
	identityFlags
}

func (identityRemove) Help() string {
	return `Sessions that are running are not ended.

Example:
  odmrctl --accounts FILE account identity remove tim --network 192.0.2.32/29`
}

func (a *identityRemove) Run(c *cli) error {
	if a.empty() {
		return usageError("account identity remove needs --cert-… or --network")
	}
	return c.change(a.Name, a.identityFlags.remove)
}
