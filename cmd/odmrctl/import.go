package main

import (
	"bufio"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/signal"
	"slices"
	"strings"
	"syscall"
	"time"

	"odmr/internal/account"
	"odmr/internal/admin"
	"odmr/internal/imports"
	"odmr/internal/mail"
)

// importCommand is odmrctl import.
type importCommand struct {
	Source    string   `arg:"" placeholder:"SOURCE" help:"maildir:DIR, mbox:FILE, postfix:QUEUEDIR or exim:SPOOLDIR; the kind may be left out where it is plain."`
	Domain    string   `placeholder:"DOMAIN" help:"Only recipients in this domain; others are not looked at."`
	Recipient []string `placeholder:"ADDRESS" help:"Recipient of every message, whatever the message says; may be repeated."`
	Sender    *string  `placeholder:"ADDRESS" help:"Sender (return path) of every message; <> for none."`
	Arrived   string   `enum:"kept,now" default:"kept" help:"When messages count as arrived, for --retention: kept, as their source says; or now. (kept, now)"`
	Waive     []string `enum:"quota,size,recipients" placeholder:"LIMIT" help:"Put limits aside: quota, size (the largest message), recipients (those that the customer does not know); a list."`
	Hold      bool     `help:"Also what is on hold in a Postfix queue or frozen in an Exim spool."`
	Repair    bool     `help:"Mend what mail must not have: a carriage return alone ends a line, NUL is left out. Otherwise such messages are left."`
	DryRun    bool     `help:"Change nothing, and say what would become of each message."`
	Remove    bool     `help:"Remove each message from its source once all its recipients have it here for sure; an mbox file once that is so of all in it."`
}

func (importCommand) Help() string {
	return `Brings mail that was held elsewhere into the queue of a running server. Taken is what its accounts may collect, under the same
conditions as mail that arrives; what is for other domains, over a quota or too large is left where it is, and named with the
reason. Mail keeps the time of its arrival, so that mail older than --retention is left, too (--arrived=now takes it).

The envelope: Postfix and Exim have it, and so have files that odmrctl export wrote, whose fields on top are taken off again.
Otherwise it is what the mail server wrote at the very top of the message (and is taken off): Return-Path for the sender; Envelope-To,
X-Envelope-To, X-Original-To or Delivered-To for the recipients, the first of these names that is there. Without recipient or sender a
message is left, unless --recipient and --sender say them. In an mbox file the From_ line has the sender where Return-Path is missing.

The command, or the server, may be interrupted or killed at any time. Run the same command again: what is here already is
known by name, content and recipient, for 90 days, and does not come twice, even if the customer has collected it.

Line ends become CRLF. Lines may have any length. mbox files are read as mboxrd.

Exit status 3 if something was left.

Examples:
  odmrctl --data /var/lib/odmr import --dry-run maildir:/var/mail/customer
  odmrctl --data /var/lib/odmr import --recipient all@example.org --sender '<>' mbox:/var/mail/old`
}

// exitLeft says that all was done, and not all could be brought in.
const exitLeft = 3

// leftError is the end of an import that left something.
type leftError int64

func (e leftError) Error() string { return plural(int64(e), "message") + " left in the source" }

