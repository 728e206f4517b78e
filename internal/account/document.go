package account

import (
	"bytes"
	"encoding/base64"
	"fmt"
	"slices"
	"sort"
)

// fileHeader begins a file that odmrctl creates.
const fileHeader = `# Accounts of the on-demand mail relay. Kept by odmrctl; comments and order are preserved.
# The secrets below are as good as passwords: keep this file unreadable for others.
`

// Accounts returns the accounts in the order of the file. They must not be changed.
func (d *Document) Accounts() []*Account {
	out := make([]*Account, len(d.blocks))
	for i, b := range d.blocks {
		out[i] = b.account
	}
	return out
}

// Lookup returns the account of exactly that name, or ErrUnknown.
func (d *Document) Lookup(name string) (*Account, error) {
	if b := d.names[name]; b != nil {
		return b.account, nil
	}
	return nil, fmt.Errorf("%w: %q", ErrUnknown, clip(name))
}

// Add appends a new account. Its domains are brought into canonical form.
func (d *Document) Add(a *Account) error {
	if d.names[a.Name] != nil {
		return fmt.Errorf("account %q exists already", a.Name)
	}
	b := new(block)
	if err := d.claim(b, a); err != nil {
		return err
	}
	if len(d.blocks) == 0 && len(d.tail) == 0 {
		b.lead = []byte(fileHeader + "\n")
	} else {
		b.lead = append(terminated(d.tail), '\n')
		d.tail = nil
	}
	d.names[a.Name] = b
	d.blocks = append(d.blocks, b)
	return nil
}

// Replace puts a in the place of the account of the same name.
func (d *Document) Replace(a *Account) error {
	b := d.names[a.Name]
	if b == nil {
		return fmt.Errorf("%w: %q", ErrUnknown, clip(a.Name))
	}
	if err := d.claim(b, a); err != nil {
		return err
	}
	b.body = nil
	return nil
}

// Remove deletes the account of that name, with the comment right above it.
func (d *Document) Remove(name string) error {
	b := d.names[name]
	if b == nil {
		return fmt.Errorf("%w: %q", ErrUnknown, clip(name))
	}
	delete(d.names, name)
	d.disown(b)
	i := slices.Index(d.blocks, b)
	d.blocks = slices.Delete(d.blocks, i, i+1)
	// What a blank line separates from the account (the file's header) speaks of more than this account.
	keep := detached(b.lead)
	if i < len(d.blocks) {
		d.blocks[i].lead = append(slices.Clone(keep), d.blocks[i].lead...)
	} else {
		d.tail = append(slices.Clone(keep), d.tail...)
	}
	return nil
}

// detached returns the part of lead up to the last blank line that has a comment before it.
func detached(lead []byte) []byte {
	keep, pos, comment := 0, 0, false
	for pos < len(lead) {
		end := pos + bytes.IndexByte(lead[pos:], '\n') + 1
		if len(bytes.TrimSpace(lead[pos:end])) > 0 {
			comment = true
		} else if comment {
			keep = pos
		}
		pos = end
	}
	return lead[:keep]
}

// claim validates a, makes its domains belong to b and a the account of b; on error nothing is changed.
func (d *Document) claim(b *block, a *Account) error {
	c := *a
	c.Domains = make([]string, 0, len(a.Domains))
	for _, v := range a.Domains {
		dom, err := ParseDomain(v)
		if err != nil {
			return err
		}
		if other := d.owners[dom]; other != nil && other != b {
			return fmt.Errorf("domain %s belongs to account %q already", dom, other.account.Name)
		}
		c.Domains = append(c.Domains, dom)
	}
	sort.Strings(c.Domains)
	c.Domains = slices.Compact(c.Domains)
	if err := d.claimIdentities(b, &c); err != nil {
		return err
	}
	if err := c.validate(); err != nil {
		return err
	}
	if b.account != nil {
		d.disown(b)
	}
	for _, dom := range c.Domains {
		d.owners[dom] = b
	}
	for _, cert := range c.Certificates {
		d.certs[cert] = b
	}
	for _, n := range c.Networks {
		d.nets[n] = b
	}
	c.Recipients = slices.Clone(c.Recipients)
	b.account = &c
	return nil
}

// claimIdentities brings c's certificates and networks into canonical form, and into its own memory.
func (d *Document) claimIdentities(b *block, c *Account) error {
	certificates, networks := c.Certificates, slices.Clone(c.Networks)
	c.Certificates, c.Networks = nil, nil
	for _, v := range certificates {
		cert, err := ParseCertificate(v.Kind, v.Value)
		if err != nil {
			return err
		}
		if other := d.certs[cert]; other != nil && other != b {
			return fmt.Errorf("certificate %s belongs to account %q already", cert, other.account.Name)
		}
		c.Certificates = append(c.Certificates, cert)
	}
	for _, n := range networks {
		if other := d.nets[n]; other != nil && other != b {
			return fmt.Errorf("network %s belongs to account %q already", n, other.account.Name)
		}
	}
	c.Networks = networks
	c.sortIdentities()
	c.Certificates, c.Networks = slices.Compact(c.Certificates), slices.Compact(c.Networks)
	return nil
}

// disown makes what belongs to b nobody's.
func (d *Document) disown(b *block) {
	for _, dom := range b.account.Domains {
		delete(d.owners, dom)
	}
	for _, c := range b.account.Certificates {
		delete(d.certs, c)
	}
	for _, n := range b.account.Networks {
		delete(d.nets, n)
	}
}

// Append appends the text of the file.
func (d *Document) Append(dst []byte) []byte {
	for _, b := range d.blocks {
		dst = append(dst, b.lead...)
		if b.body != nil {
			dst = append(dst, b.body...)
			dst = terminate(dst)
			continue
		}
		dst = b.append(dst)
	}
	return append(dst, d.tail...)
}

// append writes the account anew.
func (b *block) append(dst []byte) []byte {
	a := b.account
	dst = append(append(dst, "account "...), a.Name...)
	dst = append(dst, '\n')
	for _, n := range b.notes {
		dst = append(append(dst, n...), '\n')
	}
	for _, dom := range a.Domains {
		dst = append(append(dst, "  domain "...), dom...)
		dst = append(dst, '\n')
	}
	if a.OwnHostname {
		dst = append(dst, "  own-hostname\n"...)
	}
	for _, s := range a.Policy.Settings() {
		dst = append(append(append(append(append(dst, "  "...), s[0]...), ' '), s[1]...), '\n')
	}
	for _, c := range a.Certificates {
		dst = append(append(dst, "  cert-"...), c.Kind...)
		dst = append(append(dst, ' '), c.Value...)
		dst = append(dst, '\n')
	}
	for _, n := range a.Networks {
		dst = append(n.AppendTo(append(dst, "  network "...)), '\n')
	}
	dst = appendRecipients(dst, a.Recipients)
	for line := range bytes.Lines(a.AppendSecrets(nil)) {
		dst = append(append(dst, "  "...), line...)
	}
	return dst
}

func appendSecrets(dst []byte, secrets ...[]byte) []byte {
	for _, s := range secrets {
		dst = base64.StdEncoding.AppendEncode(append(dst, ' '), s)
	}
	return append(dst, '\n')
}

// terminated returns a copy of text whose last line is ended.
func terminated(text []byte) []byte { return terminate(slices.Clone(text)) }

func terminate(text []byte) []byte {
	if len(text) > 0 && text[len(text)-1] != '\n' {
		text = append(text, '\n')
	}
	return text
}
