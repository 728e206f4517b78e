package bench

import (
	"time"

	"odmr/bench/letters"
	"odmr/bench/result"
	"odmr/bench/traffic"
)

// Customers are the accounts that scenarios use, the first n of them.
func Customers(n int) []Customer {
	list := make([]Customer, n)
	for i := range list {
		list[i] = customerOf(i)
	}
	return list
}

// All is everything, sized for about five minutes on two processors.
func All() []Scenario {
	fixed := letters.Fixed(4096)
	return []Scenario{
		&Ingest{Connections: 64, For: 5 * time.Second, Size: fixed, Transfer: traffic.Chunks, Window: 16, Customers: 1000},
		&Ingest{Connections: 64, For: 4 * time.Second, Size: fixed, Transfer: traffic.Data, Customers: 1000},
		&Drain{Customers: 20, Each: 10000, Size: fixed, Offer: traffic.OfferChunking},
		&Drain{Customers: 20, Each: 5000, Size: fixed, Offer: traffic.OfferPipelining},
		&Drain{Customers: 20, Each: 200, Size: letters.Fixed(256 << 10), Offer: traffic.OfferChunking},
		&Turn{Backlogs: []int{1000, 100_000, 1_000_000}, Others: 10000, Probes: 1000, Size: letters.Fixed(512)},
		&Idle{Sessions: 10000, Rest: 5 * time.Second, TLS: "auto"},
	}
}

// Goals are what the server has to reach.
func Goals(run *result.Run) []result.Goal {
	return []result.Goal{
		{
			What: "ingest 4 KiB, our pipelining generator, 64 connections", Want: "≥ 50 % of the bare store's synced rate, 64 writers",
			Of: [2]string{"ingest-bdat", "rate"}, Per: [2]string{"ingest-bdat", "store"}, Limit: 0.5, Unit: "msg/s",
		},
	}
}
