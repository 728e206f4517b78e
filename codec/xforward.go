package codec

import (
	"bytes"
	"strings"
	"unicode/utf8"
)

// XAttr is an attribute of the XFORWARD command (Postfix, XFORWARD_README): something that a relay tells of the
// client that it had a message from.
type XAttr uint8

const (
	XName   XAttr = iota // host name
	XAddr                // IP address
	XPort                // TCP port
	XProto               // SMTP, ESMTP
	XHelo                // what it said in HELO or EHLO
	XIdent               // queue id there
	XSource              // LOCAL or REMOTE

	// NumXAttrs is how many there are: for tables indexed by XAttr.
	NumXAttrs = int(XSource) + 1
)

var xattrNames = [NumXAttrs]string{"NAME", "ADDR", "PORT", "PROTO", "HELO", "IDENT", "SOURCE"}

// xattrMax is the longest value of each, decoded, in octets: host names, an IPv6 address, what Postfix takes.
var xattrMax = [NumXAttrs]int{255, 45, 5, 64, 255, 255, 6}

// MaxXForward is the longest XFORWARD command that is written, in octets with CRLF (RFC 5321 4.5.3.1.4).
const MaxXForward = 512

// XForwardOffer is the keyword and its parameters for an EHLO reply.
const XForwardOffer = "XFORWARD NAME ADDR PORT PROTO HELO IDENT SOURCE"

// XAttrs is a set of attributes.
type XAttrs uint8

// Has says whether a is in the set.
func (s XAttrs) Has(a XAttr) bool { return s&(1<<a) != 0 }

// XForward is what one XFORWARD command says. A value that is given and not known ("[UNAVAILABLE]") is empty.
type XForward struct {
	Given  XAttrs
	Values [NumXAttrs][]byte
}

// ParseXForward reads the argument of XFORWARD. The values are decoded, those that are beyond their syntax or length
// refused; an IPv6 address comes without its prefix. They are appended to dst, which is
// returned and must be kept as long as they are. The error is ErrXForward.
func ParseXForward(dst, arg []byte) (x XForward, out []byte, err error) {
	for len(arg) > 0 {
		var word []byte
		word, arg = cutWord(arg)
		name, value, ok := bytes.Cut(word, equals)
		a, known := lookupXAttr(name)
		if !ok || !known || x.Given.Has(a) {
			return XForward{}, dst, ErrXForward
		}
		from := len(dst)
		if dst, err = DecodeXtext(dst, value); err != nil {
			return XForward{}, dst, ErrXForward
		}
		v := dst[from:len(dst):len(dst)]
		if isFold(v, unavailable) || a == XName && isFold(v, "[TEMPUNAVAIL]") {
			v = nil
		} else if v, ok = checkXAttr(a, v); !ok {
			return XForward{}, dst, ErrXForward
		}
		x.Given |= 1 << a
		x.Values[a] = v
	}
	if x.Given == 0 {
		return x, dst, ErrXForward
	}
	return x, dst, nil
}

const (
	unavailable = "[UNAVAILABLE]"
	prefixIPv6  = "IPV6:"
)

var equals = []byte{'='}

func lookupXAttr(name []byte) (XAttr, bool) {
	for a, n := range xattrNames {
		if isFold(name, n) {
			return XAttr(a), true
		}
	}
	return 0, false
}

// checkXAttr checks a value that is known, and brings it into its form.
func checkXAttr(a XAttr, v []byte) ([]byte, bool) {
	if a == XAddr {
		return checkXAddr(v)
	}
	if len(v) == 0 || len(v) > xattrMax[a] || !utf8.Valid(v) {
		return nil, false
	}
	for _, c := range v {
		if c <= ' ' || c == 0x7f || a == XPort && (c < '0' || c > '9') {
			return nil, false
		}
	}
	if a == XSource && !isFold(v, "LOCAL") && !isFold(v, "REMOTE") {
		return nil, false
	}
	return v, true
}

// checkXAddr takes an IPv4 address, or an IPv6 address with its prefix, which is forgiven where it lacks.
func checkXAddr(v []byte) ([]byte, bool) {
	six := len(v) > len(prefixIPv6) && isFold(v[:len(prefixIPv6)], prefixIPv6)
	if six {
		v = v[len(prefixIPv6):]
	}
	if !validIPv6(v) && (six || !validIPv4(v)) {
		return nil, false
	}
	return v, true
}

// ParseXForwardOffer reads what stands behind XFORWARD in an EHLO reply; what is not known is passed over.
func ParseXForwardOffer(params []byte) (offered XAttrs) {
	for len(params) > 0 {
		var word []byte
		word, params = cutWord(params)
		if a, ok := lookupXAttr(word); ok {
			offered |= 1 << a
		}
	}
	return offered
}

// AppendXForward appends XFORWARD commands that say values, as far as they are offered, and returns how many
// commands those are. Each is a line of at most MaxXForward octets. An empty value, and one that does not fit, is
// said to be unavailable, so that none of an earlier message stays in effect.
func AppendXForward(dst []byte, offered XAttrs, values *[NumXAttrs]string) (out []byte, commands int) {
	const verb, end = "XFORWARD", "\r\n"
	left := 0 // octets that the command at hand may still have
	for a := range XAttr(NumXAttrs) {
		if !offered.Has(a) {
			continue
		}
		value := values[a]
		size := xattrSize(a, value)
		if size > MaxXForward-len(verb)-len(end) {
			value = ""
			size = xattrSize(a, value)
		}
		if size > left {
			if commands > 0 {
				dst = append(dst, end...)
			}
			dst = append(dst, verb...)
			left = MaxXForward - len(verb) - len(end)
			commands++
		}
		dst = appendXAttr(dst, a, value)
		left -= size
	}
	if commands > 0 {
		dst = append(dst, end...)
	}
	return dst, commands
}

// xattrSize is how many octets appendXAttr appends.
func xattrSize(a XAttr, value string) int {
	n := len(" =") + len(xattrNames[a])
	switch {
	case value == "" || len(value) > xattrMax[a]:
		return n + len(unavailable)
	case a == XAddr && strings.IndexByte(value, ':') >= 0:
		n += len(prefixIPv6)
	}
	for i := 0; i < len(value); i++ {
		n++
		if classes[value[i]]&classXchar == 0 {
			n += 2
		}
	}
	return n
}

// appendXAttr appends a blank and "name=value".
func appendXAttr(dst []byte, a XAttr, value string) []byte {
	dst = append(dst, ' ')
	dst = append(dst, xattrNames[a]...)
	dst = append(dst, '=')
	if value == "" || len(value) > xattrMax[a] {
		return append(dst, unavailable...)
	}
	if a == XAddr && strings.IndexByte(value, ':') >= 0 {
		dst = append(dst, prefixIPv6...)
	}
	for i := 0; i < len(value); i++ {
		if c := value[i]; classes[c]&classXchar != 0 {
			dst = append(dst, c)
		} else {
			dst = append(dst, '+', hexDigits[c>>4], hexDigits[c&15])
		}
	}
	return dst
}
