package codec

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"testing"
)

type replyResult struct {
	code, lines int
	text, raw   string
	n           int
	err         error
}

func nextReply(in string, maxLine, maxLines int) replyResult {
	r, n, err := NextReply([]byte(in), maxLine, maxLines)
	return replyResult{r.Code, r.Lines, string(r.Text), string(r.Raw), n, err}
}

// referenceReply is the definition of NextReply.
func referenceReply(in string, maxLine, maxLines int) replyResult {
	var r replyResult
	for _, raw := range strings.SplitAfter(in, "\n") {
		whole := strings.HasSuffix(raw, "\n")
		limit := min(maxLine, MaxReply-len(r.raw))
		if len(raw) > limit || !whole && len(raw) == limit {
			return replyResult{err: ErrReplyTooLong}
		}
		if !whole {
			return replyResult{}
		}
		r.raw += raw
		r.lines++
		line := strings.TrimSuffix(strings.TrimSuffix(raw, "\n"), "\r")
		code := 0
		if len(line) >= 3 {
			if c, err := strconv.ParseUint(line[:3], 10, 16); err == nil && c >= 200 && c < 600 {
				code = int(c)
			}
		}
		if code == 0 || len(line) > 3 && !strings.ContainsAny(line[3:4], " \t-") {
			return replyResult{n: len(r.raw), err: ErrReplySyntax}
		}
		if r.lines > 1 && code != r.code {
			return replyResult{n: len(r.raw), err: ErrReplyMixed}
		}
		if r.lines > maxLines {
			return replyResult{n: len(r.raw), err: ErrReplyTooMany}
		}
		r.code = code
		if len(line) == 3 || line[3] != '-' {
			if len(line) > 3 {
				r.text = line[4:]
			}
			r.n = len(r.raw)
			return r
		}
	}
	panic("the last piece of a split has no line end")
}

func TestNextReply(t *testing.T) {
	one := func(code int, text, raw string) replyResult { return replyResult{code, 1, text, raw, len(raw), nil} }
	long := "250-" + strings.Repeat("x", 90) + "\r\n"
	tests := []struct {
		name, in string
		want     replyResult
	}{
		{"nothing", "", replyResult{}},
		{"unfinished", "250 OK\r", replyResult{}},
		{"unfinished list", "250-a\r\n250 b", replyResult{}},
		{"plain", "250 OK\r\n", one(250, "OK", "250 OK\r\n")},
		{"two replies", "250 OK\r\n221 bye\r\n", one(250, "OK", "250 OK\r\n")},
		{"bare LF", "250 OK\n354 go\r\n", one(250, "OK", "250 OK\n")},
		{"no text", "250\r\n", one(250, "", "250\r\n")},
		{"no text, bare LF", "250\n", one(250, "", "250\n")},
		{"blank only", "250 \r\n", one(250, "", "250 \r\n")},
		{"tab", "250\tOK\r\n", one(250, "OK", "250\tOK\r\n")},
		{"a customer's 220", "220 mail.example ESMTP\r\n", one(220, "mail.example ESMTP", "220 mail.example ESMTP\r\n")},
		{"second digit", "599 odd\r\n", one(599, "odd", "599 odd\r\n")},
		{"list", "250-a\r\n250-b\r\n250 c\r\nX", replyResult{250, 3, "c", "250-a\r\n250-b\r\n250 c\r\n", 21, nil}},
		{"list that ends without text", "250-a\r\n250\r\n", replyResult{250, 2, "", "250-a\r\n250\r\n", 12, nil}},
		{"list of empty lines", "250-\r\n250 \r\n", replyResult{250, 2, "", "250-\r\n250 \r\n", 12, nil}},
		{"mixed codes", "250-a\r\n550 b\r\n", replyResult{n: 14, err: ErrReplyMixed}},
		{"no code", "hello\r\n", replyResult{n: 7, err: ErrReplySyntax}},
		{"empty line", "\r\n", replyResult{n: 2, err: ErrReplySyntax}},
		{"short code", "25\r\n", replyResult{n: 4, err: ErrReplySyntax}},
		{"long code", "2500 x\r\n", replyResult{n: 8, err: ErrReplySyntax}},
		{"1xx", "150 x\r\n", replyResult{n: 7, err: ErrReplySyntax}},
		{"6xx", "650 x\r\n", replyResult{n: 7, err: ErrReplySyntax}},
		{"line of the limit", "250 " + strings.Repeat("x", 94) + "\r\n", one(250, strings.Repeat("x", 94), "250 "+strings.Repeat("x", 94)+"\r\n")},
		{"line over the limit", "250 " + strings.Repeat("x", 95) + "\r\n", replyResult{err: ErrReplyTooLong}},
		{"unfinished line of the limit", strings.Repeat("2", 100), replyResult{err: ErrReplyTooLong}},
		{"lines over the limit", strings.Repeat("250-x\r\n", 5), replyResult{n: 35, err: ErrReplyTooMany}},
		{"lines of the limit", strings.Repeat("250-x\r\n", 3) + "250 x\r\n", replyResult{250, 4, "x", strings.Repeat("250-x\r\n", 3) + "250 x\r\n", 28, nil}},
		{"line over the limit in a list", long + "250 " + strings.Repeat("x", 96), replyResult{err: ErrReplyTooLong}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			if got := nextReply(test.in, 100, 4); got != test.want {
				t.Errorf("%+v\nwant %+v", got, test.want)
			}
			if got := referenceReply(test.in, 100, 4); got != test.want {
				t.Errorf("reference: %+v\nwant       %+v", got, test.want)
			}
			checkReplySplits(t, test.in, 100, 4)
		})
	}
}

