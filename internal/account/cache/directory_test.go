package cache

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"odmr/internal/account"
	"odmr/internal/clocktest"
)

// patience is how long a test waits for anything at all.
const patience = 5 * time.Minute

// shop is a Source in memory that can be made to fail, to hang, and to give nonsense.
type shop struct {
	mu       sync.Mutex
	accounts map[string]*account.Account
	owners   map[string]string
	holders  map[string]string
	lists    map[string][]string // nil: it has none
	broken   error
	hung     chan struct{} // closed: goes on; nil: does not hang
	asked    map[string]int
	inside   int
	most     int // inside at once
}

func newShop(accounts ...*account.Account) *shop {
	s := &shop{accounts: map[string]*account.Account{}, owners: map[string]string{}, holders: map[string]string{}, asked: map[string]int{}}
	for _, a := range accounts {
		s.set(a)
	}
	return s
}

func (s *shop) set(a *account.Account) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.accounts[a.Name] = a
	for _, d := range a.Domains {
		s.owners[d] = a.Name
	}
}

func (s *shop) fail(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.broken = err
}

// hang makes every question wait, until the function it returns is called.
func (s *shop) hang() (release func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	gate := make(chan struct{})
	s.hung = gate
	return func() {
		s.mu.Lock()
		s.hung = nil
		s.mu.Unlock()
		close(gate)
	}
}

func (s *shop) times(question string) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.asked[question]
}

