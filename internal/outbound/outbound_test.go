package outbound

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/emersion/go-sasl"
	"github.com/emersion/go-smtp"
	"github.com/rs/zerolog"

	"odmr/internal/certtest"
	"odmr/internal/freeport"
	"odmr/internal/mail"
	"odmr/queue"
	"odmr/queue/conformance"
	"odmr/queue/pebblestore"
)

// sink is a smarthost.
type sink struct {
	addr string
	pool *x509.CertPool

	mu       sync.Mutex
	got      []letter
	user     string // who logged in last
	secure   bool   // the last message came over TLS
	sessions int
	mailErr  error                      // reply to MAIL
	rcptErr  error                      // reply to RCPT
	dataErr  func(content string) error // reply to the final dot
	drop     bool                       // the line goes dead behind the final dot
	most     int                        // letters over one connection, if not 0
	grey     map[string]bool            // who was refused for now once, as all are, if not nil
	poison   string                     // where it goes dead for those whose address begins with poison: RCPT, DATA, dot
}

type letter struct {
	from, to, content string
	options           smtp.RcptOptions
}

func (s *sink) NewSession(c *smtp.Conn) (smtp.Session, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.sessions++
	return &sinkSession{sink: s, conn: c}, nil
}

type sinkSession struct {
	*sink
	conn   *smtp.Conn
	letter letter
	mails  int
}

func (s *sinkSession) AuthMechanisms() []string { return []string{sasl.Plain} }
func (s *sinkSession) Auth(string) (sasl.Server, error) {
	return sasl.NewPlainServer(func(_, user, password string) error {
		if user != "odmr" || password != "open sesame" {
			return smtp.ErrAuthFailed
		}
		s.mu.Lock()
		defer s.mu.Unlock()
		s.user = user
		return nil
	}), nil
}
func (s *sinkSession) Mail(from string, _ *smtp.MailOptions) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.letter.from = from
	if s.mails++; s.most > 0 && s.mails > s.most { // as Exim, smtp_accept_max_per_connection
		return &smtp.SMTPError{Code: 421, EnhancedCode: smtp.EnhancedCode{4, 7, 0}, Message: "too many messages in this connection"}
	}
	return s.mailErr
}
func (s *sinkSession) Rcpt(to string, o *smtp.RcptOptions) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.letter.to, s.letter.options = to, *o
	s.cut("RCPT")
	if s.grey != nil && !s.grey[to] {
		s.grey[to] = true
		return &smtp.SMTPError{Code: 450, EnhancedCode: smtp.EnhancedCode{4, 1, 1}, Message: "unverified address"}
	}
	return s.rcptErr
}

// cut ends the line if it is to go dead here.
func (s *sinkSession) cut(at string) {
	if s.poison == at && strings.HasPrefix(s.letter.to, "poison") {
		s.conn.Conn().Close()
	}
}

func (s *sinkSession) Data(r io.Reader) error {
	s.mu.Lock()
	s.cut("DATA")
	s.mu.Unlock()
	b, err := io.ReadAll(r)
	if err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.cut("dot")
	if s.dataErr != nil {
		if err := s.dataErr(string(b)); err != nil {
			return err
		}
	}
	s.letter.content = string(b)
	s.got = append(s.got, s.letter)
	_, s.secure = s.conn.TLSConnectionState()
	if s.drop {
		s.conn.Conn().Close()
	}
	return nil
}
func (s *sinkSession) Reset()        {}
func (s *sinkSession) Logout() error { return nil }

