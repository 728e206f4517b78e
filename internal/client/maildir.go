package client

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	"odmr/internal/mail"
)

// Maildir is a Receiver that delivers into a Maildir: each message is written to tmp, synced,
// renamed into new, and new is synced, before it is answered. It is safe for several sessions
// at once.
//
// Each message becomes one file, in the Unix manner with lines that end in LF, and is headed by
//
//	Return-Path: <reverse-path>
//	Delivered-To: recipient             (one field for each recipient)
//	X-Envelope-To: recipient, recipient (all of them, for programs that sort by one field)
type Maildir struct {
	dir  string
	host string
	new  *os.File // for syncing
	seq  atomic.Uint64
	// delivered, if set, is told of each file in new.
	delivered func(path string, env *mail.Envelope)
}

// OpenMaildir makes dir with tmp, new and cur (mode 0700) where they are missing. delivered,
// which may be nil, is called after each delivery with the file's path.
func OpenMaildir(dir string, delivered func(path string, env *mail.Envelope)) (*Maildir, error) {
	for _, sub := range []string{"tmp", "new", "cur"} {
		if err := os.MkdirAll(filepath.Join(dir, sub), 0o700); err != nil {
			return nil, err
		}
	}
	f, err := os.Open(filepath.Join(dir, "new"))
	if err != nil {
		return nil, err
	}
	host, err := os.Hostname()
	if err != nil || host == "" {
		host = "localhost"
	}
	// The two characters that a Maildir name must not have are written as the Maildir standard says.
	host = strings.NewReplacer("/", `\057`, ":", `\072`).Replace(host)
	return &Maildir{dir: dir, host: host, new: f, delivered: delivered}, nil
}

// Close lets go of the directory.
func (m *Maildir) Close() error { return m.new.Close() }

// Begin implements Receiver.
func (m *Maildir) Begin(env *mail.Envelope) (Sink, error) {
	now := time.Now()
	return m.Deliver(fmt.Sprintf("%d.M%dP%dQ%d.%s", now.Unix(), now.Nanosecond()/1000, os.Getpid(), m.seq.Add(1), m.host), env)
}

// Deliver is Begin with the name that the message's file shall have in new. A file of that name is replaced when the
// message is committed.
func (m *Maildir) Deliver(name string, env *mail.Envelope) (Sink, error) {
	f, err := os.CreateTemp(filepath.Join(m.dir, "tmp"), name+".*") // mode 0600
	if err != nil {
		return nil, storageRefusal(err)
	}
	d := &delivery{m: m, name: name, tmp: f.Name(), env: env, f: f, w: bufio.NewWriterSize(f, readBuffer)}
	_, _ = d.w.WriteString(EnvelopeFields(env)) // a bufio.Writer keeps its first error for Flush
	return d, nil
}

// EnvelopeFields are the header fields that keep the envelope, with lines that end in LF.
func EnvelopeFields(env *mail.Envelope) string {
	var b strings.Builder
	b.WriteString("Return-Path: <" + printable(env.ReversePath) + ">\n")
	var to []string
	for _, r := range env.Recipients {
		b.WriteString("Delivered-To: " + printable(r.Address) + "\n")
		to = append(to, printable(r.Address))
	}
	b.WriteString("X-Envelope-To: " + strings.Join(to, ",\n\t") + "\n")
	return b.String()
}

// printable takes out what could end a header field: an address comes from the peer.
func printable(s string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f {
			return '?'
		}
		return r
	}, s)
}

// storageRefusal tells a full disk (452 4.3.1) from other trouble (451 4.3.0).
func storageRefusal(err error) error {
	if errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) {
		return &mail.Refusal{Code: 452, Enhanced: "4.3.1", Text: "no space for the message", Cause: err}
	}
	return &mail.Refusal{Code: 451, Enhanced: "4.3.0", Text: "the message could not be stored", Cause: err}
}

// delivery is one message on its way into the Maildir.
type delivery struct {
	m    *Maildir
	name string // in new
	tmp  string // path until then
	env  *mail.Envelope
	f    *os.File
	w    *bufio.Writer
	cr   bool // a CR is held back: LF may follow
}

// Write turns CRLF into LF. A CR that no LF follows stays.
func (d *delivery) Write(p []byte) (int, error) {
	total := len(p)
	for len(p) > 0 {
		if d.cr {
			d.cr = false
			if p[0] != '\n' {
				_ = d.w.WriteByte('\r')
			}
		}
		i := bytes.IndexByte(p, '\r')
		if i < 0 {
			i = len(p)
		} else {
			d.cr = true
		}
		if _, err := d.w.Write(p[:i]); err != nil {
			return 0, storageRefusal(err)
		}
		p = p[i:]
		if d.cr {
			p = p[1:]
		}
	}
	return total, nil
}

// Commit implements Sink.
func (d *delivery) Commit() error {
	if err := d.commit(); err != nil {
		_ = os.Remove(d.tmp)
		return storageRefusal(err)
	}
	return nil
}

func (d *delivery) commit() error {
	if d.cr {
		_ = d.w.WriteByte('\r')
	}
	err := d.w.Flush()
	if err == nil {
		err = d.f.Sync()
	}
	if cerr := d.f.Close(); err == nil {
		err = cerr
	}
	if err != nil {
		return err
	}
	path := filepath.Join(d.m.dir, "new", d.name)
	if err := os.Rename(d.tmp, path); err != nil {
		return err
	}
	if err := d.m.new.Sync(); err != nil {
		// Whether the name is durable is unknown: better twice than never.
		_ = os.Remove(path)
		return err
	}
	if d.m.delivered != nil {
		d.m.delivered(path, d.env)
	}
	return nil
}

// Abort implements Sink.
func (d *delivery) Abort() {
	_ = d.f.Close()
	_ = os.Remove(d.tmp)
}
