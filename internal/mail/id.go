package mail

import "errors"

// ID is a queue id: unique within a store for its whole life, growing in the order of creation.
type ID uint64

// idAlphabet is Crockford's base 32 in lower case: no i, l, o, u, so that an id can be read aloud.
const idAlphabet = "0123456789abcdefghjkmnpqrstvwxyz"

// idDigits is the length of an ID's text form: 13 digits of 5 bits hold 64 bits.
const idDigits = 13

// ErrBadID says that a text is not a queue id.
var ErrBadID = errors.New("not a queue id: 13 characters of 0-9 a-z without i, l, o, u")

// Append appends the text form of id, 13 characters whose order is the ids' order.
func (id ID) Append(dst []byte) []byte {
	for shift := 5 * (idDigits - 1); shift >= 0; shift -= 5 {
		dst = append(dst, idAlphabet[uint64(id)>>uint(shift)&31])
	}
	return dst
}

func (id ID) String() string { return string(id.Append(make([]byte, 0, idDigits))) }

// ParseID reads the text form of an ID.
func ParseID(s string) (ID, error) {
	if len(s) != idDigits {
		return 0, ErrBadID
	}
	var id uint64
	for i := 0; i < len(s); i++ {
		d := digit(s[i])
		if d < 0 || (i == 0 && d > 15) { // the first digit holds the top 4 bits only
			return 0, ErrBadID
		}
		id = id<<5 | uint64(d)
	}
	return ID(id), nil
}

func digit(c byte) int {
	for i := 0; i < len(idAlphabet); i++ {
		if idAlphabet[i] == c {
			return i
		}
	}
	return -1
}
