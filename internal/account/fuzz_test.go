package account

import (
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"net/netip"
	"slices"
	"strings"
	"testing"
)

// FuzzIdentify: whatever stands in a client's certificate and whatever its address, it is those customers whose
// property it has, and no others; wildcards name nobody.
func FuzzIdentify(f *testing.F) {
	certificate := func(name string, kind CertificateKind, value string) *Account {
		return &Account{Name: name, Domains: []string{name + ".example"}, Certificates: []Certificate{{kind, value}}}
	}
	network := func(name, cidr string) *Account {
		return &Account{Name: name, Domains: []string{name + ".example"}, Networks: []netip.Prefix{netip.MustParsePrefix(cidr)}}
	}
	four, six := network("four", "192.0.2.0/24"), network("six", "2001:db8::/32")
	table, err := NewTable(certificate("email", CertEmail, "tim@example.org"), certificate("dns", CertDNS, "gw.example.org"),
		certificate("cn", CertCN, "Example GmbH"), four, six)
	if err != nil {
		f.Fatal(err)
	}
	f.Add("Tim@example.org", "GW.example.ORG", "Example GmbH", []byte{192, 0, 2, 1}, true)
	f.Add("tim@EXAMPLE.org", "*.example.org", "example gmbh", []byte{192, 0, 2, 1}, true)
	f.Add("tim@example.org\x00.evil.example", "gw.example.org\x00", "Example GmbH ", []byte{192, 0, 3, 1}, true)
	f.Add("a@b@example.org", "gw.example.org.", "", slices.Concat([]byte{0x20, 1, 0xd, 0xb8}, make([]byte, 12)), false)
	f.Add("tim@xn--example.org", "gw..example.org", "\xff", slices.Concat(make([]byte, 10), []byte{255, 255, 192, 0, 2, 9}), false)
	f.Fuzz(func(t *testing.T, email, dns, cn string, address []byte, encrypted bool) {
		addr, _ := netip.AddrFromSlice(address)
		peer := Peer{Addr: netip.AddrPortFrom(addr, 1)}
		var want []string
		if encrypted {
			cert := &x509.Certificate{EmailAddresses: []string{email}, DNSNames: []string{dns}, Subject: pkix.Name{CommonName: cn}}
			peer.TLS = &tls.ConnectionState{VerifiedChains: [][]*x509.Certificate{{cert}}}
			if local, domain, ok := strings.Cut(email, "@"); ok && local == "tim" && strings.EqualFold(domain, "example.org") {
				want = append(want, "email")
			}
			if strings.EqualFold(dns, "gw.example.org") {
				want = append(want, "dns")
			}
			if cn == "Example GmbH" {
				want = append(want, "cn")
			}
		}
		if len(want) == 0 {
			for _, a := range []*Account{four, six} {
				if addr.IsValid() && a.Networks[0].Contains(addr.Unmap()) {
					want = append(want, a.Name)
				}
			}
		}
		found, err := table.Identify(peer)
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, a := range found {
			got = append(got, a.Name)
		}
		// In a certificate these are ASCII (RFC 5280 4.2.1.6), and crypto/x509 makes sure of it.
		if ascii(email) && ascii(dns) && !slices.Equal(got, want) {
			t.Errorf("%q %q %q %s: %q, want %q", email, dns, cn, addr, got, want)
		}
	})
}

func ascii(s string) bool { return !strings.ContainsFunc(s, func(r rune) bool { return r > 127 }) }
