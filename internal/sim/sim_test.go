package sim

import (
	"bytes"
	"fmt"
	"os"
	"slices"
	"strconv"
	"sync"
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

// sights are what 300 days must have met, or they prove little.
var sights = []string{
	"a line broken by FIN", "a line broken by RST", "a line broken by silence", "a 421", "a lie", "too many recipients",
	"a loss of power", "a kill", "a torn call", "a torn review", "a log that failed",
	"a client said by XFORWARD", "domains exchanged", "a domain moved", "a session that may not go on", "ATRN of a customer on vacation",
	"mail over a quota", "a recipient that the customer does not know", "a recipient refused because of what was learned", "a small message that went first",
	"an orderly stop", "a session cut by a stop", "a slow disk", "calls that wait for the disk together", "settlements that wait for a slow disk", "a message behind one that is being committed", "messages torn together", "a loss of power before a sync",
	"reads failing during Next", "reads failing during Settle", "reads failing during body",
	"a letter answered 250", "MAIL answered 452", "a message in doubt", "a message that came again", "a body without its stuffing",
	"a takeover", "mail for a session that stayed", "mail for an ATRN that waited",
	"a smarthost: fickle", "a smarthost: down", "a smarthost: wrong login", "a smarthost: no relay", "a smarthost: policy", "a smarthost: grey", "a smarthost: no mail ever",
	"a report deferred", "a report in doubt", "a report refused for good", "a report that expired", "a report that the smarthost cannot take",
	"a crash while a report goes out", "a torn settlement of a report", "a stop while a report goes out", "mail that failed without a report",
	"an ATRN that came too soon", "mail that waits for the end of an interval", "an ATRN within the interval of one that did not bring all",
	"an import whose client was killed", "an import whose answers were lost", "a torn import", "reads failing during an import",
	"a letter brought in", "a letter that was here already", "a letter that was left",
	"the shield", "held mail released", "held mail bounced", "expired mail", "a report: failed", "a report while others wait", "a report: delayed", "a report: relayed", "a report to a customer",
}

// TestSim runs many days, each from its seed, and no promise is broken. With ODMR_SIM_SEED the course of that one is shown.
func TestSim(t *testing.T) {
	from, to := seeds(t, 300)
	const shards = 4
	met := map[string]int{}
	var mu sync.Mutex
	t.Cleanup(func() {
		for _, what := range sights {
			if met[what] == 0 && to-from+1 >= 300 {
				t.Errorf("never met: %s", what)
			}
		}
		t.Logf("met: %v", met)
	})
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
				mu.Lock()
				for what, n := range r.Met {
					met[what] += n
				}
				mu.Unlock()
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
		{BugEarlyAck, []Rule{RuleLost, RuleQuota}},
		{BugSettleDrops, []Rule{RuleDuplicate, RuleStore}},
		{BugSettleNeighbor, []Rule{RuleDuplicate, RuleStore, RuleLost}},
		{BugForeignLease, []Rule{RuleForeign}},
		{BugForgetDoubt, []Rule{RuleDoubt}},
		{BugDeferAccepted, []Rule{RuleOutcome}},
		{BugSwap, []Rule{RuleOrder}},
		{BugWrongBody, []Rule{RuleContent}},
		{BugTruncate, []Rule{RuleContent, RuleProtocol}},
		{BugStateless, []Rule{RuleStore, RuleLost}},
		{BugTwoReports, []Rule{RuleReport}},
		{BugNoReport, []Rule{RuleReport}},
		{BugBounced, []Rule{RuleShield}},
		{BugUnsynced, []Rule{RuleLost}},
		{BugOvertakes, []Rule{RuleOrder}},
		{BugStaleOrigin, []Rule{RuleOrigin}},
		{BugGoesOn, []Rule{RuleForeign}},
		{BugVacation, []Rule{RuleKept, RuleReport}},
		{BugNoQuota, []Rule{RuleQuota}},
		{BugLearnsAll, []Rule{RuleUnknown}},
		{BugKeepsLearned, []Rule{RuleUnknown}},
		{BugSenderOrder, []Rule{RuleOrder}},
		{BugStopForgets, []Rule{RuleDuplicate, RuleStore}},
		{BugTells, []Rule{RuleReport, RuleKept}},
		{BugReportLost, []Rule{RuleReport}},
		{BugReportAgain, []Rule{RuleReport}},
		{BugReportDoubt, []Rule{RuleDoubt}},
		{BugReportOnReport, []Rule{RuleReport}},
		{BugImpatient, []Rule{RuleRetry}},
		{BugCutCounts, []Rule{RuleInterval}},
		{BugImportAgain, []Rule{RuleOnce}},
		{BugImportSeen, []Rule{RuleOnce}},
	} {
		t.Run(c.bug.String(), func(t *testing.T) {
			t.Parallel()
			const most = 150
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
