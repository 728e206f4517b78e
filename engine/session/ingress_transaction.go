package session

import (
	"odmr/codec"
	"odmr/internal/mail"
)

// ingressTransaction is one message on its way in, from MAIL to the reply to its content. It is
// dropped as a whole; a dropped one may be used again for its memory.
type ingressTransaction struct {
	// The command being parsed; both alias its line and are valid during the call only.
	path   codec.Path
	params codec.Params

	id       mail.ID
	begun    bool  // the store knows of it: it must be committed or discarded
	declared int64 // SIZE=, octets; 0 if absent
	maxSize  int64 // the least that one of the recipients' domains takes, octets; 0: what all take
	body     mail.BodyType
	ret      mail.Return
	utf8     bool

	// All texts of the envelope, one behind the other. They become one string at the commit.
	text       []byte
	sender     ingressSpan
	envID      ingressSpan
	recipients []ingressRecipient
	routes     []ingressRoute
	customers  int      // how many customer domains routes have
	names      []string // domains seen in this session, so that each is made a string once

	ingressContent

	envelopes []mail.Envelope  // lent to the driver during the commit, as
	slab      []mail.Recipient // these are, which they share
}

// ingressSpan is a piece of ingressTransaction.text.
type ingressSpan struct{ from, to int32 }

func (p ingressSpan) of(text string) string { return text[p.from:p.to] }

type ingressRecipient struct {
	address ingressSpan
	orcpt   ingressSpan
	route   int32 // index into routes
	notify  mail.Notify
}

// ingressRoute is a domain that mail is held for.
type ingressRoute struct {
	asked    string // as in the RCPT command, ASCII in lower case
	customer string // the customer domain, lower-case A-labels
	envelope int    // its number among the customer domains of this message
	each     bool   // each of its recipients is asked for, and has a route of its own
}

const (
	// ingressKeptNames is how many domain names a session remembers between messages.
	ingressKeptNames = 16
	// ingressKeptRecipients is for how many recipients a session keeps memory between messages.
	ingressKeptRecipients = 16
	// ingressKeptText is the most envelope text kept between messages, in octets.
	ingressKeptText = 2 << 10
)

// scratch returns a transaction to parse a MAIL command into.
func (s *Ingress) scratch() *ingressTransaction {
	if n := len(s.commits.txs); s.spare == nil && n > 0 {
		s.spare, s.commits.txs = s.commits.txs[n-1], s.commits.txs[:n-1]
	}
	if s.spare == nil {
		s.spare = &ingressTransaction{}
	}
	s.idleAt = s.now + Time(ingressIdleRelease)
	return s.spare
}

// drop forgets the transaction, if there is one.
func (s *Ingress) drop(out *Output) {
	s.origin = nil // it is for one message, lest it be taken for that of the next
	tx := s.tx
	if tx == nil {
		return
	}
	if tx.begun {
		out.Acts = append(out.Acts, Action{Kind: ActDiscard, Reason: tx.why})
	}
	s.tx = nil
	s.release(tx)
	s.state = ingressReady
}

// recycle empties tx and keeps the memory that a small message needs.
func (tx *ingressTransaction) recycle() {
	old := *tx
	clear(old.envelopes[:cap(old.envelopes)])
	clear(old.slab[:cap(old.slab)])
	clear(old.routes)
	*tx = ingressTransaction{}
	if len(old.names) <= ingressKeptNames {
		tx.names = old.names
	}
	if cap(old.text) <= ingressKeptText {
		tx.text = old.text[:0]
	}
	if cap(old.recipients) <= ingressKeptRecipients {
		tx.recipients = old.recipients[:0]
	}
	if cap(old.slab) <= ingressKeptRecipients {
		tx.slab = old.slab[:0]
	}
	if cap(old.routes) <= ingressKeptNames {
		tx.routes = old.routes[:0]
	}
	if cap(old.envelopes) <= ingressKeptRecipients {
		tx.envelopes = old.envelopes[:0]
	}
	if cap(old.filling) <= ingressKeptBuffer {
		tx.filling = old.filling[:0]
	}
}

// forgetLine lets go of the command line that was parsed into tx.
func (tx *ingressTransaction) forgetLine() {
	tx.path = codec.Path{}
	tx.params = codec.Params{}
}

// forgetLine lets go of a command line that was refused.
func (s *Ingress) forgetLine() {
	if s.tx != nil {
		s.tx.forgetLine()
	}
	if s.spare != nil {
		s.spare.forgetLine()
	}
}

