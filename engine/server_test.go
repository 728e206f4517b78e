package engine

import (
	"bufio"
	"cmp"
	"context"
	"crypto/tls"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/rs/zerolog"
	"go.uber.org/goleak"

	"odmr/engine/session"
	"odmr/internal/account"
	"odmr/internal/mail"
	"odmr/queue"
	"odmr/queue/pebblestore"
)

// patience bounds every wait of these tests: generous, for nothing is measured by it. Connections have it for all that is
// done over them, and the race detector on a busy machine makes twenty times as much of that.
const patience = 5 * time.Minute

func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m,
		// gnet's default pool of goroutines is made when the package is loaded and lives as long as the process.
		goleak.IgnoreTopFunction("github.com/panjf2000/ants/v2.(*poolCommon).purgeStaleWorkers"),
		goleak.IgnoreTopFunction("github.com/panjf2000/ants/v2.(*poolCommon).ticktock"),
	)
}

// server is an engine under test on a store of its own.
type server struct {
	*Engine
	t      *testing.T
	store  *pebblestore.Store
	gate   *gate
	dir    *testDirectory
	seen   *recorder
	crash  bool        // the test plants panics
	client *tls.Config // how dial connects; nil: in clear
	down   bool
}

type setting func(*server, *Config)

// everythingUnderTLS changes every server while it is set; see TestUnderTLS.
var everythingUnderTLS setting

// newServer starts a server that listens for all three protocols. At the test's end it is shut down,
// and everything lent must have been given back.
func newServer(t *testing.T, settings ...setting) *server {
	t.Helper()
	s := &server{t: t, seen: &recorder{}}
	s.dir = &testDirectory{accounts: map[string][]string{}}
	store, err := pebblestore.Open(t.TempDir(), pebblestore.Options{
		Now: time.Now, MemTableSize: 8 << 20, Ballast: -1,
		FreeSpace: func() (int64, error) { return 1 << 40, nil },
	})
	if err != nil {
		t.Fatal(err)
	}
	s.store = store
	s.gate = &gate{Store: store}
	cfg := Config{
		Hostname:      "mail.isp.example",
		Listeners:     []Listener{{Role: SMTP, Addr: "127.0.0.1:0"}, {Role: LMTP, Addr: "127.0.0.1:0"}, {Role: ODMR, Addr: "127.0.0.1:0"}},
		Loops:         2,
		Store:         s.gate,
		Directory:     s.dir,
		Authenticator: s.dir,
		Trusted:       []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")},
		Logger:        zerolog.New(zerolog.NewTestWriter(t)).Level(zerolog.WarnLevel),
		Observer:      s.seen,
	}
	if os.Getenv("ENGINE_TEST_LOG") != "" {
		cfg.Logger = cfg.Logger.Level(zerolog.TraceLevel)
	}
	for _, set := range settings {
		set(s, &cfg)
	}
	if everythingUnderTLS != nil {
		everythingUnderTLS(s, &cfg)
	}
	s.Engine, err = New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	if s.dir.machine != nil {
		s.newSession = func(c *conn) session.Session { return s.dir.machine(c) }
	}
	if err := s.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.close)
	return s
}

// withMachine makes every session run the machine that fn returns.
func withMachine(fn func(*conn) session.Session) setting {
	return func(s *server, _ *Config) { s.dir.machine = fn }
}

// withAccount adds an account.
func withAccount(name string, domains ...string) setting {
	return func(s *server, _ *Config) { s.dir.accounts[name] = domains }
}

func (s *server) close() {
	if !s.down {
		s.shutdown(patience)
	}
	if n := s.panics.Load(); n > 0 && !s.crash {
		s.t.Errorf("%d panics were recovered", n)
	}
	if n := s.lent.Load(); n != 0 {
		s.t.Errorf("%d octets of segments were not given back", n)
	}
	if n := s.prefetch.used; n != 0 {
		s.t.Errorf("%d octets of prefetch memory were not given back", n)
	}
	if n := s.prefetch.sessions; n != 0 {
		s.t.Errorf("%d sessions still share the prefetch memory", n)
	}
	if n := s.ingest.used; n != 0 {
		s.t.Errorf("%d octets of ingest memory were not given back", n)
	}
	if n := s.Sessions(); n != 0 {
		s.t.Errorf("%d sessions are left", n)
	}
	if n := s.records.count(); n != 0 {
		s.t.Errorf("%d records are left", n)
	}
	if n := s.seen.get(func(r *recorder) int { return r.tlsNow }); n != 0 {
		s.t.Errorf("metrics still count %d sessions under TLS", n)
	}
	if n := s.shakes.count(); n != 0 {
		s.t.Errorf("%d handshakes are left", n)
	}
	for st, n := range s.seen.states() {
		if n != 0 && State(st) != StateNone {
			s.t.Errorf("metrics still count %d sessions as %s", n, State(st))
		}
	}
	if err := s.store.Close(); err != nil {
		s.t.Errorf("store: %v", err)
	}
}

