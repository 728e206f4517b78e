package engine

import (
	"strings"

	"odmr/engine/session"
	"odmr/internal/account"
	"odmr/internal/mail"
	"odmr/queue"
)

// Waiver is a set of limits that an operator who brings mail in may put aside. That a domain is held here is none of them.
type Waiver uint8

const (
	WaiveQuota      Waiver = 1 << iota // of the account
	WaiveSize                          // of a message: the account's, and the server's
	WaiveRecipients                    // the account's list, and what its server does not know
)

// Admission asks whether mail that does not come through a listener is taken for a recipient.
type Admission struct {
	Address string // of the recipient, with its domain
	Null    bool   // the null reverse-path
	Size    int64  // octets of content
	Now     session.Time
	Waived  Waiver
	// Ahead is what the caller has on its way into a domain's queue, which counts for a quota like what is there; placed says that
	// this message has a place there already, and so no quota is asked. nil: nothing.
	Ahead func(domain string) (n queue.Counts, placed bool)
}

// Admit says in whose queue mail for a recipient belongs, lower-case A-labels, or why it is not taken: as RCPT is answered. It
// may block, and be called from any goroutine.
func (e *Engine) Admit(a *Admission) (domain string, refusal *mail.Refusal) {
	domain, err := account.ParseDomain(strings.ToLower(a.Address[strings.LastIndexByte(a.Address, '@')+1:]))
	if err != nil {
		return "", routeResult("", false, nil).Refusal
	}
	if a.Size > e.cfg.MaxMessageSize && a.Waived&WaiveSize == 0 {
		return "", &mail.Refusal{Code: 552, Enhanced: "5.3.4", Text: "Message exceeds the size limit"}
	}
	r := e.takes(&routing{domain: domain, address: []byte(a.Address), null: a.Null, size: a.Size, now: a.Now, waived: a.Waived, ahead: a.Ahead})
	if r.Refusal != nil {
		return "", r.Refusal
	}
	return r.Domain, nil
}
