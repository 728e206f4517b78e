package sim

import (
	"crypto/hmac"
	"crypto/md5"
	"encoding/hex"
	"fmt"
	"slices"
	"strings"
	"time"

	"odmr/codec"
	"odmr/internal/account"
	"odmr/internal/mail"
)

// customer dials again and again, as a customer with a dynamic address does.
type customer struct {
	s        *Sim
	w        *world
	account  *account.Account // as the directory has it
	domains  []string
	policy   account.Policy
	password string
	open     int  // calls under way
	dry      bool // the last call in calm weather was answered 453
	rests    bool // so it was, perhaps for it came too soon
	calls    int
	planned  bool // the next call
}

// visit is the part of a call after the turn, as the server and the ledger see it.
type visit struct {
	n        int
	account  *account.Account
	manner   *manner
	era      int
	shielded bool
	alarmed  bool // the shield has fired
	small    bool // small messages go first
	reversed bool // the roles were exchanged
	quit     bool // it ended in good order
	judged   map[*entry]bool
	stopped  bool // its customer may not collect any more
	domains  []string
	cursor   map[string]int // into the ledger's queues: what was handed out
	handed   map[*entry]int // in which order they were handed out
	offered  map[*entry]bool
	furthest map[string]int
	heard    int64                 // octets of replies that the machine has read
	doubtful map[*entry]bool       // was recorded as in doubt: its customer may have it, or get it yet
	refused  map[string]*recipient // by the mark in its text, each 5xx; nil: it concerns all
}

func (v *visit) String() string { return fmt.Sprintf("visit%d(%s)", v.n, v.account.Name) }

// last returns what the customer has of r in this visit, or nil.
func (v *visit) last(r *recipient) *hand {
	if n := len(r.hands); n > 0 && r.hands[n-1].visit == v {
		return r.hands[n-1]
	}
	return nil
}

func (s *Sim) newVisit(c *conn, q *request) *visit {
	k := c.line.client.(*call)
	s.visits++
	return &visit{n: s.visits, account: q.account, small: q.small, handed: map[*entry]int{}, manner: &k.manner, era: c.era, shielded: c.h.reversed.ShieldRefusals > 0, cursor: map[string]int{},
		offered: map[*entry]bool{}, furthest: map[string]int{}, refused: map[string]*recipient{}, doubtful: map[*entry]bool{}, judged: map[*entry]bool{}}
}

// next places the customer's next call after a while.
func (c *customer) next(d time.Duration) {
	if c.planned {
		return
	}
	c.planned = true
	c.w.after(d, func() {
		c.planned = false
		if c.s.calm && (c.dry || c.open > 0) {
			return
		}
		c.dial()
	})
}

func (c *customer) dial() {
	c.calls++
	k := &call{c: c, w: c.w, manner: c.w.newManner(), stage: stageGreeting}
	if c.s.calm {
		k.manner = c.w.calmManner()
	}
	if len(c.s.customers) == 1 {
		k.manner.trespasses = false // there is nobody else
	}
	if k.line = c.s.host.dial(roleODMR, k); k.line == nil {
		c.next(c.w.within(5 * time.Minute))
		return
	}
	c.open++
	c.w.trace("%s calls on %v: %+v", c.account.Name, k.line, k.manner)
	if k.manner.calm {
		return
	}
	switch c.w.rng.IntN(6) {
	case 0:
		k.line.breakAt(&k.line.up, c.w.rng.Int64N(1<<c.w.between(6, 12)), breach(c.w.rng.IntN(int(breaches))))
	case 1:
		k.line.breakAt(&k.line.down, c.w.rng.Int64N(1<<c.w.between(8, 16)), breach(c.w.rng.IntN(int(breaches))))
	}
	if c.w.chance(10) { // a second one, while the first is at it
		c.next(c.w.within(time.Minute))
	}
}

// call is one connection of a customer: first the client of ODMR, then, after the turn, an SMTP server.
type call struct {
	c       *customer
	w       *world
	line    *line
	manner  manner
	stage   stage
	over    bool
	waking  bool
	unsent  []byte
	said    int64  // octets of replies after the turn
	foreign string // the domain that it trespasses on
	server  server
}

type stage uint8

const (
	stageGreeting stage = iota
	stageHello
	stageAuth
	stageResponse
	stageATRN
	stageQuit
	stageServer
)

// arrived implements party.
func (k *call) arrived() { k.wake(0) }

// room implements party.
func (k *call) room() { k.flush() }

// lost implements party.
func (k *call) lost(bool) {
	if k.over {
		return
	}
	k.over = true
	k.line.hangUp()
	k.w.trace("%s's call on %v ends", k.c.account.Name, k.line)
	k.c.open--
	wait := k.w.within(k.c.s.pace)
	if k.c.s.calm {
		if wait = 2 * time.Minute; k.c.rests {
			wait += k.c.s.host.policy.atrn
		}
	} else if k.w.chance(3) { // at once, while the server may think that this call is alive
		wait = k.w.within(5 * time.Second)
	}
	k.c.next(wait)
}

func (k *call) wake(d time.Duration) {
	if k.waking || k.over {
		return
	}
	k.waking = true
	k.w.after(d, func() {
		k.waking = false
		k.work()
	})
}

