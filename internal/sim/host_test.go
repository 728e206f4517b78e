package sim

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"odmr/engine/session"
	"odmr/internal/account"
	"odmr/internal/admin"
	"odmr/internal/bounce"
	"odmr/internal/mail"
	"odmr/internal/recipients"
	"odmr/queue"
	"odmr/queue/pebblestore"
	"odmr/queue/pebblestore/crashfs"
)

// role is the protocol that a client has dialled.
type role uint8

const (
	roleSMTP role = iota
	roleLMTP
	roleODMR
)

// host is the server's machine: its disk, and the process while it runs.
type host struct {
	s      *Sim
	w      *world
	ledger *ledger
	dir    *directory
	auth   *account.Authenticator

	disk    *crashfs.Disk
	raw     *pebblestore.Store
	store   queue.Store // raw, with the planted bug, if there is one
	full    bool        // the disk has no room
	slow    bool        // syncs of the log wait
	written int         // octets, about, in the store's memtable
	waiting []*onItsWay // in the log, and not known to be durable
	fatal   chan string // the store's last words

	up        bool
	stopping  bool // in order
	learned   *recipients.Table
	era       int // counts the lives of the process
	conns     []*conn
	jobs      []*job // given to a worker and not done yet
	serial    int
	smtp      session.IngressConfig
	lmtp      session.IngressConfig
	provider  session.ProviderConfig
	reversed  session.ReversedConfig
	policy    policy
	keeping   bounce.Policy
	reporter  *bounce.Reporter
	sending   *sending
	smart     *smarthost
	intake    *admin.Intake
	importing *run            // the import at hand
	collected map[place]int64 // when an ATRN last brought all there was

	torn     bool                         // and was
	tearing  bool                         // the log is torn while the reporter works
	refusals map[string]*session.Refusals // by account
}

// job is a call of the store, or another that blocks.
type job struct {
	conn   *conn
	what   string
	commit *commit   // that it is about, if it is about one
	way    *onItsWay // what it leaves in the log, if it does not wait for the disk itself
	run    func()
	done   func() // tells the loop
	// told tells the ledger what a call brought; torn, that it may have brought it. nil: nothing.
	told, torn func()
	discard    func() // gives back what came of a call that nobody hears of; nil: nothing
	ran        bool
}

func (h *host) configure() {
	w := h.w
	h.smtp = session.IngressConfig{Hostname: "odmr.example", MaxMessageSize: 2 << 20, MaxRecipients: 6}.Defaults()
	h.lmtp = h.smtp
	h.lmtp.Mode = session.IngressLMTP
	h.provider = session.ProviderConfig{Hostname: "odmr.example"}.Defaults()
	h.reversed = session.ReversedConfig{
		Hostname:         "odmr.example",
		PrefetchMessages: w.between(1, 20),
		PrefetchBytes:    1 << w.between(9, 20),
		Prefetches:       1,
		WindowMessages:   w.between(1, 20),
		WindowBytes:      1 << w.between(9, 22),
		MaxRefusals:      []int{-1, 5, 18}[w.rng.IntN(3)],
	}
	if w.chance(2) {
		h.reversed.ShieldRefusals = w.between(1, 5)
		h.reversed.ShieldWindow = h.reversed.ShieldRefusals + w.between(1, 6)
	}
	h.policy = w.newPolicy()
	if h.s.bug == BugGoesOn {
		h.policy.linger = time.Hour
	}
	h.keeping = w.newKeeping()
	h.refusals = map[string]*session.Refusals{}
}

// storeEvents hears what the store says.
type storeEvents struct {
	pebblestore.Silent
	h     *host
	fatal chan string
}

// Fatal does not return, as the contract wants: who called it waits for ever, and the process is taken for dead.
func (e storeEvents) Fatal(line string) {
	e.fatal <- line
	select {}
}

// start begins a life of the process.
func (h *host) start() {
	h.era++
	h.fatal = make(chan string, 64)
	opts := pebblestore.Options{
		FS: h.disk.FS(), Now: func() time.Time { return time.Unix(0, h.w.now) }, Events: storeEvents{h: h, fatal: h.fatal},
		MemTableSize: 4 << 20, CacheSize: 1, MinFreeSpace: 1, Ballast: -1, FreeSpace: func() (int64, error) {
			if h.full {
				return 0, nil
			}
			return 1 << 40, nil
		},
	}
	s, err := pebblestore.Open("queue", opts.Still())
	if err != nil {
		h.w.fail(RuleStore, "open: %v", err)
		return
	}
	h.raw = s
	h.store = h.s.bug.wrap(h, s)
	h.written = 0
	h.newSending()
	h.reporter = h.newReporter()
	h.learned = newLearned()
	h.intake, h.collected = h.newIntake(), map[place]int64{}
	h.up = true
	h.check()
	h.w.trace("server starts, era %d, %d messages", h.era, s.Totals().Messages)
}

