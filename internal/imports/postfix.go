package imports

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"odmr/codec"
	"odmr/internal/mail"
)

// postfix reads a queue directory: incoming, active and deferred with their subdirectories, and hold if asked for. Mail in
// maildrop has not been through Postfix yet: what its header and addresses are to be Postfix alone knows, so that it is left. Of each message those recipients are taken that do not have it
// yet. One that waits for a content filter, was redirected or is to be sent with VERP is left: what becomes of it Postfix alone knows.
//
// Postfix should be stopped: what it goes on to deliver would come twice. What it delivers at this moment is left; it is asked by the
// file's lock. While Postfix runs nothing is removed.
type postfix struct {
	dir   string
	files []postfixFile // oldest first
}

type postfixFile struct {
	name    string // below dir
	arrived int64
}

// postfixQueues are those read; the last one if it is asked for.
var postfixQueues = []string{"incoming", "active", "deferred", "hold"}

// maildrop is where mail of local programs lies until Postfix takes it in.
const maildrop = "maildrop"

// maxDepth is how deep queues are hashed into subdirectories (hash_queue_depth).
const maxDepth = 3

func openPostfix(dir string, o Options) (*postfix, error) {
	p := &postfix{dir: dir}
	for _, q := range postfixQueues {
		if q == "hold" && !o.Hold {
			continue
		}
		if err := p.list(q, 0); err != nil && (!errors.Is(err, fs.ErrNotExist) || q == "deferred") {
			return nil, err
		}
	}
	if err := p.list(maildrop, 0); err != nil && !errors.Is(err, fs.ErrNotExist) {
		p.files = append(p.files, postfixFile{name: maildrop}) // it may be root's to look into
	}
	slices.SortFunc(p.files, func(a, b postfixFile) int {
		if a.arrived != b.arrived {
			return int(min(max(a.arrived-b.arrived, -1), 1))
		}
		return strings.Compare(filepath.Base(a.name), filepath.Base(b.name))
	})
	return p, nil
}

// list finds the files below a queue's directory.
func (p *postfix) list(name string, depth int) error {
	entries, err := os.ReadDir(filepath.Join(p.dir, name))
	if err != nil {
		return err
	}
	for _, e := range entries {
		below := filepath.Join(name, e.Name())
		switch {
		case e.IsDir() && depth < maxDepth:
			if err := p.list(below, depth+1); err != nil && !errors.Is(err, fs.ErrNotExist) {
				return err
			}
		case !e.IsDir() && e.Name()[0] != '.':
			p.files = append(p.files, postfixFile{below, p.arrival(below)})
		}
	}
	return nil
}

// arrival looks at a file's first records for its time, so that mail comes in in the order in which it came there.
func (p *postfix) arrival(name string) int64 {
	f, info, err := openFile(filepath.Join(p.dir, name))
	if err != nil {
		return 0 // Load says what is wrong with it
	}
	defer f.Close()
	r := newRecords(f, info.Size())
	for range 8 {
		kind, data, err := r.next()
		if err != nil {
			return 0
		}
		if kind == recTime {
			return postfixTime(data)
		}
	}
	return 0
}

// postfixTime reads seconds and, if they are there, microseconds; 0 if there is no time.
func postfixTime(data []byte) int64 {
	words := strings.Fields(string(data))
	if len(words) == 0 {
		return 0
	}
	sec, err := strconv.ParseInt(words[0], 10, 40)
	if err != nil || sec < 0 {
		return 0
	}
	var micro int64
	if len(words) > 1 {
		if micro, err = strconv.ParseInt(words[1], 10, 32); err != nil || micro < 0 || micro > 999_999 {
			micro = 0
		}
	}
	return time.Unix(sec, micro*1000).UnixNano()
}

func (p *postfix) Len() int          { return len(p.files) }
func (p *postfix) Name(i int) string { return p.files[i].name }
func (p *postfix) RemoveAll() error  { return nil }
func (p *postfix) Close() error      { return nil }

