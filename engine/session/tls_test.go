package session

import (
	"strings"
	"testing"
)

// scenarioTLS reads starttls and tls-required.
func scenarioTLS(t *testing.T, sc *scenario) (startTLS bool, policy TLSPolicy) {
	_, startTLS = sc.value("starttls")
	switch v, _ := sc.value("tls-required"); v {
	case "":
	case "auth":
		policy = TLSForLogin
	case "all":
		policy = TLSForAll
	default:
		t.Fatalf("%s: tls-required %s", sc.path, v)
	}
	return startTLS, policy
}

// Octets behind STARTTLS, in the same reading or in a later one that a driver lets through, end the session
// (CVE-2011-0411); cut before them, TLS begins.
func TestOctetsBehindSTARTTLS(t *testing.T) {
	provider := ProviderConfig{Hostname: "mail.isp.example", StartTLS: true}.Defaults()
	ingress := IngressConfig{Hostname: "mail.isp.example", StartTLS: true}.Defaults()
	for name, machine := range map[string]func() Session{
		"provider": func() Session { return NewProvider(&provider) },
		"ingress":  func() Session { return NewIngress(&ingress, IngressPeer{Trusted: true}) },
	} {
		play := func(reads ...string) (string, []Kind) {
			var replies strings.Builder
			var acts []Kind
			var out Output
			m := machine()
			for _, b := range reads {
				out.Reset()
				m.Input(0, []byte(b), &out)
				replies.Write(out.Reply)
				for _, a := range out.Acts {
					if a.At != len(out.Reply) {
						t.Errorf("%s: %q goes on behind an action", name, out.Reply)
					}
					acts = append(acts, a.Kind)
				}
			}
			return replies.String(), acts
		}
		for _, reads := range [][]string{{"STARTTLS\r\nNOOP\r\n"}, {"STARTTLS\r\nx"}, {"NOOP\r\nSTARTTLS\r\n\x16"}, {"NOOP\r\n", "STARTTLS\r\n\r\n"}} {
			got, acts := play(reads...)
			if !strings.HasSuffix(got, "554 5.5.0 Data behind STARTTLS before its reply, closing connection\r\n") || strings.Contains(got, "220") ||
				len(acts) != 1 || acts[0] != ActClose {
				t.Errorf("%s: %q: %q, %v", name, reads, got, acts)
			}
		}
		got, acts := play("STARTTLS\r\n", "QUIT\r\n")
		if !strings.HasPrefix(got, "220 2.0.0 Ready to start TLS\r\n554 5.5.0 ") || len(acts) != 2 || acts[0] != ActStartTLS || acts[1] != ActClose {
			t.Errorf("%s: %q, %v", name, got, acts)
		}
		m := machine()
		var out Output
		m.Done(0, 0, &Result{}, &out) // nobody asked
		if m.Input(0, []byte("STARTTLS\r\n"), &out); len(out.Acts) != 1 || out.Acts[0].Kind != ActStartTLS {
			t.Errorf("%s: a handshake that nobody asked for counted: %q", name, out.Reply)
		}
	}
}
