package imports

import (
	"bufio"
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

// exim reads a spool directory: the pairs of files ID-H (envelope and header) and ID-D (body) in input and, with
// split_spool_directory, its subdirectories. Recipients that have the message already, by the file itself or by the journal ID-J of a
// run that was cut short, are not taken. Frozen messages are left unless they are asked for.
//
// Exim should be stopped: what it goes on to deliver would come twice. What it delivers at this moment is left; it is asked by the lock
// that Exim has on ID-D. Before a message is removed that lock is taken, so that no delivery begins meanwhile, and the message must be
// as it was when it was read; while Exim's daemon runs nothing is removed.
type exim struct {
	dir  string
	hold bool
	ids  []string // paths below dir without "-H", in the order of the ids, which is that of their arrival
}

func openExim(dir string, o Options) (*exim, error) {
	x := &exim{dir: dir, hold: o.Hold}
	if err := x.list("input", true); err != nil {
		return nil, err
	}
	slices.SortFunc(x.ids, func(a, b string) int { return strings.Compare(filepath.Base(a), filepath.Base(b)) })
	return x, nil
}

func (x *exim) list(name string, split bool) error {
	entries, err := os.ReadDir(filepath.Join(x.dir, name))
	if err != nil {
		return err
	}
	for _, e := range entries {
		id, isHead := strings.CutSuffix(e.Name(), "-H")
		switch {
		case e.IsDir() && split && len(e.Name()) == 1:
			if err := x.list(filepath.Join(name, e.Name()), false); err != nil && !errors.Is(err, fs.ErrNotExist) {
				return err
			}
		case !e.IsDir() && isHead && id != "":
			x.ids = append(x.ids, filepath.Join(name, id))
		}
	}
	return nil
}

func (x *exim) Len() int          { return len(x.ids) }
func (x *exim) Name(i int) string { return x.ids[i] }
func (x *exim) RemoveAll() error  { return nil }
func (x *exim) Close() error      { return nil }

func (x *exim) path(i int, part string) string { return filepath.Join(x.dir, x.ids[i]) + part }

func (x *exim) Load(i int) (*Letter, error) {
	if err := x.unlocked(i); err != nil {
		return nil, err
	}
	h, err := x.head(i)
	if err != nil {
		return nil, err
	}
	if h.frozen && !x.hold {
		return nil, unreadable("it is frozen (--hold takes it)")
	}
	if err := x.journal(i, h); err != nil {
		return nil, err
	}
	h.env.Recipients = slices.DeleteFunc(dedupe(h.env.Recipients), func(r mail.Recipient) bool { return h.served[foldDomain(r.Address)] })
	if len(h.env.Recipients) == 0 {
		return nil, unreadable("nobody is left who waits for it")
	}
	id := filepath.Base(x.ids[i])
	l := &Letter{Envelope: h.env, Sender: true, Body: true, Identity: fmt.Sprintf("exim %s %d", id, h.env.Arrived)}
	l.Open = func() (io.ReadCloser, error) { return x.content(i) }
	state := h.state
	l.Remove = func() error { return x.remove(i, state) }
	return l, nil
}

// state is what a delivery changes of a message.
type state struct {
	head    os.FileInfo
	journal int64 // octets of -J, 0 without
}

// remove removes a message that is still in that state.
func (x *exim) remove(i int, was state) error {
	for _, file := range []string{"/run/exim4/exim.pid", "/run/exim.pid", filepath.Join(x.dir, "exim-daemon.pid")} {
		if x.runs(file) {
			return errors.New("this Exim's daemon is running, and may deliver it, too: stop it")
		}
	}
	f, err := os.OpenFile(x.path(i, "-D"), os.O_RDWR|syscall.O_NOFOLLOW|syscall.O_NONBLOCK|syscall.O_CLOEXEC, 0) // a lock for writing needs it
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err == nil {
		defer f.Close()
		lock := x.lock(i)
		if err := syscall.FcntlFlock(f.Fd(), syscall.F_SETLK, &lock); err != nil {
			return errors.New("a delivery of it is under way")
		}
	}
	now, err := x.state(i)
	if errors.Is(err, fs.ErrNotExist) {
		return nil // Exim has removed it
	}
	if err != nil {
		return err
	}
	if !os.SameFile(now.head, was.head) || now.head.Size() != was.head.Size() || !now.head.ModTime().Equal(was.head.ModTime()) || now.journal != was.journal {
		return errors.New("it was changed meanwhile: run it again")
	}
	for _, part := range []string{"-H", "-D", "-J"} { // without -H there is no message
		if err := remove(x.path(i, part)); err != nil {
			return err
		}
	}
	return nil
}

func (x *exim) state(i int) (s state, err error) {
	if s.head, err = os.Lstat(x.path(i, "-H")); err != nil {
		return s, err
	}
	info, err := os.Lstat(x.path(i, "-J"))
	if err == nil {
		s.journal = info.Size()
	}
	if errors.Is(err, fs.ErrNotExist) {
		err = nil
	}
	return s, err
}

// runs says whether the process that a pid file names is an Exim that works in this spool, which is its working directory. Where
// that cannot be asked, it does.
func (x *exim) runs(pidFile string) bool {
	text, err := os.ReadFile(pidFile)
	if err != nil {
		return !errors.Is(err, fs.ErrNotExist)
	}
	proc := filepath.Join("/proc", strings.TrimSpace(string(text)))
	if name, err := os.ReadFile(filepath.Join(proc, "comm")); err != nil || !strings.HasPrefix(string(name), "exim") {
		return err != nil && !errors.Is(err, fs.ErrNotExist)
	}
	at, err := os.Stat(filepath.Join(proc, "cwd"))
	here, err2 := os.Stat(x.dir)
	return err != nil || err2 != nil || os.SameFile(at, here)
}

// head reads a file -H, and notes the state of the message before.
func (x *exim) head(i int) (*eximHead, error) {
	was, err := x.state(i)
	if err != nil {
		return nil, err
	}
	f, info, err := openFile(x.path(i, "-H"))
	if err != nil {
		return nil, err
	}
	defer f.Close()
	if info.Size() > maxHead {
		return nil, unreadable("its envelope is larger than %d octets", maxHead)
	}
	h := &eximHead{in: bufio.NewReader(io.LimitReader(f, maxHead)), served: map[string]bool{}, state: was}
	return h, h.read(filepath.Base(x.ids[i]))
}

// lock is the one that a delivery has on the first line of ID-D.
func (x *exim) lock(i int) syscall.Flock_t {
	return syscall.Flock_t{Type: syscall.F_WRLCK, Len: int64(len(filepath.Base(x.ids[i])) + len("-D\n"))}
}

// unlocked asks the lock that a delivery has on the first line of ID-D.
func (x *exim) unlocked(i int) error {
	f, _, err := openFile(x.path(i, "-D"))
	if err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			return unreadable("it has no file -D")
		}
		return err
	}
	defer f.Close()
	lock := x.lock(i)
	if err := syscall.FcntlFlock(f.Fd(), syscall.F_GETLK, &lock); err == nil && lock.Type != syscall.F_UNLCK {
		return unreadable("Exim is at work on it")
	}
	return nil
}

