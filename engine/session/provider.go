package session

import (
	"errors"

	"odmr/codec"
	"odmr/internal/mail"
)

// Provider is the server side of on-demand mail relay before the turn (RFC 2645): it greets,
// authenticates the customer (RFC 4954) and answers ATRN. Its last action is ActTurn or ActClose.
//
// Octets that arrive behind AUTH, or behind a line of its exchange, or behind ATRN before the
// reply was given, end the session with 554, whatever the reply would have been. So no ATRN slips
// in behind AUTH (RFC 2645 5.1.2: authenticated only once the success reply has been sent), and
// no command is taken for the customer's 220 after the turn. Input while an action is in flight
// consumes nothing, but notices that something has come: the driver should call it.
type Provider struct {
	cfg        *ProviderConfig
	mechanisms []string // offered; see Offer
	state      providerState

	ticket  uint32 // of the action in flight
	waiting bool   // an action is in flight
	early   bool   // octets arrived behind a line whose reply waits for that action
	skip    bool   // within a line that was too long
	secure  bool   // under TLS

	errors, authErrors int
	commands           int // before the login

	deadline Time
	account  string
	peer     string
	reason   string
	data     []byte   // decoded SASL response; lent to the driver while ActAuth is in flight
	list     [][]byte // ParseATRN's, kept for its memory
}

// providerState is where a Provider stands. Legal transitions: login -> exchange -> login or
// customer; login -> handshake -> login; customer -> turned; customer -> waiting -> customer or turned; any -> closed.
type providerState uint8

const (
	providerLogin     providerState = 1 << iota // not authenticated
	providerExchange                            // within a SASL exchange: lines are responses, not commands
	providerHandshake                           // ActStartTLS was given; waiting for Done with ticket 0
	providerCustomer                            // authenticated
	providerWaiting                             // ATRN is answered when mail comes, or nothing came in time
	providerTurned                              // ActTurn was given; the Reversed machine has the connection
	providerClosed                              // ActClose was given
)

// Lines of a SASL exchange may be longer than commands, and replies to ones that are too
// long must not depend on how they arrive: so all are read up to the longest and then judged.
const providerMaxLine = mail.MaxAuthLine

// providerBurst is how many octets of reply one Input may make: then the customer has to read
// before more of what it pipelined is looked at.
const providerBurst = 4096

var _ Session = (*Provider)(nil)

// NewProvider returns the machine of one session. cfg is shared and kept; it must have been
// through Defaults.
func NewProvider(cfg *ProviderConfig) *Provider {
	return &Provider{cfg: cfg, state: providerLogin, deadline: Never}
}

// Account is who has authenticated; empty before.
func (p *Provider) Account() string { return p.account }

// PeerName is the name given in EHLO or HELO, and worth no more than that; empty before.
func (p *Provider) PeerName() string { return p.peer }

// EndReason says why the session ended; empty while it runs, "turn" after ActTurn.
func (p *Provider) EndReason() string { return p.reason }

// State names the state for logs and metrics.
func (p *Provider) State() string {
	switch p.state {
	case providerLogin, providerExchange, providerHandshake:
		return "login"
	case providerCustomer:
		return "customer"
	case providerWaiting:
		return "waiting"
	case providerTurned:
		return "turned"
	}
	return "closed"
}

// Start greets.
func (p *Provider) Start(now Time, out *Output) {
	p.deadline = now + Time(p.cfg.LoginTimeout)
	out.Reply = appendGreeting(out.Reply, p.cfg.Hostname, "ODMR")
}

// Input takes command lines and the lines of SASL exchanges.
func (p *Provider) Input(now Time, b []byte, out *Output) int {
	n := 0
	for n < len(b) && p.state&(providerTurned|providerClosed) == 0 && len(out.Reply) < providerBurst {
		if p.waiting {
			p.early = true
			if p.state == providerWaiting { // that may take long: at once
				p.end(replyEarlyATRN, "data behind ATRN", out)
			}
			break
		}
		if p.state == providerHandshake { // a driver that lets octets in clear come here makes them harmless
			p.end(replyEarlyTLS, "data behind STARTTLS", out)
			break
		}
		k := p.line(now, b[n:], out)
		if k == 0 {
			break
		}
		n += k
		p.beginTLS(n == len(b), out)
	}
	if p.state == providerClosed {
		return len(b)
	}
	return n
}

