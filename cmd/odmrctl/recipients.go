package main

import (
	"bufio"
	"fmt"
	"os"
	"slices"
	"strings"

	"odmr/internal/account"
)

// recipientFlags give an account a list of its recipients.
type recipientFlags struct {
	Recipients *string `placeholder:"FILE" help:"File with the addresses that mail is taken for, one a line (user@domain, or @domain for all of a domain; # begins a comment). All others in their domains are refused with 550 5.1.1; domains without an address there stay open. The list takes the place of the one before; an empty value takes it away."`
}

// apply reads the file into a.
func (f *recipientFlags) apply(a *account.Account) error {
	switch {
	case f.Recipients == nil:
		return nil
	case *f.Recipients == "":
		a.Recipients = nil
		return nil
	}
	domains := make([]string, len(a.Domains))
	for i, d := range a.Domains {
		var err error
		if domains[i], err = account.ParseDomain(d); err != nil {
			return err
		}
	}
	list, err := readRecipients(*f.Recipients, domains)
	if err != nil {
		return fmt.Errorf("--recipients: %w", err)
	}
	a.Recipients = list
	return nil
}

// readRecipients reads a list of recipients, all of which must be in domains.
func readRecipients(path string, domains []string) ([]string, error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	var list []string
	lines := bufio.NewScanner(file)
	for n := 1; lines.Scan(); n++ {
		line, _, _ := strings.Cut(lines.Text(), "#")
		if line = strings.TrimSpace(line); line == "" {
			continue
		}
		entry, err := account.ParseRecipient(line)
		if err != nil {
			return nil, fmt.Errorf("%s:%d: %w", path, n, err)
		}
		if domain := recipientDomain(entry); !slices.Contains(domains, domain) {
			return nil, fmt.Errorf("%s:%d: %s is none of the account's domains", path, n, domain)
		}
		list = append(list, entry)
	}
	if err := lines.Err(); err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	slices.Sort(list)
	list = slices.Compact(list)
	if len(list) == 0 || len(list) > account.MaxRecipients {
		return nil, fmt.Errorf("%s has %d addresses: 1 to %d are possible", path, len(list), account.MaxRecipients)
	}
	return list, nil
}

// recipientDomain is the domain of one of account.Account's Recipients.
func recipientDomain(entry string) string {
	domain, _, _ := strings.Cut(entry, " ")
	return domain
}
