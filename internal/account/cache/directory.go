// Package cache makes an account.Directory of a Source: a database or a directory service that may be slow, hang, or
// be down.
//
// Answers are kept for a limited time and in a limited number, negative ones for a shorter time. Questions that are the same
// are asked once, and no more at a time than there are connections. A question that is not answered in time, or that
// fails, marks the Source as down: from then on all that is not in memory is account.ErrUnavailable at once (454, 451; never
// 535 or 550), and positive answers serve on for StaleTTL, until Run, which looks after it, has seen a Check succeed. So
// a hanging Source holds up those who wait for it for one Timeout, and nobody whose answer is in memory.
//
// Nobody's mail goes to somebody else by way of what is remembered: an account is taken only if each of its domains is that
// account's and no other's, and as soon as a domain is seen to have changed hands the account that had it is
// forgotten. Otherwise a change in the Source is in effect after the time limit, or at once after Drop.
//
// The package reads no clock, never logs, and keeps secrets only in the stored forms of account.Account.
package cache

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync/atomic"
	"time"

	"golang.org/x/sync/singleflight"

	"odmr/internal/account"
)

// Source is where accounts are looked up. It is safe for concurrent use. Every call ends soon after its context does. An error that
// is neither account.ErrUnknown nor account.ErrRecord (this one question cannot be answered) means that the
// Source is down, and ErrRefused that somebody has to mend something first. No error holds a secret.
type Source interface {
	// Account returns the account of that name.
	Account(ctx context.Context, name string) (*account.Account, error)
	// Owners returns the names of the accounts that may collect domains, in lower-case A-labels. Domains that nobody may
	// collect are missing; one that two may is account.ErrRecord.
	Owners(ctx context.Context, domains []string) (map[string]string, error)
	// Holders returns the names of the accounts that have identities: see Identities. It is called only if Identities reports true.
	Holders(ctx context.Context, identities []string) (map[string]string, error)
	// Identities reports whether the Source knows customers by certificate and network: texts as in an accounts file,
	// "cert-dns gw.example.org" and "network 192.0.2.0/29".
	Identities() bool
	// Recipients returns the addresses that mail is taken for, as account.Recipients has them; none if there is no list. It is
	// called only if Lists reports true.
	Recipients(ctx context.Context, name string) ([]string, error)
	// Lists reports whether the Source has lists of recipients.
	Lists() bool
	// Check reports whether the Source can answer: that it is there, and as it was configured.
	Check(ctx context.Context) error
	// Reset lets go of connections that are not in use.
	Reset()
	Close()
}

// Origin is where an answer came from.
type Origin uint8

const (
	Memory     Origin = iota // within its time limit
	Fetched                  // asked of the Source
	Stale                    // from memory, over its time limit, the Source being down
	Unanswered               // not answered: the Source is down, or its record cannot be used
	NumOrigins               // not an origin: how many there are
)

var originNames = [NumOrigins]string{"memory", "directory", "stale", "unanswered"}

func (o Origin) String() string { return originNames[o] }

// Observer is told what happens. Calls come from many goroutines; it must not block.
type Observer interface {
	Answered(o Origin)
	// Queried says that a question to the Source took so long; err, that the Source is down for it, or refuses us (ErrRefused).
	Queried(took time.Duration, err error)
	// Down says that the Source does not answer, and why; it comes again while the reason changes. Up takes it back.
	Down(err error)
	Up()
	// Unusable says that a record cannot be used, and why.
	Unusable(err error)
}

// Config is what a Directory is made of. All fields are required, but a time of 0 means that no answer serves a second time.
type Config struct {
	TTL         time.Duration // of positive answers
	NegativeTTL time.Duration // of negative ones, and how old a positive one may be that a refusal rests on
	StaleTTL    time.Duration // for which positive answers serve on, behind TTL, while the Source is down
	Entries     int           // accounts that are remembered; of domains and identities as many each, of recipients ten times as many, and of what there is not as many of each again
	Timeout     time.Duration // of one question, waiting for a connection included
	Connections int           // questions at once
	Now         func() time.Time
	Observer    Observer
}

// ErrRefused is of a Source that does not serve us, and will not until somebody mends something: our password, our rights, the name of a
// table or a base. It is down as any, but not asked again as soon.
var ErrRefused = errors.New("the directory refuses this server, which does not end by itself")

const (
	// retryInterval is how soon a Source that is down is looked at again.
	retryInterval = 500 * time.Millisecond
	// refusedInterval is how soon one that has refused us when it was looked at. Some lock an account after a few wrong passwords.
	refusedInterval = 30 * time.Second
	// checkInterval is how often one that is up is looked at, should nobody ask.
	checkInterval = 15 * time.Second
	// maxWaiting is how many callers may wait for a Source that has not answered anybody for stallTime: goroutines of a
	// few KiB each, and fewer than an engine has workers for lookups. More are ErrUnavailable.
	maxWaiting = 2048
	stallTime  = time.Second
	// listedPerEntry is how many recipients are remembered for each of Entries, all lists together: about 60 octets each.
	listedPerEntry = 10
)

