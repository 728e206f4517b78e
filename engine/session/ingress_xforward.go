package session

import (
	"odmr/codec"
	"odmr/internal/mail"
)

// XFORWARD (Postfix, XFORWARD_README) lets a trusted peer say which client it has the next message from. It is offered
// to those that may hand in mail, taken between transactions only, in as many commands as the peer likes, and
// forgotten with the end of the transaction, RSET and EHLO. It changes nothing here but what is kept with the
// message: the Received field names the peer, as RFC 5321 4.4 asks for.

func checkXForward(s *Ingress, arg []byte) *reply {
	if !s.peer.Trusted {
		return replyUntrusted
	}
	var room [mail.MaxOriginValue]byte
	if _, _, err := codec.ParseXForward(room[:0], arg); err != nil {
		return replySyntax(err)
	}
	return nil
}

func applyXForward(s *Ingress, arg []byte, out *Output) {
	var room [mail.MaxOriginValue]byte
	x, _, _ := codec.ParseXForward(room[:0], arg)
	o := s.origin
	if o == nil {
		o = new(mail.Origin)
	}
	for a, v := range originValues(o) {
		if x.Given.Has(codec.XAttr(a)) {
			*v = string(x.Values[a])
		}
	}
	if *o == (mail.Origin{}) {
		o = nil
	}
	s.origin = o
	s.say(out, replyOK)
}

// originValues are o's values by codec.XAttr.
func originValues(o *mail.Origin) [codec.NumXAttrs]*string {
	return [...]*string{
		codec.XName: &o.Name, codec.XAddr: &o.Addr, codec.XPort: &o.Port, codec.XProto: &o.Proto,
		codec.XHelo: &o.Helo, codec.XIdent: &o.Ident, codec.XSource: &o.Source,
	}
}
