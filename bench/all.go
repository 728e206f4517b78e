package bench

import (
	"time"

	"odmr/bench/letters"
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

// All is everything, sized for about five minutes on two processors. root is where make bench-peers has unpacked
// what cannot be installed side by side.
func All(root string) []Scenario {
	fixed := letters.Fixed(4096)
	return []Scenario{
		&Ingest{Connections: 64, For: 4 * time.Second, Size: fixed, Transfer: traffic.Chunks, Window: 16, Customers: 1000},
		&Ingest{Connections: 64, For: 3 * time.Second, Size: fixed, Transfer: traffic.Data, Customers: 1000},
		&Peers{Messages: 5000, Ours: 40000, Relay: 8 * time.Second, Sessions: 20, Root: root},
		&Drain{Customers: 20, Each: 8000, Size: fixed, Offer: traffic.OfferChunking},
		&Drain{Customers: 20, Each: 4000, Size: fixed, Offer: traffic.OfferPipelining},
		&Drain{Customers: 20, Each: 400, Size: letters.Fixed(256 << 10), Offer: traffic.OfferChunking},
		&Drain{Customers: 20, Each: 100, Size: letters.Fixed(256 << 10), Offer: traffic.OfferChunking, TLS: true},
		&Turn{Backlogs: []int{1000, 100_000, 1_000_000}, Others: 10000, Probes: 1000, Size: letters.Fixed(512)},
		&Idle{Sessions: 10000, Rest: 3 * time.Second, TLS: "too"},
		&Linger{Sessions: 2000, Rate: 200, For: 6 * time.Second, Connections: 16, Rest: 2 * time.Second, Size: fixed, Offer: traffic.OfferChunking},
		&WAN{RTTs: []time.Duration{10 * time.Millisecond, 50 * time.Millisecond, 200 * time.Millisecond}, Messages: 1000, Size: fixed, Limit: 52 * time.Second},
		&Mixed{Share: 0.3, Collecting: true, PeakFor: 3 * time.Second, For: 12 * time.Second, Connections: 125, Customers: 2000, Queued: 5,
			Stay: 10 * time.Second, Think: 500 * time.Millisecond, Size: fixed, Offer: traffic.OfferChunking},
		&Slow{Customers: 2000, Rate: 7000, For: 10 * time.Second, Size: letters.Fixed(64 << 10), Each: 2},
		&Space{Customers: 20, Messages: 250_000, Size: fixed, Hold: 10 * time.Second, Wait: 60 * time.Second},
	}
}
