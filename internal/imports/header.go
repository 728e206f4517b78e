package imports

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"slices"
	"strings"

	"odmr/internal/client"
	"odmr/internal/mail"
)

// Delivery fields are what a mail server writes on top of a message when it puts it into a mailbox. Only those at the very top are
// believed, before the first field of another name: what stands below came with the message, and whoever sent it wrote it.
//
// The recipients are those of the first of these names that has any: Envelope-To (Exim), X-Envelope-To, X-Original-To (Postfix: as
// the message was addressed), Delivered-To (Dovecot, qmail, Postfix). The sender is Return-Path's.
var recipientFields = []string{"envelope-to", "x-envelope-to", "x-original-to", "delivered-to"}

// deliveryFields are all of them.
var deliveryFields = append(slices.Clone(recipientFields), "return-path", "delivery-date")

// top is what stands on top of a letter in a mailbox.
type top struct {
	envelope mail.Envelope
	sender   bool  // it is known
	exported bool  // an export wrote it
	length   int64 // octets of the file that are not content
}

// readTop reads what stands on top of a letter; what it has read of src is at most maxFields octets.
func readTop(src io.Reader) (*top, error) {
	in := bufio.NewReaderSize(src, 4096)
	var head []byte
	fields := map[string][][]byte{}
	last := ""
	for {
		text, err := in.ReadSlice('\n')
		long := errors.Is(err, bufio.ErrBufferFull)
		if err != nil && !long && err != io.EOF {
			return nil, err
		}
		folded := last != "" && len(text) > 0 && (text[0] == ' ' || text[0] == '\t')
		name, value, ok := strings.Cut(string(text), ":")
		name = strings.ToLower(strings.TrimRight(name, " \t"))
		ours := strings.HasPrefix(name, "x-odmr-")
		if long || err != nil || !folded && (!ok || !ours && !slices.Contains(deliveryFields, name)) {
			break // this is content, or no header
		}
		if len(head)+len(text) > maxFields {
			return nil, unreadable("the fields on top are longer than %d octets", maxFields)
		}
		head = append(head, text...)
		if folded {
			all := fields[last]
			all[len(all)-1] = append(all[len(all)-1], text...)
			continue
		}
		last = name
		fields[name] = append(fields[name], []byte(value))
	}
	return interpret(head, fields)
}

// alias is the name that an exported letter has in every kind of source: its file's in a Maildir, from the first version on.
func (t *top) alias() string {
	if !t.exported {
		return ""
	}
	return "maildir " + EntryName(&t.envelope)
}

// interpret makes an envelope of the fields on top.
func interpret(head []byte, fields map[string][][]byte) (*top, error) {
	unix := bytes.ReplaceAll(head, []byte("\r\n"), []byte("\n"))
	if v, n := parseFields(unix); n > 0 {
		// Of a file with CRLF as many lines are taken.
		lines, length := bytes.Count(unix[:n], []byte("\n")), 0
		for range lines {
			length += bytes.IndexByte(head[length:], '\n') + 1
		}
		return &top{envelope: *v, sender: true, exported: true, length: int64(length)}, nil
	}
	if len(fields["x-odmr-mail"]) > 0 {
		return nil, unreadable("the fields of an export on top (X-ODMR-...) were altered")
	}
	t := &top{length: int64(len(head))}
	if path := fields["return-path"]; len(path) > 0 {
		t.sender, t.envelope.ReversePath = true, address(string(path[0]))
	}
	for _, name := range recipientFields {
		for _, value := range fields[name] {
			for _, a := range addresses(string(value)) {
				t.envelope.Recipients = append(t.envelope.Recipients, mail.Recipient{Address: a})
			}
		}
		if len(t.envelope.Recipients) > 0 {
			break
		}
	}
	if len(t.envelope.Recipients) > maxRecipients {
		return nil, unreadable("more than %d recipients", maxRecipients)
	}
	// What odmrget, or an export of old, wrote goes no further than its own fields, even if the content begins with the like.
	if want := client.EnvelopeFields(&t.envelope); t.sender && len(t.envelope.Recipients) > 0 && bytes.HasPrefix(unix, []byte(want)) {
		lines, length := strings.Count(want, "\n"), 0
		for range lines {
			length += bytes.IndexByte(head[length:], '\n') + 1
		}
		t.length = int64(length)
	}
	return t, nil
}

// address takes the address out of a field's value: white space and angle brackets around it do not belong to it.
func address(value string) string {
	value = strings.TrimSpace(value)
	if strings.HasPrefix(value, "<") && strings.HasSuffix(value, ">") {
		value = value[1 : len(value)-1]
	}
	return value
}

// addresses are those of a list with commas, which do not count within quotes.
func addresses(value string) (all []string) {
	quoted, from := false, 0
	take := func(to int) {
		if a := address(value[from:to]); a != "" {
			all = append(all, a)
		}
		from = to + 1
	}
	for i := 0; i < len(value); i++ {
		switch c := value[i]; {
		case c == '\\' && quoted:
			i++
		case c == '"':
			quoted = !quoted
		case c == ',' && !quoted:
			take(i)
		}
	}
	take(len(value))
	return all
}

// dedupe leaves each recipient once: the first.
func dedupe(rcpts []mail.Recipient) []mail.Recipient {
	seen := make(map[string]bool, len(rcpts))
	return slices.DeleteFunc(rcpts, func(r mail.Recipient) bool {
		was := seen[r.Address]
		seen[r.Address] = true
		return was
	})
}
