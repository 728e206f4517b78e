package engine

import (
	"errors"
	"slices"
	"time"

	"odmr/engine/session"
	"odmr/internal/account"
	"odmr/internal/mail"
	"odmr/queue"
)

// How a session comes by a lease (RFC 2645 5.2.1), waits with it, and gives it up.
//
// A domain belongs to one session at a time. Where another one has it that is asked to make way: an event for its
// loop, which names the tenure so that nothing else can be meant. That session records the outcomes it knows, gives its lease
// back, and never writes again but QUIT; then the new one is told and asks for the lease in turn. Nothing of it waits for a peer:
// only for calls in the store that are under way. From a released lease nothing can be fetched or settled (ErrLeaseLost).

// tenancy is what a session has to do with leases, but for the lease itself.
type tenancy struct {
	tenure    *tenure
	atrnAt    session.Time   // when the last ATRN came
	asked     []string       // its domains, once there is a lease
	linger    time.Duration  // how long the session stays once all is collected
	shield    account.Switch // the account's
	releasing bool           // the lease goes back once nothing is in flight any more
	expects   uint32         // ticket of ActAwait; 0: none
	blocked   *acquireJob    // waits for others to make way
	forfeit   uint64         // id of a tenure that was asked for before it had come here
	doubt     bool           // the directory is to be asked again, once the session has turned or waits
	again     session.Action // an ActAcquire that came before the last lease was back
}

// acquireJob answers an ATRN.
type acquireJob struct {
	ticket  uint32
	eng     *Engine
	account string
	wanted  []string
	tenure  *tenure // its lease is nil unless the job has got one
	tries   int
	blocked bool // others have to make way first
	linger  time.Duration
	wait    time.Duration
	small   bool // small messages go first
	shield  account.Switch
	waiting int64
	refusal *mail.Refusal
	asked   uint64 // Engine.rechecks before the directory was asked
}

func (j *acquireJob) run() {
	j.blocked, j.asked = false, j.eng.rechecks.Load()
	e, t := j.eng, j.tenure
	if j.authorize(e.cfg.Directory.Authorize); j.refusal != nil {
		return
	}
	if j.refusal = j.policy(); j.refusal != nil {
		return
	}
	patient := j.linger > 0 || j.wait > 0
	if !patient && !j.queued() { // not worth ending a session for
		j.refusal = j.noMail()
		return
	}
	if !j.claim() {
		return
	}
	var err error
	if t.Lease, err = e.cfg.Store.Acquire(t.domains); err != nil {
		t.Lease = nil
		t.Release()
		j.refusal = acquireRefusal(err)
		return
	}
	if j.small {
		t.SmallFirst(smallMessage)
	}
	if j.waiting = t.Waiting().Messages; j.waiting == 0 && !patient {
		t.Release()
		t.Lease = nil
		j.refusal = j.noMail()
	}
}

// authorize asks by ask what the account may collect of what it wants.
func (j *acquireJob) authorize(ask func(account string, wanted []string) ([]string, error)) {
	domains, err := ask(j.account, j.wanted)
	if err != nil {
		j.refusal = account.AccessRefusal(err)
		return
	}
	j.tenure.domains = domains
}

// claim claims what the account may collect, and reports whether it has it. The directory may have answered from memory, and so what was
// true a moment ago: before another account's session is ended by that, it is asked anew.
func (j *acquireJob) claim() bool {
	e, t := j.eng, j.tenure
	t.anew = false
	got := e.tenures.claim(t, &e.cfg.Collecting, now())
	if got == claimForeign {
		ask := e.cfg.Directory.Authorize
		if r, ok := e.cfg.Directory.(account.Renewer); ok {
			ask = r.AuthorizeAnew
		}
		if j.authorize(ask); j.refusal != nil {
			return false
		}
		t.anew = true
		got = e.tenures.claim(t, &e.cfg.Collecting, now())
	}
	j.blocked = got == claimWaits
	if got == claimRefused {
		j.refusal = acquireRefusal(queue.ErrBusy)
	}
	return got == claimGranted
}

// policy looks up what holds for the account, and refuses what comes too soon.
func (j *acquireJob) policy() *mail.Refusal {
	e, c := j.eng, &j.eng.cfg.Collecting
	a, err := e.cfg.Directory.Lookup(j.account)
	if err != nil {
		return account.AccessRefusal(err)
	}
	if a.Policy.Hold == account.On {
		return refuseOnHold
	}
	j.small, j.shield = a.Policy.SmallFirst == account.On, a.Policy.Shield
	j.linger, j.wait = over(a.Policy.Linger, c.Linger), c.ATRNWait
	if j.tries == 0 && e.intervals.tooSoon(j.account, j.tenure.domains, now(), over(a.Policy.ATRNInterval, c.ATRNInterval)) {
		e.cfg.Observer.LimitHit(LimitInterval)
		return c.refuseTooSoon()
	}
	return nil
}