func (p *postfix) Load(i int) (*Letter, error) {
	path := filepath.Join(p.dir, p.files[i].name)
	switch queue, id, _ := strings.Cut(p.files[i].name, string(filepath.Separator)); {
	case queue == maildrop && id == "":
		return nil, unreadable("what is in it cannot be listed, and Postfix has not taken it in yet: let Postfix run for a moment")
	case queue == maildrop:
		return nil, unreadable("Postfix has not taken it in yet: let it run for a moment")
	}
	f, info, err := openFile(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	if info.Mode()&0o100 == 0 { // cleanup(8) sets it when the file is whole
		return nil, unreadable("it is not whole: it is still coming in, or was given up")
	}
	// Its programs that deliver share their lock among them, so that ours must exclude them.
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		return nil, unreadable("Postfix is at work on it")
	}
	if p.reportDue(filepath.Base(path)) {
		return nil, unreadable("Postfix was stopped before it told the sender of those whom it could not deliver to (bounce/%s): let it run for a moment", filepath.Base(path))
	}
	e := postfixEnvelope{records: newRecords(f, info.Size())}
	if err := e.read(); err != nil {
		return nil, err
	}
	l := &Letter{Envelope: e.env, Sender: true, Body: true, Identity: fmt.Sprintf("postfix %s %d", filepath.Base(path), e.env.Arrived)}
	l.Envelope.Recipients = dedupe(l.Envelope.Recipients)
	content := e.content // and nothing else of e is kept
	l.Open = func() (io.ReadCloser, error) { return openPostfixContent(path, content) }
	l.Remove = func() error { return p.remove(p.files[i].name) }
	return l, nil
}

// reportDue says whether a letter has failed for somebody and its sender is not told yet: that is lost with its file.
func (p *postfix) reportDue(id string) bool {
	for _, below := range []string{"", id[:1], filepath.Join(id[:1], id[1:min(2, len(id))])} { // hash_queue_names may have it
		if _, err := os.Lstat(filepath.Join(p.dir, "bounce", below, id)); err == nil {
			return true
		}
	}
	return false
}

// remove removes a queue file and the notes on why it was deferred.
func (p *postfix) remove(name string) error {
	if running(filepath.Join(p.dir, "pid", "master.pid")) {
		return errors.New("this Postfix is running, and may deliver it, too: postfix stop")
	}
	if err := remove(filepath.Join(p.dir, name)); err != nil {
		return err
	}
	queue, below, _ := strings.Cut(name, string(filepath.Separator))
	if queue == "deferred" {
		_ = os.Remove(filepath.Join(p.dir, "defer", below)) // of no more use, and no harm
	}
	return nil
}

// running says whether a process holds the lock of its pid file. Where that cannot be asked, it does.
func running(pidFile string) bool {
	f, err := os.Open(pidFile)
	if err != nil {
		return !errors.Is(err, fs.ErrNotExist)
	}
	defer f.Close()
	return errors.Is(syscall.Flock(int(f.Fd()), syscall.LOCK_SH|syscall.LOCK_NB), syscall.EWOULDBLOCK)
}

// postfixEnvelope is what is read of a queue file but for its content.
type postfixEnvelope struct {
	*records
	env      mail.Envelope
	sender   bool
	content  int64          // offset of its first record
	rcpt     mail.Recipient // parameters that came before it
	octets   int
	refusal  error
	inHeader bool // past the content
}

func (e *postfixEnvelope) read() error {
	for {
		kind, data, err := e.next()
		if err != nil {
			return err
		}
		if kind == recMessage {
			break
		}
		if err := e.record(kind, data); err != nil {
			return err
		}
	}
	e.content = e.at
	for {
		kind, _, err := e.next()
		if err != nil {
			return err
		}
		if kind == recExtra {
			break
		}
		if kind != recNormal && kind != recLong {
			return unreadable("a record %q within the content", kind)
		}
	}
	e.inHeader = true
	for {
		kind, data, err := e.next()
		if err != nil {
			return err
		}
		if kind == recEnd {
			break
		}
		if err := e.record(kind, data); err != nil {
			return err
		}
	}
	switch {
	case e.refusal != nil:
		return e.refusal
	case !e.sender || e.env.Arrived == 0:
		return unreadable("sender or time is missing")
	case len(e.env.Recipients) == 0:
		return unreadable("nobody is left who waits for it")
	}
	return nil
}

