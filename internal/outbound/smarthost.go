package outbound

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"strings"
	"time"

	"github.com/emersion/go-sasl"
	"github.com/emersion/go-smtp"

	"odmr/internal/mail"
	"odmr/internal/trust"
)

// TLSMode says how a connection to the smarthost is protected.
type TLSMode string

const (
	TLSNone          TLSMode = "none"          // clear text
	TLSOpportunistic TLSMode = "opportunistic" // STARTTLS where it is offered, whoever's certificate it is: against listeners only
	TLSRequired      TLSMode = "required"      // STARTTLS, with a certificate that is good for the smarthost's name
	TLSImplicit      TLSMode = "implicit"      // TLS from the first octet (RFC 8314), likewise
)

// Verified says whether the smarthost has proved who it is.
func (m TLSMode) Verified() bool { return m == TLSRequired || m == TLSImplicit }

// Smarthost is the server that all reports go to.
type Smarthost struct {
	Addr     string // host:port
	Hostname string // of this server, in EHLO
	TLS      TLSMode
	Roots    func() (*x509.CertPool, error) // whose certificates are good; nil: those of the system
	User     string                         // empty: no login
	Password func() (string, error)
	// Timeout bounds the connection and each reply; zero means the time-outs of RFC 5321 4.5.3.2.
	Timeout time.Duration
	// Dial opens a connection, as net.Dialer.DialContext does; nil: that.
	Dial func(ctx context.Context, network, addr string) (net.Conn, error)
}

// errNoMechanism says that the smarthost lets nobody log in as we could.
var errNoMechanism = errors.New("the smarthost offers neither AUTH PLAIN nor LOGIN")

// connection is a session with the smarthost, ready for messages.
type connection struct {
	client *smtp.Client
	stop   func() bool // it is not to be cut any more when the server stops
	utf8   bool        // the smarthost offers SMTPUTF8: asked later, go-smtp may have to say EHLO first, and takes a lost line for a no
	proven bool        // the smarthost has taken a report lately: what it refuses is not this server
}

// stopGrace is how long a message may take that is on its way when the server stops.
const stopGrace = 5 * time.Second

// quit ends the session in order; nothing depends on it. A nil connection has none.
func (c *connection) quit() {
	if c == nil {
		return
	}
	if c.client.Quit() != nil {
		_ = c.client.Close() // it is gone already
	}
	c.stop()
}

// drop ends a session whose line was lost.
func (c *connection) drop() {
	_ = c.client.Close()
	c.stop()
}

// connect opens a session.
func (h *Smarthost) connect(ctx context.Context) (*connection, error) {
	host, _, err := net.SplitHostPort(h.Addr)
	if err != nil {
		return nil, err
	}
	dial := h.Dial
	if dial == nil {
		dial = (&net.Dialer{Timeout: h.timeout(mail.TimeoutGreeting)}).DialContext
	}
	conn, err := dial(ctx, "tcp", h.Addr)
	if err != nil {
		return nil, err
	}
	stop := context.AfterFunc(ctx, func() { time.AfterFunc(stopGrace, func() { _ = conn.Close() }) })
	client, err := h.greet(conn, host)
	if err == nil {
		err = h.login(client)
	}
	if err != nil {
		stop()
		return nil, errors.Join(err, ignoreClosed(conn.Close()))
	}
	utf8, _ := client.Extension("SMTPUTF8")
	return &connection{client: client, stop: stop, utf8: utf8}, nil
}

func ignoreClosed(err error) error {
	if errors.Is(err, net.ErrClosed) {
		return nil
	}
	return err
}

func (h *Smarthost) timeout(usual time.Duration) time.Duration {
	if h.Timeout > 0 {
		return h.Timeout
	}
	return usual
}

