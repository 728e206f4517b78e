package session

import (
	"bytes"
	"flag"
	"fmt"
	"math/rand"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"
)

// A scenario is one dialogue in a readable text file, testdata/<machine>/<name>.txt:
//
//	# comments and blank lines may stand anywhere
//	mode lmtp                      configuration, "key value", up to the first line below
//	auto begin route=example.org   actions answered at once: begin, append, commit, settle with ok;
//	                               route=LIST holds mail for LIST only, route for all
//	item 1 from=<a@b> to=<c@d>     an Item for "R: items 1" (see scenarioItem)
//	tickets                        A: lines show their tickets
//	lockstep                       the dialogue depends on when completions arrive: no late replay
//
//	S: 220 mail.isp.example        expected reply line; what Start emits comes before the first C:
//	C: EHLO mx.example             octets from the peer, CRLF is added; C lines in a row arrive together
//	c: BDAT 3\r\nabc               the same without CRLF; escapes \r \n \t \0 \xHH \\
//	C*1000: x                      repeated, as is S*1000: (output is folded from four lines on)
//	s: partial                     reply octets that do not end in CRLF
//	A: route domain=example.org    expected action. Stream actions (body, turn, starttls, close) stand
//	                               among the S: lines, where At says; the others follow all S: lines of their step
//	E: ..., B: ...                 envelopes and body of a commit
//	R: ok id=7                     completion of the oldest pending action; "R: #3 ok" of ticket 3.
//	                               ok [id= domain= domains=a,b waiting= wait=20s] | refuse 452 4.3.1 text ("-": no
//	                               enhanced code) | challenge text | auth NAME | items [1 2 …]
//	NEXT: commit refuse 452 …      what the next action of that kind is answered, at once
//	T: +5m                         time passes, Tick when due
//	PROGRESS / STOP / YIELD / END  the driver's calls of these names (END: the line is lost)
//
// go test ./engine/session -rewrite replaces the expectations by what the machines did.
//
// Each scenario is played with the octets arriving as written, one at a time and in random
// pieces: the dialogue must be the same. Unless "lockstep" it is also played with all completions
// held back until the peer has nothing more to say.
var rewriteScenarios = flag.Bool("rewrite", false, "rewrite the expectations of scenario files")

// scenario is one parsed file.
type scenario struct {
	path   string
	header []string // raw lines
	config [][2]string
	start  []string // expected of Start
	steps  []*scenarioStep
}

type scenarioStep struct {
	line int      // of its first stimulus
	raw  []string // its stimulus lines, and comments before and between
	verb string   // C R NEXT T PROGRESS STOP YIELD END
	arg  string   // of R, NEXT, T
	in   []byte   // of C
	want []string
}

// value returns the last value of a configuration key.
func (sc *scenario) value(key string) (string, bool) {
	for i := len(sc.config) - 1; i >= 0; i-- {
		if sc.config[i][0] == key {
			return sc.config[i][1], true
		}
	}
	return "", false
}

// number returns the value of a configuration key as a number, or def.
func (sc *scenario) number(t *testing.T, key string, def int64) int64 {
	v, ok := sc.value(key)
	if !ok {
		return def
	}
	n, err := strconv.ParseInt(v, 10, 64)
	if err != nil {
		t.Fatalf("%s: %s: %v", sc.path, key, err)
	}
	return n
}

var scenarioLine = regexp.MustCompile(`^(?:([A-Za-z]+)(?:\*(\d+))?:(?: (.*))?|(PROGRESS|STOP|YIELD|END))$`)

func parseScenario(path string) (*scenario, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	sc := &scenario{path: path}
	var (
		prelude []string
		last    *scenarioStep // nil until the first stimulus
		open    bool          // last is a C that may grow
		inBody  bool          // past the header
	)
	for i, l := range strings.Split(strings.TrimSuffix(string(text), "\n"), "\n") {
		m := scenarioLine.FindStringSubmatch(l)
		comment := l == "" || strings.HasPrefix(l, "#")
		switch {
		case comment && !inBody:
			sc.header = append(sc.header, l)
			continue
		case comment:
			prelude, open = append(prelude, l), open && l != ""
			continue
		case m == nil && !inBody:
			sc.header = append(sc.header, l)
			k, v, _ := strings.Cut(l, " ")
			sc.config = append(sc.config, [2]string{k, strings.TrimSpace(v)})
			continue
		case m == nil:
			return nil, fmt.Errorf("%s:%d: not a scenario line: %q", path, i+1, l)
		}
		inBody = true
		verb, arg := m[1]+m[4], m[3]
		times := 1
		if m[2] != "" {
			times, _ = strconv.Atoi(m[2])
		}
		switch verb {
		case "S", "s", "A", "E", "B", "O":
			open = false
			if last == nil {
				sc.start = append(sc.start, l)
			} else {
				last.want = append(last.want, l)
			}
			continue
		case "C", "c":
			octets, err := unescape(arg)
			if err != nil {
				return nil, fmt.Errorf("%s:%d: %v", path, i+1, err)
			}
			if verb == "C" {
				octets = append(octets, '\r', '\n')
			}
			if !open || last.verb != "C" {
				last = &scenarioStep{line: i + 1, verb: "C"}
				sc.steps = append(sc.steps, last)
			}
			last.in = append(last.in, bytes.Repeat(octets, times)...)
			open = true
		case "R", "NEXT", "T", "PROGRESS", "STOP", "YIELD", "END":
			last = &scenarioStep{line: i + 1, verb: verb, arg: arg}
			sc.steps = append(sc.steps, last)
			open = false
		default:
			return nil, fmt.Errorf("%s:%d: unknown line kind %q", path, i+1, verb)
		}
		last.raw = append(append(last.raw, prelude...), l)
		prelude = nil
	}
	if len(prelude) > 0 { // trailing comments: keep them
		sc.steps = append(sc.steps, &scenarioStep{raw: prelude, verb: "NEXT"})
	}
	return sc, nil
}

