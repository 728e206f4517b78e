package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"slices"
	"strings"
	"text/tabwriter"

	"odmr/internal/account"
	"odmr/internal/config"
)

// accountCommands are odmrctl account ….
type accountCommands struct {
	Add      accountAdd      `cmd:"" help:"Add an account."`
	Import   accountImport   `cmd:"" help:"Add many accounts at once, from a file."`
	List     accountList     `cmd:"" help:"List all accounts."`
	Show     accountShow     `cmd:"" help:"Show one account."`
	Passwd   accountPasswd   `cmd:"" help:"Give an account a new password."`
	Set      accountSet      `cmd:"" help:"Change the settings of an account."`
	Remove   accountRemove   `cmd:"" help:"Remove accounts."`
	Domain   accountDomain   `cmd:"" help:"Add and remove domains of an account."`
	Identity accountIdentity `cmd:"" help:"Add and remove certificates and networks by which an account logs in (EXTERNAL)."`
	Secrets  accountSecrets  `cmd:"" help:"Write the stored forms of a password, for accounts in a database or LDAP directory."`
	Schema   accountSchema   `cmd:"" help:"Write the tables or the object class for accounts in a database or LDAP directory."`
}

// accountsFile returns the name of the accounts file.
func (c *cli) accountsFile() (string, error) {
	if c.Accounts == "" {
		return "", usageError("account commands need --accounts FILE (or ODMRCTL_ACCOUNTS)")
	}
	if accounts := config.Accounts(c.Accounts); !accounts.File() {
		return "", fmt.Errorf("the accounts are in %s: change them there; these commands are for an accounts file", accounts)
	}
	return c.Accounts, nil
}

// load reads the accounts file.
func (c *cli) load() (*account.Document, error) {
	path, err := c.accountsFile()
	if err != nil {
		return nil, err
	}
	return account.Load(path)
}

// loadOrBegin is load, of an empty document where there is no file yet.
func (c *cli) loadOrBegin() (*account.Document, error) {
	doc, err := c.load()
	if errors.Is(err, fs.ErrNotExist) {
		doc, err = account.Parse(c.Accounts, nil)
	}
	return doc, err
}

// edit changes the accounts file, which must exist: a mistyped name is not an empty file.
func (c *cli) edit(change func(*account.Document) error) error {
	path, err := c.accountsFile()
	if err != nil {
		return err
	}
	if _, err := os.Stat(path); err != nil {
		return fmt.Errorf("accounts file: %w", err)
	}
	return account.Edit(path, change)
}

type accountAdd struct {
	Name        string   `arg:"" help:"Account name, which the customer logs in with; case matters. Any of the account's domains does as well."`
	Domain      []string `required:"" sep:"none" placeholder:"DOMAIN" help:"Domain whose mail the customer may collect; may be repeated."`
	OwnHostname bool     `help:"Take a host name of the customer's own as ATRN's argument for all domains (fetchmail without fetchdomains sends one)."`
	recipientFlags
	policyFlags
	identityFlags
	passwordFlags
}

func (accountAdd) Help() string {
	return `The password is asked for on the terminal unless --password-stdin or --generate is given. It is stored
as CRAM-MD5 and SCRAM-SHA-256 keys, never in plain text. The file is made if it does not exist.

Examples:
  odmrctl --accounts FILE account add tim --domain example.org --domain example.com
  odmrctl --accounts FILE account add tim --domain example.org --generate
  odmrctl --accounts FILE account add tim --domain example.org --password-stdin < secret
  odmrctl --accounts FILE account add tim --domain example.org --generate --cert-dns gw.example.org --network 192.0.2.32/29`
}

