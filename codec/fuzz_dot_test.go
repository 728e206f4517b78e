package codec

import (
	"strings"
	"testing"
)

// smuggling are the texts that have fooled well-known servers, and their neighbours.
var smuggling = []string{
	".\r\n", "a\r\n.\r\nQUIT\r\n", "a\r\r\n.\r\n", "a\r\n.\rX\r\n.\r\n", "a\n.\nb\r\n.\r\n", "a\n.\r\nb\r\n.\r\n", "a\r\n.\nb\r\n.\r\n",
	"a\r.\rb\r\n.\r\n", "a\r\n..\r\n.\r\n", "\r\n\r\n..\r\n.\r", "\x00\xff\r\n.", "a\r\n.\r\r\n.\r\n", "..", "a\r\n\x00.\r\n",
}

func FuzzDataScanner(f *testing.F) {
	for _, seed := range smuggling {
		f.Add(seed, []byte{1})
		f.Add(seed, []byte{3, 0, 2})
	}
	f.Fuzz(func(t *testing.T, in string, cuts []byte) {
		want := referenceScan(in)
		if got := scanPieces(t, cutUp(in, cuts)); got != want {
			t.Fatalf("%q cut %v: %+v\nwant %+v", in, cuts, got, want)
		}
		if got := scanPieces(t, []string{in}); got != want {
			t.Fatalf("%q: %+v\nwant %+v", in, got, want)
		}
		// What is stored can be sent: behind it the line "." ends the data, and nothing before does.
		if want.End {
			if sent := referenceScan(want.Body + ".\r\n"); sent.Body != want.Body || !sent.End {
				t.Fatalf("%q: %q ends early when sent on", in, want.Body)
			}
			if plain := unstuffPieces(cutUp(want.Body, cuts)); int64(len(plain)) != int64(len(want.Body))-want.Stuffing {
				t.Fatalf("%q: %q unstuffed is %q, stuffing %d", in, want.Body, plain, want.Stuffing)
			}
		}
	})
}

func FuzzStuffer(f *testing.F) {
	for _, seed := range smuggling {
		f.Add(seed, []byte{1})
		f.Add(seed, []byte{3, 0, 2})
	}
	f.Fuzz(func(t *testing.T, in string, cuts []byte) {
		checkStuffing(t, in, [][]byte{nil, {1}, cuts})

		var (
			s    Stuffer
			wire string
		)
		for _, piece := range cutUp(in, cuts) {
			wire += string(s.Append(nil, []byte(piece)))
		}

		// Finished content can be sent by DATA and comes back, CRLF added where it lacked one.
		wire = string(s.Finish([]byte(wire)))
		sent := referenceScan(wire + ".\r\n")
		if !sent.End || sent.Body != wire || sent.Content != s.Content {
			t.Fatalf("%q: %q sent is %+v, said %+v", in, wire, sent, s.Content)
		}
		if in != "" && !strings.HasSuffix(in, "\r\n") {
			in += "\r\n"
		}
		if plain := unstuffPieces(cutUp(wire, cuts)); plain != in {
			t.Fatalf("%q came back as %q", in, plain)
		}
	})
}

// FuzzUnstuffer feeds wire form that no Stuffer made, such as lines of one dot and something else.
func FuzzUnstuffer(f *testing.F) {
	for _, seed := range smuggling {
		f.Add(seed, []byte{1, 2})
	}
	f.Fuzz(func(t *testing.T, in string, cuts []byte) {
		want := strings.ReplaceAll("\r\n"+in, "\r\n.", "\r\n")[2:]
		if got := unstuffPieces(cutUp(in, cuts)); got != want {
			t.Fatalf("%q cut %v: %q, want %q", in, cuts, got, want)
		}
	})
}
