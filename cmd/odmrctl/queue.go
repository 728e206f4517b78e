package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/signal"
	"os/user"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"time"
	"unicode"

	"odmr/codec"
	"odmr/internal/account"
	"odmr/internal/admin"
	"odmr/internal/config"
	"odmr/internal/mail"
	"odmr/queue"
	"odmr/queue/pebblestore"
)

// queueCommands are odmrctl queue ….
type queueCommands struct {
	Domains  queueDomains  `cmd:"" help:"List the domains that have mail, with their counts."`
	List     queueList     `cmd:"" help:"List the messages, oldest first within each domain."`
	Show     queueShow     `cmd:"" help:"Show one message."`
	Outbound queueOutbound `cmd:"" help:"List the reports to senders that wait for the smarthost."`
	Held     queueHeld     `cmd:"" help:"List what the bounce shield holds, for a decision."`
	Release  queueRelease  `cmd:"" help:"Let held messages be delivered after all, in their old place in line."`
	Bounce   queueBounce   `cmd:"" help:"Let held messages fail, as their refusal said."`
	Remove   queueRemove   `cmd:"" help:"Remove messages for good. No bounce is sent."`
	Check    queueCheck    `cmd:"" help:"Verify the whole store."`
}

func (queueCommands) Help() string {
	return `The commands talk to a running server through the socket in its data directory, and open the queue themselves if ` +
		`none is running. They must be run by the server's user.

Examples:
  odmrctl --data /var/lib/odmr queue list --domain example.org
  odmrctl --data /var/lib/odmr queue show 03c5rz0m7s8ke --body
  odmrctl --data /var/lib/odmr queue check`
}

// openQueue finds the queue: a running server's, else the directory's own. Call done in the end.
func (c *cli) openQueue(s *surroundings) (q queue.Admin, done func() error, err error) {
	if c.Data == "" {
		return nil, nil, usageError("queue commands need --data DIR (or ODMRCTL_DATA)")
	}
	client, err := admin.Dial(context.Background(), c.Data)
	if err == nil {
		return client, func() error { client.Close(); return nil }, nil
	}
	if errors.Is(err, fs.ErrPermission) {
		return nil, nil, fmt.Errorf("%w: run this as the server's user", err)
	}
	if !errors.Is(err, admin.ErrNoServer) {
		return nil, nil, fmt.Errorf("control socket: %w", err)
	}
	dir := admin.QueueDir(c.Data)
	info, err := os.Stat(dir)
	if err != nil {
		return nil, nil, fmt.Errorf("there is no queue in %s: %w", c.Data, err)
	}
	// Files that somebody else makes in there would keep the server from starting.
	if owner, ok := ownerOf(info); ok && owner != os.Geteuid() {
		return nil, nil, fmt.Errorf("the queue belongs to %s: run this as that user", userName(owner))
	}
	syscall.Umask(0o077)
	store, err := openStore(dir, s)
	if errors.Is(err, pebblestore.ErrLocked) {
		return nil, nil, fmt.Errorf("%w, which does not answer yet; or another odmrctl works on it", err)
	}
	if err != nil {
		return nil, nil, err
	}
	return store, store.Close, nil
}

// openingPatience is after how long the operator is told that the queue is still being opened.
const openingPatience = 3 * time.Second

// openStore opens the queue of a server that does not run. On a full disk that takes until there is room, so
// whoever waits is told why.
func openStore(dir string, s *surroundings) (*pebblestore.Store, error) {
	events := new(notices)
	timer := time.AfterFunc(openingPatience, func() {
		reason := "its log is read"
		if r := events.refusing.Load(); r != nil {
			reason = *r
		}
		fmt.Fprintf(s.stderr, "odmrctl: the queue is still being opened: %s\n", reason)
	})
	defer timer.Stop()
	return pebblestore.Open(dir, pebblestore.Options{Now: s.now, Events: events})
}

// notices keeps why the store takes no mail.
type notices struct {
	pebblestore.Silent
	refusing atomic.Pointer[string]
}

// Refusing implements pebblestore.Events.
func (n *notices) Refusing(reason string) { n.refusing.Store(&reason) }

// userName is how the operator knows a user.
func userName(uid int) string {
	if u, err := user.LookupId(strconv.Itoa(uid)); err == nil {
		return u.Username
	}
	return fmt.Sprintf("the user with number %d", uid)
}

func ownerOf(info fs.FileInfo) (uid int, ok bool) {
	st, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return 0, false
	}
	return int(st.Uid), true
}

