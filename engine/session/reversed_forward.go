package session

import (
	"bytes"

	"odmr/codec"
)

// reversedMaxForward is how many commands all attributes of XFORWARD take at the most, where the MX made each value as
// long as its encoding may be.
const reversedMaxForward = 5

// forward says, in front of a transaction, which client the MX had m from, where the customer's server takes that
// (XFORWARD), so that its filters see it. Each transaction gets it anew: a server may forget it with the end
// of one (Postfix) or not (its README leaves that open), and nothing of an earlier message must stay. Where the MX
// told nothing, nothing is said, and the server knows as little as it did without us: our own peer, the MX, is not where
// mail comes from, and a filter that took it for that would judge wrongly (SPF).
//
// It reports whether it wrote a command that must be answered before the transaction goes on: in lock-step.
func (r *Reversed) forward(now Time, m *reversedMsg, out *Output) bool {
	if r.caps.xforward == 0 || m.env.Origin == nil && !r.forwarded {
		return false
	}
	var values [codec.NumXAttrs]string
	if o := m.env.Origin; o != nil {
		for a, v := range originValues(o) {
			values[a] = *v
		}
	}
	commands, n := codec.AppendXForward(r.scratch[:0], r.caps.xforward, &values)
	r.scratch = commands
	r.forwarded = true
	for ; m.told < n; m.told++ {
		if r.caps.pipelining {
			continue
		}
		for range m.told { // those written already
			commands = commands[bytes.IndexByte(commands, '\n')+1:]
		}
		m.told++
		out.Reply = append(out.Reply, commands[:bytes.IndexByte(commands, '\n')+1]...)
		r.await(now, reversedAwait{kind: awaitXForward})
		return true
	}
	if r.caps.pipelining {
		out.Reply = append(out.Reply, commands...)
		for range n {
			r.await(now, reversedAwait{kind: awaitXForward})
		}
	}
	m.told = 0 // for a further transaction
	return false
}
