package imports

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
)

// A Postfix queue file is a sequence of records: a type, a length of seven bits an octet with the low ones first, and so many
// octets. Three groups follow each other: the envelope up to M, the content up to X, and what was extracted from the header up to E.
// A program that edits a message (milter) writes what is new at the end of the file, and pointers (p) that lead there and back.
const (
	recSize     = 'C' // sizes: content, offset of the content, recipients, flags, content again, SMTPUTF8
	recTime     = 'T' // arrival: seconds and microseconds
	recFrom     = 'S' // sender
	recRcpt     = 'R' // recipient
	recDone     = 'D' // recipient that has it already
	recCanceled = '/' // recipient that was taken back
	recOriginal = 'O' // recipient as it was before aliases
	recAttr     = 'A' // name=value
	recEnvID    = 'i' // ENVID, decoded
	recRet      = '<' // RET, a number
	recORcpt    = 'o' // ORCPT, decoded
	recNotify   = 'n' // NOTIFY, a set of bits
	recFilter   = 'L' // in the envelope: the filter that it waits for
	recRedirect = '>' // whom it goes to in place of all recipients
	recVERP     = 'V' // senders are made from recipients
	recMessage  = 'M' // the content begins
	recNormal   = 'N' // a line
	recLong     = 'L' // in the content: a piece of a line that goes on
	recPointer  = 'p' // go on at this offset, unless it is 0
	recPadding  = 'w' // nothing
	recExtra    = 'X' // the content ends
	recEnd      = 'E'
)

const (
	// maxRecord is the longest record, in octets: Postfix breaks lines into pieces of 2,048, and addresses are shorter.
	maxRecord = 1 << 20
	// maxJumps is how many pointers are followed: Postfix itself takes no more than 10,000 that lead back.
	maxJumps = 10_000
)

// records reads a queue file.
type records struct {
	src   io.ReadSeeker
	in    *bufio.Reader
	at    int64
	jumps int
	left  int64 // octets that may still be read: none is needed twice
	data  []byte
}

// newRecords reads a queue file of size octets.
func newRecords(src io.ReadSeeker, size int64) *records {
	return &records{src: src, in: bufio.NewReaderSize(src, 16<<10), left: size}
}

// next returns the next record that means something; its data is valid until the one after. The end of the file within the sequence is an error.
func (r *records) next() (kind byte, data []byte, err error) {
	for {
		if kind, err = r.read(); err != nil {
			return 0, nil, err
		}
		switch kind {
		case recPadding:
		case recPointer:
			if err := r.jump(); err != nil {
				return 0, nil, err
			}
		default:
			return kind, r.data, nil
		}
	}
}

func (r *records) read() (kind byte, err error) {
	began := r.at
	kind, err = r.octet()
	if err != nil {
		return 0, err
	}
	length, shift := 0, 0
	for {
		c, err := r.octet()
		if err != nil {
			return 0, err
		}
		length |= int(c&0x7f) << shift
		if shift += 7; c < 0x80 {
			break
		}
		if shift > 28 {
			return 0, unreadable("a record at %d has no length", r.at)
		}
	}
	if length > maxRecord {
		return 0, unreadable("a record at %d of %d octets: there may be %d", r.at, length, maxRecord)
	}
	if cap(r.data) < length {
		r.data = make([]byte, length)
	}
	r.data = r.data[:length]
	n, err := io.ReadFull(r.in, r.data)
	r.at += int64(n)
	if err != nil {
		return 0, r.broken(err)
	}
	if r.left -= r.at - began; r.left < 0 {
		return 0, unreadable("pointers that lead in circles")
	}
	return kind, nil
}

func (r *records) octet() (byte, error) {
	c, err := r.in.ReadByte()
	if err != nil {
		return 0, r.broken(err)
	}
	r.at++
	return c, nil
}

func (r *records) broken(err error) error {
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return unreadable("the queue file breaks off at %d", r.at)
	}
	return err
}

// jump follows a pointer.
func (r *records) jump() error {
	to, err := strconv.ParseInt(strings.TrimSpace(string(r.data)), 10, 63)
	if err != nil || to < 0 {
		return unreadable("a pointer to nowhere at %d", r.at)
	}
	if to == 0 {
		return nil
	}
	if r.jumps++; r.jumps > maxJumps {
		return unreadable("pointers that lead in circles")
	}
	return r.seek(to)
}

func (r *records) seek(to int64) error {
	if _, err := r.src.Seek(to, io.SeekStart); err != nil {
		return fmt.Errorf("seek: %w", err)
	}
	r.in.Reset(r.src)
	r.at = to
	return nil
}
