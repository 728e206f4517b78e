package imports

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"strconv"
	"strings"
	"time"

	"odmr/codec"
	"odmr/internal/client"
	"odmr/internal/mail"
)

// An export writes the envelope on top of the content: the fields that every program understands
// (client.EnvelopeFields: Return-Path, Delivered-To for each recipient, X-Envelope-To), and then, for the way back, those below, which have
// all the rest. They are what an MX would have said.
//
//	X-ODMR-Mail: FROM:<sender> BODY=8BITMIME SMTPUTF8 RET=HDRS ENVID=QQ314159
//	X-ODMR-Rcpt: TO:<user@example.org> NOTIFY=SUCCESS,DELAY ORCPT=rfc822;user@example.net
//	X-ODMR-Arrived: 2024-03-01T10:15:30.123456789Z
//	X-ODMR-Client: 192.0.2.1
//	X-ODMR-Origin: NAME=mail.sender.example ADDR=198.51.100.7     (as XFORWARD says it)
//	X-ODMR-State: ID=06c45hvtm2dm0 DOMAIN=example.org ATTEMPTS=3 IN-DOUBT DELAY-NOTIFIED
//
// The last one is always there: what stands below it is content, whatever it looks like.
const (
	fieldMail    = "X-ODMR-Mail: "
	fieldRcpt    = "X-ODMR-Rcpt: "
	fieldArrived = "X-ODMR-Arrived: "
	fieldClient  = "X-ODMR-Client: "
	fieldOrigin  = "X-ODMR-Origin: "
	fieldState   = "X-ODMR-State: "
)

// Fields are all that an export writes on top, with lines that end in LF.
func Fields(v *mail.Envelope) string { return client.EnvelopeFields(v) + Parameters(v) }

// EntryName is the name of an exported entry's file, in the form that Maildir asks for. A domain may be longer than a file's name.
func EntryName(v *mail.Envelope) string {
	domain := v.Domain
	if len(domain) > 150 {
		domain = fmt.Sprintf("%x", sha256.Sum256([]byte(domain)))
	}
	at := time.Unix(0, v.Arrived)
	return fmt.Sprintf("%d.M%dQ%s.%s", at.Unix(), at.Nanosecond()/1000, v.ID, domain)
}

// Parameters are the fields that only an import understands.
func Parameters(v *mail.Envelope) string {
	var b strings.Builder
	b.WriteString(fieldMail + client.MailArgument(v, allButSize) + "\n")
	for i := range v.Recipients {
		b.WriteString(fieldRcpt + client.RcptArgument(&v.Recipients[i], allButSize) + "\n")
	}
	b.WriteString(fieldArrived + time.Unix(0, v.Arrived).UTC().Format(time.RFC3339Nano) + "\n")
	if v.Client != "" {
		b.WriteString(fieldClient + v.Client + "\n")
	}
	if v.Origin != nil {
		b.WriteString(fieldOrigin + originField(v.Origin) + "\n")
	}
	fmt.Fprintf(&b, "%sID=%s DOMAIN=%s ATTEMPTS=%d", fieldState, v.ID, v.Domain, v.Attempts)
	for _, f := range stateFlags(v) {
		if *f.flag {
			b.WriteString(" " + f.name)
		}
	}
	b.WriteByte('\n')
	return b.String()
}

// allButSize are the extensions whose parameters the fields have. SIZE is the content's own.
var allButSize = map[string]string{"8BITMIME": "", "SMTPUTF8": "", "DSN": ""}

type stateFlag struct {
	name string
	flag *bool
}

func stateFlags(v *mail.Envelope) []stateFlag {
	return []stateFlag{{"IN-DOUBT", &v.InDoubt}, {"DELAY-NOTIFIED", &v.DelayNotified}}
}

type originValue struct {
	name  string
	value *string
}

func originValues(o *mail.Origin) []originValue {
	return []originValue{{"NAME", &o.Name}, {"ADDR", &o.Addr}, {"PORT", &o.Port}, {"PROTO", &o.Proto}, {"HELO", &o.Helo}, {"IDENT", &o.Ident}, {"SOURCE", &o.Source}}
}

func originField(o *mail.Origin) string {
	var b []byte
	for _, v := range originValues(o) {
		if *v.value == "" {
			continue
		}
		b = append(append(b, v.name...), '=')
		b = append(codec.AppendXtext(b, []byte(*v.value)), ' ')
	}
	return strings.TrimSuffix(string(b), " ")
}

