package codec

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
)

// scanned is what a whole walk over DATA brought.
type scanned struct {
	Body string
	Used int
	End  bool
	Content
}

// referenceScan is the definition: look at every place of the whole input.
func referenceScan(in string) scanned {
	var r scanned
	begins := func(i int) bool { return i == 0 || i >= 2 && in[i-2:i] == "\r\n" }
	i := 0
	for ; i < len(in); i++ {
		rest := in[i:]
		if begins(i) && strings.HasPrefix(rest, ".\r\n") {
			r.End = true
			break
		}
		if begins(i) && (rest == "." || rest == ".\r") {
			break
		}
		if begins(i) && in[i] == '.' {
			r.Stuffed = true
			r.Stuffing++
		}
	}
	r.Body, r.Used = in[:i], i
	if r.End {
		r.Used += 3
	}
	r.note(r.Body)
	return r
}

// note fills in all but the stuffing. A CR at the very end is not judged yet.
func (c *Content) note(s string) {
	for i := range len(s) {
		switch {
		case s[i] == 0:
			c.NUL = true
		case s[i] >= 0x80:
			c.EightBit = true
		case s[i] == '\r' && i+1 < len(s) && s[i+1] != '\n':
			c.BareCR = true
		case s[i] == '\n' && i > 0 && s[i-1] == '\r':
			c.Lines++
		case s[i] == '\n':
			c.BareLF = true
		}
	}
}

// scanPieces feeds in to a DataScanner, cut at pieces' places; what is not consumed comes again.
func scanPieces(t testing.TB, pieces []string) scanned {
	var (
		s    DataScanner
		r    scanned
		kept []byte
	)
	for _, piece := range pieces {
		kept = append(kept, piece...)
		if r.End {
			break
		}
		body, n, end := s.Next(kept)
		if body > n || n > len(kept) || !end && (n != body || len(kept)-n > 2) || end && n != body+3 {
			t.Fatalf("Next(%q) = %d, %d, %v", kept, body, n, end)
		}
		r.Body += string(kept[:body])
		r.Used += n
		r.End = end
		kept = kept[n:]
	}
	r.Content = s.Content
	return r
}

// cutUp cuts in into pieces whose lengths are the octets of cuts, over and over; 0 is an empty read.
func cutUp(in string, cuts []byte) []string {
	var pieces []string
	for i := 0; len(in) > 0; i++ {
		n := len(in)
		if len(cuts) > 0 {
			n = min(int(cuts[i%len(cuts)]), n)
		}
		if i >= len(cuts) && n == 0 {
			n = 1
		}
		pieces = append(pieces, in[:n])
		in = in[n:]
	}
	return pieces
}

// wholeByOctet are the cuttings that every table test tries.
var wholeByOctet = [][]byte{nil, {1}, {2}, {3}, {1, 2}, {2, 1, 0, 3}, {5}}

