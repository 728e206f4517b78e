package e2e

import (
	"context"
	"database/sql"
	"encoding/base64"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/xdg-go/scram"
	_ "modernc.org/sqlite"

	"odmr/internal/client"
)

// directoryFlags make what is remembered last for the test, and what is not found last for moments.
var directoryFlags = []string{"--accounts-cache", "1h", "--accounts-cache-negative", "500ms", "--accounts-stale", "1h", "--accounts-timeout", "5s"}

// startElsewhere starts odmrd with its accounts in p, with TLS.
func startElsewhere(t *testing.T, p *place) (*Server, string) {
	t.Helper()
	cert, key := certificate(t, t.TempDir(), "localhost", hostname)
	s := newServer(t, nil, append(append(directoryFlags, p.flags...), "--accounts-password-file", p.path("password"), "--tls-cert", cert, "--tls-key", key)...)
	s.Accounts = p.url
	s.Start()
	t.Cleanup(func() {
		text, err := os.ReadFile(s.log)
		for _, secret := range []string{elsewherePassword, password, "in clear", "cram-md5 ", "scram-sha-256 "} {
			if err == nil && strings.Contains(string(text), secret) {
				t.Errorf("the log has %q", secret)
			}
		}
	})
	return s, cert
}

// dialODMR connects and says EHLO.
func dialODMR(t *testing.T, s *Server) *client.Customer {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	t.Cleanup(cancel)
	c, err := client.Dial(ctx, s.ODMR, client.Options{})
	if err == nil {
		err = c.Hello()
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

// code is that of a refusal, 0 if there is none.
func code(t *testing.T, err error) int {
	t.Helper()
	var refused *client.Error
	switch {
	case err == nil:
		return 0
	case errors.As(err, &refused):
		return refused.Reply.Code
	}
	t.Fatal(err)
	return -1
}

// loginCRAM tries CRAM-MD5 in a session of its own and returns the code of the refusal, 0 if there is none.
func loginCRAM(t *testing.T, s *Server, name, password string) int {
	t.Helper()
	c := dialODMR(t, s)
	defer c.Close()
	return code(t, c.Login(name, password))
}

// rcpt asks for a recipient of domain and returns the reply's code.
func rcpt(t *testing.T, s *Server, domain string) int {
	t.Helper()
	return rcptTo(t, s, "b@"+domain)
}

func rcptTo(t *testing.T, s *Server, address string) int {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	m, err := client.DialSender(ctx, s.SMTP, client.SenderOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	if r, err := m.Command("MAIL FROM:<a@mx.example>"); err != nil || r.Code != 250 {
		t.Fatal(r, err)
	}
	r, err := m.Command("RCPT TO:<" + address + ">")
	if err != nil {
		t.Fatal(err)
	}
	return r.Code
}

func want(t *testing.T, what string, got, code int) {
	t.Helper()
	if got != code {
		t.Errorf("%s: %d, want %d", what, got, code)
	}
}

func b64(text string) string { return base64.StdEncoding.EncodeToString([]byte(text)) }

// overTLS logs in with passwords in clear.
type overTLS struct {
	t  *testing.T
	s  *Server
	ca string
}

// login uses PLAIN or LOGIN, and returns the last reply's code.
func (o overTLS) login(mechanism, name, password string) int {
	t, s, ca := o.t, o.s, o.ca
	t.Helper()
	c := dialODMR(t, s)
	defer c.Close()
	if err := c.StartTLS(trust(t, ca)); err != nil {
		t.Fatal(err)
	}
	if err := c.Hello(); err != nil {
		t.Fatal(err)
	}
	lines := []string{"AUTH PLAIN " + b64("\x00"+name+"\x00"+password)}
	if mechanism == "LOGIN" {
		lines = []string{"AUTH LOGIN", b64(name), b64(password)}
	}
	return last(t, c, lines)
}

func last(t *testing.T, c *client.Customer, lines []string) (code int) {
	t.Helper()
	for _, l := range lines {
		r, err := c.Command(l)
		if err != nil {
			t.Fatal(err)
		}
		code = r.Code
	}
	return code
}

// loginBySCRAM logs in with SCRAM-SHA-256 by way of a library that others use, and returns the last reply's code.
func loginBySCRAM(t *testing.T, s *Server, name, password string) int {
	t.Helper()
	who, err := scram.SHA256.NewClient(name, password, "")
	if err != nil {
		t.Fatal(err)
	}
	conv := who.NewConversation()
	c := dialODMR(t, s)
	defer c.Close()
	line, challenge := "AUTH SCRAM-SHA-256 ", ""
	for {
		response, err := conv.Step(challenge)
		if err != nil {
			t.Fatal(err)
		}
		r, err := c.Command(line + b64(response))
		if err != nil {
			t.Fatal(err)
		}
		if r.Code != 334 {
			return r.Code
		}
		raw, err := base64.StdEncoding.DecodeString(r.Lines[0])
		if err != nil {
			t.Fatal(err)
		}
		line, challenge = "", string(raw)
	}
}

// secretsOf asks odmrctl for the stored forms of a password.
func secretsOf(t *testing.T, password string) []string {
	t.Helper()
	out, err := runProgram(password+"\n", "odmrctl", "account", "secrets", "--password-stdin")
	if err != nil {
		t.Fatal(err, out)
	}
	return strings.Split(strings.TrimSpace(out), "\n")
}

func TestInteropPostgreSQL(t *testing.T) {
	p := startPostgres(t)
	testDirectory(t, p)
	testOwnTables(t, p)
}

func TestInteropMariaDB(t *testing.T) { testDirectory(t, startMariaDB(t)) }

func TestInteropSlapd(t *testing.T) {
	addr := freePort(t)
	cert, key := certificate(t, t.TempDir(), "localhost")
	p := startSlapd(t, "ldap://"+addr, cert, key)
	testDirectory(t, p)
	p.url = "ldap://" + addr + "/ou=customers,dc=isp,dc=example"
	p.flags = append(p.flags, "--accounts-starttls", "--accounts-ca", cert)
	s, _ := startElsewhere(t, p)
	want(t, "StartTLS", loginCRAM(t, s, "tim", password), 0)
	s.Stop()
	other, _ := certificate(t, t.TempDir(), "localhost")
	p.flags[len(p.flags)-1] = other
	s, _ = startElsewhere(t, p)
	want(t, "StartTLS with a certificate that does not verify", loginCRAM(t, s, "tim", password), 454)
}

func TestInteropSlapdTLS(t *testing.T) {
	addr := freePort(t)
	cert, key := certificate(t, t.TempDir(), "localhost")
	p := startSlapd(t, "ldaps://"+addr, cert, key)
	p.add("tim", secretsOf(t, password), "example.org")
	p.url = "ldaps://" + addr + "/ou=customers,dc=isp,dc=example??one"
	p.flags = append(p.flags, "--accounts-ca", cert)
	s, _ := startElsewhere(t, p)
	want(t, "ldaps", loginCRAM(t, s, "tim", password), 0)
	want(t, "ldaps", rcpt(t, s, "example.org"), 250)
	want(t, "ldaps", rcpt(t, s, "example.net"), 550)
}

// startSQLite makes a file with no accounts.
func startSQLite(t *testing.T) *place {
	t.Helper()
	e := &elsewhere{t: t, dir: t.TempDir()}
	db, err := sql.Open("sqlite", e.path("accounts.db"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { db.Close() })
	run := func(text string) {
		t.Helper()
		if _, err := db.Exec(text); err != nil {
			t.Fatal(err)
		}
	}
	schema, err := runProgram("", "odmrctl", "account", "schema", "sqlite")
	if err != nil {
		t.Fatal(err, schema)
	}
	run(schema)
	p := inSQL(e, run)
	p.url = "sqlite:" + e.path("accounts.db")
	return p
}

// A file of SQLite needs no server: where it is not, its accounts are out of reach, and nobody is told that they do not exist.
func TestSQLite(t *testing.T) {
	p := startSQLite(t)
	p.add("tim", secretsOf(t, password), "example.org")
	s := newServer(t, nil, directoryFlags...)
	s.Accounts = p.url
	s.Start()
	checkReady(t, s, 200, "")
	want(t, "a domain", rcpt(t, s, "example.org"), 250)
	want(t, "a domain of nobody", rcpt(t, s, "eve.example"), 550)
	p.clear("eve", "in clear", "eve.example")
	until(t, "the new domain", func() bool { return rcpt(t, s, "eve.example") == 250 })
	secret := filepath.Join(t.TempDir(), "secret")
	if err := os.WriteFile(secret, []byte(password+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	handIn(t, s.SMTP, client.SenderOptions{}, message("one", 0, 2000, "a@example.org"))
	if out, err := runProgram("", "odmrget", "--server", s.ODMR, "--user", "tim", "--password-file", secret, "--maildir", filepath.Join(t.TempDir(), "m")); err != nil {
		t.Errorf("odmrget: %v\n%s", err, out)
	}
	s.Stop()
	moved := p.path("elsewhere.db")
	if err := os.Rename(p.path("accounts.db"), moved); err != nil {
		t.Fatal(err)
	}
	s.Start()
	checkReady(t, s, 503, `"directory":"accounts cannot be looked up`)
	want(t, "login without the file", loginCRAM(t, s, "tim", password), 454)
	want(t, "RCPT without the file", rcpt(t, s, "eve.example"), 451)
	if err := os.Rename(moved, p.path("accounts.db")); err != nil {
		t.Fatal(err)
	}
	until(t, "the file to be found", func() bool { return loginCRAM(t, s, "tim", password) == 0 })
}

// testDirectory is what accounts in p must do. It leaves p running with the accounts tim and eve.
func testDirectory(t *testing.T, p *place) {
	p.add("tim", secretsOf(t, password), "example.org", "xn--bcher-kva.example")
	p.clear("eve", "in clear", "eve.example")
	p.clear("zoe", "in clear", "zoe.example")
	p.list("zoe", "Info@zoe.example", "zoe@zoe.example")
	p.flags = append(p.flags, p.listed...)
	s, ca := startElsewhere(t, p)
	checkReady(t, s, 200, "")
	t.Run("logins", func(t *testing.T) { testLogins(t, s, ca) })
	t.Run("collecting", func(t *testing.T) { testCollecting(t, s) })
	t.Run("news", func(t *testing.T) {
		want(t, "a domain of nobody", rcpt(t, s, "new.example"), 550)
		p.clear("new", "in clear", "new.example")
		until(t, "the new domain", func() bool { return rcpt(t, s, "new.example") == 250 })
	})
	t.Run("recipients", func(t *testing.T) {
		for address, code := range map[string]int{"info@zoe.example": 250, "ZOE+tag@zoe.example": 250, "postmaster@zoe.example": 250, "b@zoe.example": 550,
			"'@zoe.example": 550, "*@zoe.example": 550, "b@eve.example": 250} {
			want(t, address, rcptTo(t, s, address), code)
		}
		p.list("zoe", "new@zoe.example")
		until(t, "the new recipient", func() bool { return rcptTo(t, s, "new@zoe.example") == 250 })
	})
	t.Run("hangs", func(t *testing.T) { testHanging(t, s, p, ca) })
	t.Run("down", func(t *testing.T) { testDown(t, s, p) })
	t.Run("down at start", func(t *testing.T) {
		p.Stop()
		s.Stop()
		s.Start()
		checkReady(t, s, 503, `"directory":"accounts cannot be looked up`)
		want(t, "login", loginCRAM(t, s, "tim", password), 454)
		want(t, "RCPT", rcpt(t, s, "example.org"), 451)
		p.Start()
		until(t, "odmrd to find it", func() bool { return loginCRAM(t, s, "tim", password) == 0 })
		checkReady(t, s, 200, "")
	})
	s.Stop()
}

func checkReady(t *testing.T, s *Server, status int, reason string) {
	t.Helper()
	got, body := s.get("/readyz")
	if got != status || !strings.Contains(body, reason) {
		t.Errorf("/readyz: %d %s", got, body)
	}
	if up := s.metric("odmr_directory_up"); (up == 1) != (status == 200) {
		t.Errorf("odmr_directory_up is %v", up)
	}
}

func testLogins(t *testing.T, s *Server, ca string) {
	for name, pw := range map[string]string{"tim": password, "example.org": password, "EXAMPLE.org": password, "bücher.example": password, "eve": "in clear", "eve.example": "in clear"} {
		want(t, name+" CRAM-MD5", loginCRAM(t, s, name, pw), 0)
		want(t, name+" SCRAM-SHA-256", loginBySCRAM(t, s, name, pw), 235)
		want(t, name+" PLAIN", overTLS{t, s, ca}.login("PLAIN", name, pw), 235)
		want(t, name+" LOGIN", overTLS{t, s, ca}.login("LOGIN", name, pw), 235)
	}
	for _, name := range []string{"tim", "eve", "nobody", "nobody.example"} {
		want(t, name+" CRAM-MD5", loginCRAM(t, s, name, "wrong one"), 535)
		want(t, name+" SCRAM-SHA-256", loginBySCRAM(t, s, name, "wrong one"), 535)
		want(t, name+" PLAIN", overTLS{t, s, ca}.login("PLAIN", name, "wrong one"), 535)
	}
	// Names that are something else to a database or in a filter, or are the same as another to it.
	for _, name := range []string{"' OR '1'='1", "tim' -- ", "tim'; DROP TABLE odmr_domains; --", `\' OR 1=1 -- `, "*", "tim)(uid=*", "*)(objectClass=*", `\74im`, "TIM", "tim ", "ｔｉｍ",
		"tim\x00", "tim\xff", "t\u0131m", "\U0001F600", strings.Repeat("x", 3000), "?", "$1", ":name", "%"} {
		want(t, fmt.Sprintf("%.20q CRAM-MD5", name), loginCRAM(t, s, name, password), 535)
		if name != "tim\x00" {
			want(t, fmt.Sprintf("%.20q PLAIN", name), overTLS{t, s, ca}.login("PLAIN", name, password), 535)
		}
	}
	if n := s.metric("odmr_directory_query_failures_total"); n != 0 {
		t.Errorf("%v lookups failed", n)
	}
}

func testCollecting(t *testing.T, s *Server) {
	for domain, code := range map[string]int{"example.org": 250, "Example.ORG": 250, "xn--bcher-kva.example": 250, "eve.example": 250, "example.net": 550} {
		want(t, "RCPT "+domain, rcpt(t, s, domain), code)
	}
	handIn(t, s.SMTP, client.SenderOptions{}, message("tim1", 0, 2000, "a@example.org"), message("tim2", 0, 2000, "a@xn--bcher-kva.example"), message("eve1", 0, 2000, "a@eve.example"))
	c := dialODMR(t, s)
	if err := c.Login("tim", password); err != nil {
		t.Fatal(err)
	}
	for _, domains := range [][]string{{"eve.example"}, {"example.org", "eve.example"}, {"example.net"}, {"gw.example.org"}} {
		want(t, fmt.Sprint("ATRN ", domains), code(t, c.ATRN(domains...)), 450)
	}
	collected(t, s, client.Account{User: "tim", Password: password, Domains: []string{"EXAMPLE.org"}}, "tim1")
	collected(t, s, client.Account{User: "example.org", Password: password}, "tim2")
	collected(t, s, client.Account{User: "eve", Password: "in clear"}, "eve1")
	want(t, "ATRN, nothing left", code(t, c.ATRN("example.org")), 453)
}

// collected collects as a, and wants one message.
func collected(t *testing.T, s *Server, a client.Account, id string) {
	t.Helper()
	r := client.Recorder{Keep: 1 << 20}
	collect(t, s, a, &r)
	if got := r.Messages(); len(got) != 1 || idOf(t, got[0].Content) != id {
		t.Errorf("%s collected %d messages, want %s", a.User, len(got), id)
	}
}

// testHanging lets p stand still while a hundred strangers and customers that are not remembered log in: who is remembered is
// served meanwhile.
func testHanging(t *testing.T, s *Server, p *place, ca string) {
	forget(t, s)
	want(t, "tim", loginCRAM(t, s, "tim", password), 0)
	want(t, "his mail", rcpt(t, s, "example.org"), 250)
	resume := p.Hang()
	defer resume()
	var all sync.WaitGroup
	codes := make([]int, 100)
	for i := range codes {
		c := dialODMR(t, s)
		if err := c.StartTLS(trust(t, ca)); err != nil {
			t.Fatal(err)
		}
		all.Go(func() {
			lines := []string{"EHLO x", "AUTH PLAIN " + b64(fmt.Sprintf("\x00nobody%d\x00secret", i))}
			for _, l := range lines {
				r, err := c.Command(l)
				if err != nil {
					return
				}
				codes[i] = r.Code
			}
		})
	}
	for range 3 {
		want(t, "tim, while it hangs", loginCRAM(t, s, "tim", password), 0)
		want(t, "tim by PLAIN, while it hangs", overTLS{t, s, ca}.login("PLAIN", "tim", password), 235)
		want(t, "his mail, while it hangs", rcpt(t, s, "example.org"), 250)
	}
	all.Wait()
	for i, code := range codes {
		want(t, fmt.Sprint("stranger ", i), code, 454)
	}
	want(t, "eve, who is not remembered", loginCRAM(t, s, "eve", "in clear"), 454)
	want(t, "her mail", rcpt(t, s, "eve.example"), 451)
	checkReady(t, s, 503, `"directory":"accounts cannot be looked up`)
	resume()
	until(t, "odmrd to go on", func() bool { return loginCRAM(t, s, "eve", "in clear") == 0 })
	checkReady(t, s, 200, "")
}

// forget makes odmrd ask anew for everything.
func forget(t *testing.T, s *Server) {
	t.Helper()
	before := strings.Count(s.Log(), "remembered are forgotten")
	s.Signal(syscall.SIGHUP)
	until(t, "odmrd to forget", func() bool { return strings.Count(s.Log(), "remembered are forgotten") > before })
}

// testDown ends p in the middle of things and brings it back.
func testDown(t *testing.T, s *Server, p *place) {
	forget(t, s)
	want(t, "tim", loginCRAM(t, s, "tim", password), 0)
	want(t, "tim by his domain", loginCRAM(t, s, "example.org", password), 0)
	want(t, "his mail", rcpt(t, s, "example.org"), 250)
	want(t, "a recipient that is not listed", rcptTo(t, s, "b@zoe.example"), 550)
	zoe := dialODMR(t, s)
	if err := zoe.Login("zoe", "in clear"); err != nil {
		t.Fatal(err)
	}
	p.Stop()
	want(t, "eve, who is not remembered", loginCRAM(t, s, "eve", "in clear"), 454)
	want(t, "a stranger", loginCRAM(t, s, "nobody", "secret"), 454)
	want(t, "her mail", rcpt(t, s, "eve.example"), 451)
	want(t, "mail for nobody", rcpt(t, s, "example.net"), 451)
	checkReady(t, s, 503, `"directory":"accounts cannot be looked up`)
	want(t, "tim, who is remembered", loginCRAM(t, s, "tim", password), 0)
	time.Sleep(time.Second) // what was not found is forgotten by now
	want(t, "tim by his domain", loginCRAM(t, s, "example.org", password), 0)
	want(t, "tim, with a wrong password", loginCRAM(t, s, "tim", "wrong one"), 535)
	want(t, "his mail", rcpt(t, s, "example.org"), 250)
	until(t, "mail to be taken for all while the list cannot be looked up", func() bool { return rcptTo(t, s, "b@zoe.example") == 250 })
	want(t, "zoe, who has logged in", code(t, zoe.ATRN()), 453)
	forget(t, s)
	want(t, "zoe, who is forgotten", code(t, zoe.ATRN()), 451)
	want(t, "tim, who is forgotten", loginCRAM(t, s, "tim", password), 454)
	p.Start()
	until(t, "odmrd to find it", func() bool { return loginCRAM(t, s, "eve", "in clear") == 0 })
	want(t, "zoe", code(t, zoe.ATRN()), 453)
	want(t, "mail for nobody", rcpt(t, s, "example.net"), 550)
	checkReady(t, s, 200, "")
}

// testOwnTables asks tables of an ISP's own with the queries of README.md, and for identities.
func testOwnTables(t *testing.T, p *place) {
	p.run(`CREATE TABLE customers (id integer PRIMARY KEY, login varchar(80), clear varchar(80), active boolean);
		CREATE TABLE zones (owner integer, zone varchar(253));
		INSERT INTO customers VALUES (7, 'ann', 'in clear', true), (8, 'bob', 'in clear', false);
		INSERT INTO zones VALUES (7, 'ann.example'), (7, 'two.example'), (8, 'two.example');
		INSERT INTO odmr_accounts (name) VALUES ('ann'); INSERT INTO odmr_identities VALUES ('network 127.0.0.0/8', 'ann')`)
	p.flags = []string{"--config", filepath.Join(t.TempDir(), "odmrd.yaml"), "--accounts-query-identities", "SELECT identity, account FROM odmr_identities WHERE identity IN (:identities)"}
	queries := readmeBlock(t, "accounts-query-account:")
	if err := os.WriteFile(p.flags[1], []byte(queries), 0o600); err != nil {
		t.Fatal(err)
	}
	s, _ := startElsewhere(t, p)
	want(t, "ann, of whose domains one is bob's, too", loginCRAM(t, s, "ann", "in clear"), 454)
	s.logged(`two.example is that of account`)
	want(t, "that domain", rcpt(t, s, "two.example"), 451)
	p.run("DELETE FROM zones WHERE owner = 8")
	until(t, "ann", func() bool { return loginCRAM(t, s, "ann", "in clear") == 0 })
	want(t, "bob, who is not active", loginCRAM(t, s, "bob", "in clear"), 535)
	want(t, "her mail", rcpt(t, s, "two.example"), 250)
	c := dialODMR(t, s)
	if offered, _ := c.Extension("AUTH"); !strings.Contains(offered, "EXTERNAL") {
		t.Errorf("AUTH %s", offered)
	}
	want(t, "EXTERNAL", last(t, c, []string{"AUTH EXTERNAL ="}), 235)
	want(t, "ATRN", code(t, c.ATRN("ann.example", "two.example")), 453)
}
