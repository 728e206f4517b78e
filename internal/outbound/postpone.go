package outbound

import "time"

const (
	// maxPostponed bounds how many destinations are remembered as refused for now: some 500 KiB. A report to one for which
	// there is no place is tried whenever its turn comes, see round.gave.
	maxPostponed = 4096
	// streakMost is how many reports in a row may be refused for now until the queue as a whole waits: then it is not them.
	streakMost = 20
	// lostMost is how many lines may be lost in a row, each within a report, until the queue as a whole waits.
	lostMost = 5
)

// postponed is a destination that was refused for now.
type postponed struct {
	fails int // in a row
	until time.Time
}

// wait is how long what failed so often in a row waits: twice as long each time, less up to a quarter at random, so
// that not all comes back at once.
func (s *Sender) wait(fails int) time.Duration {
	d := min(backoffLeast<<min(fails, 10), backoffMost)
	return d - time.Duration(s.cfg.Jitter()*float64(d)/4)
}

// due says whether a report to that address may be tried.
func (s *Sender) due(to string) bool { return !s.cfg.Now().Before(s.later[to].until) }

// postpone puts off what goes to that address.
func (s *Sender) postpone(to string) {
	p, known := s.later[to]
	if !known && len(s.later) >= maxPostponed {
		s.forgetOld()
		if len(s.later) >= maxPostponed {
			return
		}
	}
	s.later[to] = postponed{p.fails + 1, s.cfg.Now().Add(s.wait(p.fails))}
}

// forgetOld makes room: who has been due for as long as anybody waits has no report left, or its next is as the first.
func (s *Sender) forgetOld() {
	for to, p := range s.later {
		if s.cfg.Now().Sub(p.until) > backoffMost {
			delete(s.later, to)
		}
	}
}
