// Command odmrctl is the operator's tool of the On-Demand Mail Relay: it keeps the accounts file,
// and shows, prunes, verifies and copies the queue.
//
// It never needs the server to be stopped: the accounts file is replaced atomically under a lock,
// and a running server picks the change up by itself; the queue is reached through the server's
// control socket, and opened directly only if no server is running.
package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/alecthomas/kong"
)

// Exit statuses.
const (
	exitOK     = 0 // done
	exitFailed = 1 // it could not be done, or a check found something
	exitUsage  = 2 // the command line is wrong
)

const description = `Keep the accounts and the queue of an On-Demand Mail Relay (RFC 2645).

A running server picks up changes of the accounts file by itself.

Examples:
  odmrctl --accounts /etc/odmr/accounts account add tim --domain example.org --domain example.com
  odmrctl --accounts /etc/odmr/accounts account add tim --domain example.org --generate
  odmrctl --accounts /etc/odmr/accounts account list
  odmrctl --data /var/lib/odmr queue list --domain example.org

Exit status: 0 done; 1 it could not be done, or the queue is damaged; 2 wrong command line; 3 an import left something.`

// version is set when the program is built.
var version = "unversioned"

// cli is the command line. Each group of commands has a file of its own.
type cli struct {
	Accounts string           `placeholder:"FILE" env:"ODMRCTL_ACCOUNTS,ODMRD_ACCOUNTS" help:"Accounts file; the same as the server's --accounts."`
	Data     string           `placeholder:"DIR" env:"ODMRCTL_DATA,ODMRD_DATA" help:"Data directory; the same as the server's --data."`
	Version  kong.VersionFlag `help:"Show the version and exit."`

	Account accountCommands `cmd:"" help:"Show and change the customers' accounts."`
	Queue   queueCommands   `cmd:"" help:"Look into the queue, remove messages, verify the store."`
	Import  importCommand   `cmd:"" help:"Bring mail in that was held elsewhere."`
	Export  exportCommand   `cmd:"" help:"Copy queued messages into a Maildir or an mbox file."`
}

// groups are the titles of flags that belong together.
var groups = []kong.Group{
	{Key: "policy", Title: "Settings:", Description: "For this account; where the server has a flag of that name, in its place."},
	{Key: "external", Title: "Login without a password (EXTERNAL):"},
}

// surroundings are what a command may touch besides its flags.
type surroundings struct {
	stdin  *os.File
	stdout io.Writer
	stderr io.Writer
	now    func() time.Time
}

// usageError is a command line that cannot be carried out as it is written.
type usageError string

func (e usageError) Error() string { return string(e) }

func main() {
	os.Exit(run(os.Args[1:], &surroundings{stdin: os.Stdin, stdout: os.Stdout, stderr: os.Stderr, now: time.Now}))
}

// run is main with its surroundings as arguments; it returns the exit status.
func run(args []string, s *surroundings) int {
	c := new(cli)
	exited := false
	app, err := kong.New(c, kong.Name("odmrctl"), kong.Description(description), kong.Vars{"version": "odmrctl " + version, "message_form": messageForm},
		kong.ExplicitGroups(groups), kong.Writers(s.stdout, s.stderr), kong.Exit(func(int) { exited = true }),
		kong.ConfigureHelp(kong.HelpOptions{Compact: true, NoExpandSubcommands: false, WrapUpperBound: 100}))
	if err != nil {
		panic(err) // the structs are wrong: cannot happen at a user's
	}
	ctx, err := app.Parse(args)
	switch {
	case exited: // --help, --version
		return exitOK
	case err != nil:
		var wrong *kong.ParseError
		if errors.As(err, &wrong) {
			ctx = wrong.Context
		}
		return complain(s.stderr, ctx, usageError(err.Error()))
	}
	if err := ctx.Run(c, s); err != nil {
		return complain(s.stderr, ctx, err)
	}
	return exitOK
}

// complain says why, and which help to look at, and returns the exit status. ctx, how far the command line was
// understood, may be nil.
func complain(w io.Writer, ctx *kong.Context, err error) int {
	text := strings.Split(err.Error(), "\n")
	for i := range text {
		text[i] = clean(text[i]) // it may name what strangers have written
	}
	fmt.Fprintln(w, "odmrctl:", strings.Join(text, "\n"))
	var left leftError
	if errors.As(err, &left) {
		return exitLeft
	}
	var usage usageError
	if !errors.As(err, &usage) {
		return exitFailed
	}
	command := "odmrctl"
	if ctx != nil && ctx.Selected() != nil {
		command = ctx.Selected().FullPath()
	}
	fmt.Fprintf(w, "odmrctl: see %s --help\n", command)
	return exitUsage
}
