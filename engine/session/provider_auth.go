package session

import (
	"odmr/codec"
	"odmr/internal/mail"
)

// Offer sets the SASL mechanisms offered from now on, in upper case and in the order of the EHLO
// reply; none until it is called. The driver calls it before Start, and when TLS has begun, for what is
// offered depends on that. mechanisms is kept and not changed.
func (p *Provider) Offer(mechanisms []string) { p.mechanisms = mechanisms }

// mechanism returns the offered mechanism that is called name in any case, or "".
func (p *Provider) mechanism(name []byte) string {
	for _, m := range p.mechanisms {
		if codec.EqualFold([]byte(m), name) {
			return m
		}
	}
	return ""
}

// auth takes the AUTH command (RFC 4954 4).
func (p *Provider) auth(arg []byte, out *Output) {
	if !p.secure && p.cfg.TLSPolicy != TLSOptional {
		p.refuse(replyTLSFirst, out)
		return
	}
	name, initial, hasInitial, err := codec.ParseAuth(arg)
	if err != nil {
		p.refuse(replySyntax(err), out)
		return
	}
	mechanism := p.mechanism(name)
	if mechanism == "" {
		p.refuse(replyMechanism, out)
		return
	}
	if p.data, err = codec.DecodeBase64(p.data[:0], initial); err != nil {
		p.refuse(replySyntax(err), out)
		return
	}
	p.state = providerExchange
	p.begin(Action{Kind: ActAuth, Mechanism: mechanism, HasData: hasInitial, Data: p.data}, out)
}

// response takes a line of a SASL exchange.
func (p *Provider) response(line []byte, out *Output) {
	if len(line) == 1 && line[0] == '*' { // RFC 4954 4: the client cancels
		p.abortExchange(out)
		p.refuse(replyAuthCancelled, out)
		return
	}
	var err error
	if p.data, err = codec.DecodeBase64(p.data[:0], line); err != nil {
		p.abortExchange(out)
		p.refuse(replySyntax(err), out)
		return
	}
	p.begin(Action{Kind: ActAuth, HasData: true, Data: p.data}, out)
}

// abortExchange gives up a running exchange, if there is one.
func (p *Provider) abortExchange(out *Output) {
	if p.state == providerExchange {
		p.state = providerLogin
		out.Acts = append(out.Acts, Action{Kind: ActAuthAbort})
	}
}

// authenticated takes what the exchange says to the last response.
func (p *Provider) authenticated(now Time, r *Result, out *Output) {
	clear(p.data) // it may hold a password
	switch {
	case p.early: // RFC 2645 5.1.2: before the reply nobody is authenticated
		if r.Refusal == nil && !r.AuthDone {
			p.abortExchange(out)
		}
		p.end(replyEarlyAuth, "data behind AUTH", out)
	case r.Refusal != nil:
		p.state = providerLogin
		p.authRefused(r.Refusal, out)
	case r.AuthDone:
		p.state, p.account, p.data = providerCustomer, r.Account, nil
		p.deadline = now + Time(p.cfg.CommandTimeout)
		p.say(replyAuthenticated, out)
	default:
		out.Reply = append(out.Reply, "334 "...)
		out.Reply = codec.AppendBase64(out.Reply, r.Challenge)
		out.Reply = append(out.Reply, '\r', '\n')
	}
}

// authRefused answers a failed exchange. A directory that is down is not the customer's fault; all
// else counts as an error, and a wrong secret as a failed login on top.
func (p *Provider) authRefused(r *mail.Refusal, out *Output) {
	if r.Code == 421 { // the driver wants no more of this peer
		refusal := replyRefusal(r)
		p.end(&refusal, "login not allowed: "+r.Text, out)
		return
	}
	if r.Code == 535 {
		if p.authErrors++; p.authErrors >= p.cfg.MaxAuthErrors {
			p.end(replyAuthFailures, ReasonLogins, out)
			return
		}
	}
	refusal := replyRefusal(r)
	out.Reply = refusal.appendTo(out.Reply)
	if !r.Temporary() {
		p.countError(out)
	}
}
