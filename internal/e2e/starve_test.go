package e2e

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"

	"odmr/internal/client"
)

// TestSlowCustomersDoNotStarveOthers: when slow customers hold all the memory for bodies, others are still served.
func TestSlowCustomersDoNotStarveOthers(t *testing.T) {
	const customers = 100
	slow := customer("slow")
	var to []string
	for i := range customers {
		slow.Domains = append(slow.Domains, fmt.Sprintf("slow%d.example", i))
		to = append(to, "a@"+slow.Domains[i])
	}
	quick := customer("quick", "quick.example")
	s := startServer(t, []client.Account{slow, quick}, "--prefetch-memory", "8MiB",
		"--sessions-per-account", "0", "--sessions-per-address", "0")
	handIn(t, s.SMTP, client.SenderOptions{}, message("big", kindBinary, 5_000_000, to...), message("quick", kindText, 300_000, "a@quick.example"))
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()
	received := make([]atomic.Int64, customers)
	for i := range customers {
		wg.Go(func() { _ = drainSlowly(ctx, s.ODMR, slow, slow.Domains[i], &received[i]) })
	}
	until(t, "all slow sessions to be draining", func() bool { return s.metric("odmr_sessions", `state="reversed"`) == customers })
	if stats := collect(t, s, quick, &client.Recorder{}); stats.Messages != 1 {
		t.Errorf("the quick customer: %+v", stats)
	}
}
