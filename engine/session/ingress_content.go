package session

import (
	"strings"
	"time"

	"odmr/codec"
	"odmr/internal/mail"
)

// ingressContent is the content of a message while it arrives, in wire form.
//
// There are two buffers of at most a chunk and a little each: one is filled, the other may be lent
// to the driver by an ActAppend. Once the message is broken nothing is kept any more and the
// octets are only scanned for their end.
type ingressContent struct {
	filling   []byte // the buffer being filled
	lent      []byte // the buffer that an ActAppend holds; nil if none is under way
	free      []byte // a buffer of a finished ActAppend
	appending uint32 // the ticket of that ActAppend
	opened    bool   // the Received field has been written
	complete  bool   // the end of the content was seen
	broken    bool   // refusal says why the message will be refused at its end
	added     int64  // octets of our own Received field
	eightBit  bool   // that field is not ASCII
	wire      int64  // octets taken from the client, in wire form
	refusal   reply
	told      bool   // by the store: the driver knows
	why       string // for ActDiscard
	scan      codec.DataScanner
	stuff     codec.Stuffer
	header    codec.HeaderScanner
}

const (
	// ingressSlack is by how many octets a buffer may exceed a last piece: enough for the scanner to see the
	// end of the data, and for the CRLF that a last chunk may lack.
	ingressSlack = 16
	// ingressBuffer is what a content buffer grows to, in octets.
	ingressBuffer = mail.LastPiece + ingressSlack
	// ingressFirstBuffer is how large a content buffer is made at first, in octets.
	ingressFirstBuffer = 4 << 10
)

func checkData(s *Ingress, arg []byte) *reply {
	if s.state == ingressRcpt {
		return checkNoArgument(s, arg)
	}
	// RFC 5321 3.3: 503 or 554 if there is no valid recipient; RFC 2033 4.2: 503.
	if s.cfg.Mode == IngressLMTP {
		return replyNoRcptsLMTP
	}
	return replyNoRcpts
}

func applyData(s *Ingress, _ []byte, out *Output) {
	s.open()
	s.state = ingressData
	s.say(out, replyStartData)
	s.expect(s.cfg.DataTimeout)
}

func applyBdat(s *Ingress, _ []byte, out *Output) {
	s.open()
	s.state = ingressBdat
	tx := s.tx
	if content := tx.wire - tx.stuff.Stuffing; s.chunk.size > s.maxSize()-content {
		s.breakOff(replyTooBig, out)
	}
}

// open begins the content with our Received field.
func (s *Ingress) open() {
	tx := s.tx
	if tx.opened {
		return
	}
	tx.opened = true
	s.pace = ingressPace{since: s.now}
	tx.reserve(0, min(tx.declared, ingressKeptBuffer-ingressFirstBuffer))
	tx.filling = s.appendReceived(tx.filling)
	tx.added = int64(len(tx.filling))
	tx.eightBit = isHigh(tx.filling)
}

// reserve makes room for n more octets in the buffer that is being filled, doubling it up to a last piece; hint
// is how many may follow.
func (c *ingressContent) reserve(n int, hint int64) {
	need := len(c.filling) + n
	if need <= cap(c.filling) && cap(c.filling) > 0 {
		return
	}
	size := max(2*cap(c.filling), need, ingressFirstBuffer+int(hint))
	if size > ingressBuffer/2 { // not once more for the last few octets
		size = ingressBuffer
	}
	grown := make([]byte, len(c.filling), size)
	copy(grown, c.filling)
	c.filling = grown
}

// room says how many octets may be stored now; 0 means that the store must answer first.
func (s *Ingress) room(out *Output) int {
	tx := s.tx
	if len(tx.filling) >= mail.LastPiece {
		if tx.lent != nil {
			s.wait = ingressWaitAppend
			return 0
		}
		s.flush(out)
	}
	return ingressBuffer - len(tx.filling)
}

// flush hands a chunk over and goes on in the other buffer.
func (s *Ingress) flush(out *Output) {
	tx := s.tx
	tx.lent = tx.filling
	if tx.filling = tx.free[:0]; cap(tx.filling) == 0 {
		tx.filling = make([]byte, 0, ingressBuffer)
	}
	tx.free = nil
	tx.filling = append(tx.filling, tx.lent[mail.ChunkSize:]...)
	tx.appending = s.nextTicket()
	out.Acts = append(out.Acts, Action{Kind: ActAppend, Ticket: tx.appending, Data: tx.lent[:mail.ChunkSize]})
}