// greet says EHLO and begins TLS as it is asked for.
func (h *Smarthost) greet(conn net.Conn, host string) (*smtp.Client, error) {
	cfg := &tls.Config{ServerName: host, MinVersion: tls.VersionTLS12}
	if h.Roots != nil {
		var err error
		if cfg.RootCAs, err = h.Roots(); err != nil {
			return nil, err
		}
	}
	if h.TLS == TLSOpportunistic {
		cfg.InsecureSkipVerify = true // it is as good as clear text against who can alter the connection, and no worse (RFC 7435)
	}
	if h.TLS == TLSImplicit {
		conn = tls.Client(conn, cfg)
	}
	client := h.client(conn)
	if err := client.Hello(h.Hostname); err != nil {
		return nil, err
	}
	if h.TLS == TLSNone || h.TLS == TLSImplicit {
		return client, nil
	}
	if offered, _ := client.Extension("STARTTLS"); !offered {
		if h.TLS == TLSRequired {
			return nil, errors.New("the smarthost does not offer STARTTLS")
		}
		return client, nil
	}
	return h.startTLS(conn, cfg)
}

// startTLS begins TLS. go-smtp does so on a connection that has not been greeted yet, and says EHLO of its own before: so the
// greeting that was read is given to it once more.
func (h *Smarthost) startTLS(conn net.Conn, cfg *tls.Config) (*smtp.Client, error) {
	client, err := smtp.NewClientStartTLS(&greeted{Conn: conn, again: []byte("220 again\r\n")}, cfg)
	if err != nil {
		return nil, err
	}
	h.limit(client)
	return client, client.Hello(h.Hostname)
}

// greeted is a connection whose greeting is read once more.
type greeted struct {
	net.Conn
	again []byte
}

func (g *greeted) Read(b []byte) (int, error) {
	if len(g.again) == 0 {
		return g.Conn.Read(b)
	}
	n := copy(b, g.again)
	g.again = g.again[n:]
	return n, nil
}

func (h *Smarthost) client(conn net.Conn) *smtp.Client {
	client := smtp.NewClient(conn)
	h.limit(client)
	return client
}

func (h *Smarthost) limit(client *smtp.Client) {
	client.CommandTimeout, client.SubmissionTimeout = h.timeout(mail.TimeoutEnvelope), h.timeout(mail.TimeoutDataDone)
}

// login logs in, if there is a user.
func (h *Smarthost) login(client *smtp.Client) error {
	if h.User == "" {
		return nil
	}
	if !h.TLS.Verified() && !h.local() {
		return errors.New("the password would go to a server that has not proved who it is")
	}
	password, err := h.Password()
	if err != nil {
		return err
	}
	switch {
	case client.SupportsAuth(sasl.Plain):
		err = client.Auth(sasl.NewPlainClient("", h.User, password))
	case client.SupportsAuth(sasl.Login):
		err = client.Auth(sasl.NewLoginClient(h.User, password))
	default:
		err = errNoMechanism
	}
	var reply *smtp.SMTPError
	if errors.As(err, &reply) && reply.Code >= 500 {
		return fmt.Errorf("%w: login: %w", errDenied, err)
	}
	if err != nil {
		return fmt.Errorf("login at the smarthost: %w", err)
	}
	return nil
}

// local says whether the smarthost is this machine.
func (h *Smarthost) local() bool {
	host, _, err := net.SplitHostPort(h.Addr)
	return err == nil && trust.Local(host)
}

// handed is what became of a message.
type handed struct {
	outcome mail.Outcome
	inDoubt bool
	// failure says why the connection is of no more use, or no other message either; the outcome is Deferred then.
	failure error
	begun   bool // it concerns this message, or this recipient, or may: the line was lost within it
}

// hand hands a message over to one recipient.
func (c *connection) hand(env *mail.Envelope, to *mail.Recipient, content []byte) handed {
	options := &smtp.MailOptions{Size: env.Size, UTF8: env.SMTPUTF8}
	if env.SMTPUTF8 && !c.utf8 { // RFC 6531 3.5
		return handed{outcome: mail.Outcome{Status: mail.OutcomeFailed, Reply: "550 5.6.7 SMTPUTF8 is required and the smarthost does not offer it"}}
	}
	if err := c.client.Mail("", options); err != nil {
		return c.refused(err, stageMail)
	}
	rcpt := &smtp.RcptOptions{}
	if to.Notify == mail.NotifyNever {
		rcpt.Notify = []smtp.DSNNotify{smtp.DSNNotifyNever}
	}
	if err := c.client.Rcpt(to.Address, rcpt); err != nil {
		return c.refused(err, stageRcpt)
	}
	w, err := c.client.Data()
	if err != nil {
		return c.refused(err, stageData)
	}
	if _, err := w.Write(content); err != nil {
		return handed{outcome: lost, failure: err, begun: true}
	}
	response, err := w.CloseWithResponse()
	if err != nil {
		h := c.refused(err, stageData)
		h.inDoubt = h.failure != nil && !errors.Is(h.failure, errDenied)
		return h
	}
	return handed{outcome: mail.Outcome{Status: mail.OutcomeDelivered, Reply: clean("250 " + response.StatusText)}}
}