// newSink starts a smarthost with a certificate for 127.0.0.1; implicit means TLS from the first octet.
func newSink(t *testing.T, mode TLSMode) *sink {
	t.Helper()
	cert := certtest.SelfSigned(t, &x509.Certificate{Subject: pkix.Name{CommonName: "sink"}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}})
	s := &sink{pool: x509.NewCertPool()}
	s.pool.AddCert(cert.Leaf)
	server := smtp.NewServer(s)
	server.Domain, server.EnableDSN, server.ErrorLog = "sink.example", true, discard{}
	cfg := &tls.Config{Certificates: []tls.Certificate{*cert}}
	if mode != TLSNone {
		server.TLSConfig = cfg
	}
	server.AllowInsecureAuth = true
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s.addr = l.Addr().String()
	if mode == TLSImplicit {
		l = tls.NewListener(l, cfg)
	}
	done := make(chan struct{})
	go func() { defer close(done); _ = server.Serve(l) }()
	t.Cleanup(func() { server.Close(); <-done })
	return s
}

type discard struct{}

func (discard) Printf(string, ...any) {}
func (discard) Println(...any)        {}

// world is a queue with a Sender for it.
type world struct {
	t      *testing.T
	store  *pebblestore.Store
	now    time.Time
	sender *Sender
	seen   map[string]int
}

func (w *world) Sent(outcome string) { w.seen[outcome]++ }
func (w *world) Unreachable()        { w.seen["unreachable"]++ }
func (w *world) Denied()             { w.seen["denied"]++ }

func newWorld(t *testing.T, h Smarthost) *world {
	t.Helper()
	w := &world{t: t, now: time.Date(2026, 11, 24, 12, 0, 0, 0, time.UTC), seen: map[string]int{}}
	var err error
	w.store, err = pebblestore.Open(t.TempDir(), pebblestore.Options{Now: time.Now, MemTableSize: 1 << 20, Ballast: -1, MinFreeSpace: 1 << 20})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		conformance.Clean(t, w.store)
		if err := w.store.Close(); err != nil {
			t.Error(err)
		}
	})
	h.Hostname, h.Timeout = "mail.isp.example", 5*time.Minute
	w.sender = New(Config{Store: w.store, Smarthost: h, Now: func() time.Time { return w.now }, Jitter: func() float64 { return 0 }, Observer: w, Logger: zerolog.Nop()})
	return w
}

// put queues a report, content in wire form.
func (w *world) put(to, content string, stuffed int) {
	w.t.Helper()
	in, err := w.store.Begin(0)
	if err != nil {
		w.t.Fatal(err)
	}
	env := mail.Envelope{
		Domain: mail.OutboundDomain, Size: int64(len(content) - stuffed), WireSize: int64(len(content)), Stuffed: stuffed > 0,
		Recipients: []mail.Recipient{{Address: to, Notify: mail.NotifyNever}},
	}
	if err := in.Commit([]byte(content), []mail.Envelope{env}); err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) pass() { w.sender.Pass(context.Background()) }

func (w *world) wantWaiting(n int64) {
	w.t.Helper()
	if got := w.store.Counts(mail.OutboundDomain); got.Messages != n {
		w.t.Fatalf("%+v wait, want %d", got, n)
	}
}

func (w *world) first() (env mail.Envelope) {
	w.t.Helper()
	if err := w.store.List(mail.OutboundDomain, func(e queue.Entry) bool { env = e.Envelope; return false }); err != nil {
		w.t.Fatal(err)
	}
	return env
}

