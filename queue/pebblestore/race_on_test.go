//go:build race

package pebblestore

// underRace says that Pebble checks its own invariants at every step (it does under the race
// detector), which makes each of these tests some thirty times as long.
const underRace = true
