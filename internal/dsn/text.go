package dsn

import (
	"bytes"
	"fmt"
	"time"
)

// text is the part for people.
func (b *builder) text() []byte {
	var out bytes.Buffer
	fmt.Fprintf(&out, "This is the mail system at host %s.\r\n", b.Hostname)
	for _, s := range [...]struct {
		action Action
		intro  string
	}{
		{Failed, "Your message could not be delivered to the recipients below. Nothing more will\r\nbe tried."},
		{Delayed, "Your message has not been delivered to the recipients below yet. You need not\r\nsend it again: it waits for their mail server to collect it."},
		{Relayed, "Your message was handed to the mail server of the recipients below, which does\r\nnot send reports on delivery. You may hear nothing more of it."},
	} {
		if !b.has(s.action) {
			continue
		}
		fmt.Fprintf(&out, "\r\n%s\r\n", s.intro)
		for i := range b.Recipients {
			if r := &b.Recipients[i]; r.Action == s.action {
				fmt.Fprintf(&out, "\r\n  <%s>\r\n", clean(r.Address, true))
				for _, line := range b.reasons(r) {
					fmt.Fprintf(&out, "    %s\r\n", line)
				}
			}
		}
	}
	if b.has(Delayed) && !b.RetryUntil.IsZero() {
		fmt.Fprintf(&out, "\r\nIf it is not collected by %s\r\nit will be returned to you.\r\n", b.RetryUntil.UTC().Format(dateFormat))
	}
	return out.Bytes()
}

// reasons say in lines why r stands as it does.
func (b *builder) reasons(r *Recipient) []string {
	var lines []string
	switch {
	case r.Action == Relayed:
		return nil
	case r.Expired:
		lines = append(lines, "It waited for "+waited(b.Waited)+" and was not collected.")
	case r.Action == Delayed && r.Reply == "":
		return []string{"It has waited for " + waited(b.Waited) + "; nobody has come for it yet."}
	}
	if r.Reply != "" {
		lines = append(lines, "Their mail server said:", clean(r.Reply, false))
	}
	return lines
}

// waited gives a duration in the largest unit that says something.
func waited(d time.Duration) string {
	for _, u := range [...]struct {
		unit time.Duration
		name string
	}{{24 * time.Hour, "day"}, {time.Hour, "hour"}, {time.Minute, "minute"}} {
		if n := int64(d / u.unit); n == 1 {
			return "1 " + u.name
		} else if n > 1 {
			return fmt.Sprintf("%d %ss", n, u.name)
		}
	}
	return "less than a minute"
}
