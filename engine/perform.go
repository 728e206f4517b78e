package engine

import (
	"bytes"
	"errors"

	"odmr/engine/session"
	"odmr/internal/account"
)

// carryOut performs what the machine put into the loop's Output, and empties it. It reports whether
// there was anything. It never calls the machine.
func (c *conn) carryOut(now session.Time) bool {
	out := &c.lp.out
	any := len(out.Reply) > 0 || len(out.Acts) > 0
	at := 0
	for i := range out.Acts {
		a := &out.Acts[i]
		switch a.Kind {
		case session.ActBody, session.ActTurn, session.ActStartTLS, session.ActClose:
			c.out.write(out.Reply[at:a.At])
			at = a.At
		}
		c.perform(now, a)
		if c.closing || c.doomed {
			at = len(out.Reply) // nothing follows the end
			break
		}
	}
	c.out.write(out.Reply[at:])
	out.Reset()
	return any
}

// perform is the one place where an action is turned into something done. It does not block.
func (c *conn) perform(now session.Time, a *session.Action) {
	switch a.Kind {
	case session.ActBegin:
		c.begin(now, a)
	case session.ActRoute:
		c.route(now, a)
	case session.ActAppend:
		c.append(a)
	case session.ActCommit:
		c.commit(a)
	case session.ActDiscard:
		c.in.discard(c.lp.eng)
		if a.Reason != "" {
			c.contentRefused(a.Reason)
		}
	case session.ActAuth:
		c.auth(now, a)
	case session.ActAuthAbort:
		c.attempt.leave()
		c.exchange, c.attempt = nil, nil
	case session.ActAcquire:
		c.acquire(now, a)
	case session.ActStartTLS:
		c.startTLS(now)
	case session.ActTurn:
		c.turn()
	case session.ActPrefetch:
		c.fetchMore(a)
	case session.ActBody:
		c.writeBody(a)
	case session.ActUnload:
		c.unload(a)
	case session.ActSettle:
		c.settle(now, a)
	case session.ActAlarm:
		c.alarm(a)
	case session.ActAwait:
		c.await(a)
	case session.ActRelease:
		c.release(now)
	case session.ActClose:
		c.because(a.Reason)
		if l := limitOf(a.Reason); l != LimitNone {
			c.lp.eng.cfg.Observer.LimitHit(l)
		}
		c.closing = true
	default:
		c.abandon("unknown action")
	}
}

// complete takes back a job that was carried out.
func (c *conn) complete(now session.Time, j job) {
	switch j := j.(type) {
	case *authJob:
		c.authenticated(now, j)
	case *routeJob:
		c.answer(j.ticket, j.result)
	case *acquireJob:
		c.acquired(now, j)
	case *appendJob:
		c.appended(j)
	case *commitJob:
		c.committed(now, j)
	case *nextJob:
		c.fetched(now, j)
	case *fetchJob:
		c.segment(j)
	case *settleJob:
		c.settled(now, j)
	case *shakeJob:
		c.shaken(now, j)
	case *recheckJob:
		c.rechecked(now, j)
	case *releaseJob:
		c.released(now)
	}
}

// answer queues the result of the action with that ticket for the machine.
func (c *conn) answer(ticket uint32, r session.Result) {
	if !c.ended {
		c.answers = append(c.answers, answer{ticket, r})
	}
}

// offer tells the provider machine which SASL mechanisms its peer may use now: before the greeting, and again
// whenever identity has changed.
func (c *conn) offer() {
	if p, ok := c.sess.(*session.Provider); ok {
		p.Offer(c.lp.eng.cfg.Authenticator.Mechanisms(c.identity))
	}
}

// auth starts or continues a SASL exchange.
func (c *conn) auth(now session.Time, a *session.Action) {
	if a.Mechanism != "" {
		attempt, peer := c.newAttempt()
		exchange, err := c.lp.eng.cfg.Authenticator.Start(a.Mechanism, peer)
		if err != nil {
			c.authRefused(now, a.Ticket, err)
			return
		}
		c.exchange, c.attempt = exchange, attempt
	}
	if c.exchange == nil {
		c.authRefused(now, a.Ticket, account.ErrMechanism)
		return
	}
	j := &authJob{ticket: a.Ticket, from: c.remote.Addr(), exchange: c.exchange}
	c.attempt.step = j
	if a.HasData {
		j.response = append([]byte{}, a.Data...)
	}
	inMemory := c.lp.eng.cfg.Directory.NonBlocking()
	x, ok := j.exchange.(account.Costly)
	switch costly := ok && x.Costly(); {
	case costly && inMemory: // the few workers for arithmetic never wait for a directory
		c.submit(&c.lp.eng.passwords, j)
	case inMemory: // microseconds, less than to hand it to a worker
		j.run()
		c.authenticated(now, j)
	default:
		j.look = costly
		c.submit(&c.lp.eng.lookups, j)
	}
}

func (c *conn) authenticated(now session.Time, j *authJob) {
	if c.ended || c.exchange != j.exchange {
		return
	}
	if j.err != nil {
		c.authRefused(now, j.ticket, j.err)
		return
	}
	if j.look { // the directory has answered; now the arithmetic
		j.look = false
		c.submit(&c.lp.eng.passwords, j)
		return
	}
	r := session.Result{Challenge: j.challenge, AuthDone: j.done}
	if j.done {
		c.attempt.succeeded(now)
		c.exchange, c.attempt = nil, nil
		if refusal := c.join(j.exchange.Account()); refusal != nil {
			c.lp.eng.cfg.Observer.Auth(refusal.Code)
			c.log(c.lp.eng.sparse.Info()).Str("account", j.exchange.Account()).Msg("login refused: too many sessions of the account")
			c.answer(j.ticket, session.Result{Refusal: refusal})
			return
		}
		c.account = j.exchange.Account()
		r.Account = c.account
		c.lp.eng.cfg.Observer.Auth(235)
		c.setState(StateProvider)
	}
	c.answer(j.ticket, r)
}

func (c *conn) authRefused(now session.Time, ticket uint32, err error) {
	r := account.AuthRefusal(err)
	delay := c.attempt.failed(now, r)
	login, unseen := "", errors.Is(err, account.ErrGuarded)
	if c.attempt != nil {
		login, unseen = c.attempt.login, unseen || c.attempt.unseen
	}
	c.exchange, c.attempt = nil, nil
	if unseen {
		c.lp.eng.cfg.Observer.LimitHit(LimitLockout)
	}
	c.lp.eng.cfg.Observer.Auth(r.Code)
	c.log(c.lp.eng.sparse.Info()).Str("login", login).Bool("locked", unseen).Int("code", r.Code).AnErr("cause", r.Cause).Msg("authentication refused")
	c.answerLater(now, delay, ticket, session.Result{Refusal: r})
}

// route asks the directory whether mail for a domain is held here.
func (c *conn) route(now session.Time, a *session.Action) {
	domain, err := account.ParseDomain(a.Domain)
	if err != nil {
		c.answer(a.Ticket, routeResult(a.Domain, false, nil))
		return
	}
	rcpt := routing{domain: domain, address: a.Data, null: a.Null, size: a.Size, now: now}
	if !c.lp.eng.cfg.Directory.NonBlocking() {
		rcpt.address = bytes.Clone(a.Data)
		c.submit(&c.lp.eng.lookups, &routeJob{ticket: a.Ticket, eng: c.lp.eng, rcpt: rcpt})
		return
	}
	c.answer(a.Ticket, c.lp.eng.takes(&rcpt))
}