// parseFields reads what an export wrote on top: head is the start of a letter, with lines that end in LF. n is how many octets it takes; 0
// where these are not an export's fields, to the octet.
func parseFields(head []byte) (v *mail.Envelope, n int) {
	v = new(mail.Envelope)
	seen := false
	for rest := head; ; {
		end := bytes.IndexByte(rest, '\n')
		if end < 0 {
			break
		}
		text := string(rest[:end])
		rest = rest[end+1:]
		name, _, _ := strings.Cut(text, " ")
		switch name += " "; {
		case !seen && (isFront(text) || len(text) > 0 && text[0] == '\t'):
		case name == fieldMail && !seen:
			seen = true
			if !parseMail(v, text[len(name):]) {
				return nil, 0
			}
		case !seen:
			return nil, 0
		case name == fieldRcpt || name == fieldArrived || name == fieldClient || name == fieldOrigin || name == fieldState:
			if !parseParameter(v, name, text[len(name):]) {
				return nil, 0
			}
			if name == fieldState {
				rest = nil
			}
		default:
			return nil, 0
		}
	}
	// Whoever wrote them wrote exactly this, or they are something else.
	if !seen {
		return nil, 0
	}
	if want := Fields(v); len(v.Recipients) > 0 && bytes.HasPrefix(head, []byte(want)) {
		return v, len(want)
	}
	return nil, 0
}

// isFront says whether a line begins one of the fields of client.EnvelopeFields.
func isFront(text string) bool {
	for _, f := range []string{"Return-Path: ", "Delivered-To: ", "X-Envelope-To: "} {
		if strings.HasPrefix(text, f) {
			return true
		}
	}
	return false
}

func parseMail(v *mail.Envelope, text string) bool {
	var params codec.Params
	path, err := codec.ParseMail([]byte(text), &params)
	if err != nil {
		return false
	}
	v.ReversePath = string(path.Addr)
	said := params.Mail()
	v.SMTPUTF8, v.Ret, v.EnvID = said.SMTPUTF8, mail.Return(said.Ret), string(said.EnvID)
	if said.EightBit {
		v.Body = mail.Body8BitMIME
	}
	return true
}

func parseParameter(v *mail.Envelope, name, text string) bool {
	switch name {
	case fieldRcpt:
		var params codec.Params
		path, err := codec.ParseRcpt([]byte(text), &params)
		if err != nil || len(v.Recipients) == maxRecipients {
			return false
		}
		said := params.Rcpt()
		v.Recipients = append(v.Recipients, mail.Recipient{Address: string(path.Addr), Notify: mail.Notify(said.Notify), ORcpt: string(said.Orcpt)})
	case fieldArrived:
		at, err := time.Parse(time.RFC3339Nano, text)
		if err != nil {
			return false
		}
		v.Arrived = at.UnixNano()
	case fieldClient:
		v.Client = text
	case fieldOrigin:
		return parseOrigin(v, text)
	case fieldState:
		return parseState(v, text)
	}
	return true
}

func parseOrigin(v *mail.Envelope, text string) bool {
	v.Origin = new(mail.Origin)
	for _, word := range strings.Fields(text) {
		key, value, _ := strings.Cut(word, "=")
		decoded, err := codec.DecodeXtext(nil, []byte(value))
		if err != nil || len(decoded) > mail.MaxOriginValue {
			return false
		}
		for _, o := range originValues(v.Origin) {
			if o.name == key {
				*o.value = string(decoded)
			}
		}
	}
	return true
}

func parseState(v *mail.Envelope, text string) bool {
	for _, word := range strings.Fields(text) {
		if text, ok := strings.CutPrefix(word, "ID="); ok {
			var err error
			if v.ID, err = mail.ParseID(text); err != nil {
				return false
			}
		}
		if domain, ok := strings.CutPrefix(word, "DOMAIN="); ok {
			v.Domain = domain
		}
		if n, ok := strings.CutPrefix(word, "ATTEMPTS="); ok {
			attempts, err := strconv.ParseUint(n, 10, 32)
			if err != nil {
				return false
			}
			v.Attempts = uint32(attempts)
		}
		for _, f := range stateFlags(v) {
			if f.name == word {
				*f.flag = true
			}
		}
	}
	return true
}
