package session

import (
	"strings"
	"testing"

	"odmr/codec"
)

// The bound on the replies due counts on so many commands.
func TestReversedMaxForward(t *testing.T) {
	most := 0
	for name := 1; name <= 255; name++ { // "+" takes three octets
		long := strings.Repeat("+", name)
		for _, ident := range []string{long, strings.Repeat("+", 165), strings.Repeat("+", 160)} {
			values := [codec.NumXAttrs]string{long, "2001:db8:1111:2222:3333:4444:5555:6666", "65535", strings.Repeat("+", 64), long, ident, "REMOTE"}
			_, n := codec.AppendXForward(nil, 1<<codec.NumXAttrs-1, &values)
			most = max(most, n)
		}
	}
	if most != reversedMaxForward {
		t.Errorf("%d commands, counted on %d", most, reversedMaxForward)
	}
}
