package session

// A client that pipelines (RFC 2920, RFC 3030) goes on to its next message before it has heard of the last, and so
// does the machine: while a message is on its way to the disk, those behind it come in, and their commits
// share the sync. Replies keep their order: what is said behind a message waits for that message's own reply.
//
// Only what goes well runs ahead. A command that is refused, one that ends something (EHLO, STARTTLS, QUIT), content
// that is refused: all that waits until nothing is being committed, so that the count of errors, the end of the
// session and its TLS see the dialogue as if one message had come after the other.

const (
	// ingressCommits is how many messages of a session may be on their way to the disk: enough to keep the line and the
	// disk busy at once, few enough that a session's memory stays small.
	ingressCommits = 16
	// ingressHeld is how many octets of replies may be held back behind them before the client is not listened to.
	ingressHeld = 4 << 10
	// ingressKeptTransactions is for how many further messages memory is kept where none is being committed.
	ingressKeptTransactions = 4
)

// ingressCommit is a message that is being committed.
type ingressCommit struct {
	tx      *ingressTransaction
	ticket  uint32
	replies int    // that its content gets
	over    bool   // refusal, or none, is known
	refusal *reply // why it was not taken
	behind  []byte // replies to what came after it
}

// ingressQueue is the messages that are being committed, oldest first, and what of them is used again.
type ingressQueue struct {
	list  []ingressCommit
	held  int                   // octets of replies in list
	txs   []*ingressTransaction // besides Ingress.spare
	texts [][]byte              // for behind
	late  func(out *Output)     // what waits until list is empty
}

// detach leaves the open transaction, which is being committed under ticket, to the queue.
func (s *Ingress) detach(ticket uint32) {
	q := &s.commits
	c := ingressCommit{tx: s.tx, ticket: ticket, replies: s.contentReplies()}
	if n := len(q.texts); n > 0 {
		c.behind, q.texts = q.texts[n-1], q.texts[:n-1]
	}
	q.list = append(q.list, c)
	s.tx.free = nil           // all that is kept until then is what was lent
	s.tx, s.origin = nil, nil // what was said of the client was for this message
	s.state = ingressReady
	s.expect(s.cfg.CommandTimeout)
}

// hold keeps what was said since mark back behind the last of the ahead messages that were being committed then.
func (s *Ingress) hold(mark, ahead int, out *Output) {
	if ahead == 0 || len(out.Reply) == mark {
		return
	}
	c := &s.commits.list[ahead-1]
	c.behind = append(c.behind, out.Reply[mark:]...)
	s.commits.held += len(out.Reply) - mark
	out.Reply = out.Reply[:mark]
}

// must reports whether a command has to wait for the messages that are being committed, and notes that.
func (s *Ingress) must(row *ingressCommand, refused bool) bool {
	q := &s.commits
	if len(q.list) == 0 || row.ahead && !refused && !s.stopping && len(q.list) < ingressCommits && q.held < ingressHeld {
		return false
	}
	s.wait = ingressWaitOrder
	return true
}

// inOrder calls then, now or when nothing is being committed any more. Nothing is read until then.
func (s *Ingress) inOrder(out *Output, then func(out *Output)) {
	if len(s.commits.list) == 0 {
		then(out)
		return
	}
	s.wait, s.commits.late = ingressWaitOrder, then
}

// doneCommit takes the outcome of a commit, and says what can be said now. It reports whether ticket is one.
func (s *Ingress) doneCommit(ticket uint32, r *Result, out *Output) bool {
	q := &s.commits
	found := false
	for i := range q.list {
		if c := &q.list[i]; c.ticket == ticket && !c.over {
			found, c.over = true, true
			if r.Refusal != nil {
				refusal := replyRefusal(r.Refusal)
				c.refusal = &refusal
			}
			break
		}
	}
	if !found {
		return false
	}
	used := 0
	for used < len(q.list) && q.list[used].over && !s.closed {
		s.answerCommit(&q.list[used], out)
		used++
	}
	if used > 0 {
		n := copy(q.list, q.list[used:])
		clear(q.list[n:])
		q.list = q.list[:n]
		if most := max(n, ingressKeptTransactions); len(q.txs) > most { // what is kept is no more than what is counted
			clear(q.txs[most:])
			q.txs = q.txs[:most]
		}
		s.expectMore()
	}
	if s.wait == ingressWaitOrder && !s.closed {
		if q.late == nil {
			s.wait = ingressNoWait // the command is read again
		} else if len(q.list) == 0 {
			late := q.late
			q.late, s.wait = nil, ingressNoWait
			late(out)
		}
	}
	return true
}

// answerCommit replies to the oldest message, and says what was held back behind it.
func (s *Ingress) answerCommit(c *ingressCommit, out *Output) {
	for range c.replies {
		if c.refusal != nil {
			out.Reply = c.refusal.appendTo(out.Reply)
		} else {
			out.Reply = appendQueued(out.Reply, c.tx.id)
		}
	}
	s.release(c.tx)
	switch {
	case c.refusal == nil:
		s.errors = 0
	case s.isTooMany(c.refusal.Code):
		s.end(out, replyTooManyErrors, ReasonErrors)
		return
	}
	out.Reply = append(out.Reply, c.behind...)
	s.commits.held -= len(c.behind)
	if cap(c.behind) > 0 && len(s.commits.texts) < ingressCommits {
		s.commits.texts = append(s.commits.texts, c.behind[:0])
	}
}

// release keeps the memory of a transaction that is over for a later one.
func (s *Ingress) release(tx *ingressTransaction) {
	tx.recycle()
	switch {
	case s.spare == nil:
		s.spare = tx
	case len(s.commits.txs) < ingressCommits:
		s.commits.txs = append(s.commits.txs, tx)
	}
	s.idleAt = s.now + Time(ingressIdleRelease)
}

// letGo forgets the memory that is kept for later.
func (s *Ingress) letGo() {
	s.spare = nil
	s.commits.txs, s.commits.texts = nil, nil
	if len(s.commits.list) == 0 {
		s.commits.list = nil
	}
}