func (s *shop) ask(ctx context.Context, question string) error {
	s.mu.Lock()
	s.asked[question]++
	s.inside++
	s.most = max(s.most, s.inside)
	gate, err := s.hung, s.broken
	s.mu.Unlock()
	defer func() {
		s.mu.Lock()
		s.inside--
		s.mu.Unlock()
	}()
	if gate != nil {
		select {
		case <-gate:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return err
}

func (s *shop) Account(ctx context.Context, name string) (*account.Account, error) {
	if err := s.ask(ctx, "account "+name); err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for n, a := range s.accounts {
		if strings.EqualFold(n, name) { // as a database may
			return a, nil
		}
	}
	return nil, account.ErrUnknown
}

func (s *shop) Owners(ctx context.Context, domains []string) (map[string]string, error) {
	return s.pairs(ctx, s.owners, domains)
}

func (s *shop) Holders(ctx context.Context, identities []string) (map[string]string, error) {
	return s.pairs(ctx, s.holders, identities)
}

func (s *shop) Recipients(ctx context.Context, name string) ([]string, error) {
	if err := s.ask(ctx, "recipients "+name); err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return account.ParseRecipients(name, s.lists[name])
}

func (s *shop) pairs(ctx context.Context, from map[string]string, keys []string) (map[string]string, error) {
	if err := s.ask(ctx, "of "+keys[0]); err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	found := map[string]string{}
	for _, k := range keys {
		if v := from[k]; v != "" {
			found[k] = v
		}
	}
	return found, nil
}

func (s *shop) Lists() bool                     { return s.lists != nil }
func (s *shop) Identities() bool                { return len(s.holders) > 0 }
func (s *shop) Check(ctx context.Context) error { return s.ask(ctx, "check") }
func (s *shop) Reset()                          {}
func (s *shop) Close()                          {}

// ledger is an Observer that counts.
type ledger struct {
	mu       sync.Mutex
	answered [NumOrigins]int
	down, up int
	unusable int
}

func (l *ledger) Answered(o Origin)            { l.count(&l.answered[o]) }
func (l *ledger) Queried(time.Duration, error) {}
func (l *ledger) Down(error)                   { l.count(&l.down) }
func (l *ledger) Up()                          { l.count(&l.up) }
func (l *ledger) Unusable(error)               { l.count(&l.unusable) }
func (l *ledger) count(n *int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	*n++
}

func (l *ledger) of(n *int) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return *n
}

type fixture struct {
	*Directory
	t     *testing.T
	shop  *shop
	clock *clocktest.Clock
	seen  *ledger
}

func newFixture(t *testing.T, accounts ...*account.Account) *fixture {
	f := &fixture{t: t, shop: newShop(accounts...), clock: clocktest.At(time.Unix(1e9, 0)), seen: new(ledger)}
	f.Directory = New(f.shop, Config{TTL: time.Minute, NegativeTTL: 10 * time.Second, StaleTTL: time.Hour, Entries: 100, Timeout: patience,
		Connections: 4, Now: f.clock.Now, Observer: f.seen})
	return f
}

func tim() *account.Account {
	return &account.Account{Name: "tim", Domains: []string{"a.example", "b.example"}}
}

func (f *fixture) lookup(name, want string) {
	f.t.Helper()
	a, err := f.Lookup(name)
	if err != nil || a.Name != want {
		f.t.Errorf("%s: %v, %v", name, a, err)
	}
}

func (f *fixture) unknown(name string) {
	f.t.Helper()
	if a, err := f.Lookup(name); !errors.Is(err, account.ErrUnknown) {
		f.t.Errorf("%s: %v, %v", name, a, err)
	}
}

func (f *fixture) unavailable(name string) {
	f.t.Helper()
	if a, err := f.Lookup(name); !errors.Is(err, account.ErrUnavailable) {
		f.t.Errorf("%s: %v, %v", name, a, err)
	}
}

func (f *fixture) asked(question string, want int) {
	f.t.Helper()
	if n := f.shop.times(question); n != want {
		f.t.Errorf("%q was asked %d times, want %d", question, n, want)
	}
}

func TestAnswersAreKeptForTheirTime(t *testing.T) {
	f := newFixture(t, tim())
	f.lookup("tim", "tim")
	f.lookup("A.Example", "tim")
	f.unknown("nobody")
	f.unknown("no.example")
	f.clock.Add(9 * time.Second)
	f.lookup("tim", "tim")
	f.lookup("b.example", "tim") // known from the account's own look
	f.unknown("nobody")
	f.unknown("no.example")
	f.asked("account tim", 1)
	f.asked("account nobody", 1)
	f.asked("of b.example", 0)
	f.asked("of no.example", 1)
	f.clock.Add(2 * time.Second)
	f.unknown("nobody")
	f.asked("account nobody", 2)
	f.shop.set(&account.Account{Name: "nobody", Domains: []string{"no.example"}})
	f.clock.Add(11 * time.Second)
	f.lookup("nobody", "nobody")
	f.lookup("tim", "tim")
	f.asked("account tim", 1)
	f.clock.Add(time.Minute)
	f.lookup("tim", "tim")
	f.asked("account tim", 2)
}

func TestNoAnswerIsOlderThanDrop(t *testing.T) {
	f := newFixture(t, tim())
	f.lookup("tim", "tim")
	f.Drop()
	f.lookup("tim", "tim")
	f.asked("account tim", 2)
	// One that is under way when all is dropped is given, and not kept.
	release := f.shop.hang()
	done := make(chan error, 1)
	go func() { _, err := f.Lookup("nobody"); done <- err }()
	f.wait("the question", func() bool { return f.shop.times("account nobody") == 1 })
	f.Drop()
	release()
	if err := <-done; !errors.Is(err, account.ErrUnknown) {
		t.Error(err)
	}
	f.unknown("nobody")
	f.asked("account nobody", 2)
}

func (f *fixture) wait(what string, ok func() bool) {
	f.t.Helper()
	for end := time.Now().Add(patience); !ok(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			f.t.Fatalf("waited for %s", what)
		}
	}
}

func TestTheSameIsAskedOnce(t *testing.T) {
	f := newFixture(t, tim())
	release := f.shop.hang()
	var all sync.WaitGroup
	for range 100 {
		all.Go(func() { f.lookup("tim", "tim") })
	}
	f.wait("all to wait", func() bool { return f.waiting.Load() == 100 })
	release()
	all.Wait()
	f.asked("account tim", 1)
}

