package engine

import (
	"strings"

	"odmr/engine/session"
	"odmr/internal/account"
	"odmr/internal/mail"
)

// attempt is one login, as lockouts see it. Its guard runs where the exchange does, on a worker or the loop; the
// latter reads what it left once the exchange is back.
type attempt struct {
	locks  *lockouts // nil: this client is exempt
	addr   addressKey
	hello  string   // what the peer calls itself in EHLO
	pair   pairKey  // the address and the name
	key    pairKey  // what that counts under
	named  bool     // the peer has named an account, so that both are set
	login  string   // that name, cut off, for the log
	found  pairKey  // the address and the account that the name was found to be of
	whole  pairKey  // what that counts under
	known  bool     // so that both are set
	unseen bool     // the proof did not count
	step   *authJob // the latest that went to a worker
}

// maxLoggedLogin is how much of a name that failed to log in the log gets, in octets: more than customers are called.
const maxLoggedLogin = 64

// newAttempt begins a login from c, with what the exchange is to know of its peer.
func (c *conn) newAttempt() (*attempt, account.Peer) {
	e := c.lp.eng
	t := &attempt{addr: keyOf(c.remote.Addr())}
	if p, ok := c.sess.(*session.Provider); ok {
		t.hello = p.PeerName()
	}
	if !e.exempt(c.role, c.remote.Addr()) {
		t.locks = &e.lockouts
	}
	peer := c.identity
	peer.Guard, peer.Barred = t.guard, t.barred
	return t, peer
}

// guard implements account.Peer's.
func (t *attempt) guard(name string) error {
	t.login = strings.Clone(name[:min(len(name), maxLoggedLogin)])
	if t.locks == nil {
		return nil
	}
	at := now()
	t.pair, t.named = t.locks.key(t.addr, name), true
	t.key = t.locks.counts(at, t.pair, t.hello)
	if t.locks.locked(at, t.key) {
		return account.ErrGuarded
	}
	return nil
}

// barred implements account.Peer's: an account has as many failures as one name of it, however many names it has.
func (t *attempt) barred(name string) bool {
	if t.locks == nil {
		return false
	}
	// The same work for a name that is none.
	at := now()
	t.found, t.known = t.locks.wholeKey(t.addr, name), name != ""
	t.whole = t.locks.counts(at, t.found, t.hello)
	t.unseen = t.locks.locked(at, t.whole) && t.known
	return t.unseen
}

// leave tells a worker that nobody waits for the login any more.
func (t *attempt) leave() {
	if t != nil && t.step != nil {
		t.step.gone.Store(true)
	}
}

// failed counts a login that r refuses, and returns how long the reply is to wait.
func (t *attempt) failed(now session.Time, r *mail.Refusal) session.Time {
	if t == nil || !t.named || r.Code != 535 {
		return 0
	}
	if t.known && !t.unseen { // its delay would tell, and what did not count makes no lock longer
		t.locks.failed(now, t.whole)
	}
	return t.locks.failed(now, t.key)
}

func (t *attempt) succeeded(now session.Time) {
	if t != nil && t.named {
		t.locks.succeeded(now, t.key, t.pair, t.hello)
	}
	if t != nil && t.known {
		t.locks.succeeded(now, t.whole, t.found, t.hello)
	}
}

// answerLater is answer after a delay, for which nobody waits but the peer: the loop's wheel brings it.
func (c *conn) answerLater(now session.Time, delay session.Time, ticket uint32, r session.Result) {
	if delay <= 0 {
		c.answer(ticket, r)
		return
	}
	c.late, c.lateAt = &answer{ticket, r}, now+delay
}

// deliverLate gives the machine an answer whose time has come. It reports whether there was one.
func (c *conn) deliverLate(now session.Time) bool {
	if c.lateAt == 0 || now < c.lateAt {
		return false
	}
	late := c.late
	c.late, c.lateAt = nil, 0
	if j := c.drain.blocked; j != nil && j.ticket == late.ticket { // others did not make way in time
		j.refusal = late.result.Refusal
		c.refuseATRN(j)
		return true
	}
	c.answer(late.ticket, late.result)
	return true
}

// join counts c among the sessions of its account, or returns why it may not.
func (c *conn) join(name string) *mail.Refusal {
	e := c.lp.eng
	spare := 0
	if e.cfg.Collecting.OnBusy == BusyTakeover && e.tenures.has(name) {
		spare = 1 // it may be there to end one whose line is gone
	}
	if !e.accounts.enter(name, spare) {
		e.cfg.Observer.LimitHit(LimitAccountSessions)
		return &mail.Refusal{Code: 421, Enhanced: "4.7.0", Text: "Too many sessions of this account, try again later"}
	}
	c.joined = true
	return nil
}

// leaveLimits takes back what c counts for in Limits.
func (c *conn) leaveLimits() {
	e := c.lp.eng
	if c.joined {
		c.joined = false
		e.accounts.leave(c.account)
	}
	if c.counted {
		c.counted = false
		e.leave(c.remote.Addr())
	}
}
