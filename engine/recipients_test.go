package engine

import (
	"testing"
)

// What a customer's server does not know is refused while it is away, exactly and for everybody, and taken again once
// its server has taken it.
func TestLearnedRecipients(t *testing.T) {
	learn := func(_ *server, c *Config) { c.Recipients.Learn = true }
	for _, shield := range []setting{withShield(0, 0), withShield(3, 5)} {
		s := newServer(t, withAccount("a", "a.example"), withAccount("b", "b.example"), learn, shield)
		mx := s.feed(SMTP)
		for range 3 {
			mx.deliver("s@x.example", "u@a.example", "x\r\n")
		}
		mx.deliver("s@x.example", "gone@a.example", "x\r\n")
		mx.deliver("", "nobody@a.example", "x\r\n")
		(&customer{peer: s.login("a"), gone: "gone@a.example"}).collect("ATRN")
		mx.deliver("", "nobody@a.example", "x\r\n")
		(&customer{peer: s.login("a"), gone: "nobody@a.example"}).collect("ATRN") // refused of a bounce only
		eventually(t, "the leases are given back", func() bool { return s.seen.states()[StateReversed] == 0 && s.learned.Sessions("a.example") == 0 })
		mx.ask("MAIL FROM:<t@y.example>", "250")
		mx.ask("RCPT TO:<gone@A.example>", "550 5.1.1")
		mx.ask("RCPT TO:<Gone@a.example>", "250")
		mx.ask("RCPT TO:<gone@a.example>", "550 5.1.1") // each is asked for
		mx.ask("RCPT TO:<gone@b.example>", "250")
		mx.ask("RCPT TO:<nobody@a.example>", "250")
		mx.ask("DATA", "354")
		mx.data("x\r\n")
		mx.expect("250")
		// Its customer is there, and takes it now.
		p := s.login("a")
		p.ask("ATRN", "250")
		p.send("220 here again")
		p.line() // EHLO
		mx.deliver("t@y.example", "gone@a.example", "y\r\n")
		p.Close()
		eventually(t, "the lease is given back", func() bool { return s.learned.Sessions("a.example") == 0 })
		mx.ask("MAIL FROM:<t@y.example>", "250")
		mx.ask("RCPT TO:<gone@a.example>", "550 5.1.1")
		mx.ask("RSET", "250")
		(&customer{peer: s.login("a")}).collect("ATRN")
		eventually(t, "it is forgotten", func() bool { return !s.learned.Any("a.example") && s.learned.Sessions("a.example") == 0 })
		mx.deliver("t@y.example", "gone@a.example", "z\r\n")
	}
}

// What one customer's server does not know says nothing about the next customer to whom the domain belongs.
func TestLearnedRecipientsOfADomainThatMoved(t *testing.T) {
	s := newServer(t, withAccount("a", "a.example"), func(_ *server, c *Config) { c.Recipients.Learn = true }, withShield(3, 5))
	mx := s.feed(SMTP)
	mx.deliver("s@x.example", "u@a.example", "x\r\n")
	mx.deliver("s@x.example", "info@a.example", "x\r\n")
	(&customer{peer: s.login("a"), gone: "info@a.example"}).collect("ATRN")
	eventually(t, "the lease is given back", func() bool { return s.learned.Sessions("a.example") == 0 })
	mx.ask("MAIL FROM:<t@y.example>", "250")
	mx.ask("RCPT TO:<info@a.example>", "550 5.1.1")
	mx.ask("RSET", "250")
	s.dir.take("a", "b")
	mx.deliver("t@y.example", "info@a.example", "for the new one\r\n")
}

// A server that refuses everything teaches nothing.
func TestBrokenServerTeachesNothing(t *testing.T) {
	for _, shield := range []setting{withShield(0, 0), withShield(1, 5)} {
		s := newServer(t, withAccount("a", "a.example"), func(_ *server, c *Config) { c.Recipients.Learn = true }, shield)
		mx := s.feed(SMTP)
		for range 3 {
			mx.deliver("s@x.example", "u@a.example", "x\r\n")
		}
		(&customer{peer: s.login("a"), gone: "u@a.example"}).collect("ATRN")
		eventually(t, "the lease is given back", func() bool { return s.seen.states()[StateReversed] == 0 })
		if s.learned.Any("a.example") {
			t.Error("something was learned")
		}
	}
}

// Where a customer has given a list, only its recipients are taken, each of them, and postmaster.
func TestListedRecipients(t *testing.T) {
	s := newServer(t, withAccount("a", "a.example"), func(s *server, c *Config) {
		s.dir.listed = []string{"a.example anna", "a.example tim"}
		c.Recipients = Recipients{Learn: true, Delimiters: "+"}
	})
	mx := s.feed(LMTP)
	mx.ask("MAIL FROM:<s@x.example>", "250")
	for _, c := range [][2]string{{"tim", "250"}, {"eve", "550 5.1.1"}, {"Anna+x", "250"}, {"SRS0=a=b=c=d", "550 5.1.1"}, {"postmaster", "250"}, {"eve", "550 5.1.1"}} {
		mx.ask("RCPT TO:<"+c[0]+"@a.example>", c[1])
	}
	mx.ask("RSET", "250")
	mx.ask("MAIL FROM:<>", "250")
	mx.ask("RCPT TO:<SRS0=a=b=c=d@a.example>", "250")
}
