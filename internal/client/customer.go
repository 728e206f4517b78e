package client

import (
	"context"
	"crypto/hmac"
	"crypto/md5"
	"crypto/tls"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"strings"
	"time"
)

// Options say how a Customer behaves. The zero value is a plain, well-behaved customer
// that offers no extension.
type Options struct {
	// Name is what the customer calls itself, in EHLO and in its own greeting; empty: "localhost".
	Name string
	// Timeout is how long the provider may be silent, or not take what we write; 0: for ever.
	Timeout time.Duration
	// Security is how the connection is secured. With StartTLS, Collect does so; who calls Hello and Login
	// calls Customer.StartTLS between them.
	Security Security
	// TLS is used for that; nil: the system's CAs. Dial sets ServerName from the address if it is empty.
	TLS *tls.Config
	// Offer is what the customer offers in its EHLO reply after the turn.
	Offer Offer
	// Hook is asked at every point of the reversed session; nil: behave.
	Hook Hook
	// Transcript gets every line; nil: none.
	Transcript Transcript
}

// Offer is the list of SMTP extensions that a Customer offers after the turn.
type Offer struct {
	Pipelining  bool  // RFC 2920
	Chunking    bool  // RFC 3030
	EightBit    bool  // RFC 6152
	SMTPUTF8    bool  // RFC 6531
	DSN         bool  // RFC 3461
	Enhanced    bool  // RFC 2034
	Size        int64 // RFC 1870, octets; 0: no limit declared
	DeclareSize bool  // offer SIZE (also with no limit)
	MailMax     int   // RFC 9422 LIMITS MAILMAX; 0: no limit
	RcptMax     int   // RFC 9422 LIMITS RCPTMAX; 0: no limit
}

// FullOffer is every extension that a Customer knows, with no limits.
func FullOffer() Offer {
	return Offer{Pipelining: true, Chunking: true, EightBit: true, SMTPUTF8: true, DSN: true, Enhanced: true, DeclareSize: true}
}

// Lines are the lines of the EHLO reply below the first.
func (o Offer) Lines() []string {
	var l []string
	add := func(on bool, s string) {
		if on {
			l = append(l, s)
		}
	}
	add(o.Pipelining, "PIPELINING")
	add(o.Size > 0, fmt.Sprintf("SIZE %d", o.Size))
	add(o.DeclareSize && o.Size <= 0, "SIZE 0")
	add(o.EightBit, "8BITMIME")
	add(o.SMTPUTF8, "SMTPUTF8")
	add(o.DSN, "DSN")
	add(o.Chunking, "CHUNKING")
	add(o.Enhanced, "ENHANCEDSTATUSCODES")
	var limits []string
	if o.MailMax > 0 {
		limits = append(limits, fmt.Sprintf("MAILMAX=%d", o.MailMax))
	}
	if o.RcptMax > 0 {
		limits = append(limits, fmt.Sprintf("RCPTMAX=%d", o.RcptMax))
	}
	add(len(limits) > 0, "LIMITS "+strings.Join(limits, " "))
	return l
}

// Customer is a customer's connection to its provider.
type Customer struct {
	*wire
	opts Options
	exts map[string]string // the provider's extensions: keyword in upper case, parameters
}

// Dial connects to a provider and reads its greeting. ctx bounds the connection's whole life.
func Dial(ctx context.Context, addr string, opts Options) (*Customer, error) {
	var d net.Dialer
	conn, err := d.DialContext(ctx, "tcp", addr)
	if err != nil {
		return nil, err
	}
	opts.TLS = tlsFor(opts.TLS, addr)
	return New(ctx, conn, opts)
}

// New reads the provider's greeting on conn, which it owns from now on, also when it fails.
func New(ctx context.Context, conn net.Conn, opts Options) (*Customer, error) {
	if opts.Name == "" {
		opts.Name = "localhost"
	}
	c := &Customer{wire: newWire(ctx, conn, opts.Timeout, opts.Transcript), opts: opts}
	var err error
	if opts.Security == ImplicitTLS {
		err = c.secure(opts.TLS)
	}
	if err == nil {
		_, err = c.expect("greeting", 220)
	}
	if err != nil {
		_ = c.close()
		return nil, err
	}
	return c, nil
}

