package report

import (
	"fmt"
	"html"
	"html/template"
	"math"
	"strings"

	"odmr/bench/result"
)

// Measures of a plot in pixels.
const (
	plotWidth, plotHeight = 560, 270
	left, right           = 64, 12
	top, bottom           = 24, 30
)

// colours is how many classes c0, c1 ... the style sheet has.
const colours = 6

// axis maps values to pixels.
type axis struct {
	from, to float64 // values
	a, b     float64 // pixels
	log      bool
}

func (x axis) at(v float64) float64 {
	from, to := x.from, x.to
	if x.log {
		v, from, to = math.Log10(max(v, x.from)), math.Log10(from), math.Log10(to)
	}
	if to == from {
		return x.a
	}
	return x.a + (v-from)/(to-from)*(x.b-x.a)
}

// ticks are some round values on the axis.
func (x axis) ticks() []float64 {
	var out []float64
	if x.log {
		for v := math.Pow(10, math.Ceil(math.Log10(x.from))); v <= x.to*1.0001; v *= 10 {
			out = append(out, v)
		}
		return out
	}
	span := x.to - x.from
	if span <= 0 {
		return []float64{x.from}
	}
	step := math.Pow(10, math.Floor(math.Log10(span/4)))
	for _, m := range []float64{1, 2, 5, 10} {
		if span/(step*m) <= 5 {
			step *= m
			break
		}
	}
	for v := math.Ceil(x.from/step) * step; v <= x.to*1.0001; v += step {
		out = append(out, v)
	}
	return out
}

// canvas is an SVG that is being written.
type canvas struct {
	strings.Builder
	x, y axis
	head float64 // where the frame begins, below the legend
}

// legendRow is the height of a row of the legend, in pixels; so many curves share the first row.
const legendRow, inARow = 15, 2

// newCanvas begins a plot of so many curves.
func newCanvas(x, y axis, curves int) *canvas {
	c := &canvas{x: x, y: y, head: top}
	if curves > inARow {
		c.head += float64(legendRow * (curves - 1))
	}
	c.x.a, c.x.b = left, plotWidth-right
	c.y.a, c.y.b = plotHeight-bottom, c.head
	fmt.Fprintf(c, `<svg viewBox="0 0 %d %d" role="img">`, plotWidth, plotHeight)
	return c
}

// text writes a label; anchor is start, middle or end.
func (c *canvas) text(x, y float64, anchor, s string) {
	fmt.Fprintf(c, `<text x="%.1f" y="%.1f" text-anchor="%s">%s</text>`, x, y, anchor, html.EscapeString(s))
}

func (c *canvas) rule(x1, y1, x2, y2 float64) {
	fmt.Fprintf(c, `<line class="rule" x1="%.1f" y1="%.1f" x2="%.1f" y2="%.1f"/>`, x1, y1, x2, y2)
}

// frame writes both axes; xs gives the labels of the horizontal one.
func (c *canvas) frame(xs map[float64]string, unit string) {
	for _, v := range c.y.ticks() {
		y := c.y.at(v)
		c.rule(left, y, plotWidth-right, y)
		c.text(left-6, y+4, "end", result.Figure{Value: v, Unit: unit}.String())
	}
	for v, label := range xs {
		x := c.x.at(v)
		c.rule(x, c.head, x, plotHeight-bottom)
		c.text(x, plotHeight-bottom+16, "middle", label)
	}
}

// line writes one curve and its name in the legend.
func (c *canvas) line(n int, name string, points []result.Point) {
	fmt.Fprintf(c, `<polyline class="c%d" points="`, n%colours)
	for _, p := range points {
		fmt.Fprintf(c, "%.1f,%.1f ", c.x.at(p[0]), c.y.at(p[1]))
	}
	fmt.Fprintf(c, `"><title>%s</title></polyline>`, html.EscapeString(name))
}

// legend names the curves, in a row if they are few.
func (c *canvas) legend(names []string) {
	const letter = 6.2 // pixels, about
	x, y := float64(left), 10.0
	for n, name := range names {
		fmt.Fprintf(c, `<line class="c%d" x1="%.1f" y1="%.1f" x2="%.1f" y2="%.1f"/>`, n%colours, x, y, x+14, y)
		c.text(x+18, y+4, "start", name)
		if len(names) > inARow {
			y += legendRow
		} else {
			x += 30 + letter*float64(len([]rune(name)))
		}
	}
}

func (c *canvas) end() template.HTML {
	c.WriteString("</svg>")
	return template.HTML(c.String()) // every text in it went through html.EscapeString
}

// overTime plots series that share a unit over seconds.
func overTime(g group) template.HTML {
	x, y := axis{}, axis{}
	for _, s := range g {
		for _, p := range s.Points {
			x.to, y.to = max(x.to, p[0]), max(y.to, p[1])
		}
	}
	y.to = max(y.to*1.05, 1e-9)
	c := newCanvas(x, y, len(g))
	labels := map[float64]string{}
	for _, v := range x.ticks() {
		labels[v] = result.Number(v) + " s"
	}
	c.frame(labels, unitOfAxis(g[0].Unit))
	var names []string
	for n, s := range g {
		c.line(n, s.Name, s.Points)
		names = append(names, s.Name)
	}
	c.legend(names)
	return c.end()
}

// unitOfAxis leaves out what would not fit beside the numbers.
func unitOfAxis(unit string) string {
	if unit == "B" || unit == "us" || unit == "B/s" {
		return unit
	}
	return ""
}

// percentiles plots latencies up to the longest: towards the right each division is ten times as rare.
func percentiles(list []result.Latency) template.HTML {
	x, y := axis{from: 1, to: 10, log: true}, axis{from: math.Inf(1), to: 1, log: true}
	curves := make([][]result.Point, len(list))
	for i, l := range list {
		for _, p := range l.Curve {
			rarity := 1 / max(1-p[0], 0.5/float64(max(l.Count, 1)))
			v := max(p[1], 1)
			curves[i] = append(curves[i], result.Point{rarity, v})
			x.to, y.to, y.from = max(x.to, rarity), max(y.to, v), min(y.from, v)
		}
	}
	if math.IsInf(y.from, 1) {
		y.from = 1
	}
	y.from = math.Pow(10, math.Floor(math.Log10(y.from)))
	y.to = math.Pow(10, math.Ceil(math.Log10(y.to*1.0001)))
	c := newCanvas(x, y, len(list))
	labels := map[float64]string{}
	for rarity, label := range map[float64]string{2: "50 %", 10: "90 %", 100: "99 %", 1000: "99.9 %", 10000: "99.99 %", 100000: "99.999 %"} {
		if rarity <= x.to {
			labels[rarity] = label
		}
	}
	c.frame(labels, "us")
	var names []string
	for n, l := range list {
		c.line(n, l.Name, curves[n])
		names = append(names, l.Name)
	}
	c.legend(names)
	return c.end()
}
