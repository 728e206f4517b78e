package units

import (
	"errors"
	"math"
	"strconv"
	"strings"
)

// Size is a number of octets. Its text form is a whole number and a unit: B, IEC units (KiB =
// 1024 B, MiB, GiB, TiB, PiB) or SI units (kB = 1000 B, MB, GB, TB, PB), in any case; without
// a unit it is octets. The bare letters K, M, G are refused because they mean both.
type Size int64

var errSize = errors.New("not a size: write a whole number with B, KiB, MiB, GiB, TiB, PiB or kB, MB, GB, TB, PB")

// sizeUnits is ordered so that of two equally short text forms the first is printed.
var sizeUnits = []struct {
	name   string
	octets int64
}{
	{"PiB", 1 << 50}, {"TiB", 1 << 40}, {"GiB", 1 << 30}, {"MiB", 1 << 20}, {"KiB", 1 << 10},
	{"PB", 1e15}, {"TB", 1e12}, {"GB", 1e9}, {"MB", 1e6}, {"kB", 1e3},
	{"B", 1},
}

// UnmarshalText reads the text form. Negative and overlong numbers are errors.
func (s *Size) UnmarshalText(text []byte) error {
	number := strings.TrimRight(string(text), "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ ")
	unit := strings.TrimSpace(string(text[len(number):]))
	n, err := strconv.ParseInt(number, 10, 64)
	if err != nil || n < 0 || strings.HasPrefix(number, "+") {
		return errSize
	}
	if unit == "" {
		*s = Size(n)
		return nil
	}
	for _, u := range sizeUnits {
		if strings.EqualFold(unit, u.name) {
			if n > math.MaxInt64/u.octets {
				return errSize
			}
			*s = Size(n * u.octets)
			return nil
		}
	}
	return errSize
}

// String gives the shortest exact text form; UnmarshalText reads it back as the same Size.
func (s Size) String() string {
	if s == 0 {
		return "0"
	}
	shortest := ""
	for _, u := range sizeUnits {
		text := strconv.FormatInt(int64(s)/u.octets, 10) + u.name
		if int64(s)%u.octets == 0 && (shortest == "" || len(text) < len(shortest)) {
			shortest = text
		}
	}
	return shortest
}