func TestQuestionsAtOnceAreBounded(t *testing.T) {
	f := newFixture(t)
	release := f.shop.hang()
	var all sync.WaitGroup
	for i := range 100 {
		all.Go(func() { f.unknown(fmt.Sprint("nobody", i)) })
	}
	f.wait("all to wait", func() bool { return f.waiting.Load() == 100 })
	release()
	all.Wait()
	if f.shop.most > 4 {
		t.Errorf("%d at once", f.shop.most)
	}
}

func TestEntriesAreBounded(t *testing.T) {
	f := newFixture(t)
	for i := range 1000 {
		f.unknown(fmt.Sprintf("no%d.example", i))
	}
	if f.accounts.absent.Len() != 100 || f.owners.absent.Len() != 100 {
		t.Errorf("%d accounts, %d domains", f.accounts.absent.Len(), f.owners.absent.Len())
	}
	for i := range 1000 {
		f.shop.set(&account.Account{Name: fmt.Sprintf("a%d", i), Domains: []string{fmt.Sprintf("no%d.example", i)}})
	}
	f.Drop()
	for i := range 1000 {
		f.lookup(fmt.Sprintf("a%d", i), fmt.Sprintf("a%d", i))
	}
	if f.accounts.lru.Len() != 100 || f.owners.lru.Len() != 100 || f.accounts.absent.Len() != 0 {
		t.Errorf("%d accounts, %d domains", f.accounts.lru.Len(), f.owners.lru.Len())
	}
}

// Strangers who guess names must not take from customers what is remembered for an outage.
func TestGuessesDoNotMakeCustomersForgotten(t *testing.T) {
	f := newFixture(t, tim())
	f.lookup("tim", "tim")
	for i := range 1000 {
		f.unknown(fmt.Sprintf("no%d.example", i))
	}
	f.asked("account tim", 1)
	f.shop.fail(errors.New("connection refused"))
	f.unavailable("eve")
	f.lookup("tim", "tim")
	if _, err := f.Owner("a.example"); err != nil {
		t.Errorf("the owner of a domain: %v", err)
	}
	if domains, err := f.Authorize("tim", nil); err != nil || len(domains) != 2 {
		t.Errorf("authorized for %v, %v", domains, err)
	}
	f.asked("account tim", 1)
}

// An account that comes into being, or goes, stands in one place only.
func TestAnAnswerTakesThePlaceOfTheOther(t *testing.T) {
	f := newFixture(t)
	f.unknown("tim")
	f.shop.set(tim())
	f.clock.Add(time.Minute)
	f.lookup("tim", "tim")
	if f.accounts.lru.Len() != 1 || f.accounts.absent.Len() != 0 {
		t.Errorf("%d accounts, %d that there are not", f.accounts.lru.Len(), f.accounts.absent.Len())
	}
	f.shop.mu.Lock()
	clear(f.shop.accounts)
	clear(f.shop.owners)
	f.shop.mu.Unlock()
	f.clock.Add(time.Minute)
	f.unknown("tim")
	if f.accounts.lru.Len() != 0 || f.accounts.absent.Len() != 1 {
		t.Errorf("%d accounts, %d that there are not", f.accounts.lru.Len(), f.accounts.absent.Len())
	}
}

