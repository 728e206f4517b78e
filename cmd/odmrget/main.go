// Command odmrget is a customer of an On-Demand Mail Relay (RFC 2645): it connects, logs in with
// CRAM-MD5, asks for its mail with ATRN and delivers what comes into a Maildir.
//
// A message is acknowledged only after it is on disk, so a cut line or a crash can bring a
// message twice but lose none. Each message becomes one file with Return-Path:, one
// Delivered-To: for each recipient, and X-Envelope-To: with all of them.
package main

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"github.com/alecthomas/kong"

	"odmr/codec"
	"odmr/internal/client"
	"odmr/internal/mail"
	"odmr/internal/trust"
	"odmr/internal/units"
)

// Exit statuses: those of sysexits.h that mail programs use, and 2 for a wrong command line.
const (
	exitOK        = 0  // mail was collected, or none waits
	exitUsage     = 2  // the command line is wrong
	exitCantWrite = 73 // the Maildir cannot be used
	exitTempFail  = 75 // try again later: no connection, connection lost, 4xx, message not stored
	exitProtocol  = 76 // the server does not speak ODMR, or not correctly, or TLS failed
	exitNoPerm    = 77 // the login or a domain was refused
)

// version is set when the program is built.
var version = "unversioned"

const description = `Collect mail from an On-Demand Mail Relay (RFC 2645) into a Maildir.

Every flag is also an environment variable ODMRGET_… (capitals, with _ for -).

Exit status: 0 mail was collected or none waits; 2 wrong command line; 73 the Maildir cannot be used; 75 try again later ` +
	`(no connection, connection lost, temporary refusal, message not stored); 76 the server does not speak ODMR correctly, or TLS failed; ` +
	`77 the login (535) or a domain (450) was refused.`

type flags struct {
	Server         string           `placeholder:"HOST:PORT" required:"" help:"The provider's ODMR server; port 366 if none is given."`
	User           string           `placeholder:"NAME" required:"" help:"Account name."`
	PasswordFile   string           `placeholder:"FILE" required:"" help:"File whose first line is the password; - is standard input."`
	Domain         []string         `placeholder:"NAME" help:"Ask for this domain's mail only; may be repeated. Without it: all domains of the account."`
	Maildir        string           `placeholder:"DIR" required:"" help:"Where to deliver; made if missing."`
	Name           string           `placeholder:"HOST" help:"What to call ourselves in EHLO and in our greeting; default: the host name."`
	Timeout        patience         `default:"10m" help:"How long the server may be silent, or not take what we say; 0 waits for ever."`
	MaxMessageSize units.Size       `default:"0" placeholder:"SIZE" help:"Largest message to accept, such as 50MiB; larger ones are refused for good. 0: any."`
	TLS            bool             `xor:"tls" help:"Use TLS from the first octet; give the port that the provider names for that."`
	StartTLS       bool             `name:"starttls" xor:"tls" help:"Use TLS after STARTTLS; nothing but that is said in clear, and a provider that does not offer it is an error."`
	TLSCA          string           `name:"tls-ca" placeholder:"FILE" help:"Trust the CAs in this PEM file instead of the system's."`
	TLSName        string           `name:"tls-name" placeholder:"HOST" help:"The name in the server's certificate, if it is not that of --server."`
	TLSInsecure    bool             `name:"tls-insecure" help:"Take any certificate: an attacker on the line can then be the server. For tests."`
	Version        kong.VersionFlag `env:"-" help:"Show the version and exit."`
	Verbose        bool             `short:"v" help:"Show the dialogue on standard error: C: is us, P: the provider."`
}

// patience is a duration, not negative.
type patience time.Duration

// UnmarshalText reads the text form, which is that of odmrd's flags.
func (p *patience) UnmarshalText(text []byte) error {
	d, err := units.ParseDuration(string(text))
	if err == nil && d < 0 {
		err = units.ErrDuration
	}
	*p = patience(d)
	return err
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	os.Exit(run(ctx, os.Args[1:], os.Stdin, os.Stdout, os.Stderr))
}

// run is main with its surroundings as arguments; it returns the exit status.
func run(ctx context.Context, args []string, stdin io.Reader, stdout, stderr io.Writer) int {
	var f flags
	code, done := parse(&f, args, stdout, stderr)
	if done {
		return code
	}
	complain := func(code int, err error) int {
		fmt.Fprintln(stderr, "odmrget:", err)
		return code
	}
	if err := f.check(); err != nil {
		return complain(exitUsage, err)
	}
	security, tlsConfig, err := f.tls()
	if err != nil {
		return complain(exitUsage, err)
	}
	password, err := readPassword(f.PasswordFile, stdin)
	if err != nil {
		return complain(exitUsage, fmt.Errorf("--password-file: %w", err))
	}
	md, err := client.OpenMaildir(f.Maildir, func(path string, env *mail.Envelope) {
		fmt.Fprintf(stdout, "%s: from <%s> to %s\n", path, env.ReversePath, recipients(env))
	})
	if err != nil {
		return complain(exitCantWrite, err)
	}
	defer md.Close()
	offer := client.FullOffer()
	offer.Size = int64(f.MaxMessageSize)
	opts := client.Options{Name: f.Name, Timeout: time.Duration(f.Timeout), Security: security, TLS: tlsConfig, Offer: offer}
	if f.Verbose {
		opts.Transcript = showDialogue(stderr)
	}
	account := client.Account{User: f.User, Password: password, Domains: f.Domain}
	stats, err := client.Collect(ctx, withPort(f.Server), account, opts, md)
	if f.Verbose {
		for _, b := range stats.Breaches {
			fmt.Fprintln(stderr, "odmrget: the provider broke the protocol:", b)
		}
	}
	if err != nil {
		return complain(exitStatus(err), fmt.Errorf("%s: %w", f.Server, err))
	}
	fmt.Fprintf(stdout, "%s, %d octets\n", messages(stats.Messages), stats.Octets)
	if stats.Refused > 0 {
		return complain(exitTempFail, fmt.Errorf("%s refused: too big, or not stored", messages(stats.Refused)))
	}
	return exitOK
}

