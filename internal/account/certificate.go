package account

import (
	"cmp"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"

	"golang.org/x/net/idna"
)

// CertificateKind says what of a client certificate names the customer.
type CertificateKind string

// The kinds, as the accounts file writes them behind "cert-".
const (
	CertEmail  CertificateKind = "email"  // a subject alternative name: mail address
	CertDNS    CertificateKind = "dns"    // a subject alternative name: host name, never a wildcard
	CertCN     CertificateKind = "cn"     // the subject's common name
	CertSHA256 CertificateKind = "sha256" // SHA-256 of the certificate, in hexadecimal
)

// Certificate is a property of client certificates. One that was verified and has it is the
// customer's. Make it with ParseCertificate, so that equal ones are ==.
type Certificate struct {
	Kind  CertificateKind
	Value string
}

func (c Certificate) String() string { return string(c.Kind) + ":" + c.Value }

// ParseCertificate brings a property of a certificate into canonical form: domains in lower-case
// A-labels, fingerprints in lower-case hexadecimal without colons.
func ParseCertificate(kind CertificateKind, value string) (Certificate, error) {
	bad := func(why string) (Certificate, error) {
		return Certificate{}, fmt.Errorf("cert-%s %q: %s", kind, clip(value), why)
	}
	switch kind {
	case CertEmail:
		at := strings.LastIndexByte(value, '@')
		if at <= 0 || strings.ContainsFunc(value, unicode.IsSpace) {
			return bad("not a mail address")
		}
		domain, err := hostName(value[at+1:])
		if err != nil {
			return bad(err.Error())
		}
		return Certificate{kind, value[:at+1] + domain}, nil
	case CertDNS:
		name, err := hostName(value)
		if err != nil {
			return bad(err.Error())
		}
		return Certificate{kind, name}, nil
	case CertCN:
		if value == "" || !utf8.ValidString(value) || strings.ContainsFunc(value, unicode.IsControl) || strings.Join(strings.Fields(value), " ") != value {
			return bad("not a common name, or one with doubled blanks")
		}
		return Certificate{kind, value}, nil
	case CertSHA256:
		digits := strings.ToLower(strings.ReplaceAll(value, ":", ""))
		if raw, err := hex.DecodeString(digits); err != nil || len(raw) != sha256.Size {
			return bad("not a SHA-256 fingerprint: 64 hexadecimal digits")
		}
		return Certificate{kind, digits}, nil
	}
	return bad("unknown kind")
}

// hostName returns name as lower-case A-labels. Unlike a customer's domain it may have one label.
func hostName(name string) (string, error) {
	if !plain(name) {
		var err error
		if name, err = idna.Lookup.ToASCII(name); err != nil {
			return "", errors.New("not a host name")
		}
	}
	if name == "" || len(name) > maxDomain {
		return "", errors.New("not a host name")
	}
	for label := range strings.SplitSeq(name, ".") {
		if label == "" || len(label) > maxLabel || label[0] == '-' || label[len(label)-1] == '-' {
			return "", errors.New("not a host name")
		}
	}
	return name, nil
}

// properties returns what of c may name a customer, the fingerprint first.
func properties(c *x509.Certificate) []Certificate {
	sum := sha256.Sum256(c.Raw)
	all := []Certificate{{CertSHA256, hex.EncodeToString(sum[:])}}
	add := func(kind CertificateKind, value string) {
		if p, err := ParseCertificate(kind, value); err == nil { // a wildcard, say, names nobody
			all = append(all, p)
		}
	}
	for _, v := range c.EmailAddresses {
		add(CertEmail, v)
	}
	for _, v := range c.DNSNames {
		add(CertDNS, v)
	}
	add(CertCN, c.Subject.CommonName)
	return all
}

// ParseNetwork reads CIDR notation, or an address, which is a network of one.
func ParseNetwork(text string) (netip.Prefix, error) {
	if addr, err := netip.ParseAddr(text); err == nil && addr.Zone() == "" {
		return netip.PrefixFrom(addr, addr.BitLen()), nil
	}
	p, err := netip.ParsePrefix(text)
	switch {
	case err != nil:
		return p, fmt.Errorf("network %q: write address/bits, as 192.0.2.0/24", clip(text))
	case p != p.Masked():
		return p, fmt.Errorf("network %q: bits after the first %d are set", clip(text), p.Bits())
	case p.Addr().Is4In6():
		return p, fmt.Errorf("network %q: write IPv4 addresses as such", clip(text))
	case p.Bits() == 0:
		return p, fmt.Errorf("network %q: the whole Internet is nobody's line", clip(text))
	}
	return p, nil
}

