package e2e

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"odmr/internal/certtest"
	"odmr/internal/client"
)

// certificate writes a self-signed one for names, which is its own CA, and returns the files.
func certificate(t *testing.T, dir string, names ...string) (cert, key string) {
	t.Helper()
	return certtest.Write(t, certtest.SelfSigned(t, selfNamed(names...)), dir, "tls")
}

// selfNamed is for a server on this machine.
func selfNamed(names ...string) *x509.Certificate {
	return &x509.Certificate{Subject: pkix.Name{CommonName: names[0], Organization: []string{"test"}}, DNSNames: names, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}}
}

// startTLSServer starts a server with a certificate; it returns the address of its listener under TLS and the CA's file.
func startTLSServer(t *testing.T, accounts []client.Account, flags ...string) (s *Server, secure, ca string) {
	t.Helper()
	cert, key := certificate(t, t.TempDir(), "localhost", hostname)
	s = startServer(t, accounts, append([]string{"--tls-cert", cert, "--tls-key", key, "--odmrs-listen", "127.0.0.1:0"}, flags...)...)
	for _, line := range strings.Split(s.Log(), "\n") {
		var l struct{ ODMRS []string }
		if json.Unmarshal([]byte(line), &l) == nil && len(l.ODMRS) == 1 {
			return s, l.ODMRS[0], cert
		}
	}
	t.Fatal("no listener under TLS in the log")
	return nil, "", ""
}

func trust(t *testing.T, ca string) *tls.Config {
	t.Helper()
	text, err := os.ReadFile(ca)
	if err != nil {
		t.Fatal(err)
	}
	cfg := &tls.Config{RootCAs: x509.NewCertPool(), ServerName: hostname}
	cfg.RootCAs.AppendCertsFromPEM(text)
	return cfg
}

// TestInteropTLSFetchmail: fetchmail drains 200 messages over implicit TLS, some of 1 MB, to an MTA that
// takes them pipelined, in chunks, or one command at a time.
func TestInteropTLSFetchmail(t *testing.T) {
	needProgram(t, "fetchmail")
	a := customer("tim", "example.org")
	s, secure, ca := startTLSServer(t, []client.Account{a})
	_, port, _ := net.SplitHostPort(secure)
	for name, offer := range offers {
		t.Run("MTA "+name, func(t *testing.T) {
			const n = 200
			size := func(i int) int {
				if i%25 == 7 {
					return 1 << 20
				}
				return 300 + 97*i
			}
			var messages []client.Message
			for i := range n {
				messages = append(messages, message(fmt.Sprintf("m%d", i), i%kinds, size(i), "a@example.org"))
			}
			handIn(t, s.SMTP, client.SenderOptions{}, messages...)
			last := startSink(t, offer)
			mtaHost, mtaPort, _ := net.SplitHostPort(last.addr)
			status, out := fetchmailWith(t, fmt.Sprintf("poll localhost protocol ODMR port %s auth cram-md5\n  user %q password %q\n"+
				"  fetchdomains example.org\n  smtphost %s/%s\n  ssl sslcertck sslcertfile %q\n", port, a.User, a.Password, mtaHost, mtaPort, ca))
			if status != 0 {
				t.Errorf("status %d\n%s", status, tail(out, 2000))
			}
			got := last.Messages()
			if len(got) != n || len(last.breaches) > 0 {
				collect(t, s, a, &client.Recorder{}) // nothing is left for the next one
				t.Fatalf("%d messages, breaches %q", len(got), last.breaches)
			}
			for i, m := range got {
				if want := content(fmt.Sprintf("m%d", i), i%kinds, size(i)); !bytes.Equal(original(t, m.Content), want) {
					t.Errorf("message %d came altered (%s)", i, difference(original(t, m.Content), want))
				}
			}
		})
	}
}

// openssl is a running s_client.
type openssl struct {
	t   *testing.T
	cmd *exec.Cmd
	in  io.WriteCloser
	out *bufio.Reader
	all bytes.Buffer
}

func startOpenSSL(t *testing.T, args ...string) *openssl {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	o := &openssl{t: t, cmd: exec.CommandContext(ctx, needProgram(t, "openssl"), append([]string{"s_client", "-crlf"}, args...)...)}
	var err error
	if o.in, err = o.cmd.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	out, write, err := os.Pipe() // both outputs in their order
	if err != nil {
		t.Fatal(err)
	}
	o.cmd.Stdout, o.cmd.Stderr = write, write
	o.out = bufio.NewReader(out)
	err = o.cmd.Start()
	write.Close()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { o.in.Close(); _, _ = io.Copy(io.Discard, out); _ = o.cmd.Wait(); cancel(); out.Close() })
	return o
}

func (o *openssl) send(line string) {
	o.t.Helper()
	if _, err := io.WriteString(o.in, line+"\n"); err != nil {
		o.t.Fatal(err)
	}
}

// expect reads until a line begins with prefix.
func (o *openssl) expect(prefix string) {
	o.t.Helper()
	for {
		l, err := o.out.ReadString('\n')
		o.all.WriteString(l)
		if strings.HasPrefix(strings.TrimLeft(l, " "), prefix) {
			return
		}
		if err != nil {
			o.t.Fatalf("no %q: %v\n%s", prefix, err, tail(o.all.String(), 3000))
		}
	}
}