// line takes one line, or part of one that is skipped, and returns how many octets it took.
func (p *Provider) line(now Time, b []byte, out *Output) int {
	if p.skip {
		n, done := codec.SkipLine(b)
		p.skip = !done
		return n
	}
	line, n, err := codec.NextLine(b, providerMaxLine)
	switch {
	case errors.Is(err, codec.ErrLineTooLong):
		p.tooLong(out)
		n, done := codec.SkipLine(b)
		p.skip = !done
		return n
	case n == 0:
		return 0
	}
	if p.state == providerCustomer { // only whole lines count: dripping octets does not keep a session
		p.deadline = now + Time(p.cfg.CommandTimeout)
	}
	switch {
	case err != nil:
		p.broken(err, out)
	case p.state == providerExchange:
		p.response(line, out)
	default:
		p.command(line, out)
	}
	return n
}

// command takes one command line.
func (p *Provider) command(line []byte, out *Output) {
	if p.state == providerLogin && p.cfg.MaxCommands > 0 {
		if p.commands++; p.commands > p.cfg.MaxCommands {
			p.end(replyTooManyCommands, ReasonCommands, out)
			return
		}
	}
	verb, arg := codec.ParseCommand(line)
	c := &providerCommands[verb]
	limit := mail.MaxCommandLine
	if c.maxLine != 0 {
		limit = c.maxLine
	}
	switch {
	case len(line)+len("\r\n") > limit:
		p.refuse(replyLineTooLong, out)
	case !c.clear && !p.secure && p.cfg.TLSPolicy == TLSForAll: // RFC 3207 4
		p.refuse(replyTLSFirst, out)
	case c.apply == nil, verb == codec.VerbSTARTTLS && !p.cfg.StartTLS:
		p.refuse(replyNotOffered, out)
	case c.states&p.state == 0:
		p.refuse(c.otherwise, out)
	default:
		c.apply(p, arg, out)
	}
}

// providerCommand is a row of the command table.
type providerCommand struct {
	states    providerState // in which it is allowed
	otherwise *reply        // what it gets in the others
	clear     bool          // allowed in clear text even where everything else needs TLS (RFC 3207 4)
	maxLine   int           // octets with CRLF; 0 is mail.MaxCommandLine
	apply     func(p *Provider, arg []byte, out *Output)
}

// providerCommands are the commands of RFC 2645 5.1, with HELO, NOOP, RSET and STARTTLS added. All
// others are answered 502, authenticated or not.
var providerCommands = newProviderCommands()

func newProviderCommands() (t [codec.NumVerbs]providerCommand) {
	const both = providerLogin | providerCustomer
	t[codec.VerbEHLO] = providerCommand{states: both, clear: true, apply: (*Provider).ehlo}
	t[codec.VerbHELO] = providerCommand{states: both, apply: (*Provider).helo}
	t[codec.VerbNOOP] = providerCommand{states: both, clear: true, apply: (*Provider).noop}
	t[codec.VerbRSET] = providerCommand{states: both, apply: (*Provider).rset}
	t[codec.VerbQUIT] = providerCommand{states: both, clear: true, apply: (*Provider).quit}
	t[codec.VerbSTARTTLS] = providerCommand{states: providerLogin, otherwise: replyTLSBeforeLogin, clear: true, apply: (*Provider).startTLS}
	t[codec.VerbAUTH] = providerCommand{states: providerLogin, otherwise: replyAuthAgain, maxLine: mail.MaxAuthLine, apply: (*Provider).auth}
	t[codec.VerbATRN] = providerCommand{states: providerCustomer, otherwise: replyAuthRequired, maxLine: mail.MaxATRNLine, apply: (*Provider).atrn}
	return t
}

func (p *Provider) ehlo(arg []byte, out *Output) {
	if p.hello(arg, out) {
		out.Reply = p.appendEHLO(out.Reply)
	}
}

func (p *Provider) helo(arg []byte, out *Output) {
	if p.hello(arg, out) {
		out.Reply = codec.AppendReply(out.Reply, 250, "", p.cfg.Hostname)
	}
}

// hello notes the customer's name. It says nothing about who the customer is, and
// authentication survives it.
func (p *Provider) hello(arg []byte, out *Output) bool {
	name, err := codec.ParseHello(arg)
	if err != nil {
		p.refuse(replySyntax(err), out)
		return false
	}
	p.peer = string(name)
	return true
}

