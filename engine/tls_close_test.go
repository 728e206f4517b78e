package engine

import (
	"crypto/tls"
	"io"
	"net"
	"testing"
	"time"

	"odmr/internal/certtest"
)

// Both sides say close_notify: nobody has to wonder whether something was cut off.
func TestTLSCloseNotify(t *testing.T) {
	ca := certtest.NewAuthority(t)
	s := newServer(t, withTLS(ca))
	p := s.dialTLS(trusting(ca))
	p.expect("220")
	p.ask("QUIT", "221")
	if _, err := p.r.ReadByte(); err != io.EOF {
		t.Errorf("after QUIT: %v", err)
	}
	p = s.dialTLS(trusting(ca))
	p.expect("220")
	if err := p.Conn.(*tls.Conn).CloseWrite(); err != nil {
		t.Fatal(err)
	}
	if _, err := p.r.ReadByte(); err != io.EOF {
		t.Errorf("after our close_notify: %v", err)
	}
	// What came before it is answered.
	p = s.dialTLS(trusting(ca))
	p.send("NOOP", "QUIT")
	if err := p.Conn.(*tls.Conn).CloseWrite(); err != nil {
		t.Fatal(err)
	}
	p.expect("220")
	p.expect("250")
	p.expect("221")
	if _, err := p.r.ReadByte(); err != io.EOF {
		t.Errorf("after QUIT and our close_notify: %v", err)
	}
}

// cork is a connection that keeps what is written to it, until it is pulled.
type cork struct {
	*net.TCPConn
	held []byte
	in   bool
}

func (c *cork) Write(b []byte) (int, error) {
	if c.in {
		c.held = append(c.held, b...)
		return len(b), nil
	}
	return c.TCPConn.Write(b)
}

// A client that says close_notify behind the final dot and QUIT, all at once, and perhaps closes its half, hears the
// replies: else it would hand the message in again and again.
func TestTLSCloseNotifyDuringCommit(t *testing.T) {
	ca := certtest.NewAuthority(t)
	for _, fin := range []bool{false, true} {
		s := newServer(t, withAccount("a", "a.example"), withTLS(ca))
		mx := s.feed(SMTP)
		line := &cork{TCPConn: socket(mx.Conn)}
		mx.ask("STARTTLS", "220")
		mx = handshakeOver(t, line, trusting(ca))
		mx.ask("EHLO mx.isp.example", "250")
		s.gate.commits.close()
		mx.ask("MAIL FROM:<>", "250")
		mx.ask("RCPT TO:<u@a.example>", "250")
		mx.ask("DATA", "354")
		line.in = true
		mx.data("x\r\n")
		mx.send("QUIT")
		if err := mx.Conn.(*tls.Conn).CloseWrite(); err != nil {
			t.Fatal(err)
		}
		line.in = false
		_ = line.SetWriteDeadline(time.Time{}) // crypto/tls lets nothing be written behind it
		if _, err := line.Write(line.held); err != nil {
			t.Fatal(err)
		}
		if fin {
			if err := line.CloseWrite(); err != nil {
				t.Fatal(err)
			}
		}
		eventually(t, "the commit is under way", func() bool { return s.gate.commits.waiters() == 1 })
		s.gate.commits.open()
		mx.expect("250")
		mx.expect("221")
		if _, err := mx.r.ReadByte(); err != io.EOF {
			t.Errorf("after QUIT: %v", err)
		}
	}
}
