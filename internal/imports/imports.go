// Package imports reads mail that was held elsewhere: a Maildir, a file of mail (mbox), the queue of a Postfix or the spool of
// an Exim; and it knows the header fields in which an export keeps the envelope.
//
// A Source lists what there is, oldest first, and loads one letter at a time: its envelope, and its content as a stream with lines that
// end in CRLF. What a letter's envelope is made of is said at each source. Sources were written by others, so that nothing in
// them is believed: every length has a limit, symbolic links, pipes and devices are passed over (O_NOFOLLOW, O_NONBLOCK; no link
// within a Maildir, which is its customer's to write into, leads out of it), and what cannot be read is an error that names the
// letter and concerns no other. Nothing is changed or removed but by Remove.
//
// A Source belongs to one goroutine. Memory: some 100 octets for each letter of a source, and one letter's envelope.
//
// It must never decide whether mail is taken: the server does (internal/admin).
package imports

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"odmr/internal/mail"
)

// ErrUnreadable is behind every error of Load that concerns the letter alone: it is left where it is.
var ErrUnreadable = errors.New("cannot be read")

// unreadable makes an error of Load.
func unreadable(format string, args ...any) error {
	return fmt.Errorf("%w: %w", ErrUnreadable, fmt.Errorf(format, args...))
}

// Limits of what is read. They are generous: who exceeds them wrote no mail.
const (
	// maxHead is how many octets of envelope a letter may have: 100,000 recipients with parameters in a Postfix queue file.
	maxHead = 64 << 20
	// maxRecipients is how many recipients a letter may have; more than mail.MaxRecipients are handed in in parts.
	maxRecipients = 100_000
	// maxFields is how many octets the fields on top of a letter in a Maildir may take.
	maxFields = 4 << 20
)

// Source is mail that was held elsewhere.
type Source interface {
	// Len is how many letters there are. What comes later is not seen.
	Len() int
	// Load reads letter i. fs.ErrNotExist: it has gone meanwhile.
	Load(i int) (*Letter, error)
	// Name is what people call letter i.
	Name(i int) string
	// RemoveAll removes what can only be removed as a whole, once every letter was brought in.
	RemoveAll() error
	// Close lets go of the source.
	Close() error
}

// Letter is one letter of a source.
type Letter struct {
	// Envelope has sender, recipients with their parameters, declared body type, SMTPUTF8, and when it arrived; Size and EightBit are not
	// known. Recipients that were served already are not in it.
	Envelope mail.Envelope
	// Sender says that the sender is known: a Maildir may not have it.
	Sender bool
	// Body says that the envelope's declared body type is known, too.
	Body bool
	// Identity names the letter within all sources of its kind.
	Identity string
	// Alias is another name that it may have been brought in by: what an export wrote has one whatever it was written into. Empty: none.
	Alias string
	// Open reads the content, as it is in the source but for what is not content. The caller closes it.
	Open func() (io.ReadCloser, error)
	// Remove removes the letter from the source; nil where that cannot be done one by one.
	Remove func() error
}

// Stamp names what a letter brings to a recipient, so that it is brought once: by kind and name, by its content, by the recipient.
// Where the source stands does not matter, so that a copy of it brings nothing anew.
func (l *Letter) Stamp(content [sha256.Size]byte, recipient string) [sha256.Size]byte {
	return stamp(l.Identity, content, recipient)
}

// AliasStamp is the stamp by the letter's other name; ok is false if it has none.
func (l *Letter) AliasStamp(content [sha256.Size]byte, recipient string) (s [sha256.Size]byte, ok bool) {
	if l.Alias == "" || l.Alias == l.Identity {
		return s, false
	}
	return stamp(l.Alias, content, recipient), true
}

func stamp(name string, content [sha256.Size]byte, recipient string) [sha256.Size]byte {
	h := sha256.New()
	fmt.Fprintf(h, "odmr import 1\x00%s\x00%x\x00%s", name, content, recipient)
	return [sha256.Size]byte(h.Sum(nil))
}

// Options say what to read.
type Options struct {
	Hold bool // of a Postfix queue: what is on hold, too; of an Exim spool: what is frozen
}

// Kinds are the kinds of sources, as they are named in front of a path.
var Kinds = []string{"maildir", "mbox", "postfix", "exim"}

// Open opens a source. spec is a path with a kind and a colon in front; the kind may be left out where it can be told without doubt.
func Open(spec string, o Options) (Source, error) {
	kind, path, ok := strings.Cut(spec, ":")
	if !ok || !isKind(kind) {
		path = spec
		var err error
		if kind, err = detect(path); err != nil {
			return nil, err
		}
	}
	switch kind {
	case "maildir":
		return openMaildir(path)
	case "mbox":
		return openMbox(path)
	case "postfix":
		return openPostfix(path, o)
	default:
		return openExim(path, o)
	}
}

func isKind(s string) bool {
	for _, k := range Kinds {
		if k == s {
			return true
		}
	}
	return false
}

// detect says what kind of source is at path: by the directories that only it has.
func detect(path string) (string, error) {
	info, err := os.Stat(path)
	if err != nil {
		return "", err
	}
	if info.Mode().IsRegular() {
		return "mbox", nil
	}
	has := func(names ...string) bool {
		for _, n := range names {
			if info, err := os.Stat(filepath.Join(path, n)); err != nil || !info.IsDir() {
				return false
			}
		}
		return true
	}
	var found []string
	for _, c := range []struct {
		kind string
		is   bool
	}{{"maildir", has("new", "cur")}, {"postfix", has("deferred", "active", "incoming")}, {"exim", has("input")}} {
		if c.is {
			found = append(found, c.kind)
		}
	}
	if len(found) != 1 {
		return "", fmt.Errorf("%s: it cannot be told what this is; write one of %s: in front", path, strings.Join(Kinds, ":, "))
	}
	return found[0], nil
}

// openFile opens a regular file for reading, without following a symbolic link and without waiting for anybody (a FIFO would).
func openFile(path string) (*os.File, os.FileInfo, error) {
	return regular(os.OpenFile(path, openFlags, 0))
}

const openFlags = os.O_RDONLY | syscall.O_NOFOLLOW | syscall.O_NONBLOCK | syscall.O_CLOEXEC

// openIn is openFile in a directory that a customer may write into: no link on the way leads out of it.
func openIn(root *os.Root, name string) (*os.File, os.FileInfo, error) {
	if info, err := root.Lstat(name); err == nil && info.Mode()&fs.ModeSymlink != 0 { // a Root follows those that stay within
		return nil, nil, unreadable("it is a symbolic link")
	}
	return regular(root.OpenFile(name, openFlags, 0))
}

// regular is what was opened, if it is a regular file.
func regular(f *os.File, err error) (*os.File, os.FileInfo, error) {
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil, err
	}
	if errors.Is(err, syscall.ELOOP) {
		return nil, nil, unreadable("it is a symbolic link")
	}
	if err != nil {
		return nil, nil, unreadable("%w", err)
	}
	info, err := f.Stat()
	if err == nil && !info.Mode().IsRegular() {
		err = errors.New("it is no regular file")
	}
	if err != nil {
		return nil, nil, errors.Join(unreadable("%w", err), f.Close())
	}
	return f, info, nil
}

// remove removes a file. It is not synced: a letter that comes back is found to be here, and removed again.
func remove(path string) error { return removed(os.Remove(path)) }

// removed is the error of removing a file that may have gone before.
func removed(err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}
