package sim

import (
	"odmr/engine/session"
	"odmr/internal/mail"
	"odmr/queue"
)

// Bug is a mistake that is planted to prove that a rule is looked after.
type Bug uint8

const (
	NoBug             Bug = iota
	BugEarlyAck           // a commit that is acknowledged before it is on disk
	BugSettleDrops        // settlements are said to be durable and are not made
	BugSettleNeighbor     // a settlement hits the next message instead
	BugForeignLease       // ATRN without a domain gives the lease of everybody's
	BugForgetDoubt        // what is in doubt is not recorded so
	BugDeferAccepted      // what was taken is recorded as deferred
	BugSwap               // two messages change places
	BugWrongBody          // a message with the body of another
	BugTruncate           // a body without its last octets
	BugStateless          // failed recipients are kept nowhere
	BugTwoReports         // each report comes into being twice
	BugNoReport           // or not at all
	BugBounced            // what the shield holds is bounced
	BugUnsynced           // a message is acknowledged once it is in line, before it is durable
	BugOvertakes          // those of one connection go into line in any order
	BugGoesOn             // sessions go on whatever becomes of their account
	BugVacation           // mail of a customer on vacation expires like any other
	BugNoQuota            // no quota is looked at
	BugLearnsAll          // every refusal is taken for one that says that there is no such mailbox
	BugKeepsLearned       // what was learned is kept though the customer took the recipient
	BugSenderOrder        // small messages overtake those of their own sender
	BugStopForgets        // an orderly stop does not wait for settlements
	BugStaleOrigin        // a message has the origin of the one before
	BugTells              // senders are told whatever an operator has set
	BugReportLost         // a report that the smarthost refused for now is taken for gone
	BugReportAgain        // a report that was taken is kept
	BugReportDoubt        // a report that may have been taken is not recorded so
	BugReportOnReport     // reports that fail are reported
	BugImpatient          // the sender of reports forgets that it was refused
	BugCutCounts          // the interval between ATRN counts from sessions that were cut short, too
	BugImportAgain        // what is imported has no stamp
	BugImportSeen         // what was asked about is taken for imported
)

var bugNames = [...]string{"none", "early ack", "settle drops", "settle neighbour", "foreign lease", "forget doubt",
	"defer accepted", "swap", "wrong body", "truncate", "failed removed", "two reports", "no report", "held bounced",
	"unsynced", "overtakes", "goes on", "vacation", "no quota", "learns all", "keeps learned", "sender order", "stop forgets", "stale origin",
	"tells", "report lost", "report again", "report doubt", "report on report", "impatient",
	"cut counts", "import again", "import seen"}

func (b Bug) String() string { return bugNames[b] }

// weather is what a bug needs to come to light within a few seeds.
func (b Bug) weather(s *Sim) {
	switch b {
	case BugGoesOn:
		s.restless, s.hectic = true, true
	case BugVacation:
		s.restless = true
	case BugImportAgain, BugImportSeen:
		s.moving = true
	case BugLearnsAll, BugKeepsLearned:
		s.boxes = 1
	}
}

// authorize is the directory's.
func (h *host) authorize(account string, wanted []string) ([]string, error) {
	if h.s.bug == BugForeignLease && len(wanted) == 0 {
		return h.s.domains, nil
	}
	return h.dir.Authorize(account, wanted)
}

// settling changes what a machine wants recorded.
func (b Bug) settling(a *session.Action) {
	switch b {
	case BugForgetDoubt:
		a.InDoubt = false
	case BugBounced:
		for i := range a.Outcomes {
			if a.Outcomes[i].Status == mail.OutcomeHeld {
				a.Outcomes[i].Status = mail.OutcomeFailed
			}
		}
	case BugDeferAccepted:
		for i := range a.Outcomes {
			if a.Outcomes[i].Status == mail.OutcomeDelivered {
				a.Outcomes[i].Status = mail.OutcomeDeferred
			}
		}
	}
}

// wrap puts the bug between the driver and the store.
func (b Bug) wrap(h *host, s queue.Store) queue.Store { return &buggy{s, b, h, map[queue.Stamp]bool{}} }

// buggy is a store with a bug.
type buggy struct {
	queue.Store
	bug  Bug
	h    *host
	seen map[queue.Stamp]bool // that were asked for
}

func (s *buggy) Begin(size int64) (queue.Incoming, error) {
	in, err := s.Store.Begin(size)
	switch {
	case err != nil:
		return nil, err
	case s.bug == BugEarlyAck:
		return &hasty{in, s.h}, nil
	case s.bug == BugImportAgain:
		return stampless{in}, nil
	}
	return in, nil
}

// stampless is a message without stamps.
type stampless struct{ queue.Incoming }

func (stampless) Once([]queue.Stamp) {}