func TestSourceDown(t *testing.T) {
	f := newFixture(t, tim(), &account.Account{Name: "eve", Domains: []string{"e.example"}})
	f.lookup("tim", "tim")
	f.unknown("nobody")
	f.shop.fail(errors.New("connection refused"))
	f.unavailable("eve")
	f.asked("account eve", 1)
	f.unavailable("eve") // without asking
	f.asked("account eve", 1)
	f.lookup("tim", "tim")
	f.unknown("nobody")
	if ok, err := f.Collectable("e.example"); ok || !errors.Is(err, account.ErrUnavailable) {
		t.Errorf("collectable: %v, %v", ok, err)
	}
	// A positive answer serves on for its time, a negative one does not.
	f.clock.Add(time.Hour)
	f.lookup("tim", "tim")
	f.unavailable("nobody")
	if domains, err := f.Authorize("tim", nil); err != nil || len(domains) != 2 {
		t.Errorf("%v, %v", domains, err)
	}
	if ok, err := f.Collectable("a.example"); !ok || err != nil {
		t.Errorf("collectable: %v, %v", ok, err)
	}
	f.clock.Add(time.Minute)
	f.unavailable("tim")
	if _, err := f.Authorize("tim", nil); !errors.Is(err, account.ErrUnavailable) {
		t.Error(err)
	}
	if f.seen.of(&f.seen.down) != 1 || f.seen.of(&f.seen.answered[Stale]) != 3 {
		t.Errorf("%+v", f.seen)
	}
	f.shop.fail(nil)
	if err := f.Check(t.Context()); err != nil {
		t.Fatal(err)
	}
	f.lookup("eve", "eve")
	if f.seen.of(&f.seen.up) != 1 {
		t.Errorf("%+v", f.seen)
	}
}

// A Source that hangs holds up those who wait for it until it is down, and nobody else.
func TestSourceHangs(t *testing.T) {
	f := newFixture(t, tim())
	f.lookup("tim", "tim")
	f.cfg.Timeout = 200 * time.Millisecond
	defer f.shop.hang()()
	var all sync.WaitGroup
	for i := range 500 {
		all.Go(func() { f.unavailable(fmt.Sprint("nobody", i)) })
	}
	f.wait("all to wait", func() bool { return f.waiting.Load() > 400 || f.health.failure() != nil })
	f.lookup("tim", "tim")
	all.Wait()
	if f.waiting.Load() != 0 || f.shop.times("account tim") != 1 {
		t.Errorf("%d wait", f.waiting.Load())
	}
	f.unavailable("somebody")
	f.asked("account somebody", 0)
}

func TestTooManyWait(t *testing.T) {
	f := newFixture(t)
	defer f.shop.hang()()
	go f.Lookup("first")
	f.wait("the first to wait", func() bool { return f.shop.times("account first") == 1 })
	f.waiting.Add(maxWaiting) // as many more
	defer f.waiting.Add(-maxWaiting)
	f.clock.Add(2 * stallTime)
	f.unavailable("one.more")
	f.asked("account one.more", 0)
}

func TestRunLooksAfterASourceThatIsDown(t *testing.T) {
	f := newFixture(t, tim())
	ctx, cancel := context.WithCancel(t.Context())
	var running sync.WaitGroup
	running.Go(func() { f.Run(ctx) })
	f.shop.fail(errors.New("connection refused"))
	f.unavailable("tim")
	f.wait("a second look", func() bool { return f.shop.times("check") >= 2 })
	f.shop.fail(nil)
	f.wait("up", func() bool { return f.seen.of(&f.seen.up) == 1 })
	f.lookup("tim", "tim")
	cancel()
	running.Wait()
}

// TestRefusedSourceIsLeftAlone: one that refuses us is not asked at full speed, but at once when somebody says that things have changed.
func TestRefusedSourceIsLeftAlone(t *testing.T) {
	refused := fmt.Errorf("%w: bind: wrong password", ErrRefused)
	if p := pause(refused); p != refusedInterval || pause(nil) != retryInterval || pause(errors.New("connection refused")) != retryInterval {
		t.Errorf("left alone for %s", p)
	}
	f := newFixture(t, tim())
	ctx, cancel := context.WithCancel(t.Context())
	var running sync.WaitGroup
	running.Go(func() { f.Run(ctx) })
	f.shop.fail(refused)
	f.unavailable("tim")
	f.wait("a second look", func() bool { return f.shop.times("check") >= 1 })
	f.unavailable("tim")
	f.asked("account tim", 1)
	f.shop.fail(nil)
	f.Drop()
	f.wait("up", func() bool { return f.seen.of(&f.seen.up) == 1 })
	f.lookup("tim", "tim")
	cancel()
	running.Wait()
}

