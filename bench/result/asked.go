package result

import "fmt"

// Asked is a figure that the server has to reach, as a ratio within one run.
type Asked struct {
	What     string  `json:"what"`
	Want     string  `json:"want"`
	Got      string  `json:"got"`      // in words, with the numbers that it is made of
	Measured bool    `json:"measured"` // false: what it needs was not part of the run
	Reached  bool    `json:"reached"`
	Ratio    float64 `json:"ratio,omitempty"` // of what was got to what was wanted; 1 and more is reached
}

// Verdict is one word.
func (a Asked) Verdict() string {
	switch {
	case !a.Measured:
		return "not measured"
	case a.Reached:
		return "reached"
	}
	return fmt.Sprintf("MISSED (%.2f of it)", a.Ratio)
}

// Goal is one row of the table.
type Goal struct {
	What, Want string
	// Of is what is looked at, Per what it is divided by ("" for nothing), both as {result, figure}.
	Of, Per [2]string
	Limit   float64
	Less    bool // at most Limit; otherwise at least
	Unit    string
}

// Ask judges a run by goals.
func (r *Run) Ask(goals []Goal) []Asked {
	var out []Asked
	for _, g := range goals {
		out = append(out, r.ask(g))
	}
	return out
}

func (r *Run) ask(g Goal) Asked {
	a := Asked{What: g.What, Want: g.Want, Got: "–"}
	value, ok := r.Value(g.Of[0], g.Of[1])
	if !ok {
		return a
	}
	got := value
	if g.Per[0] == "" {
		a.Got = Figure{Value: value, Unit: g.Unit}.String()
	} else {
		per, ok := r.Value(g.Per[0], g.Per[1])
		if !ok || per == 0 {
			return a
		}
		got = value / per
		a.Got = fmt.Sprintf("%s × (%s of %s)", Number(round3(got)), Figure{Value: value, Unit: g.Unit}, Figure{Value: per, Unit: g.Unit})
	}
	a.Measured = true
	if g.Less {
		a.Reached = got <= g.Limit
		if got > 0 {
			a.Ratio = g.Limit / got
		}
	} else {
		a.Reached = got >= g.Limit
		a.Ratio = got / g.Limit
	}
	return a
}
