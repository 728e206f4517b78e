package config

import (
	"errors"
	"net"
	"net/netip"
	"strconv"
	"strings"
)

// Listen is a TCP address to listen on: host:port. An empty host means all addresses, an IPv6
// address stands in brackets, port 0 takes a free port.
type Listen string

var errListen = errors.New("not an address to listen on: write host:port with an IP address, a host name or nothing as host, and a port from 0 to 65535")

// UnmarshalText checks the form; whether the address can be bound shows when it is tried.
func (l *Listen) UnmarshalText(text []byte) error {
	host, port, err := net.SplitHostPort(string(text))
	if err != nil {
		return errListen
	}
	if n, err := strconv.ParseUint(port, 10, 16); err != nil || strconv.FormatUint(n, 10) != port {
		return errListen
	}
	if _, err := netip.ParseAddr(host); host != "" && err != nil && !isHostname(host) {
		return errListen
	}
	*l = Listen(text)
	return nil
}

func (l Listen) String() string { return string(l) }

// Any reports whether the port is left to the system.
func (l Listen) Any() bool { return strings.HasSuffix(string(l), ":0") }

// Name is the host, unless it is an address or empty.
func (l Listen) Name() string {
	host, _, _ := net.SplitHostPort(string(l))
	if _, err := netip.ParseAddr(host); err == nil {
		return ""
	}
	return host
}

// Host is a host name as programs ask for one over HTTP: names of containers have underscores, and a final dot changes nothing.
type Host string

var errHost = errors.New("not a host name: write it without a port")

// UnmarshalText checks the form.
func (h *Host) UnmarshalText(text []byte) error {
	if !isHostname(strings.ReplaceAll(strings.TrimSuffix(string(text), "."), "_", "x")) {
		return errHost
	}
	*h = Host(text)
	return nil
}

func (h Host) String() string { return string(h) }

// isHostname reports whether s is a host name: dot-separated labels of letters, digits and
// inner hyphens (RFC 1123 2.1), the last of which is not a number, so that 300.1.2.3 is none.
func isHostname(s string) bool {
	if len(s) == 0 || len(s) > 253 {
		return false
	}
	labels := strings.Split(s, ".")
	for _, label := range labels {
		if len(label) == 0 || len(label) > 63 || label[0] == '-' || label[len(label)-1] == '-' {
			return false
		}
		for i := 0; i < len(label); i++ {
			c := label[i]
			if !(c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == '-') {
				return false
			}
		}
	}
	_, err := strconv.ParseUint(labels[len(labels)-1], 10, 64)
	return err != nil
}
