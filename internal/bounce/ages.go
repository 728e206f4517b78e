package bounce

import (
	"math"
	"slices"
	"time"

	"odmr/internal/mail"
	"odmr/queue"
)

// Mail does not always stand in line by its age. What was imported has the age that it had where it came from, a clock may
// have been set, and what an operator has released stands in its old place: so behind an entry that may stay another may be over
// time. All of a domain's entries are looked at, therefore, but hardly ever the same ones twice: of each stretch of the line
// it is remembered how old its oldest entry is, and it is walked again when the time of that one is over. Delay notices go the same
// way, by the oldest entry of which no sender was told yet.

const (
	// stretchMost bounds the entries of a stretch, and so what one step looks at: some milliseconds, and some 60 octets of
	// memory for so many entries.
	stretchMost = 4096
	// known is the longest that a stretch of more than a batch is taken for known: what was released into it later may
	// be older. (A shorter one costs nothing, and is walked as often as any queue is looked at: see again.)
	known = time.Hour
	// lateness is the part of the retention by which an entry of a stretch of more than a batch may stay too long (again at
	// the most), so that a stretch is not walked again for each entry whose time comes.
	lateness = 64
)

// clock says which entries' time is over.
type clock struct {
	now, held time.Time // held: the clock stood still until then
	retention time.Duration
}

// never is when an entry arrived whose time does not come.
const never = math.MaxInt64

func (c *clock) expires(arrived int64) time.Time {
	t := time.Unix(0, arrived)
	if t.Before(c.held) {
		t = c.held
	}
	return t.Add(c.retention)
}

// stretch is a part of a domain's line, up to a place; it begins behind the one before.
type stretch struct {
	to      uint64    // place, included
	entries int       // that stayed when it was walked
	oldest  int64     // when the oldest of these arrived that are concerned
	walked  time.Time // when
	stuck   bool      // one is among them whose time is over, and which could not leave then
}

// unwalked is one of which nothing is known yet.
func unwalked(to uint64) stretch { return stretch{to: to, oldest: math.MinInt64} }

// due is when it is to be walked again.
func (s *stretch) due(c *clock) time.Time {
	if s.stuck {
		return s.walked.Add(again)
	}
	expires := c.expires(s.oldest)
	if s.entries <= batch {
		return earlier(expires, s.walked.Add(again))
	}
	if least := s.walked.Add(min(again, c.retention/lateness)); expires.Before(least) {
		expires = least
	}
	return earlier(expires, s.walked.Add(known))
}

// ages is what is known of the age of a domain's entries at one stage.
type ages struct {
	line []stretch // in order, without gaps up to end; empty ones are part of a neighbour
	end  uint64    // up to this place all was walked once; 0 if line is empty
	way  *way      // nil: none is under way
}

// way is a walk through a stretch.
type way struct {
	at   int     // which one of line; len(line): a new one behind them
	next uint64  // the place to go on from
	to   uint64  // the last place; math.MaxUint64: what is behind all that is known
	new  stretch // what takes its place
	most int     // entries of a stretch
}

// begin chooses the stretch to be walked now: one that is due, else what is behind all. there is how many entries there
// are: when most of what is remembered is gone it is found out anew, so that there are few stretches, and long ones. most bounds a stretch.
func (a *ages) begin(c *clock, there int64, most int) {
	if a.way != nil {
		return
	}
	sum := int64(0)
	for i := range a.line {
		sum += int64(a.line[i].entries)
	}
	if tiny := len(a.line) > 8 && int64(len(a.line))*int64(most) > 8*there; tiny || sum > 2*there+int64(most) {
		*a = ages{}
	}
	from := uint64(1)
	for i := range a.line {
		s := &a.line[i]
		if !c.now.Before(s.due(c)) {
			a.way = &way{at: i, next: from, to: s.to, new: stretch{oldest: never}, most: most}
			return
		}
		from = s.to + 1
	}
	a.way = &way{at: len(a.line), next: a.end + 1, to: math.MaxUint64, new: stretch{oldest: never}, most: most}
	if last := len(a.line) - 1; last >= 0 && a.line[last].entries < most && !a.line[last].stuck {
		a.way.at, a.way.new = last, a.line[last]
	}
}