// record takes one record of the envelope, or of what was extracted.
func (e *postfixEnvelope) record(kind byte, data []byte) error {
	if e.octets += len(data); e.octets > maxHead {
		return unreadable("its envelope is larger than %d octets", maxHead)
	}
	switch text := string(data); kind {
	case recSize:
		if words := strings.Fields(text); len(words) > 5 {
			// The lowest bit says that the client asked for it, the others that it is needed.
			flags, err := strconv.ParseUint(words[5], 10, 32)
			e.env.SMTPUTF8 = err == nil && flags&^1 != 0
		}
	case recTime:
		e.env.Arrived = postfixTime(data)
	case recFrom:
		if !e.sender { // the one of the envelope
			e.env.ReversePath, e.sender = text, true
		}
	case recRcpt:
		if len(e.env.Recipients) == maxRecipients {
			return unreadable("more than %d recipients", maxRecipients)
		}
		e.rcpt.Address = text
		e.env.Recipients = append(e.env.Recipients, e.rcpt)
		e.rcpt = mail.Recipient{}
	case recDone, recCanceled:
		e.rcpt = mail.Recipient{}
	case recFilter:
		e.refusal = unreadable("it waits for the content filter %q", text)
	case recRedirect:
		e.refusal = unreadable("it was redirected to %q", text)
	case recVERP:
		e.refusal = unreadable("its senders are made from its recipients (VERP)")
	case recAttr:
		name, value, _ := strings.Cut(text, "=")
		e.attribute(name, value)
	case recEnvID:
		e.attribute("envelope_id", text)
	case recRet:
		e.attribute("ret_flags", text)
	case recORcpt:
		e.attribute("dsn_orig_rcpt", text)
	case recNotify:
		e.attribute("notify_flags", text)
	case recMessage, recExtra, recEnd, recNormal:
		return unreadable("a record %q where it does not belong", kind)
	}
	return nil
}

// attribute takes a parameter; what came before a recipient is its own.
func (e *postfixEnvelope) attribute(name, value string) {
	number := func(most uint64) uint64 {
		n, err := strconv.ParseUint(strings.TrimSpace(value), 10, 32)
		if err != nil || n > most {
			return 0
		}
		return n
	}
	switch name {
	case "encoding":
		if value == "8bit" {
			e.env.Body = mail.Body8BitMIME
		}
	case "envelope_id":
		e.env.EnvID = string(codec.AppendXtext(nil, []byte(value)))
	case "ret_flags": // 1 FULL, 2 HDRS
		e.env.Ret = mail.Return(number(uint64(mail.ReturnHeaders)))
	case "dsn_orig_rcpt":
		e.rcpt.ORcpt = encodeORcpt(value)
	case "notify_flags": // the same bits as mail.Notify
		e.rcpt.Notify = mail.Notify(number(15))
	}
}

// encodeORcpt brings a decoded original recipient, "type;address", into the form that it has in RCPT.
func encodeORcpt(value string) string {
	kind, address, ok := strings.Cut(value, ";")
	if !ok {
		return ""
	}
	if strings.EqualFold(kind, "rfc822") && strings.ContainsFunc(address, func(r rune) bool { return r >= 0x80 }) {
		kind = "utf-8" // RFC 6533 3
	}
	if !strings.EqualFold(kind, "utf-8") {
		return kind + ";" + string(codec.AppendXtext(nil, []byte(address)))
	}
	var b strings.Builder // RFC 6533 3, utf-8-addr-xtext
	for _, r := range address {
		if r > ' ' && r < 0x7f && r != '\\' && r != '+' && r != '=' {
			b.WriteRune(r)
		} else {
			fmt.Fprintf(&b, `\x{%X}`, r)
		}
	}
	return kind + ";" + b.String()
}

// postfixContent is the content of a queue file as lines that end in LF.
type postfixContent struct {
	*records
	file *os.File
	rest []byte
	end  bool
}

func openPostfixContent(path string, offset int64) (io.ReadCloser, error) {
	f, info, err := openFile(path)
	if err != nil {
		return nil, err
	}
	c := &postfixContent{records: newRecords(f, info.Size()), file: f}
	if err := c.seek(offset); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return c, nil
}

func (c *postfixContent) Close() error { return c.file.Close() }

func (c *postfixContent) Read(p []byte) (int, error) {
	for len(c.rest) == 0 {
		if c.end {
			return 0, io.EOF
		}
		kind, data, err := c.next()
		switch {
		case err != nil:
			return 0, err
		case kind == recExtra:
			c.end = true
		case kind == recLong:
			c.rest = data
		case kind == recNormal:
			c.rest = append(bytes.TrimSuffix(data, []byte("\r")), '\n')
		default:
			return 0, unreadable("a record %q within the content", kind)
		}
	}
	n := copy(p, c.rest)
	c.rest = c.rest[n:]
	return n, nil
}