// checkMail parses into the spare transaction. The client's right to hand in mail comes first.
func checkMail(s *Ingress, arg []byte) *reply {
	if !s.peer.Trusted {
		return replyUntrusted
	}
	tx := s.scratch()
	var err error
	tx.path, err = codec.ParseMail(arg, &tx.params)
	if err != nil {
		return replySyntax(err)
	}
	_, utf8 := tx.params.Get("SMTPUTF8")
	if !utf8 && tx.path.NonASCII() {
		return replyNeedUTF8
	}
	for i := range tx.params.Len() {
		switch p := tx.params.At(i); {
		case p.Is("SIZE"):
			// RFC 1870 6.1: told beforehand, so that nothing need be sent.
			if size, _ := codec.ParseSize(p.Value); size > s.cfg.MaxMessageSize {
				return replyTooBig
			}
		case p.Is("BODY"), p.Is("SMTPUTF8"), p.Is("RET"), p.Is("ENVID"):
		default:
			return replyUnknownParam // RFC 5321 4.1.1.11
		}
	}
	return nil
}

// applyMail opens the transaction; the store has the last word.
func applyMail(s *Ingress, _ []byte, out *Output) {
	tx := s.spare
	s.tx, s.spare = tx, nil
	tx.sender = tx.keep(tx.path.Addr)
	said := tx.params.Mail()
	tx.declared, tx.utf8, tx.ret = said.Size, said.SMTPUTF8, mail.Return(said.Ret)
	if said.EightBit {
		tx.body = mail.Body8BitMIME
	}
	tx.envID = tx.keep(said.EnvID)
	tx.forgetLine()
	s.wait = ingressWaitBegin
	out.Acts = append(out.Acts, Action{Kind: ActBegin, Ticket: s.nextTicket(), Size: tx.declared})
}

func (s *Ingress) doneBegin(r *Result, out *Output) {
	s.wait = ingressNoWait
	if r.Refusal != nil {
		refusal := replyRefusal(r.Refusal)
		s.inOrder(out, func(out *Output) {
			s.drop(out)
			s.orphans = s.cfg.MaxRecipients + 1
			s.refuse(out, &refusal)
		})
		return
	}
	s.tx.begun = true
	s.orphans = 0
	s.tx.id = r.ID
	s.state = ingressMail
	s.say(out, replyMailOK)
}

// keep copies b to the transaction's text.
func (tx *ingressTransaction) keep(b []byte) ingressSpan {
	from := len(tx.text)
	tx.text = append(tx.text, b...)
	return ingressSpan{int32(from), int32(len(tx.text))}
}

func checkRcpt(s *Ingress, arg []byte) *reply {
	tx := s.tx
	var err error
	tx.path, err = codec.ParseRcpt(arg, &tx.params)
	if err != nil {
		return replySyntax(err)
	}
	for i := range tx.params.Len() {
		switch p := tx.params.At(i); {
		case p.Is("NOTIFY"):
		case p.Is("ORCPT"):
			if !tx.utf8 && isHigh(p.Value) { // RFC 6533 3: utf-8-addr-unitext needs SMTPUTF8
				return replyNeedUTF8
			}
		default:
			return replyUnknownParam
		}
	}
	switch {
	case !tx.utf8 && tx.path.NonASCII():
		return replyNeedUTF8
	case len(tx.path.Domain) > 0 && tx.path.Domain[0] == '[':
		return replyLiteral
	case len(tx.recipients) >= s.cfg.MaxRecipients:
		return replyTooManyRcpts // RFC 5321 4.5.3.1.10
	}
	return nil
}

// applyRcpt adds the recipient; unless its domain is known in this transaction it is asked for.
func applyRcpt(s *Ingress, _ []byte, out *Output) {
	tx := s.tx
	rcpt := ingressRecipient{address: tx.keep(tx.path.Addr)}
	domain := ingressSpan{rcpt.address.to - int32(len(tx.path.Domain)), rcpt.address.to}
	if len(tx.path.Domain) == 0 { // RFC 5321 4.5.1: <postmaster> is this server's own
		tx.text = append(tx.text, '@')
		domain = tx.keep([]byte(s.cfg.Hostname))
		rcpt.address.to = domain.to
	}
	said := tx.params.Rcpt()
	rcpt.notify, rcpt.orcpt = mail.Notify(said.Notify), tx.keep(said.Orcpt)
	tx.forgetLine()

	asked := tx.intern(domain)
	rcpt.route = -1
	for i := range tx.routes {
		if tx.routes[i].asked == asked && !tx.routes[i].each {
			rcpt.route = int32(i)
		}
	}
	tx.recipients = append(tx.recipients, rcpt)
	if rcpt.route >= 0 {
		s.state = ingressRcpt
		s.say(out, replyRcptOK)
		return
	}
	tx.routes = append(tx.routes, ingressRoute{asked: asked})
	s.wait = ingressWaitRoute
	out.Acts = append(out.Acts, Action{Kind: ActRoute, Ticket: s.nextTicket(), Domain: asked, Size: tx.declared,
		Data: tx.text[rcpt.address.from:rcpt.address.to], Null: tx.sender.from == tx.sender.to})
}

