package engine

import (
	"hash/maphash"
	"net/netip"
	"sync"
	"time"

	"odmr/engine/session"
)

// Limits keep strangers, and customers gone wrong, from taking what belongs to others. Zero
// means no limit. What is over one gets 421 4.7.0 and the reason, in place of the greeting where that is
// possible. An address is a whole /64 in IPv6: nobody has less.
type Limits struct {
	// Exempt are clients for whom no limit counts that goes by address. So are those in Config.Trusted,
	// but only where they hand in mail.
	Exempt []netip.Prefix
	// ODMRNetworks are where customers may come from (RFC 2645 8); empty: from everywhere. Others get
	// 554 in place of the greeting.
	ODMRNetworks []netip.Prefix
	// ProxyNetworks are where balancers stand: a connection from there must begin with a PROXY header, and
	// counts as one from the address in it.
	ProxyNetworks []netip.Prefix

	SessionsPerAddress   int           // at once
	SessionsPerAccount   int           // authenticated, at once
	ConnectionsPerMinute int           // per address; so many may also come at once
	LoginCommands        int           // commands before the login
	LeastRate            int           // octets a second of a message, averaged over RateWindow, that a peer sends or takes; 0: no bound
	RateWindow           time.Duration // 0: session.RateWindow
	SessionErrors        int           // refused commands of a session; 0: mail.MaxErrors
	AuthFailures         int           // failed logins at one account from one address until that pair is locked
	AuthLockout          time.Duration // for so long
	AuthDelay            time.Duration // before the reply to the first failed login; doubled with each further one
}

func (l *Limits) validate(bad func(format string, args ...any)) {
	for name, networks := range map[string][]netip.Prefix{"Exempt": l.Exempt, "ODMRNetworks": l.ODMRNetworks, "ProxyNetworks": l.ProxyNetworks} {
		for i, n := range networks {
			if !n.IsValid() {
				bad("Limits.%s[%d]: not a network", name, i)
			}
		}
	}
	if min(l.SessionsPerAddress, l.SessionsPerAccount, l.ConnectionsPerMinute, l.LoginCommands, l.SessionErrors, l.LeastRate, l.AuthFailures) < 0 || min(l.RateWindow, l.AuthLockout, l.AuthDelay) < 0 {
		bad("Limits: must not be negative")
	}
	if l.AuthFailures > 0 && l.AuthLockout == 0 {
		bad("Limits: AuthFailures without AuthLockout")
	}
}

const (
	// proxyTime is how long a balancer may take to send its header, which it has before it connects.
	proxyTime = 5 * time.Second
	// maxAuthDelay is the longest wait before the reply to a failed login: less than clients wait.
	maxAuthDelay = 30 * time.Second
	// maxBuckets is how many addresses' rates are remembered, in about 12 MB. A client that was forgotten
	// may connect anew as often as at first.
	maxBuckets = 1 << 16
	// maxPairs is how many pairs of address and name or account with failed logins are remembered, in about 20 MB. Who
	// wants a lock forgotten before its time needs half as many failures at least, at three in a connection.
	maxPairs = 1 << 17
	// maxClients is how many clients are remembered that have logged in, by address, name and EHLO, in about 8 MB, and clientTime for how
	// long: customers come once a day, some not at the weekend.
	maxClients = 1 << 16
	clientTime = session.Time(7 * 24 * time.Hour)
)

// Limit names a limit that was hit, for metrics.
type Limit uint8

const (
	LimitNone            Limit = iota
	LimitNetwork               // not in ODMRNetworks
	LimitRate                  // ConnectionsPerMinute
	LimitAddressSessions       // SessionsPerAddress
	LimitAccountSessions       // SessionsPerAccount
	LimitLockout               // AuthFailures
	LimitInterval              // Collecting.ATRNInterval
	LimitQuota                 // Quota
	LimitProxy                 // no PROXY header, or a bad one, from a network of ProxyNetworks
	LimitErrors                // SessionErrors
	LimitCommands              // LoginCommands
	LimitLogins                // session.ProviderMaxAuthErrors
	LimitLoginTime             // Timeouts.Login
	LimitTooSlow               // LeastRate
	LimitNetworkSessions       // what is left of Config.MaxSessions is for other networks
	NumLimits                  // not a limit: how many there are
)