// withQueue runs fn on the queue, with buffered output that does not move a terminal.
func (c *cli) withQueue(s *surroundings, fn func(q queue.Admin, out *bufio.Writer) error) error {
	q, done, err := c.openQueue(s)
	if err != nil {
		return err
	}
	out := bufio.NewWriter(s.stdout)
	if onTerminal(s.stdout) {
		out = bufio.NewWriter(&harmless{out: s.stdout})
	}
	return errors.Join(fn(q, out), out.Flush(), done())
}

type queueDomains struct {
	JSON bool `name:"json" help:"Write JSON, a line for each domain: domain, messages, bytes, failed, held, kept_bytes (of failed and held), untold."`
}

func (a *queueDomains) Run(c *cli, s *surroundings) error {
	return c.withQueue(s, func(q queue.Admin, out *bufio.Writer) error {
		return q.Domains(func(domain string, n queue.Counts) bool {
			if a.JSON {
				return writeLine(out, admin.NewDomainCounts(domain, n))
			}
			_, err := fmt.Fprintf(out, "%s  %s, %s, %d failed, %d held\n", domain, plural(n.Messages, "message"), sizeText(n.Bytes), n.Failed, n.Held)
			return err == nil
		})
	})
}

// messageForm says what JSON output holds, for help texts.
const messageForm = "an object with id, domain, arrived, size, sender, recipients (address, state, reply) and the rest of the envelope"

// limit is how many messages are listed; 0 means all.
type limit int64

// UnmarshalText reads the text form.
func (l *limit) UnmarshalText(text []byte) error {
	n, err := strconv.ParseInt(string(text), 10, 64)
	if err != nil || n < 0 {
		return errors.New("not a number of messages: 0 or more")
	}
	*l = limit(n)
	return nil
}

type queueList struct {
	Domain string `placeholder:"DOMAIN" help:"Only this domain's messages."`
	Limit  limit  `placeholder:"N" help:"Stop after so many; 0 lists all."`
	JSON   bool   `name:"json" help:"Write JSON, a line for each message: ${message_form}."`
}

func (a *queueList) Run(c *cli, s *surroundings) error {
	domain, err := domainArgument(a.Domain)
	if err != nil {
		return err
	}
	return a.list(c, s, domain)
}

// list writes the messages of domain, or of all.
func (a *queueList) list(c *cli, s *surroundings, domain string) error {
	return c.withQueue(s, func(q queue.Admin, out *bufio.Writer) error {
		var count, octets int64
		now := s.now()
		err := q.List(domain, func(e queue.Entry) bool {
			count++
			octets += e.Envelope.WireSize
			ok := true
			if a.JSON {
				ok = writeLine(out, admin.NewMessage(&e))
			} else {
				ok = writeEntry(out, &e, now) == nil
			}
			return ok && count != int64(a.Limit)
		})
		if err == nil && !a.JSON {
			fmt.Fprintf(out, "%s, %s\n", plural(count, "message"), sizeText(octets))
		}
		return err
	})
}

type queueOutbound struct {
	Limit limit `placeholder:"N" help:"Stop after so many; 0 lists all."`
	JSON  bool  `name:"json" help:"Write JSON, a line for each message: ${message_form}."`
}

func (queueOutbound) Help() string {
	return "Reports to senders at domains held here are not among them: they wait in those domains' queues. " +
		"In other listings these stand under " + mail.OutboundDomain + ", which is no domain."
}

func (a *queueOutbound) Run(c *cli, s *surroundings) error {
	return (&queueList{Limit: a.Limit, JSON: a.JSON}).list(c, s, mail.OutboundDomain)
}

// writeEntry writes one message in a few lines: what it is, then each recipient with its state.
func writeEntry(out io.Writer, e *queue.Entry, now time.Time) error {
	v := &e.Envelope
	_, err := fmt.Fprintf(out, "%s  %s  %s  %s  from <%s>%s\n", v.ID, v.Domain, ageText(now.Sub(time.Unix(0, v.Arrived))), sizeText(v.WireSize), clean(v.ReversePath), leasedText(e.Leased))
	for i := range v.Recipients {
		r := &v.Recipients[i]
		text := stateText(r.State)
		if r.Reply != "" {
			text += ": " + clean(r.Reply)
		}
		_, err2 := fmt.Fprintf(out, "    to <%s>  %s\n", clean(r.Address), text)
		err = errors.Join(err, err2)
	}
	return err
}

func leasedText(leased bool) string {
	if leased {
		return "  (being collected)"
	}
	return ""
}

func stateText(s mail.RecipientState) string {
	switch s {
	case mail.Pending:
		return "waiting"
	case mail.Delivered:
		return "delivered"
	case mail.Failed:
		return "failed"
	case mail.Held:
		return "held"
	case mail.Relayed:
		return "delivered, report to be sent"
	case mail.Bounced:
		return "failed, and reported as far as asked for"
	}
	return "unknown"
}

