package dsn

import (
	"bytes"

	"odmr/internal/mail"
)

// returned is the part with the message, or its header (RFC 6522 3, RFC 6533 5). The message goes back whole only to a
// sender who asked for it (RET=FULL) and when it failed (RFC 3461 4.3); without RET, which leaves it to us, the header is
// enough to know it by, and small.
func (b *builder) returned() part {
	if len(b.Original) == 0 {
		return part{}
	}
	content, whole := b.Original, false
	if b.Envelope.Ret == mail.ReturnFull && b.has(Failed) && b.Whole && len(content) <= mail.MaxReturned {
		whole = true
	} else {
		content = header(content)
	}
	p := part{description: "Undelivered message", content: content, encoding: b.encoding(content)}
	switch {
	case !whole && b.Envelope.SMTPUTF8:
		p.mediaType, p.description = "message/global-headers", "Message headers"
	case !whole:
		p.mediaType, p.description = "text/rfc822-headers", "Message headers"
	case b.Envelope.SMTPUTF8:
		p.mediaType = "message/global"
	default:
		p.mediaType = "message/rfc822"
		if p.encoding == "quoted-printable" { // RFC 2046 5.2.1 allows none of it here
			p.encoding = "8bit"
		}
	}
	return p
}

// header is the header of a message, without the empty line, cut behind its last whole line if it is too long.
func header(content []byte) []byte {
	for at := 0; at < len(content); {
		n := bytes.IndexByte(content[at:], '\n')
		if n < 0 || at+n+1 > mail.MaxReturned {
			return content[:at]
		}
		if n == 0 || n == 1 && content[at] == '\r' {
			return content[:at]
		}
		at += n + 1
	}
	return content
}
