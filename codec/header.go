package codec

import "bytes"

// HeaderScanner counts the Received fields of a message as it passes by, which tells a mail loop
// (RFC 5321 6.3). The zero value stands at the start of the message.
type HeaderScanner struct {
	Received int  // fields so far; folded lines belong to their field
	Done     bool // the empty line that ends the header section has passed: nothing changes any more

	matched int8 // octets of receivedName seen in this line, or one of the below
}

const (
	receivedName = "received"

	headerDot  = int8(len(receivedName)) + 1 + iota // behind a stuffing dot that begins the line
	headerCR                                        // behind a CR that begins the line
	headerSkip                                      // in a line that is no Received field, or is counted
)

// Write looks at the next piece of the message in wire form; pieces may be cut anywhere. A line
// ends at its LF. It costs next to nothing once Done.
func (h *HeaderScanner) Write(b []byte) {
	for len(b) > 0 && !h.Done {
		if h.matched == headerSkip {
			lf := bytes.IndexByte(b, '\n')
			if lf < 0 {
				return
			}
			b = b[lf+1:]
			h.matched = 0
			continue
		}
		h.step(b[0])
		b = b[1:]
	}
}

// step takes one octet of a line that may still turn out a Received field or the empty line.
func (h *HeaderScanner) step(c byte) {
	switch {
	case c == '\n':
		h.Done = h.matched == 0 || h.matched == headerCR
		h.matched = 0
	case h.matched == 0 && c == '.':
		h.matched = headerDot
	case h.matched == 0 && c == '\r':
		h.matched = headerCR
	case h.matched == headerCR:
		h.matched = headerSkip
	case h.matched == int8(len(receivedName)):
		if c == ':' {
			h.Received++
			h.matched = headerSkip
		} else if !isBlank(c) { // RFC 5322 4.5 obs-received has blanks before the colon
			h.matched = headerSkip
		}
	default:
		if h.matched == headerDot {
			h.matched = 0
		}
		if lower(c) == receivedName[h.matched] {
			h.matched++
		} else {
			h.matched = headerSkip
		}
	}
}

// Reset prepares h for another message.
func (h *HeaderScanner) Reset() { *h = HeaderScanner{} }