// journal adds those whom a run that was cut short has served.
func (x *exim) journal(i int, h *eximHead) error {
	f, _, err := openFile(x.path(i, "-J"))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer f.Close()
	lines := bufio.NewScanner(io.LimitReader(f, maxHead))
	for lines.Scan() {
		h.served[foldDomain(lines.Text())] = true
	}
	if err := lines.Err(); err != nil {
		return unreadable("its journal: %w", err)
	}
	return nil
}

// foldDomain is an address with its domain in lower case.
func foldDomain(address string) string {
	at := strings.LastIndexByte(address, '@')
	return address[:at+1] + strings.ToLower(address[at+1:])
}

// content is the header of ID-H, an empty line, and ID-D without its first line: with lines that end in LF or, where it came by BDAT
// and spool_wireformat is on, in CRLF, without stuffed dots. The header is read again: many letters are kept at a time.
func (x *exim) content(i int) (io.ReadCloser, error) {
	h, err := x.head(i)
	if err != nil {
		return nil, err
	}
	f, _, err := openFile(x.path(i, "-D"))
	if err != nil {
		return nil, err
	}
	first := make([]byte, len(filepath.Base(x.ids[i]))+len("-D\n"))
	if _, err := io.ReadFull(f, first); err != nil || string(first) != filepath.Base(x.ids[i])+"-D\n" {
		return nil, errors.Join(unreadable("its file -D does not begin with its name"), f.Close())
	}
	return struct {
		io.Reader
		io.Closer
	}{io.MultiReader(bytes.NewReader(h.fields), strings.NewReader("\n"), f), f}, nil
}