// TestNextReplyBounded: a reply without end is refused at MaxReply octets.
func TestNextReplyBounded(t *testing.T) {
	line := "250-" + strings.Repeat("x", 1018) + "\r\n"
	in := strings.Repeat(line, MaxReply/len(line))
	if got := nextReply(in[:len(in)-1], 4096, 1000); got != (replyResult{}) {
		t.Errorf("one octet below: %+v", got)
	}
	if got := nextReply(in, 4096, 1000); got.err != ErrReplyTooLong {
		t.Errorf("at the limit: %v", got.err)
	}
}

// checkReplySplits: however much has arrived when the decision falls, it is the same.
func checkReplySplits(t testing.TB, in string, maxLine, maxLines int) {
	whole := nextReply(in, maxLine, maxLines)
	for size := range in {
		if got := nextReply(in[:size], maxLine, maxLines); got != (replyResult{}) && got != whole {
			t.Fatalf("%q: %+v, but with %d octets %+v", in, whole, size, got)
		}
	}
}

func TestReplyLines(t *testing.T) {
	r, _, err := NextReply([]byte("250-mx.example hello\r\n250-SIZE 1000\n250-\r\n250-AUTH=PLAIN LOGIN\r\n250 DSN\r\n"), 100, 10)
	if err != nil {
		t.Fatal(err)
	}
	want := []string{"mx.example hello", "SIZE 1000", "", "AUTH=PLAIN LOGIN", "DSN"}
	var got []string
	for text := range r.All() {
		got = append(got, string(text))
	}
	if !slices.Equal(got, want) || r.Lines != len(want) {
		t.Errorf("All: %q (%d), want %q", got, r.Lines, want)
	}
	for i, text := range want {
		if got := r.Line(i); string(got) != text {
			t.Errorf("Line(%d) = %q, want %q", i, got, text)
		}
	}
	if r.Line(5) != nil {
		t.Error("there is a line beyond the last")
	}
	if keyword, params := CutKeyword(r.Line(1)); string(keyword) != "SIZE" || string(params) != "1000" {
		t.Errorf("CutKeyword: %q, %q", keyword, params)
	}
}

func TestReplyEnhanced(t *testing.T) {
	tests := []struct {
		in   string
		want string
	}{
		{"550 5.1.1 no such user", "5.1.1"},
		{"250 2.0.0", "2.0.0"},
		{"451 4.7.650\tlater", "4.7.650"},
		{"550-5.1.1 first\r\n550 5.7.1 last", "5.7.1"},
		{"550 4.1.1 contradicts", ""},
		{"250 ok", ""},
		{"550 5.1.1: text", ""},
		{"550 5.1", ""},
		{"550 5.1.", ""},
		{"550 5..1", ""},
		{"550 5.1234.1", ""},
		{"550 55.1.1", ""},
		{"354 3.0.0 go", ""},
		{"550", ""},
	}
	for _, test := range tests {
		r, _, err := NextReply([]byte(test.in+"\r\n"), 100, 10)
		if err != nil {
			t.Fatal(err)
		}
		got := ""
		if class, subject, detail, ok := r.Enhanced(); ok {
			got = fmt.Sprintf("%d.%d.%d", class, subject, detail)
		}
		if got != test.want {
			t.Errorf("%q: %q, want %q", test.in, got, test.want)
		}
	}
}

