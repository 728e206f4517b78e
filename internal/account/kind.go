package account

import (
	"cmp"
	"math/bits"
	"slices"
)

// keyKind is what SCRAM shows of keys besides the salt's content.
type keyKind struct{ iterations, salt int }

// keyKinds are the kinds of keys that accounts have, for names that are none to show the same: else an account whose keys came from
// elsewhere would be known by its work factor.
type keyKinds struct {
	kinds []keyKind // sorted
	upTo  []uint64  // how many accounts have these or earlier ones
}

// mixed is a Directory that knows what kinds of keys all its accounts have.
type mixed interface{ keyKinds() *keyKinds }

func newKeyKinds(accounts []*Account) *keyKinds {
	counts := map[keyKind]uint64{}
	for _, a := range accounts {
		if k := a.SCRAMSHA256; k != nil {
			counts[keyKind{k.Iterations, len(k.Salt)}]++
		}
	}
	m := new(keyKinds)
	for kind := range counts {
		m.kinds = append(m.kinds, kind)
	}
	slices.SortFunc(m.kinds, func(a, b keyKind) int {
		return cmp.Or(cmp.Compare(a.iterations, b.iterations), cmp.Compare(a.salt, b.salt))
	})
	total := uint64(0)
	for _, kind := range m.kinds {
		total += counts[kind]
		m.upTo = append(m.upTo, total)
	}
	return m
}

// of returns a kind for what is a number of 64 random bits: each as often as accounts have it, and mostly the same when their mixture
// changes a little. none is returned where no account has keys.
func (m *keyKinds) of(random uint64, none keyKind) keyKind {
	if m == nil || len(m.kinds) == 0 {
		return none
	}
	at, _ := bits.Mul64(random, m.upTo[len(m.upTo)-1])
	i, _ := slices.BinarySearch(m.upTo, at+1)
	return m.kinds[i]
}

func (t *Table) keyKinds() *keyKinds { return t.kinds }
func (f *File) keyKinds() *keyKinds  { return f.Table().kinds }
