package letters

import (
	"fmt"
	"hash/crc32"
	"math/rand/v2"
	"sync"

	"odmr/codec"
)

// marker begins the line that every message starts with: number, size of what follows the line,
// and the hash over number, size and what follows, all in hexadecimal.
const marker = "X-Odmrbench: "

// markerLen is the length of that line with its CRLF.
const markerLen = len(marker) + 16 + 1 + 8 + 1 + 8 + 2

// variants is how many texts there are of each size; the last has dots at line starts.
const variants = 8

const domain = "bench.example"

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// Text is the content of a message behind its first line.
type Text struct {
	Plain []byte // as BDAT carries it
	Wire  []byte // as DATA carries it, dot-stuffed; no final dot
	hash  uint32 // over Plain
}

// Stock holds the texts, made when first asked for.
type Stock struct {
	mu    sync.RWMutex
	texts map[int]*[variants]*Text
}

// NewStock makes an empty stock.
func NewStock() *Stock { return &Stock{texts: map[int]*[variants]*Text{}} }

// Text is the text of message id where its content is to have size octets, first line included.
func (s *Stock) Text(id uint64, size int) *Text {
	s.mu.RLock()
	set := s.texts[size]
	s.mu.RUnlock()
	if set == nil {
		set = s.fill(size)
	}
	return set[mix(id)%variants]
}

func (s *Stock) fill(size int) *[variants]*Text {
	s.mu.Lock()
	defer s.mu.Unlock()
	if set := s.texts[size]; set != nil {
		return set
	}
	set := new([variants]*Text)
	for v := range set {
		set[v] = compose(size-markerLen, v)
	}
	s.texts[size] = set
	return set
}

// AppendFirst appends the first line of message id, whose text is t.
func (t *Text) AppendFirst(dst []byte, id uint64) []byte {
	dst = append(dst, marker...)
	from := len(dst)
	dst = appendHex(dst, id, 16)
	dst = append(dst, ' ')
	dst = appendHex(dst, uint64(len(t.Plain)), 8)
	sum := crc32.Update(t.hash, castagnoli, dst[from:])
	dst = append(dst, ' ')
	dst = appendHex(dst, uint64(sum), 8)
	return append(dst, '\r', '\n')
}

// Size is the octets of the whole content with its first line.
func (t *Text) Size() int { return markerLen + len(t.Plain) }

func appendHex(dst []byte, v uint64, digits int) []byte {
	const hex = "0123456789abcdef"
	for shift := 4 * (digits - 1); shift >= 0; shift -= 4 {
		dst = append(dst, hex[v>>uint(shift)&15])
	}
	return dst
}

// compose writes a text of exactly size octets in CRLF lines.
func compose(size, variant int) *Text {
	const line = 76
	random := rand.New(rand.NewPCG(uint64(size), uint64(variant)))
	b := make([]byte, 0, size)
	b = fmt.Appendf(b, "From: Bench <sender@%s>\r\nTo: customer@%s\r\nSubject: variant %d of %d octets\r\n"+
		"Message-ID: <v%d.%d@%s>\r\nMIME-Version: 1.0\r\nContent-Type: text/plain\r\n\r\n", domain, domain, variant, size, variant, size, domain)
	const letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
	for n := 0; len(b) < size; n++ {
		length := min(line, size-len(b)-2)
		if rest := size - len(b) - length - 2; rest == 1 { // a line cannot have one octet
			length--
		}
		start := len(b)
		for range length {
			b = append(b, letters[random.IntN(len(letters))])
		}
		if variant == variants-1 && n%5 == 0 && length > 0 {
			b[start] = '.'
			if n%10 == 0 && length > 1 {
				b[start+1] = '.'
			}
			if n == 5 && length == line { // a line that is a dot, which stuffing has to guard
				b[start+1], b[start+2] = '\r', '\n'
			}
		}
		b = append(b, '\r', '\n')
	}
	var stuffer codec.Stuffer
	return &Text{Plain: b, Wire: stuffer.Append(make([]byte, 0, size+size/64), b), hash: crc32.Checksum(b, castagnoli)}
}