func TestDataScanner(t *testing.T) {
	bare := func(what string) Content {
		return Content{BareCR: strings.Contains(what, "CR"), BareLF: strings.Contains(what, "LF")}
	}
	with := func(c Content, lines, stuffing int64) Content {
		c.Lines, c.Stuffing, c.Stuffed = lines, stuffing, stuffing > 0
		return c
	}
	tests := []struct {
		name string
		in   string
		body string // up to the end of data
		rest string // behind it; "-" where the end has not come
		want Content
	}{
		{"empty body", ".\r\n", "", "", Content{}},
		{"one line", "a\r\n.\r\n", "a\r\n", "", Content{Lines: 1}},
		{"pipelined behind", "a\r\n.\r\nQUIT\r\n", "a\r\n", "QUIT\r\n", Content{Lines: 1}},
		{"empty line only", "\r\n.\r\n", "\r\n", "", Content{Lines: 1}},
		{"stuffed", "..a\r\n..\r\n.\r\n", "..a\r\n..\r\n", "", with(Content{}, 2, 2)},
		{"needlessly stuffed", ".a\r\n.\r\n", ".a\r\n", "", with(Content{}, 1, 1)},
		{"dots within", "a.\r\nb..\r\n.\r\n", "a.\r\nb..\r\n", "", Content{Lines: 2}},
		{"8-bit", "\xc3\xa9\r\n.\r\n", "\xc3\xa9\r\n", "", Content{Lines: 1, EightBit: true}},
		{"NUL", "a\x00b\r\n.\r\n", "a\x00b\r\n", "", Content{Lines: 1, NUL: true}},
		{"half a line, half an end", "a\r\n.\r", "a\r\n", "-", Content{Lines: 1}},
		{"no end", "a\r\nb", "a\r\nb", "-", Content{Lines: 1}},

		{"CR CRLF . CRLF ends", "a\r\r\n.\r\n", "a\r\r\n", "", with(bare("CR"), 1, 0)},
		{"CR CRLF . CRLF alone", "\r\r\n.\r\n", "\r\r\n", "", with(bare("CR"), 1, 0)},
		{". CR X keeps its CR", ".\rX\r\n.\r\n", ".\rX\r\n", "", with(bare("CR"), 1, 1)},
		{"CRLF . CR X keeps its CR", "a\r\n.\rX\r\n.\r\n", "a\r\n.\rX\r\n", "", with(bare("CR"), 2, 1)},
		{". CR CRLF", "a\r\n.\r\r\n.\r\n", "a\r\n.\r\r\n", "", with(bare("CR"), 2, 1)},
		{"LF . LF", "a\n.\nb\r\n.\r\n", "a\n.\nb\r\n", "", with(bare("LF"), 1, 0)},
		{"LF . CRLF", "a\n.\r\nb\r\n.\r\n", "a\n.\r\nb\r\n", "", with(bare("LF"), 2, 0)},
		{"CRLF . LF", "a\r\n.\nb\r\n.\r\n", "a\r\n.\nb\r\n", "", with(bare("LF"), 2, 1)},
		{"CR . CR", "a\r.\rb\r\n.\r\n", "a\r.\rb\r\n", "", with(bare("CR"), 1, 0)},
		{"CR . CRLF", "a\r.\r\nb\r\n.\r\n", "a\r.\r\nb\r\n", "", with(bare("CR"), 2, 0)},
		{"CRLF . CR", "a\r\n.\rb\r\n.\r\n", "a\r\n.\rb\r\n", "", with(bare("CR"), 2, 1)},
		{"CRLF NUL . CRLF", "a\r\n\x00.\r\n.\r\n", "a\r\n\x00.\r\n", "", Content{Lines: 2, NUL: true}},
		{"LF at the very start", "\n.\r\n.\r\n", "\n.\r\n", "", with(bare("LF"), 1, 0)},
		{"CRLF . LF at the very start", ".\n.\r\n.\r\n", ".\n.\r\n", "", with(bare("LF"), 1, 1)},
		{"LF CR . CRLF", "a\n\r.\r\n.\r\n", "a\n\r.\r\n", "", with(bare("LF CR"), 1, 0)},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			want := scanned{Body: test.body, Used: len(test.body), End: test.rest != "-", Content: test.want}
			if want.End {
				want.Used = len(test.in) - len(test.rest)
			}
			if got := referenceScan(test.in); got != want {
				t.Errorf("reference: %+v\nwant       %+v", got, want)
			}
			for _, cuts := range wholeByOctet {
				if got := scanPieces(t, cutUp(test.in, cuts)); got != want {
					t.Errorf("cut %v: %+v\nwant    %+v", cuts, got, want)
				}
			}
		})
	}
}

// TestDataScannerExhaustive tries every text of up to 7 octets of the alphabet that matters, in
// every cutting into two and octet by octet.
func TestDataScannerExhaustive(t *testing.T) {
	const alphabet = "\r\n.x"
	var walk func(in string)
	walk = func(in string) {
		want := referenceScan(in)
		for cut := 0; cut <= len(in); cut++ {
			if got := scanPieces(t, []string{in[:cut], in[cut:]}); got != want {
				t.Fatalf("%q cut at %d: %+v\nwant %+v", in, cut, got, want)
			}
		}
		if got := scanPieces(t, cutUp(in, []byte{1})); got != want {
			t.Fatalf("%q by octets: %+v\nwant %+v", in, got, want)
		}
		if len(in) < 7 {
			for i := range len(alphabet) {
				walk(in + alphabet[i:i+1])
			}
		}
	}
	walk("")
}