// scenarioMachine makes the machine that a scenario's configuration asks for.
type scenarioMachine func(t *testing.T, sc *scenario) Session

// runScenarios plays testdata/<dir>/*.txt.
func runScenarios(t *testing.T, dir string, machine scenarioMachine) {
	t.Helper()
	files, err := filepath.Glob(filepath.Join("testdata", dir, "*.txt"))
	if err != nil || len(files) == 0 {
		t.Fatalf("no scenarios in testdata/%s (%v)", dir, err)
	}
	for _, path := range files {
		t.Run(strings.TrimSuffix(filepath.Base(path), ".txt"), func(t *testing.T) {
			sc, err := parseScenario(path)
			if err != nil {
				t.Fatal(err)
			}
			runScenario(t, sc, machine)
		})
	}
}

func runScenario(t *testing.T, sc *scenario, machine scenarioMachine) {
	whole := playScenario(t, sc, machine, arriveWhole)
	if *rewriteScenarios {
		if err := os.WriteFile(sc.path, rewriteScenario(sc, whole), 0o644); err != nil {
			t.Fatal(err)
		}
	} else {
		compareScenario(t, sc, "as written", whole)
	}
	if t.Failed() {
		return
	}
	for i := range sc.steps { // the replays must do what the first play did
		sc.steps[i].want = whole[i+1].lines()
	}
	sc.start = whole[0].lines()
	compareScenario(t, sc, "one octet at a time", playScenario(t, sc, machine, arriveOctets))
	for seed := int64(1); seed <= 4; seed++ {
		name := fmt.Sprintf("random pieces, seed %d", seed)
		compareScenario(t, sc, name, playScenario(t, sc, machine, arriveRandomly(seed)))
	}
	if _, lockstep := sc.value("lockstep"); lockstep {
		return
	}
	late := arriveWhole
	late.late = true
	got, want := playScenario(t, sc, machine, late), whole
	compareLines(t, sc.path+": completions held back", mergeTranscripts(want).lines(), mergeTranscripts(got).lines())
}

// arrival says how the peer's octets and the completions reach the machine.
type arrival struct {
	pieces func(b []byte) [][]byte
	late   bool // completions come when the peer has nothing more to say
}

var (
	arriveWhole  = arrival{pieces: func(b []byte) [][]byte { return [][]byte{b} }}
	arriveOctets = arrival{pieces: func(b []byte) [][]byte {
		if len(b) > 1<<16 { // the harness hands over all that is unread each time: keep that affordable
			return append([][]byte{b[:len(b)-1<<12]}, singleOctets(b[len(b)-1<<12:])...)
		}
		return singleOctets(b)
	}}
)

func singleOctets(b []byte) [][]byte {
	var p [][]byte
	for i := range b {
		p = append(p, b[i:i+1])
	}
	return p
}

func arriveRandomly(seed int64) arrival {
	rng := rand.New(rand.NewSource(seed))
	return arrival{pieces: func(b []byte) (p [][]byte) {
		largest := 12
		if len(b) > 1<<16 {
			largest = 17
		}
		for len(b) > 0 {
			n := 1 + rng.Intn(1<<rng.Intn(largest))
			n = min(n, len(b))
			p, b = append(p, b[:n]), b[n:]
		}
		return p
	}}
}

