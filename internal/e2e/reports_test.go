package e2e

import (
	"bytes"
	"crypto/tls"
	"errors"
	"io"
	"mime"
	"mime/multipart"
	"net"
	netmail "net/mail"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/emersion/go-sasl"
	"github.com/emersion/go-smtp"

	"odmr/internal/client"
	"odmr/internal/mail"
)

// smarthost is a mail server that takes reports from who has logged in under TLS.
type smarthost struct {
	addr string

	mu   sync.Mutex
	got  []string // contents
	to   []string
	from []string
}

func (h *smarthost) NewSession(c *smtp.Conn) (smtp.Session, error) {
	return &smarthostSession{smarthost: h, conn: c}, nil
}

type smarthostSession struct {
	*smarthost
	conn         *smtp.Conn
	user         string
	sender, rcpt string
}

func (s *smarthostSession) AuthMechanisms() []string { return []string{sasl.Plain} }
func (s *smarthostSession) Auth(string) (sasl.Server, error) {
	return sasl.NewPlainServer(func(_, user, pass string) error {
		if user != "odmr" || pass != password {
			return smtp.ErrAuthFailed
		}
		s.user = user
		return nil
	}), nil
}
func (s *smarthostSession) Mail(from string, _ *smtp.MailOptions) error {
	if _, secure := s.conn.TLSConnectionState(); !secure || s.user == "" {
		return smtp.ErrAuthRequired
	}
	s.sender = from
	return nil
}
func (s *smarthostSession) Rcpt(to string, _ *smtp.RcptOptions) error { s.rcpt = to; return nil }
func (s *smarthostSession) Data(r io.Reader) error {
	b, err := io.ReadAll(r)
	if err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.got, s.to, s.from = append(s.got, string(b)), append(s.to, s.rcpt), append(s.from, s.sender)
	return nil
}
func (s *smarthostSession) Reset()        {}
func (s *smarthostSession) Logout() error { return nil }

func (h *smarthost) count() int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return len(h.got)
}

