package account

import (
	"crypto/hmac"
	"crypto/md5"
	"crypto/pbkdf2"
	"crypto/rand"
	"crypto/sha256"
	"encoding"
	"encoding/binary"
	"errors"
	"fmt"
	"hash"
	"unicode"
	"unicode/utf8"

	"github.com/xdg-go/stringprep"
)

const (
	// MinPassword is the shortest password taken, in characters.
	MinPassword = 8
	// MaxPassword is the longest password taken, in octets: more helps nobody and costs a hash.
	MaxPassword = 1024
	// SCRAMSaltSize is how many random octets salt a new SCRAM key.
	SCRAMSaltSize = 16
	// SCRAMIterations is the work factor of a new SCRAM key. RFC 7677 4 asks for 4096 at least.
	SCRAMIterations = 10000

	minIterations = 4096
	maxIterations = 10_000_000 // a mistyped file must not make one login take minutes
	maxSalt       = 64
)

// CheckPassword says why password is not to be used, or nil.
func CheckPassword(password string) error {
	if len(password) > MaxPassword {
		return fmt.Errorf("password is longer than %d octets", MaxPassword)
	}
	if !utf8.ValidString(password) {
		return errors.New("password is not valid UTF-8")
	}
	for _, r := range password {
		if unicode.IsControl(r) { // NUL, CR and LF above all: no client can hold them in a line-based file
			return errors.New("password contains a control character")
		}
	}
	if utf8.RuneCountInString(password) < MinPassword {
		return fmt.Errorf("password is shorter than %d characters", MinPassword)
	}
	if _, err := prepare(password); err != nil {
		return err
	}
	return nil
}

// generated passwords are five groups of five letters of a 32-letter alphabet: 125 random
// bits, nothing that needs quoting in a fetchmailrc, and no 0/o or 1/l to mix up.
const (
	passwordAlphabet = "23456789abcdefghijkmnpqrstuvwxyz"
	passwordGroups   = 5
	passwordGroup    = 5
)

// Generate makes a random password with 125 bits of entropy.
func Generate() string {
	raw := make([]byte, passwordGroups*passwordGroup)
	rand.Read(raw) // never fails: crypto/rand ends the program instead
	out := make([]byte, 0, len(raw)+passwordGroups)
	for i, c := range raw {
		if i > 0 && i%passwordGroup == 0 {
			out = append(out, '-')
		}
		out = append(out, passwordAlphabet[c%32])
	}
	return string(out)
}

// WithPassword returns a copy of a whose secrets are all derived from password, with fresh salts.
func (a *Account) WithPassword(password string) (*Account, error) {
	if err := CheckPassword(password); err != nil {
		return nil, err
	}
	b := *a
	b.CRAMMD5 = DeriveCRAMMD5(password)
	for _, place := range []**SCRAMKeys{&b.SCRAMSHA256, &b.SCRAMDomain} {
		salt := make([]byte, SCRAMSaltSize)
		rand.Read(salt)
		var err error
		if *place, err = DeriveSCRAM(password, salt, SCRAMIterations); err != nil {
			return nil, err
		}
	}
	return &b, nil
}

// DeriveSCRAM makes the stored form of password (RFC 5802 3, RFC 7677). The password is
// normalised with SASLprep (RFC 4013) first.
func DeriveSCRAM(password string, salt []byte, iterations int) (*SCRAMKeys, error) {
	prepared, err := prepare(password)
	if err != nil {
		return nil, err
	}
	return deriveSCRAM(prepared, salt, iterations)
}

// deriveSCRAM is DeriveSCRAM of a password that has been through prepare.
func deriveSCRAM(prepared string, salt []byte, iterations int) (*SCRAMKeys, error) {
	salted, err := pbkdf2.Key(sha256.New, prepared, salt, iterations, sha256.Size)
	if err != nil {
		return nil, fmt.Errorf("scram-sha-256: %w", err)
	}
	k := &SCRAMKeys{Salt: append([]byte(nil), salt...), Iterations: iterations}
	k.StoredKey = sha256.Sum256(keyed(salted, "Client Key"))
	copy(k.ServerKey[:], keyed(salted, "Server Key"))
	return k, nil
}