func parse(f *flags, args []string, stdout, stderr io.Writer) (code int, done bool) {
	exited := false
	app, err := kong.New(f, kong.Name("odmrget"), kong.Description(description), kong.Vars{"version": "odmrget " + version}, kong.DefaultEnvars("ODMRGET"),
		kong.Writers(stdout, stderr), kong.Exit(func(int) { exited = true }))
	if err != nil {
		panic(err) // the struct above is wrong: cannot happen at a user's
	}
	_, err = app.Parse(args)
	switch {
	case exited: // --help, --version
		return exitOK, true
	case err != nil:
		fmt.Fprintf(stderr, "odmrget: %v\nodmrget: see odmrget --help\n", err)
		return exitUsage, true
	}
	if f.Name == "" {
		f.Name, _ = os.Hostname()
	}
	return 0, false
}

// check finds what no type shows.
func (f *flags) check() error {
	for _, required := range []struct{ flag, value string }{{"server", f.Server}, {"user", f.User}, {"maildir", f.Maildir}} {
		if required.value == "" {
			return fmt.Errorf("--%s is empty", required.flag)
		}
	}
	if host, port, err := net.SplitHostPort(withPort(f.Server)); err != nil || host == "" || port == "" {
		return fmt.Errorf("--server: %q is not HOST or HOST:PORT", f.Server)
	}
	for _, d := range f.Domain {
		if !codec.ValidDomain([]byte(d)) {
			return fmt.Errorf("--domain: %q is not a domain name in ASCII", d)
		}
	}
	return nil
}

// tls says how the connection is to be secured.
func (f *flags) tls() (client.Security, *tls.Config, error) {
	security := client.ClearText
	switch {
	case f.TLS:
		security = client.ImplicitTLS
	case f.StartTLS:
		security = client.StartTLS
	case f.TLSCA != "" || f.TLSName != "" || f.TLSInsecure:
		return 0, nil, errors.New("--tls-ca, --tls-name and --tls-insecure mean nothing without --tls or --starttls")
	}
	cfg := &tls.Config{ServerName: f.TLSName, InsecureSkipVerify: f.TLSInsecure}
	if f.TLSCA == "" {
		return security, cfg, nil
	}
	roots, err := trust.ReadRoots(f.TLSCA)
	if err != nil {
		return 0, nil, fmt.Errorf("--tls-ca: %w", err)
	}
	cfg.RootCAs = roots
	return security, cfg, nil
}

// readPassword returns the first line of the file.
func readPassword(name string, stdin io.Reader) (string, error) {
	const most = 4096 // octets; a password that is longer is surely the wrong file
	r := stdin
	if name != "-" {
		f, err := os.Open(name)
		if err != nil {
			return "", err
		}
		defer f.Close()
		r = f
	}
	b, err := io.ReadAll(io.LimitReader(r, most))
	if err != nil {
		return "", err
	}
	line, _, _ := strings.Cut(string(b), "\n")
	line = strings.TrimSuffix(line, "\r")
	if line == "" {
		return "", fmt.Errorf("%s: no password in the first line", name)
	}
	return line, nil
}

// withPort adds RFC 2645's port: /etc/services often does not have it.
func withPort(server string) string {
	host := strings.TrimSuffix(strings.TrimPrefix(server, "["), "]")
	if strings.Count(host, ":") != 1 && !strings.Contains(server, "]:") {
		if strings.Contains(host, ":") {
			return "[" + host + "]:366"
		}
		return host + ":366"
	}
	return server
}

func messages(n int) string {
	if n == 1 {
		return "1 message"
	}
	return fmt.Sprintf("%d messages", n)
}

func recipients(env *mail.Envelope) string {
	var to []string
	for _, r := range env.Recipients {
		to = append(to, "<"+r.Address+">")
	}
	return strings.Join(to, ", ")
}

// showDialogue writes the lines of the dialogue as RFC 2645 does: P: provider, C: customer.
func showDialogue(w io.Writer) client.Transcript {
	return func(from client.Side, line string) {
		who := "P:"
		if from == client.Us {
			who = "C:"
		}
		fmt.Fprintln(w, who, line)
	}
}

// exitStatus classifies an error of the session.
func exitStatus(err error) int {
	switch code := client.Code(err); {
	case code == 450 || code == 530 || code == 534 || code == 535 || code == 538:
		return exitNoPerm // RFC 2645 5.2.1: 450 says that a domain is not ours
	case code >= 400 && code < 500:
		return exitTempFail
	case code != 0, errors.Is(err, client.ErrBadReply), errors.Is(err, client.ErrLineTooLong), errors.Is(err, client.ErrTLS), errors.Is(err, client.ErrNoTLS):
		return exitProtocol
	}
	return exitTempFail
}
