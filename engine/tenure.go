package engine

import (
	"slices"
	"sync"
	"time"

	"odmr/engine/session"
	"odmr/queue"
)

// tenure is the right of one session to drain some domains, and the lease that goes with it. It is claimed before
// the lease is asked for and ends after that was given back, so that whom a domain belongs to at present is known as long as
// it belongs to anybody. It is handed about like the lease: releasing it gives back both.
type tenure struct {
	queue.Lease // nil until acquired
	of          *tenures
	home        *loop
	conn        uint64
	account     string
	domains     []string
	anew        bool // the directory was asked anew, not just its memory

	// The rest belongs to tenures.mu.
	id       uint64 // set when it was claimed; never used again
	inForce  bool
	took     session.Time // when the one before was made to leave some of domains; 0: none was
	ending   bool         // it was asked to make way, or its session is over: its lease is on the way back
	yielded  bool         // it did, and not just because it was at its end
	behind   []*tenure    // wait for it to end
	blockers int          // tenures that it waits for
}

// Release implements queue.Lease.
func (t *tenure) Release() {
	if t.Lease != nil {
		t.Lease.Release()
	}
	t.of.end(t)
}

// tenures are the tenures of all sessions. It is the one place where a session that wants a domain meets the one that has
// it; they belong to different loops, so that what follows is an event for each.
type tenures struct {
	mu   sync.Mutex
	held map[string]*tenure // by domain
	// left are domains that a session was made to leave, and when, until somebody has them: who asked for that, or who was faster. If
	// both are gone it stays until somebody comes, a domain of the directory each.
	left map[string]session.Time
	last uint64
	of   map[string]int // how many each account has

	patience time.Duration // takeoverTime, except in tests
}

func (r *tenures) init() {
	r.held, r.left, r.of, r.patience = make(map[string]*tenure), make(map[string]session.Time), make(map[string]int), takeoverTime
}

// has says whether a session of account drains something.
func (r *tenures) has(account string) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.of[account] > 0
}

// claimed is the outcome of a claim.
type claimed uint8

const (
	claimGranted claimed = iota // t is in force
	claimWaits                  // the tenures in the way are being ended: claim again when told by evFreed
	claimRefused                // some domain stays with the session that has it
	claimForeign                // some domain is with another account: the directory is to be asked anew, and then claim again
)

// claim makes t hold all of its domains, or none. Whoever calls it has been authorised for each of them, as had those
// who hold them: that alone is what lets one session end another. Another account's it ends only if the directory was asked anew.
//
// A session that has made others make way keeps its place for c.TakeoverInterval, or two of them could fight for ever. So does one that
// was faster than who made them: often it is the customer that was there before, and dials in again at once.
func (r *tenures) claim(t *tenure, c *Collecting, now session.Time) claimed {
	r.mu.Lock()
	defer r.mu.Unlock()
	var inTheWay []*tenure
	for _, d := range t.domains {
		if h := r.held[d]; h != nil && !slices.Contains(inTheWay, h) {
			inTheWay = append(inTheWay, h)
		}
	}
	for _, h := range inTheWay {
		if h.account != t.account && !t.anew {
			return claimForeign
		}
		if h.ending {
			continue
		}
		if h.account != t.account {
			continue // whose domain it was: it is t's now
		}
		if c.OnBusy == BusyRefuse || h.took != 0 && now-h.took < session.Time(c.TakeoverInterval) {
			return claimRefused
		}
	}
	if len(inTheWay) == 0 {
		r.last++
		t.id = r.last
		for _, d := range t.domains {
			r.held[d] = t
			t.took = max(t.took, r.left[d])
			delete(r.left, d)
		}
		r.of[t.account]++
		t.inForce = true
		return claimGranted
	}
	t.blockers = len(inTheWay)
	for _, h := range inTheWay {
		h.behind = append(h.behind, t)
		if !h.ending {
			h.ending = true
			h.home.inbox.post(event{kind: evYield, conn: h.conn, n: int64(h.id)})
		}
	}
	return claimWaits
}

// ends notes that t is about to end by itself: that is waited for, whatever else holds.
func (r *tenures) ends(t *tenure) {
	r.mu.Lock()
	defer r.mu.Unlock()
	t.ending = true
}

// yields notes that t makes way.
func (r *tenures) yields(t *tenure) {
	r.mu.Lock()
	defer r.mu.Unlock()
	t.yielded = true
}

// end takes t out, if it is in force, and tells those that have waited for it last.
func (r *tenures) end(t *tenure) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, d := range t.domains {
		if r.held[d] == t {
			delete(r.held, d)
			if t.yielded {
				r.left[d] = now()
			}
		}
	}
	if t.inForce {
		t.inForce = false
		if r.of[t.account]--; r.of[t.account] == 0 {
			delete(r.of, t.account)
		}
	}
	for _, w := range t.behind {
		if w.blockers--; w.blockers == 0 {
			w.home.inbox.post(event{kind: evFreed, conn: w.conn})
		}
	}
	t.behind = nil
}

// waits reports whether a tenure is still in t's way, of those that were when it was claimed.
func (r *tenures) waits(t *tenure) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return t.blockers > 0
}
