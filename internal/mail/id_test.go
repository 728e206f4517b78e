package mail

import (
	"math"
	"testing"
	"testing/quick"
)

// A queue id's text form is read back as the same id, and texts sort as ids do: operators sort logs by it.
func TestIDTextRoundTripAndOrder(t *testing.T) {
	check := func(a, b uint64) bool {
		x, y := ID(a), ID(b)
		back, err := ParseID(x.String())
		return err == nil && back == x && (x < y) == (x.String() < y.String())
	}
	if err := quick.Check(check, nil); err != nil {
		t.Error(err)
	}
	for _, id := range []ID{0, 1, 31, 32, math.MaxUint64} {
		if !check(uint64(id), uint64(id)+1) && id != math.MaxUint64 {
			t.Errorf("id %d does not survive its text form", id)
		}
		if back, err := ParseID(id.String()); err != nil || back != id {
			t.Errorf("ParseID(%q) = %d, %v", id.String(), back, err)
		}
	}
}

func TestParseIDRefusesWhatIsNoID(t *testing.T) {
	for _, s := range []string{"", "0", "000000000000", "00000000000000", "000000000000i", "000000000000O", "g000000000000", "../../etc/pas"} {
		if id, err := ParseID(s); err == nil {
			t.Errorf("ParseID(%q) = %d, want an error", s, id)
		}
	}
}
