package units

import (
	"testing"
	"time"

	"pgregory.net/rapid"
)

func TestSize(t *testing.T) {
	for _, c := range []struct {
		in   string
		want Size
		out  string
	}{
		{"0", 0, "0"}, {"1", 1, "1B"}, {"50MiB", 50 << 20, "50MiB"}, {"50 mib", 50 << 20, "50MiB"},
		{"1000kB", 1e6, "1MB"}, {"1024KiB", 1 << 20, "1MiB"}, {"1025B", 1025, "1025B"}, {"2TB", 2e12, "2TB"},
	} {
		var s Size
		if err := s.UnmarshalText([]byte(c.in)); err != nil || s != c.want || s.String() != c.out {
			t.Errorf("%q: %d (%s), %v; want %d (%s)", c.in, s, s, err, c.want, c.out)
		}
	}
	for _, in := range []string{"", "MiB", "-1", "+1", "1.5GiB", "5M", "1KiBB", "9223372036854775808", "9007199254740992KiB", "1 0"} {
		var s Size
		if err := s.UnmarshalText([]byte(in)); err == nil {
			t.Errorf("%q was taken as %d", in, s)
		}
	}
}

func TestDuration(t *testing.T) {
	for _, c := range []struct {
		in   string
		want time.Duration
		out  string
	}{
		{"90s", 90 * time.Second, "1m30s"}, {"1h30m", 90 * time.Minute, "1h30m"}, {"5d", 120 * time.Hour, "5d"}, {"48h", 48 * time.Hour, "2d"},
		{"1d12h", 36 * time.Hour, "36h"}, {"0", 0, "0s"}, {"0d", 0, "0s"}, {"-1d1h", -25 * time.Hour, "-25h"}, {"250ms", 250 * time.Millisecond, "250ms"},
	} {
		if d, err := ParseDuration(c.in); err != nil || d != c.want || FormatDuration(d) != c.out {
			t.Errorf("%q: %v (%s), %v; want %v (%s)", c.in, d, FormatDuration(d), err, c.want, c.out)
		}
	}
	for _, in := range []string{"", "d", "5", "1.5d", "+5d", "1d-1h", "1h1d", "200000d", "5 d", "1d2d", "--1d", "106751d24h"} {
		if d, err := ParseDuration(in); err == nil {
			t.Errorf("%q was taken as %v", in, d)
		}
	}
}

// What is written is read back as the same.
func TestTextForms(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		d := time.Duration(rapid.Int64().Draw(t, "duration"))
		if back, err := ParseDuration(FormatDuration(d)); err != nil || back != d {
			t.Fatalf("%d is written %s and read %d, %v", d, FormatDuration(d), back, err)
		}
		s, back := Size(rapid.Int64Min(0).Draw(t, "size")), Size(0)
		if err := back.UnmarshalText([]byte(s.String())); err != nil || back != s {
			t.Fatalf("%d is written %s and read %d, %v", s, s, back, err)
		}
	})
}
