package imports

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"os"
	"regexp"
	"strings"
	"time"

	"odmr/internal/mail"
)

// mbox reads a file of mail in the form called mboxrd: every line that begins with "From " begins a letter and must be a separator, with
// a sender and a date; in a letter's lines of ">From ", ">>From " and so on one ">" is taken away; the empty line before a separator
// does not belong to the letter. The older form mboxo, in which "From " alone became ">From ", is read likewise, which is
// right but for lines that were ">From " before. Files that mark lengths instead of quoting (mboxcl2) are refused where they show it: at a
// line "From " that is no separator.
//
// A letter is named by its separator and its content, and by how many that are the same in both came before in the file: so the
// others keep their names when one is deleted, and of several that are the same it does not matter which. It arrived when the separator
// says. The file is held open. Once it is written to, nothing more is read of it: where letters are may not be known any more.
type mbox struct {
	path    string
	file    *os.File
	info    os.FileInfo
	letters []mboxLetter
}

type mboxLetter struct {
	from, to int64 // offsets of its lines, without separator and empty line
	arrived  int64
	sender   string
	sum      [sha256.Size]byte // of separator and content
	like     int               // how many like it came before
}

// separator is a line that begins a letter, as RFC 4155 and its forerunners have it: sender, and a date with or without zone.
var separator = regexp.MustCompile(`^From (.*?) *(?:Mon|Tue|Wed|Thu|Fri|Sat|Sun) ([A-Z][a-z]{2} [ \d]?\d \d\d:\d\d(?::\d\d)?)((?: [A-Za-z]+)?(?: [+-]\d{4})?) (\d{4})( [+-]\d{4})?$`)

// maxSeparator is the longest such line.
const maxSeparator = 1024

func openMbox(path string) (*mbox, error) {
	f, info, err := openFile(path)
	if err != nil {
		return nil, err
	}
	m := &mbox{path: path, file: f, info: info}
	if err := m.index(); err != nil {
		return nil, errors.Join(fmt.Errorf("%s: %w", path, err), f.Close())
	}
	return m, nil
}

// index finds the letters.
func (m *mbox) index() error {
	in := bufio.NewReaderSize(io.NewSectionReader(m.file, 0, m.info.Size()), 64<<10)
	var at int64
	empty := int64(0) // octets of the empty line before this one
	start := true     // of a line
	n := namer{sum: sha256.New(), like: map[[sha256.Size]byte]int{}}
	for line := 1; ; {
		text, err := in.ReadSlice('\n')
		if err == io.EOF && len(text) == 0 {
			break
		}
		if err != nil && err != io.EOF && !errors.Is(err, bufio.ErrBufferFull) {
			return err
		}
		if start && bytes.HasPrefix(text, []byte("From ")) {
			l, ok := parseSeparator(text)
			if !ok {
				return fmt.Errorf("line %d begins with \"From \" and does not separate letters: this is no mboxrd file", line)
			}
			m.end(at-empty, &n)
			n.begin(text)
			l.from = at + int64(len(text))
			m.letters = append(m.letters, l)
		} else if len(m.letters) == 0 && len(bytes.TrimSpace(text)) > 0 {
			return errors.New("it does not begin with a line \"From \": this is no mbox file")
		}
		if start && bytes.HasPrefix(text, []byte("From ")) {
			empty = 0
		} else if s := string(text); start && (s == "\n" || s == "\r\n") {
			n.add(empty > 0, nil)
			empty = int64(len(text))
		} else {
			n.add(empty > 0, text)
			empty = 0
		}
		at += int64(len(text))
		if start = !errors.Is(err, bufio.ErrBufferFull); start {
			line++
		}
	}
	m.end(at-empty, &n)
	return nil
}

// end ends the last letter.
func (m *mbox) end(at int64, n *namer) {
	if last := len(m.letters) - 1; last >= 0 {
		l := &m.letters[last]
		l.to = max(at, l.from)
		l.sum, l.like = n.end()
	}
}

// namer names the letters of a file.
type namer struct {
	sum  hash.Hash
	like map[[sha256.Size]byte]int
}

// begin begins a letter with its separator.
func (n *namer) begin(separator []byte) {
	n.sum.Reset()
	n.add(false, separator)
}

// add adds text, perhaps behind an empty line. A copy with other line ends is the same.
func (n *namer) add(empty bool, text []byte) {
	if empty {
		n.sum.Write([]byte("\n"))
	}
	if body, ok := bytes.CutSuffix(text, []byte("\r\n")); ok {
		n.sum.Write(body)
		text = []byte("\n")
	}
	n.sum.Write(text)
}

func (n *namer) end() (sum [sha256.Size]byte, like int) {
	n.sum.Sum(sum[:0])
	like = n.like[sum]
	n.like[sum]++
	return sum, like
}

func parseSeparator(text []byte) (l mboxLetter, ok bool) {
	line := strings.TrimRight(string(text), "\r\n")
	if len(line) > maxSeparator {
		return l, false
	}
	f := separator.FindStringSubmatch(line)
	if f == nil {
		return l, false
	}
	zone := strings.TrimSpace(f[3] + f[5])
	if i := strings.LastIndexByte(zone, ' '); i >= 0 {
		zone = zone[i+1:]
	}
	clock := "15:04:05"
	if strings.Count(f[2], ":") == 1 {
		clock = "15:04"
	}
	at, err := time.ParseInLocation("Jan _2 "+clock+" 2006", f[2]+" "+f[4], time.UTC)
	if err != nil {
		return l, false
	}
	if z, err := time.Parse("-0700", zone); err == nil {
		_, offset := z.Zone()
		at = at.Add(-time.Duration(offset) * time.Second)
	}
	return mboxLetter{arrived: at.UnixNano(), sender: strings.TrimSpace(f[1])}, true
}

