package dsn

import (
	"bytes"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"odmr/codec"
)

// status is the machine's part: the message's fields, then those of each recipient (RFC 3464 2.1).
func (b *builder) status() []byte {
	var out bytes.Buffer
	field := func(name, value string) {
		if value != "" {
			fold(&out, name, value)
		}
	}
	env := b.Envelope
	if id, err := codec.DecodeXtext(nil, []byte(env.EnvID)); err == nil {
		field("Original-Envelope-Id", clean(string(id), false)) // RFC 3464 2.2.1
	}
	field("Reporting-MTA", "dns; "+b.Hostname)
	field("Arrival-Date", time.Unix(0, env.Arrived).UTC().Format(statusDate))
	for i := range b.Recipients {
		r := &b.Recipients[i]
		out.WriteString("\r\n")
		field("Original-Recipient", originalRecipient(r.ORcpt))
		field("Final-Recipient", addressType(r.Address)+"; "+clean(r.Address, true))
		field("Action", actionNames[r.Action])
		field("Status", r.status())
		if r.Reply != "" && r.Action != Relayed {
			field("Diagnostic-Code", "smtp; "+clean(r.Reply, false))
		}
		if r.Action == Delayed && !b.RetryUntil.IsZero() {
			field("Will-Retry-Until", b.RetryUntil.UTC().Format(statusDate))
		}
	}
	return out.Bytes()
}

// statusDate is RFC 5322 3.3 without the day of the week, which some parsers of these fields do not expect.
const statusDate = "2 Jan 2006 15:04:05 -0700"

// statusType is the media type of what status wrote (RFC 3464 2.1; RFC 6533 4 where an address is not ASCII).
func (b *builder) statusType(status []byte) string {
	if isASCII(status) {
		return "message/delivery-status"
	}
	return "message/global-delivery-status"
}

// addressType is the type of a final recipient's address (RFC 3464 2.3.2, RFC 6533 3).
func addressType(address string) string {
	if isASCII([]byte(address)) {
		return "rfc822"
	}
	return "utf-8"
}

// originalRecipient is ORCPT as a field's value (RFC 3464 2.3.1): decoded, RFC 3461 4.2.
func originalRecipient(orcpt string) string {
	kind, value, ok := strings.Cut(orcpt, ";")
	if !ok {
		return ""
	}
	if decoded, err := codec.DecodeXtext(nil, []byte(value)); err == nil {
		value = string(decoded)
	}
	if strings.EqualFold(kind, "utf-8") {
		value = decodeUnicode(value)
	}
	return clean(kind, false) + "; " + clean(value, true)
}

// decodeUnicode replaces each \x{HEX} by its character (RFC 6533 3, EmbeddedUnicodeChar).
func decodeUnicode(s string) string {
	var out strings.Builder
	for {
		before, rest, ok := strings.Cut(s, `\x{`)
		out.WriteString(before)
		if !ok {
			return out.String()
		}
		digits, after, ok := strings.Cut(rest, "}")
		n, err := strconv.ParseUint(digits, 16, 32)
		if !ok || err != nil || !utf8.ValidRune(rune(n)) || len(digits) > 6 {
			out.WriteString(`\x{`)
			s = rest
			continue
		}
		out.WriteRune(rune(n))
		s = after
	}
}

// status is the enhanced status code (RFC 3463): the customer's own where its reply has one of the class that fits.
func (r *Recipient) status() string {
	if r.Action == Relayed {
		return "2.1.9" // RFC 3463 3.2, as RFC 3886 3.3.4 has it: relayed to a server that does not report
	}
	if r.Expired {
		return "4.4.7" // RFC 3463 3.5: delivery time expired
	}
	_, rest, _ := strings.Cut(r.Reply, " ")
	code, _, _ := strings.Cut(rest, " ")
	class := byte('5')
	if r.Action == Delayed {
		class = '4'
	}
	if isEnhanced(code) && code[0] == class && r.Reply[0] == class {
		return code
	}
	if r.Action == Delayed && r.Reply == "" {
		return "4.4.1" // nobody has come for it
	}
	return string(class) + ".0.0"
}

// isEnhanced says whether s is class.subject.detail (RFC 3463 2).
func isEnhanced(s string) bool {
	parts := strings.Split(s, ".")
	if len(parts) != 3 || len(parts[0]) != 1 {
		return false
	}
	for _, p := range parts {
		if p == "" || len(p) > 3 || strings.Trim(p, "0123456789") != "" {
			return false
		}
	}
	return true
}

// clean makes a stranger's text fit for one line: no control characters, and nothing beyond ASCII unless wide.
func clean(s string, wide bool) string {
	return strings.Map(func(r rune) rune {
		switch {
		case r >= ' ' && r <= '~':
			return r
		case r < 0x80, r == utf8.RuneError, !wide, !unicode.IsGraphic(r) || unicode.Is(unicode.Zl, r) || unicode.Is(unicode.Zp, r):
			return '?'
		}
		return r
	}, s)
}

// foldAt is where a line of a field is folded, in octets, if there is a blank (RFC 5322 2.1.1).
const foldAt = 76

// fold writes a field, folded at blanks; what has none goes on a line of its own length, which is below maxLine as
// all values are bounded by the command and reply lines that they came in.
func fold(out *bytes.Buffer, name, value string) {
	out.WriteString(name)
	out.WriteByte(':')
	at := len(name) + 1
	for _, word := range strings.Fields(value) {
		if at+1+len(word) > foldAt && at > len(name)+1 {
			out.WriteString("\r\n")
			at = 0
		}
		out.WriteByte(' ')
		out.WriteString(word)
		at += 1 + len(word)
	}
	out.WriteString("\r\n")
}
