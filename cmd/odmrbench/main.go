// Command odmrbench is the load harness of the house: it starts an odmrd, drives it over the
// network as MXs and customers would, and says how fast that went beside what the machine could
// have done (package bench).
//
// This package is wiring: flags, the accounts file, the bare store's rate, a progress bar.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/alecthomas/kong"

	"odmr/bench"
)

// version is set by the linker.
var version = "unversioned"

// cli is the command line.
type cli struct {
	bench.Settings `embed:""`
	output         `embed:""`

	Version kong.VersionFlag `help:"Show the version and exit."`

	All    allCommand   `cmd:"" help:"Everything, in about five minutes, with the table of what was asked."`
	Ingest bench.Ingest `cmd:"" help:"Mail in: durable 250s per second."`
	Drain  bench.Drain  `cmd:"" help:"Mail out: customers that collect at the same time."`
	Turn   bench.Turn   `cmd:"" help:"From ATRN to the first MAIL FROM, with the mail of others queued."`
	Idle   bench.Idle   `cmd:"" help:"Memory of authenticated sessions at rest."`
	Linger bench.Linger `cmd:"" help:"Mail that arrives for customers whose sessions wait for it."`
	WAN    bench.WAN    `cmd:"" name:"wan" help:"Round trips per message over long lines."`
	Mixed  bench.Mixed  `cmd:"" help:"Mail in at a fixed rate while customers dial in and out."`
	Slow   bench.Slow   `cmd:"" help:"Thousands of customers on slow lines."`
	Space  bench.Space  `cmd:"" help:"What the disk sees of mail, and when its space is back."`
	Peers  bench.Peers  `cmd:"" help:"Other mail servers beside ours."`

	Accounts accountsCommand `cmd:"" help:"Write the accounts that the scenarios use, for a server of your own."`
	Part     partCommand     `cmd:"" hidden:""`
}

func main() {
	var c cli
	parser := kong.Must(&c, kong.Name("odmrbench"), kong.Description("Load harness for odmrd."), kong.Vars{"version": "odmrbench " + version})
	chosen, err := parser.Parse(os.Args[1:])
	if err == nil {
		err = outOfBounds(chosen)
	}
	if err != nil {
		complain(chosen, err)
		os.Exit(2)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, &c, chosen); err != nil {
		fmt.Fprintln(os.Stderr, "odmrbench:", err)
		stop()
		os.Exit(1)
	}
}

// run does what was chosen.
func run(ctx context.Context, c *cli, chosen *kong.Context) error {
	switch command := chosen.Selected().Target.Addr().Interface().(type) {
	case *partCommand:
		return bench.ServePart(os.Stdin, os.Stdout, deps())
	case *accountsCommand:
		return command.write()
	case *allCommand:
		return c.measure(ctx, &c.Settings, command.plan())
	case bench.Scenario:
		return c.measure(ctx, &c.Settings, plan{scenarios: []bench.Scenario{command}})
	}
	return errors.New("no such scenario")
}

// accountsCommand writes accounts for a server that somebody else starts.
type accountsCommand struct {
	File      string `arg:"" help:"Accounts file to write."`
	Customers int    `default:"10000" min:"1" help:"How many."`
}

func (a *accountsCommand) write() error { return writeAccounts(a.File, bench.Customers(a.Customers)) }

// partCommand is a part of the harness in a process of its own.
type partCommand struct{}
