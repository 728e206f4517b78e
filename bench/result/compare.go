package result

import (
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
)

// Change is one figure in two runs.
type Change struct {
	ID, Name, Unit string
	Before, Now    float64
	Less           bool
}

// Gain is how much better the figure has become: 0.1 is a tenth better, -0.1 a tenth worse.
func (c Change) Gain() float64 {
	if c.Before == 0 || c.Now == 0 {
		return 0
	}
	if c.Less {
		return c.Before/c.Now - 1
	}
	return c.Now/c.Before - 1
}

// Compare pairs the figures that both runs have.
func (r *Run) Compare(before *Run) []Change {
	var out []Change
	for _, now := range r.Results {
		old := before.Find(now.ID)
		if old == nil {
			continue
		}
		for _, f := range now.Figures {
			if was, ok := old.Figure(f.Key); ok {
				out = append(out, Change{now.ID, f.Name, f.Unit, was.Value, f.Value, f.Less})
			}
		}
		for _, l := range now.Latency {
			for _, was := range old.Latency {
				if was.Name == l.Name {
					out = append(out, Change{now.ID, l.Name + " p99", "us", was.P99, l.P99, true})
				}
			}
		}
	}
	return out
}

// PrintChanges writes two runs side by side.
func PrintChanges(w io.Writer, changes []Change) error {
	var b strings.Builder
	b.WriteString("\nagainst the baseline\n")
	if len(changes) == 0 {
		b.WriteString("  nothing to compare: it has no result of that name\n")
	}
	t := tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
	for _, c := range changes {
		fmt.Fprintf(t, "  %s\t%s\t%s\t→ %s\t%+.1f %%\n", c.ID, c.Name,
			Figure{Value: c.Before, Unit: c.Unit}, Figure{Value: c.Now, Unit: c.Unit}, 100*c.Gain())
	}
	t.Flush()
	_, err := io.WriteString(w, b.String())
	return err
}
