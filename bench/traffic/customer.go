package traffic

import (
	"context"
	"crypto/hmac"
	"crypto/md5"
	"crypto/tls"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"net"
	"syscall"
)

// CustomerOptions say how a customer connects.
type CustomerOptions struct {
	Buffer   int         // read buffer in octets; 0: 128 KiB
	Receive  int         // SO_RCVBUF in octets; 0: the system's
	TLS      *tls.Config // nil: in clear text
	StartTLS bool        // with TLS: by STARTTLS instead of from the first octet
}

// Customer is a customer's connection.
type Customer struct {
	*wire
}

// DialCustomer connects to addr and reads the greeting.
func DialCustomer(ctx context.Context, addr string, o CustomerOptions) (*Customer, error) {
	d := net.Dialer{}
	if o.Receive > 0 { // before connecting: the window's scale is agreed upon then
		d.Control = func(_, _ string, raw syscall.RawConn) error {
			var err error
			cerr := raw.Control(func(fd uintptr) {
				err = syscall.SetsockoptInt(int(fd), syscall.SOL_SOCKET, syscall.SO_RCVBUF, o.Receive)
			})
			return errors.Join(cerr, err)
		}
	}
	conn, err := d.DialContext(ctx, "tcp", addr)
	if err != nil {
		return nil, err
	}
	if o.Buffer <= 0 {
		o.Buffer = inBuffer
	}
	if o.TLS != nil && !o.StartTLS {
		conn = tls.Client(conn, o.TLS)
	}
	c := &Customer{newWire(ctx, conn, o.Buffer)}
	if _, err = c.want("greeting", 220); err == nil && o.TLS != nil && o.StartTLS {
		err = c.startTLS(ctx, o.TLS)
	}
	if err != nil {
		c.close()
		return nil, err
	}
	return c, nil
}

// Slow makes the customer read no faster than t lets it from now on.
func (c *Customer) Slow(t *Throttle) { c.slow = t }

// startTLS goes on in TLS (RFC 3207).
func (c *Customer) startTLS(ctx context.Context, config *tls.Config) error {
	if _, err := c.ask("EHLO customer.bench.example", 250); err != nil {
		return err
	}
	if _, err := c.ask("STARTTLS", 220); err != nil {
		return err
	}
	conn := tls.Client(c.conn, config)
	if err := conn.HandshakeContext(ctx); err != nil {
		return err
	}
	c.conn = conn
	return nil
}

// Offers reports whether the server's reply to EHLO names keyword.
func (c *Customer) Offers(keyword string) (bool, error) {
	rep, err := c.ask("EHLO customer.bench.example", 250)
	if err != nil {
		return false, err
	}
	for line := range rep.All() {
		if string(line) == keyword {
			return true, nil
		}
	}
	return false, nil
}

// Login says hello and authenticates with CRAM-MD5 (RFC 2195).
func (c *Customer) Login(user, password string) error {
	if _, err := c.ask("EHLO customer.bench.example", 250); err != nil {
		return err
	}
	rep, err := c.ask("AUTH CRAM-MD5", 334)
	if err != nil {
		return err
	}
	challenge, err := base64.StdEncoding.DecodeString(string(rep.Text))
	if err != nil {
		return err
	}
	mac := hmac.New(md5.New, []byte(password))
	mac.Write(challenge)
	answer := base64.StdEncoding.EncodeToString([]byte(user + " " + hex.EncodeToString(mac.Sum(nil))))
	c.out = append(append(c.out, answer...), '\r', '\n')
	_, err = c.want("AUTH", 235)
	return err
}

// ATRN asks for all mail. waiting is false where there is none (453); true means that the roles
// have reversed: call Serve.
func (c *Customer) ATRN() (waiting bool, err error) {
	_, err = c.ask("ATRN", 250)
	var refused *Error
	if errors.As(err, &refused) && refused.Code == 453 {
		return false, nil
	}
	return err == nil, err
}

// Ping asks for a reply that costs nothing.
func (c *Customer) Ping() error {
	_, err := c.ask("NOOP", 250)
	return err
}

// Serve is the customer's part after the turn: its greeting, then a server until QUIT.
func (c *Customer) Serve(o ServeOptions) error {
	c.out = append(c.out, "220 customer.bench.example ESMTP\r\n"...)
	return c.serve(o)
}

// Quit says QUIT, where the roles were not reversed, and closes the connection.
func (c *Customer) Quit() error {
	_, err := c.ask("QUIT", 221)
	c.close()
	return err
}

// Close closes the connection without a word.
func (c *Customer) Close() { c.close() }
