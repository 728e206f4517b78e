package e2e

import (
	"bytes"
	"context"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"odmr/internal/client"
)

// window is --window-messages: how many messages of one session may be sent again after a crash.
const window = 32

// ledger is what the outside world knows about the messages of a crash test: which were
// acknowledged by the server, and which sessions received what.
type ledger struct {
	t  *testing.T
	mu sync.Mutex

	acked    map[string]bool        // "id domain" that got its 250
	received map[string][]reception // "id domain" to where it was received
	sessions []*drainSession
	lastSeq  map[string]int // "sender domain" to the last first-time reception's number
}

type drainSession struct {
	count int  // messages received in it
	cut   bool // ended by the kill
}

type reception struct {
	session *drainSession
	index   int // in its session
}

// crashID names a message so that its content can be made again: kind and size are in it.
func crashID(sender, seq, kind, size int) string {
	return fmt.Sprintf("s%d-%d-%d-%d", sender, seq, kind, size)
}

func parseCrashID(id string) (sender, seq, kind, size int, ok bool) {
	n, err := fmt.Sscanf(id, "s%d-%d-%d-%d", &sender, &seq, &kind, &size)
	return sender, seq, kind, size, n == 4 && err == nil
}

func (l *ledger) acknowledge(id string, to []string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, a := range to {
		_, domain, _ := strings.Cut(a, "@")
		l.acked[id+" "+domain] = true
	}
}

