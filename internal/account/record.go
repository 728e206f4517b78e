package account

import (
	"crypto/hmac"
	"crypto/sha256"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"

	"github.com/hashicorp/golang-lru/v2/simplelru"

	"odmr/internal/processors"
)

// ErrRecord says that a directory's record of an account cannot be used as it stands. It concerns that account
// alone, and is temporary to its customer (451, 454): the operator will mend it.
var ErrRecord = errors.New("account: the record cannot be used")

// Record is an account as a database or a directory service has it: texts that nobody has checked.
type Record struct {
	Name    string
	Domains []string
	// Secrets are stored forms: see parseSecret. Those of a scheme that is of no use here are passed over.
	Secrets []string
	// Passwords are passwords in clear, or with {PLAIN}, {CLEAR} or {CLEARTEXT} before them; with another {SCHEME} (RFC 2307) they
	// are stored forms like those in Secrets. Keys are derived on reading; the password itself is not kept.
	Passwords []string
	Settings  []string // own-hostname, and the name and value of settings of a Policy
}

// maxRecordDomains is how many domains one account may have in a directory: hundreds is what ATRN is made for, and one
// answer must not fill the memory.
const maxRecordDomains = 10_000

// Account makes the account, or says why it cannot, which is ErrRecord. No error quotes a secret.
func (r *Record) Account(keys *Deriver) (*Account, error) {
	a := &Account{Name: r.Name}
	if err := r.fill(a, keys); err != nil {
		return nil, fmt.Errorf("%w: account %q: %w", ErrRecord, clip(r.Name), err)
	}
	return a, nil
}

func (r *Record) fill(a *Account, keys *Deriver) error {
	if len(r.Domains) > maxRecordDomains {
		return fmt.Errorf("more than %d domains", maxRecordDomains)
	}
	for _, v := range r.Domains {
		d, err := ParseDomain(strings.TrimSpace(v))
		if err != nil {
			return err
		}
		a.Domains = append(a.Domains, d)
	}
	slices.Sort(a.Domains)
	a.Domains = slices.Compact(a.Domains)
	for _, line := range r.Settings {
		if err := a.parseSetting(line); err != nil {
			return err
		}
	}
	if err := r.fillSecrets(a, keys); err != nil {
		return err
	}
	return a.validate()
}

func (r *Record) fillSecrets(a *Account, keys *Deriver) error {
	stored := slices.Clone(r.Secrets)
	var clear []string
	for _, p := range r.Passwords {
		if rest, ok := cutClear(p); ok {
			clear = append(clear, rest)
		} else {
			stored = append(stored, p)
		}
	}
	for _, s := range stored {
		if strings.TrimSpace(s) == "" {
			continue
		}
		if err := a.parseSecret(s); err != nil && err != errScheme {
			return err
		}
	}
	switch {
	case len(clear) > 1:
		return errors.New("several passwords in clear")
	case len(clear) == 0 || clear[0] == "":
		return nil
	case keys == nil:
		return errors.New("a password in clear, and nothing to derive keys with")
	}
	return keys.fill(a, clear[0])
}

// cutClear returns the password if p is one in clear.
func cutClear(p string) (string, bool) {
	for _, scheme := range []string{"{PLAIN}", "{CLEAR}", "{CLEARTEXT}"} {
		if rest, ok := cutPrefixFold(p, scheme); ok {
			return rest, true
		}
	}
	if end := strings.IndexByte(p, '}'); strings.HasPrefix(p, "{") && end > 1 && strings.Trim(p[1:end], schemeLetters) == "" {
		return "", false // RFC 2307 5.3
	}
	return p, true
}

const schemeLetters = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-/_."

// parseSetting reads a word and its value.
func (a *Account) parseSetting(line string) error {
	words := strings.Fields(line)
	switch {
	case len(words) == 0:
		return nil
	case words[0] == "own-hostname" && len(words) == 1:
		a.OwnHostname = true
		return nil
	case len(words) != 2:
		return fmt.Errorf("setting %q needs one value", clip(words[0]))
	case a.Policy.has(words[0]):
		return fmt.Errorf("%s is there twice", words[0])
	}
	return a.Policy.Set(words[0], words[1])
}

// Deriver makes keys of passwords that a directory has in clear. It keeps the keys for as long as the password is the same, but never
// the password. It is safe for concurrent use.
type Deriver struct {
	secret []byte
	slots  chan struct{} // bounds how many derivations run at once: they are all arithmetic, and event loops want a processor, too
	mu     sync.Mutex
	known  *simplelru.LRU[string, derived]
}

type derived struct {
	cram            CRAMMD5Context
	keys, forDomain *SCRAMKeys
}

// NewDeriver makes a Deriver that remembers the keys of so many accounts. secret is AuthConfig.Secret: an account's salt is the one
// that its name would be shown if there were no such account, so that a look at the salt tells nothing.
func NewDeriver(secret []byte, entries int) *Deriver {
	known, err := simplelru.NewLRU[string, derived](max(entries, 1), nil)
	if err != nil {
		panic(err) // of a size below 1
	}
	return &Deriver{secret: slices.Clone(secret), slots: make(chan struct{}, max(1, processors.Count()/2)), known: known}
}

// fill gives a the secrets that it does not have in a stored form.
func (d *Deriver) fill(a *Account, password string) error {
	if len(password) > MaxPassword {
		return fmt.Errorf("password is longer than %d octets", MaxPassword)
	}
	cram := DeriveCRAMMD5(password)
	if a.CRAMMD5 == nil {
		a.CRAMMD5 = cram
	}
	if a.SCRAMSHA256 != nil {
		return nil
	}
	d.mu.Lock()
	have, ok := d.known.Get(a.Name)
	d.mu.Unlock()
	if ok && hmac.Equal(have.cram.Inner[:], cram.Inner[:]) && hmac.Equal(have.cram.Outer[:], cram.Outer[:]) {
		a.SCRAMSHA256, a.SCRAMDomain = have.keys, have.forDomain
		return nil
	}
	prepared, err := prepare(password)
	if err != nil {
		return nil // CRAM-MD5 takes the octets as they are; for SCRAM there is no such password
	}
	keys, err := d.derive(prepared, saltFor(d.secret, canonical(a.Name), SCRAMSaltSize))
	if err != nil {
		return err
	}
	forDomain, err := d.derive(prepared, keyedWith(d.secret, "salt for domains", a.Name)[:SCRAMSaltSize])
	if err != nil {
		return err
	}
	d.mu.Lock()
	d.known.Add(a.Name, derived{*cram, keys, forDomain})
	d.mu.Unlock()
	a.SCRAMSHA256, a.SCRAMDomain = keys, forDomain
	return nil
}

func (d *Deriver) derive(prepared string, salt []byte) (*SCRAMKeys, error) {
	d.slots <- struct{}{}
	defer func() { <-d.slots }()
	return deriveSCRAM(prepared, salt, SCRAMIterations)
}

// Forget drops all keys.
func (d *Deriver) Forget() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.known.Purge()
}

// saltFor is the salt, of at most maxSalt octets, that belongs to a name that has none of its own.
func saltFor(secret []byte, name string, size int) []byte {
	return append(keyedWith(secret, "salt", name), keyedWith(secret, "more salt", name)...)[:size]
}

func keyedWith(secret []byte, purpose, name string) []byte {
	h := hmac.New(sha256.New, secret)
	h.Write([]byte(purpose))
	h.Write([]byte{0})
	h.Write([]byte(name))
	return h.Sum(nil)
}