// eximHead is a file ID-H.
type eximHead struct {
	in     *bufio.Reader
	env    mail.Envelope
	frozen bool
	served map[string]bool
	fields []byte // the message's header
	state  state
}

// line reads a line without its end.
func (h *eximHead) line() (string, error) {
	text, err := h.in.ReadString('\n')
	if err != nil {
		return "", unreadable("its file -H breaks off")
	}
	return text[:len(text)-1], nil
}

// read reads all of it: name; who called Exim; sender; time and warnings sent; options; who was served; recipients; header.
func (h *eximHead) read(id string) error {
	var first [4]string
	for i := range first {
		var err error
		if first[i], err = h.line(); err != nil {
			return err
		}
	}
	if first[0] != id+"-H" {
		return unreadable("its file -H does not begin with its name")
	}
	if s := first[2]; len(s) < 2 || s[0] != '<' || s[len(s)-1] != '>' {
		return unreadable("it has no sender")
	}
	h.env.ReversePath = first[2][1 : len(first[2])-1]
	var at, warned int64
	if n, err := fmt.Sscan(first[3], &at, &warned); n < 2 || err != nil || at <= 0 || at > 1<<40 {
		return unreadable("it has no time")
	}
	h.env.Arrived, h.env.DelayNotified = time.Unix(at, 0).UnixNano(), warned > 0
	next, err := h.options()
	if err == nil {
		err = h.nonRecipients(next)
	}
	if err == nil {
		err = h.recipients()
	}
	if err == nil {
		err = h.header()
	}
	return err
}

// options reads the lines that begin with a hyphen, two where the value came from outside, and returns the line after them.
func (h *eximHead) options() (string, error) {
	for {
		text, err := h.line()
		if err != nil || !strings.HasPrefix(text, "-") {
			return text, err
		}
		name, value, _ := strings.Cut(strings.TrimPrefix(text[1:], "-"), " ")
		if strings.HasPrefix(name, "(") { // -(lookup)name: quoted for that
			_, name, _ = strings.Cut(name, ")")
		}
		switch name {
		case "acl", "aclc", "aclm": // name or number, length; the value follows in lines of its own
			words := strings.Fields(value)
			n, err := 0, error(nil)
			if len(words) > 0 {
				n, err = strconv.Atoi(words[len(words)-1])
			}
			if err != nil || n < 0 || n >= maxHead {
				return "", unreadable("an option %q without length", name)
			}
			if _, err := h.in.Discard(n + 1); err != nil {
				return "", unreadable("its file -H breaks off")
			}
		case "frozen":
			h.frozen = true
		case "body_8bitmime", "8bitmime":
			if value == "8" || value == "" {
				h.env.Body = mail.Body8BitMIME
			}
		case "smtputf8":
			h.env.SMTPUTF8 = true
		case "dsn_envid":
			if h.env.EnvID = value; !codec.ValidXtext([]byte(value), codec.MaxEnvID) { // it may be kept decoded
				h.env.EnvID = string(codec.AppendXtext(nil, []byte(value)))
			}
		case "dsn_ret": // 1 FULL, 2 HDRS
			if n, err := strconv.Atoi(value); err == nil && n >= 0 && n <= int(mail.ReturnHeaders) {
				h.env.Ret = mail.Return(n)
			}
		case "received_time_usec": // ".123456"
			if micro, err := strconv.ParseInt(strings.TrimPrefix(value, "."), 10, 32); err == nil && micro >= 0 && micro < 1e6 {
				h.env.Arrived += micro * 1000
			}
		}
	}
}

