package e2e

import (
	"context"
	"crypto/rand"
	"crypto/rsa"
	"fmt"
	"io"
	"net"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"odmr/internal/certtest"
	"odmr/internal/client"
)

// scanner asks a server with openssl what it would agree to, one handshake for each question.
type scanner struct {
	t             *testing.T
	openssl, addr string
	ca, name      string
}

// handshake returns what s_client says, and whether there was a session in which the server greeted.
func (s *scanner) handshake(args ...string) (out string, greeted bool) {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(s.t.Context(), patience)
	defer cancel()
	cmd := exec.CommandContext(ctx, s.openssl, append([]string{"s_client", "-connect", s.addr, "-servername", s.name, "-CAfile", s.ca, "-crlf"}, args...)...)
	cmd.Stdin = strings.NewReader("QUIT\n") // s_client's own, at the beginning of a line
	cmd.WaitDelay = time.Minute
	b, err := cmd.CombinedOutput()
	if ctx.Err() != nil {
		s.t.Errorf("openssl %q does not end: %v", args, err)
	}
	out = string(b)
	return out, strings.Contains(out, "Cipher is") && !strings.Contains(out, "Cipher is (NONE)")
}

// ciphers are all that this openssl can be talked into.
func (s *scanner) ciphers(version string) []string {
	s.t.Helper()
	out, err := exec.Command(s.openssl, "ciphers", "-s", version, "ALL:COMPLEMENTOFALL:@SECLEVEL=0").Output()
	if err != nil {
		s.t.Fatal(err)
	}
	return strings.Split(strings.TrimSpace(string(out)), ":")
}

// goodCipher is a suite of TLS 1.2 with forward secrecy and nothing that is broken.
var goodCipher = regexp.MustCompile(`^ECDHE-(ECDSA|RSA)-(AES(128|256)-GCM-SHA(256|384)|CHACHA20-POLY1305)$`)

// TestInteropTLSScan tries what scanners try: each version, each cipher by itself against certificates of both kinds, small curves, compression,
// resumption, insecure renegotiation, ALPN. What is not listed as good must be refused.
func TestInteropTLSScan(t *testing.T) {
	openssl := needProgram(t, "openssl")
	dir := t.TempDir()
	private, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	const other = "rsa.isp.example"
	cert, key := certtest.Write(t, certtest.SelfSignedWith(t, selfNamed(other), private), dir, "tls")
	_, secure, ca := startTLSServer(t, []client.Account{customer("tim", "example.org")}, "--tls-cert", cert, "--tls-key", key)
	kinds := map[string]*scanner{
		"ECDSA": {t: t, openssl: openssl, addr: secure, ca: ca, name: hostname},
		"RSA":   {t: t, openssl: openssl, addr: secure, ca: cert, name: other},
	}
	for kind, scan := range kinds {
		for version, good := range map[string]bool{"-tls1": false, "-tls1_1": false, "-tls1_2": true, "-tls1_3": true} {
			if out, ok := scan.handshake(version, "-cipher", "ALL:@SECLEVEL=0"); ok != good {
				t.Errorf("%s, %s: %v\n%s", kind, version, ok, tail(out, 1000))
			}
		}
		tried, taken := scan.each("-cipher", scan.ciphers("-tls1_2"), "-tls1_2")
		of := 0 // the kind; a client that can do with the other's alone gets that
		for _, c := range taken {
			m := goodCipher.FindStringSubmatch(c)
			if m == nil {
				t.Errorf("%s: %s was taken", kind, c)
			} else if m[1] == kind {
				of++
			}
		}
		if of != 3 {
			t.Errorf("%s: only %q were taken", kind, taken)
		}
		_, modern := scan.each("-ciphersuites", []string{"TLS_AES_128_GCM_SHA256", "TLS_AES_256_GCM_SHA384", "TLS_CHACHA20_POLY1305_SHA256", "TLS_AES_128_CCM_SHA256"}, "-tls1_3")
		if len(modern) != 3 {
			t.Errorf("%s: of TLS 1.3, %q were taken", kind, modern)
		}
		t.Logf("%s: of %d ciphers of TLS 1.2 these were taken: %s", kind, tried, strings.Join(taken, " "))
	}
	scan := kinds["ECDSA"]
	for _, curve := range []string{"secp224r1", "secp192r1", "sect163k1"} {
		if out, ok := scan.handshake("-tls1_2", "-groups", curve, "-cipher", "ALL:@SECLEVEL=0"); ok {
			t.Errorf("curve %s was taken\n%s", curve, tail(out, 1000))
		}
	}
	scan.properties()
	sslv3(t, secure)
}