// playScenario returns what the machine did: at Start, then in each step.
func playScenario(t *testing.T, sc *scenario, machine scenarioMachine, how arrival) []*transcript {
	t.Helper()
	h := newScenarioDriver(t, sc, machine(t, sc))
	h.late = how.late
	all := []*transcript{h.transcript}
	h.call(func() { h.m.Start(h.now, &h.out) })
	h.pump()
	for _, st := range sc.steps {
		h.transcript = &transcript{}
		all = append(all, h.transcript)
		h.where = fmt.Sprintf("%s:%d", sc.path, st.line)
		if h.late && st.verb != "C" && st.verb != "R" && st.verb != "NEXT" {
			h.settle()
		}
		switch st.verb {
		case "C":
			for _, p := range how.pieces(st.in) {
				h.unread = append(h.unread, p...)
				h.pump()
			}
		case "R":
			h.answers = append(h.answers, st.arg)
			if !h.late {
				h.settle()
				if len(h.answers) > 0 {
					t.Fatalf("%s: no pending action for %q", h.where, st.arg)
				}
			}
		case "NEXT":
			if kind, answer, ok := strings.Cut(st.arg, " "); ok {
				h.next[kind] = append(h.next[kind], answer)
			}
		case "T":
			d, err := time.ParseDuration(strings.TrimPrefix(st.arg, "+"))
			if err != nil {
				t.Fatalf("%s: %v", h.where, err)
			}
			h.pass(d)
		case "PROGRESS":
			h.m.Progress(h.now)
		case "YIELD":
			if !h.closed {
				h.call(func() { h.m.(Yielder).Yield(h.now, CauseTakenOver, &h.out) })
			}
			h.settle()
		case "STOP":
			h.call(func() { h.m.Stop(h.now, &h.out) })
			h.pump()
		case "END":
			h.end()
		}
	}
	h.transcript = &transcript{}
	h.settle()
	if h.late {
		all = append(all, h.transcript)
	}
	h.transcript = &transcript{}
	h.end()
	return all
}

func compareScenario(t *testing.T, sc *scenario, how string, got []*transcript) {
	t.Helper()
	compareLines(t, fmt.Sprintf("%s: %s, start", sc.path, how), sc.start, got[0].lines())
	for i, st := range sc.steps {
		compareLines(t, fmt.Sprintf("%s:%d: %s", sc.path, st.line, how), st.want, got[i+1].lines())
	}
}

func compareLines(t *testing.T, where string, want, got []string) {
	t.Helper()
	w, g := strings.Join(want, "\n"), strings.Join(got, "\n")
	if canonicalLines(want) != canonicalLines(got) {
		t.Errorf("%s\nwant:\n%s\n\ngot:\n%s\n", where, w, g)
	}
}

// canonicalLines drops the order between replies and actions that have no place in the stream.
func canonicalLines(lines []string) string {
	var stream, acts []string
	for _, l := range lines {
		if isStreamLine(l) {
			stream = append(stream, l)
		} else {
			acts = append(acts, l)
		}
	}
	return strings.Join(append(stream, acts...), "\n")
}

func isStreamLine(l string) bool {
	if l[0] == 'S' || l[0] == 's' {
		return true
	}
	kind, _, _ := strings.Cut(strings.TrimPrefix(l, "A: "), " ")
	return kind == "body" || kind == "turn" || kind == "starttls" || kind == "close"
}

func rewriteScenario(sc *scenario, got []*transcript) []byte {
	var b bytes.Buffer
	put := func(lines []string) {
		for _, l := range lines {
			b.WriteString(l)
			b.WriteByte('\n')
		}
	}
	put(sc.header)
	put(got[0].lines())
	for i, st := range sc.steps {
		put(st.raw)
		put(got[i+1].lines())
	}
	return b.Bytes()
}

// unescape turns a scenario's text into octets.
func unescape(s string) ([]byte, error) {
	var b []byte
	for i := 0; i < len(s); i++ {
		if s[i] != '\\' {
			b = append(b, s[i])
			continue
		}
		i++
		if i == len(s) {
			return nil, fmt.Errorf("lone backslash at the end of %q", s)
		}
		switch s[i] {
		case 'r':
			b = append(b, '\r')
		case 'n':
			b = append(b, '\n')
		case 't':
			b = append(b, '\t')
		case '0':
			b = append(b, 0)
		case '\\':
			b = append(b, '\\')
		case 'x':
			if i+2 >= len(s) {
				return nil, fmt.Errorf(`\x without two digits in %q`, s)
			}
			v, err := strconv.ParseUint(s[i+1:i+3], 16, 8)
			if err != nil {
				return nil, err
			}
			b = append(b, byte(v))
			i += 2
		default:
			return nil, fmt.Errorf(`unknown escape \%c in %q`, s[i], s)
		}
	}
	return b, nil
}

// escape is the inverse of unescape.
func escape(b []byte) string {
	var s strings.Builder
	for _, c := range b {
		switch {
		case c == '\r':
			s.WriteString(`\r`)
		case c == '\n':
			s.WriteString(`\n`)
		case c == '\t':
			s.WriteString(`\t`)
		case c == '\\':
			s.WriteString(`\\`)
		case c < 0x20 || c >= 0x7f:
			fmt.Fprintf(&s, `\x%02x`, c)
		default:
			s.WriteByte(c)
		}
	}
	return s.String()
}
