package imports

import (
	"bufio"
	"crypto/sha256"
	"io"
)

// Repair says what becomes of octets that mail must not have (RFC 5321 2.3.8, RFC 5322 2.3): CR without LF, and NUL.
type Repair uint8

const (
	KeepBare Repair = iota // they stay, and the server refuses the letter
	Mend                   // CR without LF ends a line, NUL is left out
)

// normal brings content into the form that it has on the wire: lines end in CRLF, the last one too. LF alone, as files on Unix have it,
// ends a line; lines may have any length, and octets from 0x80 stay as they are.
type normal struct {
	src    *bufio.Reader
	repair Repair
	cr     bool // a CR was read, and what follows decides about it
	line   bool // octets stand behind the last line end
	buf    []byte
	err    error
}

// Normal returns src with lines as on the wire.
func Normal(src io.Reader, repair Repair) io.Reader {
	return &normal{src: bufio.NewReaderSize(src, 32<<10), repair: repair}
}

func (n *normal) Read(p []byte) (int, error) {
	for len(n.buf) == 0 {
		if n.err != nil {
			return 0, n.err
		}
		n.fill()
	}
	c := copy(p, n.buf)
	n.buf = n.buf[c:]
	return c, nil
}

// fill turns what is buffered of the source into n.buf.
func (n *normal) fill() {
	if _, err := n.src.Peek(1); err != nil {
		n.finish(err)
		return
	}
	piece, _ := n.src.Peek(n.src.Buffered())
	out := make([]byte, 0, 2*len(piece)+2)
	for _, c := range piece {
		if n.cr {
			n.cr = false
			if c != '\n' {
				out = n.bareCR(out)
			}
		}
		switch {
		case c == '\r':
			n.cr = true
		case c == '\n':
			out = append(out, '\r', '\n')
			n.line = false
		case c == 0 && n.repair == Mend:
		default:
			out = append(out, c)
			n.line = true
		}
	}
	_, _ = n.src.Discard(len(piece))
	n.buf = out
}

func (n *normal) bareCR(out []byte) []byte {
	if n.repair == Mend {
		n.line = false
		return append(out, '\r', '\n')
	}
	n.line = true
	return append(out, '\r')
}

// finish ends the last line.
func (n *normal) finish(err error) {
	n.err = err
	if err != io.EOF {
		return
	}
	if n.cr {
		n.cr = false
		n.buf = n.bareCR(n.buf[:0:0])
	}
	if n.line {
		n.line = false
		n.buf = append(n.buf, '\r', '\n')
	}
}

// Digest is what names a content, and what its envelope has to say of it.
type Digest struct {
	Sum      [sha256.Size]byte
	Size     int64
	EightBit bool
}

// Sum reads a content to its end.
func Sum(content io.Reader) (d Digest, err error) {
	h := sha256.New()
	buf := make([]byte, 32<<10)
	for {
		n, err := content.Read(buf)
		h.Write(buf[:n])
		d.Size += int64(n)
		for _, c := range buf[:n] {
			d.EightBit = d.EightBit || c >= 0x80
		}
		if err == io.EOF {
			d.Sum = [sha256.Size]byte(h.Sum(nil))
			return d, nil
		}
		if err != nil {
			return d, err
		}
	}
}