// check verifies the store's invariants.
func (h *host) check() {
	_, err := h.raw.Check(context.Background(), nil, func(v queue.Violation) {
		h.w.fail(RuleStore, "check: %s %v: %s", v.Domain, v.ID, v.Problem)
	})
	if err != nil {
		h.w.fail(RuleStore, "check: %v", err)
	}
}

// crash ends the process: killed, or with the power of the machine. Before, it may be in the middle of a call of the
// store, which then is carried out by halves.
func (h *host) crash(power bool) {
	if !h.up {
		return
	}
	h.up, h.stopping = false, false
	h.w.trace("server dies, power=%v", power)
	h.w.meet(map[bool]string{true: "a loss of power", false: "a kill"}[power])
	drowned := h.slow && h.w.chance(2)
	if drowned {
		power = true
		h.w.trace("before %d calls were durable", len(h.waiting))
		h.w.meet("a loss of power before a sync")
	} else {
		h.speedUp()
	}
	if j := h.halfway(); j != nil && !h.torn && !drowned {
		h.tear(j)
	}
	left := h.disk.PowerLost()
	if !power {
		left = h.disk.Killed()
	}
	h.drown()
	h.bury(power)
	// Only now, and on a disk that nobody looks at again: all that it held is given back.
	if err := h.raw.Close(); err != nil {
		h.w.fail(RuleStore, "close: %v", err)
	}
	h.disk, h.torn = left, false
	h.ledger.crashed()
}

// tear carries out a call by halves; with a message those of its connection that would have gone into line behind it.
func (h *host) tear(j *job) {
	if err := h.raw.Sync(); err != nil {
		h.w.fail(RuleStore, "sync: %v", err)
	}
	h.disk.TearLog(int64(h.w.rng.IntN(1 << h.w.between(4, 14))))
	h.w.trace("in the middle of %s", j.what)
	h.w.meet("a torn call")
	h.w.meet("a torn " + j.what)
	j.torn()
	h.written += j.octets()
	j.run()
	if j.way != nil { // what is left must not depend on how far its sync has come
		<-j.way.outcome
	}
	if j.commit == nil {
		return
	}
	for _, m := range j.commit.conn.commits {
		if !h.tearable(callOctets + len(m.data)) {
			break
		}
		h.written += callOctets + len(m.data)
		h.w.meet("messages torn together")
		h.ledger.committed(m.kept, true)
		m.submit()
		<-m.outcome
	}
}

// tearable says whether so many octets more fit into the log at hand. Pebble begins another one only behind one that is whole,
// and then flushes, so that it would depend on the timing of goroutines what is left.
func (h *host) tearable(octets int) bool { return h.written+octets <= writtenMost }

// octets are those that the call writes at the most.
func (j *job) octets() int {
	if j.commit != nil {
		return callOctets + len(j.commit.data)
	}
	return callOctets
}

// halfway picks a call that the crash comes into the middle of, or nil.
func (h *host) halfway() *job {
	var could []*job
	for _, j := range h.jobs {
		switch {
		case j.ran || j.torn == nil || !h.tearable(j.octets()):
		case j.commit != nil && len(j.commit.conn.commits) > 0: // what is rare
			return j
		default:
			could = append(could, j)
		}
	}
	if len(could) == 0 || h.w.chance(4) {
		return nil
	}
	return could[h.w.rng.IntN(len(could))]
}

// bury ends all connections of a process that is no more.
func (h *host) bury(power bool) {
	for _, j := range h.jobs {
		if j.ran && j.discard != nil {
			j.discard()
		}
	}
	for _, c := range slices.Clone(h.conns) {
		c.buried()
		c.line.killed(power)
	}
	h.conns, h.jobs = nil, nil
	clear(h.refusals)
	h.w.after(h.w.within(10*time.Minute), h.start)
}

// storageFailed is the end that a store chooses itself when its log cannot be written: nothing is closed after that.
func (h *host) storageFailed() {
	h.w.trace("storage failed")
	h.w.meet("a log that failed")
	h.up, h.stopping = false, false
	h.disk = h.disk.Killed()
	h.bury(false)
	h.ledger.crashed()
}

