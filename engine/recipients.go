package engine

import (
	"time"

	"odmr/engine/session"
	"odmr/internal/account"
	"odmr/internal/mail"
	"odmr/internal/recipients"
	"odmr/queue"
)

// Recipients is which recipients of held domains mail is refused for; see package recipients.
type Recipients struct {
	Learn      bool          // refuse those that the customer's own server does not know
	Lifetime   time.Duration // how long one is remembered; 0: recipients.DefaultLifetime
	PerDomain  int           // how many of one domain; 0: recipients.DefaultPerDomain
	Delimiters string        // see recipients.Query
}

// routing is a recipient that a message is to be taken for.
type routing struct {
	domain  string
	address []byte // as written
	null    bool   // the null reverse-path
	size    int64  // declared; 0: not
	now     session.Time
	waived  Waiver
	ahead   func(domain string) (queue.Counts, bool) // see Admission; nil: nothing is known of
}

// unknown refuses a recipient that a's list does not have, or that a's own server does not know, and says whether every
// recipient of the domain is to be asked for.
func (e *Engine) unknown(a *account.Account, r *routing) (refusal *mail.Refusal, each bool) {
	lister, apart := e.cfg.Directory.(account.Lister)
	list := a.Recipients
	if apart {
		list = lister.Recipients(a.Name)
	}
	q := recipients.Query{Address: string(r.address), Domain: r.domain, Null: r.null, Delimiters: e.cfg.Recipients.Delimiters}
	if each = recipients.Covers(list, r.domain); each && recipients.Listed(list, &q) {
		return nil, true // the list is the customer's word
	}
	if each && apart {
		list = lister.RecentRecipients(a.Name)
	}
	switch {
	case each && recipients.Covers(list, r.domain):
		if !recipients.Listed(list, &q) {
			return refuseUnknown, true
		}
	case e.learned != nil && e.learned.Unknown(a.Name, r.domain, r.address, r.now):
		return refuseUnknown, true
	}
	return nil, each || e.learned != nil && e.learned.Any(r.domain)
}

var refuseUnknown = &mail.Refusal{Code: 550, Enhanced: "5.1.1", Text: "The customer's server knows no such recipient"}

// learn takes what the customer's server said of the recipients of a message that is settled.
func (c *conn) learn(now session.Time, s *settlement) {
	table := c.lp.eng.learned
	if table == nil {
		return
	}
	env := &s.msg.delivery.Envelope
	for i := range s.Outcomes {
		switch o := &s.Outcomes[i]; o.Rcpt {
		case mail.RcptAccepted:
			table.Accept(env.Domain, env.Recipients[i].Address)
		case mail.RcptUnknown:
			table.Learn(c.account, env.Domain, env.Recipients[i].Address, now)
			c.log(c.lp.eng.log.Info()).Str("domain", env.Domain).Str("recipient", env.Recipients[i].Address).Msg("recipient is not known to the customer")
		}
	}
}

// online says that the customer answers for its recipients itself from now on.
func (c *conn) online() {
	if table := c.lp.eng.learned; table != nil {
		c.drain.online = c.drain.lease.Domains()
		table.Online(c.drain.online)
	}
}

// offline is the end of that.
func (c *conn) offline() {
	if c.drain.online != nil {
		c.lp.eng.learned.Offline(c.drain.online)
		c.drain.online = nil
	}
}
