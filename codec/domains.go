package codec

import (
	"bytes"
	"unicode/utf8"
)

// Classes of octets.
const (
	classLDH   = 1 << iota // letter, digit, hyphen
	classAtext             // RFC 5322 3.2.3 atext
	classXchar             // RFC 3461 4 xchar: printable, not blank, "+", "="
	classValue             // RFC 5321 4.1.2 esmtp-value: printable, not blank, "="
	classHost              // letter, digit, hyphen, underscore
	classUpHex             // 0-9 A-F
	classQchar             // RFC 6533 3 QCHAR: printable, not blank, "+", "=", "\"
)

var classes = func() (t [256]uint8) {
	for c := 0x21; c <= 0x7e; c++ {
		t[c] |= classValue | classXchar | classQchar
		letter := 'a' <= c|0x20 && c|0x20 <= 'z'
		digit := '0' <= c && c <= '9'
		if letter || digit {
			t[c] |= classLDH | classHost | classAtext
		}
		if digit || 'A' <= c && c <= 'F' {
			t[c] |= classUpHex
		}
	}
	t['-'] |= classLDH | classHost
	t['_'] |= classHost
	for _, c := range []byte("!#$%&'*+-/=?^_`{|}~") {
		t[c] |= classAtext
	}
	t['='] &^= classValue | classXchar | classQchar
	t['+'] &^= classXchar | classQchar
	t['\\'] &^= classQchar
	return t
}()

// lower maps A-Z to a-z and leaves all else.
func lower(c byte) byte {
	if 'A' <= c && c <= 'Z' {
		c += 'a' - 'A'
	}
	return c
}

// AppendLower appends s to dst with the ASCII letters in lower case; octets from 0x80 stay.
func AppendLower(dst, s []byte) []byte {
	for _, c := range s {
		dst = append(dst, lower(c))
	}
	return dst
}

// EqualFold compares a and b; ASCII letters count the same in either case.
func EqualFold(a, b []byte) bool {
	if len(a) != len(b) {
		return false
	}
	for i := range a {
		if lower(a[i]) != lower(b[i]) {
			return false
		}
	}
	return true
}

// isFold is EqualFold against a text that is in upper case already.
func isFold(b []byte, upper string) bool {
	if len(b) != len(upper) {
		return false
	}
	for i, c := range b {
		if 'a' <= c && c <= 'z' {
			c -= 'a' - 'A'
		}
		if c != upper[i] {
			return false
		}
	}
	return true
}

// ValidDomain reports whether b is a domain name of one label or more in ASCII: letters, digits and
// hyphens, no hyphen at either end of a label, labels of at most MaxLabel, all of at most MaxDomain
// octets, no dot at the end (RFC 5321 4.1.2, RFC 1035 2.3.1).
func ValidDomain(b []byte) bool { return validDomain(b, classLDH, false) }

// validMailDomain is ValidDomain with U-labels (RFC 6531 3.3): a label may hold any valid UTF-8
// beyond ASCII but controls and the dots of other scripts; it does not do IDNA's checks. Underscores, which senders'
// host names have in practice, go through: what stands behind a MAIL FROM that an MX has accepted is not for a relay to refuse.
func validMailDomain(b []byte) bool { return validDomain(b, classHost, true) }

// validDomain walks the labels: octets of the class, and, if uLabels, what isULabelRune takes. A label
// counts by characters, for a U-label is longer in octets than the A-label that the limit is meant for.
func validDomain(b []byte, class uint8, uLabels bool) bool {
	if len(b) == 0 || len(b) > MaxDomain {
		return false
	}
	label := 0        // characters of the label so far
	last := byte('.') // the octet before, a dot at the start
	for i := 0; i < len(b); {
		c, size := b[i], 1
		switch {
		case c == '.':
			if label == 0 || last == '-' {
				return false
			}
			label = -1
		case c == '-' && label == 0:
			return false
		case classes[c]&class != 0:
		case uLabels && c >= utf8.RuneSelf:
			var r rune
			if r, size = utf8.DecodeRune(b[i:]); size == 1 || !isULabelRune(r) {
				return false
			}
		default:
			return false
		}
		if label++; label > MaxLabel {
			return false
		}
		last = c
		i += size
	}
	return label > 0 && last != '-'
}

