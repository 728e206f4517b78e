package codec

import (
	"bytes"
	"encoding/binary"
	"errors"
	"hash/crc32"
	"net/netip"
	"strconv"
)

const (
	// MaxProxyV1 is the longest PROXY line, in octets with CRLF (PROXY protocol 2.1).
	MaxProxyV1 = 107
	// MaxProxyV2 is the longest binary PROXY header taken, in octets: room for addresses and
	// for what balancers add, a client's certificate at most. The protocol allows 65551.
	MaxProxyV2 = proxyV2Fixed + 4096

	proxyV2Fixed = 16 // octets before the addresses: signature, version and command, family, length
	proxyTLV     = 3  // octets before a value: type, length
	proxyCRC32C  = 0x03
)

var (
	proxyV1Prefix  = []byte("PROXY ")
	proxyV2Prefix  = []byte("\r\n\r\n\x00\r\nQUIT\n")
	proxyChecksums = crc32.MakeTable(crc32.Castagnoli)
)

// ErrProxyHeader says that octets do not begin with a PROXY header.
var ErrProxyHeader = errors.New("codec: no PROXY header, or a malformed one")

// ProxyHeader is what a balancer says of the connection that it passes on (PROXY protocol, versions
// 1 and 2).
type ProxyHeader struct {
	// Source is the client's address. It is not valid where the balancer speaks for itself
	// (LOCAL, a health check) or does not know (UNKNOWN, UNSPEC): the connection's own address counts then.
	Source netip.AddrPort
}

// NextProxyHeader takes the PROXY header at the beginning of b and its length n. It returns 0 and no
// error where more octets are needed, which there are at most until MaxProxyV2.
func NextProxyHeader(b []byte) (h ProxyHeader, n int, err error) {
	switch {
	case begins(b, proxyV1Prefix):
		return nextProxyV1(b)
	case begins(b, proxyV2Prefix):
		return nextProxyV2(b)
	}
	return h, 0, ErrProxyHeader
}

// begins reports whether b begins with prefix, as far as b goes.
func begins(b, prefix []byte) bool {
	n := min(len(b), len(prefix))
	return bytes.Equal(b[:n], prefix[:n])
}

// nextProxyV1 takes `PROXY TCP4 source destination port port CRLF`.
func nextProxyV1(b []byte) (h ProxyHeader, n int, err error) {
	lf := bytes.IndexByte(b[:min(len(b), MaxProxyV1)], '\n')
	switch {
	case lf < 0 && len(b) >= MaxProxyV1:
		return h, 0, ErrProxyHeader
	case lf < 0:
		return h, 0, nil
	case lf == 0 || b[lf-1] != '\r':
		return h, 0, ErrProxyHeader
	}
	words := bytes.Split(b[len(proxyV1Prefix):lf-1], []byte{' '})
	family := string(words[0])
	if family == "UNKNOWN" { // 2.1: whatever follows is to be ignored
		return h, lf + 1, nil
	}
	if len(words) != 5 || family != "TCP4" && family != "TCP6" {
		return h, 0, ErrProxyHeader
	}
	source, ok := proxyV1Address(words[1], words[3], family)
	if _, too := proxyV1Address(words[2], words[4], family); !ok || !too {
		return h, 0, ErrProxyHeader
	}
	h.Source = source
	return h, lf + 1, nil
}

func proxyV1Address(addr, port []byte, family string) (ap netip.AddrPort, ok bool) {
	a, err := netip.ParseAddr(string(addr))
	if err != nil || a.Zone() != "" || a.Is4() != (family == "TCP4") {
		return ap, false
	}
	p, err := strconv.ParseUint(string(port), 10, 16)
	if err != nil || len(port) > 1 && port[0] == '0' || port[0] == '+' {
		return ap, false
	}
	return netip.AddrPortFrom(a.Unmap(), uint16(p)), true
}

// nextProxyV2 takes the binary header (2.2).
func nextProxyV2(b []byte) (h ProxyHeader, n int, err error) {
	if len(b) < proxyV2Fixed {
		return h, 0, nil
	}
	command, family := b[12], b[13]
	n = proxyV2Fixed + int(binary.BigEndian.Uint16(b[14:]))
	if n > MaxProxyV2 || command != 0x20 && command != 0x21 {
		return h, 0, ErrProxyHeader
	}
	if len(b) < n {
		return h, 0, nil
	}
	body, addresses := b[proxyV2Fixed:n], 0
	switch family {
	case 0x00: // UNSPEC
	case 0x11: // TCP over IPv4
		addresses = 4 + 4 + 2 + 2
	case 0x21: // TCP over IPv6
		addresses = 16 + 16 + 2 + 2
	default: // datagrams and Unix sockets: nothing that could come to us
		if command == 0x21 {
			return h, 0, ErrProxyHeader
		}
	}
	if command == 0x20 || family == 0x00 {
		// LOCAL: families and addresses are to be ignored, and so is all behind them, for where that begins
		// depends on the family.
		return h, n, nil
	}
	if len(body) < addresses || !proxyTLVs(b[:n], proxyV2Fixed+addresses) {
		return h, 0, ErrProxyHeader
	}
	port := binary.BigEndian.Uint16(body[addresses-4:])
	var addr netip.Addr
	if family == 0x11 {
		addr = netip.AddrFrom4([4]byte(body))
	} else {
		addr = netip.AddrFrom16([16]byte(body)).Unmap()
	}
	h.Source = netip.AddrPortFrom(addr, port)
	return h, n, nil
}

// proxyTLVs checks the list of values that begins at offset at, and the checksum if there is one
// (2.2.3).
func proxyTLVs(header []byte, at int) bool {
	for at < len(header) {
		if len(header)-at < proxyTLV {
			return false
		}
		kind, length := header[at], int(binary.BigEndian.Uint16(header[at+1:]))
		at += proxyTLV
		if len(header)-at < length {
			return false
		}
		if kind == proxyCRC32C && !proxyChecksum(header, at, length) {
			return false
		}
		at += length
	}
	return true
}

// proxyChecksum reports whether the CRC32c at offset at is that of the header with zeros in its place.
func proxyChecksum(header []byte, at, length int) bool {
	if length != crc32.Size {
		return false
	}
	sum := crc32.Update(0, proxyChecksums, header[:at])
	sum = crc32.Update(sum, proxyChecksums, make([]byte, crc32.Size))
	sum = crc32.Update(sum, proxyChecksums, header[at+crc32.Size:])
	return sum == binary.BigEndian.Uint32(header[at:])
}