func compareCertificates(a, b Certificate) int {
	return cmp.Or(cmp.Compare(a.Kind, b.Kind), cmp.Compare(a.Value, b.Value))
}

func compareNetworks(a, b netip.Prefix) int {
	return cmp.Or(a.Addr().Compare(b.Addr()), cmp.Compare(a.Bits(), b.Bits()))
}

// sortIdentities puts certificates and networks in order.
func (a *Account) sortIdentities() {
	slices.SortFunc(a.Certificates, compareCertificates)
	slices.SortFunc(a.Networks, compareNetworks)
}

// Has reports whether domain, in lower-case A-labels, is one of a's.
func (a *Account) Has(domain string) bool {
	_, ok := slices.BinarySearch(a.Domains, domain)
	return ok
}

// identities is the index by which a Table knows peers without a password.
type identities struct {
	certificates map[Certificate]*Account
	networks     map[netip.Prefix]*Account
	bits4, bits6 []int // lengths of networks there are, longest first
}

func newIdentities() identities {
	return identities{certificates: map[Certificate]*Account{}, networks: map[netip.Prefix]*Account{}}
}

// add enters a's certificates and networks. One that is somebody else's already is an error.
func (x *identities) add(a *Account) error {
	for _, c := range a.Certificates {
		if other := x.certificates[c]; other != nil {
			return fmt.Errorf("certificate %s belongs to account %q and to account %q", c, other.Name, a.Name)
		}
		x.certificates[c] = a
	}
	for _, n := range a.Networks {
		if other := x.networks[n]; other != nil {
			return fmt.Errorf("network %s belongs to account %q and to account %q", n, other.Name, a.Name)
		}
		x.networks[n] = a
		bits := &x.bits6
		if n.Addr().Is4() {
			bits = &x.bits4
		}
		if i, ok := slices.BinarySearchFunc(*bits, n.Bits(), func(have, want int) int { return want - have }); !ok {
			*bits = slices.Insert(*bits, i, n.Bits())
		}
	}
	return nil
}

// identify implements Identifier.
func (x *identities) identify(peer *Peer) []*Account {
	var found []*Account
	if peer.TLS != nil && len(peer.TLS.VerifiedChains) > 0 && len(x.certificates) > 0 {
		for _, p := range properties(peer.TLS.VerifiedChains[0][0]) {
			if a := x.certificates[p]; a != nil && !slices.Contains(found, a) {
				found = append(found, a)
			}
		}
	}
	if len(found) > 0 {
		return found
	}
	addr := peer.Addr.Addr().Unmap().WithZone("")
	if !addr.IsValid() {
		return nil
	}
	lengths := x.bits6
	if addr.Is4() {
		lengths = x.bits4
	}
	for _, bits := range lengths {
		if n, err := addr.Prefix(bits); err == nil {
			if a := x.networks[n]; a != nil {
				return []*Account{a}
			}
		}
	}
	return nil
}

// networkWord begins a network in an accounts file, and as an identity.
const networkWord = "network"

// CertificateIdentities are the lines of an accounts file that would make p a customer by its certificate, the fingerprint
// first: for a directory that is asked for them. There are none unless it was verified.
func (p *Peer) CertificateIdentities() []string {
	if p.TLS == nil || len(p.TLS.VerifiedChains) == 0 {
		return nil
	}
	var out []string
	for _, c := range properties(p.TLS.VerifiedChains[0][0]) {
		out = append(out, "cert-"+string(c.Kind)+" "+c.Value)
	}
	return out
}

// NetworkIdentities are those that would make p a customer by its address, the narrowest network first.
func (p *Peer) NetworkIdentities() []string {
	addr := p.Addr.Addr().Unmap().WithZone("")
	if !addr.IsValid() {
		return nil
	}
	out := make([]string, 0, addr.BitLen())
	for bits := addr.BitLen(); bits > 0; bits-- {
		if n, err := addr.Prefix(bits); err == nil {
			out = append(out, networkWord+" "+n.String())
		}
	}
	return out
}

// IsNetworkIdentity reports whether text is one of NetworkIdentities.
func IsNetworkIdentity(text string) bool { return strings.HasPrefix(text, networkWord+" ") }