// TestInteropOpenSSL: STARTTLS on each role and implicit TLS, key updates in the middle of a session (which make
// TLS write while it reads), and renegotiation.
func TestInteropOpenSSL(t *testing.T) {
	needProgram(t, "openssl")
	s, secure, ca := startTLSServer(t, []client.Account{customer("tim", "example.org")})
	for name, args := range map[string][]string{
		"smtp": {"-starttls", "smtp", "-connect", s.SMTP}, "lmtp": {"-starttls", "lmtp", "-connect", s.LMTP},
		"odmr": {"-starttls", "smtp", "-connect", s.ODMR}, "odmrs": {"-connect", secure},
	} {
		for _, version := range []string{"-tls1_2", "-tls1_3"} {
			t.Run(name+version, func(t *testing.T) {
				o := startOpenSSL(t, append(args, version, "-CAfile", ca, "-verify_return_error", "-verify_hostname", hostname)...)
				o.expect("Verify return code: 0 (ok)")
				o.send("NOOP")
				o.expect("250 2.0.0")
				for range 3 {
					if version == "-tls1_3" {
						o.send("K") // s_client's key update, with a wish for ours
						o.expect("KEYUPDATE")
					}
					o.send("NOOP")
					o.expect("250 2.0.0")
				}
				o.send("quit") // Q at the beginning of a line is s_client's
				o.expect("221 ")
			})
		}
	}
	t.Run("renegotiation", func(t *testing.T) {
		o := startOpenSSL(t, "-connect", secure, "-tls1_2", "-CAfile", ca)
		o.expect("220 ")
		o.send("R")
		o.expect("RENEGOTIATING")
		until(t, "the server to refuse it", func() bool { return strings.Contains(s.Log(), "TLS: ") })
	})
}

// TestTLSOdmrget runs the customer's program under TLS, and against certificates that must not do.
func TestTLSOdmrget(t *testing.T) {
	a := customer("tim", "example.org")
	s, secure, ca := startTLSServer(t, []client.Account{a}, "--tls-required", "odmr=auth")
	secret, other := filepath.Join(s.Dir, "secret"), t.TempDir()
	if err := os.WriteFile(secret, []byte(password+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	stranger, _ := certificate(t, other, hostname)
	_, port, _ := net.SplitHostPort(secure)
	for i, c := range []struct {
		args   []string
		status int
		says   string
	}{
		{[]string{"--server", secure, "--tls", "--tls-ca", ca}, 0, "1 messages"},
		{[]string{"--server", "localhost:" + port, "--tls", "--tls-ca", ca}, 0, "1 messages"},
		{[]string{"--server", s.ODMR, "--starttls", "--tls-ca", ca, "--tls-name", hostname}, 0, "1 messages"},
		{[]string{"--server", s.ODMR, "--starttls", "--tls-insecure"}, 0, "1 messages"},
		{[]string{"--server", s.ODMR}, 77, "530"},
		{[]string{"--server", s.ODMR, "--starttls"}, 76, "certificate"},
		{[]string{"--server", s.ODMR, "--starttls", "--tls-ca", stranger}, 76, "certificate"},
		{[]string{"--server", s.ODMR, "--starttls", "--tls-ca", ca, "--tls-name", "other.example"}, 76, "other.example"},
		{[]string{"--server", s.ODMR, "--tls", "--tls-ca", ca}, 76, "TLS"},
		{[]string{"--server", s.ODMR, "--tls", "--starttls"}, 2, "tls"},
		{[]string{"--server", s.ODMR, "--tls-insecure"}, 2, "--tls-insecure"},
	} {
		handIn(t, s.SMTP, client.SenderOptions{}, message(fmt.Sprintf("m%d", i), kindText, 500, "a@example.org"))
		out, err := runProgram("", "odmrget", append(c.args, "--user", "tim", "--password-file", secret, "--maildir", filepath.Join(s.Dir, "m"))...)
		var exit *exec.ExitError
		status := 0
		if errors.As(err, &exit) {
			status = exit.ExitCode()
		}
		if status != c.status || c.status != 0 && !strings.Contains(out, c.says) || strings.Contains(out, password) {
			t.Errorf("%q: status %d, %v\n%s", c.args, status, err, out)
		}
	}
	resp, err := http.Get("http://" + s.Admin + "/metrics")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	text, _ := io.ReadAll(resp.Body)
	for _, want := range []string{`odmr_tls_handshakes_total{version="1.3"} `, "odmr_tls_handshakes_failed_total ", "odmr_tls_sessions "} {
		if !strings.Contains(string(text), "\n"+want) {
			t.Errorf("%q is not in the metrics", want)
		}
	}
}

// TestTLSReload: SIGHUP brings a new certificate; a session that runs goes on, and broken files change nothing.
func TestTLSReload(t *testing.T) {
	a := customer("tim", "example.org")
	s, secure, ca := startTLSServer(t, []client.Account{a})
	old := trust(t, ca)
	running, err := client.Dial(t.Context(), secure, client.Options{Security: client.ImplicitTLS, TLS: old, Timeout: patience})
	if err != nil {
		t.Fatal(err)
	}
	defer running.Close()
	if err := os.WriteFile(ca, []byte("junk"), 0o600); err != nil {
		t.Fatal(err)
	}
	s.Signal(syscall.SIGHUP)
	s.logged("certificates are broken")
	if c, err := tls.Dial("tcp", secure, old); err != nil {
		t.Errorf("with a broken file: %v", err)
	} else {
		c.Close()
	}
	certificate(t, filepath.Dir(ca), hostname, "new.example")
	s.Signal(syscall.SIGHUP)
	s.logged("certificates read.*|new.example until")
	until(t, "the new certificate to be served", func() bool {
		c, err := tls.Dial("tcp", secure, trust(t, ca))
		if err != nil {
			return false
		}
		defer c.Close()
		return len(c.ConnectionState().PeerCertificates[0].DNSNames) == 2
	})
	if err := running.Hello(); err != nil {
		t.Error(err)
	}
	if err := running.Login(a.User, a.Password); err != nil {
		t.Error(err)
	}
	if err := running.Quit(); err != nil {
		t.Error(err)
	}
}