func (s *server) shutdown(grace time.Duration) {
	s.t.Helper()
	s.down = true
	ctx, cancel := context.WithTimeout(context.Background(), grace)
	defer cancel()
	if err := s.Shutdown(ctx); err != nil {
		s.t.Errorf("shutdown: %v", err)
	}
}

func (s *server) addr(r Role) string {
	for _, a := range s.Addrs() {
		if a.Role == r {
			return a.Addr.String()
		}
	}
	s.t.Fatalf("no %s listener", r)
	return ""
}

// eventually polls until ok.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(patience); !ok(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("never came true: %s", what)
		}
	}
}

// peer is the other end of a connection.
type peer struct {
	net.Conn
	t *testing.T
	r *bufio.Reader
}

func (s *server) dial(r Role) *peer {
	s.t.Helper()
	c, err := net.Dial("tcp", s.addr(r))
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() { c.Close() })
	if s.client != nil {
		c = tls.Client(c, s.client)
	}
	return newPeer(s.t, c)
}

// socket is the TCP connection under c.
func socket(c net.Conn) *net.TCPConn {
	if tc, ok := c.(*tls.Conn); ok {
		c = tc.NetConn()
	}
	return c.(*net.TCPConn)
}

func newPeer(t *testing.T, c net.Conn) *peer {
	_ = c.SetDeadline(time.Now().Add(patience))
	return &peer{c, t, bufio.NewReader(c)}
}

func (p *peer) send(lines ...string) {
	p.t.Helper()
	if _, err := p.Write([]byte(strings.Join(lines, "\r\n") + "\r\n")); err != nil {
		p.t.Fatal(err)
	}
}

// line reads one line without its CRLF.
func (p *peer) line() string {
	p.t.Helper()
	l, err := p.r.ReadString('\n')
	if err != nil {
		p.t.Fatalf("%v after %q", err, l)
	}
	return strings.TrimSuffix(l, "\r\n")
}

// expect reads a reply of any number of lines and compares the beginning of the last.
func (p *peer) expect(prefix string) string {
	p.t.Helper()
	l := p.line()
	for len(l) > 3 && l[3] == '-' {
		l = p.line()
	}
	if !strings.HasPrefix(l, prefix) {
		p.t.Fatalf("got %q, want %q...", l, prefix)
	}
	return l
}

// ask sends a command and expects its reply.
func (p *peer) ask(command, reply string) string {
	p.t.Helper()
	p.send(command)
	return p.expect(reply)
}

// eof expects the end of the stream.
func (p *peer) eof() {
	p.t.Helper()
	if b, err := p.r.ReadByte(); err == nil {
		p.t.Fatalf("got %q, want the end", b)
	}
}

// testDirectory has its accounts in memory. The mechanism TEST takes "name" as proof of being name.
type testDirectory struct {
	mu       sync.Mutex
	accounts map[string][]string
	policies map[string]account.Policy
	listed   []string
	blocking atomic.Bool
	machine  func(*conn) session.Session
}

func (d *testDirectory) NonBlocking() bool { return !d.blocking.Load() }

func (d *testDirectory) Collectable(domain string) (bool, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if domain == "down.example" {
		return false, account.ErrUnavailable
	}
	for _, domains := range d.accounts {
		for _, n := range domains {
			if n == domain {
				return true, nil
			}
		}
	}
	return false, nil
}

func (d *testDirectory) Owner(domain string) (*account.Account, error) {
	if ok, err := d.Collectable(domain); !ok || err != nil {
		return nil, cmp.Or(err, account.ErrUnknown)
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	for name, domains := range d.accounts {
		if slices.Contains(domains, domain) {
			return &account.Account{Name: name, Domains: domains, Policy: d.policies[name], Recipients: d.listed}, nil
		}
	}
	return nil, account.ErrUnknown
}

func (d *testDirectory) Lookup(name string) (*account.Account, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	domains, ok := d.accounts[name]
	for other, theirs := range d.accounts {
		if !ok && slices.Contains(theirs, name) {
			name, domains, ok = other, theirs, true
		}
	}
	if !ok {
		return nil, account.ErrUnknown
	}
	return &account.Account{Name: name, Domains: domains, Policy: d.policies[name], Recipients: d.listed}, nil
}

func (d *testDirectory) Authorize(name string, wanted []string) ([]string, error) {
	a, err := d.Lookup(name)
	if err != nil {
		return nil, err
	}
	if len(wanted) == 0 {
		return a.Domains, nil
	}
	for _, w := range wanted {
		found := false
		for _, n := range a.Domains {
			found = found || n == w
		}
		if !found {
			if w == "down.example" {
				return nil, account.ErrUnavailable
			}
			return nil, account.ErrNoAccess
		}
	}
	return wanted, nil
}

func (d *testDirectory) Mechanisms(account.Peer) []string { return []string{"TEST"} }

func (d *testDirectory) Start(mechanism string, peer account.Peer) (account.Exchange, error) {
	return &testExchange{dir: d}, nil
}

type testExchange struct {
	dir  *testDirectory
	name string
}

func (x *testExchange) Next(response []byte) ([]byte, bool, error) {
	if response == nil {
		return []byte("who"), false, nil
	}
	if _, err := x.dir.Lookup(string(response)); err != nil {
		return nil, false, err
	}
	x.name = string(response)
	return nil, true, nil
}

func (x *testExchange) Account() string { return x.name }

// recorder is an Observer that remembers.
type recorder struct {
	NopObserver
	mu        sync.Mutex
	state     [NumStates]int
	entered   [NumStates]int // sessions that ever came to stand there
	atrn      []int
	takeovers int
	withdrawn int
	refused   int
	in, out   [NumOutcomes]int
	commits   int
	settles   int
	lags      int
	tlsBegan  map[uint16]int
	tlsFailed int
	tlsNow    int
	limits    [NumLimits]int
	alarms    int
}

func (r *recorder) SessionState(from, to State) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.state[from]--
	r.state[to]++
	r.entered[to]++
}

