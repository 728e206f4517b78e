package engine

import (
	"errors"

	"odmr/engine/session"
	"odmr/internal/account"
	"odmr/internal/mail"
)

// Quota bounds what is held for one account, all its domains together: whatever takes up space, also what failed and
// waits for its bounce, and what the bounce shield holds. An account's own policy goes before it. It is
// looked at when a recipient is named, by counts that cost no scan: messages that come in at the same moment
// may exceed it by as much as is on its way through listeners. Who brings mail in knows what is on its way (Admission.Ahead).
type Quota struct {
	Messages int64 // 0: no bound
	Bytes    int64 // 0: no bound
	Code     int   // reply to what is over it: 452 (0 too) or 552
}

func (q *Quota) validate(bad func(format string, args ...any)) {
	if q.Messages < 0 || q.Bytes < 0 {
		bad("Quota: must not be negative")
	}
	if q.Code != 0 && q.Code != 452 && q.Code != 552 {
		bad("Quota.Code: %d is neither 452 nor 552", q.Code)
	}
}

// takes says whether mail for the recipient's domain is held here, and whether this message is taken for it. It blocks
// as far as the directory does.
func (e *Engine) takes(rt *routing) session.Result {
	domain, size := rt.domain, rt.size
	a, err := e.cfg.Directory.Owner(domain)
	switch {
	case errors.Is(err, account.ErrUnknown):
		return routeResult(domain, false, nil)
	case err != nil:
		return routeResult(domain, false, err)
	}
	r := routeResult(domain, true, nil)
	refusal, each := e.unknown(a, rt)
	if refusal != nil && rt.waived&WaiveRecipients == 0 {
		return session.Result{Refusal: refusal}
	}
	r.MaxSize, r.Each = a.Policy.MaxMessageSize, each
	if r.MaxSize > 0 && size > r.MaxSize && rt.waived&WaiveSize == 0 { // RFC 1870 6.1
		return session.Result{Refusal: &mail.Refusal{Code: 552, Enhanced: "5.3.4", Text: "Message exceeds the size limit of this recipient"}}
	}
	if rt.waived&WaiveQuota != 0 {
		return r
	}
	if r.Refusal = e.overQuota(a, rt); r.Refusal != nil {
		e.cfg.Observer.LimitHit(LimitQuota)
	}
	return r
}

// overQuota refuses a message for which there is no room in what may be held for a.
func (e *Engine) overQuota(a *account.Account, rt *routing) *mail.Refusal {
	q := &e.cfg.Quota
	messages, bytes := bound(a.Policy.QuotaMessages, q.Messages), bound(a.Policy.QuotaBytes, q.Bytes)
	if messages == 0 && bytes == 0 {
		return nil
	}
	var heldMessages, heldBytes int64
	for _, d := range a.Domains {
		n := e.cfg.Store.Counts(d)
		heldMessages, heldBytes = heldMessages+n.Messages+n.Failed+n.Held, heldBytes+n.Bytes+n.Kept
		if rt.ahead != nil {
			n, placed := rt.ahead(d)
			if placed && d == rt.domain {
				return nil
			}
			heldMessages, heldBytes = heldMessages+n.Messages, heldBytes+n.Bytes
		}
	}
	if (messages == 0 || heldMessages < messages) && (bytes == 0 || heldBytes+max(rt.size, 1) <= bytes) {
		return nil
	}
	if q.Code == 552 {
		return &mail.Refusal{Code: 552, Enhanced: "5.2.2", Text: "Too much mail is held for this recipient"}
	}
	return &mail.Refusal{Code: 452, Enhanced: "4.2.2", Text: "Too much mail is held for this recipient, try again later"}
}

// bound returns the account's bound if it has one, else the server's; 0: none.
func bound(own, server int64) int64 {
	switch own {
	case 0:
		return server
	case account.Unlimited:
		return 0
	}
	return own
}