// Directory is the account.Directory. Close it in the end.
type Directory struct {
	src        Source
	cfg        Config
	accounts   *shelf[*account.Account]
	owners     *shelf[string]
	holders    *shelf[[]string]
	lists      *shelf[[]string]
	flights    singleflight.Group
	generation atomic.Uint64 // of Drop
	slots      chan struct{}
	waiting    atomic.Int64
	answered   atomic.Int64 // when the Source last answered, or was first asked: UnixNano
	health     health
}

var (
	_ account.Directory  = (*Directory)(nil)
	_ account.Identifier = (*Directory)(nil)
	_ account.Doubter    = (*Directory)(nil)
	_ account.Renewer    = (*Directory)(nil)
	_ account.Lister     = (*Directory)(nil)
)

// New makes a Directory that asks src, which it owns from now on. Run must be running.
func New(src Source, cfg Config) *Directory {
	d := &Directory{src: src, cfg: cfg, slots: make(chan struct{}, cfg.Connections)}
	d.accounts, d.owners, d.holders = newShelf[*account.Account](d, "account"), newShelf[string](d, "domain"), newShelf[[]string](d, "identity")
	d.owners.kept = d.moved
	d.lists = newShelf[[]string](d, "recipients")
	d.lists.size, d.lists.room = func(list []string) int { return len(list) }, max(listedPerEntry*cfg.Entries, account.MaxRecipients)
	d.health.init()
	return d
}

// NonBlocking is always false.
func (d *Directory) NonBlocking() bool { return false }

// Drop forgets all answers, those that are on their way too.
func (d *Directory) Drop() {
	d.generation.Add(1)
	d.accounts.purge()
	d.owners.purge()
	d.holders.purge()
	d.lists.purge()
	d.src.Reset()
	d.health.hurry()
}

// Close ends the Source.
func (d *Directory) Close() { d.src.Close() }

// Collectable implements account.Directory.
func (d *Directory) Collectable(domain string) (bool, error) {
	owner, err := d.owner(domain)
	return owner != "", err
}

// Owner implements account.Directory.
func (d *Directory) Owner(domain string) (*account.Account, error) {
	name, err := d.owner(domain)
	switch {
	case err != nil:
		return nil, err
	case name == "":
		return nil, account.ErrUnknown
	}
	return d.account(name, d.cfg.TTL)
}

// owner returns the name of the account that may collect domain, "" if there is none.
func (d *Directory) owner(domain string) (string, error) {
	e, err := d.owners.ask(domain, d.cfg.TTL, func(ctx context.Context) (entry[string], error) {
		owners, err := d.src.Owners(ctx, []string{domain})
		name := owners[domain]
		return entry[string]{value: name, found: name != ""}, err
	})
	return e.value, err
}

// Lookup implements account.Directory. Names are case-sensitive whatever the Source makes of them, domains are not. A name
// that is a domain, too, costs both questions whether there is such an account or not.
func (d *Directory) Lookup(name string) (*account.Account, error) {
	a, err := d.account(name, d.cfg.TTL)
	domain, bad := account.ParseDomain(name)
	if bad != nil || len(name) > account.MaxName {
		return a, err
	}
	owner, none := d.Owner(domain)
	switch {
	case err == nil:
		return a, nil
	case errors.Is(err, account.ErrUnknown):
		return owner, none
	case none == nil && d.unknown(name): // or nobody who logs in with a domain could while the Source is down
		return owner, nil
	}
	return nil, err
}

// unknown reports whether it is remembered that there is no account of that name, if only as what serves while the Source is down.
func (d *Directory) unknown(name string) bool {
	e, ok := d.accounts.get(name)
	return ok && !e.found && d.cfg.Now().Sub(e.at) < d.cfg.NegativeTTL+d.cfg.StaleTTL
}

// account returns the account of exactly that name, known for no longer than age.
func (d *Directory) account(name string, age time.Duration) (*account.Account, error) {
	if account.CheckName(name) != nil {
		return nil, account.ErrUnknown
	}
	e, err := d.accounts.ask(name, age, d.fetching(name))
	if err == nil && !e.found {
		err = account.ErrUnknown
	}
	return e.value, err
}

func (d *Directory) fetching(name string) func(context.Context) (entry[*account.Account], error) {
	return func(ctx context.Context) (entry[*account.Account], error) {
		a, err := d.fetch(ctx, name)
		return entry[*account.Account]{value: a, found: a != nil}, err
	}
}

