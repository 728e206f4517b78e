// Command demo is what `make run` starts: the whole job of an On-Demand Mail Relay on one screen.
//
// It makes an example account, starts odmrd on unprivileged loopback ports, hands three messages in as an MX would,
// collects them once with odmrget so that the dialogue is seen, prints lines to paste for
// more, and serves until Ctrl-C. Beside the server it runs a small SMTP server, the
// customer's own MTA, so that fetchmail has somewhere to bring the mail.
//
// All files are below one directory (--data) and stay there from run to run: mail that was not collected
// waits, as it would at a provider's. Nothing outside of it is touched.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"

	"odmr/internal/client"
)

// Names of the example, those of RFC 2645.
const (
	hostname = "mail.isp.example"
	user     = "tim"
)

var domains = []string{"example.org", "example.com"}

// demo is one run.
type demo struct {
	bin, data              string
	odmr, smtp, lmtp, http string // addresses asked for, then those that odmrd has
	mta                    string
	out                    io.Writer
	password               string
}

func main() {
	d := demo{out: os.Stdout}
	flag.StringVar(&d.bin, "bin", "bin", "directory of odmrd, odmrctl and odmrget")
	flag.StringVar(&d.data, "data", filepath.Join("data", "demo"), "directory for everything that is written")
	flag.StringVar(&d.odmr, "odmr", "127.0.0.1:3660", "address for customers; port 0 takes a free one, here and below")
	flag.StringVar(&d.smtp, "smtp", "127.0.0.1:2525", "address for mail over SMTP")
	flag.StringVar(&d.lmtp, "lmtp", "127.0.0.1:2424", "address for mail over LMTP")
	flag.StringVar(&d.http, "admin", "127.0.0.1:8366", "address of the metrics pages")
	flag.StringVar(&d.mta, "mta", "127.0.0.1:2526", "address of the example customer's own MTA, where fetchmail brings mail")
	flag.Usage = func() {
		fmt.Fprintln(flag.CommandLine.Output(), "Usage: go run ./internal/demo [flags], after make build. It shows the server at work, and serves until Ctrl-C.")
		flag.PrintDefaults()
	}
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := d.run(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "demo:", err)
		os.Exit(1)
	}
}

func (d *demo) file(name string) string { return filepath.Join(d.data, name) }

func (d *demo) say(format string, args ...any) { fmt.Fprintf(d.out, format+"\n", args...) }

func (d *demo) step(format string, args ...any) { fmt.Fprintf(d.out, "\n== "+format+"\n", args...) }

// run does everything; it returns nil after an orderly end by a signal.
func (d *demo) run(ctx context.Context) error {
	if err := os.MkdirAll(d.data, 0o700); err != nil {
		return err
	}
	if err := d.checkPorts(); err != nil {
		return err
	}
	d.step("1. an account that may collect the mail of two domains")
	if err := d.makeAccount(ctx); err != nil {
		return err
	}
	d.step("2. the server")
	server, err := d.startServer(ctx)
	if err != nil {
		return err
	}
	failed := d.show(ctx)
	if failed == nil {
		failed = server.wait(ctx)
	}
	if ctx.Err() != nil {
		failed = nil // whatever was going on was cut short by the signal
	}
	return errors.Join(failed, server.stop())
}

// show is what is to be seen once the server runs; it ends with the customer's MTA serving.
func (d *demo) show(ctx context.Context) error {
	d.say("odmrd listens: customers %s, SMTP %s, LMTP %s, metrics http://%s/metrics", d.odmr, d.smtp, d.lmtp, d.http)
	d.say("its log: %s", d.file("odmrd.log"))
	d.step("3. three messages come in, as from an MX: two over SMTP, one over LMTP")
	if err := d.handIn(ctx); err != nil {
		return fmt.Errorf("handing mail in: %w", err)
	}
	d.step("4. the customer collects them with odmrget (P: provider, C: customer; the roles turn after ATRN)")
	if err := d.collect(ctx); err != nil {
		return err
	}
	if err := d.startMTA(ctx); err != nil {
		return err
	}
	return d.printLines()
}

// samples are the three messages.
func samples() []client.Message {
	return []client.Message{
		sample("alice@mx.example", "A first message", "Hello,\r\n\r\nthis message waited for you at your provider.\r\n", "tim@example.org"),
		sample("bob@mx.example", "For two people", "This message has two recipients,\r\n.and a line that begins with a dot.\r\n", "tim@example.org", "ann@example.org"),
		sample("", "Undelivered mail", "The reverse-path of this one is empty: it is a bounce.\r\n", "postmaster@example.com"),
	}
}
