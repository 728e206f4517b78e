package e2e

import (
	"crypto/tls"
	"net"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"odmr/internal/certtest"
)

// overTCP is a database that listens on a port of loopback, and is started again with another certificate, or with none.
type overTCP struct {
	*place
	port string
	// configure prepares the next start; clear: connections without TLS are taken, and there are no others.
	configure func(clear bool)
	// connect returns flags and URL for a server called localhost with a certificate of the CA in file.
	connect func(file string) (url string, flags []string)
	inClear string // the URL without TLS
}

// serve starts the database again. cert nil: without TLS.
func (o *overTCP) serve(cert *tls.Certificate) {
	o.t.Helper()
	if cert != nil {
		c, k := certtest.Write(o.t, cert, o.t.TempDir(), "db")
		o.copy("cert.pem", c)
		o.copy("key.pem", k)
	}
	o.configure(cert == nil)
	o.Stop()
	o.Start()
}

// loginFrom starts odmrd with the accounts there and logs in.
func (o *overTCP) loginFrom(url string, flags []string) (code int, s *Server) {
	o.t.Helper()
	p := *o.place
	p.url, p.flags = url, flags
	s, _ = startElsewhere(o.t, &p)
	return loginCRAM(o.t, s, "tim", password), s
}

// testTLS wants the login to work if the database proves its name, and to be put off otherwise: never does anything go over in clear.
func (o *overTCP) testTLS() {
	t := o.t
	ca, stranger := certtest.NewAuthority(t), certtest.NewAuthority(t)
	file, _ := certtest.Write(t, ca.Certificate, t.TempDir(), "ca")
	other, _ := certtest.Write(t, stranger.Certificate, t.TempDir(), "other")
	o.add("tim", secretsOf(t, password), "example.org")
	good := ca.Server(t, "localhost") // and not for 127.0.0.1
	putOff := func(what, ca string) {
		t.Helper()
		code, s := o.loginFrom(o.connect(ca))
		want(t, what+": login", code, 454)
		want(t, what+": RCPT", rcpt(t, s, "example.org"), 451)
		checkReady(t, s, 503, `"directory":"accounts cannot be looked up`)
		s.Stop()
	}
	o.serve(good)
	code, s := o.loginFrom(o.connect(file))
	want(t, "login", code, 0)
	want(t, "RCPT", rcpt(t, s, "example.org"), 250)
	// The same odmrd when somebody else answers in the database's place, and when it is back.
	o.serve(stranger.Server(t, "localhost"))
	forget(t, s)
	want(t, "login at an impostor", loginCRAM(t, s, "tim", password), 454)
	o.serve(good)
	until(t, "the database to be found again", func() bool { return loginCRAM(t, s, "tim", password) == 0 })
	s.Stop()
	putOff("another CA", other)
	o.serve(ca.Server(t, "db.isp.example"))
	putOff("another name", file)
	o.serve(nil)
	putOff("without TLS", file)
	code, _ = o.loginFrom(o.inClear, nil)
	want(t, "in clear on this machine, as a check of this test", code, 0)
}

func TestInteropPostgreSQLTLS(t *testing.T) {
	p := startPostgres(t)
	host, port, _ := net.SplitHostPort(freePort(t))
	argv := slices.Clone(p.argv)
	at := func(params string) string { return "postgres://odmr@localhost:" + port + "/odmr?" + params }
	o := &overTCP{place: p, port: port, inClear: at("sslmode=disable")}
	o.configure = func(clear bool) {
		kind, on := "hostssl", "on"
		if clear {
			kind, on = "host", "off"
		}
		p.write("data/pg_hba.conf", "local all all scram-sha-256\n"+kind+" all all 127.0.0.1/32 scram-sha-256\n")
		p.argv = append(slices.Clone(argv), "-c", "listen_addresses="+host, "-c", "port="+port, "-c", "ssl="+on,
			"-c", "ssl_cert_file="+p.path("cert.pem"), "-c", "ssl_key_file="+p.path("key.pem"))
		p.environ = []string{"PGPORT=" + port} // of its socket, too
	}
	o.connect = func(file string) (string, []string) {
		return at("sslmode=verify-full&sslrootcert=" + url.QueryEscape(file)), nil
	}
	o.testTLS()
}

func TestInteropMariaDBTLS(t *testing.T) {
	p := startMariaDB(t)
	host, port, _ := net.SplitHostPort(freePort(t))
	p.run("CREATE USER odmr@'" + host + "' IDENTIFIED BY '" + elsewherePassword + "'; GRANT SELECT ON odmr.* TO odmr@'" + host + "';")
	argv := slices.DeleteFunc(slices.Clone(p.argv), func(a string) bool { return a == "--skip-networking" })
	at := func(params string) string { return "mysql://odmr@localhost:" + port + "/odmr" + params }
	o := &overTCP{place: p, port: port, inClear: at("")}
	o.configure = func(clear bool) {
		p.argv = append(slices.Clone(argv), "--skip-name-resolve", "--bind-address="+host, "--port="+port)
		require := "SSL"
		if clear {
			require = "NONE"
		} else {
			p.argv = append(p.argv, "--ssl-cert="+p.path("cert.pem"), "--ssl-key="+p.path("key.pem"))
		}
		p.run("ALTER USER odmr@'" + host + "' REQUIRE " + require + "; FLUSH PRIVILEGES;")
	}
	o.connect = func(file string) (string, []string) { return at(""), []string{"--accounts-ca", file} }
	o.testTLS()
	// With the CAs of the system, which these here are for the moment.
	o.connect = func(file string) (string, []string) {
		t.Setenv("SSL_CERT_FILE", file)
		t.Setenv("SSL_CERT_DIR", t.TempDir())
		return at("?tls=true"), nil
	}
	o.add = func(string, []string, ...string) {}
	o.testTLS()
}

