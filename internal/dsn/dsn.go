// Package dsn writes delivery status notifications: what a sender is told of mail that failed, waits for long, or was
// handed on to a server that will not tell (RFC 3461, RFC 3464, RFC 6522, RFC 3834, and RFC 6533 where
// addresses are not ASCII).
//
// It is pure: time is an argument, nothing is read or sent, and the same Report gives the same octets. A report goes
// to nobody but the reverse-path, with a null reverse-path of its own; mail that has none is never reported on
// (RFC 5321 6.1), so that no report begets another. What comes from strangers (addresses, a customer's replies, the
// message itself) is made harmless: it cannot add a field, end a MIME part, or bring in control characters.
//
// It must never report what the sender did not want to hear (Due), and never more of the message than mail.MaxReturned.
package dsn

import (
	"bytes"
	"errors"
	"fmt"
	"mime"
	"time"

	"github.com/emersion/go-message"

	"odmr/codec"
	"odmr/internal/mail"
)

// Action is what a report says of a recipient (RFC 3464 2.3.3).
type Action uint8

const (
	Failed  Action = iota // nothing more is tried
	Delayed               // still waits
	Relayed               // handed to a server that does not report (RFC 3461 5.2.2)
)

var actionNames = [...]string{"failed", "delayed", "relayed"}

// Due says whether a sender who gave NOTIFY=n wants to hear that (RFC 3461 4.1). Without NOTIFY it hears of failures and
// delays.
func Due(n mail.Notify, a Action) bool {
	switch {
	case n == 0:
		return a != Relayed
	case n&mail.NotifyNever != 0:
		return false
	}
	return n&[...]mail.Notify{mail.NotifyFailure, mail.NotifyDelay, mail.NotifySuccess}[a] != 0
}

// Recipient is one recipient that a report is about.
type Recipient struct {
	Address string // as in the envelope
	ORcpt   string // as in the envelope
	Action  Action
	Reply   string // the customer's, "550 5.1.1 no such user"; empty if it never said anything
	Expired bool   // it failed because it waited too long
}

// Report is one message to one sender.
type Report struct {
	Hostname   string    // this server's, RFC 3464 2.2.2
	Now        time.Time // of the report
	Envelope   *mail.Envelope
	Recipients []Recipient // at least one
	RetryUntil time.Time   // for delayed recipients, RFC 3464 2.3.9; zero: not said
	Waited     time.Duration
	// Original is the message's content as its author wrote it (not dot-stuffed), or its beginning, which should
	// hold its header; Whole says that it is all of it. None at all: nothing is returned.
	Original []byte
	Whole    bool
	Part     int // which of several reports on the same event this is, from 0; each has a Message-ID of its own
}

// ErrNoSender says that the message has a null reverse-path: nobody is to be told (RFC 5321 6.1, RFC 3834 2).
var ErrNoSender = errors.New("dsn: the message has no sender to be told")

// Build writes the report: its envelope, but for the queue's Domain and ID, and its body in wire form.
func Build(r *Report) (mail.Envelope, []byte, error) {
	if r.Envelope.ReversePath == "" {
		return mail.Envelope{}, nil, ErrNoSender
	}
	if len(r.Recipients) == 0 {
		return mail.Envelope{}, nil, errors.New("dsn: a report about nobody")
	}
	b := builder{Report: r, utf8: !isASCII([]byte(r.Envelope.ReversePath))}
	var out bytes.Buffer
	if err := b.write(&out); err != nil {
		return mail.Envelope{}, nil, fmt.Errorf("dsn: %w", err)
	}
	content := out.Bytes()
	var stuffer codec.Stuffer
	wire := stuffer.Finish(stuffer.Append(make([]byte, 0, len(content)+64), content))
	env := mail.Envelope{
		Arrived: r.Now.UnixNano(), SMTPUTF8: b.utf8, EightBit: !isASCII(content),
		Size: int64(len(content)), WireSize: int64(len(wire)), Stuffed: len(wire) != len(content),
		// Nobody is to report on a report (RFC 3461 6).
		Recipients: []mail.Recipient{{Address: r.Envelope.ReversePath, Notify: mail.NotifyNever}},
	}
	if env.EightBit {
		env.Body = mail.Body8BitMIME
	}
	return env, wire, nil
}

