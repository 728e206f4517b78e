package main

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"odmr/internal/client"
	"odmr/internal/mail"
)

// patience is how long one step of the dialogue may take.
const patience = 30 * time.Second

// checkPorts finds out beforehand which port is taken, to say so in one clear line.
func (d *demo) checkPorts() error {
	var taken []error
	for _, p := range []struct{ flag, addr string }{{"odmr", d.odmr}, {"smtp", d.smtp}, {"lmtp", d.lmtp}, {"admin", d.http}, {"mta", d.mta}} {
		l, err := net.Listen("tcp", p.addr)
		if err != nil {
			taken = append(taken, fmt.Errorf("cannot listen on %s: %w; free it (is another `make run` going?), or give another: go run ./internal/demo --bin %s --%s 127.0.0.1:0",
				p.addr, err, d.bin, p.flag))
			continue
		}
		_ = l.Close()
	}
	return errors.Join(taken...)
}

// program is a command among ours, ended with ctx.
func (d *demo) program(ctx context.Context, name string, args ...string) *exec.Cmd {
	return exec.CommandContext(ctx, filepath.Join(d.bin, name), args...)
}

// makeAccount makes the account, or finds it from an earlier run.
func (d *demo) makeAccount(ctx context.Context) error {
	password, err := os.ReadFile(d.file("password"))
	if err == nil {
		if _, err := os.Stat(d.file("accounts")); err == nil {
			d.password = strings.TrimSpace(string(password))
			d.say("account %s is there from an earlier run", user)
			return nil
		}
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	random := make([]byte, 15)
	_, _ = rand.Read(random) // never fails
	d.password = base64.RawURLEncoding.EncodeToString(random)
	if err := os.WriteFile(d.file("password"), []byte(d.password+"\n"), 0o600); err != nil {
		return err
	}
	args := []string{"--accounts", d.file("accounts"), "account", "add", user, "--password-stdin"}
	for _, domain := range domains {
		args = append(args, "--domain", domain)
	}
	cmd := d.program(ctx, "odmrctl", args...)
	cmd.Stdin = strings.NewReader(d.password + "\n")
	d.say("$ odmrctl %s", strings.Join(args, " "))
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("odmrctl account add: %w\n%s", err, out)
	}
	d.say("the password is in %s", d.file("password"))
	return nil
}

// writeFetchmailrc writes a configuration for fetchmail with the addresses of this run.
func (d *demo) writeFetchmailrc() error {
	host, port, err := net.SplitHostPort(d.odmr)
	if err != nil {
		return err
	}
	mtaHost, mtaPort, err := net.SplitHostPort(d.mta)
	if err != nil {
		return err
	}
	rc := fmt.Sprintf("poll %s protocol ODMR port %s auth cram-md5\n  user %q password %q\n  fetchdomains %s\n  smtphost %s/%s\n",
		host, port, user, d.password, strings.Join(domains, " "), mtaHost, mtaPort)
	// fetchmail refuses a file that others may read.
	return os.WriteFile(d.file("fetchmailrc"), []byte(rc), 0o600)
}

func sample(from, subject, body string, to ...string) client.Message {
	env := mail.Envelope{ReversePath: from}
	for _, a := range to {
		env.Recipients = append(env.Recipients, mail.Recipient{Address: a})
	}
	shown := from
	if from == "" {
		shown = "MAILER-DAEMON@mx.example"
	}
	text := fmt.Sprintf("From: %s\r\nTo: %s\r\nSubject: %s\r\nDate: %s\r\nMessage-ID: <%s@mx.example>\r\n\r\n%s",
		shown, strings.Join(to, ", "), subject, time.Now().Format(time.RFC1123Z), rand.Text(), body)
	env.Size = int64(len(text))
	return client.Message{Envelope: env, Content: strings.NewReader(text)}
}

