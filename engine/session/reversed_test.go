package session

import (
	"strings"
	"testing"
)

// newScenarioReversed reads: domains a,b (default example.org); window, window-bytes, prefetch,
// prefetch-bytes, refusals as ReversedConfig has them.
func newScenarioReversed(t *testing.T, sc *scenario) Session {
	domains := []string{"example.org"}
	if v, ok := sc.value("domains"); ok {
		domains = strings.Split(v, ",")
	}
	return NewReversed(&ReversedConfig{
		Hostname:         "odmr.isp.example",
		PrefetchMessages: int(sc.number(t, "prefetch", 8)),
		PrefetchBytes:    sc.number(t, "prefetch-bytes", 0),
		WindowMessages:   int(sc.number(t, "window", 0)),
		WindowBytes:      sc.number(t, "window-bytes", 0),
		MaxRefusals:      int(sc.number(t, "refusals", 0)),
	}, domains)
}

func TestReversedScenarios(t *testing.T) { runScenarios(t, "reversed", newScenarioReversed) }
