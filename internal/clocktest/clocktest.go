// Package clocktest is the time of tests: it stands still until it is moved. It never reads the clock.
package clocktest

import (
	"sync"
	"time"
)

// Clock is safe for use by many goroutines.
type Clock struct {
	mu  sync.Mutex
	now time.Time
}

// At is a Clock that shows t.
func At(t time.Time) *Clock { return &Clock{now: t} }

// Now is the time that it shows.
func (c *Clock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.now
}

// Add moves it on by d.
func (c *Clock) Add(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now = c.now.Add(d)
}