// handIn gives the samples to the server: SMTP, SMTP, LMTP.
func (d *demo) handIn(ctx context.Context) error {
	messages := samples()
	for _, way := range []struct {
		name, addr string
		opts       client.SenderOptions
		messages   []client.Message
	}{
		{"SMTP", d.smtp, client.SenderOptions{}, messages[:2]},
		{"LMTP", d.lmtp, client.SenderOptions{Protocol: client.LMTP}, messages[2:]},
	} {
		way.opts.Name, way.opts.Timeout = "mx.example", patience
		s, err := client.DialSender(ctx, way.addr, way.opts)
		if err != nil {
			return err
		}
		for i := range way.messages {
			m := &way.messages[i]
			receipt, err := s.Send(m)
			if err == nil {
				err = receipt.Refusal()
			}
			if err != nil {
				_ = s.Close()
				return err
			}
			d.say("%s: from <%s> to %s: %s", way.name, m.Envelope.ReversePath, recipients(&m.Envelope), receipt.Final[0])
		}
		if err := s.Quit(); err != nil {
			return err
		}
	}
	return nil
}

func recipients(env *mail.Envelope) string {
	var to []string
	for _, r := range env.Recipients {
		to = append(to, "<"+r.Address+">")
	}
	return strings.Join(to, ", ")
}

// odmrgetArgs is odmrget's command line, as it is run and printed.
func (d *demo) odmrgetArgs() []string {
	return []string{"--server", d.odmr, "--user", user, "--password-file", d.file("password"),
		"--domain", strings.Join(domains, ","), "--maildir", d.file("Maildir"), "--verbose"}
}

// collect runs odmrget, dialogue and all.
func (d *demo) collect(ctx context.Context) error {
	args := d.odmrgetArgs()
	d.say("$ odmrget %s", strings.Join(args, " "))
	cmd := d.program(ctx, "odmrget", args...)
	cmd.Stdout, cmd.Stderr = d.out, d.out
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("odmrget: %w", err)
	}
	return nil
}

// startMTA serves as the customer's own MTA, which delivers into the same Maildir, until ctx ends.
func (d *demo) startMTA(ctx context.Context) error {
	l, err := net.Listen("tcp", d.mta)
	if err != nil {
		return err
	}
	d.mta = l.Addr().String()
	context.AfterFunc(ctx, func() { _ = l.Close() })
	maildir, err := client.OpenMaildir(d.file("Maildir"), func(path string, env *mail.Envelope) {
		d.say("customer's MTA: %s: from <%s> to %s", path, env.ReversePath, recipients(env))
	})
	if err != nil {
		return err
	}
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return // ctx has ended, and the process is about to
			}
			go func() {
				opts := client.Options{Name: "mta.customer.example", Offer: client.FullOffer(), Timeout: 10 * patience}
				_, _ = client.Answer(ctx, conn, opts, maildir)
			}()
		}
	}()
	return nil
}

// printLines shows what can be done next.
func (d *demo) printLines() error {
	if err := d.writeFetchmailrc(); err != nil {
		return err
	}
	ctl := filepath.Join(d.bin, "odmrctl")
	var b bytes.Buffer
	fmt.Fprintf(&b, "\n== 5. now you: paste these into another terminal, in this directory\n")
	fmt.Fprintf(&b, "\n# send (apt-get install swaks):\n")
	fmt.Fprintf(&b, "swaks --server %s --helo mx.example --from you@mx.example --to tim@example.org --header 'Subject: hello'\n", d.smtp)
	fmt.Fprintf(&b, "swaks --protocol LMTP --server %s --helo mx.example --from you@mx.example --to tim@example.org,ann@example.com\n", d.lmtp)
	fmt.Fprintf(&b, "\n# see what waits:\n")
	fmt.Fprintf(&b, "%s --data %s queue list\n", ctl, d.file("server"))
	fmt.Fprintf(&b, "curl -s http://%s/metrics | grep ^odmr_queue\n", d.http)
	fmt.Fprintf(&b, "\n# collect, into %s:\n", d.file("Maildir"))
	fmt.Fprintf(&b, "%s %s\n", filepath.Join(d.bin, "odmrget"), strings.Join(d.odmrgetArgs(), " "))
	fmt.Fprintf(&b, "\n# or with fetchmail (apt-get install fetchmail), through the customer's own MTA at %s, which this program plays:\n", d.mta)
	fmt.Fprintf(&b, "fetchmail -v --nodetach -f %s --pidfile %s\n", d.file("fetchmailrc"), d.file("fetchmail.pid"))
	fmt.Fprintf(&b, "\nserving until Ctrl-C\n")
	_, err := d.out.Write(b.Bytes())
	return err
}
