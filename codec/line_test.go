package codec

import (
	"bytes"
	"errors"
	"strings"
	"testing"
)

type lineResult struct {
	line string
	n    int
	err  error
}

func nextLine(in string, max int) lineResult {
	line, n, err := NextLine([]byte(in), max)
	return lineResult{string(line), n, err}
}

// referenceLine is the definition of NextLine.
func referenceLine(in string, max int) lineResult {
	line, _, whole := strings.Cut(in, "\n")
	n := len(line) + 1
	switch text, crlf := strings.CutSuffix(line, "\r"); {
	case len(line) >= max: // with its end it would be longer, whether that is there or not
		return lineResult{err: ErrLineTooLong}
	case !whole:
		return lineResult{}
	case !crlf:
		return lineResult{"", n, ErrBareLF}
	case strings.Contains(text, "\r"):
		return lineResult{"", n, ErrBareCR}
	case strings.Contains(text, "\x00"):
		return lineResult{"", n, ErrNUL}
	default:
		return lineResult{text, n, nil}
	}
}

func TestNextLine(t *testing.T) {
	tests := []struct {
		in   string
		max  int
		want lineResult
	}{
		{"", 10, lineResult{}},
		{"NOOP", 10, lineResult{}},
		{"NOOP\r", 10, lineResult{}},
		{"NOOP\r\n", 10, lineResult{"NOOP", 6, nil}},
		{"NOOP\r\nQUIT\r\n", 10, lineResult{"NOOP", 6, nil}},
		{"\r\n", 10, lineResult{"", 2, nil}},
		{"NOOP\n", 10, lineResult{"", 5, ErrBareLF}},
		{"\nNOOP\r\n", 10, lineResult{"", 1, ErrBareLF}},
		{"NO\nOP\r\n", 10, lineResult{"", 3, ErrBareLF}},
		{"NO\rOP\r\n", 10, lineResult{"", 7, ErrBareCR}},
		{"NOOP\r\r\n", 10, lineResult{"", 7, ErrBareCR}},
		{"NO\x00OP\r\n", 10, lineResult{"", 7, ErrNUL}},
		{"N\x00O\rP\n", 10, lineResult{"", 6, ErrBareLF}},
		{"12345678\r\n", 10, lineResult{"12345678", 10, nil}},
		{"123456789\r\n", 10, lineResult{err: ErrLineTooLong}},
		{"123456789\r", 10, lineResult{err: ErrLineTooLong}},
		{"123456789", 10, lineResult{}},
		{"1234567890123\n", 10, lineResult{err: ErrLineTooLong}},
		{"\xc3\xa9\r\n", 10, lineResult{"\xc3\xa9", 4, nil}},
	}
	for _, test := range tests {
		if got := nextLine(test.in, test.max); got != test.want {
			t.Errorf("NextLine(%q, %d) = %+v, want %+v", test.in, test.max, got, test.want)
		}
		if got := referenceLine(test.in, test.max); got != test.want {
			t.Errorf("reference of %q, %d: %+v, want %+v", test.in, test.max, got, test.want)
		}
	}
}

func TestNextLineAliasIsClosed(t *testing.T) {
	in := []byte("NOOP\r\nQUIT\r\n")
	line, _, _ := NextLine(in, 100)
	_ = append(line, "XXXXXX"...)
	if string(in) != "NOOP\r\nQUIT\r\n" {
		t.Errorf("appending to a line wrote over the input: %q", in)
	}
}

func TestSkipLine(t *testing.T) {
	tests := []struct {
		in   string
		n    int
		done bool
	}{
		{"", 0, false}, {"abc", 3, false}, {"abc\r", 4, false}, {"abc\r\nNOOP\r\n", 5, true}, {"\n", 1, true},
	}
	for _, test := range tests {
		if n, done := SkipLine([]byte(test.in)); n != test.n || done != test.done {
			t.Errorf("SkipLine(%q) = %d, %v", test.in, n, done)
		}
	}
}

func FuzzNextLine(f *testing.F) {
	for _, seed := range []string{"NOOP\r\nQUIT\r\n", "a\rb\r\n", "a\nb\r\n", "\x00\r\n", "\r\n", "1234567890\r\n"} {
		f.Add([]byte(seed), uint8(12))
	}
	f.Fuzz(func(t *testing.T, in []byte, limit uint8) {
		max := int(limit) + 2
		whole := nextLine(string(in), max)
		if want := referenceLine(string(in), max); whole != want {
			t.Fatalf("%q, %d: %+v, want %+v", in, max, whole, want)
		}
		// However much has arrived when the decision falls, it is the same.
		for size := range in {
			if got := nextLine(string(in[:size]), max); got != (lineResult{}) && got != whole {
				t.Fatalf("%q, %d: %+v, but with %d octets %+v", in, max, whole, size, got)
			}
		}
		if errors.Is(whole.err, ErrLineTooLong) {
			n, done := SkipLine(in)
			if lf := bytes.IndexByte(in, '\n'); done != (lf >= 0) || done && n != lf+1 || !done && n != len(in) {
				t.Fatalf("SkipLine(%q) = %d, %v", in, n, done)
			}
		}
	})
}