func (a *importCommand) Run(c *cli, s *surroundings) error {
	if c.Data == "" {
		return usageError("import needs --data DIR (or ODMRCTL_DATA)")
	}
	domain, err := domainArgument(a.Domain)
	if err != nil {
		return err
	}
	if err := a.check(domain); err != nil {
		return err
	}
	source, err := imports.Open(a.Source, imports.Options{Hold: a.Hold})
	if err != nil {
		return err
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	server, err := admin.Dial(ctx, c.Data)
	if err != nil {
		return errors.Join(fmt.Errorf("import needs a running server: %w", err), source.Close())
	}
	defer server.Close()
	out := bufio.NewWriter(s.stdout)
	i := &importer{cmd: a, domain: domain, server: server, source: source, out: out, now: s.now}
	i.progress = newProgress(s, "importing", int64(source.Len()))
	err = i.run(ctx)
	i.progress.done()
	i.summary()
	n := i.count
	if err == nil && !a.DryRun && a.Remove && n.left == 0 && n.passed == 0 {
		err = source.RemoveAll()
	}
	err = errors.Join(err, source.Close(), out.Flush())
	if err == nil && n.left > 0 {
		err = leftError(n.left)
	}
	return err
}

// check says what is wrong with the flags, before anybody is asked: each letter would be left for it.
func (a *importCommand) check(domain string) error {
	v := mail.Envelope{SMTPUTF8: true}
	if a.Sender != nil {
		v.ReversePath = bare(*a.Sender)
	}
	for _, r := range a.Recipient {
		v.Recipients = append(v.Recipients, mail.Recipient{Address: r})
		if domain != "" && !inDomain(r, domain) {
			return usageError(fmt.Sprintf("recipient <%s>: is not in --domain %s", r, domain))
		}
	}
	if err := admin.CheckPaths(&v); err != nil {
		return usageError(err.Error())
	}
	return nil
}

// bare is an address without the angle brackets around it.
func bare(address string) string { return strings.TrimSuffix(strings.TrimPrefix(address, "<"), ">") }

// brought counts messages. One that is for several recipients may be both taken and left.
type brought struct {
	taken, here, left int64
	recipients        int64 // that were taken
	gone              int64 // from the source, meanwhile
	passed            int64 // for none in --domain, or for others, too
	removed           int64
}

// importer brings a source's letters in: it reads a batch, asks the server what it would take of it, and sends that.
type importer struct {
	cmd      *importCommand
	domain   string
	server   *admin.Client
	source   imports.Source
	out      *bufio.Writer
	now      func() time.Time
	progress *progress

	count brought
}

// letter is one of the source's, on its way.
type letter struct {
	*imports.Letter
	name   string
	digest imports.Digest
	parts  []*part
	passed bool // some recipients are not looked at
}

// part is a letter for at most mail.MaxRecipients recipients.
type part struct {
	of     *letter
	letter admin.Letter
	answer *admin.Answer
}

// Bounds of a batch: what is in memory at a time.
const (
	batchLetters    = 256
	batchRecipients = 4096
)

// run brings all letters in.
func (i *importer) run(ctx context.Context) error {
	var batch []*letter
	recipients := 0
	for n := range i.source.Len() {
		if ctx.Err() != nil {
			break
		}
		i.progress.add(1)
		l := i.load(n)
		if l == nil {
			continue
		}
		batch = append(batch, l)
		recipients += len(l.Envelope.Recipients)
		if len(batch) == batchLetters || recipients >= batchRecipients {
			if err := i.bring(ctx, batch); err != nil {
				return err
			}
			batch, recipients = batch[:0], 0
		}
	}
	if err := i.bring(ctx, batch); err != nil {
		return err
	}
	if ctx.Err() != nil {
		return errors.New("interrupted: run the same command again, and it goes on")
	}
	return nil
}

// load reads letter n, or says why it is left and returns nil.
func (i *importer) load(n int) *letter {
	found, err := i.source.Load(n)
	l := &letter{Letter: found, name: i.source.Name(n)}
	if errors.Is(err, fs.ErrNotExist) {
		i.count.gone++
		return nil
	}
	if err == nil {
		err = i.address(l)
	}
	if err == nil {
		l.digest, err = l.sum(i.repair())
	}
	switch {
	case errors.Is(err, errPassed):
		i.count.passed++
		return nil
	case err != nil:
		i.leave(l, nil, err.Error())
		return nil
	}
	i.complete(l)
	for _, p := range l.parts {
		if err := p.letter.Check(); err != nil {
			i.leave(l, nil, err.Error())
			return nil
		}
	}
	return l
}

func (i *importer) repair() imports.Repair {
	if i.cmd.Repair {
		return imports.Mend
	}
	return imports.KeepBare
}

func (l *letter) sum(r imports.Repair) (imports.Digest, error) {
	content, err := l.Open()
	if err != nil {
		return imports.Digest{}, err
	}
	defer content.Close()
	return imports.Sum(imports.Normal(content, r))
}

// errPassed says that a letter is for nobody in --domain.
var errPassed = errors.New("it is for no recipient in this domain")

// address sees to it that a letter has sender and recipients.
func (i *importer) address(l *letter) error {
	v := &l.Envelope
	if i.cmd.Sender != nil {
		v.ReversePath, l.Sender = bare(*i.cmd.Sender), true
	}
	if len(i.cmd.Recipient) > 0 {
		v.Recipients = nil
		for _, r := range i.cmd.Recipient {
			if !slices.ContainsFunc(v.Recipients, func(m mail.Recipient) bool { return m.Address == r }) {
				v.Recipients = append(v.Recipients, mail.Recipient{Address: r})
			}
		}
	}
	switch {
	case len(v.Recipients) == 0:
		return errors.New("nothing at its top says who it is for: give --recipient")
	case !l.Sender:
		return errors.New("nothing at its top says who sent it: give --sender, perhaps <>")
	}
	if i.domain == "" {
		return nil
	}
	all := len(v.Recipients)
	v.Recipients = slices.DeleteFunc(v.Recipients, func(r mail.Recipient) bool { return !inDomain(r.Address, i.domain) })
	if l.passed = len(v.Recipients) < all; len(v.Recipients) == 0 {
		return errPassed
	}
	return nil
}

// inDomain says whether an address is in domain, lower-case A-labels.
func inDomain(address, domain string) bool {
	its, err := account.ParseDomain(strings.ToLower(address[strings.LastIndexByte(address, '@')+1:]))
	return err == nil && its == domain
}

// complete makes what is handed in of a letter.
func (i *importer) complete(l *letter) {
	v := &l.Envelope
	v.Size, v.EightBit = l.digest.Size, l.digest.EightBit
	if now := i.now().UnixNano(); i.cmd.Arrived == "now" || v.Arrived > now {
		v.Arrived = now
	}
	if v.EightBit && !l.Body {
		v.Body = mail.Body8BitMIME
	}
	high := !isASCII(v.ReversePath)
	for _, r := range v.Recipients {
		high = high || !isASCII(r.Address)
	}
	v.SMTPUTF8 = v.SMTPUTF8 || high
	for rcpts := range slices.Chunk(v.Recipients, mail.MaxRecipients) {
		e := *v
		e.Recipients = rcpts
		p := &part{of: l, letter: admin.NewLetter(&e)}
		p.letter.Content, p.letter.Waive = hex.EncodeToString(l.digest.Sum[:]), i.cmd.Waive
		for _, r := range rcpts {
			stamp := l.Stamp(l.digest.Sum, r.Address)
			p.letter.Stamps = append(p.letter.Stamps, hex.EncodeToString(stamp[:]))
			if stamp, ok := l.AliasStamp(l.digest.Sum, r.Address); ok {
				p.letter.Also = append(p.letter.Also, hex.EncodeToString(stamp[:]))
			}
		}
		l.parts = append(l.parts, p)
	}
}

func isASCII(s string) bool {
	return strings.IndexFunc(s, func(r rune) bool { return r >= 0x80 }) < 0
}

// bring asks about a batch, and sends what is to be taken.
func (i *importer) bring(ctx context.Context, batch []*letter) error {
	var parts []*part
	var ask []admin.Letter
	for _, l := range batch {
		for _, p := range l.parts {
			parts, ask = append(parts, p), append(ask, p.letter)
		}
	}
	if len(parts) == 0 {
		return nil
	}
	answers, err := i.server.Ask(ctx, ask)
	if err != nil {
		return stopped(ctx, err)
	}
	var send []*part
	for n, p := range parts {
		p.answer = &answers[n]
		if !i.cmd.DryRun && slices.ContainsFunc(p.answer.Recipients, func(v admin.Verdict) bool { return v.Verdict == admin.Taken }) {
			send = append(send, p)
		}
	}
	if err := i.send(ctx, send); err != nil {
		return stopped(ctx, err)
	}
	for _, l := range batch {
		i.settle(l)
	}
	return nil
}

// stopped is why an import ends before all is done.
func stopped(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return errors.New("interrupted: run the same command again, and it goes on")
	}
	if errors.Is(err, admin.ErrStill) {
		return fmt.Errorf("%w: run the same command again, and it goes on", err)
	}
	return fmt.Errorf("stopped, run the same command again when it is mended: %w", err)
}