// behind says whether it goes through what is behind all that is known.
func (w *way) behind() bool { return w.to == math.MaxUint64 }

// full says whether a stretch is as long as may be.
func (w *way) full() bool { return w.new.entries >= w.most }

// stay notes an entry that stays.
func (w *way) stay(arrived int64) {
	w.new.entries++
	w.new.oldest = min(w.new.oldest, arrived)
}

// finish puts what was found in its place.
func (a *ages) finish(now time.Time) {
	w := a.way
	a.way, a.end = nil, max(a.end, w.next-1)
	if w.new.walked.IsZero() { // what an older stretch grows by does not make it younger
		w.new.walked = now
	}
	if w.new.to = w.to; w.full() || w.behind() {
		w.new.to = w.next - 1
	}
	var found []stretch
	if w.new.entries > 0 {
		found = append(found, w.new)
	}
	if w.new.to < w.to && !w.behind() {
		found = append(found, unwalked(w.to))
	}
	a.line = slices.Replace(a.line, w.at, min(w.at+1, len(a.line)), found...)
	if last := len(a.line) - 1; last >= 0 {
		a.line[last].to = a.end
	} else {
		a.end = 0
	}
}

// due is when something is to be walked again, at next at the latest.
func (a *ages) due(c *clock, next time.Time) time.Time {
	for i := range a.line {
		next = earlier(next, a.line[i].due(c))
	}
	return next
}

// looked is an entry that a step has come to.
type looked struct {
	seq     uint64
	arrived int64
	over    bool // its time
}

// line is a domain's entries at one stage, and what is to become of those whose time is over.
type line struct {
	domain   string
	stage    queue.Stage
	there    int64 // how many there are
	ages     *ages
	concerns func(*mail.Envelope) bool // whether an entry's time comes at all; nil: it does
	decide   func(*queue.Reviewed) queue.Decision
	stays    bool // what was decided about stays, and is not concerned any more
}

// arrived is when an entry's time began.
func (l *line) arrived(v *mail.Envelope) int64 {
	if l.concerns != nil && !l.concerns(v) {
		return never
	}
	return v.Arrived
}

// overdue deals with a batch of entries whose time is over, and says whether there may be more to do at once. One step looks at no
// more than stretchMost entries and a batch.
func (r *Reporter) overdue(l line, c *clock) (more bool, err error) {
	a := l.ages
	a.begin(c, l.there, r.stretch)
	w := a.way
	defer func() {
		if err != nil {
			a.way = nil
		}
	}()
	var all []looked
	var seqs []uint64
	done := true
	err = r.cfg.Store.Walk(l.domain, l.stage, w.next, func(k queue.Key, env *mail.Envelope) bool {
		if k.Seq > w.to {
			return false
		}
		arrived := l.arrived(env)
		over := !c.now.Before(c.expires(arrived))
		all = append(all, looked{k.Seq, arrived, over})
		if over {
			seqs = append(seqs, k.Seq)
		}
		done = len(seqs) < batch && w.new.entries+len(all)-len(seqs) < w.most
		return done
	})
	if err != nil {
		return false, err
	}
	gone, rest := 0, uint64(0)
	if len(seqs) > 0 {
		gone, rest, err = r.review(l.domain, l.stage, seqs, l.decide)
		if err != nil {
			return false, err
		}
	}
	for _, e := range all {
		if rest > 0 && e.seq >= rest {
			done = false
			break
		}
		w.next = e.seq + 1
		switch {
		case !e.over:
			w.stay(e.arrived)
		case gone > 0: // whichever they were
			if gone--; l.stays {
				w.stay(never)
			}
		default:
			w.stay(e.arrived)
			w.new.stuck = true
		}
	}
	more = len(seqs) > 0 || !done || !w.behind()
	if done || w.full() {
		a.finish(c.now)
	}
	return more, nil
}
