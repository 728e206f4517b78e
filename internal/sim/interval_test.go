package sim

import (
	"slices"
	"time"

	"odmr/internal/account"
	"odmr/internal/mail"
)

// RuleInterval: an ATRN is refused as too soon only after one that brought all there was, and then it is.
const RuleInterval Rule = "interval"

// place is a domain of an account, for which it collects.
type place struct{ account, domain string }

// asked is an ATRN as the ledger remembers it.
type asked struct {
	domains []string
	at      int64
	era     int
	dry     bool   // it was answered 453, for there was nothing
	visit   *visit // nil: it got no lease
}

// interval is the least time between two ATRN of that account.
func (h *host) interval(a *account.Account) time.Duration {
	switch d := a.Policy.ATRNInterval; d {
	case 0:
		return h.policy.atrn
	case account.Off:
		return 0
	default:
		return d
	}
}

// note says that an ATRN of that time has been answered by all there was, as package engine does.
func (h *host) note(account string, domains []string, at int64) {
	for _, d := range domains {
		p := place{account, d}
		h.collected[p] = max(h.collected[p], at)
	}
}

// tooSoon refuses an ATRN within the interval.
func (c *conn) tooSoon(q *request) *mail.Refusal {
	h := c.h
	c.hurried = false
	if q.tries > 0 {
		q.asked.domains = q.domains // it may have got others meanwhile
		return nil
	}
	interval := int64(h.interval(q.account))
	soon := interval > 0 && !slices.ContainsFunc(q.domains, func(d string) bool {
		at, ok := h.collected[place{c.account, d}]
		return !ok || c.w.now-at >= interval
	})
	h.ledger.asks(c.account, q, interval, soon)
	if !soon {
		return nil
	}
	c.hurried = true
	text := "You have no mail: too soon after the last ATRN"
	if h.policy.code == 450 {
		text = "ATRN request refused: too soon after the last one"
	}
	return &mail.Refusal{Code: h.policy.code, Text: text}
}

// asks looks at whether an ATRN comes too soon, and remembers it if it does not.
func (l *ledger) asks(account string, q *request, interval int64, soon bool) {
	lately := slices.DeleteFunc(slices.Clone(l.atrns[account]), func(a *asked) bool { return a.era != l.host.era || l.w.now-a.at >= interval })
	any := func(fits func(d string, a *asked) bool) func(string) bool {
		return func(d string) bool {
			return slices.ContainsFunc(lately, func(a *asked) bool { return slices.Contains(a.domains, d) && fits(d, a) })
		}
	}
	dry := any(func(_ string, a *asked) bool { return a.dry })
	brought := any(func(d string, a *asked) bool { return l.broughtAll(a, d) })
	if !soon {
		if !slices.ContainsFunc(q.domains, func(d string) bool { return !dry(d) }) && interval > 0 {
			l.w.fail(RuleInterval, "%s: an ATRN for %v is looked at although it has had its 453 within %v", account, q.domains, time.Duration(interval))
		}
		if len(lately) > 0 && interval > 0 {
			l.w.meet("an ATRN within the interval of one that did not bring all")
		}
		q.asked = &asked{domains: q.domains, at: l.w.now, era: l.host.era}
		l.atrns[account] = append(l.atrns[account], q.asked)
		return
	}
	l.w.meet("an ATRN that came too soon")
	for _, d := range q.domains {
		if !brought(d) {
			l.w.fail(RuleInterval, "%s: an ATRN for %s is too soon, and none within %v has brought all there was", account, d, time.Duration(interval))
		}
		if l.host.store.Counts(d).Messages > 0 {
			l.w.meet("mail that waits for the end of an interval")
		}
	}
}

// waited says that an ATRN for which nothing came is answered by 453.
func (l *ledger) waited(account string, domains []string) {
	l.atrns[account] = append(l.atrns[account], &asked{domains: domains, at: l.w.now, era: l.host.era, dry: true})
}

// broughtAll says whether nothing waits in domain that was there when a came, but for what the customer has put off since.
func (l *ledger) broughtAll(a *asked, domain string) bool {
	v := a.visit
	return !slices.ContainsFunc(l.queues[domain], func(e *entry) bool {
		if e.absent || e.left || !e.pending() || e.uncertain() || e.queued >= a.at {
			return false
		}
		return v == nil || !v.manner.liar && !(v.quit && v.judged[e])
	})
}