func (a *accountAdd) Run(c *cli, s *surroundings) error {
	draft := &account.Account{Name: a.Name, Domains: a.Domain, OwnHostname: a.OwnHostname}
	if err := a.recipientFlags.apply(draft); err != nil {
		return err
	}
	if err := a.policyFlags.apply(&draft.Policy); err != nil {
		return err
	}
	if err := a.identityFlags.add(draft); err != nil {
		return err
	}
	if _, err := c.accountsFile(); err != nil {
		return err
	}
	if !a.PasswordStdin && !a.Generate { // what is wrong anyway is said before a password is asked for
		doc, err := c.loadOrBegin()
		if err == nil {
			err = doc.Add(draft)
		}
		if err != nil {
			return err
		}
	}
	password, err := a.password(a.Name, s)
	if err != nil {
		return err
	}
	if draft, err = draft.WithPassword(password); err != nil {
		return err
	}
	return account.Edit(c.Accounts, func(d *account.Document) error {
		if err := d.Add(draft); err != nil {
			return err
		}
		return a.tell(password, s)
	})
}

type accountPasswd struct {
	Name string `arg:"" help:"Account name."`
	passwordFlags
}

func (accountPasswd) Help() string {
	return `Sessions that are running are not ended.

Examples:
  odmrctl --accounts FILE account passwd tim
  odmrctl --accounts FILE account passwd tim --generate`
}

func (a *accountPasswd) Run(c *cli, s *surroundings) error {
	doc, err := c.load()
	if err != nil {
		return err
	}
	if _, err := doc.Lookup(a.Name); err != nil {
		return err
	}
	password, err := a.password(a.Name, s)
	if err != nil {
		return err
	}
	keys, err := new(account.Account).WithPassword(password)
	if err != nil {
		return err
	}
	return c.change(a.Name, func(b *account.Account) error {
		b.CRAMMD5, b.SCRAMSHA256, b.SCRAMDomain = keys.CRAMMD5, keys.SCRAMSHA256, keys.SCRAMDomain
		return a.tell(password, s)
	})
}

// change lets fn work on a copy of the account and puts it in its place.
func (c *cli) change(name string, fn func(*account.Account) error) error {
	return c.edit(func(d *account.Document) error {
		old, err := d.Lookup(name)
		if err != nil {
			return err
		}
		a := *old
		a.Domains = slices.Clone(old.Domains)
		a.Certificates, a.Networks, a.Recipients = slices.Clone(old.Certificates), slices.Clone(old.Networks), slices.Clone(old.Recipients)
		if err := fn(&a); err != nil {
			return err
		}
		return d.Replace(&a)
	})
}

type accountSet struct {
	Name        string `arg:"" help:"Account name."`
	OwnHostname *bool  `negatable:"" help:"Take, or no longer take, a host name of the customer's own as ATRN's argument for all domains."`
	recipientFlags
	policyFlags
}

func (accountSet) Help() string {
	return `What is not given stays as it is; the value default leaves a setting to the server's flag of that name.

Examples:
  odmrctl --accounts FILE account set tim --own-hostname
  odmrctl --accounts FILE account set tim --no-own-hostname
  odmrctl --accounts FILE account set tim --retention 10d --delay-notice off
  odmrctl --accounts FILE account set tim --retention default --hold on`
}

func (a *accountSet) Run(c *cli) error {
	if a.OwnHostname == nil && a.Recipients == nil && !a.policyFlags.any() {
		return usageError("account set needs a setting, such as --own-hostname or --retention 5d")
	}
	return c.change(a.Name, func(b *account.Account) error {
		if a.OwnHostname != nil {
			b.OwnHostname = *a.OwnHostname
		}
		if err := a.recipientFlags.apply(b); err != nil {
			return err
		}
		return a.policyFlags.apply(&b.Policy)
	})
}

type accountRemove struct {
	Names []string `arg:"" name:"name" help:"Account names."`
}

func (accountRemove) Help() string {
	return `Mail that is queued for the accounts' domains stays in the queue; no more is accepted for them.
If one of the accounts does not exist, none is removed.

Example:
  odmrctl --accounts FILE account remove tim`
}