func keyed(key []byte, text string) []byte {
	h := hmac.New(sha256.New, key)
	h.Write([]byte(text))
	return h.Sum(nil)
}

// prepare applies SASLprep. Printable ASCII, nearly every password, is its own normal form.
func prepare(password string) (string, error) {
	ascii := true
	for i := 0; i < len(password); i++ {
		ascii = ascii && password[i] >= 0x20 && password[i] < 0x7f
	}
	if ascii {
		return password, nil
	}
	p, err := stringprep.SASLprep.Prepare(password)
	if err != nil {
		// The library's error quotes the character it does not like: keep it out of every log.
		return "", errors.New("password contains a character that SASLprep (RFC 4013) prohibits")
	}
	return p, nil
}

// DeriveCRAMMD5 makes the CRAM-MD5 context of password: MD5's chaining states after the
// inner and the outer padded key (RFC 2195 2, RFC 2104). The password's octets count as
// they are, as every client computes it.
func DeriveCRAMMD5(password string) *CRAMMD5Context {
	var inner, outer [md5.BlockSize]byte
	key := []byte(password)
	if len(key) > md5.BlockSize { // RFC 2104 2
		sum := md5.Sum(key)
		key = sum[:]
	}
	copy(inner[:], key)
	copy(outer[:], key)
	for i := range inner {
		inner[i] ^= 0x36
		outer[i] ^= 0x5c
	}
	return &CRAMMD5Context{Inner: chain(&inner), Outer: chain(&outer)}
}

// sum completes HMAC-MD5 of text.
func (c *CRAMMD5Context) sum(text []byte) [md5.Size]byte {
	inner := resume(c.Inner)
	inner.Write(text)
	outer := resume(c.Outer)
	outer.Write(inner.Sum(nil))
	var out [md5.Size]byte
	outer.Sum(out[:0])
	return out
}

// crypto/md5 gives its state away through encoding.BinaryMarshaler: a magic, the four words
// of the chaining state (big-endian), the pending block and the length. The state is kept in
// MD5's own order instead, as in a digest (little-endian words), so that what is on disk does
// not depend on crypto/md5; TestCRAMMD5Vector fails should its format ever change.
const (
	md5Magic = "md5\x01"
	md5Len   = len(md5Magic) + md5.Size + md5.BlockSize + 8
)

// chain returns MD5's chaining state after one block.
func chain(block *[md5.BlockSize]byte) [md5.Size]byte {
	h := md5.New()
	h.Write(block[:])
	m, err := h.(encoding.BinaryMarshaler).MarshalBinary()
	if err != nil || len(m) != md5Len || string(m[:len(md5Magic)]) != md5Magic {
		panic("account: crypto/md5 has changed its marshalled form")
	}
	return swapWords(m[len(md5Magic):])
}

// resume returns an MD5 that has digested one block and stands at state.
func resume(state [md5.Size]byte) hash.Hash {
	m := make([]byte, md5Len)
	copy(m, md5Magic)
	words := swapWords(state[:])
	copy(m[len(md5Magic):], words[:])
	binary.BigEndian.PutUint64(m[md5Len-8:], md5.BlockSize)
	h := md5.New()
	if err := h.(encoding.BinaryUnmarshaler).UnmarshalBinary(m); err != nil {
		panic("account: crypto/md5 has changed its marshalled form")
	}
	return h
}

func swapWords(b []byte) (out [md5.Size]byte) {
	for i := 0; i < md5.Size; i += 4 {
		binary.LittleEndian.PutUint32(out[i:], binary.BigEndian.Uint32(b[i:]))
	}
	return out
}