// receive notes one message and checks all that must hold at once: content, order, no doubles within a session.
func (l *ledger) receive(s *drainSession, m *client.Received) {
	id := idOf(l.t, m.Content)
	sender, seq, kind, size, ok := parseCrashID(id)
	if !ok {
		l.t.Errorf("a message that nobody sent: %q", id)
		return
	}
	if !bytes.Equal(original(l.t, m.Content), content(id, kind, size)) {
		l.t.Errorf("%s came altered", id)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	s.count++
	_, domain, _ := strings.Cut(m.Envelope.Recipients[0].Address, "@")
	key := id + " " + domain
	for _, r := range l.received[key] {
		if r.session == s {
			l.t.Errorf("%s came twice in one session", key)
		}
	}
	if len(l.received[key]) == 0 {
		line := fmt.Sprintf("%d %s", sender, domain)
		if last, ok := l.lastSeq[line]; ok && seq < last {
			l.t.Errorf("out of order: %s came after number %d of the same sender", key, last)
		}
		l.lastSeq[line] = seq
	}
	l.received[key] = append(l.received[key], reception{s, s.count - 1})
}

// verify checks, once all is drained, that nothing was lost and what came twice was in flight.
func (l *ledger) verify() (doubles int) {
	for key := range l.acked {
		if len(l.received[key]) == 0 {
			l.t.Errorf("lost: %s was acknowledged and never came", key)
		}
	}
	for key, all := range l.received {
		for _, r := range all[:len(all)-1] {
			doubles++
			if !r.session.cut || r.session.count-r.index > window {
				l.t.Errorf("%s came again although it was number %d of %d in a session (cut: %v)", key, r.index+1, r.session.count, r.session.cut)
			}
		}
	}
	return doubles
}

// collect runs one session; it returns how many messages were acknowledged.
func (l *ledger) collect(ctx context.Context, addr string, a client.Account, offer client.Offer) (int, error) {
	session := &drainSession{}
	l.mu.Lock()
	l.sessions = append(l.sessions, session)
	l.mu.Unlock()
	rec := &client.Recorder{Keep: 1 << 20, OnCommit: func(m *client.Received) error {
		l.receive(session, m)
		return nil
	}}
	stats, err := client.Collect(ctx, addr, a, client.Options{Timeout: patience, Offer: offer}, rec)
	l.mu.Lock()
	session.cut = err != nil
	l.mu.Unlock()
	for _, b := range stats.Breaches {
		l.t.Error("the server broke the protocol: ", b)
	}
	return stats.Messages, err
}

// cuts counts the sessions that the kill met in the middle.
func (l *ledger) cuts() (n int) {
	for _, d := range l.sessions {
		if d.cut && d.count > 0 {
			n++
		}
	}
	return n
}

// crashAccounts are two customers with two domains each.
func crashAccounts() []client.Account {
	return []client.Account{customer("north", "north.example", "north-two.example"), customer("south", "south.example", "south-two.example")}
}

// ingest sends messages until the server dies.
func (l *ledger) ingest(ctx context.Context, s *Server, sender int, seq *int, r *rand.Rand) {
	addr, opts := s.SMTP, client.SenderOptions{Timeout: patience}
	switch sender % 3 {
	case 1:
		opts.Transfer, opts.Chunk = client.ByBDAT, 50_000
	case 2:
		addr, opts.Protocol = s.LMTP, client.LMTP
	}
	c, err := client.DialSender(ctx, addr, opts)
	if err != nil {
		return
	}
	defer c.Close()
	sizes := []int{300, 2000, 2000, 10_000, 40_000, 700_000}
	targets := []string{"a@north.example", "a@north-two.example", "a@south.example", "a@south-two.example"}
	for ctx.Err() == nil {
		*seq++
		kind, size := r.IntN(kinds), sizes[r.IntN(len(sizes))]
		to := []string{targets[r.IntN(4)]}
		if r.IntN(5) == 0 {
			to = []string{targets[r.IntN(2)], targets[2+r.IntN(2)]}
		}
		id := crashID(sender, *seq, kind, size)
		m := message(id, kind, size, to...)
		receipt, err := c.Send(&m)
		if err != nil {
			return
		}
		if receipt.Accepted() {
			l.acknowledge(id, to)
		} else {
			l.t.Errorf("%s was refused: %v", id, receipt.Refusal())
		}
	}
}

// drain collects over and over until the server dies.
func (l *ledger) drain(ctx context.Context, s *Server, a client.Account, offer client.Offer) {
	for ctx.Err() == nil {
		n, err := l.collect(ctx, s.ODMR, a, offer)
		if err != nil && client.Code(err) != 451 { // 451: the last session's lease is just being given back
			return
		}
		if n == 0 {
			time.Sleep(2 * time.Millisecond)
		}
	}
}

// TestCrash kills the server with SIGKILL at random moments of a running ingest and drain. Every message
// that got its 250 must come, unaltered and in order, and only messages that were in flight may come twice.
func TestCrash(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d (the moments of a kill are not repeatable, what is sent is)", seed)
	r := rand.New(rand.NewPCG(seed, 1))
	l := &ledger{t: t, acked: map[string]bool{}, received: map[string][]reception{}, lastSeq: map[string]int{}}
	accounts := crashAccounts()
	s := newServer(t, accounts, "--window-messages", fmt.Sprint(window))
	rounds := crashRounds(t, 20)
	var seqs [3]int
	allOffers := []client.Offer{{}, {Pipelining: true}, client.FullOffer()}
	enough := func() bool { return len(l.acked) >= rounds && l.cuts() > 0 }
	for round := 0; round < rounds || !enough() && round < 10*rounds; round++ { // a slow machine does little in one
		s.Start()
		ctx, cancel := context.WithTimeout(t.Context(), 2*patience)
		var wg sync.WaitGroup
		for i := range seqs {
			rnd := rand.New(rand.NewPCG(seed, uint64(100*round+i+2)))
			wg.Go(func() { l.ingest(ctx, s, i, &seqs[i], rnd) })
		}
		for i, a := range accounts {
			offer := allOffers[(round+i)%len(allOffers)]
			wg.Go(func() { l.drain(ctx, s, a, offer) })
		}
		time.Sleep(time.Duration(r.Int64N(int64(600 * time.Millisecond))))
		s.Signal(syscall.SIGKILL)
		wg.Wait() // every client has met the end of its connection
		cancel()
		s.Wait()
		if t.Failed() {
			t.Fatalf("in round %d", round)
		}
	}
	s.Start()
	for _, a := range accounts {
		until(t, "everything to be collected", func() bool {
			n, err := l.collect(t.Context(), s.ODMR, a, client.FullOffer())
			if err != nil && client.Code(err) != 451 {
				t.Fatal(err)
			}
			return n == 0 && err == nil
		})
	}
	doubles := l.verify()
	t.Logf("%d messages acknowledged, %d received, %d of them again; %d sessions cut in the middle", len(l.acked), len(l.received), doubles, l.cuts())
	if !enough() {
		t.Errorf("hardly anything happened: this test has shown nothing")
	}
	if out, err := s.odmrctl("queue", "check"); err != nil {
		t.Errorf("queue check: %v\n%s", err, out)
	}
}