var limitNames = [NumLimits]string{"none", "network", "rate", "address_sessions", "account_sessions", "lockout", "atrn_interval", "quota", "proxy", "errors", "login_commands", "failed_logins", "login_time", "too_slow", "network_sessions"}

func (l Limit) String() string {
	if l < NumLimits {
		return limitNames[l]
	}
	return "unknown"
}

// limitOf says which limit a machine's reason to close is.
func limitOf(reason string) Limit {
	switch reason {
	case session.ReasonErrors:
		return LimitErrors
	case session.ReasonCommands:
		return LimitCommands
	case session.ReasonLogins:
		return LimitLogins
	case session.ReasonLoginTime:
		return LimitLoginTime
	case session.ReasonTooSlow:
		return LimitTooSlow
	}
	return LimitNone
}

// limitTexts are what a client is told in place of a greeting, with the host name between code and text.
var limitTexts = [NumLimits]struct{ code, text string }{
	LimitNetwork:         {"554 5.7.1", "This service is not open to your network"},
	LimitRate:            {"421 4.7.0", "Too many connections from your address, try again later"},
	LimitAddressSessions: {"421 4.7.0", "Too many sessions from your address, try again later"},
	LimitNetworkSessions: {"421 4.7.0", "Too many sessions from your network, try again later"},
}

// limitReplies makes the lines once, so that a refusal costs no more than sending it.
func limitReplies(hostname string) (replies [NumLimits][]byte) {
	for l, t := range limitTexts {
		if t.code != "" {
			replies[l] = []byte(t.code + " " + hostname + " " + t.text + "\r\n")
		}
	}
	return replies
}

// addressKey is what limits by address count under.
type addressKey [16]byte

func keyOf(addr netip.Addr) addressKey {
	addr = addr.Unmap()
	if addr.Is4() {
		return addr.As16()
	}
	k := addressKey(addr.As16())
	clear(k[8:])
	return k
}

func contains(networks []netip.Prefix, addr netip.Addr) bool {
	addr = addr.WithZone("")
	for _, n := range networks {
		if n.Contains(addr) {
			return true
		}
	}
	return false
}

// addresses counts the sessions of addresses and the rate at which new ones come.
type addresses struct {
	perAddress int
	interval   session.Time // between connections, on average; 0: no limit
	mu         sync.Mutex
	sessions   map[addressKey]int // those with some: as many as there are sessions at most
	// rates is when each address would have used up what it may (the generic cell rate algorithm: a
	// token bucket in one number).
	rates *lru[addressKey, session.Time]
}

func (a *addresses) init(l *Limits) {
	a.perAddress = l.SessionsPerAddress
	if l.ConnectionsPerMinute > 0 {
		a.interval = session.Time(time.Minute) / session.Time(l.ConnectionsPerMinute)
	}
	a.sessions = make(map[addressKey]int)
	a.rates = newLRU[addressKey, session.Time](maxBuckets)
}

// enter counts a connection from addr, or says which limit it is over. Refused ones do not count: who
// keeps to the rate gets in, whatever else comes from there.
func (a *addresses) enter(now session.Time, key addressKey) Limit {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.interval > 0 {
		due := a.rates.put(key)
		from := max(*due, now)
		if from+a.interval > now+session.Time(time.Minute) {
			return LimitRate
		}
		*due = from + a.interval
	}
	if a.perAddress > 0 {
		if a.sessions[key] >= a.perAddress {
			return LimitAddressSessions
		}
		a.sessions[key]++
	}
	return LimitNone
}