// originText names the client that the MX had a message from.
func originText(o *mail.Origin) string {
	if o == nil {
		return ""
	}
	name, addr, helo := o.Name, o.Addr, ""
	if name == "" {
		name = "unknown"
	}
	if addr == "" {
		addr = "unknown"
	}
	if o.Helo != "" {
		helo = ", helo " + o.Helo
	}
	return clean(name + " [" + addr + "]" + helo)
}

// clientText names who handed a message in; a report has come from nowhere else.
func clientText(client string) string {
	if client == "" {
		return "this server"
	}
	return clean(client)
}

type queueShow struct {
	ID   string `arg:"" help:"Queue id."`
	Body bool   `help:"Write the message itself, and nothing else."`
	JSON bool   `name:"json" xor:"form" help:"Write JSON, a line for each customer domain of the message: ${message_form}."`
}

func (a *queueShow) Run(c *cli, s *surroundings) error {
	id, err := mail.ParseID(a.ID)
	if err != nil {
		return usageError(fmt.Sprintf("%q is %v", a.ID, err))
	}
	return c.withQueue(s, func(q queue.Admin, out *bufio.Writer) error {
		if a.Body {
			return writeBody(q, out, id)
		}
		entries, err := q.Show(id)
		if err != nil {
			return fmt.Errorf("%s: %w", id, err)
		}
		for i := range entries {
			if a.JSON {
				writeLine(out, admin.NewMessage(&entries[i]))
				continue
			}
			writeDetails(out, &entries[i], s.now())
		}
		return nil
	})
}

// writeDetails writes everything about one entry.
func writeDetails(out io.Writer, e *queue.Entry, now time.Time) {
	v := &e.Envelope
	m := admin.NewMessage(e)
	arrived := time.Unix(0, v.Arrived)
	writeEntry(out, e, now)
	fmt.Fprintf(out, "    arrived %s from %s, %s as %s, sent %d times in vain\n", arrived.Format(time.RFC3339), clientText(v.Client),
		plural(v.Size, "octet"), m.Body, v.Attempts)
	for _, note := range []struct {
		is   bool
		text string
	}{
		{v.EightBit, "has 8-bit content"},
		{v.SMTPUTF8, "needs SMTPUTF8"},
		{v.InDoubt, "was handed over once without a final reply: may have arrived"},
		{v.DelayNotified, "its sender was told of the delay"},
		{v.Origin != nil, "the MX had it from " + originText(v.Origin)},
		{m.Ret != "", "RET=" + m.Ret},
		{v.EnvID != "", "ENVID=" + clean(v.EnvID)},
	} {
		if note.is {
			fmt.Fprintf(out, "    %s\n", note.text)
		}
	}
	for _, r := range m.Recipients {
		if len(r.Notify) > 0 || r.ORcpt != "" {
			fmt.Fprintf(out, "    <%s> NOTIFY=%s ORCPT=%s\n", clean(r.Address), strings.Join(r.Notify, ","), clean(r.ORcpt))
		}
	}
}

// writeBody writes the message as its author wrote it: the stored form has dots stuffed.
func writeBody(q queue.Admin, out *bufio.Writer, id mail.ID) error {
	body, err := q.Open(id)
	if err != nil {
		return fmt.Errorf("%s: %w", id, err)
	}
	defer body.Close()
	return admin.CopyBody(&unstuffer{out: out}, body)
}

type unstuffer struct {
	out   io.Writer
	state codec.Unstuffer
	buf   []byte
}

func (u *unstuffer) Write(p []byte) (int, error) {
	u.buf = u.state.Append(u.buf[:0], p)
	if _, err := u.out.Write(u.buf); err != nil {
		return 0, err
	}
	return len(p), nil
}

type queueRemove struct {
	IDs    []string `arg:"" name:"id" help:"Queue ids."`
	Domain string   `placeholder:"DOMAIN" help:"Remove them from this domain's queue only; a message may be in several."`
}

func (a *queueRemove) Run(c *cli, s *surroundings) error {
	domain, err := domainArgument(a.Domain)
	if err != nil {
		return err
	}
	ids, err := idArguments(a.IDs)
	if err != nil {
		return err
	}
	return c.withQueue(s, func(q queue.Admin, out *bufio.Writer) error {
		var failed []error
		for _, id := range ids {
			n, err := q.Remove(domain, id)
			if err != nil {
				failed = append(failed, fmt.Errorf("%s: %w", id, err))
				continue
			}
			fmt.Fprintf(out, "%s removed from %s\n", id, plural(int64(n), "queue"))
		}
		return errors.Join(failed...)
	})
}

