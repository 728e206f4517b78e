package admin

import (
	"time"

	"odmr/internal/mail"
	"odmr/queue"
)

// Message is a queue.Entry as JSON, on the control socket and in odmrctl's --json. Field names
// do not change; new ones may come.
type Message struct {
	ID         string      `json:"id"`
	Domain     string      `json:"domain"`
	Arrived    time.Time   `json:"arrived"`
	Sender     string      `json:"sender"` // reverse-path, empty for the null one
	Size       int64       `json:"size"`   // octets of content
	WireSize   int64       `json:"wire_size"`
	Stuffed    bool        `json:"stuffed"`
	EightBit   bool        `json:"eight_bit"`
	Body       string      `json:"body"` // 7BIT or 8BITMIME, as declared
	SMTPUTF8   bool        `json:"smtputf8"`
	Ret        string      `json:"ret,omitempty"` // FULL or HDRS (RFC 3461)
	EnvID      string      `json:"envid,omitempty"`
	Client     string      `json:"client"`
	Attempts   uint32      `json:"attempts"`
	InDoubt    bool        `json:"in_doubt"`
	Leased     bool        `json:"leased"`
	Recipients []Recipient `json:"recipients"`
	// DelayNotified says that the sender was told of the delay.
	DelayNotified bool    `json:"delay_notified,omitempty"`
	Origin        *Origin `json:"origin,omitempty"`
}

// Origin is mail.Origin as JSON: the client that the MX had the message from.
type Origin struct {
	Name   string `json:"name,omitempty"`
	Addr   string `json:"addr,omitempty"`
	Port   string `json:"port,omitempty"`
	Proto  string `json:"proto,omitempty"`
	Helo   string `json:"helo,omitempty"`
	Ident  string `json:"ident,omitempty"`
	Source string `json:"source,omitempty"`
}

// Recipient is a mail.Recipient as JSON.
type Recipient struct {
	Address string   `json:"address"`
	State   string   `json:"state"`            // pending, delivered, failed, held or relayed
	Reply   string   `json:"reply,omitempty"`  // the customer's last reply
	Notify  []string `json:"notify,omitempty"` // RFC 3461
	ORcpt   string   `json:"orcpt,omitempty"`
}

// DomainCounts is queue.Counts of one domain as JSON.
type DomainCounts struct {
	Domain   string `json:"domain"`
	Messages int64  `json:"messages"`
	Bytes    int64  `json:"bytes"`
	Failed   int64  `json:"failed"`
	Held     int64  `json:"held"`
	Kept     int64  `json:"kept_bytes"`
	Untold   int64  `json:"untold"`
}

// NewDomainCounts describes the counts of a domain.
func NewDomainCounts(domain string, n queue.Counts) DomainCounts {
	return DomainCounts{domain, n.Messages, n.Bytes, n.Failed, n.Held, n.Kept, n.Untold}
}

func (d *DomainCounts) counts() queue.Counts {
	return queue.Counts{Messages: d.Messages, Bytes: d.Bytes, Failed: d.Failed, Held: d.Held, Kept: d.Kept, Untold: d.Untold}
}

// names of enumerations; the index is the value.
var (
	bodyNames  = []string{"7BIT", "8BITMIME"}
	retNames   = []string{"", "FULL", "HDRS"}
	stateNames = []string{"pending", "delivered", "failed", "held", "relayed", "bounced"}
	notifyBits = []struct {
		bit  mail.Notify
		name string
	}{{mail.NotifyNever, "NEVER"}, {mail.NotifySuccess, "SUCCESS"}, {mail.NotifyFailure, "FAILURE"}, {mail.NotifyDelay, "DELAY"}}
)

func name[T ~uint8](names []string, value T) string {
	if int(value) < len(names) {
		return names[value]
	}
	return "unknown"
}

// valueOf is the inverse of name; what is not known becomes the first.
func valueOf[T ~uint8](names []string, text string) T {
	for i, n := range names {
		if n == text {
			return T(i)
		}
	}
	return 0
}

// NewMessage gives e as JSON. It keeps nothing of e.
func NewMessage(e *queue.Entry) Message {
	v := &e.Envelope
	m := Message{
		ID: v.ID.String(), Domain: v.Domain, Arrived: time.Unix(0, v.Arrived).UTC(), Sender: v.ReversePath,
		Size: v.Size, WireSize: v.WireSize, Stuffed: v.Stuffed, EightBit: v.EightBit,
		Body: name(bodyNames, v.Body), SMTPUTF8: v.SMTPUTF8, Ret: name(retNames, v.Ret), EnvID: v.EnvID,
		Client: v.Client, Attempts: v.Attempts, InDoubt: v.InDoubt, Leased: e.Leased,
		Recipients:    make([]Recipient, 0, len(v.Recipients)),
		DelayNotified: v.DelayNotified, Origin: (*Origin)(v.Origin),
	}
	for i := range v.Recipients {
		r := &v.Recipients[i]
		out := Recipient{Address: r.Address, State: name(stateNames, r.State), Reply: r.Reply, ORcpt: r.ORcpt}
		for _, n := range notifyBits {
			if r.Notify&n.bit != 0 {
				out.Notify = append(out.Notify, n.name)
			}
		}
		m.Recipients = append(m.Recipients, out)
	}
	return m
}

// Entry is the inverse of NewMessage.
func (m *Message) Entry() (queue.Entry, error) {
	id, err := mail.ParseID(m.ID)
	if err != nil {
		return queue.Entry{}, err
	}
	e := queue.Entry{Leased: m.Leased, Envelope: mail.Envelope{
		ID: id, Domain: m.Domain, Arrived: m.Arrived.UnixNano(), ReversePath: m.Sender,
		Size: m.Size, WireSize: m.WireSize, Stuffed: m.Stuffed, EightBit: m.EightBit,
		Body: valueOf[mail.BodyType](bodyNames, m.Body), SMTPUTF8: m.SMTPUTF8, Ret: valueOf[mail.Return](retNames, m.Ret),
		EnvID: m.EnvID, Client: m.Client, Attempts: m.Attempts, InDoubt: m.InDoubt, DelayNotified: m.DelayNotified, Origin: (*mail.Origin)(m.Origin),
	}}
	for _, r := range m.Recipients {
		out := mail.Recipient{Address: r.Address, State: valueOf[mail.RecipientState](stateNames, r.State), Reply: r.Reply, ORcpt: r.ORcpt}
		for _, n := range notifyBits {
			for _, text := range r.Notify {
				if text == n.name {
					out.Notify |= n.bit
				}
			}
		}
		e.Envelope.Recipients = append(e.Envelope.Recipients, out)
	}
	return e, nil
}
