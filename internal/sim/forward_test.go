package sim

import (
	"fmt"

	"odmr/codec"
	"odmr/internal/mail"
)

// newOrigin is whom an MX has a letter from, as far as it knows.
func (w *world) newOrigin(n int) *mail.Origin {
	o := &mail.Origin{Addr: fmt.Sprintf("198.51.100.%d", n%250+1)}
	if !w.chance(3) {
		o.Name = fmt.Sprintf("client%d.example", n)
	}
	if !w.chance(3) {
		o.Helo = fmt.Sprintf("helo+%d=x", n)
	}
	if w.chance(3) {
		o.Port, o.Proto = fmt.Sprint(1024+n), "ESMTP"
	}
	return o
}

// originValues are o's values by codec.XAttr; of nobody they are empty.
func originValues(o *mail.Origin) [codec.NumXAttrs]string {
	if o == nil {
		return [codec.NumXAttrs]string{}
	}
	return [...]string{codec.XName: o.Name, codec.XAddr: o.Addr, codec.XPort: o.Port, codec.XProto: o.Proto,
		codec.XHelo: o.Helo, codec.XIdent: o.Ident, codec.XSource: o.Source}
}

// forwardCommand says what an MX knows, and nothing of what it does not.
func forwardCommand(o *mail.Origin) []byte {
	values := originValues(o)
	var given codec.XAttrs
	for a, v := range values {
		if v != "" {
			given |= 1 << a
		}
	}
	b, _ := codec.AppendXForward(nil, given, &values)
	return b
}

// xforward takes whom the next message comes from. A server forgets it with the end of a transaction, or does not:
// XFORWARD's own text leaves that open.
func (s *server) xforward(k *call, arg string) {
	if s.tx != nil && !k.manner.liar {
		k.w.fail(RuleProtocol, "%v: XFORWARD within a transaction", s.visit)
	}
	x, _, err := codec.ParseXForward(nil, []byte(arg))
	if (err != nil || x.Given&^k.manner.xforward != 0) && !k.manner.liar {
		k.w.fail(RuleProtocol, "%v: XFORWARD %q, offered was %b: %v", s.visit, arg, k.manner.xforward, err)
	}
	if k.manner.unbelieving {
		s.say(k, 550, "5.7.0 not from you")
		return
	}
	for a := range s.origin {
		if x.Given.Has(codec.XAttr(a)) {
			s.origin[a] = string(x.Values[a])
		}
	}
	s.say(k, 250, "2.0.0 ok")
}

// checkOrigin compares what the server was told about the message at hand with what the MX said.
func (s *server) checkOrigin(k *call, l *letter) {
	want := originValues(l.origin)
	for a := range want {
		if !k.manner.xforward.Has(codec.XAttr(a)) || k.manner.unbelieving {
			want[a] = ""
		}
	}
	if s.origin != want && !k.manner.liar {
		k.w.fail(RuleOrigin, "%v: %v is said to come from %q, not %q", s.visit, l, s.origin, want)
	}
	if l.origin != nil && k.manner.xforward != 0 && !k.manner.unbelieving {
		k.w.meet("a client said by XFORWARD")
	}
}

// transactionOver forgets what was said for it, with a server that does.
func (s *server) transactionOver(k *call) {
	s.tx = nil
	if !k.manner.remembers {
		s.origin = [codec.NumXAttrs]string{}
	}
}