// each tries values of an option one by one and returns those that led to a session.
func (s *scanner) each(option string, values []string, more ...string) (tried int, taken []string) {
	s.t.Helper()
	var mu sync.Mutex
	inParallel(s.t, 4, len(values), func(i int) error {
		v := values[i]
		if option == "-cipher" {
			v += ":@SECLEVEL=0"
		}
		if _, ok := s.handshake(append(more, option, v)...); ok {
			mu.Lock()
			taken = append(taken, values[i])
			mu.Unlock()
		}
		return nil
	})
	return len(values), taken
}

// properties checks what one session of each version says of itself.
func (s *scanner) properties() {
	s.t.Helper()
	for _, version := range []string{"-tls1_2", "-tls1_3"} {
		session := filepath.Join(s.t.TempDir(), "session")
		for range 2 {
			out, ok := s.handshake(version, "-alpn", "smtp,h2", "-comp", "-legacy_renegotiation", "-sess_out", session)
			if !ok {
				s.t.Fatalf("%s: no session\n%s", version, out)
			}
			for _, want := range []string{"Compression: NONE", "Expansion: NONE", "No ALPN negotiated", "\nNew, TLSv1."} {
				if !strings.Contains(out, want) {
					s.t.Errorf("%s: no %q in\n%s", version, want, tail(out, 3000))
				}
			}
			if strings.Contains(out, "TLS session ticket:") || strings.Contains(out, "\nReused, ") {
				s.t.Errorf("%s: there is a ticket, or a session was resumed\n%s", version, tail(out, 3000))
			}
			if version == "-tls1_2" && !strings.Contains(out, "Secure Renegotiation IS supported") {
				s.t.Errorf("no RFC 5746:\n%s", tail(out, 3000))
			}
		}
		out, _ := s.handshake(version, "-sess_in", session) // if there is none, that is an error of s_client's
		if strings.Contains(out, "\nReused, ") {
			s.t.Errorf("%s: a session was resumed\n%s", version, tail(out, 3000))
		}
	}
}

// sslv3 says hello in versions that no openssl speaks any more: SSL 3.0, and SSL 2.0 in its own form.
func sslv3(t *testing.T, addr string) {
	t.Helper()
	body := append(append([]byte{3, 0}, make([]byte, 32)...), "\x00\x00\x06\x00\x0a\x00\x05\x00\x2f\x01\x00"...)
	hello := append([]byte{1, 0, 0, byte(len(body))}, body...)
	v3 := append([]byte{22, 3, 0, 0, byte(len(hello))}, hello...)
	v2 := append([]byte("\x80\x1f\x01\x00\x02\x00\x06\x00\x00\x00\x10\x07\x00\xc0\x01\x00\x80"), make([]byte, 16)...)
	for name, b := range map[string][]byte{"SSL 3.0": v3, "SSL 2.0": v2} {
		c, err := net.Dial("tcp", addr)
		if err != nil {
			t.Fatal(err)
		}
		_ = c.SetDeadline(time.Now().Add(patience))
		_, _ = c.Write(b)
		got, _ := io.ReadAll(c)
		c.Close()
		if len(got) > 0 && got[0] != 21 || len(got) > 7 { // an alert, or nothing
			t.Errorf("%s: answered %s", name, fmt.Sprintf("%.60x", got))
		}
	}
}