// readData takes content up to the final dot.
func (s *Ingress) readData(b []byte, out *Output) int {
	tx := s.tx
	if !tx.broken {
		room := s.room(out)
		if room == 0 {
			return 0
		}
		b = b[:min(len(b), room)]
	}
	body, n, end := tx.scan.Next(b)
	if !tx.broken {
		tx.reserve(body, 0)
		tx.filling = append(tx.filling, b[:body]...)
		s.taken(b[:body], &tx.scan.Content, out)
	}
	if n > 0 {
		s.expect(s.cfg.DataTimeout)
	}
	if end {
		s.finish(out)
	}
	return n
}

// readChunk takes the octets of a BDAT chunk.
func (s *Ingress) readChunk(b []byte, out *Output) int {
	n := int(min(int64(len(b)), s.chunk.left))
	if tx := s.tx; s.chunk.refusal == nil && !tx.broken {
		room := s.room(out)
		if room == 0 {
			return 0
		}
		n = min(n, room/2) // stuffing at most doubles
		tx.reserve(2*n, 0)
		before := len(tx.filling)
		tx.filling = tx.stuff.Append(tx.filling, b[:n])
		s.taken(tx.filling[before:], &tx.stuff.Content, out)
	}
	s.chunk.left -= int64(n)
	s.expect(s.cfg.DataTimeout)
	if s.chunk.left == 0 {
		s.endChunk(out)
	}
	return n
}

// taken notes that piece, in wire form, was stored.
func (s *Ingress) taken(piece []byte, seen *codec.Content, out *Output) {
	tx := s.tx
	tx.header.Write(piece)
	tx.wire += int64(len(piece))
	if tx.wire-seen.Stuffing > s.maxSize() {
		s.breakOff(replyTooBig, out)
	}
}

// maxSize is how many octets of content the message may have: no more than each of its recipients' domains takes.
func (s *Ingress) maxSize() int64 {
	if own := s.tx.maxSize; own > 0 {
		return min(own, s.cfg.MaxMessageSize)
	}
	return s.cfg.MaxMessageSize
}

// endChunk replies to a BDAT. A refused chunk is a piece that the message lacks from now on, and what a
// peer has sent behind it without waiting belongs to the next message: the transaction is dropped, so that nothing
// is taken with a hole, nor under the former reverse-path (RFC 3030 4.2 has the peer say RSET).
func (s *Ingress) endChunk(out *Output) {
	refusal := s.chunk.refusal
	size := s.chunk.size
	last := s.chunk.last
	s.chunk = ingressChunk{}
	switch {
	case refusal != nil:
		s.drop(out)
		s.refuse(out, refusal)
	case last || s.tx.broken:
		s.chunk.last = last
		s.finish(out)
	default:
		s.expect(s.cfg.CommandTimeout)
		out.Reply = appendChunkTaken(out.Reply, size)
	}
}

// breakOff gives the message up; why is the reply once all of it has arrived.
func (s *Ingress) breakOff(why *reply, out *Output) {
	tx := s.tx
	if tx.broken {
		return
	}
	tx.broken = true
	tx.refusal = *why
	if !tx.told {
		tx.why = why.Text
	}
	tx.filling, tx.free = nil, nil
	s.discardBroken(out)
}

// discardBroken tells the store of a broken message as soon as nothing is under way.
func (s *Ingress) discardBroken(out *Output) {
	if tx := s.tx; tx.begun && tx.lent == nil {
		tx.begun = false
		out.Acts = append(out.Acts, Action{Kind: ActDiscard, Reason: tx.why})
	}
}

// expectMore gives the peer time for what comes next, content or a command.
func (s *Ingress) expectMore() {
	if s.state == ingressData || s.chunk.reading {
		s.expect(s.cfg.DataTimeout)
	} else {
		s.expect(s.cfg.CommandTimeout)
	}
}

func (s *Ingress) doneAppend(r *Result, out *Output) {
	tx := s.tx
	tx.free, tx.lent = tx.lent[:0], nil
	if s.wait == ingressWaitAppend {
		s.wait = ingressNoWait
		s.expectMore()
	}
	if r.Refusal != nil && !tx.broken {
		refusal := replyRefusal(r.Refusal)
		tx.told = true
		s.breakOff(&refusal, out)
	}
	if tx.broken {
		tx.free = nil
		s.discardBroken(out)
	}
	if tx.complete {
		s.finish(out)
	}
}