// isULabelRune judges a character beyond ASCII.
func isULabelRune(r rune) bool {
	switch r {
	case '\u3002', '\uff0e', '\uff61': // IDNA takes them for dots
		return false
	}
	return r >= 0xa0 // below are the C1 controls
}

// validLiteral reports whether b, brackets included, is an address literal (RFC 5321 4.1.3).
func validLiteral(b []byte) bool {
	if len(b) < 3 || len(b) > MaxDomain || b[0] != '[' || b[len(b)-1] != ']' {
		return false
	}
	in := b[1 : len(b)-1]
	tag := bytes.IndexByte(in, ':')
	if tag < 0 {
		return validIPv4(in)
	}
	if isFold(in[:tag], "IPV6") {
		return validIPv6(in[tag+1:])
	}
	return false // the registry of tags has no other
}

// all reports whether every octet of b is of the class.
func all(b []byte, class uint8) bool {
	for _, c := range b {
		if classes[c]&class == 0 {
			return false
		}
	}
	return true
}

func validIPv4(b []byte) bool {
	for part := 0; ; part++ {
		value, digits := 0, 0
		for digits < len(b) && digits < 3 && '0' <= b[digits] && b[digits] <= '9' {
			value = value*10 + int(b[digits]-'0')
			digits++
		}
		if digits == 0 || value > 255 {
			return false
		}
		b = b[digits:]
		if part == 3 {
			return len(b) == 0
		}
		if len(b) == 0 || b[0] != '.' {
			return false
		}
		b = b[1:]
	}
}

// validIPv6 checks the groups: eight, or fewer with one "::", the last two perhaps in IPv4 form.
func validIPv6(b []byte) bool {
	groups, gap := 0, false
	if len(b) >= 2 && b[0] == ':' && b[1] == ':' {
		gap, b = true, b[2:]
	}
	for len(b) > 0 {
		digits := 0
		for digits < len(b) && isHex(b[digits]) {
			digits++
		}
		if digits < len(b) && b[digits] == '.' {
			return validIPv4(b) && (groups == 6 && !gap || gap && groups < 6)
		}
		if digits == 0 || digits > 4 {
			return false
		}
		groups++
		if b = b[digits:]; len(b) == 0 {
			break
		}
		if b[0] != ':' || len(b) == 1 {
			return false
		}
		if b = b[1:]; b[0] == ':' {
			if gap {
				return false
			}
			gap, b = true, b[1:]
		}
	}
	return groups == 8 && !gap || gap && groups < 8
}

func isHex(c byte) bool { return '0' <= c && c <= '9' || 'a' <= c|0x20 && c|0x20 <= 'f' }

// ParseATRN appends the domains of an ATRN argument to dst and returns it: aliases of arg, in their
// order, as written. No argument is no domain, which means all of the customer's (RFC 2645 5.2.1).
// Blanks after a comma are forgiven. An error is a *SyntaxError; with ErrATRNOneLabel the list
// comes along whole, with any other dst comes back as it was.
func ParseATRN(arg []byte, dst [][]byte) ([][]byte, error) {
	if len(arg) == 0 {
		return dst, nil
	}
	list, short := dst, false
	for {
		item, rest, more := bytes.Cut(arg, comma)
		if !ValidDomain(item) {
			return dst, ErrATRN
		}
		// RFC 2645 5.2.1: domain = sub-domain 1*("." sub-domain)
		if bytes.IndexByte(item, '.') < 0 {
			short = true
		}
		list = append(list, item)
		if !more {
			break
		}
		arg = skipBlanks(rest)
	}
	if short {
		return list, ErrATRNOneLabel
	}
	return list, nil
}

var comma = []byte{','}
