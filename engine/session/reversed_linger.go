package session

import "time"

// ReversedKeepAlive is the default of ReversedConfig.KeepAlive: under the 300 s after which Postfix hangs up on a
// silent client (smtpd_timeout; RFC 5321 4.5.3.2.7 asks for no less).
const ReversedKeepAlive = 4 * time.Minute

// ReversedMaxJunk is how many NOOP and RSET commands a session sends without a message accepted in between. Postfix
// answers the one after 100 with 421 (smtpd_junk_command_limit); some are left for refusals.
const ReversedMaxJunk = 90

// linger waits for mail with nothing in the pipe, everything settled and nothing fetched. The session keeps no more
// memory than that takes. ActAwait ends it, ReversedConfig.Linger does, and so does the customer whenever it likes.
func (r *Reversed) linger(now Time, out *Output) {
	if r.stats.Transactions != r.worked || r.lingerBy == 0 { // a call for nothing does not buy time
		r.worked = r.stats.Transactions
		r.lingerBy = now + Time(r.cfg.Linger)
	}
	r.state = reversedLinger
	r.ticket++
	r.awaited = r.ticket
	out.Acts = append(out.Acts, Action{Kind: ActAwait, Ticket: r.awaited, At: len(out.Reply)})
	r.rest()
}

// rest lets go of memory that only a running session needs.
func (r *Reversed) rest() {
	const few = 8
	if len(r.pipe.ring) > few {
		r.pipe = reversedPipe{}
	}
	if cap(r.settles.list) > few {
		r.settles = reversedSettles{}
	}
	r.fetches, r.outcomes, r.slab, r.scratch, r.lastText = nil, nil, 0, nil, ""
	r.freeMsg, r.freeTx = nil, nil
}

// arrived takes the outcome of ActAwait; false if ticket is not its. A refusal ends the session: what came is not for
// this customer any more.
func (r *Reversed) arrived(ticket uint32, res *Result) bool {
	if r.awaited == 0 || ticket != r.awaited {
		return false
	}
	r.awaited, r.nothing = 0, false
	r.wake()
	if res.Refusal != nil {
		r.wind(reversedWindingUp, "mail came that is not to be sent: "+res.Refusal.Error())
	}
	return true
}

// wake makes a session that lingers one that works: it asks for mail, or comes to its end.
func (r *Reversed) wake() {
	if r.state == reversedLinger {
		r.state = reversedMail
		r.dry, r.plenty, r.drained = false, false, false
	}
}

// lingerDeadline is when a session that lingers ends, or must show the customer that it lives.
func (r *Reversed) lingerDeadline() Time {
	return min(r.lingerBy, r.base+Time(r.cfg.KeepAlive))
}

// lingered is Tick for a session that lingers: it leaves, or says NOOP (RFC 5321 4.1.1.9), which must be the
// last of what is written until it is answered (RFC 2920 3.1).
func (r *Reversed) lingered(now Time, out *Output) {
	switch {
	case now >= r.lingerBy:
		r.wake()
		r.wind(reversedWindingUp, "no mail came in time")
	case r.junk >= ReversedMaxJunk: // rather leave in good order than be thrown out
		r.wake()
		r.wind(reversedWindingUp, "no mail came in as many NOOP as a server takes")
	default:
		r.junk++
		out.Reply = append(out.Reply, "NOOP\r\n"...)
		r.sync = true
		r.await(now, reversedAwait{kind: awaitNoop})
		return
	}
	r.pump(now, out)
}

// Dry says that the session ended in good order and left nothing to be collected.
func (r *Reversed) Dry() bool { return r.nothing && r.bye }

// Yield ends the session because another one of the customer's takes its place, or because it may not go on. Between transactions the customer is
// told by QUIT; nothing waits for its reply, for the lease goes back before. Otherwise the connection is closed: what had
// no final reply is in doubt.
func (r *Reversed) Yield(now Time, why Cause, out *Output) {
	switch {
	case r.state == reversedClosed || r.released:
		return
	case r.state == reversedQuit:
		r.release(out)
		return
	case r.state < reversedMail || r.inTransaction():
		r.close(out, why.String())
		return
	}
	r.wake()
	r.wind(reversedWindingUp, why.String())
	r.putAside(out)
	r.judge(out)
	r.release(out)
	r.pump(now, out)
}

// inTransaction reports whether a reply is due, or a command is to be written, that belongs to a message.
func (r *Reversed) inTransaction() bool {
	for i := range r.pipe.len() {
		if r.pipe.at(i).tx != nil {
			return true
		}
	}
	return r.cur != nil
}

// putAside gives up what was fetched and not begun. Where some recipients were answered that is settled; the others
// wait for the next session.
func (r *Reversed) putAside(out *Output) {
	for m := r.ready.pop(); m != nil; m = r.ready.pop() {
		if m.sealed {
			r.settle(m, out, "")
		}
	}
}

// release gives the lease back. Nothing is fetched or settled afterwards, so what the shield still keeps back is decided as if the
// line were gone: judge does not where a settlement has failed.
func (r *Reversed) release(out *Output) {
	r.abandonBack(out)
	r.released, r.awaited = true, 0
	out.Acts = append(out.Acts, Action{Kind: ActRelease, At: len(out.Reply)})
}