var refuseOnHold = &mail.Refusal{Code: 450, Text: "ATRN request refused: collecting is paused for this account"}

func (j *acquireJob) queued() bool {
	return slices.ContainsFunc(j.tenure.domains, func(d string) bool { return j.eng.cfg.Store.Counts(d).Messages > 0 })
}

func (j *acquireJob) noMail() *mail.Refusal {
	j.eng.intervals.note(j.account, j.tenure.domains, now())
	return &mail.Refusal{Code: 453, Text: "You have no mail"}
}

func (j *acquireJob) fail(err error) {
	j.discard()
	j.refusal = acquireRefusal(err)
}

func (j *acquireJob) discard() {
	j.tenure.Release()
	j.tenure.Lease = nil
}

// acquireRefusal says why there is no lease. RFC 2645 5.2.1 knows no enhanced codes here.
func acquireRefusal(err error) *mail.Refusal {
	text := "Unable to process ATRN request now"
	if errors.Is(err, queue.ErrBusy) {
		text = "Domain is being collected by another session, try again later"
	}
	return &mail.Refusal{Code: 451, Text: text, Cause: err}
}

// acquire asks for a lease.
func (c *conn) acquire(now session.Time, a *session.Action) {
	e, d := c.lp.eng, &c.drain
	if d.releasing { // the last one is on its way back
		d.again = *a
		d.again.Domains = slices.Clone(a.Domains)
		return
	}
	if d.lease != nil || c.account == "" {
		c.abandon("lease asked for twice, or without an account")
		return
	}
	d.atrnAt = now
	c.submit(&e.lookups, &acquireJob{
		ticket: a.Ticket, eng: e, account: c.account, wanted: slices.Clone(a.Domains),
		tenure: &tenure{of: &e.tenures, home: c.lp, conn: c.id, account: c.account},
	})
}

// acquired takes the outcome of a request for a lease.
func (c *conn) acquired(now session.Time, j *acquireJob) {
	e, d := c.lp.eng, &c.drain
	if j.blocked && !c.ended {
		c.awaitLease(now, j)
		return
	}
	if j.tenure.Lease == nil {
		if j.refusal == nil { // the session ended meanwhile
			return
		}
		c.refuseATRN(j)
		return
	}
	d.lease, d.tenure, d.linger, d.shield = &heldLease{Lease: j.tenure}, j.tenure, j.linger, j.shield
	if d.forfeit == j.tenure.id { // somebody was faster than this answer
		c.makeWay()
		c.release(now)
		j.refusal = acquireRefusal(queue.ErrBusy)
		c.refuseATRN(j)
		return
	}
	d.doubt = j.asked != e.rechecks.Load() // what it rests on may have changed on the way here
	domains := j.tenure.Domains()
	d.asked = domains
	d.mine = make(map[string]struct{}, len(domains))
	for _, name := range domains {
		d.mine[name] = struct{}{}
	}
	if j.tries > 0 {
		c.log(e.log.Info()).Strs("domains", domains).Msg("ATRN takes over from another session")
	}
	r := session.Result{Domains: slices.Clone(domains), Waiting: j.waiting}
	if j.waiting == 0 && j.linger == 0 {
		r.Wait = j.wait
	}
	if r.Wait == 0 && !c.ended {
		e.cfg.Observer.ATRN(250)
	}
	c.answer(j.ticket, r)
}

func (c *conn) refuseATRN(j *acquireJob) {
	c.lp.eng.cfg.Observer.ATRN(j.refusal.Code)
	c.logRefusedATRN(j)
	c.answer(j.ticket, session.Result{Refusal: j.refusal})
}

// awaitLease waits until those have made way that have what j wants, but not for ever: the store may hang.
func (c *conn) awaitLease(now session.Time, j *acquireJob) {
	if !c.lp.eng.tenures.waits(j.tenure) {
		c.acquireAgain(j)
		return
	}
	c.drain.blocked = j
	c.answerLater(now, session.Time(c.lp.eng.tenures.patience), j.ticket, session.Result{Refusal: acquireRefusal(queue.ErrBusy)})
}

// freed goes on with an ATRN that waited for others to make way.
func (c *conn) freed() {
	j := c.drain.blocked
	if j == nil || c.lp.eng.tenures.waits(j.tenure) { // the latter: told of one before
		return
	}
	c.drain.blocked = nil
	if c.late == nil || c.late.ticket != j.ticket { // it took too long, and the customer has its answer
		return
	}
	c.late, c.lateAt = nil, 0
	c.acquireAgain(j)
}

func (c *conn) acquireAgain(j *acquireJob) {
	if j.tries++; j.tries >= maxTakeovers {
		j.refusal = acquireRefusal(queue.ErrBusy)
		c.refuseATRN(j)
		return
	}
	c.submit(&c.lp.eng.lookups, j)
}

