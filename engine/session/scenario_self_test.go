package session

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// scenarioEcho answers each line with itself; it shows what the runner catches. Like a real machine it
// asks for one thing at a time, and its faults are switched on by the scenario's header.
type scenarioEcho struct {
	fault   string
	ticket  uint32
	waiting bool
	line    []byte
}

func (e *scenarioEcho) Start(_ Time, out *Output) { out.Reply = append(out.Reply, "220 echo\r\n"...) }

func (e *scenarioEcho) Input(_ Time, b []byte, out *Output) int {
	n := 0
	for !e.waiting {
		i := bytes.IndexByte(b[n:], '\n')
		if i < 0 {
			break
		}
		if e.fault == "split" && n+i+1 < len(b) {
			out.Reply = append(out.Reply, "250 more came with it\r\n"...)
		}
		e.ticket++
		data := bytes.Clone(b[n : n+i+1])
		e.line = data
		if e.fault == "alias" {
			e.line = b[n : n+i+1]
		}
		e.waiting = true
		n += i + 1
		out.Acts = append(out.Acts, Action{Kind: ActAuth, Ticket: e.ticket, Data: data, HasData: true})
	}
	return n
}

func (e *scenarioEcho) Done(_ Time, _ uint32, r *Result, out *Output) {
	e.waiting = false
	if r.Refusal != nil {
		out.Reply = append(out.Reply, "550 "+r.Refusal.Text+"\r\n"...)
		return
	}
	out.Reply = append(append(out.Reply, "250 "...), e.line...)
}

func (e *scenarioEcho) Tick(Time, *Output) {}
func (e *scenarioEcho) Deadline() Time     { return Never }
func (e *scenarioEcho) Progress(Time)      {}
func (e *scenarioEcho) Stop(now Time, out *Output) {
	out.Reply = append(out.Reply, "421 bye\r\n"...)
	out.Acts = append(out.Acts, Action{Kind: ActClose, At: len(out.Reply), Reason: "stop"})
}
func (e *scenarioEcho) End(Time, *Output) {}

const scenarioSelfText = `# a comment
mode echo

S: 220 echo
# two at once
C: one
C: two
A: auth data="one\r\n"
R: ok
S: 250 one
A: auth data="two\r\n"
R: refuse 550 5.0.0 no
S: 550 no
STOP
S: 421 bye
A: close reason="stop"
`

func newScenarioEcho(_ *testing.T, sc *scenario) Session {
	fault, _ := sc.value("fault")
	return &scenarioEcho{fault: fault}
}

func writeScenario(t *testing.T, text string) *scenario {
	t.Helper()
	path := filepath.Join(t.TempDir(), "self.txt")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	sc, err := parseScenario(path)
	if err != nil {
		t.Fatal(err)
	}
	return sc
}

func TestScenarioRunnerPlaysAndRewrites(t *testing.T) {
	sc := writeScenario(t, scenarioSelfText)
	runScenario(t, sc, newScenarioEcho)
	sc = writeScenario(t, scenarioSelfText)
	got := playScenario(t, sc, newScenarioEcho, arriveWhole)
	if text := string(rewriteScenario(sc, got)); text != scenarioSelfText {
		t.Errorf("rewritten as:\n%s", text)
	}
	wrong := writeScenario(t, strings.Replace(scenarioSelfText, "S: 250 one", "S: 250 other", 1))
	if text := string(rewriteScenario(wrong, got)); text != scenarioSelfText {
		t.Errorf("the wrong expectation was not replaced:\n%s", text)
	}
}

// Planted faults: each replay must find the one that it is there for.
func TestScenarioRunnerFindsFaults(t *testing.T) {
	differs := func(sc *scenario, how arrival) bool {
		got := playScenario(t, sc, newScenarioEcho, how)
		for i, st := range sc.steps {
			if canonicalLines(st.want) != canonicalLines(got[i+1].lines()) {
				return true
			}
		}
		return false
	}
	if differs(writeScenario(t, scenarioSelfText), arriveOctets) {
		t.Error("the sound machine depends on the cuts")
	}
	if !differs(writeScenario(t, strings.Replace(scenarioSelfText, "S: 250 one", "S: 250 other", 1)), arriveWhole) {
		t.Error("a wrong expectation was not found")
	}
	whole := writeScenario(t, strings.Replace(scenarioSelfText, "mode echo", "fault split", 1))
	for i, tr := range playScenario(t, whole, newScenarioEcho, arriveWhole) {
		if i > 0 {
			whole.steps[i-1].want = tr.lines()
		}
	}
	if !differs(whole, arriveOctets) {
		t.Error("a dialogue that depends on the cuts was not found")
	}
	if !differs(writeScenario(t, strings.Replace(scenarioSelfText, "mode echo", "fault alias", 1)), arriveWhole) {
		t.Error("keeping the input was not found")
	}
}

func TestScenarioEscapes(t *testing.T) {
	all := make([]byte, 256)
	for i := range all {
		all[i] = byte(i)
	}
	back, err := unescape(escape(all))
	if err != nil || !bytes.Equal(back, all) {
		t.Errorf("unescape(escape(x)) = %q, %v", back, err)
	}
}
