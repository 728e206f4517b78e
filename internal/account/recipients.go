package account

import (
	"fmt"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"

	"odmr/internal/recipients"
)

// MaxRecipients is how many recipients an account may list: some 10 MB of memory.
const MaxRecipients = 200_000

// maxRecipient is the longest address of a recipient, in octets (RFC 5321 4.5.3.1.3).
const maxRecipient = 254

// perLine is how many recipients are written in a line.
const perLine = 5

// ParseRecipient reads an address of a list, "local@domain", or "@domain" for every recipient of the domain, and
// returns it as Account.Recipients has it. Quoted local parts with blanks or control characters cannot be
// listed.
func ParseRecipient(address string) (entry string, err error) {
	at := strings.LastIndexByte(address, '@')
	if at < 0 || len(address) > maxRecipient || strings.ContainsFunc(address, unlisted) {
		return "", fmt.Errorf("%q is not an address", clip(address))
	}
	domain, err := ParseDomain(address[at+1:])
	if err != nil {
		return "", err
	}
	return recipients.Entry(address[:at], domain), nil
}

// ParseRecipients makes a list, as Account.Recipients has it, of what a directory has: addresses that nobody has checked. Its errors are
// ErrRecord.
func ParseRecipients(account string, addresses []string) ([]string, error) {
	if len(addresses) > MaxRecipients {
		return nil, fmt.Errorf("%w: account %q has more than %d recipients", ErrRecord, clip(account), MaxRecipients)
	}
	list := make([]string, 0, len(addresses))
	for _, a := range addresses {
		if a = strings.TrimSpace(a); a == "" {
			continue
		}
		entry, err := ParseRecipient(a)
		if err != nil {
			return nil, fmt.Errorf("%w: recipients of account %q: %w", ErrRecord, clip(account), err)
		}
		list = append(list, entry)
	}
	slices.Sort(list)
	return slices.Compact(list), nil
}

// unlisted reports whether r can stand in no list: what separates words in the file, control characters, and octets that are not
// UTF-8, which would be listed as something else.
func unlisted(r rune) bool { return unicode.IsSpace(r) || unicode.IsControl(r) || r == utf8.RuneError }

// appendRecipients writes a list as lines of the accounts file.
func appendRecipients(dst []byte, list []string) []byte {
	for i, entry := range list {
		if i%perLine == 0 {
			dst = append(dst, "  recipient"...)
		}
		dst = append(append(dst, ' '), recipients.Address(entry)...)
		if i%perLine == perLine-1 || i == len(list)-1 {
			dst = append(dst, '\n')
		}
	}
	return dst
}