// send hands parts in, and returns when all of them are durable or refused.
func (i *importer) send(ctx context.Context, parts []*part) error {
	if len(parts) == 0 {
		return nil
	}
	sending := i.server.Import(ctx, func(a *admin.Answer) {
		if a.N >= 0 && a.N < len(parts) {
			parts[a.N].answer = a
		}
	})
	for _, p := range parts {
		p.answer = nil // until it is known
	}
	failed := make([]error, len(parts))
	for n, p := range parts {
		if failed[n] = i.sendPart(sending, p); errors.Is(failed[n], admin.ErrEnded) {
			break
		}
	}
	if err := sending.Close(); err != nil {
		return err
	}
	for n, p := range parts {
		if p.answer == nil && failed[n] == nil {
			return errors.New("the server has not answered for a message")
		}
		if failed[n] != nil {
			p.answer = p.refused(failed[n])
		}
	}
	return nil
}

func (i *importer) sendPart(to *admin.Import, p *part) error {
	content, err := p.of.Open()
	if err != nil {
		return errors.Join(to.Skip(), err)
	}
	defer content.Close()
	return to.Send(&p.letter, imports.Normal(content, i.repair()))
}

// refused is the answer to a part that could not be sent.
func (p *part) refused(err error) *admin.Answer {
	a := new(admin.Answer)
	for range p.letter.Recipients {
		a.Recipients = append(a.Recipients, admin.Verdict{Verdict: admin.Refused, Reason: err.Error()})
	}
	return a
}

