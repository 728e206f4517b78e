package codec

import (
	"bytes"
	"errors"
)

// Breaches of the line syntax of RFC 5321 2.3.8: CR and LF only ever together, and no NUL.
var (
	// ErrLineTooLong says that the line has no end within max octets. None of it was taken:
	// SkipLine takes the rest.
	ErrLineTooLong = errors.New("line too long")
	// ErrBareLF says that the line ended in LF without CR before it.
	ErrBareLF = errors.New("bare LF in line")
	// ErrBareCR says that a CR without LF behind it stands in the line.
	ErrBareCR = errors.New("bare CR in line")
	// ErrNUL says that a NUL octet stands in the line.
	ErrNUL = errors.New("NUL in line")
)

// NextLine returns the first line of b without its CRLF, and n, its length with it. max
// is the longest line allowed, with CRLF. The outcomes:
//
//   - n == 0, err == nil: b does not hold a whole line yet.
//   - n == 0, err == ErrLineTooLong: the first max octets of b hold no LF; go on with SkipLine.
//   - n > 0, err == nil: a line; it may be empty.
//   - n > 0, err != nil: a line that breaks the syntax, n octets up to and including its LF.
//     Of several breaches the first of ErrBareLF, ErrBareCR, ErrNUL is told. line is nil.
func NextLine(b []byte, max int) (line []byte, n int, err error) {
	window := b
	if len(window) > max {
		window = window[:max]
	}
	lf := bytes.IndexByte(window, '\n')
	if lf < 0 {
		if len(b) >= max {
			return nil, 0, ErrLineTooLong
		}
		return nil, 0, nil
	}
	n = lf + 1
	if lf == 0 || b[lf-1] != '\r' {
		return nil, n, ErrBareLF
	}
	line = b[: lf-1 : lf-1]
	if bytes.IndexByte(line, '\r') >= 0 {
		return nil, n, ErrBareCR
	}
	if bytes.IndexByte(line, 0) >= 0 {
		return nil, n, ErrNUL
	}
	return line, n, nil
}

// SkipLine says how many octets of b belong to a line that was too long: all, or those up to
// and including the next LF, and then done is true.
func SkipLine(b []byte) (n int, done bool) {
	if lf := bytes.IndexByte(b, '\n'); lf >= 0 {
		return lf + 1, true
	}
	return len(b), false
}