// finish ends the content: the message is committed, or refused and dropped.
func (s *Ingress) finish(out *Output) {
	tx := s.tx
	tx.complete = true
	if tx.lent != nil {
		s.wait = ingressWaitAppend
		return
	}
	seen := &tx.scan.Content
	if s.state == ingressBdat {
		seen = &tx.stuff.Content
		if !tx.broken {
			before := len(tx.filling)
			tx.reserve(2, 0)
			tx.filling = tx.stuff.Finish(tx.filling)
			tx.wire += int64(len(tx.filling) - before)
		}
	}
	if why := s.verdict(seen); why != nil {
		s.inOrder(out, func(out *Output) { s.refuseContent(why, out) })
		return
	}
	if len(tx.filling) > mail.LastPiece {
		s.flush(out)
		s.wait = ingressWaitAppend
		return
	}
	wire := tx.added + tx.wire
	tx.seal(mail.Envelope{
		ID:       tx.id,
		Arrived:  s.now,
		Body:     tx.body,
		SMTPUTF8: tx.utf8,
		Ret:      tx.ret,
		Client:   s.peer.Client,
		Origin:   s.origin,
		Size:     wire - seen.Stuffing,
		WireSize: wire,
		Stuffed:  seen.Stuffed,
		EightBit: seen.EightBit || tx.eightBit,
	})
	ticket := s.nextTicket()
	out.Acts = append(out.Acts, Action{Kind: ActCommit, Ticket: ticket, Data: tx.filling, Envelopes: tx.envelopes})
	s.detach(ticket)
}

// verdict says why the content that has arrived is refused, or nil. Only now, at its true end, is it
// safe to say so: what follows are commands again (CVE-2023-51764, 51765, 51766).
func (s *Ingress) verdict(seen *codec.Content) *reply {
	tx := s.tx
	switch {
	case tx.broken:
		return &tx.refusal
	case tx.header.Received > mail.MaxReceived:
		return replyLoop
	case seen.BareLF:
		return replyContentBareLF
	case seen.BareCR:
		return replyContentBareCR
	case seen.NUL:
		return replyContentNUL
	}
	return nil
}

// refuseContent replies to the whole message and drops it.
func (s *Ingress) refuseContent(why *reply, out *Output) {
	refusal := *why // it may be the transaction's
	for range s.contentReplies() {
		s.say(out, &refusal)
	}
	if !s.tx.told {
		s.tx.why = refusal.Text
	}
	s.drop(out)
	if s.isTooMany(refusal.Code) {
		s.end(out, replyTooManyErrors, ReasonErrors)
	}
}

// contentReplies is how many replies the content gets: in LMTP one for each recipient
// that was accepted, be it ended by a dot or by BDAT LAST (RFC 2033 4.2, 4.3).
func (s *Ingress) contentReplies() int {
	if s.cfg.Mode == IngressLMTP && (s.state == ingressData || s.chunk.last) {
		return len(s.tx.recipients)
	}
	return 1
}

// appendReceived appends the trace field (RFC 5321 4.4).
func (s *Ingress) appendReceived(dst []byte) []byte {
	tx := s.tx
	dst = append(dst, "Received: from "...)
	dst = append(dst, s.name...)
	if s.peer.Client != "" {
		dst = append(dst, " (["...)
		if strings.IndexByte(s.peer.Client, ':') >= 0 {
			dst = append(dst, "IPv6:"...)
		}
		dst = append(dst, s.peer.Client...)
		dst = append(dst, "])"...)
	}
	dst = append(dst, "\r\n\tby "...)
	dst = append(dst, s.cfg.Hostname...)
	dst = append(dst, " with "...)
	dst = append(dst, s.protocol()...)
	dst = append(dst, " id "...)
	dst = tx.id.Append(dst)
	if len(tx.recipients) == 1 { // RFC 5321 7.6: more would tell the recipients of each other
		dst = append(dst, "\r\n\tfor <"...)
		dst = append(dst, tx.text[tx.recipients[0].address.from:tx.recipients[0].address.to]...)
		dst = append(dst, '>')
	}
	dst = append(dst, ";\r\n\t"...)
	dst = time.Unix(0, s.now).UTC().AppendFormat(dst, "Mon, 02 Jan 2006 15:04:05 -0700") // RFC 5322 3.3
	return append(dst, "\r\n"...)
}

// protocol is the Received field's "with" (RFC 3848, RFC 6531 4.3). The names with S say TLS; HELO has none.
func (s *Ingress) protocol() string {
	i := 0
	if s.secure {
		i = 1
	}
	switch {
	case s.hello == codec.VerbLHLO && s.tx.utf8:
		return [2]string{"UTF8LMTP", "UTF8LMTPS"}[i]
	case s.hello == codec.VerbLHLO:
		return [2]string{"LMTP", "LMTPS"}[i]
	case s.tx.utf8:
		return [2]string{"UTF8SMTP", "UTF8SMTPS"}[i]
	case s.hello == codec.VerbHELO:
		return "SMTP"
	}
	return [2]string{"ESMTP", "ESMTPS"}[i]
}
