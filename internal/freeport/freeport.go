// Package freeport finds a port of loopback for a program that cannot let the system choose one itself, in tests and measurements.
//
// A port that the system chose and that was given back may be anybody's a moment later: the system chooses again for every
// connection and every listener of every other process. So ports are taken from below the range that it chooses from,
// where nobody listens but who was told to, and the same is not given out twice by one process.
//
// It must never be used for a listener of our own: those listen on port 0 and say where.
package freeport

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"sync"
)

// first is the lowest port given out: those below are well-known, or those of daemons.
const first = 10_000

// usualLow is where the system's own range begins unless it was moved (ip_local_port_range).
const usualLow = 32_768

// attempts bounds the search.
const attempts = 1000

var (
	mu    sync.Mutex // guards given
	given = map[int]bool{}
)

// Loopback returns a port of 127.0.0.1 on which nobody listens.
func Loopback() (int, error) {
	mu.Lock()
	defer mu.Unlock()
	low := usualLow
	if text, err := os.ReadFile("/proc/sys/net/ipv4/ip_local_port_range"); err == nil {
		_, _ = fmt.Sscan(string(text), &low)
	}
	var last error
	for range attempts {
		port := 0 // where the system's range leaves no room below, one of those
		if low > first+attempts {
			port = first + rand.IntN(low-first)
		}
		l, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", port))
		if err != nil {
			last = err
			continue
		}
		port = l.Addr().(*net.TCPAddr).Port
		if err := l.Close(); err != nil || given[port] {
			last = err
			continue
		}
		given[port] = true
		return port, nil
	}
	return 0, errors.Join(errors.New("no port of loopback is free"), last)
}
