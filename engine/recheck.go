package engine

import (
	"errors"
	"fmt"
	"slices"

	"odmr/engine/session"
	"odmr/internal/account"
	"odmr/internal/mail"
)

// Whether a session may still collect what it was authorised for by ATRN: its account may be removed, lose a domain, which may be
// somebody else's by now, or be put on hold. It is asked for when mail comes that it waits for, and when Engine.Recheck is called: one
// that waits must not keep domains from whom they belong to now until mail comes. A directory that cannot answer changes nothing for the latter.

// Recheck asks the directory, for each session that is draining, whether it still may. One whose account may not is ended like one
// that is taken over: no further octet of mail is given to it. The sessions are divided into parts by their number, so that a directory
// that has to be asked elsewhere is not asked for all at once; 0 of 1 is all.
func (e *Engine) Recheck(part, parts int) {
	e.rechecks.Add(1)
	for _, lp := range e.loops {
		lp.inbox.post(event{kind: evRecheck, conn: uint64(part), n: int64(max(parts, 1))})
	}
}

// recheckTurn is how many sessions a loop asks for in one turn: a millisecond or so of those with hundreds of domains. A directory
// elsewhere is asked for so many in a tick.
const recheckTurn = 64

// recheckAll lines up the sessions of a part, which are asked for in turns.
func (lp *loop) recheckAll(part, parts uint64) {
	if parts == 1 || len(lp.unasked) > len(lp.conns) { // all, or most of them twice
		lp.unasked, parts = lp.unasked[:0], 1
	}
	for id := range lp.conns {
		if parts == 1 || id%parts == part {
			lp.unasked = append(lp.unasked, id)
		}
	}
	lp.recheckSome()
}

// recheckSome asks for the next sessions, and sees to the rest: a directory in memory is asked for them behind what else the loop has to do,
// another one with the next tick.
func (lp *loop) recheckSome() {
	for range min(recheckTurn, len(lp.unasked)) {
		last := len(lp.unasked) - 1
		id := lp.unasked[last]
		lp.unasked = lp.unasked[:last]
		if c := lp.conns[id]; c != nil {
			lp.enter(c, (*conn).recheck)
		}
	}
	switch {
	case len(lp.unasked) == 0:
		lp.unasked = nil
	case lp.eng.cfg.Directory.NonBlocking():
		lp.inbox.post(event{kind: evRecheckMore})
	}
}

// recheckJob asks for one session.
type recheckJob struct {
	ticket  uint32 // of an ActAwait that is over; 0: of none
	waits   bool   // the ActAwait is over only if there is a refusal
	tenure  uint64
	dir     account.Directory
	account string
	domains []string
	err     error
	refusal *mail.Refusal
}

func (j *recheckJob) run() {
	granted, err := j.dir.Authorize(j.account, j.domains)
	if err == nil && !slices.Equal(granted, j.domains) {
		// A lone domain that is none of the account's has passed for its host's name.
		err = fmt.Errorf("%w: %s", account.ErrNoAccess, j.domains[0])
	}
	var a *account.Account
	if err == nil {
		a, err = j.dir.Lookup(j.account)
	}
	switch {
	case err != nil:
		j.fail(err)
	case a.Policy.Hold == account.On:
		j.refusal = refuseOnHold
	}
}

func (j *recheckJob) fail(err error) { j.err, j.refusal = err, account.AccessRefusal(err) }
func (j *recheckJob) discard()       {}

// recheck asks for a session, whether it is busy or waits.
func (c *conn) recheck(now session.Time) {
	d := &c.drain
	if !c.everTurned {
		d.doubt = true // it is asked for when it turns, too
	}
	if d.lease == nil || d.releasing || c.ended || c.closing || c.phase != phaseOpen || !c.everTurned && d.expects == 0 {
		return
	}
	e := c.lp.eng
	j := &recheckJob{tenure: d.tenure.id, dir: e.cfg.Directory, account: c.account, domains: d.lease.Domains()}
	if !c.everTurned { // its ATRN waits, and is answered
		j.ticket, j.waits = d.expects, true
	}
	if j.dir.NonBlocking() {
		j.run()
		c.rechecked(now, j)
		c.leaseStep()
		c.run(now)
		return
	}
	c.submit(&e.lookups, j)
}

// recheckedBusy ends a session that may not go on.
func (c *conn) recheckedBusy(now session.Time, j *recheckJob) {
	d := &c.drain
	switch {
	case j.refusal == nil, errors.Is(j.err, account.ErrUnavailable):
		return
	case d.tenure == nil, d.tenure.id != j.tenure, d.releasing, c.ended, c.closing, c.phase != phaseOpen:
		return // it is over, or on its way back
	}
	c.log(c.lp.eng.log.Warn()).Int("code", j.refusal.Code).AnErr("cause", j.err).Strs("domains", j.domains).Msg("the session may not collect any more")
	c.lp.eng.cfg.Observer.Withdrawn()
	c.leave(now, session.CauseWithdrawn)
}

// leave has the machine give up its lease, in the middle of a message if need be.
func (c *conn) leave(now session.Time, why session.Cause) {
	m, ok := c.sess.(session.Yielder)
	if !ok {
		c.abandon(why.String())
		return
	}
	m.Yield(now, why, &c.lp.out)
	c.carryOut(now)
	if c.closing && c.everTurned {
		// Nothing of a message may reach the customer on this line any more: neither what is still here, nor what the
		// kernel has and would send when the line comes back.
		c.reset()
	}
}
