package session

// Secured says that the connection is under TLS from its beginning. It is called before Start.
func (p *Provider) Secured() { p.secure = true }

// mayStartTLS reports whether STARTTLS would be accepted now.
func (p *Provider) mayStartTLS() bool {
	return p.cfg.StartTLS && !p.secure && p.state == providerLogin
}

// startTLS takes the STARTTLS command (RFC 3207 4). What comes of it follows when it is known
// whether it was the last octet that has arrived.
func (p *Provider) startTLS(arg []byte, out *Output) {
	switch {
	case len(arg) > 0:
		p.refuse(replyNoArgument, out)
	case p.secure:
		p.refuse(replyTLSAlready, out)
	default:
		p.state = providerHandshake
	}
}

// beginTLS answers STARTTLS if that was the last command. alone says that nothing has arrived behind it:
// octets in clear that would be taken for ones under TLS are somebody else's (CVE-2011-0411), so with
// them the session ends.
func (p *Provider) beginTLS(alone bool, out *Output) {
	switch {
	case p.state != providerHandshake:
	case !alone:
		p.end(replyEarlyTLS, "data behind STARTTLS", out)
	default:
		p.say(replyReadyForTLS, out)
		out.Acts = append(out.Acts, Action{Kind: ActStartTLS, At: len(out.Reply)})
	}
}

// tlsBegan forgets what was said in clear (RFC 3207 4.2). Errors still count: TLS must not be a way to
// try without end; nor does the time for the login begin anew.
func (p *Provider) tlsBegan() {
	if p.state != providerHandshake {
		return
	}
	p.state, p.secure, p.peer = providerLogin, true, ""
}
