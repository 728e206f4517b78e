package main

import (
	"bufio"
	"errors"
	"fmt"
	"strings"

	"github.com/rs/zerolog"

	"odmr/internal/admin"
	"odmr/internal/mail"
	"odmr/queue"
)

// exportCommand is odmrctl export.
type exportCommand struct {
	Target string `arg:"" placeholder:"TARGET" help:"Maildir to write to, made if missing: DIR or maildir:DIR; or mbox:FILE."`
	Domain string `placeholder:"DOMAIN" help:"Only this domain's messages."`
	Remove bool   `help:"Remove messages from the queue once they are in the target, on disk. No bounce is sent."`
}

func (exportCommand) Help() string {
	return `Every message becomes one file for each customer domain, with the envelope on top: Return-Path, a Delivered-To for
each recipient that still waits, X-Envelope-To with all of them, and all the rest in X-ODMR-... fields,
from which odmrctl import makes the message again as it was. Nothing is removed from the queue unless --remove is given, and
mail that a customer collects meanwhile may be exported as well.

The command may be interrupted and run again at any time: each file is synced and then appears under a name that is
always the same, so that what is in the Maildir already is not written twice, even if it was read or filed (new, cur).
An mbox file (mboxrd) appears as a whole when all is in it; if it is there already, what it lacks is added in the same way.

--remove first writes everything, and removes then; reports to senders outside are left out. What a customer is collecting at that moment stays, and so does
a message of which a sender is yet to be told that it failed for somebody. Each removal is a line in the server's log; where no server
runs, a line like it on standard error.

Works with a running server and with a stopped one. Exit status 1 if some message could not be exported, or removed.

Examples:
  odmrctl --data /var/lib/odmr export /var/backups/mail
  odmrctl --data /var/lib/odmr export --domain example.org --remove mbox:example.org.mbox`
}

// exported counts what became of the messages.
type exported struct {
	written, there, settled, gone int64
	removed, kept                 int64
}

func (a *exportCommand) Run(c *cli, s *surroundings) error {
	domain, err := domainArgument(a.Domain)
	if err != nil {
		return err
	}
	return c.withQueue(s, func(q queue.Admin, out *bufio.Writer) error {
		target, err := openTarget(a.Target)
		if err != nil {
			return err
		}
		if _, running := q.(*admin.Client); !running { // which would log what is removed
			q = admin.Audited{Admin: q, Log: zerolog.New(s.stderr).With().Timestamp().Logger()}
		}
		x := &exporter{q: q, target: target, remove: a.Remove}
		err = errors.Join(x.run(domain, s), target.close())
		n := x.count
		fmt.Fprintf(out, "%s exported, %d were there already, %d have no recipient left that waits, %d left the queue meanwhile\n",
			plural(n.written, "message"), n.there, n.settled, n.gone)
		if a.Remove {
			fmt.Fprintf(out, "%s removed from the queue, %d stay because a report on them is due\n", plural(n.removed, "message"), n.kept)
		}
		return err
	})
}

// target is where messages are exported to.
type target interface {
	// has says whether the entry is there.
	has(v *mail.Envelope) bool
	// write adds the entry.
	write(v *mail.Envelope, body queue.Body) error
	// sync returns when all that it has is on disk, what was there before included.
	sync() error
	close() error
}

// openTarget opens what a path, perhaps with a kind in front, names.
func openTarget(spec string) (target, error) {
	if path, ok := strings.CutPrefix(spec, "mbox:"); ok {
		return openMboxTarget(path)
	}
	path, named := strings.CutPrefix(spec, "maildir:")
	if kind, _, ok := strings.Cut(path, ":"); ok && !named && !strings.Contains(kind, "/") { // a slip would make a directory
		return nil, usageError(fmt.Sprintf("%q is no kind of target: write maildir: or mbox: in front of %s", kind, path))
	}
	return openMaildirTarget(path)
}

// exporter copies entries of a queue into a target.
type exporter struct {
	q      queue.Admin
	target target
	remove bool
	done   []doneEntry // in the target, to be removed
	count  exported
}

type doneEntry struct {
	domain string
	id     mail.ID
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

// exportEntry is an entry as it is exported.
type exportEntry struct {
	mail.Envelope
	due bool // see reportDue
}

// run exports the entries of domain, or of all. It goes on after an entry that failed, and stops when the target takes no more.
func (x *exporter) run(domain string, s *surroundings) error {
	var domains []string
	var total int64
	err := x.q.Domains(func(d string, n queue.Counts) bool {
		if d == mail.OutboundDomain && x.remove {
			return true // reports to senders have nobody but us to send them
		}
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
	defer bar.done()
	var failed []error
	for _, d := range domains {
		// A listing holds a view of the store open, and the server cuts off who dawdles over one: it is taken in whole,
		// some 200 octets a message.
		var entries []exportEntry
		if err := x.q.List(d, func(e queue.Entry) bool {
			entries = append(entries, exportEntry{waiting(&e.Envelope), reportDue(&e.Envelope)})
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
	if err := x.target.sync(); err != nil {
		return errors.Join(append(failed, err)...)
	}
	return errors.Join(append(failed, x.removeDone())...)
}

// maxExportErrors is how many messages may fail until it is given up: the disk is full, or the server gone.
const maxExportErrors = 20

// reportDue says that somebody is yet to be told something of the entry, so that it must not be removed.
func reportDue(v *mail.Envelope) bool {
	for _, r := range v.Recipients {
		if r.State == mail.Failed || r.State == mail.Relayed {
			return true
		}
	}
	return false
}

// entry exports one entry, unless it is there.
func (x *exporter) entry(e *exportEntry) error {
	v := &e.Envelope
	switch {
	case len(v.Recipients) == 0:
		x.count.settled++
		return nil
	case x.target.has(v):
		x.count.there++
		x.removeLater(e)
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
	if err := x.target.write(v, body); err != nil {
		return err
	}
	x.count.written++
	x.removeLater(e)
	return nil
}

// removeLater notes that the entry is in the target.
func (x *exporter) removeLater(e *exportEntry) {
	switch {
	case !x.remove:
	case e.due:
		x.count.kept++
	default:
		x.done = append(x.done, doneEntry{e.Domain, e.ID})
	}
}

// dueNow asks again whether a report is due: an export takes long, and customers collect meanwhile. Between this question and the
// removal there is but a moment, and while a session goes on there is no removal (queue.ErrBusy).
func (x *exporter) dueNow(d doneEntry) (bool, error) {
	entries, err := x.q.Show(d.id)
	if err != nil {
		return false, err
	}
	for i := range entries {
		if v := &entries[i].Envelope; v.Domain == d.domain {
			return reportDue(v), nil
		}
	}
	return false, queue.ErrNotFound
}

// removeDone removes what is in the target for sure.
func (x *exporter) removeDone() error {
	var failed []error
	for _, d := range x.done {
		due, err := x.dueNow(d)
		if err == nil && due {
			x.count.kept++
			continue
		}
		if err == nil {
			_, err = x.q.Remove(d.domain, d.id)
		}
		switch {
		case err == nil:
			x.count.removed++
		case !errors.Is(err, queue.ErrNotFound): // collected meanwhile
			failed = append(failed, fmt.Errorf("%s of %s is exported, and stays in the queue: %w", d.id, d.domain, err))
			if len(failed) == maxExportErrors {
				return errors.Join(append(failed, errors.New("too many errors"))...)
			}
		}
	}
	return errors.Join(failed...)
}
