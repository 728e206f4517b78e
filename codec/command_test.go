package codec

import (
	"strings"
	"testing"
)

func TestParseCommand(t *testing.T) {
	tests := []struct {
		line string
		verb Verb
		arg  string
	}{
		{"EHLO client.example", VerbEHLO, "client.example"},
		{"helo x", VerbHELO, "x"},
		{"LhLo x", VerbLHLO, "x"},
		{"MAIL FROM:<a@b.example> SIZE=1", VerbMAIL, "FROM:<a@b.example> SIZE=1"},
		{"rcpt to:<a@b.example>  ", VerbRCPT, "to:<a@b.example>"},
		{"DATA", VerbDATA, ""},
		{"DATA \t ", VerbDATA, ""},
		{"BDAT 10 LAST", VerbBDAT, "10 LAST"},
		{"RSET", VerbRSET, ""},
		{"NOOP\tx", VerbNOOP, "x"},
		{"VRFY a b", VerbVRFY, "a b"},
		{"EXPN list", VerbEXPN, "list"},
		{"HELP", VerbHELP, ""},
		{"quit", VerbQUIT, ""},
		{"AUTH PLAIN =", VerbAUTH, "PLAIN ="},
		{"STARTTLS", VerbSTARTTLS, ""},
		{"starttls x", VerbSTARTTLS, "x"},
		{"ATRN  a.example,b.example", VerbATRN, "a.example,b.example"},
		{"ETRN x", VerbETRN, "x"},
		{"TURN", VerbTURN, ""},

		{"STARTTLSJUNK", VerbUnknown, ""},
		{"STARTTL", VerbUnknown, ""},
		{"QUITE", VerbUnknown, ""},
		{"QUI", VerbUnknown, ""},
		{"DATA.", VerbUnknown, ""},
		{" NOOP", VerbUnknown, "NOOP"},
		{"", VerbUnknown, ""},
		{"NOOP:x", VerbUnknown, ""},
		{"RSET\x0b", VerbUnknown, ""},
		{"\x4eOO\xd0", VerbUnknown, ""},               // P with the high bit set
		{"R\xc5\xbfET", VerbUnknown, ""},              // Unicode folds it to RSET
		{"MA\x09L FROM:<>", VerbUnknown, "L FROM:<>"}, // I with bits 0x40 cleared is a tab
	}
	for _, test := range tests {
		verb, arg := ParseCommand([]byte(test.line))
		if verb != test.verb || string(arg) != test.arg {
			t.Errorf("ParseCommand(%q) = %v, %q, want %v, %q", test.line, verb, arg, test.verb, test.arg)
		}
	}
}

func TestVerbNames(t *testing.T) {
	for v := VerbEHLO; int(v) < NumVerbs; v++ {
		if got, _ := ParseCommand([]byte(strings.ToLower(v.String()))); got != v || v.String() == "" {
			t.Errorf("%d: %q reads back as %v", v, v.String(), got)
		}
	}
	if VerbUnknown.String() != "unknown" || Verb(200).String() != "unknown" {
		t.Error("unknown verbs have a name")
	}
}

func FuzzParseCommand(f *testing.F) {
	for _, seed := range []string{"EHLO x", "STARTTLSJUNK", "mail FROM:<>", " \t", "NOOP \t x \t", "ATRN a.b, c.d"} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, line []byte) {
		verb, arg := ParseCommand(line)
		word, rest := string(line), ""
		if i := strings.IndexAny(word, " \t"); i >= 0 {
			word, rest = word[:i], strings.Trim(word[i:], " \t")
		}
		want := VerbUnknown
		for v := VerbEHLO; int(v) < NumVerbs; v++ {
			if string(AppendLower(nil, []byte(word))) == strings.ToLower(v.String()) {
				want = v
			}
		}
		if verb != want || string(arg) != rest {
			t.Fatalf("ParseCommand(%q) = %v, %q, want %v, %q", line, verb, arg, want, rest)
		}
	})
}