// slowly is an Observer that takes its time over Down.
type slowly struct {
	*ledger
	mu   sync.Mutex
	told []string
	down func()
}

func (o *slowly) tell(what string) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.told = append(o.told, what)
}
func (o *slowly) Down(error) { o.down(); o.tell("down") }
func (o *slowly) Up()        { o.tell("up") }

// A look that succeeds while the Observer is being told of a failure is told after it: else the Source would be up, and
// readiness would say for ever that it is down.
func TestUpIsToldAfterDown(t *testing.T) {
	f := newFixture(t, tim())
	var looking sync.WaitGroup
	o := &slowly{ledger: f.seen}
	o.down = func() {
		f.shop.fail(nil)
		looking.Go(func() {
			if err := f.Check(t.Context()); err != nil {
				t.Error(err)
			}
		})
		time.Sleep(20 * time.Millisecond) // in which Up would come
	}
	f.cfg.Observer = o
	f.shop.fail(errors.New("connection refused"))
	f.unavailable("tim")
	looking.Wait()
	if !slices.Equal(o.told, []string{"down", "up"}) {
		t.Error(o.told)
	}
	f.lookup("tim", "tim")
}

// What is wrong with one record concerns its account alone.
func TestRecordThatCannotBeUsed(t *testing.T) {
	f := newFixture(t, tim())
	f.shop.set(&account.Account{Name: "eve", Domains: []string{"b.example", "e.example"}}) // b.example is tim's, too
	f.shop.owners["b.example"] = "tim"
	if a, err := f.Lookup("eve"); !errors.Is(err, account.ErrRecord) {
		t.Errorf("%v, %v", a, err)
	}
	if domains, err := f.Authorize("eve", nil); !errors.Is(err, account.ErrRecord) {
		t.Errorf("%v, %v", domains, err)
	}
	if account.AccessRefusal(account.ErrRecord).Code != 451 {
		t.Error("not temporary to the customer")
	}
	f.lookup("tim", "tim")
	f.shop.accounts["idn"] = &account.Account{Name: "idn", Domains: []string{"x.example"}} // whose domain has no owner
	if a, err := f.Lookup("idn"); !errors.Is(err, account.ErrRecord) {
		t.Errorf("%v, %v", a, err)
	}
	if f.seen.of(&f.seen.down) != 0 || f.seen.of(&f.seen.unusable) != 3 {
		t.Errorf("%+v", f.seen)
	}
}

// A domain that changes hands is the new customer's as soon as anybody has seen that, however long the old one is remembered.
func TestDomainMoves(t *testing.T) {
	f := newFixture(t, tim())
	if domains, err := f.Authorize("tim", nil); err != nil || len(domains) != 2 {
		t.Fatal(domains, err)
	}
	f.shop.set(&account.Account{Name: "tim", Domains: []string{"a.example"}})
	f.shop.set(&account.Account{Name: "eve", Domains: []string{"b.example"}})
	f.lookup("eve", "eve")
	if domains, err := f.Authorize("tim", nil); err != nil || !slices.Equal(domains, []string{"a.example"}) {
		t.Errorf("tim may still collect %v, %v", domains, err)
	}
	if _, err := f.Authorize("tim", []string{"b.example"}); !errors.Is(err, account.ErrNoAccess) {
		t.Error(err)
	}
	// And one that is new to its account is collected by it once mail has come.
	f.shop.set(&account.Account{Name: "eve", Domains: []string{"b.example", "c.example"}})
	if ok, err := f.Collectable("c.example"); !ok || err != nil {
		t.Error(ok, err)
	}
	if domains, err := f.Authorize("eve", nil); err != nil || len(domains) != 2 {
		t.Errorf("eve may collect %v, %v", domains, err)
	}
}

