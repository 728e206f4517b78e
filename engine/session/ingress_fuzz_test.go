package session

import (
	"bytes"
	"math/rand"
	"path/filepath"
	"testing"

	"odmr/internal/mail"
)

// FuzzIngress plays octets from a peer in one piece and in random pieces, with completions that
// depend on the ticket only. Both dialogues must be the same; nothing may panic; memory is bounded.
// scenarioDriver checks the contract at every call.
func FuzzIngress(f *testing.F) {
	files, err := filepath.Glob(filepath.Join("testdata", "ingress", "*.txt"))
	if err != nil || len(files) == 0 {
		f.Fatal("no scenarios for seeds")
	}
	for i, path := range files {
		sc, err := parseScenario(path)
		if err != nil {
			f.Fatal(err)
		}
		var octets []byte
		for _, st := range sc.steps {
			octets = append(octets, st.in...)
		}
		if len(octets) < 4096 {
			f.Add(octets, int64(i))
		}
	}
	f.Fuzz(func(t *testing.T, octets []byte, seed int64) {
		if len(octets) > 1<<14 {
			return
		}
		want := fuzzIngressOnce(t, octets, seed, nil)
		got := fuzzIngressOnce(t, octets, seed, rand.New(rand.NewSource(seed)))
		if w, g := mergeTranscripts([]*transcript{want}).lines(), mergeTranscripts([]*transcript{got}).lines(); canonicalLines(w) != canonicalLines(g) {
			compareLines(t, "cut", w, g)
		}
	})
}

// fuzzIngressOnce plays octets on a new machine, whole or cut by cuts.
func fuzzIngressOnce(t *testing.T, octets []byte, seed int64, cuts *rand.Rand) *transcript {
	cfg := IngressConfig{Hostname: "mail.isp.example", MaxMessageSize: 200, MaxRecipients: 3, MaxErrors: 12}.Defaults()
	if seed&1 != 0 {
		cfg.Mode = IngressLMTP
	}
	m := NewIngress(&cfg, IngressPeer{Client: "192.0.2.1", Trusted: seed&6 != 0})
	sc := &scenario{path: "fuzz"}
	h := newScenarioDriver(t, sc, m)
	h.call(func() { h.m.Start(h.now, &h.out) })
	for len(octets) > 0 {
		n := len(octets)
		if cuts != nil {
			n = 1 + cuts.Intn(min(n, 1<<cuts.Intn(10)))
		}
		h.unread = append(h.unread, octets[:n]...)
		octets = octets[n:]
		for moved := true; moved; {
			before := len(h.unread)
			h.pump()
			moved = len(h.unread) < before
			for len(h.pending) > 0 {
				h.complete(0, fuzzIngressAnswer(h.pending[0].act.Ticket, seed))
				moved = true
			}
		}
		if held := m.memory(); held > 32<<10 {
			t.Fatalf("%d octets held", held)
		}
	}
	if len(h.unread) > mail.MaxCommandLine && !h.closed {
		t.Fatalf("%d octets are not consumed", len(h.unread))
	}
	h.end()
	return h.transcript
}

// fuzzIngressAnswer is the same for the same ticket, whenever it is asked for.
func fuzzIngressAnswer(ticket uint32, seed int64) string {
	switch (uint32(seed>>8) ^ ticket*2654435761) >> 28 {
	case 0:
		return "refuse 452 4.3.1 full"
	case 1:
		return "refuse 550 5.1.2 no"
	case 2:
		return "ok domain=example.org"
	}
	return "ok"
}

// A long random dialogue of whole commands, in random order and with random completions, in random
// pieces: the same in each cutting. The commands are real, so that it comes further than octets would.
func TestIngressRandomDialogues(t *testing.T) {
	pieces := []string{
		"EHLO a.example\r\n", "LHLO a.example\r\n", "RSET\r\n", "NOOP\r\n", "MAIL FROM:<a@b.example>\r\n", "MAIL FROM:<a@b.example> SIZE=300\r\n",
		"RCPT TO:<a@example.org>\r\n", "RCPT TO:<b@example.com>\r\n", "DATA\r\n", "text\r\n", ".\r\n", "..\r\n", "\n", "\r", ".", "\x00",
		"BDAT 5\r\n", "text\r", "BDAT 6 LAST\r\n", "text\r\n", "BDAT 0 LAST\r\n", "BDAT 100\r\n", "WHAT\r\n",
	}
	commits := 0
	for seed := int64(0); seed < 400; seed++ {
		rng := rand.New(rand.NewSource(seed))
		var b bytes.Buffer
		b.WriteString(pieces[seed&1])
		for range 150 {
			if rng.Intn(3) == 0 {
				b.WriteString("MAIL FROM:<a@b.example>\r\nRCPT TO:<a@example.org>\r\n")
			}
			b.WriteString(pieces[rng.Intn(len(pieces))])
		}
		want := fuzzIngressOnce(t, b.Bytes(), seed|2, nil)
		got := fuzzIngressOnce(t, b.Bytes(), seed|2, rng)
		w, g := mergeTranscripts([]*transcript{want}).lines(), mergeTranscripts([]*transcript{got}).lines()
		if canonicalLines(w) != canonicalLines(g) {
			compareLines(t, "cut", w, g)
			t.Fatalf("seed %d", seed)
		}
		for _, a := range want.acts {
			if len(a) > 6 && a[:6] == "commit" {
				commits++
			}
		}
	}
	if commits < 50 {
		t.Errorf("only %d messages got through: the dialogues test too little", commits)
	}
}