// dial connects a client; nil if nobody listens.
func (h *host) dial(r role, client party) *line {
	if !h.up || h.stopping {
		return nil
	}
	h.serial++
	c := &conn{h: h, w: h.w, role: r, era: h.era, timerAt: session.Never}
	c.line = newLine(h.w, h.serial, client, c)
	h.conns = append(h.conns, c)
	switch r {
	case roleODMR:
		c.sess = session.NewProvider(&h.provider)
	case roleLMTP:
		c.sess = session.NewIngress(&h.lmtp, session.IngressPeer{Client: "192.0.2.1", Trusted: true})
	default:
		c.sess = session.NewIngress(&h.smtp, session.IngressPeer{Client: "192.0.2.1", Trusted: true})
	}
	era := h.era
	h.w.after(h.w.soon(), func() {
		if h.era == era && h.up {
			c.open()
		}
	})
	return c.line
}

// submit hands a job to a worker: it runs after a while, and after another the loop hears of it.
func (h *host) submit(j *job) {
	h.jobs = append(h.jobs, j)
	era := h.era
	h.w.after(h.w.soon(), func() {
		if h.era != era || !h.up {
			return
		}
		j.ran = true
		h.carryOut(j)
		if h.era != era || !h.up {
			return
		}
		h.w.after(h.w.soon(), func() {
			if h.era != era || !h.up {
				return
			}
			h.jobs = slices.Delete(h.jobs, slices.Index(h.jobs, j), slices.Index(h.jobs, j)+1)
			j.done()
		})
	})
}

// carryOut runs a job, in bad weather on a disk that fails.
func (h *host) carryOut(j *job) {
	if j.way != nil {
		h.written += callOctets
	}
	switch {
	case j.commit != nil:
		h.slowDown(j.commit)
	case !slices.Contains(unsynced, j.what):
		h.speedUp()
	}
	switch {
	case !h.s.calm && h.s.faulty && h.w.chance(60):
		h.w.trace("reads fail during %s", j.what)
		h.w.meet("reads failing during " + j.what)
		h.disk.FailReads()
		j.run()
		h.disk.MendReads()
		j.tell()
	case !h.s.calm && h.s.mortal && j.torn != nil && h.w.chance(150):
		h.w.trace("the log fails during %s", j.what)
		h.speedUp()
		h.disk.FailLog()
		j.torn()
		ended := make(chan struct{})
		go func() { j.run(); close(ended) }()
		select {
		case <-h.fatal:
		case <-ended: // nothing had to be written
		}
		h.storageFailed()
	default:
		j.run()
		j.tell()
	}
}

// unsynced are the calls that need not wait for the disk.
var unsynced = []string{"AUTH", "ATRN", "Next", "body", "Settle"}

func (j *job) tell() {
	if j.told != nil {
		j.told()
	}
}

// housekeep does what a store does in time, or has the disk fill up or be emptied.
func (h *host) housekeep() {
	if !h.up || h.stopping {
		return
	}
	h.speedUp()
	if !h.s.calm && h.w.chance(4) {
		h.full = !h.full
	} else {
		h.full = false
	}
	if err := h.raw.Housekeep(context.Background()); err != nil {
		h.w.fail(RuleStore, "housekeep: %v", err)
	}
	h.written = 0
	h.w.trace("housekeeping, full=%v", h.full)
	h.decide()
	h.report()
	h.sending.pass()
}

func (h *host) forget(c *conn) {
	if i := slices.Index(h.conns, c); i >= 0 {
		h.conns = slices.Delete(h.conns, i, i+1)
	}
}

// ingestRefusal and its neighbours are package engine's.
func ingestRefusal(err error) *mail.Refusal {
	if errors.Is(err, queue.ErrFull) {
		return &mail.Refusal{Code: 452, Enhanced: "4.3.1", Text: "Insufficient system storage", Cause: err}
	}
	return &mail.Refusal{Code: 451, Enhanced: "4.3.0", Text: "Local error in processing", Cause: err}
}

func acquireRefusal(err error) *mail.Refusal {
	text := "Unable to process ATRN request now"
	if errors.Is(err, queue.ErrBusy) {
		text = "Domain is being collected by another session, try again later"
	}
	return &mail.Refusal{Code: 451, Text: text, Cause: err}
}

func (c *conn) String() string { return fmt.Sprintf("conn%d", c.line.id) }