// stuffPieces runs a Stuffer over pieces and says what was seen.
func stuffPieces(pieces []string) (string, Content, bool) {
	var (
		s   Stuffer
		out []byte
	)
	for _, piece := range pieces {
		out = s.Append(out, []byte(piece))
	}
	return string(out), s.Content, s.EndsLine()
}

// referenceStuff is the definition of wire form.
func referenceStuff(in string) string {
	return strings.ReplaceAll("\r\n"+in, "\r\n.", "\r\n..")[2:]
}

// referenceContent is what a Stuffer has to tell about plain content.
func referenceContent(in string) Content {
	var c Content
	c.note(in)
	c.Stuffing = int64(len(referenceStuff(in)) - len(in))
	c.Stuffed = c.Stuffing > 0
	return c
}

func unstuffPieces(pieces []string) string {
	var (
		u   Unstuffer
		out []byte
	)
	for _, piece := range pieces {
		out = u.Append(out, []byte(piece))
	}
	return string(out)
}

func TestStuffer(t *testing.T) {
	tests := []struct{ in, out string }{
		{"", ""},
		{".", ".."},
		{"..", "..."},
		{"a\r\n", "a\r\n"},
		{"a\r\n.\r\nb\r\n", "a\r\n..\r\nb\r\n"},
		{".a\r\n.\r\n.", "..a\r\n..\r\n.."},
		{"a\n.b\r.c\r\n", "a\n.b\r.c\r\n"},
		{"\r\r\n.\r\n", "\r\r\n..\r\n"},
		{"\r\n\r\n.\r\n\r\n.", "\r\n\r\n..\r\n\r\n.."},
		{"a\x00\xff\r", "a\x00\xff\r"},
	}
	for _, test := range tests {
		if got := referenceStuff(test.in); got != test.out {
			t.Errorf("reference of %q: %q, want %q", test.in, got, test.out)
		}
		checkStuffing(t, test.in, wholeByOctet)
	}
}

// checkStuffing checks in against the definitions under every cutting, and the way back.
func checkStuffing(t testing.TB, in string, cuttings [][]byte) {
	want, content := referenceStuff(in), referenceContent(in)
	for _, cuts := range cuttings {
		got, seen, ends := stuffPieces(cutUp(in, cuts))
		if got != want || seen != content || ends != (in == "" || strings.HasSuffix(in, "\r\n")) {
			t.Fatalf("%q cut %v: %q %+v %v\nwant %q %+v", in, cuts, got, seen, ends, want, content)
		}
		if back := unstuffPieces(cutUp(want, cuts)); back != in {
			t.Fatalf("%q cut %v: came back as %q", in, cuts, back)
		}
	}
}

func TestStufferFinish(t *testing.T) {
	tests := []struct {
		in, out string
		want    Content
	}{
		{"", "", Content{}},
		{"a\r\n", "a\r\n", Content{Lines: 1}},
		{"a", "a\r\n", Content{Lines: 1}},
		{"a\n", "a\n\r\n", Content{Lines: 1, BareLF: true}},
		{"a\r", "a\r\r\n", Content{Lines: 1, BareCR: true}},
		{"..", "...\r\n", Content{Lines: 1, Stuffed: true, Stuffing: 1}},
	}
	for _, test := range tests {
		var s Stuffer
		out := s.Finish(s.Append(nil, []byte(test.in)))
		if string(out) != test.out || s.Content != test.want || !s.EndsLine() {
			t.Errorf("%q: %q %+v, want %q %+v", test.in, out, s.Content, test.out, test.want)
		}
	}
}

