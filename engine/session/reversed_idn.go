package session

import (
	"strings"
	"unicode"
	"unicode/utf8"
)

// reversedSameDomain compares the domain of an address, which may have U-labels (RFC 6531 3.3), with
// a domain of lower-case A-labels. U-labels are compared after lower-casing only: one that IDNA would
// map in another way counts as different, so that in doubt a message is kept, not misdelivered.
func reversedSameDomain(written, domain string) bool {
	if reversedASCII(written) {
		return strings.EqualFold(written, domain)
	}
	for {
		u, restU, moreU := strings.Cut(written, ".")
		a, restA, moreA := strings.Cut(domain, ".")
		if moreU != moreA || !reversedSameLabel(u, a) {
			return false
		}
		if !moreU {
			return true
		}
		written, domain = restU, restA
	}
}

func reversedSameLabel(u, a string) bool {
	if reversedASCII(u) {
		return strings.EqualFold(u, a)
	}
	const prefix = "xn--" // RFC 5890 2.3.2.1
	if !utf8.ValidString(u) || !strings.HasPrefix(a, prefix) || len(u) > 4*63 {
		return false
	}
	runes := []rune(u)
	for i, c := range runes {
		runes[i] = unicode.ToLower(c)
	}
	return string(appendPunycode(nil, runes)) == a[len(prefix):]
}

// appendPunycode appends the encoding of a label (RFC 3492 6.3). Labels are short: no overflow.
func appendPunycode(b []byte, label []rune) []byte {
	const (
		base, tMin, tMax = 36, 1, 26
		firstN           = 128
		firstBias        = 72
	)
	start := len(b)
	for _, c := range label {
		if c < utf8.RuneSelf {
			b = append(b, byte(c))
		}
	}
	basic := len(b) - start
	if basic > 0 {
		b = append(b, '-')
	}
	n, delta, bias := rune(firstN), 0, firstBias
	for done := basic; done < len(label); {
		next := rune(utf8.MaxRune)
		for _, c := range label {
			if c >= n && c < next {
				next = c
			}
		}
		delta += int(next-n) * (done + 1)
		n = next
		for _, c := range label {
			if c < n {
				delta++
			}
			if c != n {
				continue
			}
			q := delta
			for k := base; ; k += base {
				t := min(max(k-bias, tMin), tMax)
				if q < t {
					break
				}
				b = append(b, punycodeDigit(t+(q-t)%(base-t)))
				q = (q - t) / (base - t)
			}
			b = append(b, punycodeDigit(q))
			bias = punycodeBias(delta, done+1, done == basic)
			delta = 0
			done++
		}
		delta++
		n++
	}
	return b
}

func punycodeDigit(d int) byte {
	if d < 26 {
		return byte('a' + d)
	}
	return byte('0' + d - 26)
}

// punycodeBias is RFC 3492 6.1.
func punycodeBias(delta, points int, first bool) int {
	if first {
		delta /= 700
	} else {
		delta /= 2
	}
	delta += delta / points
	k := 0
	for delta > 35*26/2 {
		delta /= 35
		k += 36
	}
	return k + 36*delta/(delta+38)
}