func (k *call) work() {
	for !k.over {
		worked := false
		if k.stage == stageServer {
			worked = k.server.work(k)
		} else {
			worked = k.dialogue()
		}
		k.flush()
		if !worked {
			return
		}
		if k.manner.delay > 0 && k.stage == stageServer {
			k.wake(k.w.within(k.manner.delay))
			return
		}
	}
}

func (k *call) send(format string, args ...any) {
	k.unsent = fmt.Appendf(k.unsent, format, args...)
}

func (k *call) flush() {
	if !k.over {
		k.unsent = k.unsent[k.line.up.write(k.unsent):]
	}
}

// dialogue takes one reply of the provider's.
func (k *call) dialogue() bool {
	rep, n, err := codec.NextReply(k.line.down.inbox, mail.MaxReplyLine, mail.MaxReplyLines)
	if err != nil {
		k.w.fail(RuleProtocol, "reply to a customer: %v: %q", err, k.line.down.inbox)
		return false
	}
	if n == 0 {
		return false
	}
	code, text := rep.Code, string(rep.Line(0))
	lines := strings.Count(string(k.line.down.inbox[:n]), "\n")
	k.line.down.take(n)
	switch {
	case code == 421 || k.stage == stageQuit:
		k.lost(false)
		return false
	case code >= 400:
		k.refused(code)
		return true
	}
	switch k.stage {
	case stageGreeting:
		k.send("EHLO customer.example\r\n")
		k.stage = stageHello
	case stageHello:
		k.send("AUTH CRAM-MD5\r\n")
		k.stage = stageAuth
	case stageAuth:
		k.respond(text)
		k.stage = stageResponse
	case stageResponse:
		k.ask()
		k.stage = stageATRN
	case stageATRN:
		if lines != 1 {
			k.w.fail(RuleProtocol, "the reply to ATRN has %d lines", lines)
		}
		k.turn()
	}
	return true
}

// refused takes a refusal of the provider's.
func (k *call) refused(code int) {
	if k.stage == stageATRN {
		k.c.answered(k, code)
		if k.manner.trespasses && code != 450 && code != 451 && !slices.Contains(k.c.account.Domains, k.foreign) { // it may be its own by now
			k.w.fail(RuleForeign, "ATRN for another's domain was answered %d", code)
		}
	}
	if k.manner.hasty || k.w.chance(4) && !k.manner.calm {
		k.lost(false)
		return
	}
	k.send("QUIT\r\n")
	k.stage = stageQuit
}

// answered takes a refusal of ATRN. In calm weather one that comes when the interval is over says that nothing is left.
func (c *customer) answered(k *call, code int) {
	if s := k.line.server.(*conn); s.hurried && code != c.s.host.policy.code {
		c.w.fail(RuleProtocol, "an ATRN that came too soon was answered %d", code)
	}
	no := code == 453 && c.s.calm && k.manner.calm
	c.dry = no && (c.rests || c.s.host.policy.atrn == 0)
	c.rests = no
}

// respond answers the challenge (RFC 2195).
func (k *call) respond(challenge string) {
	plain, err := codec.DecodeBase64(nil, []byte(challenge))
	if err != nil {
		k.w.fail(RuleProtocol, "challenge %q: %v", challenge, err)
	}
	password := k.c.password
	if k.manner.wrong {
		password += "?"
	}
	mac := hmac.New(md5.New, []byte(password))
	mac.Write(plain)
	k.unsent = codec.AppendBase64(k.unsent, []byte(k.c.account.Name+" "+hex.EncodeToString(mac.Sum(nil))))
	k.send("\r\n")
}

// ask says ATRN.
func (k *call) ask() {
	domains := k.c.account.Domains
	switch {
	case k.manner.trespasses:
		for _, d := range k.c.s.domains {
			if !slices.Contains(domains, d) {
				domains, k.foreign = append(slices.Clone(domains), d), d
				break
			}
		}
	case k.w.chance(3):
		domains = nil
	case !k.manner.calm:
		domains = domains[:k.w.between(1, len(domains))]
	}
	if len(domains) == 0 {
		k.send("ATRN\r\n")
	} else {
		k.send("ATRN %s\r\n", strings.Join(domains, ","))
	}
	if k.manner.hasty {
		k.send("220 hasty.example\r\n")
	}
}

// turn exchanges the roles (RFC 2645 5.3).
func (k *call) turn() {
	switch {
	case k.manner.trespasses && !slices.Contains(k.line.server.(*conn).drain.visit.account.Domains, k.foreign):
		k.w.fail(RuleForeign, "ATRN for another's domain was taken")
	case k.manner.hasty: // what it wrote came only after the reply had gone out, and is taken for its greeting
		k.manner.liar = true
	case k.manner.wrong:
		k.w.fail(RuleForeign, "a wrong password was taken")
	case len(k.line.down.inbox) > 0 && !k.manner.calm:
		k.w.fail(RuleProtocol, "%q before the greeting", k.line.down.inbox)
	}
	k.stage = stageServer
	k.server.visit = k.line.server.(*conn).drain.visit
	if k.manner.walksOut {
		k.lost(false)
		return
	}
	k.server.say(k, 220, "customer.example ESMTP")
}