// noop ignores its argument (RFC 5321 4.1.1.9).
func (p *Provider) noop(_ []byte, out *Output) { p.say(replyOK, out) }

// rset has nothing to reset: there are no transactions on this side of the turn.
func (p *Provider) rset(arg []byte, out *Output) {
	if len(arg) > 0 {
		p.refuse(replyNoArgument, out)
		return
	}
	p.say(replyOK, out)
}

func (p *Provider) quit(arg []byte, out *Output) {
	if len(arg) > 0 {
		p.refuse(replyNoArgument, out)
		return
	}
	p.end(replyBye, "quit", out)
}

// say answers without counting.
func (p *Provider) say(r *reply, out *Output) {
	out.Reply = r.appendTo(out.Reply)
}

// refuse answers a command that was wrong, and ends the session if there were too many of them.
func (p *Provider) refuse(r *reply, out *Output) {
	p.say(r, out)
	p.countError(out)
}

func (p *Provider) countError(out *Output) {
	if p.errors++; p.errors >= p.cfg.MaxErrors {
		p.end(replyTooManyErrors, ReasonErrors, out)
	}
}

// broken answers a line that is none (RFC 5321 2.3.8). Within an exchange it ends that.
func (p *Provider) broken(err error, out *Output) {
	p.abortExchange(out)
	p.refuse(replyLine(err), out)
}

// tooLong answers a line of which the end was not seen within providerMaxLine octets.
func (p *Provider) tooLong(out *Output) {
	r := replyLineTooLong
	if p.state == providerExchange {
		r = replyAuthLineLong
	}
	p.abortExchange(out)
	p.refuse(r, out)
}

// end says why and closes.
func (p *Provider) end(r *reply, reason string, out *Output) {
	p.say(r, out)
	p.close(reason, out)
}

func (p *Provider) close(reason string, out *Output) {
	p.state, p.reason, p.deadline = providerClosed, reason, Never
	out.Acts = append(out.Acts, Action{Kind: ActClose, At: len(out.Reply), Reason: reason})
}

// begin marks an action as in flight and gives it its ticket.
func (p *Provider) begin(a Action, out *Output) {
	p.ticket++
	p.waiting, p.early = true, false
	a.Ticket = p.ticket
	out.Acts = append(out.Acts, a)
}

// Done takes the outcome of ActAuth, ActAcquire or ActAwait, or with ticket 0 that TLS has begun.
func (p *Provider) Done(now Time, ticket uint32, r *Result, out *Output) {
	if ticket == 0 {
		p.tlsBegan()
		return
	}
	if !p.waiting || ticket != p.ticket || p.state&(providerTurned|providerClosed) != 0 {
		return
	}
	p.waiting = false
	switch p.state {
	case providerCustomer:
		p.acquired(now, r, out)
	case providerWaiting:
		p.waited(now, r, out)
	default:
		p.authenticated(now, r, out)
	}
}

// Tick answers an ATRN for which no mail came, or ends the session: no login, or no command, in time. A directory or store that does not
// answer in that time ends it, too.
func (p *Provider) Tick(now Time, out *Output) {
	switch {
	case now < p.deadline:
	case p.state == providerWaiting:
		p.noMail(now, out)
	case p.state == providerCustomer:
		p.end(replyTimeout, "no command in time", out)
	default:
		p.end(replyLoginTimeout, ReasonLoginTime, out)
	}
}

// Deadline is when Tick is due.
func (p *Provider) Deadline() Time { return p.deadline }

// Progress changes nothing: replies are short.
func (p *Provider) Progress(Time) {}

// Stop ends the session at once: nothing is under way that would be lost. After the turn it does nothing.
func (p *Provider) Stop(_ Time, out *Output) {
	if p.state&(providerTurned|providerClosed) == 0 {
		p.end(replyShutdown, "shutdown", out)
	}
}

// End notes that the connection is gone. Nothing is to be undone: a lease belongs to the
// connection and goes with it.
func (p *Provider) End(Time, *Output) {
	if p.state&(providerTurned|providerClosed) == 0 {
		p.state, p.reason, p.deadline = providerClosed, "connection lost", Never
	}
}
