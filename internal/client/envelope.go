package client

import (
	"fmt"
	"strconv"
	"strings"

	"odmr/internal/mail"
)

func syntax(text string) *mail.Refusal {
	return &mail.Refusal{Code: 501, Enhanced: "5.5.4", Text: text}
}

// unsupported quotes param: a reply is text, whatever octets the peer sent.
func unsupported(param string) *mail.Refusal {
	return &mail.Refusal{Code: 555, Enhanced: "5.5.4", Text: fmt.Sprintf("parameter %.40q goes with no extension that was offered", param)}
}

// cutPath reads "<path> params" behind FROM: or TO:.
func cutPath(s string) (path string, params []string, ok bool) {
	if len(s) < 2 || s[0] != '<' {
		return "", nil, false
	}
	quoted := false
	for i := 1; i < len(s); i++ {
		switch {
		case quoted && s[i] == '\\': // RFC 5321 4.1.2 quoted-pair
			i++
		case s[i] == '"':
			quoted = !quoted
		case s[i] == '>' && !quoted:
			rest := s[i+1:]
			if rest != "" && rest[0] != ' ' {
				return "", nil, false
			}
			return s[1:i], strings.Fields(rest), true
		}
	}
	return "", nil, false
}

// cutPrefixFold cuts prefix, whatever its case, from s.
func cutPrefixFold(s, prefix string) (string, bool) {
	if len(s) < len(prefix) || !strings.EqualFold(s[:len(prefix)], prefix) {
		return "", false
	}
	return s[len(prefix):], true
}

// parseMail reads the argument of MAIL. Parameters of extensions that were not offered are refused.
func parseMail(arg string, o Offer) (*mail.Envelope, *mail.Refusal) {
	rest, ok := cutPrefixFold(arg, "FROM:")
	path, params, ok2 := cutPath(rest)
	if !ok || !ok2 {
		return nil, syntax("syntax: MAIL FROM:<address>")
	}
	env := &mail.Envelope{ReversePath: path}
	for _, p := range params {
		k, v, _ := strings.Cut(p, "=")
		if r := mailParam(env, o, strings.ToUpper(k), v); r != nil {
			return nil, r
		}
	}
	return env, nil
}

func mailParam(env *mail.Envelope, o Offer, key, value string) *mail.Refusal {
	switch {
	case key == "SIZE" && (o.DeclareSize || o.Size > 0):
		n, err := strconv.ParseInt(value, 10, 63)
		if err != nil || n < 0 {
			return syntax("SIZE is a number of octets")
		}
		env.Size = n
		if o.Size > 0 && n > o.Size {
			return tooBig()
		}
	case key == "BODY" && o.EightBit:
		switch strings.ToUpper(value) {
		case "7BIT":
		case "8BITMIME":
			env.Body = mail.Body8BitMIME
		default:
			return syntax("BODY is 7BIT or 8BITMIME")
		}
	case key == "SMTPUTF8" && o.SMTPUTF8 && value == "":
		env.SMTPUTF8 = true
	case key == "RET" && o.DSN:
		switch strings.ToUpper(value) {
		case "FULL":
			env.Ret = mail.ReturnFull
		case "HDRS":
			env.Ret = mail.ReturnHeaders
		default:
			return syntax("RET is FULL or HDRS")
		}
	case key == "ENVID" && o.DSN && value != "":
		env.EnvID = value
	default:
		return unsupported(key)
	}
	return nil
}

// parseRcpt reads the argument of RCPT.
func parseRcpt(arg string, o Offer) (mail.Recipient, *mail.Refusal) {
	rest, ok := cutPrefixFold(arg, "TO:")
	path, params, ok2 := cutPath(rest)
	if !ok || !ok2 || path == "" {
		return mail.Recipient{}, syntax("syntax: RCPT TO:<address>")
	}
	rcpt := mail.Recipient{Address: path}
	for _, p := range params {
		k, v, _ := strings.Cut(p, "=")
		key := strings.ToUpper(k)
		switch {
		case key == "NOTIFY" && o.DSN:
			n, ok := parseNotify(v)
			if !ok {
				return rcpt, syntax("NOTIFY is NEVER or a list of SUCCESS, FAILURE, DELAY")
			}
			rcpt.Notify = n
		case key == "ORCPT" && o.DSN && v != "":
			rcpt.ORcpt = v
		default:
			return rcpt, unsupported(key)
		}
	}
	return rcpt, nil
}

var notifyWords = map[string]mail.Notify{
	"NEVER": mail.NotifyNever, "SUCCESS": mail.NotifySuccess, "FAILURE": mail.NotifyFailure, "DELAY": mail.NotifyDelay,
}

func parseNotify(s string) (mail.Notify, bool) {
	var n mail.Notify
	for _, word := range strings.Split(s, ",") {
		bit, ok := notifyWords[strings.ToUpper(word)]
		if !ok || n&bit != 0 {
			return 0, false
		}
		n |= bit
	}
	return n, n&mail.NotifyNever == 0 || n == mail.NotifyNever
}

// MailArgument is what stands behind MAIL for env, with the parameters of the extensions in exts (by their EHLO keywords).
func MailArgument(env *mail.Envelope, exts map[string]string) string {
	var b strings.Builder
	b.WriteString("FROM:<" + env.ReversePath + ">")
	has := func(k string) bool { _, ok := exts[k]; return ok }
	if has("SIZE") && env.Size > 0 {
		b.WriteString(" SIZE=" + strconv.FormatInt(env.Size, 10))
	}
	if has("8BITMIME") && env.Body == mail.Body8BitMIME {
		b.WriteString(" BODY=8BITMIME")
	}
	if has("SMTPUTF8") && env.SMTPUTF8 {
		b.WriteString(" SMTPUTF8")
	}
	if has("DSN") {
		switch env.Ret {
		case mail.ReturnFull:
			b.WriteString(" RET=FULL")
		case mail.ReturnHeaders:
			b.WriteString(" RET=HDRS")
		}
		if env.EnvID != "" {
			b.WriteString(" ENVID=" + env.EnvID)
		}
	}
	return b.String()
}

// RcptArgument is what stands behind RCPT for r, likewise.
func RcptArgument(r *mail.Recipient, exts map[string]string) string {
	s := "TO:<" + r.Address + ">"
	if _, ok := exts["DSN"]; !ok {
		return s
	}
	var words []string
	for _, w := range []string{"NEVER", "SUCCESS", "FAILURE", "DELAY"} {
		if r.Notify&notifyWords[w] != 0 {
			words = append(words, w)
		}
	}
	if len(words) > 0 {
		s += " NOTIFY=" + strings.Join(words, ",")
	}
	if r.ORcpt != "" {
		s += " ORCPT=" + r.ORcpt
	}
	return s
}