func idArguments(texts []string) ([]mail.ID, error) {
	ids := make([]mail.ID, len(texts))
	for i, text := range texts {
		var err error
		if ids[i], err = mail.ParseID(text); err != nil {
			return nil, usageError(fmt.Sprintf("%q is %v", text, err))
		}
	}
	return ids, nil
}

type queueCheck struct {
	JSON bool `name:"json" help:"Write JSON: an object with domains, entries, bodies, chunks and problems."`
}

func (queueCheck) Help() string {
	return "It reads everything, and may run beside a serving server. Exit status 1 if anything is wrong."
}

// checkResult is the JSON form of what a check found.
type checkResult struct {
	Domains  int64          `json:"domains"`
	Entries  int64          `json:"entries"`
	Bodies   int64          `json:"bodies"`
	Chunks   int64          `json:"chunks"`
	Problems []checkProblem `json:"problems"`
}

type checkProblem struct {
	Domain string `json:"domain,omitempty"`
	ID     string `json:"id,omitempty"`
	Text   string `json:"text"`
}

func (a *queueCheck) Run(c *cli, s *surroundings) error {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	result := checkResult{Problems: []checkProblem{}}
	err := c.withQueue(s, func(q queue.Admin, out *bufio.Writer) error {
		checked, err := q.Check(ctx, progressOn(s.stderr), func(v queue.Violation) {
			p := checkProblem{Domain: v.Domain, Text: v.Problem}
			if v.ID != 0 {
				p.ID = v.ID.String()
			}
			result.Problems = append(result.Problems, p)
			if !a.JSON {
				fmt.Fprintln(out, strings.Join(strings.Fields(p.Domain+" "+p.ID+" "+clean(p.Text)), " "))
			}
		})
		if err != nil {
			return err
		}
		result.Domains, result.Entries, result.Bodies, result.Chunks = checked.Domains, checked.Entries, checked.Bodies, checked.Chunks
		if a.JSON {
			return writeJSON(out, result)
		}
		_, err = fmt.Fprintf(out, "checked %d domains, %d entries, %d bodies, %d chunks: %s\n", checked.Domains, checked.Entries,
			checked.Bodies, checked.Chunks, plural(int64(len(result.Problems)), "problem"))
		return err
	})
	if err == nil && len(result.Problems) > 0 {
		return fmt.Errorf("the queue is damaged: %s", plural(int64(len(result.Problems)), "problem"))
	}
	return err
}

// progressOn shows progress on a terminal; elsewhere nobody would see it.
func progressOn(w io.Writer) func(done, total int64) {
	if !onTerminal(w) {
		return nil
	}
	return func(done, total int64) {
		end := ""
		if done >= total {
			end = "\n"
		}
		fmt.Fprintf(w, "\r%d of about %d looked at%s", done, total, end)
	}
}

// domainArgument brings a domain into the form that queues are named by.
func domainArgument(domain string) (string, error) {
	if domain == "" {
		return "", nil
	}
	canonical, err := account.ParseDomain(domain)
	if err != nil {
		return "", usageError(err.Error())
	}
	return canonical, nil
}

// writeLine writes v as one line of JSON and reports whether the reader is still there.
func writeLine(out io.Writer, v any) bool { return json.NewEncoder(out).Encode(v) == nil }

func sizeText(octets int64) string {
	for _, unit := range []config.Size{1 << 40, 1 << 30, 1 << 20, 1 << 10} {
		if octets >= int64(unit) {
			return fmt.Sprintf("%.1f%s", float64(octets)/float64(unit), strings.TrimLeft(unit.String(), "0123456789"))
		}
	}
	return fmt.Sprintf("%dB", octets)
}

// ageText gives an age in the largest two units.
func ageText(d time.Duration) string {
	switch {
	case d < time.Minute:
		return fmt.Sprintf("%ds", max(0, int64(d/time.Second)))
	case d < time.Hour:
		return fmt.Sprintf("%dm%02ds", int64(d/time.Minute), int64(d/time.Second)%60)
	case d < 24*time.Hour:
		return fmt.Sprintf("%dh%02dm", int64(d/time.Hour), int64(d/time.Minute)%60)
	}
	return fmt.Sprintf("%dd%02dh", int64(d/(24*time.Hour)), int64(d/time.Hour)%24)
}

func plural(n int64, noun string) string {
	if n == 1 {
		return "1 " + noun
	}
	return fmt.Sprintf("%d %ss", n, noun)
}

// clean makes what a peer has chosen fit for a terminal.
func clean(text string) string {
	return strings.Map(func(r rune) rune {
		if unicode.IsGraphic(r) {
			return r
		}
		return '?'
	}, text)
}
