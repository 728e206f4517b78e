package codec

import (
	"regexp"
	"strings"
	"testing"
)

var receivedField = regexp.MustCompile(`^(?i:received)[ \t]*:`)

// referenceReceived counts by lines; only lines that have ended, and an unended one whose colon is there.
func referenceReceived(wire string) (received int, done bool) {
	lines := strings.SplitAfter(wire, "\n")
	for _, line := range lines {
		if line == "\r\n" || line == "\n" {
			return received, true
		}
		if receivedField.MatchString(strings.TrimPrefix(line, ".")) {
			received++
		}
	}
	return received, false
}

func scanHeader(pieces []string) (int, bool) {
	var h HeaderScanner
	for _, piece := range pieces {
		h.Write([]byte(piece))
	}
	return h.Received, h.Done
}

func TestHeaderScanner(t *testing.T) {
	tests := []struct {
		in       string
		received int
		done     bool
	}{
		{"", 0, false},
		{"\r\n", 0, true},
		{"Received: a\r\n\r\n", 1, true},
		{"Received: a\r\n\tReceived: folded\r\n Received: folded\r\nreceived: b\r\nRECEIVED : c\r\n\r\nReceived: body\r\n", 3, true},
		{"Subject: Received: x\r\nReceivedd: x\r\nReceive: x\r\nX-Received: x\r\nReceived-SPF: x\r\n", 0, false},
		{"\rReceived: x\r\nReceived\r\nReceived\r: x\r\n\r\n", 0, true},
		{".Received: x\r\n..Received: x\r\n\r\n", 1, true},
		{"a: b\r\n \r\nReceived: x\r\n", 1, false}, // a line of a blank is folding, not the end
		{"a: b\r\n\r\r\nReceived: x\r\n", 1, false},
		{strings.Repeat("Received: x\r\n", 51), 51, false},
	}
	for _, test := range tests {
		for _, cuts := range wholeByOctet {
			if received, done := scanHeader(cutUp(test.in, cuts)); received != test.received || done != test.done {
				t.Errorf("%q cut %v: %d, %v, want %d, %v", test.in, cuts, received, done, test.received, test.done)
			}
		}
		if received, done := referenceReceived(test.in); received != test.received || done != test.done {
			t.Errorf("reference of %q: %d, %v", test.in, received, done)
		}
	}
}

func FuzzHeaderScanner(f *testing.F) {
	for _, seed := range []string{
		"Received: a\r\n b\r\nSubject: x\r\n\r\nReceived: y\r\n", "received : x\r\n.Received:\r\n", "\r\n", "\r\r\n\n", "RECEIVED",
	} {
		f.Add([]byte(seed), []byte{1, 2})
	}
	f.Fuzz(func(t *testing.T, in, cuts []byte) {
		received, done := scanHeader(cutUp(string(in), cuts))
		if want, wantDone := referenceReceived(string(in)); received != want || done != wantDone {
			t.Fatalf("%q cut %v: %d, %v, want %d, %v", in, cuts, received, done, want, wantDone)
		}
	})
}

func BenchmarkHeaderScanner(b *testing.B) {
	in := []byte(strings.Repeat("Received: from a.example by b.example; Thu, 1 Jan 1970 00:00:00 +0000\r\nSubject: x\r\n", 20))
	b.SetBytes(int64(len(in)))
	for b.Loop() {
		var h HeaderScanner
		h.Write(in)
	}
}
