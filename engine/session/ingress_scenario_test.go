package session

import (
	"testing"
	"time"
)

// newScenarioIngress reads mode, starttls, tls-required, secured, max-size, max-recipients, max-errors, client and untrusted.
func newScenarioIngress(t *testing.T, sc *scenario) Session {
	cfg := IngressConfig{
		Hostname:       "mail.isp.example",
		MaxMessageSize: sc.number(t, "max-size", 0),
		MaxRecipients:  int(sc.number(t, "max-recipients", 0)),
		MaxErrors:      int(sc.number(t, "max-errors", 0)),
		DataTimeout:    time.Minute, // not the command's: the scenarios tell them apart
	}.Defaults()
	if mode, _ := sc.value("mode"); mode == "lmtp" {
		cfg.Mode = IngressLMTP
	}
	peer := IngressPeer{Client: "192.0.2.1", Trusted: true}
	if client, ok := sc.value("client"); ok {
		peer.Client = client
	}
	if _, ok := sc.value("untrusted"); ok {
		peer.Trusted = false
	}
	cfg.StartTLS, cfg.TLSPolicy = scenarioTLS(t, sc)
	s := NewIngress(&cfg, peer)
	if _, ok := sc.value("secured"); ok {
		s.Secured()
	}
	return s
}

func TestIngressScenarios(t *testing.T) {
	runScenarios(t, "ingress", newScenarioIngress)
}