func (m *mbox) Len() int { return len(m.letters) }

func (m *mbox) Name(i int) string { return fmt.Sprintf("letter %d", i+1) }

// part reads letter i with its quoting taken away.
func (m *mbox) part(i int) io.Reader {
	l := &m.letters[i]
	return &unquote{src: bufio.NewReaderSize(io.NewSectionReader(m.file, l.from, l.to-l.from), 32<<10), start: true}
}

func (m *mbox) Load(i int) (*Letter, error) {
	l := &m.letters[i]
	t, err := readTop(m.part(i))
	if err == nil {
		err = m.unchanged()
	}
	if err != nil {
		return nil, err
	}
	out := &Letter{Envelope: t.envelope, Sender: t.sender, Identity: fmt.Sprintf("mbox %x %d", l.sum, l.like), Alias: t.alias(), Body: t.exported}
	if !t.exported {
		out.Envelope.Arrived = l.arrived
	}
	if !t.sender && l.sender != "" {
		out.Sender = true
		if out.Envelope.ReversePath = address(l.sender); out.Envelope.ReversePath == "MAILER-DAEMON" { // what stands there for no sender
			out.Envelope.ReversePath = ""
		}
	}
	out.Envelope.Recipients = dedupe(out.Envelope.Recipients)
	out.Open = func() (io.ReadCloser, error) {
		r := m.part(i)
		if _, err := io.CopyN(io.Discard, r, t.length); err != nil {
			return nil, err
		}
		return io.NopCloser(&untouched{r, m}), nil
	}
	return out, nil
}

// unchanged is an error once the file was written to.
func (m *mbox) unchanged() error {
	info, err := m.file.Stat()
	if err == nil && (info.Size() != m.info.Size() || !info.ModTime().Equal(m.info.ModTime())) {
		err = errors.New("the file was written to meanwhile: run it again")
	}
	if err != nil {
		return unreadable("%w", err)
	}
	return nil
}

// untouched ends in an error if the file was written to while it was read.
type untouched struct {
	io.Reader
	of *mbox
}

func (u *untouched) Read(p []byte) (int, error) {
	n, err := u.Reader.Read(p)
	if err == io.EOF {
		if changed := u.of.unchanged(); changed != nil {
			err = changed
		}
	}
	return n, err
}

// Close implements Source.
func (m *mbox) Close() error { return m.file.Close() }

// RemoveAll removes the file, unless it was written to.
func (m *mbox) RemoveAll() error {
	info, err := os.Lstat(m.path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if !os.SameFile(info, m.info) || info.Size() != m.info.Size() || !info.ModTime().Equal(m.info.ModTime()) {
		return fmt.Errorf("%s was written to meanwhile: it stays", m.path)
	}
	return remove(m.path)
}

// unquote takes one ">" from lines of ">From ", ">>From " and so on.
type unquote struct {
	src   *bufio.Reader
	start bool // a line begins
	rest  []byte
}

func (u *unquote) Read(p []byte) (int, error) {
	if len(u.rest) == 0 {
		text, err := u.src.ReadSlice('\n')
		if len(text) == 0 && err != nil {
			return 0, err
		}
		if u.start && text[0] == '>' && bytes.HasPrefix(bytes.TrimLeft(text, ">"), []byte("From ")) {
			text = text[1:]
		}
		u.start = text[len(text)-1] == '\n'
		u.rest = text // valid until the next ReadSlice
	}
	n := copy(p, u.rest)
	u.rest = u.rest[n:]
	return n, nil
}

// quoter writes content into an mboxrd file: line ends become LF, and lines of "From ", ">From " and so on get one ">" more.
// Content that is empty, or ends in CRLF, is read back as it was.
type quoter struct {
	out     *bufio.Writer
	cr      bool // a CR is held back: LF may follow
	matched int  // octets of fromLine that the line has behind its ">", which are held back; or inLine
}

const (
	fromLine = "From "
	inLine   = -1 // no quoting in this line any more
)

// NewQuoter returns a writer of the next letter's content; out keeps its first error.
func NewQuoter(out *bufio.Writer) io.Writer { return &quoter{out: out} }

func (q *quoter) Write(p []byte) (int, error) {
	for _, c := range p {
		if q.cr {
			q.cr = false
			if c != '\n' {
				q.octet('\r')
			}
		}
		if q.cr = c == '\r'; !q.cr {
			q.octet(c)
		}
	}
	return len(p), nil
}

func (q *quoter) octet(c byte) {
	switch {
	case q.matched == inLine || q.matched == 0 && c == '>': // where in the row of ">" one more stands is all the same
	case c == fromLine[q.matched]:
		if q.matched++; q.matched < len(fromLine) {
			return
		}
		_, _ = q.out.WriteString(">" + fromLine)
		q.matched = inLine
		return
	default:
		_, _ = q.out.WriteString(fromLine[:q.matched])
		q.matched = inLine
	}
	_ = q.out.WriteByte(c)
	if c == '\n' {
		q.matched = 0
	}
}

// Separator is the line that begins a letter in an mbox file, without its end.
func Separator(v *mail.Envelope) string {
	sender := v.ReversePath
	if sender == "" {
		sender = "MAILER-DAEMON"
	}
	sender = strings.Map(func(r rune) rune {
		if r <= ' ' || r == 0x7f {
			return '-'
		}
		return r
	}, sender)
	return "From " + sender + " " + time.Unix(0, v.Arrived).UTC().Format(time.ANSIC)
}