func (a *accountRemove) Run(c *cli) error {
	return c.edit(func(d *account.Document) error {
		for _, name := range a.Names {
			if err := d.Remove(name); err != nil {
				return err
			}
		}
		return nil
	})
}

type accountDomain struct {
	Add    domainAdd    `cmd:"" help:"Let an account collect the mail of more domains."`
	Remove domainRemove `cmd:"" help:"Take domains away from an account."`
}

type domainAdd struct {
	Name    string   `arg:"" help:"Account name."`
	Domains []string `arg:"" name:"domain" help:"Domains."`
}

func (domainAdd) Help() string {
	return `Example:
  odmrctl --accounts FILE account domain add tim example.net bücher.example`
}

func (a *domainAdd) Run(c *cli) error {
	return c.change(a.Name, func(b *account.Account) error {
		for _, name := range a.Domains {
			d, err := account.ParseDomain(name)
			if err != nil {
				return err
			}
			if slices.Contains(b.Domains, d) {
				return fmt.Errorf("account %q has domain %s already", a.Name, d)
			}
			b.Domains = append(b.Domains, d)
		}
		return nil
	})
}

type domainRemove struct {
	Name    string   `arg:"" help:"Account name."`
	Domains []string `arg:"" name:"domain" help:"Domains."`
}

func (domainRemove) Help() string {
	return `Mail that is queued for the domains stays in the queue; no more is accepted for them. Recipients that were listed in them
(--recipients) are forgotten. The last domain cannot be taken away: remove the account.

Example:
  odmrctl --accounts FILE account domain remove tim example.net`
}

func (a *domainRemove) Run(c *cli) error {
	return c.change(a.Name, func(b *account.Account) error {
		for _, name := range a.Domains {
			d, err := account.ParseDomain(name)
			if err != nil {
				return err
			}
			i := slices.Index(b.Domains, d)
			if i < 0 {
				return fmt.Errorf("account %q does not have domain %s", a.Name, d)
			}
			b.Domains = slices.Delete(b.Domains, i, i+1)
			b.Recipients = slices.DeleteFunc(b.Recipients, func(entry string) bool { return recipientDomain(entry) == d })
		}
		return nil
	})
}

// accountView is what is shown of an account: all but the secrets.
type accountView struct {
	Name        string   `json:"name"`
	Domains     []string `json:"domains"`
	OwnHostname bool     `json:"own_hostname"`
	Secrets     []string `json:"secrets"` // SASL mechanisms for which there is a secret
	// How the account logs in with EXTERNAL; absent where it does not.
	Certificates []string `json:"certificates,omitempty"` // kind:value
	Networks     []string `json:"networks,omitempty"`
	// Recipients is how many recipients are listed; absent where mail for all is taken.
	Recipients int `json:"recipients,omitempty"`
	// Settings are those that the account has otherwise than the server, by name.
	Settings map[string]string `json:"settings,omitempty"`
}

func viewAccount(a *account.Account) accountView {
	v := accountView{Name: a.Name, Domains: a.Domains, OwnHostname: a.OwnHostname, Secrets: []string{}}
	if a.CRAMMD5 != nil {
		v.Secrets = append(v.Secrets, account.CRAMMD5)
	}
	if a.SCRAMSHA256 != nil {
		v.Secrets = append(v.Secrets, account.SCRAMSHA256)
	}
	for _, c := range a.Certificates {
		v.Certificates = append(v.Certificates, c.String())
	}
	for _, n := range a.Networks {
		v.Networks = append(v.Networks, n.String())
	}
	v.Recipients = len(a.Recipients)
	for _, s := range a.Policy.Settings() {
		if v.Settings == nil {
			v.Settings = map[string]string{}
		}
		v.Settings[s[0]] = s[1]
	}
	return v
}

type accountList struct {
	JSON bool `name:"json" help:"Write JSON: an array of objects with name, domains, own_hostname, secrets, and certificates, networks, recipients (how many are listed) and settings where there are any."`
}