// nonRecipients reads the tree of those served: "XX", or a line for each node with whether it has a left and a right one.
func (h *eximHead) nonRecipients(text string) error {
	if text == "XX" {
		return nil
	}
	for open := 1; open > 0; open-- {
		if len(text) < 4 || strings.Trim(text[:2], "YN") != "" || text[2] != ' ' {
			return unreadable("the tree of those who have it is broken")
		}
		open += strings.Count(text[:2], "Y")
		h.served[foldDomain(text[3:])] = true
		if open > 1 {
			var err error
			if text, err = h.line(); err != nil {
				return err
			}
		}
	}
	return nil
}

func (h *eximHead) recipients() error {
	text, err := h.line()
	if err != nil {
		return err
	}
	n, err := strconv.Atoi(text)
	if err != nil || n < 0 || n > maxRecipients {
		return unreadable("%q recipients: there may be %d", text, maxRecipients)
	}
	for range n {
		if text, err = h.line(); err != nil {
			return err
		}
		r, ok := eximRecipient(text)
		if !ok {
			return unreadable("the recipient %q is broken", text)
		}
		h.env.Recipients = append(h.env.Recipients, r)
	}
	if text, err = h.line(); err == nil && text != "" {
		err = unreadable("its file -H has no header")
	}
	return err
}

// Bits of a recipient's flags for DSN.
const (
	eximNever   = 0x02
	eximSuccess = 0x04
	eximFailure = 0x08
	eximDelay   = 0x10
)

// eximRecipient reads a recipient. Values with their lengths are behind the address, and are read from the end:
//
//	address
//	address ERRORS-TO length,parent#1
//	address ORCPT length,flags ERRORS-TO length,parent#3
func eximRecipient(text string) (r mail.Recipient, ok bool) {
	hash := strings.LastIndexByte(text, '#')
	if hash < 0 || text[hash+1:] != "1" && text[hash+1:] != "3" {
		r.Address = text
		return r, text != "" && !strings.ContainsAny(text, " \t")
	}
	rest, _, _, ok := eximValue(text[:hash])
	if ok && text[hash+1] == '3' {
		var flags int64
		rest, r.ORcpt, flags, ok = eximValue(rest)
		for _, f := range []struct {
			bit int64
			is  mail.Notify
		}{{eximNever, mail.NotifyNever}, {eximSuccess, mail.NotifySuccess}, {eximFailure, mail.NotifyFailure}, {eximDelay, mail.NotifyDelay}} {
			if flags&f.bit != 0 {
				r.Notify |= f.is
			}
		}
	}
	r.Address = rest
	if r.ORcpt != "" && !codec.ValidOrcpt([]byte(r.ORcpt)) { // it may be kept decoded
		r.ORcpt = encodeORcpt(r.ORcpt)
	}
	return r, ok && rest != ""
}

// eximValue takes " VALUE length,number" off the end of text.
func eximValue(text string) (rest, value string, number int64, ok bool) {
	space := strings.LastIndexByte(text, ' ')
	length, num, found := strings.Cut(text[space+1:], ",")
	n, err := strconv.Atoi(length)
	number, err2 := strconv.ParseInt(num, 10, 32)
	if space < 0 || !found || err != nil || err2 != nil || n < 0 || n > space-1 {
		return "", "", 0, false
	}
	from := space - n
	if text[from-1] != ' ' {
		return "", "", 0, false
	}
	return text[:from-1], text[from:space], number, true
}

// header reads the message's header: for each field its length, a letter that says what it is, a blank and the field. What was deleted or
// replaced has a "*".
func (h *eximHead) header() error {
	for {
		if _, err := h.in.Peek(1); err == io.EOF {
			return nil
		}
		digits := 0
		n := 0
		for {
			c, err := h.in.ReadByte()
			if err != nil || digits > 8 {
				return unreadable("its header is broken")
			}
			if c < '0' || c > '9' {
				if blank, err := h.in.ReadByte(); err != nil || blank != ' ' || digits == 0 {
					return unreadable("its header is broken")
				}
				if n > maxHead {
					return unreadable("its header is larger than %d octets", maxHead)
				}
				var field bytes.Buffer
				if _, err := io.CopyN(&field, h.in, int64(n)); err != nil {
					return unreadable("its header breaks off")
				}
				if c != '*' {
					h.fields = append(h.fields, field.Bytes()...)
				}
				break
			}
			n = n*10 + int(c-'0')
			digits++
		}
	}
}
