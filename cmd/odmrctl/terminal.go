package main

import (
	"io"
	"os"
	"unicode"
	"unicode/utf8"

	"golang.org/x/term"
)

// onTerminal reports whether what is written to w is read by a terminal.
func onTerminal(w io.Writer) bool {
	f, ok := w.(*os.File)
	return ok && term.IsTerminal(int(f.Fd()))
}

// harmless passes on what a terminal shows and nothing that it obeys: a message is its author's word, who may be anybody. It is for
// terminals only; files and programs get every octet.
type harmless struct {
	out  io.Writer
	rest []byte // the beginning of a character
	buf  []byte
}

// Write implements io.Writer. What it replaces it does not tell of.
func (h *harmless) Write(p []byte) (int, error) {
	text := append(h.rest, p...)
	h.buf = h.buf[:0]
	for len(text) > 0 && utf8.FullRune(text) {
		r, size := utf8.DecodeRune(text)
		switch {
		case r == '\r': // of a line's end
		case r == '\n' || r == '\t' || unicode.IsGraphic(r) && (r != utf8.RuneError || size > 1):
			h.buf = append(h.buf, text[:size]...)
		default:
			h.buf = append(h.buf, '?')
		}
		text = text[size:]
	}
	h.rest = append([]byte(nil), text...)
	if _, err := h.out.Write(h.buf); err != nil {
		return 0, err
	}
	return len(p), nil
}