// leave takes back what enter counted.
func (a *addresses) leave(key addressKey) {
	if a.perAddress <= 0 {
		return
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.sessions[key]--; a.sessions[key] <= 0 {
		delete(a.sessions, key)
	}
}

// accounts counts the sessions of accounts.
type accounts struct {
	limit    int
	mu       sync.Mutex
	sessions map[string]int
}

// enter counts one more session, unless there are as many as there may be, and spare beyond.
func (a *accounts) enter(name string, spare int) bool {
	if a.limit <= 0 {
		return true
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.sessions[name] >= a.limit+spare {
		return false
	}
	if a.sessions == nil {
		a.sessions = make(map[string]int)
	}
	a.sessions[name]++
	return true
}

func (a *accounts) leave(name string) {
	if a.limit <= 0 {
		return
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.sessions[name]--; a.sessions[name] <= 0 {
		delete(a.sessions, name)
	}
}

// lockouts remembers failed logins by address and account: by each of its names, since a stranger is not to learn whether there is
// such an account, and by what the names are found to be of, which he does not learn either. Who tries from elsewhere is not concerned: the
// owner of an account cannot be locked out of it by strangers.
//
// Behind one address there may be many (carrier-grade NAT), and one of them could lock a neighbour out. Nothing but the proof tells them apart for sure,
// and it cannot be what decides whether the proof counts. But a neighbour does not see what the customer's client calls itself in EHLO: who gives the
// name by which the account has logged in from that address lately has a count of his own. So a neighbour locks himself, unless he finds out that name, which
// replies do not tell him before he has it; and whoever guesses passwords has as many guesses for each such name as for all others together. A larger
// allowance for the address as a whole would help against no one who means it: he has used it up in a second.
type lockouts struct {
	failures  int
	lockout   session.Time
	delay     session.Time
	seed      maphash.Seed
	wholeSeed maphash.Seed
	helloSeed maphash.Seed
	mu        sync.Mutex
	pairs     *lru[pairKey, pair]
	clients   *lru[pairKey, session.Time] // when each last logged in
}

// pairKey is an address and an account; of the latter a hash that nobody can foresee, so that a name of any
// length takes eight octets.
type pairKey struct {
	addr addressKey
	name uint64
}

type pair struct {
	failures int
	last     session.Time
	locked   session.Time // until then
}

func (l *lockouts) init(cfg *Limits) {
	l.failures, l.lockout, l.delay = cfg.AuthFailures, session.Time(cfg.AuthLockout), session.Time(cfg.AuthDelay)
	l.seed, l.wholeSeed, l.helloSeed = maphash.MakeSeed(), maphash.MakeSeed(), maphash.MakeSeed()
	l.pairs, l.clients = newLRU[pairKey, pair](maxPairs), newLRU[pairKey, session.Time](maxClients)
}

func (l *lockouts) key(addr addressKey, name string) pairKey {
	return pairKey{addr, maphash.String(l.seed, name)}
}

// wholeKey is the key of an account with all its names. Of no name is it the key, whatever peers call themselves.
func (l *lockouts) wholeKey(addr addressKey, account string) pairKey {
	return pairKey{addr, maphash.String(l.wholeSeed, account)}
}

// client is the key of the one behind the pair's address who calls himself hello.
func (l *lockouts) client(pair pairKey, hello string) pairKey {
	return pairKey{pair.addr, pair.name ^ maphash.String(l.helloSeed, hello)}
}

// counts returns the key that logins of the pair count under whose client calls itself hello, "" if it says nothing: its own if the pair has
// lately logged in so.
func (l *lockouts) counts(now session.Time, pair pairKey, hello string) pairKey {
	own := l.client(pair, hello)
	l.mu.Lock()
	defer l.mu.Unlock()
	if at := l.clients.get(own); hello == "" || at == nil || now-*at > clientTime {
		return pair
	}
	return own
}

// locked reports whether logins of the pair are refused now, whatever the password.
func (l *lockouts) locked(now session.Time, key pairKey) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	p := l.pairs.get(key)
	return p != nil && now < p.locked
}

// failed counts a failed login and returns how long its reply is to wait.
func (l *lockouts) failed(now session.Time, key pairKey) session.Time {
	l.mu.Lock()
	defer l.mu.Unlock()
	p := l.pairs.put(key)
	if now-p.last > max(l.lockout, session.Time(time.Minute)) {
		p.failures = 0
	}
	p.failures++
	p.last = now
	delay := min(l.delay<<min(p.failures-1, 16), session.Time(maxAuthDelay))
	if l.failures > 0 && p.failures >= l.failures {
		p.failures, p.locked = 0, now+l.lockout
	}
	return delay
}

// succeeded forgets the failures that count under key, and remembers the pair's client, if it has said hello.
func (l *lockouts) succeeded(now session.Time, key, pair pairKey, hello string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.pairs.remove(key)
	if hello != "" {
		*l.clients.put(l.client(pair, hello)) = now
	}
}
