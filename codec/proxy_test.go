package codec

import (
	"bytes"
	"encoding/binary"
	"hash/crc32"
	"net/netip"
	"strings"
	"testing"
)

// proxyV2 makes a binary header of what stands behind the signature.
func proxyV2(command, family byte, body ...[]byte) []byte {
	all := bytes.Join(body, nil)
	b := append([]byte("\r\n\r\n\x00\r\nQUIT\n"), command, family)
	b = binary.BigEndian.AppendUint16(b, uint16(len(all)))
	return append(b, all...)
}

func tlv(kind byte, value []byte) []byte {
	return append(binary.BigEndian.AppendUint16([]byte{kind}, uint16(len(value))), value...)
}

var (
	proxyV4 = []byte{192, 0, 2, 1, 198, 51, 100, 2, 0x04, 0x01, 0x01, 0x6e} // 192.0.2.1:1025 to 198.51.100.2:366
	proxyV6 = append(bytes.Join([][]byte{netip.MustParseAddr("2001:db8::1").AsSlice(), netip.MustParseAddr("2001:db8::2").AsSlice()}, nil), 0x04, 0x01, 0x01, 0x6e)
)

// checked is the header with a valid checksum, of which the last bit is turned over if spoilt.
func checked(spoilt byte) []byte {
	b := proxyV2(0x21, 0x11, proxyV4, tlv(3, make([]byte, 4)), tlv(1, []byte("h2")))
	at := 16 + len(proxyV4) + 3
	binary.BigEndian.PutUint32(b[at:], crc32.Checksum(b, crc32.MakeTable(crc32.Castagnoli)))
	b[at+3] ^= spoilt
	return b
}

