// Package result is what the load harness found out, and how it is told: as JSON, on the console,
// as one page of HTML with plots, compared with an earlier run, and as the table of what
// was asked and what was measured.
//
// A Result is one run of one scenario. It always has the ceilings that were measured in the same run
// beside its figures, because a figure alone says more about the machine than about the server. The
// package only shows: it must never measure, smooth or leave out.
package result

import (
	"encoding/json"
	"math"
	"os"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"
)

// Run is everything that one call of the harness measured.
type Run struct {
	Version  string    `json:"version"`
	Began    time.Time `json:"began"`
	Seconds  float64   `json:"seconds"`
	Machine  Machine   `json:"machine"`
	Results  []*Result `json:"results"`
	Asked    []Asked   `json:"asked,omitempty"`
	Baseline string    `json:"baseline,omitempty"` // file that the run was compared with
}

// Machine says where it was measured.
type Machine struct {
	CPU        string  `json:"cpu"`
	CPUs       int     `json:"cpus"`
	Kernel     string  `json:"kernel"`
	FileSystem string  `json:"file_system"` // of the data directory
	Fdatasync  float64 `json:"fdatasync_us"`
	Go         string  `json:"go"`
}

// Result is one run of one scenario.
type Result struct {
	ID       string    `json:"id"`    // scenario, and what sets it apart from its like: "drain-pipelining"
	Title    string    `json:"title"` // one line
	Params   []Param   `json:"params,omitempty"`
	Figures  []Figure  `json:"figures"`            // the first is the headline
	Ceilings []Figure  `json:"ceilings,omitempty"` // in the unit of the headline
	Latency  []Latency `json:"latency,omitempty"`
	Series   []Series  `json:"series,omitempty"`
	Checks   []Check   `json:"checks,omitempty"`
	Notes    []string  `json:"notes,omitempty"`
	Seconds  float64   `json:"seconds"` // of the measured part
}

// Param is a setting, as text.
type Param struct {
	Name  string `json:"name"`
	Value string `json:"value"`
}

// Figure is a number with a unit.
type Figure struct {
	Key   string  `json:"key"` // for comparing runs; does not change
	Name  string  `json:"name"`
	Value float64 `json:"value"`
	Unit  string  `json:"unit"`
	Less  bool    `json:"less,omitempty"` // less is better
}

// Check is something that had to hold.
type Check struct {
	Name string `json:"name"`
	OK   bool   `json:"ok"`
	Text string `json:"text"`
}

// Latency is a distribution of times.
type Latency struct {
	Name  string  `json:"name"`
	Count int64   `json:"count"`
	Mean  float64 `json:"mean_us"`
	P50   float64 `json:"p50_us"`
	P90   float64 `json:"p90_us"`
	P99   float64 `json:"p99_us"`
	P999  float64 `json:"p999_us"`
	Max   float64 `json:"max_us"`
	Curve []Point `json:"curve,omitempty"` // quantile from 0 to 1, microseconds
}

// Series is a value over time.
type Series struct {
	Name   string  `json:"name"`
	Unit   string  `json:"unit"`
	Points []Point `json:"points"` // seconds since the beginning of the measured part, value
}

// Point is a pair of numbers, [x, y] in JSON.
type Point [2]float64

// Of makes a Latency of a histogram in microseconds.
func Of(name string, h *hdrhistogram.Histogram) Latency {
	l := Latency{Name: name, Count: h.TotalCount(), Mean: h.Mean(), Max: float64(h.Max())}
	for q, to := range map[float64]*float64{50: &l.P50, 90: &l.P90, 99: &l.P99, 99.9: &l.P999} {
		*to = float64(h.ValueAtQuantile(q))
	}
	if l.Count == 0 {
		return l
	}
	for miss := 1.0; miss >= 0.5/float64(l.Count) && miss > 1e-7; miss /= math.Sqrt2 {
		l.Curve = append(l.Curve, Point{1 - miss, float64(h.ValueAtQuantile(100 * (1 - miss)))})
	}
	l.Curve = append(l.Curve, Point{1, l.Max})
	return l
}

// Figure returns the figure of that key.
func (r *Result) Figure(key string) (Figure, bool) {
	for _, list := range [][]Figure{r.Figures, r.Ceilings} {
		for _, f := range list {
			if f.Key == key {
				return f, true
			}
		}
	}
	return Figure{}, false
}

// Add appends a figure of which more is better.
func (r *Result) Add(key, name string, value float64, unit string) {
	r.Figures = append(r.Figures, Figure{Key: key, Name: name, Value: value, Unit: unit})
}

// AddLess appends a figure of which less is better.
func (r *Result) AddLess(key, name string, value float64, unit string) {
	r.Figures = append(r.Figures, Figure{Key: key, Name: name, Value: value, Unit: unit, Less: true})
}

// Ceiling appends a ceiling, in the unit of the headline.
func (r *Result) Ceiling(key, name string, value float64) {
	unit := ""
	if len(r.Figures) > 0 {
		unit = r.Figures[0].Unit
	}
	r.Ceilings = append(r.Ceilings, Figure{Key: key, Name: name, Value: value, Unit: unit})
}

// Expect appends something that had to hold, by its number of faults.
func (r *Result) Expect(name string, faults int64, text string) {
	r.Checks = append(r.Checks, Check{name, faults == 0, text})
}

// Param appends a setting.
func (r *Result) Param(name, value string) { r.Params = append(r.Params, Param{name, value}) }

// OK reports whether everything held that had to.
func (r *Result) OK() bool {
	for _, c := range r.Checks {
		if !c.OK {
			return false
		}
	}
	return true
}

// Find returns the result of that id, or nil.
func (r *Run) Find(id string) *Result {
	for _, res := range r.Results {
		if res.ID == id {
			return res
		}
	}
	return nil
}

// Value returns the figure key of the result id.
func (r *Run) Value(id, key string) (float64, bool) {
	res := r.Find(id)
	if res == nil {
		return 0, false
	}
	f, ok := res.Figure(key)
	return f.Value, ok
}

// Load reads a run that was saved with Save.
func Load(file string) (*Run, error) {
	text, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	run := new(Run)
	return run, json.Unmarshal(text, run)
}

// JSON is the run as indented JSON, numbers' pairs on one line.
func (r *Run) JSON() ([]byte, error) {
	text, err := json.MarshalIndent(r, "", " ")
	if err != nil {
		return nil, err
	}
	return append(text, '\n'), nil
}

// MarshalJSON writes a point with four significant decimals: more is noise and doubles the file.
func (p Point) MarshalJSON() ([]byte, error) {
	return json.Marshal([]float64{round(p[0]), round(p[1])})
}

func round(v float64) float64 {
	if v == 0 || math.IsNaN(v) || math.IsInf(v, 0) {
		return 0
	}
	scale := math.Pow(10, 6-math.Ceil(math.Log10(math.Abs(v))))
	return math.Round(v*scale) / scale
}
