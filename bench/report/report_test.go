package report

import (
	"bytes"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"

	"github.com/HdrHistogram/hdrhistogram-go"

	"odmr/bench/result"
)

func sample() *result.Run {
	r := &result.Result{ID: "drain-chunking", Title: "customers <collect> & go"}
	r.Add("rate", "messages collected", 60000, "msg/s")
	r.Ceiling("store", "the bare store", 120000)
	r.Expect("exactly once", 1, "lost 1 </script>")
	h := hdrhistogram.New(1, 1e9, 3)
	for i := int64(1); i <= 5000; i++ {
		_ = h.RecordValue(i * i)
	}
	for _, name := range []string{"turn", "settle", "third"} {
		r.Latency = append(r.Latency, result.Of(name, h))
	}
	for _, s := range []result.Series{{Name: "throughput", Unit: "msg/s"}, {Name: "collected", Unit: "msg/s"}, {Name: "RSS", Unit: "B"}, {Name: "one point", Unit: "x"}} {
		for i := range 10 {
			s.Points = append(s.Points, result.Point{float64(i) / 5, float64(i * i * 1000)})
		}
		if s.Unit == "x" {
			s.Points = s.Points[:1]
		}
		r.Series = append(r.Series, s)
	}
	peer := &result.Result{ID: "peer-postfix", Title: "Postfix 3: by its tool"}
	peer.Add("rate", "in", 2000, "msg/s")
	peer.Add("relay", "out", 1842, "msg/s")
	run := &result.Run{Version: "v<1>", Results: []*result.Result{r, peer}}
	run.Asked = run.Ask([]result.Goal{{What: "drain & run", Want: "≥ 25 ×", Of: [2]string{"drain-chunking", "rate"}, Per: [2]string{"peer-postfix", "relay"}, Limit: 25}})
	return run
}

// The page is well-formed, has every plot, loads nothing from elsewhere, and text cannot break out.
func TestPage(t *testing.T) {
	run := sample()
	var b bytes.Buffer
	if err := Write(&b, run, run.Compare(sample())); err != nil {
		t.Fatal(err)
	}
	text := b.String()
	for _, want := range []string{
		"customers &lt;collect&gt; &amp; go", "60,000 msg/s", "1,842 msg/s", "the bare store", "32.6 ×", "BROKEN", "99.9 %",
		`class="bar ours" style="width:calc((100% - 9rem) * 0.5000)"`, `class="bar peer" style="width:calc((100% - 9rem) * 0.01`, "reached", "latency by percentile", "throughput, collected",
	} {
		if !strings.Contains(text, want) {
			t.Errorf("the page lacks %q", want)
		}
	}
	for _, not := range []string{"<script", "</script", "http:", "https:", "url(", "@import", "ZgotmplZ", "NaN", "Inf"} {
		if strings.Contains(text, not) {
			t.Errorf("the page has %q", not)
		}
	}
	if n := strings.Count(text, "<svg"); n != 3 { // msg/s, B, latency
		t.Errorf("%d plots, want 3", n)
	}
	if n := strings.Count(text, "<polyline"); n != 2+1+3 {
		t.Errorf("%d curves, want 6", n)
	}
}

// Every plot is well-formed XML whose coordinates are within its frame.
func TestPlotsAreWellFormed(t *testing.T) {
	for _, s := range sections(sample()) {
		for _, p := range s.Plots {
			d := xml.NewDecoder(strings.NewReader(string(p.SVG)))
			for {
				token, err := d.Token()
				if errors.Is(err, io.EOF) {
					break
				}
				if err != nil {
					t.Fatalf("%s: %v\n%s", p.Title, err, p.SVG)
				}
				if start, ok := token.(xml.StartElement); ok && start.Name.Local == "polyline" {
					inside(t, p.Title, start)
				}
			}
		}
	}
}

func inside(t *testing.T, title string, curve xml.StartElement) {
	t.Helper()
	for _, a := range curve.Attr {
		if a.Name.Local != "points" {
			continue
		}
		for pair := range strings.FieldsSeq(a.Value) {
			var x, y float64
			if _, err := fmt.Sscanf(pair, "%f,%f", &x, &y); err != nil || x < left-1 || x > plotWidth-right+1 || y < top-1 || y > plotHeight-bottom+1 {
				t.Errorf("%s: point %s is outside the frame (%v)", title, pair, err)
			}
		}
	}
}

// Messages of another size than the peers' are not set beside theirs.
func TestPeersOnlyBesideTheirLike(t *testing.T) {
	run := sample()
	for size, want := range map[string]int{"4KiB": 3, "256KiB": 2} {
		run.Results[0].Params = []result.Param{{Name: "size", Value: size}}
		if got := bars(run); len(got) != 1 || len(got[0].Bars) != want {
			t.Errorf("%s: %+v, want %d bars", size, got, want)
		}
	}
}

// A run with nothing in it is a page too.
func TestEmptyPage(t *testing.T) {
	if err := Write(io.Discard, &result.Run{Results: []*result.Result{{ID: "x"}}}, nil); err != nil {
		t.Fatal(err)
	}
}