func (s *buggy) Stamped(stamps []queue.Stamp) ([]bool, error) {
	there, err := s.Store.Stamped(stamps)
	if err != nil || s.bug != BugImportSeen {
		return there, err
	}
	for i := range there {
		there[i] = there[i] || s.seen[stamps[i]]
		s.seen[stamps[i]] = true
	}
	return there, nil
}

// hasty acknowledges a message and makes it durable later.
type hasty struct {
	queue.Incoming
	h *host
}

func (in *hasty) Submit(last []byte, envelopes []mail.Envelope, to queue.Waiter) {
	h, era := in.h, in.h.era
	last = append([]byte{}, last...)
	h.w.after(h.w.within(10e9), func() {
		if h.era == era && h.up {
			h.speedUp()
			_ = in.Incoming.Commit(last, envelopes)
		}
	})
	to.Committed(nil)
}

func (s *buggy) Acquire(domains []string) (queue.Lease, error) {
	l, err := s.Store.Acquire(domains)
	if err != nil || s.bug == NoBug {
		return l, err
	}
	return &buggyLease{Lease: l, bug: s.bug}, nil
}

// buggyLease is a lease with a bug.
type buggyLease struct {
	queue.Lease
	bug    Bug
	origin *mail.Origin
	small  bool
	keys   map[string][]queue.Delivery
}

func (l *buggyLease) SmallFirst(octets int64) {
	l.small = true
	l.Lease.SmallFirst(octets)
}

func (l *buggyLease) Next(dst []queue.Delivery, limit queue.Limit) ([]queue.Delivery, error) {
	from := len(dst)
	dst, err := l.Lease.Next(dst, limit)
	got := dst[from:]
	for i := range got {
		if i == 0 {
			continue
		}
		a, b := &got[i-1], &got[i]
		switch {
		case l.bug == BugSenderOrder && l.small && a.Key.Domain == b.Key.Domain && a.Envelope.ReversePath == b.Envelope.ReversePath &&
			a.Envelope.WireSize > b.Envelope.WireSize:
			*a, *b = *b, *a
		case l.bug == BugSwap && a.Key.Domain == b.Key.Domain:
			*a, *b = *b, *a
		case l.bug == BugWrongBody && a.Envelope.Size == b.Envelope.Size, l.bug == BugWrongBody:
			a.Body, b.Body = b.Body, a.Body
			a.Envelope.Size, b.Envelope.Size = b.Envelope.Size, a.Envelope.Size
			a.Envelope.WireSize, b.Envelope.WireSize = b.Envelope.WireSize, a.Envelope.WireSize
			a.Envelope.Stuffed, b.Envelope.Stuffed = b.Envelope.Stuffed, a.Envelope.Stuffed
		}
	}
	for i := range got {
		if l.bug == BugStaleOrigin && got[i].Envelope.Origin == nil {
			got[i].Envelope.Origin = l.origin
		}
		l.origin = got[i].Envelope.Origin
		if l.bug == BugTruncate {
			got[i].Body = &short{LeasedBody: got[i].Body}
		}
		if l.bug == BugSettleNeighbor {
			l.remember(got[i])
		}
	}
	return dst, err
}

func (l *buggyLease) remember(d queue.Delivery) {
	if l.keys == nil {
		l.keys = map[string][]queue.Delivery{}
	}
	l.keys[d.Key.Domain] = append(l.keys[d.Key.Domain], d)
}

func (l *buggyLease) SettleTo(list []queue.Settlement, to queue.Waiter) {
	switch l.bug {
	case BugSettleDrops:
		to.Committed(nil)
		return
	case BugStateless:
		for i := range list {
			for j := range list[i].Outcomes {
				if o := &list[i].Outcomes[j]; o.Status == mail.OutcomeFailed {
					o.Status = mail.OutcomeDelivered
				}
			}
		}
	case BugSettleNeighbor:
		for i := range list {
			l.neighbor(&list[i])
		}
	}
	l.Lease.SettleTo(list, to)
}

// neighbor turns a settlement into one of the message behind.
func (l *buggyLease) neighbor(s *queue.Settlement) {
	ds := l.keys[s.Key.Domain]
	for i := range ds {
		if ds[i].Key == s.Key && i+1 < len(ds) && len(ds[i+1].Envelope.Recipients) == len(s.Outcomes) {
			s.Key = ds[i+1].Key
			l.keys[s.Key.Domain] = append(ds[:i:i], ds[i+2:]...)
			return
		}
	}
}

// short is a body that lacks its last octets.
type short struct{ queue.LeasedBody }

func (b *short) Ready() (queue.Segment, bool, error) {
	seg, ok, err := b.LeasedBody.Ready()
	if ok && len(seg.Data) > 10 {
		seg.Data = append(seg.Data[:len(seg.Data)-6:len(seg.Data)-6], "\r\n"...)
	}
	return seg, ok, err
}
