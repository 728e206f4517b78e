package main

import (
	"bufio"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"odmr/internal/admin"
	"odmr/internal/client"
	"odmr/internal/imports"
	"odmr/internal/mail"
	"odmr/queue"
)

// exportCommand is odmrctl export.
type exportCommand struct {
	Maildir string `arg:"" placeholder:"DIR" help:"Maildir to write to, made if missing."`
	Domain  string `placeholder:"DOMAIN" help:"Only this domain's messages."`
}

func (exportCommand) Help() string {
	return `Every message becomes one file for each customer domain, with the envelope on top: Return-Path, a Delivered-To for
each recipient that still waits, X-Envelope-To with all of them, and all the rest in X-ODMR-... fields,
from which odmrctl import makes the message again as it was. Nothing is removed from the queue, and mail that a
customer collects meanwhile may be exported as well.

The command may be interrupted and run again at any time: each file is synced and then appears under a name that is
always the same, so that what is in the Maildir already is not written twice, even if it was read or filed (new, cur).

Works with a running server and with a stopped one. Exit status 1 if some message could not be exported.

Examples:
  odmrctl --data /var/lib/odmr export /var/backups/mail
  odmrctl --data /var/lib/odmr export --domain example.org example.org.maildir`
}

// exported counts what became of the messages.
type exported struct {
	written, there, settled, gone int64
}

func (a *exportCommand) Run(c *cli, s *surroundings) error {
	domain, err := domainArgument(a.Domain)
	if err != nil {
		return err
	}
	return c.withQueue(s, func(q queue.Admin, out *bufio.Writer) error {
		x, err := newExporter(q, a.Maildir)
		if err != nil {
			return err
		}
		defer x.maildir.Close()
		err = x.run(domain, s)
		n := x.count
		fmt.Fprintf(out, "%s exported, %d were there already, %d have no recipient left that waits, %d left the queue meanwhile\n",
			plural(n.written, "message"), n.there, n.settled, n.gone)
		return err
	})
}

// exporter copies entries of a queue into a Maildir.
type exporter struct {
	q       queue.Admin
	maildir *client.Maildir
	there   map[string]bool // names in new and cur, without flags
	count   exported
}

func newExporter(q queue.Admin, dir string) (*exporter, error) {
	x := &exporter{q: q, there: map[string]bool{}}
	var err error
	if x.maildir, err = client.OpenMaildir(dir, nil); err != nil {
		return nil, err
	}
	for _, sub := range []string{"new", "cur"} {
		files, err := os.ReadDir(filepath.Join(dir, sub))
		if err != nil {
			return nil, errors.Join(err, x.maildir.Close())
		}
		for _, f := range files {
			name, _, _ := strings.Cut(f.Name(), ":")
			x.there[name] = true
		}
	}
	return x, nil
}

// entryName is the name of an entry's file, in the form that Maildir asks for. A domain may be longer than a file's name.
func entryName(v *mail.Envelope) string {
	domain := v.Domain
	if len(domain) > 150 {
		domain = fmt.Sprintf("%x", sha256.Sum256([]byte(domain)))
	}
	at := time.Unix(0, v.Arrived)
	return fmt.Sprintf("%d.M%dQ%s.%s", at.Unix(), at.Nanosecond()/1000, v.ID, domain)
}

// waiting is the entry's envelope with the recipients that nothing has been decided about, which may be none.
func waiting(v *mail.Envelope) mail.Envelope {
	w := *v
	w.Recipients = nil
	for _, r := range v.Recipients {
		if r.State == mail.Pending || r.State == mail.Held {
			w.Recipients = append(w.Recipients, r)
		}
	}
	return w
}

// run exports the entries of domain, or of all. It goes on after an entry that failed, and stops when the Maildir takes no more.
func (x *exporter) run(domain string, s *surroundings) error {
	var domains []string
	var total int64
	err := x.q.Domains(func(d string, n queue.Counts) bool {
		if domain == "" || d == domain {
			domains = append(domains, d)
			total += n.Messages
		}
		return true
	})
	if err != nil {
		return err
	}
	bar := newProgress(s, "exporting", total)
	var failed []error
	for _, d := range domains {
		// A listing holds a view of the store open, and the server cuts off who dawdles over one: it is taken in whole,
		// some 200 octets a message.
		var entries []mail.Envelope
		if err := x.q.List(d, func(e queue.Entry) bool {
			entries = append(entries, waiting(&e.Envelope))
			return true
		}); err != nil {
			return errors.Join(append(failed, err)...)
		}
		for i := range entries {
			bar.add(1)
			if err := x.entry(&entries[i]); err != nil {
				failed = append(failed, fmt.Errorf("%s of %s: %w", entries[i].ID, d, err))
				if len(failed) == maxExportErrors {
					return errors.Join(append(failed, errors.New("too many errors"))...)
				}
			}
		}
	}
	bar.done()
	return errors.Join(failed...)
}

// maxExportErrors is how many messages may fail until it is given up: the disk is full, or the server gone.
const maxExportErrors = 20

// entry exports one entry, unless it is there.
func (x *exporter) entry(v *mail.Envelope) error {
	name := entryName(v)
	switch {
	case len(v.Recipients) == 0:
		x.count.settled++
		return nil
	case x.there[name]:
		x.count.there++
		return nil
	}
	body, err := x.q.Open(v.ID)
	if errors.Is(err, queue.ErrNotFound) {
		x.count.gone++
		return nil
	}
	if err != nil {
		return err
	}
	defer body.Close()
	sink, err := x.maildir.Deliver(name, v)
	if err != nil {
		return err
	}
	_, err = io.WriteString(sink, imports.Parameters(v))
	if err == nil {
		err = admin.CopyBody(&unstuffer{out: sink}, body)
	}
	if err != nil {
		sink.Abort()
		return err
	}
	if err := sink.Commit(); err != nil {
		return err
	}
	x.there[name] = true
	x.count.written++
	return nil
}
