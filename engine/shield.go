package engine

import (
	"errors"
	"sync"

	"odmr/engine/session"
)

// Shield is when a customer's server refuses so much that what it refused is held, and not bounced; see
// session/reversed_shield.go.
type Shield struct {
	Refusals int // more than so many messages refused for good; 0: never
	Window   int // of the last so many; 0: session.ReversedShieldWindow
}

func (s *Shield) validate(bad func(format string, args ...any)) {
	if s.Refusals < 0 || s.Window < 0 || s.Refusals > 0 && s.Refusals >= s.Window {
		bad("Shield: %d refusals of %d messages: must not be negative, and fewer than the messages", s.Refusals, s.Window)
	}
}

// maxHistories is of how many accounts it is remembered what they refused: those that did so last. One takes up to
// Shield.Window octets.
const maxHistories = 100_000

var errShield = errors.New("engine: a customer's server refuses nearly everything")

// histories are the windows of accounts that have refused something, from one session to the next. Whoever has a disk keeps
// them over a restart (Engine.Histories, Config.Histories): else up to Shield.Refusals messages more could fail after each. Where an account has several sessions at
// once each goes on from what was known when it began, and the last to end is remembered.
type histories struct {
	mu      sync.Mutex
	lru     *lru[string, session.Refusals]
	changes uint64
}

// init begins with what is known from before.
func (h *histories) init(known map[string]string) {
	h.lru = newLRU[string, session.Refusals](maxHistories)
	for account, text := range known {
		if f := session.ParseRefusals(text); !f.None() {
			*h.lru.put(account) = f
		}
	}
}

// Histories is what the shield knows of accounts' last messages, for Config.Histories of the next life. since is what it
// returned before: where nothing has changed, known is nil. It takes a moment, and may be called on any goroutine but a loop's.
func (e *Engine) Histories(since uint64) (known map[string]string, changes uint64) {
	all, changes := e.histories.all(since)
	if all == nil {
		return nil, since
	}
	known = make(map[string]string, len(all))
	for account, f := range all {
		known[account] = f.String()
	}
	return known, changes
}

// all returns what is known, for texts to be made of it without the lock: loops want that. What an entry refers to is never changed.
func (h *histories) all(since uint64) (all map[string]*session.Refusals, changes uint64) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.changes == since {
		return nil, since
	}
	all = make(map[string]*session.Refusals, h.lru.len())
	for account, entry := range h.lru.entries {
		f := entry.value
		all[account] = &f
	}
	return all, h.changes
}

// resume tells the machine of a new session what the account's sessions before refused.
func (h *histories) resume(account string, r *session.Reversed) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if f := h.lru.get(account); f != nil {
		r.Resume(f)
	}
}

// remember takes what a session that has ended knows.
func (h *histories) remember(account string, r *session.Reversed) {
	f := r.Refusals()
	h.mu.Lock()
	defer h.mu.Unlock()
	if f.None() && h.lru.get(account) == nil {
		return
	}
	h.changes++
	if f.None() {
		h.lru.remove(account)
	} else {
		*h.lru.put(account) = f
	}
}

// alarm says that the shield has fired. What it holds is logged message by message.
func (c *conn) alarm(a *session.Action) {
	e := c.lp.eng
	e.cfg.Observer.ShieldFired()
	c.log(e.log.Error()).Strs("domains", c.drain.lease.Domains()).Err(errShield).Str("reason", a.Reason).
		Msg("bounce shield: what this customer's server refuses is held; see odmrctl queue held")
}

// unload gives up the body of a message that is settled later.
func (c *conn) unload(a *session.Action) {
	h := c.drain.held[a.Item]
	if h == nil {
		c.abandon("unloading of no message")
		return
	}
	c.letGo(h)
}
