package session

import (
	"errors"

	"odmr/codec"
	"odmr/internal/mail"
)

// atrn takes the ATRN command (RFC 2645 5.2.1). Which domains the customer may collect is the
// directory's business, so a well-formed domain of one label is asked for like any other:
// it is 450 there, or a host name that the account is allowed to send.
func (p *Provider) atrn(arg []byte, out *Output) {
	list, err := codec.ParseATRN(arg, p.list[:0])
	if err != nil && !errors.Is(err, codec.ErrATRNOneLabel) {
		p.refuse(replySyntax(err), out)
		return
	}
	p.begin(Action{Kind: ActAcquire, Domains: distinctDomains(list)}, out)
	clear(list) // aliases of the input
	p.list = list[:0]
}

// distinctDomains returns the domains in lower case, in their order, each once.
func distinctDomains(list [][]byte) []string {
	if len(list) == 0 {
		return nil
	}
	domains := make([]string, 0, len(list))
	seen := make(map[string]struct{}, len(list))
	var buf []byte
	for _, d := range list {
		buf = codec.AppendLower(buf[:0], d)
		if _, dup := seen[string(buf)]; dup {
			continue
		}
		s := string(buf)
		seen[s] = struct{}{}
		domains = append(domains, s)
	}
	return domains
}

// acquired answers ATRN. A refusal leaves all as it was: the customer may send ATRN again, or QUIT.
func (p *Provider) acquired(now Time, r *Result, out *Output) {
	p.deadline = now + Time(p.cfg.CommandTimeout)
	switch {
	case p.early: // what was acquired goes back when the connection closes
		p.end(replyEarlyATRN, "data behind ATRN", out)
	case r.Refusal != nil:
		p.refuseATRN(r.Refusal, out)
	case r.Waiting == 0 && r.Wait > 0:
		p.state, p.deadline = providerWaiting, now+Time(r.Wait)
		p.begin(Action{Kind: ActAwait}, out)
	default:
		p.turn(out)
	}
}

// refuseATRN answers as the driver says. RFC 2645 5.2.1: 450, 451 and 453 as they are; one line, for fetchmail reads no more.
func (p *Provider) refuseATRN(r *mail.Refusal, out *Output) {
	refusal := replyRefusal(r)
	out.Reply = refusal.appendTo(out.Reply)
	if r.Code != 451 && r.Code != 453 { // our trouble, or no mail: nobody's fault
		p.countError(out)
	}
}

// waited answers an ATRN for which mail has come. What the customer could collect when it asked it may not any more.
func (p *Provider) waited(now Time, r *Result, out *Output) {
	if r.Refusal == nil {
		p.turn(out)
		return
	}
	p.state, p.deadline = providerCustomer, now+Time(p.cfg.CommandTimeout)
	out.Acts = append(out.Acts, Action{Kind: ActRelease})
	p.refuseATRN(r.Refusal, out)
}

// turn answers 250, and gives the connection to the Reversed machine.
func (p *Provider) turn(out *Output) {
	p.say(replyTurning, out)
	p.state, p.reason, p.deadline = providerTurned, "turn", Never
	out.Acts = append(out.Acts, Action{Kind: ActTurn, At: len(out.Reply)})
}

// noMail answers an ATRN that waited for mail and has no lease any more: the customer may try again.
func (p *Provider) noMail(now Time, out *Output) {
	p.state, p.waiting = providerCustomer, false
	p.deadline = now + Time(p.cfg.CommandTimeout)
	out.Acts = append(out.Acts, Action{Kind: ActRelease})
	p.say(replyNoMail, out)
}

// Yield gives up a lease for which nothing came yet. There is no other that this machine holds for longer than a call.
func (p *Provider) Yield(now Time, _ Cause, out *Output) {
	if p.state == providerWaiting {
		p.noMail(now, out)
	}
}
