package admin

import (
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"unicode/utf8"

	"odmr/codec"
	"odmr/internal/mail"
	"odmr/queue"
)

// Letter is a message to be brought in: its envelope, and what names it. Of Message the fields id, domain, wire_size, leased
// and what is said of the content (stuffed, eight_bit) are not looked at, nor are the recipients' states and replies.
type Letter struct {
	Message
	// Stamps is a queue.Stamp for each recipient, in hexadecimal: what names this message to this recipient.
	Stamps []string `json:"stamps"`
	// Also is a second stamp for each recipient, by another name of the message, or empty: who has either has it.
	Also []string `json:"also,omitempty"`
	// Content is the SHA-256 of the content, in hexadecimal.
	Content string `json:"content"`
	// Waive names limits that are put aside: quota, size, recipients.
	Waive []string `json:"waive,omitempty"`
}

// Verdicts about a recipient of a Letter.
const (
	Taken   = "taken"   // the message waits for the customer; asked beforehand: it would be taken
	Here    = "here"    // it was brought in before
	Refused = "refused" // and why
)

// Answer is what became of a Letter.
type Answer struct {
	N          int       `json:"n"` // the letter's number in its request, from 0
	ID         string    `json:"id,omitempty"`
	Recipients []Verdict `json:"recipients"` // parallel to the letter's
}

// Verdict is what became of one recipient.
type Verdict struct {
	Verdict string `json:"verdict"`
	Reason  string `json:"reason,omitempty"`
}

// NewLetter is a letter with an envelope, and nothing else yet.
func NewLetter(v *mail.Envelope) Letter {
	return Letter{Message: NewMessage(&queue.Entry{Envelope: *v})}
}

// maxLetter is the longest letter without its content, in octets of JSON: a thousand recipients with all parameters.
const maxLetter = 4 << 20

// Check says what is wrong with l, so that it would end an import and what follows in it. It asks nobody.
func (l *Letter) Check() error {
	for _, r := range l.Recipients {
		if !utf8.ValidString(r.Address) {
			return fmt.Errorf("recipient <%s>: is not UTF-8", r.Address)
		}
	}
	if !utf8.ValidString(l.Sender) {
		return fmt.Errorf("sender <%s>: is not UTF-8", l.Sender)
	}
	text, err := json.Marshal(l)
	if err != nil {
		return err
	}
	if len(text) >= maxLetter-1 { // with the line's end
		return fmt.Errorf("its envelope has %d octets in JSON: there may be %d", len(text), maxLetter)
	}
	_, err = readLetter(text)
	return err
}

// arrival is a letter that was read and found sound.
type arrival struct {
	env     mail.Envelope // with all recipients; Domain is empty
	stamps  []queue.Stamp
	also    []queue.Stamp // nil, or as many
	content [32]byte
	waive   []string
}

// read checks l as far as that can be done without asking anybody: what a listener would not take does not come in here either.
func (l *Letter) read() (*arrival, error) {
	l.ID = mail.ID(0).String()
	e, err := l.Entry()
	if err != nil {
		return nil, err
	}
	a := &arrival{env: e.Envelope, waive: l.Waive, stamps: make([]queue.Stamp, len(l.Stamps))}
	v := &a.env
	v.Domain, v.WireSize, v.Stuffed, v.EightBit = "", 0, false, false
	switch n := len(v.Recipients); {
	case n == 0 || n > mail.MaxRecipients:
		return nil, fmt.Errorf("%d recipients: there may be 1 to %d", n, mail.MaxRecipients)
	case len(l.Stamps) != n:
		return nil, errors.New("there must be a stamp for each recipient")
	case len(l.Also) != n && len(l.Also) != 0:
		return nil, errors.New("there must be another stamp for each recipient, or for none")
	case v.Size < 0:
		return nil, errors.New("size: is negative")
	}
	if !unhex(a.content[:], l.Content) {
		return nil, errors.New("content: is no SHA-256 in hexadecimal")
	}
	a.also = make([]queue.Stamp, len(l.Also))
	for i := range l.Stamps {
		if !unhex(a.stamps[i][:], l.Stamps[i]) || len(a.also) > 0 && !unhex(a.also[i][:], l.Also[i]) {
			return nil, errors.New("stamps: no stamp in hexadecimal")
		}
	}
	if err := CheckPaths(v); err != nil {
		return nil, err
	}
	for i := range v.Recipients {
		r := &v.Recipients[i]
		r.State, r.Reply = mail.Pending, ""
	}
	return a, nil
}

func unhex(dst []byte, text string) bool {
	if len(text) != hex.EncodedLen(len(dst)) {
		return false
	}
	_, err := hex.Decode(dst, []byte(text))
	return err == nil
}

// CheckPaths asks of paths and parameters what MAIL and RCPT would.
func CheckPaths(v *mail.Envelope) error {
	var params codec.Params
	from := "FROM:<" + v.ReversePath + ">"
	if v.EnvID != "" {
		from += " ENVID=" + v.EnvID
	}
	path, err := codec.ParseMail([]byte(from), &params)
	if err != nil {
		return fmt.Errorf("sender <%s>: %w", v.ReversePath, err)
	}
	if string(path.Addr) != v.ReversePath || params.Len() > 1 {
		return fmt.Errorf("sender <%s>: is no plain address", v.ReversePath)
	}
	high := path.NonASCII()
	for i := range v.Recipients {
		r := &v.Recipients[i]
		to := "TO:<" + r.Address + ">"
		if r.ORcpt != "" {
			to += " ORCPT=" + r.ORcpt
		}
		path, err := codec.ParseRcpt([]byte(to), &params)
		if err != nil {
			return fmt.Errorf("recipient <%s>: %w", r.Address, err)
		}
		if string(path.Addr) != r.Address || len(path.Domain) == 0 || params.Len() > 1 {
			return fmt.Errorf("recipient <%s>: is no plain address with a domain", r.Address)
		}
		if r.Notify&mail.NotifyNever != 0 && r.Notify != mail.NotifyNever {
			return fmt.Errorf("recipient <%s>: NOTIFY=NEVER goes with nothing else", r.Address)
		}
		high = high || path.NonASCII()
	}
	if high && !v.SMTPUTF8 {
		return errors.New("an address that is not ASCII needs SMTPUTF8")
	}
	return nil
}