// await waits for mail, which costs nothing but the memory of the session.
func (c *conn) await(a *session.Action) {
	d := &c.drain
	if d.lease == nil || d.calls != 0 || d.expects != 0 || d.releasing {
		c.abandon("waits for mail without a lease, or while it is in use")
		return
	}
	d.expects = a.Ticket
	if c.everTurned {
		c.setState(StateLinger)
	} else {
		c.setState(StateWait)
		if d.doubt { // it may be long until the turn, and others want the domains
			c.lp.inbox.post(event{kind: evDoubt, conn: c.id})
		}
	}
	if d.joined { // takes no part in the prefetch memory meanwhile
		d.joined = false
		c.lp.eng.prefetch.leave()
	}
	d.held, d.queued, d.flying, c.answers = nil, nil, nil, nil
	c.answered = 0
	home, id := c.lp, c.id
	d.lease.Notify(func() { home.inbox.post(event{kind: evMail, conn: id}) })
}

// mailCame says that there is mail for a session that waits for some. It is not sent before the directory was asked again.
func (c *conn) mailCame(now session.Time) {
	d := &c.drain
	if d.expects == 0 {
		return
	}
	j := &recheckJob{ticket: d.expects, tenure: d.tenure.id, dir: c.lp.eng.cfg.Directory, account: c.account, domains: d.lease.Domains()}
	if j.dir.NonBlocking() {
		j.run()
		c.rechecked(now, j)
		return
	}
	c.submit(&c.lp.eng.lookups, j)
}

// rechecked goes on with a session that has waited for mail, or tells it that it must not.
func (c *conn) rechecked(now session.Time, j *recheckJob) {
	d := &c.drain
	if j.ticket == 0 {
		c.recheckedBusy(now, j)
		return
	}
	if c.ended || d.expects == 0 || d.expects != j.ticket { // it waits no more, or again
		return
	}
	if j.waits && (j.refusal == nil || errors.Is(j.err, account.ErrUnavailable)) {
		return
	}
	d.expects = 0
	c.stopWaiting()
	if r := j.refusal; r != nil {
		c.log(c.lp.eng.log.Warn()).Int("code", r.Code).AnErr("cause", r.Cause).Strs("domains", j.domains).Msg("the session waits for mail that it may not collect any more")
		if !c.everTurned { // else its ATRN was answered long ago
			c.lp.eng.cfg.Observer.ATRN(r.Code)
		}
		c.answer(j.ticket, session.Result{Refusal: r})
		return
	}
	c.answer(j.ticket, session.Result{})
	switch {
	case !c.everTurned:
		c.lp.eng.cfg.Observer.ATRN(250)
	case !d.joined:
		d.joined = true
		c.lp.eng.prefetch.join()
	}
}

func (c *conn) stopWaiting() {
	switch c.state {
	case StateLinger:
		c.setState(StateReversed)
	case StateWait:
		c.setState(StateProvider)
	}
}

// release gives the lease back as soon as what is in flight for it is back, and all that came out of it at once.
func (c *conn) release(now session.Time) {
	d := &c.drain
	if d.lease == nil || d.releasing {
		c.abandon("a lease given back twice, or none")
		return
	}
	d.releasing = true
	if c.state == StateWait { // nothing came in time
		c.lp.eng.cfg.Observer.ATRN(453)
		c.lp.eng.intervals.note(c.account, d.asked, now)
	}
	c.stopWaiting()
	c.closeDrain()
	c.leaseStep()
}

// released notes that the lease is back where it came from.
func (c *conn) released(now session.Time) {
	d := &c.drain
	c.called(callRelease)
	c.offline()
	d.lease, d.tenure, d.releasing = nil, nil, false
	if d.again.Kind != 0 && !c.ended {
		a := d.again
		d.again = session.Action{}
		c.acquire(now, &a)
	}
}

// yield makes way for another session of the customer that wants the domains of tenure id.
func (c *conn) yield(now session.Time, id uint64) {
	d := &c.drain
	switch {
	case d.tenure == nil:
		d.forfeit = id
		return
	case d.tenure.id != id || d.releasing || c.phase != phaseOpen || c.closing || c.doomed:
		return // it is over, or on its way back
	}
	c.makeWay()
	c.leave(now, session.CauseTakenOver)
}

func (c *conn) makeWay() {
	c.lp.eng.tenures.yields(c.drain.tenure)
	c.lp.eng.cfg.Observer.Takeover()
}

// noteCollected remembers an ATRN that brought everything, for the interval until the next.
func (c *conn) noteCollected() {
	if m, ok := c.sess.(*session.Reversed); ok && m.Dry() {
		c.lp.eng.intervals.note(c.account, c.drain.asked, c.drain.atrnAt)
	}
}