// builder is one Build.
type builder struct {
	*Report
	utf8 bool // the report itself needs SMTPUTF8, for its recipient's address does
}

func (b *builder) write(out *bytes.Buffer) error {
	text, status, returned := b.text(), b.status(), b.returned()
	var h message.Header
	h.SetContentType("multipart/report", map[string]string{
		"report-type": "delivery-status", "boundary": b.boundary(text, status, returned.content),
	})
	// Add puts a field in front of those before.
	h.Add("MIME-Version", "1.0")
	h.Add("Auto-Submitted", "auto-replied") // RFC 3834 5
	h.Add("Subject", b.subject())
	h.Add("To", "<"+clean(b.Envelope.ReversePath, b.utf8)+">")
	h.Add("From", "Mail Delivery System <MAILER-DAEMON@"+b.Hostname+">")
	h.Add("Message-ID", fmt.Sprintf("<%s.%d.%d.%d@%s>", b.Envelope.ID, b.Now.UnixNano(), b.Recipients[0].Action, b.Part, b.Hostname))
	h.Add("Date", b.Now.Format(dateFormat))
	w, err := message.CreateWriter(out, h)
	if err != nil {
		return err
	}
	parts := []part{
		{mime.FormatMediaType("text/plain", map[string]string{"charset": "utf-8"}), "Notification", b.encoding(text), text},
		{b.statusType(status), "Delivery report", b.encoding(status), status},
		returned,
	}
	for _, p := range parts {
		if err := p.write(w); err != nil {
			return err
		}
	}
	return w.Close()
}

// dateFormat is RFC 5322 3.3.
const dateFormat = "Mon, 2 Jan 2006 15:04:05 -0700"

// part is one of the three parts of a report (RFC 6522 3).
type part struct {
	mediaType   string
	description string
	encoding    string
	content     []byte
}

func (p *part) write(w *message.Writer) error {
	if p.mediaType == "" {
		return nil
	}
	var h message.Header
	h.Add("Content-Transfer-Encoding", p.encoding)
	h.Add("Content-Description", p.description)
	h.Add("Content-Type", p.mediaType)
	pw, err := w.CreatePart(h)
	if err != nil {
		return err
	}
	if _, err := pw.Write(p.content); err != nil {
		return err
	}
	return pw.Close()
}

// encoding is how content may go: a report that needs no SMTPUTF8 stays within ASCII as far as MIME lets it.
func (b *builder) encoding(content []byte) string {
	switch {
	case isASCII(content) && longestLine(content) <= maxLine:
		return "7bit"
	case b.utf8 && longestLine(content) <= maxLine:
		return "8bit"
	}
	return "quoted-printable"
}

// maxLine is the longest line without CRLF, in octets (RFC 5322 2.1.1).
const maxLine = 998

// boundary is one that no content has: a stranger's message must not end a part.
func (b *builder) boundary(contents ...[]byte) string {
	for n := 0; ; n++ {
		boundary := fmt.Sprintf("=_%s.%d.%d", b.Envelope.ID, b.Now.UnixNano(), n)
		found := false
		for _, c := range contents {
			found = found || bytes.Contains(c, []byte(boundary))
		}
		if !found {
			return boundary
		}
	}
}

// has says whether some recipient's action is that.
func (b *builder) has(a Action) bool {
	for i := range b.Recipients {
		if b.Recipients[i].Action == a {
			return true
		}
	}
	return false
}

func (b *builder) subject() string {
	switch {
	case b.has(Failed):
		return "Undelivered mail returned to sender"
	case b.has(Delayed):
		return "Delayed mail (still waiting)"
	}
	return "Mail was handed on"
}

func isASCII(b []byte) bool {
	for _, c := range b {
		if c >= 0x80 {
			return false
		}
	}
	return true
}

func longestLine(b []byte) (longest int) {
	for len(b) > 0 {
		n := bytes.IndexByte(b, '\n')
		if n < 0 {
			n = len(b)
		}
		longest = max(longest, n)
		b = b[min(n+1, len(b)):]
	}
	return longest
}