// Hello sends EHLO and keeps the provider's extensions.
func (c *Customer) Hello() error {
	r, err := c.command("EHLO "+c.opts.Name, 250)
	if err != nil {
		return err
	}
	c.exts = parseExtensions(r)
	return nil
}

// parseExtensions reads an EHLO reply: keyword in upper case to parameters.
func parseExtensions(r Reply) map[string]string {
	m := make(map[string]string, len(r.Lines))
	for _, l := range r.Lines[1:] {
		k, v, _ := strings.Cut(l, " ")
		m[strings.ToUpper(k)] = v
	}
	return m
}

// Extension returns the parameters of an extension that the provider offers.
func (c *Customer) Extension(keyword string) (params string, ok bool) {
	params, ok = c.exts[strings.ToUpper(keyword)]
	return params, ok
}

// Login authenticates with CRAM-MD5 (RFC 2195; RFC 2645 5.1.2 makes it the one mechanism
// that every provider has). A wrong name or password is an *Error with code 535.
func (c *Customer) Login(user, password string) error {
	r, err := c.command("AUTH CRAM-MD5", 334)
	if err != nil {
		return err
	}
	challenge, err := base64.StdEncoding.DecodeString(r.Lines[0])
	if err != nil {
		return fmt.Errorf("AUTH: %w: the challenge is not base64", ErrBadReply)
	}
	mac := hmac.New(md5.New, []byte(password))
	mac.Write(challenge)
	response := user + " " + hex.EncodeToString(mac.Sum(nil))
	// A transcript may end up in a ticket, and challenge and response together allow guessing at leisure.
	err = c.writeSecret(base64.StdEncoding.EncodeToString([]byte(response)), "[response to the challenge]")
	if err != nil {
		return fmt.Errorf("AUTH: %w", err)
	}
	_, err = c.expect("AUTH", 235)
	return err
}

// ATRN asks for the mail of domains, or of all domains of the account if there are none
// (RFC 2645 5.2.1). nil means that the roles are reversed: call Serve. A refusal is an
// *Error with code 450, 451, 453, 502 or 530, and the session goes on.
func (c *Customer) ATRN(domains ...string) error {
	line := "ATRN"
	if len(domains) > 0 {
		line += " " + strings.Join(domains, ",")
	}
	_, err := c.command(line, 250)
	return err
}

// Command sends any line and returns the reply, whatever its code.
func (c *Customer) Command(line string) (Reply, error) {
	r, err := c.command(line)
	var refused *Error
	if errors.As(err, &refused) {
		err = nil
	}
	return r, err
}

// Quit ends a session in which the roles were not reversed, and closes the connection.
func (c *Customer) Quit() error {
	_, err := c.command("QUIT", 221)
	if cerr := c.close(); err == nil {
		err = cerr
	}
	return err
}

// Close closes the connection without a word.
func (c *Customer) Close() error { return c.close() }

// Account is who collects, and for which domains (none: all).
type Account struct {
	User, Password string
	Domains        []string
}

// Collect is a customer's whole session: connect, authenticate, ATRN, receive until the
// provider says QUIT. Where nothing waits (453) Stats is zero and the error nil.
func Collect(ctx context.Context, addr string, a Account, opts Options, r Receiver) (Stats, error) {
	c, err := Dial(ctx, addr, opts)
	if err != nil {
		return Stats{}, err
	}
	return c.Collect(a, r)
}

// Collect does what the function of that name does, on a connection that has just been
// greeted, and closes it.
func (c *Customer) Collect(a Account, r Receiver) (Stats, error) {
	err := c.greet()
	if err == nil {
		err = c.Login(a.User, a.Password)
	}
	if err == nil {
		err = c.ATRN(a.Domains...)
	}
	if err == nil {
		defer c.close()
		return c.Serve(r)
	}
	var refused *Error
	if !errors.As(err, &refused) {
		_ = c.close()
		return Stats{}, err
	}
	quitErr := c.Quit()
	if refused.Command == "ATRN" && refused.Reply.Code == 453 {
		return Stats{}, quitErr
	}
	return Stats{}, err
}
