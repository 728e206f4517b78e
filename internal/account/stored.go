package account

import (
	"encoding/hex"
	"errors"
	"fmt"
	"strconv"
	"strings"
)

// errScheme says that a stored secret is of a kind that no mechanism here can use.
var errScheme = errors.New("secret of a scheme that is of no use here")

// parseSecret reads one secret in a stored form into a. Forms:
//
//	cram-md5 INNER OUTER                              a line of the accounts file
//	scram-sha-256 ITERATIONS SALT STORED SERVER       the same
//	scram-sha-256-domain ITERATIONS SALT …            the same, for SCRAMDomain
//	SCRAM-SHA-256$ITERATIONS:SALT$STORED:SERVER       RFC 5803, as LDAP's authPassword and PostgreSQL have it
//	{SCRAM-SHA-256}ITERATIONS,SALT,STORED,SERVER      Dovecot's
//	{CRAM-MD5}HEX                                     Dovecot's: outer and inner state in hexadecimal
//
// Anything else is errScheme. No error quotes the secret.
func (a *Account) parseSecret(text string) error {
	text = strings.TrimSpace(text)
	word, rest, _ := strings.Cut(text, " ")
	switch {
	case word == "cram-md5":
		return a.storeCRAM(strings.Fields(rest))
	case word == "scram-sha-256":
		return storeSCRAM(&a.SCRAMSHA256, strings.Fields(rest))
	case word == "scram-sha-256-domain":
		return storeSCRAM(&a.SCRAMDomain, strings.Fields(rest))
	}
	if rest, ok := cutPrefixFold(text, "{CRAM-MD5}"); ok {
		return a.storeDovecotCRAM(rest)
	}
	if rest, ok := cutPrefixFold(text, "{SCRAM-SHA-256}"); ok {
		return storeSCRAM(&a.SCRAMSHA256, strings.Split(rest, ","))
	}
	if rest, ok := cutPrefixFold(text, "SCRAM-SHA-256$"); ok {
		return a.storeAuthPassword(rest)
	}
	return errScheme
}

// cutPrefixFold is strings.CutPrefix without regard to case: schemes are not case-sensitive (RFC 2307, RFC 3112).
func cutPrefixFold(s, prefix string) (string, bool) {
	if len(s) < len(prefix) || !strings.EqualFold(s[:len(prefix)], prefix) {
		return s, false
	}
	return s[len(prefix):], true
}

func (a *Account) storeCRAM(values []string) error {
	if len(values) != 2 {
		return fmt.Errorf("cram-md5 needs 2 values, not %d", len(values))
	}
	if a.CRAMMD5 != nil {
		return errors.New("cram-md5 is there twice")
	}
	c := new(CRAMMD5Context)
	if err := decode("cram-md5 inner state", values[0], c.Inner[:]); err != nil {
		return err
	}
	if err := decode("cram-md5 outer state", values[1], c.Outer[:]); err != nil {
		return err
	}
	a.CRAMMD5 = c
	return nil
}

func (a *Account) storeDovecotCRAM(digits string) error {
	raw, err := hex.DecodeString(digits)
	if err != nil || len(raw) != 32 {
		return errors.New("{CRAM-MD5}: not 64 hexadecimal digits")
	}
	if a.CRAMMD5 != nil {
		return errors.New("cram-md5 is there twice")
	}
	a.CRAMMD5 = new(CRAMMD5Context)
	copy(a.CRAMMD5.Outer[:], raw)
	copy(a.CRAMMD5.Inner[:], raw[16:])
	return nil
}

// storeAuthPassword takes what follows the scheme in RFC 5803 3: authInfo "$" authValue.
func (a *Account) storeAuthPassword(text string) error {
	info, value, ok := strings.Cut(text, "$")
	iterations, salt, ok1 := strings.Cut(strings.TrimSpace(info), ":")
	stored, server, ok2 := strings.Cut(strings.TrimSpace(value), ":")
	if !ok || !ok1 || !ok2 {
		return errors.New("SCRAM-SHA-256$: not ITERATIONS:SALT$STORED:SERVER")
	}
	return storeSCRAM(&a.SCRAMSHA256, []string{iterations, salt, stored, server})
}

// storeSCRAM reads keys into one of an account's places for them.
func storeSCRAM(place **SCRAMKeys, values []string) error {
	if len(values) != 4 {
		return fmt.Errorf("scram-sha-256 needs 4 values, not %d", len(values))
	}
	if *place != nil {
		return errors.New("scram-sha-256 is there twice")
	}
	k := new(SCRAMKeys)
	var err error
	if k.Iterations, err = strconv.Atoi(values[0]); err != nil || k.Iterations < minIterations || k.Iterations > maxIterations {
		return fmt.Errorf("scram-sha-256 iterations: not a number from %d to %d", minIterations, maxIterations)
	}
	if k.Salt, err = decodeText(values[1]); err != nil {
		return errors.New("scram-sha-256 salt: bad base64")
	}
	if len(k.Salt) < SCRAMSaltSize || len(k.Salt) > maxSalt {
		return fmt.Errorf("scram-sha-256 salt: %d octets instead of %d to %d", len(k.Salt), SCRAMSaltSize, maxSalt)
	}
	if err := decode("scram-sha-256 stored key", values[2], k.StoredKey[:]); err != nil {
		return err
	}
	if err := decode("scram-sha-256 server key", values[3], k.ServerKey[:]); err != nil {
		return err
	}
	*place = k
	return nil
}

// AppendSecrets appends a's secrets, each a line in the form of the accounts file: what a database or a
// directory service keeps.
func (a *Account) AppendSecrets(dst []byte) []byte {
	if c := a.CRAMMD5; c != nil {
		dst = appendSecrets(append(dst, "cram-md5"...), c.Inner[:], c.Outer[:])
	}
	dst = appendKeys(dst, "scram-sha-256 ", a.SCRAMSHA256)
	return appendKeys(dst, "scram-sha-256-domain ", a.SCRAMDomain)
}

func appendKeys(dst []byte, word string, k *SCRAMKeys) []byte {
	if k == nil {
		return dst
	}
	dst = strconv.AppendInt(append(dst, word...), int64(k.Iterations), 10)
	return appendSecrets(dst, k.Salt, k.StoredKey[:], k.ServerKey[:])
}