// TestAuthorizeAnew: nothing that is remembered counts, neither what is young nor what would serve while the Source is down, nor what somebody
// asked for before.
func TestAuthorizeAnew(t *testing.T) {
	f := newFixture(t, tim())
	f.lookup("tim", "tim")
	f.shop.set(&account.Account{Name: "tim", Domains: []string{"b.example"}})
	f.shop.set(&account.Account{Name: "eve", Domains: []string{"a.example"}})
	if domains, err := f.Authorize("tim", []string{"a.example"}); err != nil {
		t.Fatal("not what is remembered:", domains, err)
	}
	if domains, err := f.AuthorizeAnew("tim", []string{"a.example"}); !errors.Is(err, account.ErrNoAccess) {
		t.Error(domains, err)
	}
	f.asked("account tim", 2)
	if domains, err := f.AuthorizeAnew("eve", nil); err != nil || !slices.Equal(domains, []string{"a.example"}) {
		t.Error(domains, err)
	}
	for _, name := range []string{"nobody", "no name"} {
		if _, err := f.AuthorizeAnew(name, nil); !errors.Is(err, account.ErrUnknown) {
			t.Errorf("%s: %v", name, err)
		}
	}
	// A question that is on its way was asked before.
	release := f.shop.hang()
	f.clock.Add(time.Hour)
	var wg sync.WaitGroup
	wg.Go(func() { _, _ = f.Authorize("tim", nil) })
	f.wait("the first to ask", func() bool { return f.shop.times("account tim") == 3 })
	wg.Go(func() { _, _ = f.AuthorizeAnew("tim", nil) })
	f.wait("the second to do so, too", func() bool { return f.shop.times("account tim") == 4 })
	release()
	wg.Wait()
	f.shop.fail(errors.New("connection refused"))
	if domains, err := f.AuthorizeAnew("tim", nil); !errors.Is(err, account.ErrUnavailable) {
		t.Error(domains, err)
	}
	if _, err := f.Authorize("tim", nil); err != nil {
		t.Error("what is remembered does not serve:", err)
	}
}

func TestRefusalsRestOnYoungAnswers(t *testing.T) {
	f := newFixture(t, tim())
	f.lookup("tim", "tim")
	if _, err := f.Authorize("tim", []string{"c.example"}); !errors.Is(err, account.ErrNoAccess) {
		t.Error(err)
	}
	f.asked("account tim", 1)
	f.Doubt("tim")
	f.lookup("tim", "tim")
	f.asked("account tim", 1) // the answer is too young to be doubted
	f.shop.set(&account.Account{Name: "tim", Domains: []string{"a.example", "c.example"}})
	f.clock.Add(11 * time.Second)
	if domains, err := f.Authorize("tim", []string{"c.example"}); err != nil || len(domains) != 1 {
		t.Error(domains, err)
	}
	f.asked("account tim", 2)
	f.clock.Add(11 * time.Second)
	f.Doubt("tim")
	f.Doubt("nobody")
	f.lookup("tim", "tim")
	f.asked("account tim", 3)
}

// Whoever guesses passwords while the Source is down shortens nobody's StaleTTL, however often.
func TestDoubtsWhileDown(t *testing.T) {
	f := newFixture(t, tim())
	f.lookup("tim", "tim")
	f.shop.fail(errors.New("connection refused"))
	f.unavailable("nobody")
	for range 12 { // together an hour, and TTL is left
		f.clock.Add(5 * time.Minute)
		for range 100 {
			f.Doubt("tim")
		}
		f.lookup("tim", "tim")
	}
	f.clock.Add(time.Minute)
	f.unavailable("tim")
}

func TestOwnHostname(t *testing.T) {
	a := tim()
	a.OwnHostname = true
	f := newFixture(t, a, &account.Account{Name: "eve", Domains: []string{"e.example"}})
	for _, host := range []string{"localhost", "gw.dyn.example"} {
		if domains, err := f.Authorize("tim", []string{host}); err != nil || len(domains) != 2 {
			t.Errorf("%s: %v, %v", host, domains, err)
		}
	}
	if _, err := f.Authorize("tim", []string{"E.example"}); !errors.Is(err, account.ErrNoAccess) {
		t.Error("somebody else's domain is taken for an own host name:", err)
	}
	if _, err := f.Authorize("eve", []string{"gw.dyn.example"}); !errors.Is(err, account.ErrNoAccess) {
		t.Error(err)
	}
	f.shop.fail(errors.New("connection refused"))
	if _, err := f.Authorize("tim", []string{"other.example"}); !errors.Is(err, account.ErrUnavailable) {
		t.Error("a host name that may be somebody's domain is let pass:", err)
	}
}

