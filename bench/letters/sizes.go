package letters

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// MinSize is the smallest message made, in octets of content: the line with number and hash, a
// header section, a line of text.
const MinSize = 320

// maxSize is the largest message made; more is a slip of the pen.
const maxSize = 1 << 30

// Mixes are distributions with a name.
var Mixes = map[string]string{
	// Shape of an ISP's inbound mail: half of it under 16 KiB, the octets in few large messages.
	"mail": "2KiB:20,4KiB:22,8KiB:18,16KiB:15,32KiB:11,64KiB:7,128KiB:4,512KiB:2,2MiB:1",
}

// Sizes is a distribution of message sizes in octets of content. Which size a message has follows
// from its number alone, so that two runs hand in the same mail.
type Sizes struct {
	text   string
	size   []int
	weight []uint64 // running sums
}

// Fixed is the distribution of one size.
func Fixed(size int) Sizes {
	return Sizes{text: FormatSize(size), size: []int{max(size, MinSize)}, weight: []uint64{1}}
}

// ParseSizes reads "4KiB", "4KiB:70,64KiB:30" (weights behind the colons), or the name of a mix.
func ParseSizes(text string) (Sizes, error) {
	list := text
	if mix, ok := Mixes[text]; ok {
		list = mix
	}
	s := Sizes{text: text}
	var sum uint64
	for part := range strings.SplitSeq(list, ",") {
		octets, share, weighted := strings.Cut(part, ":")
		size, err := ParseSize(octets)
		if err != nil {
			return Sizes{}, err
		}
		weight := uint64(1)
		if weighted {
			if weight, err = strconv.ParseUint(share, 10, 32); err != nil || weight == 0 {
				return Sizes{}, fmt.Errorf("%q: the weight is not a whole number above 0", part)
			}
		}
		if size < MinSize {
			return Sizes{}, fmt.Errorf("%q: messages of the harness have %d octets at least", part, MinSize)
		}
		sum += weight
		s.size = append(s.size, size)
		s.weight = append(s.weight, sum)
	}
	return s, nil
}

// UnmarshalText lets Sizes be a flag.
func (s *Sizes) UnmarshalText(text []byte) (err error) {
	*s, err = ParseSizes(string(text))
	return err
}

func (s Sizes) String() string { return s.text }

// Of is the size of message id.
func (s Sizes) Of(id uint64) int {
	if len(s.size) == 1 {
		return s.size[0]
	}
	pick := mix(id) % s.weight[len(s.weight)-1]
	i, _ := slices.BinarySearchFunc(s.weight, pick, func(sum, pick uint64) int {
		if sum <= pick {
			return -1
		}
		return 1
	})
	return s.size[i]
}

// Mean is the average size.
func (s Sizes) Mean() float64 {
	total, before := 0.0, uint64(0)
	for i, sum := range s.weight {
		total += float64(s.size[i]) * float64(sum-before)
		before = sum
	}
	return total / float64(before)
}

// All are the sizes that occur.
func (s Sizes) All() []int { return s.size }

// mix spreads consecutive numbers over all 64 bits (the finalizer of SplitMix64).
func mix(x uint64) uint64 {
	x += 0x9e3779b97f4a7c15
	x = (x ^ x>>30) * 0xbf58476d1ce4e5b9
	x = (x ^ x>>27) * 0x94d049bb133111eb
	return x ^ x>>31
}

var units = []struct {
	name string
	size int
}{{"GiB", 1 << 30}, {"MiB", 1 << 20}, {"KiB", 1 << 10}, {"kB", 1000}, {"B", 1}}

// ParseSize reads a number of octets with or without a unit.
func ParseSize(text string) (int, error) {
	factor, digits := 1, strings.TrimSpace(text)
	for _, u := range units {
		if rest, ok := strings.CutSuffix(digits, u.name); ok {
			factor, digits = u.size, strings.TrimSpace(rest)
			break
		}
	}
	n, err := strconv.Atoi(digits)
	if err != nil || n < 0 || n > maxSize/factor {
		return 0, fmt.Errorf("%q is not a size such as 4096, 4KiB or 2MiB", text)
	}
	return n * factor, nil
}

// FormatSize is the shortest exact form that ParseSize reads.
func FormatSize(n int) string {
	for _, u := range units {
		if u.name == "B" || u.name != "kB" && n >= u.size && n%u.size == 0 {
			return strconv.Itoa(n/u.size) + u.name
		}
	}
	return strconv.Itoa(n)
}
