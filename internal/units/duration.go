package units

import (
	"errors"
	"math"
	"strconv"
	"strings"
	"time"
)

const day = 24 * time.Hour

// ErrDuration says that a text is not a duration.
var ErrDuration = errors.New("not a duration: write a number with ms, s, m, h or d, as 90s, 1h30m or 5d")

// ParseDuration is time.ParseDuration with days of 24 hours, a whole number of which may come first: 5d, 1d12h.
// The sign stays in front.
func ParseDuration(text string) (time.Duration, error) {
	days, rest, found := strings.Cut(text, "d")
	if !found {
		d, err := time.ParseDuration(text)
		if err != nil {
			return 0, ErrDuration
		}
		return d, nil
	}
	digits, negative := strings.CutPrefix(days, "-")
	n, err := strconv.ParseUint(digits, 10, 31)
	if err != nil || n > uint64(math.MaxInt64/day) || strings.ContainsAny(rest, "+-") {
		return 0, ErrDuration
	}
	total := time.Duration(n) * day
	if rest != "" {
		d, err := time.ParseDuration(rest)
		if err != nil || d > math.MaxInt64-total {
			return 0, ErrDuration
		}
		total += d
	}
	if negative {
		total = -total
	}
	return total, nil
}

// FormatDuration leaves out the zero parts that Duration.String writes, and writes whole days: 5m, 5d, 36h.
// ParseDuration reads it back as the same duration.
func FormatDuration(d time.Duration) string {
	if d != 0 && d%day == 0 {
		return strconv.FormatInt(int64(d/day), 10) + "d"
	}
	s := d.String()
	if strings.HasSuffix(s, "m0s") {
		s = strings.TrimSuffix(s, "0s")
	}
	if strings.HasSuffix(s, "h0m") {
		s = strings.TrimSuffix(s, "0m")
	}
	return s
}