// Reports go out in order, whole, with a null reverse-path, over each kind of protection, with and without a login.
func TestSent(t *testing.T) {
	for _, c := range []struct {
		server, client TLSMode
		user           string
		secure         bool
	}{
		{TLSNone, TLSNone, "", false}, {TLSNone, TLSOpportunistic, "odmr", false}, {TLSOpportunistic, TLSOpportunistic, "", true},
		{TLSRequired, TLSRequired, "odmr", true}, {TLSImplicit, TLSImplicit, "odmr", true}, {TLSRequired, TLSNone, "", false},
	} {
		t.Run(string(c.server+" "+c.client), func(t *testing.T) {
			s := newSink(t, c.server)
			w := newWorld(t, Smarthost{
				Addr: s.addr, TLS: c.client, Roots: func() (*x509.CertPool, error) { return s.pool, nil }, User: c.user,
				Password: func() (string, error) { return "open sesame", nil },
			})
			w.put("ann@elsewhere.example", "Subject: 1\r\n\r\n..dot\r\n", 1)
			w.put("bob@elsewhere.example", "Subject: 2\r\n\r\nx\r\n", 0)
			w.pass()
			w.wantWaiting(0)
			if len(s.got) != 2 || s.got[0].to != "ann@elsewhere.example" || s.got[0].from != "" || s.got[0].content != "Subject: 1\r\n\r\n.dot\r\n" || s.got[1].to != "bob@elsewhere.example" {
				t.Errorf("got %+v", s.got)
			}
			if n := s.got[0].options.Notify; len(n) != 1 || n[0] != smtp.DSNNotifyNever {
				t.Errorf("NOTIFY %v", n)
			}
			if s.user != c.user || s.secure != c.secure || w.seen["sent"] != 2 {
				t.Errorf("user %q, TLS %v, seen %v", s.user, s.secure, w.seen)
			}
		})
	}
}

// A smarthost that cannot be reached or trusted puts the whole queue off, for longer each time, and nothing is lost.
func TestBackOff(t *testing.T) {
	stranger := newSink(t, TLSRequired)
	plain := newSink(t, TLSNone)
	closed, err := freeport.Loopback()
	if err != nil {
		t.Fatal(err)
	}
	for name, h := range map[string]Smarthost{
		"nobody there":                   {Addr: fmt.Sprintf("127.0.0.1:%d", closed), TLS: TLSNone},
		"a certificate of somebody else": {Addr: stranger.addr, TLS: TLSRequired},
		"no STARTTLS":                    {Addr: plain.addr, TLS: TLSRequired},
		"a wrong password":               {Addr: plain.addr, TLS: TLSNone, User: "odmr", Password: func() (string, error) { return "guess", nil }},
		"a password that cannot be read": {Addr: plain.addr, TLS: TLSNone, User: "odmr", Password: func() (string, error) { return "", errors.New("no such file") }},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, h)
			w.put("ann@elsewhere.example", "Subject: 1\r\n\r\nx\r\n", 0)
			var waits []time.Duration
			for range 8 {
				w.pass()
				waits = append(waits, w.sender.until.Sub(w.now))
				w.now = w.sender.until.Add(-time.Second)
				w.pass() // too early
				w.now = w.sender.until
			}
			for i, want := range []time.Duration{1, 2, 4, 8, 16, 32, 60, 60} {
				if waits[i] != want*time.Minute {
					t.Errorf("waits %v", waits)
					break
				}
			}
			w.wantWaiting(1)
			denied := 0
			if name == "a wrong password" {
				denied = 8
			}
			if w.seen["unreachable"] != 8 || w.seen["denied"] != denied || w.seen["sent"]+w.seen["deferred"]+w.seen["refused"] != 0 {
				t.Errorf("seen %v", w.seen)
			}
			if env := w.first(); env.Attempts != 0 {
				t.Errorf("%d attempts", env.Attempts)
			}
		})
	}
	if len(stranger.got)+len(plain.got) > 0 {
		t.Error("something was sent")
	}
}

