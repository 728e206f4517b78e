package codec

import (
	"bytes"
	"encoding/binary"
)

// Message content comes in two forms. Plain content is what BDAT carries and SIZE counts. Wire
// form is what DATA carries: each line that begins with "." has another one in front (RFC 5321
// 4.5.2). Bodies are kept in wire form, without the line "." that ends the data.
//
// A line begins at the very start and behind CRLF, and nowhere else: not behind LF or CR alone. All
// three walkers below share that rule (lines.run), which is what keeps smuggled ends out
// (CVE-2023-51764, 51765, 51766).

// position is where a walker stands.
type position uint8

const (
	lineStart position = iota // at the very start, or behind CRLF
	inLine                    // behind any other octet
	afterCR                   // behind CR, whose LF may come
)

// run walks b up to, not including, the next "." that begins a line, or to its end, and says how
// far that is, how many lines ended on the way, and whether a LF without CR was among the octets. The
// caller sees to it that b[0] is not itself a "." at lineStart.
func (at *position) run(b []byte) (n, lines int, bareLF bool) {
	for n < len(b) {
		lf := bytes.IndexByte(b[n:], '\n')
		if lf < 0 {
			break
		}
		lf += n
		n = lf + 1
		if lf > 0 && b[lf-1] != '\r' || lf == 0 && *at != afterCR {
			bareLF = true
			*at = inLine
			continue
		}
		lines++
		*at = lineStart
		if n < len(b) && b[n] == '.' {
			return n, lines, bareLF
		}
	}
	if n < len(b) {
		n = len(b)
		*at = inLine
		if b[n-1] == '\r' {
			*at = afterCR
		}
	}
	return n, lines, bareLF
}

// Content says what was seen in a message's content so far.
type Content struct {
	Stuffed  bool  // some line is dot-stuffed: Stuffing > 0
	EightBit bool  // an octet from 0x80
	BareCR   bool  // a CR without LF behind it: refuse the message (RFC 5321 2.3.8)
	BareLF   bool  // a LF without CR before it: refuse the message
	NUL      bool  // a NUL octet
	Lines    int64 // how many CRLFs
	Stuffing int64 // how many dots the stuffing takes: size as plain content = size in wire form - Stuffing
}

// walk runs over b and notes what is in it.
func (c *Content) walk(at *position, b []byte) int {
	crs := 0
	if *at == afterCR {
		crs = 1
	}
	n, lines, bareLF := at.run(b)
	b = b[:n]
	crs += bytes.Count(b, cr)
	if *at == afterCR {
		crs-- // its LF may come
	}
	// Every CR but those of the CRLFs is bare.
	c.BareCR = c.BareCR || crs > lines
	c.BareLF = c.BareLF || bareLF
	c.NUL = c.NUL || bytes.IndexByte(b, 0) >= 0
	c.EightBit = c.EightBit || hasHigh(b)
	c.Lines += int64(lines)
	return n
}

var cr = []byte{'\r'}

// stuff notes one stuffing dot.
func (c *Content) stuff() {
	c.Stuffed = true
	c.Stuffing++
}

// hasHigh reports whether b holds an octet from 0x80.
func hasHigh(b []byte) bool {
	const high = 0x8080808080808080
	for len(b) >= 32 {
		w := binary.LittleEndian.Uint64(b) | binary.LittleEndian.Uint64(b[8:]) |
			binary.LittleEndian.Uint64(b[16:]) | binary.LittleEndian.Uint64(b[24:])
		if w&high != 0 {
			return true
		}
		b = b[32:]
	}
	var all byte
	for _, c := range b {
		all |= c
	}
	return all >= 0x80
}

// DataScanner finds the end of what follows DATA. The zero value stands behind the 354.
type DataScanner struct {
	Content
	at position
}

// Next looks at b, the octets not yet consumed. b[:body] is the next piece of the body, in wire form, to
// be stored as it is; n octets are consumed: n == body, and 3 more for the line "." CRLF if
// end. Where b ends in a "." or ".\r" that begins a line, which may be the end or not, that is not
// consumed: it must be the start of b in the next call, so n may be less than len(b), and 0.
//
// Because nothing is held back inside, the result does not depend on how the input was cut into reads.
//
// Only CRLF "." CRLF ends the data, where the first CRLF may be the one that ended the DATA
// command (RFC 5321 4.1.1.4). The body has the CRLF before the dot and not what comes behind. CR and LF
// that stand alone are body like any octet; BareCR and BareLF tell, so that the message can be
// refused once its true end has come. A line of "." CR and something else keeps all its octets.
func (s *DataScanner) Next(b []byte) (body, n int, end bool) {
	for n < len(b) {
		if s.at == lineStart && b[n] == '.' {
			rest := b[n+1:]
			if len(rest) == 0 || len(rest) == 1 && rest[0] == '\r' {
				return n, n, false
			}
			if rest[0] == '\r' && rest[1] == '\n' {
				return n, n + 3, true
			}
			s.stuff()
			s.at = inLine
			n++
		}
		n += s.walk(&s.at, b[n:])
	}
	return n, n, false
}

// Reset prepares s for another message.
func (s *DataScanner) Reset() { *s = DataScanner{} }

// Stuffer turns plain content, as BDAT carries it, into wire form. The zero value stands at the start.
type Stuffer struct {
	Content
	at position
}

// Append appends src in wire form to dst. Chunks may be cut anywhere, RFC 3030 2.
func (s *Stuffer) Append(dst, src []byte) []byte {
	for len(src) > 0 {
		if s.at == lineStart && src[0] == '.' {
			dst = append(dst, '.')
			s.stuff()
			s.at = inLine // so that the content's dot follows as any octet
		}
		n := s.walk(&s.at, src)
		dst = append(dst, src[:n]...)
		src = src[n:]
	}
	return dst
}

// EndsLine reports whether the content so far is empty or ends in CRLF.
func (s *Stuffer) EndsLine() bool { return s.at == lineStart }

// Finish appends CRLF to dst if the content does not end so: in wire form a body ends in CRLF, for
// the "." that ends the data must begin a line. A CR at the very end is a bare one.
func (s *Stuffer) Finish(dst []byte) []byte {
	if s.at == lineStart {
		return dst
	}
	if s.at == afterCR {
		s.BareCR = true
	}
	s.at = lineStart
	s.Lines++
	return append(dst, '\r', '\n')
}

// Reset prepares s for another message.
func (s *Stuffer) Reset() { *s = Stuffer{} }

// Unstuffer turns wire form into plain content. The zero value stands at the start.
type Unstuffer struct {
	at position
}

// Append appends the plain content of src, the next piece of a body in wire form, to dst. Pieces may be cut
// anywhere. dst never grows by more than len(src); it may be src[:0].
func (u *Unstuffer) Append(dst, src []byte) []byte {
	for len(src) > 0 {
		if u.at == lineStart && src[0] == '.' {
			u.at = inLine
			src = src[1:]
			continue
		}
		n, _, _ := u.at.run(src)
		dst = append(dst, src[:n]...)
		src = src[n:]
	}
	return dst
}

// Reset prepares u for another message.
func (u *Unstuffer) Reset() { *u = Unstuffer{} }