func (accountList) Help() string {
	return `Secrets are never shown, only for which mechanisms there are some.

Examples:
  odmrctl --accounts FILE account list
  odmrctl --accounts FILE account list --json | jq -r '.[] | select(.own_hostname) | .name'`
}

func (a *accountList) Run(c *cli, s *surroundings) error {
	doc, err := c.load()
	if err != nil {
		return err
	}
	views := []accountView{}
	for _, b := range doc.Accounts() {
		views = append(views, viewAccount(b))
	}
	slices.SortFunc(views, func(a, b accountView) int { return strings.Compare(a.Name, b.Name) })
	if a.JSON {
		return writeJSON(s.stdout, views)
	}
	w := tabwriter.NewWriter(s.stdout, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "NAME\tSECRETS\tOWN-HOSTNAME\tDOMAINS")
	for _, v := range views {
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\n", v.Name, secretsText(v), yesNo(v.OwnHostname), domainsText(v.Domains))
	}
	return w.Flush()
}

type accountShow struct {
	Name string `arg:"" help:"Account name, or a domain: its account is shown."`
	JSON bool   `name:"json" help:"Write JSON: an object with name, domains, own_hostname, secrets, and certificates, networks, recipients (how many are listed) and settings where there are any."`
}

func (accountShow) Help() string {
	return `Secrets are never shown, only for which mechanisms there are some.

Examples:
  odmrctl --accounts FILE account show tim
  odmrctl --accounts FILE account show example.org`
}

func (a *accountShow) Run(c *cli, s *surroundings) error {
	doc, err := c.load()
	if err != nil {
		return err
	}
	b, err := doc.Lookup(a.Name)
	if err != nil {
		if b = ownerOfDomain(doc, a.Name); b == nil {
			return err
		}
	}
	v := viewAccount(b)
	if a.JSON {
		return writeJSON(s.stdout, v)
	}
	fmt.Fprintf(s.stdout, "name:          %s\nsecrets:       %s\nown-hostname:  %s\n", v.Name, secretsText(v), yesNo(v.OwnHostname))
	var set []string
	for _, pair := range b.Policy.Settings() {
		set = append(set, pair[0]+" "+pair[1])
	}
	if v.Recipients > 0 {
		fmt.Fprintf(s.stdout, "recipients:    %d are listed, mail for others in their domains is refused\n", v.Recipients)
	}
	for _, list := range []struct {
		label  string
		values []string
	}{{"settings:", set}, {"domains:", v.Domains}, {"certificates:", v.Certificates}, {"networks:", v.Networks}} {
		for _, value := range list.values {
			fmt.Fprintf(s.stdout, "%-14s %s\n", list.label, value)
			list.label = ""
		}
	}
	return nil
}

// ownerOfDomain returns the account that may collect a domain's mail, nil if there is none.
func ownerOfDomain(doc *account.Document, text string) *account.Account {
	domain, err := account.ParseDomain(text)
	if err != nil {
		return nil
	}
	for _, b := range doc.Accounts() {
		if slices.Contains(b.Domains, domain) {
			return b
		}
	}
	return nil
}

func writeJSON(w io.Writer, v any) error {
	e := json.NewEncoder(w)
	e.SetIndent("", "  ")
	return e.Encode(v)
}

func secretsText(v accountView) string {
	if len(v.Secrets) == 0 {
		return "none"
	}
	return strings.Join(v.Secrets, ",")
}

func yesNo(b bool) string {
	if b {
		return "yes"
	}
	return "no"
}

// domainsText shortens a long list: account show has it all.
func domainsText(domains []string) string {
	const most = 4
	if len(domains) <= most {
		return strings.Join(domains, " ")
	}
	return fmt.Sprintf("%s and %d more", strings.Join(domains[:most-1], " "), len(domains)-most+1)
}
