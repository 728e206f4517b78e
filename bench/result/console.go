package result

import (
	"fmt"
	"io"
	"math"
	"strconv"
	"strings"
	"text/tabwriter"
)

// Print writes one result for people.
func (r *Result) Print(w io.Writer) error {
	var b strings.Builder
	fmt.Fprintf(&b, "\n%s: %s\n", r.ID, r.Title)
	if len(r.Params) > 0 {
		var list []string
		for _, p := range r.Params {
			list = append(list, p.Name+" "+p.Value)
		}
		fmt.Fprintf(&b, "  %s\n", strings.Join(list, " · "))
	}
	t := tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
	for _, f := range r.Figures {
		fmt.Fprintf(t, "  %s\t%s\n", f.Name, f)
	}
	for _, c := range r.Ceilings {
		share := ""
		if len(r.Figures) > 0 && c.Value > 0 {
			share = fmt.Sprintf("we reach %.0f %%", 100*r.Figures[0].Value/c.Value)
		}
		fmt.Fprintf(t, "  ceiling: %s\t%s\t%s\n", c.Name, c, share)
	}
	t.Flush()
	if len(r.Latency) > 0 {
		t = tabwriter.NewWriter(&b, 0, 0, 2, ' ', tabwriter.AlignRight)
		fmt.Fprintf(t, "  latency\tp50\tp90\tp99\tp99.9\tmax\tcount\t\n")
		for _, l := range r.Latency {
			fmt.Fprintf(t, "  %s\t%s\t%s\t%s\t%s\t%s\t%s\t\n", l.Name, Micros(l.P50), Micros(l.P90), Micros(l.P99), Micros(l.P999), Micros(l.Max), Number(float64(l.Count)))
		}
		t.Flush()
	}
	for _, c := range r.Checks {
		word := "held"
		if !c.OK {
			word = "BROKEN"
		}
		fmt.Fprintf(&b, "  %s: %s: %s\n", word, c.Name, c.Text)
	}
	for _, n := range r.Notes {
		fmt.Fprintf(&b, "  note: %s\n", n)
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// String is the figure as people read it.
func (f Figure) String() string {
	switch f.Unit {
	case "us":
		return Micros(f.Value)
	case "B":
		return Octets(f.Value)
	case "B/s":
		return Octets(f.Value) + "/s"
	case "":
		return Number(f.Value)
	}
	return Number(f.Value) + " " + f.Unit
}

// Number is v with at most four significant digits and thousands apart.
func Number(v float64) string {
	if math.Abs(v) < 1000 {
		return strconv.FormatFloat(round3(v), 'f', -1, 64)
	}
	digits := strconv.FormatFloat(math.Round(v), 'f', 0, 64)
	sign := ""
	if digits[0] == '-' {
		sign, digits = "-", digits[1:]
	}
	for i := len(digits) - 3; i > 0; i -= 3 {
		digits = digits[:i] + "," + digits[i:]
	}
	return sign + digits
}

func round3(v float64) float64 {
	if v == 0 {
		return 0
	}
	scale := math.Pow(10, 3-math.Ceil(math.Log10(math.Abs(v))))
	return math.Round(v*scale) / scale
}

// Micros is a time given in microseconds.
func Micros(v float64) string {
	switch {
	case v < 1000:
		return Number(v) + " µs"
	case v < 1e6:
		return Number(round3(v/1e3)) + " ms"
	}
	return Number(round3(v/1e6)) + " s"
}

// Octets is a number of octets.
func Octets(v float64) string {
	for _, u := range []struct {
		name string
		size float64
	}{{"GB", 1e9}, {"MB", 1e6}, {"kB", 1e3}} {
		if math.Abs(v) >= u.size {
			return Number(round3(v/u.size)) + " " + u.name
		}
	}
	return Number(v) + " B"
}

// PrintAsked writes the table of what was asked and what was measured.
func (r *Run) PrintAsked(w io.Writer) error {
	if len(r.Asked) == 0 {
		return nil
	}
	var b strings.Builder
	b.WriteString("\nasked / measured\n")
	t := tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
	for _, a := range r.Asked {
		fmt.Fprintf(t, "  %s\t%s\t%s\t%s\n", a.What, a.Want, a.Got, a.Verdict())
	}
	t.Flush()
	_, err := io.WriteString(w, b.String())
	return err
}