// intern returns the domain in lower case as a string, the same one each time.
func (tx *ingressTransaction) intern(domain ingressSpan) string {
	var room [mail.MaxDomain + 1]byte
	lower := codec.AppendLower(room[:0], tx.text[domain.from:domain.to])
	for _, name := range tx.names {
		if name == string(lower) {
			return name
		}
	}
	name := string(lower)
	tx.names = append(tx.names, name)
	return name
}

// doneRoute ends what applyRcpt began: the last recipient and the last route are in question.
func (s *Ingress) doneRoute(r *Result, out *Output) {
	s.wait = ingressNoWait
	tx := s.tx
	route := &tx.routes[len(tx.routes)-1]
	rcpt := &tx.recipients[len(tx.recipients)-1]
	if r.Refusal != nil {
		tx.text = tx.text[:rcpt.address.from]
		if last := len(tx.names) - 1; tx.names[last] == route.asked { // most likely new: do not gather what is refused
			tx.names = tx.names[:last]
		}
		tx.routes = tx.routes[:len(tx.routes)-1]
		tx.recipients = tx.recipients[:len(tx.recipients)-1]
		refusal := replyRefusal(r.Refusal)
		s.inOrder(out, func(out *Output) { s.refuse(out, &refusal) })
		return
	}
	rcpt.route = int32(len(tx.routes) - 1)
	if r.MaxSize > 0 && (tx.maxSize == 0 || r.MaxSize < tx.maxSize) {
		tx.maxSize = r.MaxSize
	}
	route.customer, route.each = route.asked, r.Each
	if r.Domain != "" {
		route.customer = r.Domain
	}
	route.envelope = tx.customers
	for i := range tx.routes[:len(tx.routes)-1] {
		if tx.routes[i].customer == route.customer {
			route.envelope = tx.routes[i].envelope
		}
	}
	if route.envelope == tx.customers {
		tx.customers++
	}
	s.state = ingressRcpt
	s.say(out, replyRcptOK)
}

// seal makes the envelopes, one for each customer domain with its own recipients only, in the
// order in which they were given. common has what they share.
func (tx *ingressTransaction) seal(common mail.Envelope) {
	text := string(tx.text) // the one allocation: a text that nobody can change, however long it is kept
	common.ReversePath, common.EnvID = tx.sender.of(text), tx.envID.of(text)
	if cap(tx.slab) < len(tx.recipients) {
		tx.slab = make([]mail.Recipient, 0, max(len(tx.recipients), 4))
	}
	tx.slab, tx.envelopes = tx.slab[:len(tx.recipients)], tx.envelopes[:0]
	for i := range tx.routes {
		if route := &tx.routes[i]; route.envelope == len(tx.envelopes) {
			common.Domain = route.customer
			tx.envelopes = append(tx.envelopes, common)
		}
	}
	used := 0
	if len(tx.envelopes) == 1 { // nearly all mail
		for i := range tx.recipients {
			tx.slab[i] = tx.recipients[i].sealed(text)
		}
		tx.envelopes[0].Recipients = tx.slab
		return
	}
	sizes := make([]int, len(tx.envelopes))
	for i := range tx.recipients {
		sizes[tx.routes[tx.recipients[i].route].envelope]++
	}
	for e := range tx.envelopes {
		tx.envelopes[e].Recipients = tx.slab[used : used : used+sizes[e]]
		used += sizes[e]
	}
	for i := range tx.recipients {
		e := &tx.envelopes[tx.routes[tx.recipients[i].route].envelope]
		e.Recipients = append(e.Recipients, tx.recipients[i].sealed(text))
	}
}

func (r *ingressRecipient) sealed(text string) mail.Recipient {
	return mail.Recipient{Address: r.address.of(text), ORcpt: r.orcpt.of(text), Notify: r.notify}
}