// fetch asks for an account, and whether its domains are its own. There being none is no error.
func (d *Directory) fetch(ctx context.Context, name string) (*account.Account, error) {
	a, err := d.src.Account(ctx, name)
	switch {
	case errors.Is(err, account.ErrUnknown):
		return nil, nil
	case err != nil:
		return nil, err
	case a.Name != name: // a collation that folds case, or blanks at the end
		return nil, nil
	}
	generation := d.generation.Load()
	owners, err := d.src.Owners(ctx, a.Domains)
	if err != nil {
		return nil, err
	}
	for _, domain := range a.Domains {
		switch owner := owners[domain]; owner {
		case name:
			d.owners.put(generation, domain, entry[string]{value: name, found: true})
		case "":
			return nil, fmt.Errorf("%w: account %q has domain %s, but that domain has no account: is it kept in lower-case A-labels?", account.ErrRecord, name, domain)
		default:
			return nil, fmt.Errorf("%w: domain %s is that of account %q and of account %q", account.ErrRecord, domain, owner, name)
		}
	}
	return a, nil
}

// moved forgets accounts whose domains are not those that they were: one that had domain, and one that has it now without
// knowing.
func (d *Directory) moved(domain, before, now string) {
	if before != "" && before != now {
		d.accounts.remove(before)
	}
	if now == "" {
		return
	}
	if e, ok := d.accounts.get(now); ok && (!e.found || !e.value.Has(domain)) {
		d.accounts.remove(now)
	}
}

// Authorize implements account.Directory. A refusal rests on an answer that is no older than NegativeTTL: the domain
// may be new.
func (d *Directory) Authorize(name string, wanted []string) ([]string, error) {
	domains, err := d.authorize(name, wanted, d.cfg.TTL)
	if errors.Is(err, account.ErrNoAccess) && d.cfg.NegativeTTL < d.cfg.TTL {
		domains, err = d.authorize(name, wanted, d.cfg.NegativeTTL)
	}
	return domains, err
}

func (d *Directory) authorize(name string, wanted []string, age time.Duration) ([]string, error) {
	a, err := d.account(name, age)
	if err != nil {
		return nil, err
	}
	return a.Authorize(wanted, d.Collectable)
}

// AuthorizeAnew implements account.Renewer.
func (d *Directory) AuthorizeAnew(name string, wanted []string) ([]string, error) {
	if account.CheckName(name) != nil {
		return nil, account.ErrUnknown
	}
	e, err := d.accounts.anew(name, d.fetching(name))
	switch {
	case err != nil:
		d.cfg.Observer.Answered(Unanswered)
		return nil, err
	case !e.found:
		return nil, account.ErrUnknown
	}
	d.cfg.Observer.Answered(Fetched)
	return e.value.Authorize(wanted, d.Collectable)
}

// Doubt implements account.Doubter: the next question for the account is asked anew unless its answer is younger than
// NegativeTTL. So a changed password works at the second try, and who guesses passwords keeps no Source busy.
func (d *Directory) Doubt(name string) {
	if e, ok := d.accounts.get(name); ok && d.cfg.Now().Sub(e.at) >= d.cfg.NegativeTTL {
		d.accounts.expire(name)
	}
}

// MayIdentify implements account.Identifier: where identities are known, EXTERNAL is worth a try to everybody, since whose
// line it is cannot be said without asking.
func (d *Directory) MayIdentify(account.Peer) bool { return d.src.Identities() }

// Identify implements account.Identifier.
func (d *Directory) Identify(peer account.Peer) ([]*account.Account, error) {
	if !d.src.Identities() {
		return nil, nil
	}
	for _, texts := range [][]string{peer.CertificateIdentities(), peer.NetworkIdentities()} {
		if len(texts) == 0 {
			continue
		}
		found, err := d.identify(texts)
		if err != nil || len(found) > 0 {
			return found, err
		}
	}
	return nil, nil
}

// identify returns the accounts that hold certificates, or the one that holds the narrowest network: texts come narrowest first. Its key
// is the first text, a certificate's fingerprint or a single address, from which the others follow.
func (d *Directory) identify(texts []string) ([]*account.Account, error) {
	e, err := d.holders.ask(texts[0], d.cfg.TTL, func(ctx context.Context) (entry[[]string], error) {
		holders, err := d.src.Holders(ctx, texts)
		var names []string
		for _, t := range texts {
			if name := holders[t]; name != "" && !slices.Contains(names, name) {
				names = append(names, name)
				if account.IsNetworkIdentity(t) {
					break
				}
			}
		}
		return entry[[]string]{value: names, found: len(names) > 0}, err
	})
	var found []*account.Account
	for _, name := range e.value {
		a, err := d.account(name, d.cfg.TTL)
		switch {
		case errors.Is(err, account.ErrUnknown): // removed since
		case err != nil:
			return nil, err
		default:
			found = append(found, a)
		}
	}
	return found, err
}