func TestUnstuffer(t *testing.T) {
	tests := []struct{ in, out string }{
		{"", ""},
		{"..\r\n", ".\r\n"},
		{".a\r\n", "a\r\n"}, // RFC 5321 4.5.2: the first dot goes, whatever comes behind
		{"a\n..b\r..c\r\n", "a\n..b\r..c\r\n"},
		{"a\r\n...\r\n", "a\r\n..\r\n"},
		{"\r\r\n..", "\r\r\n."},
	}
	for _, test := range tests {
		for _, cuts := range wholeByOctet {
			if got := unstuffPieces(cutUp(test.in, cuts)); got != test.out {
				t.Errorf("%q cut %v: %q, want %q", test.in, cuts, got, test.out)
			}
		}
		b := []byte(test.in)
		var u Unstuffer
		if got := u.Append(b[:0], b); string(got) != test.out {
			t.Errorf("%q in place: %q, want %q", test.in, got, test.out)
		}
	}
}

// TestContentAtEveryPlace puts one remarkable octet at every place of texts of all lengths up to some
// machine words, for the walkers look at many octets at once.
func TestContentAtEveryPlace(t *testing.T) {
	const longest = 150
	for _, odd := range []byte{0, 0x80, 0xff, '\r', '\n'} {
		for length := 1; length <= longest; length++ {
			for place := range length {
				b := bytes.Repeat([]byte{'x'}, length)
				b[place] = odd
				var s DataScanner
				s.Next(b)
				s.Next([]byte("x"))
				want := Content{NUL: odd == 0, EightBit: odd >= 0x80, BareCR: odd == '\r', BareLF: odd == '\n'}
				if s.Content != want {
					t.Fatalf("%#x at %d of %d: %+v", odd, place, length, s.Content)
				}
			}
		}
	}
}

// TestReset walks two messages with one value each.
func TestReset(t *testing.T) {
	var (
		d DataScanner
		s Stuffer
		u Unstuffer
		h HeaderScanner
	)
	d.Next([]byte(".\x00\xff\n\ra"))
	s.Append(nil, []byte(".\x00\xff\n\ra"))
	u.Append(nil, []byte("a"))
	h.Write([]byte("Received: x\r\n\r\n"))
	d.Reset()
	s.Reset()
	u.Reset()
	h.Reset()
	if d != (DataScanner{}) || s != (Stuffer{}) || u != (Unstuffer{}) || h != (HeaderScanner{}) {
		t.Errorf("%+v %+v %+v %+v", d, s, u, h)
	}
}

// body makes a message of about size octets; dotted of 10 lines begin with a dot, in wire form.
func body(size, dotted int) []byte {
	random := rand.New(rand.NewPCG(1, 2))
	var b bytes.Buffer
	for line := 0; b.Len() < size; line++ {
		if line%10 < dotted {
			b.WriteString("..")
		}
		for range 60 + random.IntN(19) {
			b.WriteByte(byte('a' + random.IntN(26)))
		}
		b.WriteString("\r\n")
	}
	return b.Bytes()
}

func BenchmarkDataScanner(b *testing.B) {
	for _, dotted := range []int{0, 1, 10} {
		in := body(64<<10, dotted)
		b.Run(fmt.Sprintf("dotted%d", dotted), func(b *testing.B) {
			b.SetBytes(int64(len(in)))
			for b.Loop() {
				var s DataScanner
				if n, _, end := s.Next(in); n != len(in) || end {
					b.Fatal(n, end)
				}
			}
		})
	}
}

func BenchmarkStuffer(b *testing.B) {
	in := body(64<<10, 0)
	dst := make([]byte, 0, 256<<10)
	b.SetBytes(int64(len(in)))
	for b.Loop() {
		var s Stuffer
		s.Append(dst, in)
	}
}

func BenchmarkUnstuffer(b *testing.B) {
	in := body(64<<10, 1)
	dst := make([]byte, 0, 256<<10)
	b.SetBytes(int64(len(in)))
	for b.Loop() {
		var u Unstuffer
		u.Append(dst, in)
	}
}