func TestNextProxyHeader(t *testing.T) {
	mapped := bytes.Clone(proxyV6)
	copy(mapped, netip.MustParseAddr("::ffff:192.0.2.1").AsSlice())
	for _, c := range []struct {
		what, in string
		want     string // source; "local", "more" or "error"
	}{
		{"TCP4", "PROXY TCP4 192.0.2.1 198.51.100.2 1025 366\r\n", "192.0.2.1:1025"},
		{"TCP6", "PROXY TCP6 2001:db8::1 2001:db8::2 65535 0\r\n", "[2001:db8::1]:65535"},
		{"TCP6 of a mapped address", "PROXY TCP6 ::ffff:192.0.2.1 2001:db8::2 1 2\r\n", "192.0.2.1:1"},
		{"UNKNOWN", "PROXY UNKNOWN\r\n", "local"},
		{"UNKNOWN with anything", "PROXY UNKNOWN ffff::1 whatever\r\n", "local"},
		{"the longest", "PROXY UNKNOWN " + strings.Repeat("x", 107-16) + "\r\n", "local"},
		{"one too many", "PROXY UNKNOWN " + strings.Repeat("x", 107-15) + "\r\n", "error"},
		{"no end in sight", "PROXY " + strings.Repeat("x", 102), "error"},
		{"nothing yet", "", "more"},
		{"a beginning", "PRO", "more"},
		{"all but the end", "PROXY TCP4 192.0.2.1 198.51.100.2 1025 366\r", "more"},
		{"bare LF", "PROXY TCP4 192.0.2.1 198.51.100.2 1025 366\n", "error"},
		{"wrong family", "PROXY TCP4 2001:db8::1 2001:db8::2 1 2\r\n", "error"},
		{"wrong family", "PROXY TCP6 192.0.2.1 198.51.100.2 1 2\r\n", "error"},
		{"UDP", "PROXY UDP4 192.0.2.1 198.51.100.2 1 2\r\n", "error"},
		{"zone", "PROXY TCP6 fe80::1%eth0 2001:db8::2 1 2\r\n", "error"},
		{"port too high", "PROXY TCP4 192.0.2.1 198.51.100.2 65536 2\r\n", "error"},
		{"leading zero", "PROXY TCP4 192.0.2.1 198.51.100.2 025 2\r\n", "error"},
		{"sign", "PROXY TCP4 192.0.2.1 198.51.100.2 +25 2\r\n", "error"},
		{"no port", "PROXY TCP4 192.0.2.1 198.51.100.2 25 \r\n", "error"},
		{"bad destination", "PROXY TCP4 192.0.2.1 198.51.100 25 2\r\n", "error"},
		{"too few", "PROXY TCP4 192.0.2.1 198.51.100.2 25\r\n", "error"},
		{"too many", "PROXY TCP4 192.0.2.1 198.51.100.2 25 2 3\r\n", "error"},
		{"two blanks", "PROXY TCP4  192.0.2.1 198.51.100.2 25 2\r\n", "error"},
		{"lower case", "proxy TCP4 192.0.2.1 198.51.100.2 25 2\r\n", "error"},
		{"no family", "PROXY \r\n", "error"},
		{"stuck together", "PROXYTCP4 192.0.2.1 198.51.100.2 25 2\r\n", "error"},
		{"a command", "EHLO example.org\r\n", "error"},
		{"a ClientHello", "\x16\x03\x01", "error"},
		{"an empty line", "\r\n\r\nQ", "error"},

		{"v2 IPv4", string(proxyV2(0x21, 0x11, proxyV4)), "192.0.2.1:1025"},
		{"v2 IPv6", string(proxyV2(0x21, 0x21, proxyV6)), "[2001:db8::1]:1025"},
		{"v2 mapped", string(proxyV2(0x21, 0x21, mapped)), "192.0.2.1:1025"},
		{"v2 LOCAL", string(proxyV2(0x20, 0x00)), "local"},
		{"v2 LOCAL with addresses", string(proxyV2(0x20, 0x11, proxyV4)), "local"},
		{"v2 LOCAL of a strange family", string(proxyV2(0x20, 0x31, make([]byte, 5))), "local"},
		{"v2 UNSPEC", string(proxyV2(0x21, 0x00, []byte("anything"))), "local"},
		{"v2 with values", string(proxyV2(0x21, 0x11, proxyV4, tlv(1, []byte("h2")), tlv(0xee, nil))), "192.0.2.1:1025"},
		{"v2 with checksum", string(checked(0)), "192.0.2.1:1025"},
		{"v2 with another checksum", string(checked(1)), "error"},
		{"v2 checksum of two octets", string(proxyV2(0x21, 0x11, proxyV4, tlv(3, make([]byte, 2)))), "error"},
		{"v2 the longest", string(proxyV2(0x21, 0x11, proxyV4, tlv(1, make([]byte, 4096-12-3)))), "192.0.2.1:1025"},
		{"v2 too long", string(proxyV2(0x21, 0x11, proxyV4, tlv(1, make([]byte, 4096-12-2)))), "error"},
		{"v2 too long, and only begun", string(proxyV2(0x21, 0x11, make([]byte, 65535))[:16]), "error"},
		{"v2 a value cut short", string(proxyV2(0x21, 0x11, proxyV4, []byte{1, 0, 5, 'x'})), "error"},
		{"v2 a value's length cut short", string(proxyV2(0x21, 0x11, proxyV4, []byte{1, 0})), "error"},
		{"v2 addresses cut short", string(proxyV2(0x21, 0x11, proxyV4[:11])), "error"},
		{"v2 IPv6 with addresses of IPv4", string(proxyV2(0x21, 0x21, proxyV4)), "error"},
		{"v2 UDP", string(proxyV2(0x21, 0x12, proxyV4)), "error"},
		{"v2 Unix", string(proxyV2(0x21, 0x31, make([]byte, 216))), "error"},
		{"v2 version 1", string(proxyV2(0x11, 0x11, proxyV4)), "error"},
		{"v2 unknown command", string(proxyV2(0x22, 0x11, proxyV4)), "error"},
		{"v2 signature", "\r\n\r\n\x00\r\nQUIT", "more"},
		{"v2 signature and one", "\r\n\r\n\x00\r\nQUIT\n\x21", "more"},
		{"v2 wrong signature", "\r\n\r\n\x00\r\nQUIX", "error"},
	} {
		for _, behind := range []string{"", "EHLO x\r\n"} {
			if behind != "" && c.want == "more" {
				continue
			}
			h, n, err := NextProxyHeader([]byte(c.in + behind))
			got := h.Source.String()
			switch {
			case err != nil:
				got = "error"
			case n == 0:
				got = "more"
			case !h.Source.IsValid():
				got = "local"
			}
			if got != c.want || (got != "error" && got != "more") && n != len(c.in) || err != nil && (n != 0 || err != ErrProxyHeader) {
				t.Errorf("%s: %s, %d octets of %d, %v; want %s", c.what, got, n, len(c.in), err, c.want)
			}
		}
		if c.want == "error" || c.want == "more" {
			continue
		}
		for i := range len(c.in) {
			if _, n, err := NextProxyHeader([]byte(c.in[:i])); n != 0 || err != nil {
				t.Errorf("%s: the first %d octets give %d, %v", c.what, i, n, err)
			}
		}
	}
}

// FuzzProxyHeader: the verdict on octets does not change with what follows, a header is bounded, and nothing
// panics.
func FuzzProxyHeader(f *testing.F) {
	f.Add([]byte("PROXY TCP4 192.0.2.1 198.51.100.2 1025 366\r\nEHLO x\r\n"))
	f.Add([]byte("PROXY UNKNOWN\r\n"))
	f.Add(checked(0))
	f.Add(proxyV2(0x21, 0x21, proxyV6, tlv(4, []byte("noop"))))
	f.Add(proxyV2(0x20, 0))
	f.Fuzz(func(t *testing.T, b []byte) {
		h, n, err := NextProxyHeader(b)
		if n < 0 || n > len(b) || n > MaxProxyV2 || err != nil && n != 0 {
			t.Fatalf("%d octets, %v", n, err)
		}
		if n == 0 && err == nil && len(b) >= MaxProxyV2 {
			t.Fatal("wants more than the longest")
		}
		if h.Source.IsValid() && h.Source.Addr().Is4In6() {
			t.Errorf("a mapped address: %s", h.Source)
		}
		for i := range min(len(b), n) { // a header is taken once it is whole, not before
			if _, k, err := NextProxyHeader(b[:i]); k != 0 || err != nil {
				t.Fatalf("the first %d of %d octets: %d, %v", i, n, k, err)
			}
		}
	})
}