// stage is how far a message has come when it is refused.
type stage uint8

const (
	stageMail stage = iota
	stageRcpt
	stageData
)

var lost = mail.Outcome{Status: mail.OutcomeDeferred, Reply: "451 4.4.2 the connection was lost"}

// errDenied says that the smarthost refuses this server, and not a message.
var errDenied = errors.New("the smarthost refuses this server")

// refused turns an error of go-smtp into what became of a message, and makes the session ready for the next one.
func (c *connection) refused(err error, at stage) handed {
	var reply *smtp.SMTPError
	if !errors.As(err, &reply) {
		return handed{outcome: lost, failure: err, begun: true}
	}
	text := fmt.Sprintf("%d %s", reply.Code, reply.Message)
	if e := reply.EnhancedCode; e != smtp.NoEnhancedCode && e != smtp.EnhancedCodeNotSet {
		text = fmt.Sprintf("%d %d.%d.%d %s", reply.Code, e[0], e[1], e[2], reply.Message)
	}
	h := handed{outcome: mail.Outcome{Status: mail.OutcomeDeferred, Reply: clean(text)}, begun: at != stageMail}
	switch {
	case reply.Code == 421: // RFC 5321 3.8
		h.failure = err
	case denied(reply, at):
		h.failure, h.begun = fmt.Errorf("%w: %s", errDenied, h.outcome.Reply), false
	case reply.Code < 500 && at == stageMail:
		h.failure = fmt.Errorf("the smarthost takes no mail now: %s", h.outcome.Reply)
	case reply.Code >= 500 && !(at == stageRcpt && (saysRelay(reply) || deniesRelay(reply) && !c.proven)):
		h.outcome.Status = mail.OutcomeFailed
		fallthrough
	default:
		h.failure = c.client.Reset()
	}
	return h
}

// denied says whether a reply is about this server and not about the message: it asks for a login or for TLS
// (RFC 4954 6, RFC 3207 4), or MAIL, of which the only thing that a report is its size, is refused.
func denied(reply *smtp.SMTPError, at stage) bool {
	switch reply.Code {
	case 530, 534, 535, 538:
		return true
	case 552: // RFC 1870 6.1
		return false
	}
	return reply.Code >= 500 && at == stageMail
}

// deniesRelay says whether a reply to RCPT may be about this server: "relay access denied", "client host rejected" are
// 5.7.1 there, like what is said of a single recipient, or come with no enhanced code. Then it depends on whether the smarthost has lately taken another.
func deniesRelay(reply *smtp.SMTPError) bool {
	return reply.EnhancedCode[1] == 7 || reply.EnhancedCode == smtp.NoEnhancedCode || reply.EnhancedCode == smtp.EnhancedCodeNotSet
}

// saysRelay says whether a reply to RCPT is about this server in so many words, as Postfix, Exim and Sendmail have them: that
// the smarthost takes mail for its own domains proves nothing then.
func saysRelay(reply *smtp.SMTPError) bool {
	return strings.Contains(strings.ToLower(reply.Message), "relay")
}

// clean makes a reply one printable line of at most mail.MaxReplyKept octets.
func clean(text string) string {
	text = strings.Map(func(r rune) rune {
		if r == '\n' {
			return ' '
		}
		if r < ' ' || r > '~' {
			return '?'
		}
		return r
	}, text)
	return text[:min(len(text), mail.MaxReplyKept)]
}
