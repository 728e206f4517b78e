// Package report shows a run of the load harness as one page of HTML: the table of what was asked, a
// bar for each figure against its ceilings and the peers, and for each scenario throughput and memory
// over time and the latencies up to the last one.
//
// The page is self-contained: its plots are SVG written here, its style is inside, it loads nothing and
// runs nothing. It shows what is in result.Run and must never compute a figure of its own beyond
// a ratio of two that are shown.
package report

import (
	_ "embed"
	"fmt"
	"html/template"
	"io"
	"strings"

	"odmr/bench/result"
)

//go:embed page.html
var pageText string

var page = template.Must(template.New("page").Funcs(template.FuncMap{
	"octets":   result.Octets,
	"micros":   result.Micros,
	"number":   result.Number,
	"count":    func(n int64) string { return result.Number(float64(n)) },
	"sections": sections,
	"bars":     bars,
	"gain":     func(c result.Change) string { return fmt.Sprintf("%+.1f %%", 100*c.Gain()) },
	"of":       func(v float64, unit string) string { return result.Figure{Value: v, Unit: unit}.String() },
	"worse":    func(c result.Change) bool { return c.Gain() < -0.05 },
	"better":   func(c result.Change) bool { return c.Gain() > 0.05 },
}).Parse(pageText))

// Write writes the page. changes are those against a baseline, nil where there is none.
func Write(w io.Writer, run *result.Run, changes []result.Change) error {
	return page.Execute(w, struct {
		*result.Run
		Changes []result.Change
	}{run, changes})
}

// section is one result with its plots.
type section struct {
	*result.Result
	Plots []plot
}

// plot is a figure with its title.
type plot struct {
	Title string
	SVG   template.HTML
}

func sections(run *result.Run) []section {
	var out []section
	for _, r := range run.Results {
		s := section{Result: r}
		for _, group := range byUnit(r.Series) {
			s.Plots = append(s.Plots, plot{group.title(), overTime(group)})
		}
		if len(r.Latency) > 0 {
			s.Plots = append(s.Plots, plot{"latency by percentile, both scales logarithmic", percentiles(r.Latency)})
		}
		out = append(out, s)
	}
	return out
}

// group is series that share an axis.
type group []result.Series

// title says what the plot shows, and in which unit where the axis does not.
func (g group) title() string {
	var names []string
	for _, s := range g {
		names = append(names, s.Name)
	}
	title := strings.Join(names, ", ")
	if unit := g[0].Unit; unitOfAxis(unit) == "" && unit != "" {
		title += " (" + unit + ")"
	}
	return title
}

// byUnit puts series of the same unit together, in the order in which units first occur.
func byUnit(list []result.Series) []group {
	var out []group
	at := map[string]int{}
	for _, s := range list {
		if len(s.Points) < 2 {
			continue
		}
		i, known := at[s.Unit]
		if !known {
			i = len(out)
			at[s.Unit] = i
			out = append(out, nil)
		}
		out[i] = append(out[i], s)
	}
	return out
}

// bar is one line of the comparison.
type bar struct {
	Name  string
	Text  string
	Share float64 // of the longest in its set, 0 to 1
	Kind  string  // ours, ceiling, peer
}

// set is the bars that belong together.
type set struct {
	Title string
	Bars  []bar
}

// peersSize reports whether r is about messages of the size that the peers are measured with.
func peersSize(r *result.Result) bool {
	for _, p := range r.Params {
		if p.Name == "size" {
			return p.Value == "4KiB"
		}
	}
	return true
}

// bars compares: each scenario's rate with its ceilings, and with what the peers do of the
// same kind with messages of the same size.
func bars(run *result.Run) []set {
	var out []set
	for _, r := range run.Results {
		if len(r.Figures) == 0 || r.Figures[0].Unit != "msg/s" || strings.HasPrefix(r.ID, "peer-") {
			continue
		}
		s := set{Title: r.ID}
		var values []float64
		add := func(name, kind string, f result.Figure) {
			s.Bars = append(s.Bars, bar{Name: name, Text: f.String(), Kind: kind})
			values = append(values, f.Value)
		}
		add("odmrd", "ours", r.Figures[0])
		for _, c := range r.Ceilings {
			add(c.Name, "ceiling", c)
		}
		key := "rate"
		if strings.HasPrefix(r.ID, "drain") {
			key = "relay"
		}
		for _, peer := range run.Results {
			if f, ok := peer.Figure(key); ok && strings.HasPrefix(peer.ID, "peer-") && peersSize(r) {
				name, _, _ := strings.Cut(peer.Title, ":")
				add(name, "peer", f)
			}
		}
		most := 0.0
		for _, v := range values {
			most = max(most, v)
		}
		for i := range s.Bars {
			s.Bars[i].Share = values[i] / max(most, 1e-9)
		}
		if len(s.Bars) > 1 {
			out = append(out, s)
		}
	}
	return out
}