// 4xx waits, 5xx is marked failed for whoever looks after that; the messages behind go on.
func TestRefusals(t *testing.T) {
	s := newSink(t, TLSNone)
	s.dataErr = func(content string) error {
		switch {
		case strings.Contains(content, "later"):
			return &smtp.SMTPError{Code: 451, EnhancedCode: smtp.EnhancedCode{4, 7, 1}, Message: "come again"}
		case strings.Contains(content, "never"):
			return &smtp.SMTPError{Code: 554, EnhancedCode: smtp.EnhancedCode{5, 7, 1}, Message: "spam it is"}
		}
		return nil
	}
	w := newWorld(t, Smarthost{Addr: s.addr, TLS: TLSNone})
	for _, text := range []string{"later", "never", "good"} {
		w.put(text+"@elsewhere.example", text+"\r\n", 0)
	}
	w.pass()
	w.wantWaiting(1)
	if len(s.got) != 1 || s.got[0].to != "good@elsewhere.example" || s.sessions != 1 {
		t.Errorf("got %+v in %d sessions", s.got, s.sessions)
	}
	if env := w.first(); env.Recipients[0].Reply != "451 4.7.1 come again" || env.Attempts != 1 || env.InDoubt {
		t.Errorf("deferred: %+v", env)
	}
	var refused []mail.Recipient
	if err := w.store.Walk(mail.OutboundDomain, queue.Settled, 0, func(_ queue.Key, env *mail.Envelope) bool {
		refused = append(refused, env.Recipients...)
		return true
	}); err != nil || len(refused) != 1 || refused[0].Reply != "554 5.7.1 spam it is" {
		t.Errorf("refused: %+v %v", refused, err)
	}
	s.dataErr = nil
	w.pass() // too early
	w.wantWaiting(1)
	w.now = w.now.Add(backoffLeast)
	w.pass()
	w.wantWaiting(0)
	if w.seen["deferred"] != 1 || w.seen["refused"] != 1 || w.seen["sent"] != 2 {
		t.Errorf("seen %v", w.seen)
	}
}

// A smarthost that goes away is no reply: the message behind whose final dot nothing came is in doubt, and goes again.
func TestLineLost(t *testing.T) {
	s := newSink(t, TLSNone)
	s.drop = true
	w := newWorld(t, Smarthost{Addr: s.addr, TLS: TLSNone})
	w.put("ann@elsewhere.example", "1\r\n", 0)
	w.put("bob@elsewhere.example", "2\r\n", 0)
	w.pass()
	w.wantWaiting(2)
	if env := w.first(); !env.InDoubt || env.Attempts != 1 {
		t.Errorf("%+v", env)
	}
	s.mu.Lock()
	s.drop, s.mailErr = false, &smtp.SMTPError{Code: 421, Message: "going down"}
	s.mu.Unlock()
	w.now = w.now.Add(backoffMost)
	w.pass()
	w.wantWaiting(2)
	s.mu.Lock()
	s.mailErr = nil
	s.mu.Unlock()
	w.now = w.now.Add(backoffMost)
	w.pass()
	w.wantWaiting(0)
	if len(s.got) != 4 { // each of them twice
		t.Errorf("got %+v", s.got)
	}
}

// Only reports go out: what has a sender stays.
func TestOnlyReports(t *testing.T) {
	s := newSink(t, TLSNone)
	w := newWorld(t, Smarthost{Addr: s.addr, TLS: TLSNone})
	in, err := w.store.Begin(0)
	if err != nil {
		t.Fatal(err)
	}
	env := mail.Envelope{Domain: mail.OutboundDomain, ReversePath: "ann@elsewhere.example", Recipients: []mail.Recipient{{Address: "bob@elsewhere.example"}}}
	if err := in.Commit(nil, []mail.Envelope{env}); err != nil {
		t.Fatal(err)
	}
	w.pass()
	w.wantWaiting(1)
	if len(s.got) != 0 {
		t.Errorf("got %+v", s.got)
	}
}

// Run sends what it is woken for, and ends.
func TestRun(t *testing.T) {
	s := newSink(t, TLSNone)
	w := newWorld(t, Smarthost{Addr: s.addr, TLS: TLSNone})
	ctx, cancel := context.WithCancel(t.Context())
	var running sync.WaitGroup
	running.Go(func() { w.sender.Run(ctx) })
	w.put("ann@elsewhere.example", "1\r\n", 0)
	w.sender.Wake()
	for deadline := time.Now().Add(5 * time.Minute); w.store.Counts(mail.OutboundDomain).Messages > 0 && time.Now().Before(deadline); {
		time.Sleep(time.Millisecond)
	}
	cancel()
	running.Wait()
	w.wantWaiting(0)
}