// startSmarthost starts one, and returns the flags with which odmrd uses it.
func startSmarthost(t *testing.T) (*smarthost, []string) {
	t.Helper()
	dir := t.TempDir()
	cert, key := certificate(t, dir, "localhost")
	pair, err := tls.LoadX509KeyPair(cert, key)
	if err != nil {
		t.Fatal(err)
	}
	h := new(smarthost)
	server := smtp.NewServer(h)
	server.Domain, server.EnableDSN, server.TLSConfig = "relay.isp.example", true, &tls.Config{Certificates: []tls.Certificate{pair}}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	h.addr = l.Addr().String()
	done := make(chan struct{})
	go func() { defer close(done); _ = server.Serve(l) }()
	t.Cleanup(func() { _ = server.Close(); <-done })
	secret := filepath.Join(dir, "password")
	if err := os.WriteFile(secret, []byte(password+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	return h, []string{"--smarthost", h.addr, "--smarthost-tls", "required", "--smarthost-ca", cert, "--smarthost-user", "odmr", "--smarthost-password-file", secret}
}

// choosy refuses recipients whose local part begins with "no", and content with "spam" in its id.
type choosy struct{ client.Recorder }

func (c *choosy) Recipient(_ *mail.Envelope, r mail.Recipient) error {
	if strings.HasPrefix(r.Address, "no") {
		return &mail.Refusal{Code: 550, Enhanced: "5.1.1", Text: "No such user here"}
	}
	return nil
}

// report is a report as a mail program would see it.
type report struct {
	header netmail.Header
	parts  []string
}

func readReport(t *testing.T, content string) (r report) {
	t.Helper()
	m, err := netmail.ReadMessage(strings.NewReader(content))
	if err != nil {
		t.Fatalf("%v\n%s", err, content)
	}
	r.header = m.Header
	kind, params, err := mime.ParseMediaType(m.Header.Get("Content-Type"))
	if err != nil || kind != "multipart/report" || params["report-type"] != "delivery-status" {
		t.Fatalf("%q %v\n%s", kind, err, content)
	}
	mr := multipart.NewReader(m.Body, params["boundary"])
	for {
		p, err := mr.NextPart()
		if errors.Is(err, io.EOF) {
			return r
		}
		if err != nil {
			t.Fatal(err)
		}
		b, err := io.ReadAll(p)
		if err != nil {
			t.Fatal(err)
		}
		r.parts = append(r.parts, string(b))
	}
}

func (r *report) wants(t *testing.T, texts ...string) {
	t.Helper()
	all := strings.Join(r.parts, "\n")
	for _, text := range texts {
		if not, ok := strings.CutPrefix(text, "!"); ok == strings.Contains(all, strings.TrimPrefix(text, "!")) {
			t.Errorf("%q: is there: %v %s\n%s", text, ok, not, all)
		}
	}
}

// letter makes a message with DSN parameters.
func letter(id, sender string, recipients ...mail.Recipient) client.Message {
	c := content(id, kindText, 2000)
	return client.Message{
		Envelope: mail.Envelope{ReversePath: sender, Size: int64(len(c)), Recipients: recipients}, Content: bytes.NewReader(c),
	}
}

// What a customer refuses goes back to its sender: through the smarthost, over TLS and with a login, or, where the sender's
// domain is held here, into its queue; over a crash too, and once.
func TestReports(t *testing.T) {
	tim, ann := customer("tim", "example.org"), customer("ann", "example.com")
	host, flags := startSmarthost(t)
	s := startServer(t, []client.Account{tim, ann}, flags...)
	full := letter("full", "bob@elsewhere.example", mail.Recipient{Address: "nobody@example.org", ORcpt: "rfc822;Nobody@example.org"}, mail.Recipient{Address: "tim@example.org"})
	full.Envelope.Ret, full.Envelope.EnvID = mail.ReturnFull, "env+2Bid"
	handIn(t, s.SMTP, client.SenderOptions{}, full,
		letter("silent", "bob@elsewhere.example", mail.Recipient{Address: "nobody@example.org", Notify: mail.NotifyNever}),
		letter("null", "", mail.Recipient{Address: "nobody@example.org"}),
		letter("inside", "ann@example.com", mail.Recipient{Address: "nobody@example.org"}))
	taken := &choosy{client.Recorder{Keep: 1 << 20}}
	collect(t, s, tim, taken)
	if n := len(taken.Messages()); n != 1 {
		t.Errorf("%d messages were taken, want 1", n)
	}
	until(t, "the report at the smarthost", func() bool { return host.count() == 1 })
	r := readReport(t, host.got[0])
	if host.from[0] != "" || host.to[0] != "bob@elsewhere.example" || r.header.Get("Auto-Submitted") != "auto-replied" || r.header.Get("To") != "<bob@elsewhere.example>" {
		t.Errorf("from <%s> to <%s>, %v", host.from[0], host.to[0], r.header)
	}
	r.wants(t, "Final-Recipient: rfc822; nobody@example.org", "Original-Recipient: rfc822; Nobody@example.org", "Status: 5.1.1", "Action: failed",
		"Diagnostic-Code: smtp; 550 5.1.1 No such user here", "Original-Envelope-Id: env+id", "Reporting-MTA: dns; "+hostname, "X-Test-Id: full", "!tim@example.org")
	if idOf(t, []byte(r.parts[2])) != "full" || !strings.HasSuffix(strings.TrimSpace(r.parts[2]), strings.TrimSpace(string(content("full", kindText, 2000)[1900:]))) {
		t.Errorf("RET=FULL brought back %.200q", r.parts[2])
	}

	s.logged(`"reason":"unasked"`)
	s.logged(`"reason":"no-sender"`)
	s.logged(`"report_in":"example.com"`)
	until(t, "the report's delivery to be durable", func() bool { return s.metric("odmr_outbound_messages") == 0 }) // else it may be sent again
	s.Kill()
	s.Start()
	inside := &client.Recorder{Keep: 1 << 20}
	collect(t, s, ann, inside)
	if m := inside.Messages(); len(m) != 1 || m[0].Envelope.ReversePath != "" {
		t.Fatalf("ann got %+v", m)
	}
	r = readReport(t, string(inside.Messages()[0].Content))
	r.wants(t, "Final-Recipient: rfc822; nobody@example.org", "X-Test-Id: inside")
	// Success is told by us where the customer's server does not, and left to it where it does (RFC 3461 5.2).
	success := mail.Recipient{Address: "tim@example.org", Notify: mail.NotifySuccess}
	for _, offer := range []client.Offer{client.FullOffer(), {Pipelining: true}} {
		handIn(t, s.SMTP, client.SenderOptions{}, letter("success", "bob@elsewhere.example", success))
		collectAs(t, s, tim, offer, &client.Recorder{})
	}
	until(t, "the report of success", func() bool { return host.count() == 2 })
	r = readReport(t, host.got[1])
	r.wants(t, "Final-Recipient: rfc822; tim@example.org", "Action: relayed", "Status: 2.1.9")
	if out, err := s.odmrctl("queue", "list"); err != nil || !strings.HasPrefix(out, "0 messages") {
		t.Errorf("left in the queue: %v\n%s", err, out)
	}
	s.Check()
	if host.count() != 2 {
		t.Errorf("%d reports left, want 2", host.count())
	}
}

// Reports wait while the smarthost is away, over a restart, and odmrctl shows them; without bounces what failed is kept.
func TestReportsWait(t *testing.T) {
	tim := customer("tim", "example.org")
	s := newServer(t, []client.Account{tim, customer("mum", "example.net")}, "--smarthost", freePort(t))
	if out, err := s.odmrctl("account", "set", "mum", "--bounce", "off"); err != nil {
		t.Fatal(err, out)
	}
	s.Start()
	handIn(t, s.SMTP, client.SenderOptions{}, letter("one", "bob@elsewhere.example", mail.Recipient{Address: "nobody@example.org"}),
		letter("two", "bob@elsewhere.example", mail.Recipient{Address: "nobody@example.net"}))
	collect(t, s, tim, &choosy{})
	collect(t, s, customer("mum"), &choosy{})
	s.logged(`"report_in":"\*outbound"`)
	s.Stop()
	s.Start()
	s.logged("reports cannot be sent now")
	out, err := s.odmrctl("queue", "outbound")
	if err != nil || !strings.Contains(out, "<bob@elsewhere.example>  waiting") || !strings.Contains(out, "1 message,") {
		t.Errorf("%v\n%s", err, out)
	}
	out, err = s.odmrctl("queue", "show", queueID.FindString(out))
	if err != nil || !strings.Contains(out, "from this server") || !strings.Contains(out, "NOTIFY=NEVER") {
		t.Errorf("%v\n%s", err, out)
	}
	out, err = s.odmrctl("queue", "list", "--domain", "example.net")
	if err != nil || !strings.Contains(out, "<nobody@example.net>  failed: 550 5.1.1 No such user here") {
		t.Errorf("%v\n%s", err, out)
	}
	// Nobody can have what waits there by asking for it.
	if _, err := client.Collect(t.Context(), s.ODMR, client.Account{User: "tim", Password: password, Domains: []string{mail.OutboundDomain}},
		client.Options{Name: "customer.example", Timeout: patience, Offer: client.FullOffer()}, &client.Recorder{}); err == nil {
		t.Error("a customer collected the reports of others")
	}
	s.Check()
}

// TestInteropReports: postfix takes mail with NOTIFY and hands it in, and postfix takes the reports and delivers them.
func TestInteropReports(t *testing.T) {
	vmail, err := os.MkdirTemp("", "odmr-vmail-") // t.TempDir is closed to postfix' processes
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(vmail) })
	if err := os.Chmod(vmail, 0o777); err != nil {
		t.Fatal(err)
	}
	tim := customer("tim", "example.org")
	lmtp := freePort(t)
	p := startPostfix(t, "mx.isp.example", "relay_domains = example.org\nrelay_recipient_maps =\nrelay_transport = lmtp:inet:"+lmtp+"\n"+
		"virtual_mailbox_domains = elsewhere.example\nvirtual_mailbox_base = "+vmail+"\nvirtual_mailbox_maps = static:inbox/\n"+
		"virtual_minimum_uid = 1000\nvirtual_uid_maps = static:65534\nvirtual_gid_maps = static:65534\n")
	s := startServer(t, []client.Account{tim}, "--lmtp-listen", lmtp, "--smarthost", p.Addr)
	handIn(t, p.Addr, client.SenderOptions{},
		letter("default", "bob@elsewhere.example", mail.Recipient{Address: "nobody@example.org"}),
		letter("never", "bob@elsewhere.example", mail.Recipient{Address: "nobody@example.org", Notify: mail.NotifyNever}),
		letter("failure", "bob@elsewhere.example", mail.Recipient{Address: "nobody@example.org", Notify: mail.NotifyFailure, ORcpt: "rfc822;old@example.net"}),
		letter("delay", "bob@elsewhere.example", mail.Recipient{Address: "nobody@example.org", Notify: mail.NotifyDelay}))
	p.waitEmpty()
	collect(t, s, tim, &choosy{})
	var files []string
	until(t, "two reports in the Maildir", func() bool {
		files, _ = filepath.Glob(filepath.Join(vmail, "inbox", "new", "*"))
		return len(files) == 2
	})
	p.waitEmpty()
	until(t, "nothing to be left", func() bool {
		out, err := s.odmrctl("queue", "list")
		return err == nil && strings.HasPrefix(out, "0 messages")
	})
	if files, _ = filepath.Glob(filepath.Join(vmail, "inbox", "new", "*")); len(files) != 2 {
		t.Fatalf("%d reports, want 2", len(files))
	}
	seen := ""
	for _, f := range files {
		b, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		r := readReport(t, strings.ReplaceAll(string(b), "\n", "\r\n"))
		r.wants(t, "Final-Recipient: rfc822; nobody@example.org", "Status: 5.1.1")
		if r.header.Get("Return-Path") != "<>" {
			t.Errorf("Return-Path %q", r.header.Get("Return-Path"))
		}
		id := idOf(t, []byte(r.parts[2]))
		seen += " " + id
		if want := "Original-Recipient: rfc822; old@example.net"; strings.Contains(r.parts[1], want) != (id == "failure") {
			t.Errorf("%s: %s", id, r.parts[1])
		}
	}
	if !strings.Contains(seen, "default") || !strings.Contains(seen, "failure") {
		t.Errorf("reports on%s", seen)
	}
}