// settle counts what became of a letter, names what was left, and removes what is here for sure.
func (i *importer) settle(l *letter) {
	verdicts := map[string]int64{}
	reasons := map[string][]string{} // recipients by reason
	var order []string
	for _, p := range l.parts {
		for n, v := range p.answer.Recipients {
			verdicts[v.Verdict]++
			if v.Verdict == admin.Refused {
				if reasons[v.Reason] == nil {
					order = append(order, v.Reason)
				}
				reasons[v.Reason] = append(reasons[v.Reason], p.letter.Recipients[n].Address)
			}
		}
	}
	i.count.recipients += verdicts[admin.Taken]
	switch {
	case verdicts[admin.Taken] > 0:
		i.count.taken++
	case verdicts[admin.Refused] == 0:
		i.count.here++
	}
	for _, reason := range order {
		i.name(l, reasons[reason], reason)
	}
	switch {
	case verdicts[admin.Refused] > 0:
		i.count.left++
	case l.passed:
		i.count.passed++
	case i.cmd.Remove && !i.cmd.DryRun && l.Remove != nil:
		if err := l.Remove(); err != nil {
			i.leave(l, nil, "it is here, and cannot be removed: "+err.Error())
			return
		}
		i.count.removed++
	}
}

// leave counts a letter that is left, and names it.
func (i *importer) leave(l *letter, rcpts []string, reason string) {
	i.count.left++
	i.name(l, rcpts, reason)
}

// namedRecipients is how many recipients are named in a line about what is left.
const namedRecipients = 3

// name says which letter, and which of its recipients, is left and why.
func (i *importer) name(l *letter, rcpts []string, reason string) {
	to := ""
	if len(rcpts) > 0 {
		to = " for " + strings.Join(rcpts[:min(len(rcpts), namedRecipients)], ", ")
		if more := len(rcpts) - namedRecipients; more > 0 {
			to += fmt.Sprintf(" and %d more", more)
		}
	}
	fmt.Fprintf(i.out, "left: %s%s: %s\n", clean(l.name), clean(to), clean(reason))
}

// summary says what became of all.
func (i *importer) summary() {
	n := &i.count
	verb := "taken"
	if i.cmd.DryRun {
		verb = "to be taken"
	}
	fmt.Fprintf(i.out, "%s %s (for %s), %d here already, %d left", plural(n.taken, "message"), verb, plural(n.recipients, "recipient"), n.here, n.left)
	for _, more := range []struct {
		n    int64
		text string
	}{{n.passed, "not for this domain alone"}, {n.gone, "gone meanwhile"}, {n.removed, "removed from the source"}} {
		if more.n > 0 {
			fmt.Fprintf(i.out, ", %d %s", more.n, more.text)
		}
	}
	fmt.Fprintln(i.out)
}
