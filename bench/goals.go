package bench

import "odmr/bench/result"

// Goals are what the server has to reach, judged as ratios within one run.
func Goals() []result.Goal {
	rate := func(id string) [2]string { return [2]string{id, "rate"} }
	relay := func(peer string) [2]string { return [2]string{"peer-" + peer, "relay"} }
	const (
		bySource  = "ingest 4 KiB by smtp-source -d -s 20, durable"
		chunking  = "drain 4 KiB, 20 customers, PIPELINING + CHUNKING"
		pipelined = "drain 4 KiB, 20 customers, PIPELINING + DATA"
	)
	return []result.Goal{
		{What: bySource, Want: "≥ 8 × Postfix", Of: rate("ingest-smtp-source"), Per: rate("peer-postfix"), Limit: 8, Unit: "msg/s"},
		{What: bySource, Want: "≥ 60 % of smtp-source into smtp-sink", Of: rate("ingest-smtp-source"), Per: [2]string{"ingest-smtp-source", "sink"}, Limit: 0.6, Unit: "msg/s"},
		{What: "ingest 4 KiB by our generator, 64 connections", Want: "≥ 50 % of the store, synced, 64 writers", Of: rate("ingest-bdat"), Per: [2]string{"ingest-bdat", "store"}, Limit: 0.5, Unit: "msg/s"},
		{What: chunking, Want: "≥ 25 × Postfix's relay-out", Of: rate("drain-chunking"), Per: relay("postfix"), Limit: 25, Unit: "msg/s"},
		{What: chunking, Want: "≥ 100 × Exim's", Of: rate("drain-chunking"), Per: relay("exim"), Limit: 100, Unit: "msg/s"},
		{What: pipelined, Want: "≥ 12 × Postfix's relay-out", Of: rate("drain-pipelining"), Per: relay("postfix"), Limit: 12, Unit: "msg/s"},
		{What: "drain 256 KiB", Want: "≥ 60 % of raw loopback, same reader", Of: rate("drain-chunking-256KiB"), Per: [2]string{"drain-chunking-256KiB", "loopback_look"}, Limit: 0.6, Unit: "msg/s"},
		{What: "round trips per message, 50 ms, 1,000 of 4 KiB, DATA", Want: "≤ 1.05", Of: [2]string{"wan", "rt_50ms_pipelining"}, Limit: 1.05, Less: true},
		{What: "round trips per message, 50 ms, 1,000 of 4 KiB, CHUNKING", Want: "≤ 0.1", Of: [2]string{"wan", "rt_50ms_chunking"}, Limit: 0.1, Less: true},
		{What: "ATRN → MAIL FROM p99, 1 million others queued against 1 thousand", Want: "≤ 1.5 ×", Of: [2]string{"turn", "p99_1000000"}, Per: [2]string{"turn", "p99_1000"}, Limit: 1.5, Less: true, Unit: "us"},
		{What: "RSS per idle authenticated session (10,000), plain", Want: "≤ 6 KiB", Of: [2]string{"idle-plain", "rss_per_session"}, Limit: 6 << 10, Less: true, Unit: "B"},
		{What: "mail that arrives for a waiting session, median to the customer (2,000 waiting)", Want: "≤ 50 ms", Of: [2]string{"linger", "p50"}, Limit: 50_000, Less: true, Unit: "us"},
		{What: "p99 of a durable 250 at 30 % of peak, 2,000 customers draining", Want: "≤ 50 × a lone fdatasync's median", Of: [2]string{"mixed", "p99"}, Per: [2]string{"mixed", "fdatasync"}, Limit: 50, Less: true, Unit: "us"},
		{What: "the same at 30 % of the peak while they drain", Want: "≤ 50 × a lone fdatasync's median", Of: [2]string{"mixed", "p99_collecting"}, Per: [2]string{"mixed", "fdatasync"}, Limit: 50, Less: true, Unit: "us"},
		{What: "disk written per byte of mail taken, held and drained", Want: "≤ 3", Of: [2]string{"space", "written"}, Limit: 3, Less: true},
		{What: "disk space back after the drain", Want: "within a minute", Of: [2]string{"space", "back_seconds"}, Limit: 60, Less: true, Unit: "s"},
	}
}