func (r *recorder) states() [NumStates]int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.state
}

func (r *recorder) SessionRefused()               { r.mu.Lock(); r.refused++; r.mu.Unlock() }
func (r *recorder) ShieldFired()                  { r.mu.Lock(); r.alarms++; r.mu.Unlock() }
func (r *recorder) Withdrawn()                    { r.mu.Lock(); r.withdrawn++; r.mu.Unlock() }
func (r *recorder) Takeover()                     { r.mu.Lock(); r.takeovers++; r.mu.Unlock() }
func (r *recorder) LimitHit(l Limit)              { r.mu.Lock(); r.limits[l]++; r.mu.Unlock() }
func (r *recorder) ATRN(code int)                 { r.mu.Lock(); r.atrn = append(r.atrn, code); r.mu.Unlock() }
func (r *recorder) MessageIn(o Outcome, _ int64)  { r.mu.Lock(); r.in[o]++; r.mu.Unlock() }
func (r *recorder) MessageOut(o Outcome, _ int64) { r.mu.Lock(); r.out[o]++; r.mu.Unlock() }
func (r *recorder) Commit(time.Duration)          { r.mu.Lock(); r.commits++; r.mu.Unlock() }
func (r *recorder) Settle(time.Duration, int)     { r.mu.Lock(); r.settles++; r.mu.Unlock() }
func (r *recorder) LoopLag(int, time.Duration)    { r.mu.Lock(); r.lags++; r.mu.Unlock() }

func (r *recorder) TLSFailed() { r.mu.Lock(); r.tlsFailed++; r.mu.Unlock() }
func (r *recorder) TLSEnded()  { r.mu.Lock(); r.tlsNow--; r.mu.Unlock() }
func (r *recorder) TLSBegan(version uint16) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.tlsBegan == nil {
		r.tlsBegan = map[uint16]int{}
	}
	r.tlsBegan[version]++
	r.tlsNow++
}

func (r *recorder) get(f func(*recorder) int) int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return f(r)
}

// gate is the real store with a door in front of what tests want to hold up.
type gate struct {
	queue.Store
	acquire, commits, appends door
	full                      atomic.Bool // Begin says ErrFull
}

func (g *gate) Acquire(domains []string) (queue.Lease, error) {
	g.acquire.pass()
	return g.Store.Acquire(domains)
}

func (g *gate) Begin(size int64) (queue.Incoming, error) {
	if g.full.Load() {
		return nil, queue.ErrFull
	}
	in, err := g.Store.Begin(size)
	if err != nil {
		return nil, err
	}
	return &gatedIncoming{in, g}, nil
}

type gatedIncoming struct {
	queue.Incoming
	g *gate
}

func (in *gatedIncoming) Append(data []byte) error {
	in.g.appends.pass()
	return in.Incoming.Append(data)
}

func (in *gatedIncoming) Submit(last []byte, envelopes []mail.Envelope, to queue.Waiter) {
	go func() {
		in.g.commits.pass()
		in.Incoming.Submit(last, envelopes, to)
	}()
}

// door lets everybody pass until it is shut.
type door struct {
	mu      sync.Mutex
	shut    chan struct{}
	waiting int
}

func (d *door) pass() {
	d.mu.Lock()
	shut := d.shut
	if shut != nil {
		d.waiting++
	}
	d.mu.Unlock()
	if shut != nil {
		<-shut
	}
}

func (d *door) close() { d.mu.Lock(); d.shut = make(chan struct{}); d.mu.Unlock() }

func (d *door) open() {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.shut != nil {
		close(d.shut)
	}
	d.shut, d.waiting = nil, 0
}

func (d *door) waiters() int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.waiting
}

func dialOnce(addr string) (net.Conn, error) {
	c, err := net.DialTimeout("tcp", addr, time.Second)
	if err == nil {
		c.Close()
	}
	return c, err
}

// count is how many TLS handshakes are under way.
func (h *handshakes) count() int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.live.Len()
}
