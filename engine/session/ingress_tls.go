package session

// Secured says that the connection is under TLS from its beginning. It is called before Start.
func (s *Ingress) Secured() { s.secure = true }

func checkStartTLS(s *Ingress, arg []byte) *reply {
	switch {
	case !s.cfg.StartTLS:
		return replyNotOffered
	case s.secure:
		return replyTLSAlready
	case len(arg) > 0:
		return replyNoArgument
	}
	return nil
}

// applyStartTLS takes the STARTTLS command (RFC 3207 4). What comes of it follows when it is known
// whether it was the last octet that has arrived.
func applyStartTLS(s *Ingress, _ []byte, _ *Output) { s.wait = ingressWaitTLS }

// beginTLS answers STARTTLS if that was the last command. alone says that nothing has arrived behind it:
// octets in clear that would be taken for ones under TLS are somebody else's (CVE-2011-0411), so with
// them the session ends.
func (s *Ingress) beginTLS(alone bool, out *Output) {
	switch {
	case s.wait != ingressWaitTLS || s.closed:
	case !alone:
		s.end(out, replyEarlyTLS, "data behind STARTTLS")
	default:
		out.Reply = replyReadyForTLS.appendTo(out.Reply)
		out.Acts = append(out.Acts, Action{Kind: ActStartTLS, At: len(out.Reply)})
	}
}

// tlsBegan forgets what was said in clear (RFC 3207 4.2): the client's name and an open transaction.
// Errors still count: TLS must not be a way to try without end.
func (s *Ingress) tlsBegan(now Time, out *Output) {
	if s.closed || s.wait != ingressWaitTLS {
		return
	}
	s.now = now
	s.drop(out)
	s.wait, s.state, s.secure, s.early = ingressNoWait, ingressHello, true, false
	s.name, s.hello = s.name[:0], 0
	s.expect(s.cfg.CommandTimeout)
	s.rest(out)
}
