package sim

import (
	"bytes"
	"fmt"
	"os"
	"slices"
	"strconv"
	"testing"
)

// seeds are those to be run: n, or ODMR_SIM_SEEDS, from 1 on; or the one of ODMR_SIM_SEED.
func seeds(t *testing.T, n int) (from, to uint64) {
	number := func(name string) (uint64, bool) {
		v := os.Getenv(name)
		if v == "" {
			return 0, false
		}
		i, err := strconv.ParseUint(v, 10, 64)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		return i, true
	}
	if seed, ok := number("ODMR_SIM_SEED"); ok {
		return seed, seed
	}
	from = 1
	if first, ok := number("ODMR_SIM_FROM"); ok {
		from = first
	}
	if many, ok := number("ODMR_SIM_SEEDS"); ok {
		return from, from + many - 1
	}
	return from, from + uint64(n) - 1
}

// TestSim runs many days, each from its seed, and no promise is broken. With ODMR_SIM_SEED the course of that one is shown.
func TestSim(t *testing.T) {
	from, to := seeds(t, 300)
	const shards = 4
	for shard := range uint64(shards) {
		t.Run(fmt.Sprint("shard", shard), func(t *testing.T) {
			t.Parallel()
			var letters, visits, lives, steps int
			for seed := from + shard; seed <= to; seed += shards {
				var log bytes.Buffer
				shown := from == to
				r := Result{}
				if shown {
					r = Run(seed, NoBug, &log)
				} else {
					r = Run(seed, NoBug, nil)
				}
				letters, visits, lives, steps = letters+r.Letters, visits+r.Visits, lives+r.Lives, steps+r.Steps
				if shown {
					t.Logf("%s", log.Bytes())
				}
				if r.Violation != nil {
					t.Errorf("seed %d: %v\nagain: ODMR_SIM_SEED=%d go test ./internal/sim -run 'TestSim$' -v", seed, r.Violation, seed)
				}
			}
			t.Logf("%d letters, %d visits, %d lives of the server, %d steps", letters, visits, lives, steps)
		})
	}
}

// TestSimCourse: one seed takes one course.
func TestSimCourse(t *testing.T) {
	for seed := range uint64(12) {
		first, second := Run(seed, NoBug, nil), Run(seed, NoBug, nil)
		if first.Hash != second.Hash || first.Steps != second.Steps {
			t.Errorf("seed %d: courses %x of %d steps and %x of %d steps", seed, first.Hash, first.Steps, second.Hash, second.Steps)
		}
	}
}

// TestSimNotices plants bugs, one at a time: each must be found by the rule that it breaks, within some seeds.
func TestSimNotices(t *testing.T) {
	for _, c := range []struct {
		bug   Bug
		rules []Rule
	}{
		{BugEarlyAck, []Rule{RuleLost}},
		{BugSettleDrops, []Rule{RuleDuplicate, RuleStore}},
		{BugSettleNeighbor, []Rule{RuleDuplicate, RuleStore, RuleLost}},
		{BugForeignLease, []Rule{RuleForeign}},
		{BugForgetDoubt, []Rule{RuleDoubt}},
		{BugDeferAccepted, []Rule{RuleOutcome}},
		{BugSwap, []Rule{RuleOrder}},
		{BugWrongBody, []Rule{RuleContent}},
		{BugTruncate, []Rule{RuleContent}},
		{BugStateless, []Rule{RuleStore, RuleLost}},
	} {
		t.Run(c.bug.String(), func(t *testing.T) {
			t.Parallel()
			const most = 60
			for seed := uint64(1); seed <= most; seed++ {
				if v := Run(seed, c.bug, nil).Violation; v != nil {
					t.Logf("seed %d: %v", seed, v)
					if !slices.Contains(c.rules, v.Rule) {
						t.Errorf("found by %q, not by one of %q", v.Rule, c.rules)
					}
					return
				}
			}
			t.Errorf("%d seeds, and nobody noticed", most)
		})
	}
}