func TestAppendReply(t *testing.T) {
	tests := []struct{ got, want string }{
		{string(AppendReply(nil, 250, "2.1.0", "Sender ok")), "250 2.1.0 Sender ok\r\n"},
		{string(AppendReply([]byte("x"), 453, "", "You have no mail")), "x453 You have no mail\r\n"},
		{string(AppendReply(nil, 250, "", "")), "250 \r\n"},
		{string(AppendReply(nil, 501, "5.5.4", "a\r\n250 b\x00\t\xc3\xa9")), "501 5.5.4 a??250 b????\r\n"},
		{string(AppendReplyLines(nil, 250, "a", "b", "c\n")), "250-a\r\n250-b\r\n250 c?\r\n"},
		{string(AppendReplyLines(nil, 250, "a")), "250 a\r\n"},
		{string(AppendReplyLines(nil, 250)), "250 \r\n"},
	}
	for _, test := range tests {
		if test.got != test.want {
			t.Errorf("%q, want %q", test.got, test.want)
		}
	}
}

func TestParseLimits(t *testing.T) {
	tests := []struct {
		in      string
		a, b, c int64
	}{
		{"", 0, 0, 0},
		{"LIMITS", 0, 0, 0},
		{"LIMITS MAILMAX=10 RCPTMAX=20 RCPTDOMAINMAX=1", 10, 20, 1},
		{"limits rcptmax=5 X=9 MAILMAX=7", 7, 5, 0},
		{"MAILMAX=10", 10, 0, 0},
		{"LIMITS MAILMAX= RCPTMAX=-1 RCPTDOMAINMAX=1x", 0, 0, 0},
		{"LIMITS MAILMAX=99999999999999999999", 1<<63 - 1, 0, 0},
	}
	for _, test := range tests {
		if a, b, c := ParseLimits([]byte(test.in)); a != test.a || b != test.b || c != test.c {
			t.Errorf("%q: %d, %d, %d", test.in, a, b, c)
		}
	}
}

func FuzzNextReply(f *testing.F) {
	for _, seed := range []string{
		"250 OK\r\n", "250-a\r\n250 b\r\n", "250-a\n250\n", "250-a\r\n550 b\r\n", "2500\r\n", "220 x\r\n250 y\r\n", "\r\n", "250-a\r\n250-b\r\n250-c\r\n250 d\r\n",
	} {
		f.Add([]byte(seed), uint8(20), uint8(3))
	}
	f.Fuzz(func(t *testing.T, in []byte, limit, lines uint8) {
		maxLine, maxLines := int(limit)+1, int(lines)+1
		got, want := nextReply(string(in), maxLine, maxLines), referenceReply(string(in), maxLine, maxLines)
		if got != want {
			t.Fatalf("%q: %+v\nwant %+v", in, got, want)
		}
		checkReplySplits(t, string(in), maxLine, maxLines)
		r, _, err := NextReply(in, maxLine, maxLines)
		if err != nil || r.Lines == 0 {
			return
		}
		count := 0
		for text := range r.All() {
			if count++; count == r.Lines && string(text) != string(r.Text) {
				t.Fatalf("%q: last line %q, text %q", in, text, r.Text)
			}
		}
		if count != r.Lines {
			t.Fatalf("%q: %d lines, walked %d", in, r.Lines, count)
		}
		r.Enhanced()
		ParseLimits(r.Text)
	})
}

func FuzzAppendReply(f *testing.F) {
	f.Add("ok", "more\r\n")
	f.Fuzz(func(t *testing.T, a, b string) {
		raw := AppendReplyLines(nil, 250, a, b)
		r, n, err := NextReply(raw, len(raw), 2)
		if errors.Is(err, ErrReplyTooLong) && len(raw) >= MaxReply {
			return
		}
		if err != nil || n != len(raw) || r.Code != 250 || r.Lines != 2 || len(r.Line(0)) != len(a) || len(r.Text) != len(b) {
			t.Fatalf("%q: %+v, %d, %v", raw, r, n, err)
		}
		raw = AppendReply(nil, 550, "5.1.1", a)
		if r, n, err = NextReply(raw, len(raw), 1); err == nil {
			class, subject, detail, ok := r.Enhanced()
			if n != len(raw) || !ok || class != 5 || subject != 1 || detail != 1 {
				t.Fatalf("%q: %+v", raw, r)
			}
		}
	})
}

func BenchmarkNextReply(b *testing.B) {
	for _, in := range []string{
		"250 2.1.5 Ok\r\n",
		"250-mx.example\r\n250-PIPELINING\r\n250-SIZE 10240000\r\n250-ETRN\r\n250-ENHANCEDSTATUSCODES\r\n250-8BITMIME\r\n250-DSN\r\n250-SMTPUTF8\r\n250 CHUNKING\r\n",
	} {
		in := []byte(in)
		b.Run(strconv.Itoa(len(in)), func(b *testing.B) {
			for b.Loop() {
				if _, n, _ := NextReply(in, 4096, 128); n != len(in) {
					b.Fatal(n)
				}
			}
		})
	}
}