// TestSecretsToOtherMachines: odmrd does not start if customers' keys would come from another machine over a line that anybody may
// read, or from whoever answers there, unless it is told to.
func TestSecretsToOtherMachines(t *testing.T) {
	secret := filepath.Join(t.TempDir(), "password")
	if err := os.WriteFile(secret, []byte("k3ep-0ut\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	run := func(args ...string) (out string, ended bool) {
		t.Helper()
		log := filepath.Join(t.TempDir(), "log")
		file, err := os.Create(log)
		if err != nil {
			t.Fatal(err)
		}
		defer file.Close()
		all := []string{"--data", filepath.Join(t.TempDir(), "d"), "--accounts-timeout", "1s", "--odmr-listen", "127.0.0.1:0", "--smtp-listen", "", "--lmtp-listen", "", "--admin-listen", ""}
		cmd := exec.Command(filepath.Join(bin, "odmrd"), append(all, args...)...)
		cmd.Stderr = file
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		done := make(chan struct{})
		go func() { _ = cmd.Wait(); close(done) }()
		text := ""
		until(t, "odmrd to start or to end", func() bool {
			select {
			case <-done:
				ended = true
			default:
			}
			b, err := os.ReadFile(log)
			text = string(b)
			return ended || err == nil && strings.Contains(text, `"message":"listening"`)
		})
		_ = cmd.Process.Kill()
		<-done
		return text, ended
	}
	// The names are nobody's (RFC 6761).
	for _, c := range []struct {
		args []string
		use  string // "": it starts
	}{
		{[]string{"--accounts", "postgres://odmr@db.invalid/odmr"}, "sslmode=verify-full"},
		{[]string{"--accounts", "postgres://odmr@db.invalid/odmr?sslmode=disable"}, "sslmode=verify-full"},
		{[]string{"--accounts", "postgres://odmr@db.invalid/odmr?sslmode=require"}, "sslmode=verify-full"},
		{[]string{"--accounts", "postgres://odmr@localhost,db.invalid/odmr?sslmode=disable"}, "sslmode=verify-full"},
		{[]string{"--accounts", "postgres://odmr@db.invalid/odmr?sslmode=verify-full"}, ""},
		{[]string{"--accounts", "postgres://odmr@db.invalid/odmr?sslmode=disable", "--accounts-unverified"}, ""},
		{[]string{"--accounts", "mysql://odmr@db.invalid/odmr"}, "tls=true"},
		{[]string{"--accounts", "mysql://odmr@db.invalid/odmr?tls=skip-verify"}, "tls=true"},
		{[]string{"--accounts", "mysql://odmr@db.invalid/odmr?tls=preferred"}, "tls=true"},
		{[]string{"--accounts", "mysql://odmr@db.invalid/odmr?tls=true"}, ""},
		{[]string{"--accounts", "mysql://odmr@db.invalid/odmr", "--accounts-unverified"}, ""},
		{[]string{"--accounts", "mysql://odmr@127.0.0.1:1/odmr"}, ""},
		{[]string{"--accounts", "ldap://ldap.invalid/dc=isp"}, "StartTLS or ldaps://"},
		{[]string{"--accounts", "ldap://ldap.invalid/dc=isp", "--accounts-bind", "cn=odmr"}, "StartTLS or ldaps://"},
		{[]string{"--accounts", "ldap://ldap.invalid/dc=isp", "--accounts-bind", "cn=odmr", "--accounts-unverified"}, ""},
		{[]string{"--accounts", "ldap://ldap.invalid/dc=isp", "--accounts-bind", "cn=odmr", "--accounts-starttls"}, ""},
		{[]string{"--accounts", "ldaps://ldap.invalid/dc=isp", "--accounts-bind", "cn=odmr"}, ""},
		{[]string{"--accounts", "ldap://[::1]:1/dc=isp", "--accounts-bind", "cn=odmr"}, ""},
	} {
		out, ended := run(append(c.args, "--accounts-password-file", secret)...)
		want := "would give secrets to whoever answers in the server's place: use " + c.use + ", or say --accounts-unverified"
		if ended != (c.use != "") || ended && !strings.Contains(out, want) {
			t.Errorf("%v: ended %v: %s", c.args, ended, out)
		}
		if strings.Contains(out, "k3ep-0ut") {
			t.Errorf("%v: the password is shown: %s", c.args, out)
		}
	}
}
