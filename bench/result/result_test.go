package result

import (
	"bytes"
	"encoding/json"
	"math"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/HdrHistogram/hdrhistogram-go"
)

func sample() *Run {
	r := &Result{ID: "drain", Title: "a drain"}
	r.Param("size", "4KiB")
	r.Add("rate", "messages collected", 60000, "msg/s")
	r.AddLess("rss", "RSS", 123456789, "B")
	r.Ceiling("store", "the bare store", 120000)
	r.Expect("exactly once", 0, "all arrived")
	h := hdrhistogram.New(1, 1e6, 3)
	for i := int64(1); i <= 1000; i++ {
		_ = h.RecordValue(i)
	}
	r.Latency = append(r.Latency, Of("turn", h))
	r.Series = append(r.Series, Series{Name: "throughput", Unit: "msg/s", Points: []Point{{0.2, 1000}, {0.4, 2000}}})
	peer := &Result{ID: "peer-x", Title: "X 1.0: by its tool"}
	peer.Add("rate", "in", 2000, "msg/s")
	peer.Add("relay", "out", 1000, "msg/s")
	return &Run{Version: "v1", Results: []*Result{r, peer}}
}

func TestLatencyOfHistogram(t *testing.T) {
	l := sample().Results[0].Latency[0]
	if l.Count != 1000 || l.P50 != 500 || l.P90 != 900 || l.P99 != 990 || l.P999 != 999 || l.Max != 1000 {
		t.Errorf("%+v", l)
	}
	for i := 1; i < len(l.Curve); i++ {
		if l.Curve[i][0] < l.Curve[i-1][0] || l.Curve[i][1] < l.Curve[i-1][1] {
			t.Fatalf("the curve falls at %v, %v", l.Curve[i-1], l.Curve[i])
		}
	}
	if last := l.Curve[len(l.Curve)-1]; last != (Point{1, 1000}) {
		t.Errorf("the curve ends at %v", last)
	}
	if empty := Of("none", hdrhistogram.New(1, 1000, 3)); empty.Count != 0 || len(empty.Curve) != 0 {
		t.Errorf("of nothing: %+v", empty)
	}
}

// What is saved is loaded as it was.
func TestSaveAndLoad(t *testing.T) {
	run := sample()
	run.Asked = run.Ask([]Goal{{What: "a", Want: "b", Of: [2]string{"drain", "rate"}, Limit: 1}})
	text, err := run.JSON()
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "run.json")
	if err := os.WriteFile(file, text, 0o600); err != nil {
		t.Fatal(err)
	}
	back, err := Load(file)
	if err != nil {
		t.Fatal(err)
	}
	again, err := back.JSON()
	if err != nil || !bytes.Equal(text, again) {
		t.Errorf("%v\n%s\nbecame\n%s", err, text, again)
	}
	if !reflect.DeepEqual(back.Results[0].Figures, run.Results[0].Figures) {
		t.Errorf("figures became %v", back.Results[0].Figures)
	}
	if _, err := Load(file + ".none"); err == nil {
		t.Error("a missing file was loaded")
	}
}

// A number that is none must not spoil the whole file.
func TestPointsAreAlwaysNumbers(t *testing.T) {
	text, err := json.Marshal([]Point{{math.NaN(), math.Inf(1)}, {1.23456789, 1234567.89}, {-5, 0}})
	if want := "[[0,0],[1.23457,1234570],[-5,0]]"; err != nil || string(text) != want {
		t.Errorf("%s, %v; want %s", text, err, want)
	}
}

// Each kind of goal is reached, missed, and not measured as it should be.
func TestAsk(t *testing.T) {
	run := sample()
	of, per := [2]string{"drain", "rate"}, [2]string{"peer-x", "relay"}
	for _, c := range []struct {
		goal              Goal
		measured, reached bool
	}{
		{Goal{Of: of, Per: per, Limit: 60}, true, true},
		{Goal{Of: of, Per: per, Limit: 60.1}, true, false},
		{Goal{Of: of, Per: [2]string{"drain", "store"}, Limit: 0.5}, true, true},
		{Goal{Of: of, Limit: 60000, Less: true}, true, true},
		{Goal{Of: of, Limit: 59999, Less: true}, true, false},
		{Goal{Of: per, Per: of, Limit: 0.01, Less: true}, true, false},
		{Goal{Of: [2]string{"none", "rate"}, Limit: 1}, false, false},
		{Goal{Of: [2]string{"drain", "none"}, Limit: 1}, false, false},
		{Goal{Of: of, Per: [2]string{"peer-y", "relay"}, Limit: 1}, false, false},
	} {
		a := run.Ask([]Goal{c.goal})[0]
		if a.Measured != c.measured || a.Reached != c.reached {
			t.Errorf("%+v: measured %v, reached %v; want %v, %v", c.goal, a.Measured, a.Reached, c.measured, c.reached)
		}
		if word := a.Verdict(); (word == "reached") != c.reached || (word == "not measured") == c.measured {
			t.Errorf("%+v: verdict %q", c.goal, word)
		}
	}
}

// Better is better whichever way the figure runs.
func TestCompare(t *testing.T) {
	before, now := sample(), sample()
	now.Results[0].Figures[0].Value *= 2 // rate
	now.Results[0].Figures[1].Value *= 2 // RSS
	now.Results = append(now.Results, &Result{ID: "new", Figures: []Figure{{Key: "rate", Value: 1}}})
	gains := map[string]float64{}
	for _, c := range now.Compare(before) {
		gains[c.ID+" "+c.Name] = c.Gain()
	}
	want := map[string]float64{"drain messages collected": 1, "drain RSS": -0.5, "drain turn p99": 0, "peer-x in": 0, "peer-x out": 0}
	if !reflect.DeepEqual(gains, want) {
		t.Errorf("gains %v, want %v", gains, want)
	}
	var b bytes.Buffer
	if err := PrintChanges(&b, now.Compare(before)); err != nil || !strings.Contains(b.String(), "+100.0 %") || !strings.Contains(b.String(), "-50.0 %") {
		t.Errorf("%v\n%s", err, b.String())
	}
}

// A run in which something did not hold says so, and is not OK.
func TestBrokenIsTold(t *testing.T) {
	r := sample().Results[0]
	var b bytes.Buffer
	if err := r.Print(&b); err != nil || !r.OK() || strings.Contains(b.String(), "BROKEN") {
		t.Errorf("OK %v, %v\n%s", r.OK(), err, b.String())
	}
	for _, want := range []string{"60,000 msg/s", "123 MB", "we reach 50 %", "990 µs", "held: exactly once"} {
		if !strings.Contains(b.String(), want) {
			t.Errorf("%q is not told:\n%s", want, b.String())
		}
	}
	r.Expect("exactly once", 3, "lost 3")
	b.Reset()
	if err := r.Print(&b); err != nil || r.OK() || !strings.Contains(b.String(), "BROKEN: exactly once: lost 3") {
		t.Errorf("OK %v, %v\n%s", r.OK(), err, b.String())
	}
}

func TestNumbersForPeople(t *testing.T) {
	for got, want := range map[string]string{
		Number(0): "0", Number(0.012345): "0.0123", Number(12.345): "12.3", Number(999.4): "999", Number(1234567): "1,234,567", Number(-4321): "-4,321",
		Micros(12): "12 µs", Micros(12345): "12.3 ms", Micros(2.5e6): "2.5 s", Octets(999): "999 B", Octets(4096): "4.1 kB", Octets(2.5e9): "2.5 GB",
	} {
		if got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
}