// Names are case-sensitive even where the Source's are not, and what cannot be a name is not asked for.
func TestNames(t *testing.T) {
	f := newFixture(t, tim())
	f.unknown("TIM")
	f.unknown("tim ")
	for _, name := range []string{"", "a\x00b", "\xff", strings.Repeat("x", 256), strings.Repeat("x", 300) + ".example", " x", "a\nb"} {
		f.unknown(name)
		f.asked("account "+name, 0)
	}
	if len(f.shop.asked) != 1 {
		t.Errorf("asked: %v", f.shop.asked)
	}
}

func TestIdentify(t *testing.T) {
	f := newFixture(t, tim(), &account.Account{Name: "eve", Domains: []string{"e.example"}})
	peer := account.Peer{Addr: netip.MustParseAddrPort("192.0.2.33:5")}
	if f.MayIdentify(peer) {
		t.Error("EXTERNAL is offered without identities")
	}
	f.shop.holders["network 192.0.2.0/24"], f.shop.holders["network 192.0.2.32/29"] = "tim", "eve"
	f.shop.holders["cert-dns gw.example.org"] = "tim"
	identified := func(peer account.Peer, want ...string) {
		t.Helper()
		found, err := f.Identify(peer)
		var names []string
		for _, a := range found {
			names = append(names, a.Name)
		}
		if err != nil || !slices.Equal(names, want) {
			t.Errorf("%v, %v; want %v", names, err, want)
		}
	}
	identified(peer, "eve") // the narrowest
	identified(account.Peer{Addr: netip.MustParseAddrPort("[::ffff:192.0.2.1]:5")}, "tim")
	identified(account.Peer{Addr: netip.MustParseAddrPort("198.51.100.1:5")})
	cert := &x509.Certificate{Raw: []byte("x"), DNSNames: []string{"gw.example.org"}}
	peer.TLS = &tls.ConnectionState{PeerCertificates: []*x509.Certificate{cert}}
	identified(peer, "eve") // it was not verified
	peer.TLS.VerifiedChains = [][]*x509.Certificate{{cert}}
	identified(peer, "tim")
	f.shop.fail(errors.New("connection refused"))
	identified(peer, "tim")
	if _, err := f.Identify(account.Peer{Addr: netip.MustParseAddrPort("203.0.113.1:5")}); !errors.Is(err, account.ErrUnavailable) {
		t.Error(err)
	}
}

// Mail and logins by a domain that is remembered go on while the Source is down, although what is not an account's name is remembered
// for a short time only.
func TestDomainsWhileDown(t *testing.T) {
	f := newFixture(t, tim())
	f.lookup("A.Example", "tim")
	f.shop.fail(errors.New("connection refused"))
	f.clock.Add(30 * time.Minute)
	f.lookup("A.Example", "tim")
	if a, err := f.Owner("a.example"); err != nil || a.Name != "tim" {
		t.Error(a, err)
	}
	f.unavailable("b.example") // of which nobody knows whether it is an account's name
	if a, err := f.Owner("b.example"); err != nil || a.Name != "tim" {
		t.Error(a, err)
	}
	if a, err := f.Owner("c.example"); !errors.Is(err, account.ErrUnavailable) {
		t.Error(a, err)
	}
	f.shop.fail(nil)
	if err := f.Check(t.Context()); err != nil {
		t.Fatal(err)
	}
	if a, err := f.Owner("c.example"); !errors.Is(err, account.ErrUnknown) {
		t.Error(a, err)
	}
}
