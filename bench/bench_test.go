package bench

import (
	"context"
	"errors"
	"io"
	"net"
	"sync/atomic"
	"testing"
	"time"

	"odmr/bench/letters"
	"odmr/bench/result"
	"odmr/bench/server"
	"odmr/bench/traffic"
	"odmr/codec"
)

// testEnv is an Env without a server program: parts run in this process.
func testEnv(t *testing.T) *Env {
	t.Helper()
	e, err := NewEnv(Settings{Dir: t.TempDir(), Target: []string{"smtp=127.0.0.1:1"}}, Deps{})
	if err != nil {
		t.Fatal(err)
	}
	return e
}

// fakeServer answers one MX after another, as answer says: it gets each command line (content is
// skipped) and the number of the message, and returns the reply without its line end.
func fakeServer(t *testing.T, answer func(line string, message int) string) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			go fakeSession(conn, answer)
		}
	}()
	return l.Addr().String()
}

func fakeSession(conn net.Conn, answer func(string, int) string) {
	defer conn.Close()
	in := make([]byte, 0, 1<<20)
	buf := make([]byte, 64<<10)
	message := 0
	_, _ = io.WriteString(conn, "220 fake\r\n")
	for {
		line, n, err := codec.NextLine(in, 4096)
		if err != nil {
			return
		}
		if n == 0 {
			k, err := conn.Read(buf)
			if err != nil {
				return
			}
			in = append(in, buf[:k]...)
			continue
		}
		text := string(line)
		in = in[n:]
		if rest, ok := line, len(text) > 4 && text[:4] == "BDAT"; ok {
			size, _, err := codec.ParseBDAT(rest[5:])
			for err == nil && int64(len(in)) < size {
				var k int
				k, err = conn.Read(buf)
				in = append(in, buf[:k]...)
			}
			if err != nil {
				return
			}
			in = in[size:]
			message++
		}
		if _, err := io.WriteString(conn, answer(text, message)+"\r\n"); err != nil {
			return
		}
	}
}

// Latency counts from the intended time: while the server stalls once, every message that falls due meanwhile
// is late, not only the one that was on its way (coordinated omission).
func TestOpenLoopSeesAStall(t *testing.T) {
	const stall = 400 * time.Millisecond
	addr := fakeServer(t, func(line string, message int) string {
		if line[:4] == "BDAT" && message == 1 {
			time.Sleep(stall)
		}
		return "250 ok"
	})
	s := &Mixed{Connections: 1, Customers: 1, For: 600 * time.Millisecond, Size: letters.Fixed(400)}
	m := &mixture{
		Mixed: s, bed: bed{env: testEnv(t), srv: server.Attach(server.Addrs{SMTP: []string{addr}}), r: &result.Result{}},
		ledger: letters.NewLedger(10000), turns: newShared(),
	}
	at := &stage{perSecond: 200, length: s.For, end: 10000, latency: newHistogram(), late: newHistogram()}
	senders, err := m.dial(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err := m.arrive(senders, at); err != nil {
		t.Fatal(err)
	}
	// About 80 messages fall due within the stall; those of its first half wait for 200 ms and more.
	slow := int64(0)
	for _, bar := range at.latency.Distribution() {
		if bar.From >= 200_000 {
			slow += bar.Count
		}
	}
	if total := at.latency.TotalCount(); slow < 20 || total < 60 || total > 240 {
		t.Errorf("%d of %d messages had a latency of 200 ms or more; a closed loop would have seen 1", slow, total)
	}
	if late := at.late.Max(); late < 200_000 {
		t.Errorf("the latest message was sent %d µs late; the stall made many late", late)
	}
}

// The mail of a batch reaches everybody it is for, in order, over however many connections.
func TestHandIn(t *testing.T) {
	for _, b := range []batch{
		{customers: 1, each: 50, sizes: letters.Fixed(400)},
		{from: 7, customers: 10, each: 5, first: 100, sizes: letters.Fixed(400)},
		{customers: 200, each: 3, sizes: letters.Fixed(400)},
	} {
		got := make(chan string, 10000)
		addr := fakeServer(t, func(line string, _ int) string {
			if len(line) > 8 && line[:8] == "RCPT TO:" {
				got <- line[9 : len(line)-1]
			}
			if line == "QUIT" {
				return "221 bye"
			}
			return "250 ok"
		})
		b.ledger = letters.NewLedger(b.first + uint64(b.total()))
		if err := testEnv(t).handIn(t.Context(), server.Attach(server.Addrs{SMTP: []string{addr}}), b); err != nil {
			t.Fatal(err)
		}
		count := map[string]int{}
		for len(got) > 0 {
			count[<-got]++
		}
		for c := range b.customers {
			if n := count[address(b.from+c)]; n != b.each {
				t.Errorf("customer %d got %d messages, want %d", b.from+c, n, b.each)
			}
		}
		if len(count) != b.customers || b.ledger.AckedCount() != int64(b.total()) {
			t.Errorf("%d customers got mail, %d messages acknowledged; want %d, %d", len(count), b.ledger.AckedCount(), b.customers, b.total())
		}
	}
}

// A server that refuses a message while mail is handed in fails the scenario: its figures would be of
// something else.
func TestHandInRefused(t *testing.T) {
	addr := fakeServer(t, func(line string, message int) string {
		if line == "QUIT" {
			return "221 bye"
		}
		if message == 3 && line[:4] == "BDAT" {
			return "452 4.3.1 full"
		}
		return "250 ok"
	})
	err := testEnv(t).handIn(t.Context(), server.Attach(server.Addrs{SMTP: []string{addr}}), batch{customers: 1, each: 5, sizes: letters.Fixed(400)})
	if err == nil {
		t.Error("no error")
	}
}

// What a server loses, sends twice or alters is found by the drain and reported as broken.
func TestDrainFindsPlantedFaults(t *testing.T) {
	for _, c := range []struct {
		name   string
		acked  uint64 // messages that the ledger believes to be queued; the stand-in sends 0 to 9 to each of two customers
		ledger uint64
		want   letters.Verdict
	}{
		{"clean", 20, 20, letters.Verdict{Acked: 20, Arrived: 20}},
		{"one lost", 21, 64, letters.Verdict{Acked: 21, Arrived: 20, Lost: 1}},
		{"two that nobody sent", 0, 0, letters.Verdict{Strange: 20}},
	} {
		ctx, cancel := context.WithCancel(t.Context())
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		done := make(chan error, 1)
		go func() {
			done <- traffic.Provider(ctx, l, traffic.Plan{Messages: 10, Sizes: letters.Fixed(400), Stock: letters.NewStock()})
		}()
		ledger := letters.NewLedger(c.ledger)
		for id := range c.acked {
			ledger.Acked(id)
		}
		s := &Drain{Customers: 2, Each: 10, Size: letters.Fixed(400), Offer: traffic.OfferChunking}
		var counter traffic.Counter
		p, met, err := s.collect(ctx, testEnv(t), server.Attach(server.Addrs{ODMR: []string{l.Addr().String()}}),
			traffic.ServeOptions{Offer: s.Offer, Ledger: ledger, Counter: &counter}, newShared())
		cancel()
		if err := errors.Join(err, <-done); err != nil {
			t.Fatal(err)
		}
		r := &result.Result{}
		checkCollected(r, ledger, met)
		v := ledger.Verdict()
		v.Remarks = nil
		if v.String() != c.want.String() || r.OK() != (c.want.Faults() == 0) {
			t.Errorf("%s: %v, OK %v", c.name, v, r.OK())
		}
		if p.messages != 20 {
			t.Errorf("%s: %d messages counted", c.name, p.messages)
		}
	}
}

// A session that ends without QUIT is reported.
func TestDrainReportsCutSessions(t *testing.T) {
	addr := fakeServer(t, func(line string, _ int) string {
		switch line {
		case "AUTH CRAM-MD5":
			return "334 PDFAYj4="
		case "ATRN":
			return "250 ok\r\n999 nonsense"
		}
		if len(line) > 4 && line[:4] == "EHLO" {
			return "250 ok"
		}
		return "235 ok"
	})
	s := &Drain{Customers: 1, Each: 1, Size: letters.Fixed(400)}
	_, met, err := s.collect(t.Context(), testEnv(t), server.Attach(server.Addrs{ODMR: []string{addr}}),
		traffic.ServeOptions{Counter: new(traffic.Counter)}, newShared())
	if err != nil {
		t.Fatal(err)
	}
	if met.failed.Load() != 1 || met.first == nil {
		t.Errorf("%d sessions failed (%v), want 1", met.failed.Load(), met.first)
	}
}

// Raw loopback carries something in both directions, and a part says what is wrong with it.
func TestParts(t *testing.T) {
	e := testEnv(t)
	for _, l := range []loopback{{connections: 2, piece: 4096, toPart: true}, {connections: 2, piece: 4096}, {connections: 1, piece: 4096, look: true},
		{connections: 2, piece: 4096, tls: true}, {connections: 1, piece: 40_000, toPart: true, tls: true}} {
		rate, err := e.loopbackRate(t.Context(), l)
		if err != nil || rate <= 0 {
			t.Errorf("%+v: %v octets per second, %v", l, rate, err)
		}
	}
	e.StoreAppend = func(string, StoreLoad) (float64, error) { return 0, errors.New("no such store") }
	if _, err := e.storeRate(t.Context(), "store-append", StoreLoad{}); err == nil {
		t.Error("a part that failed gave no error")
	}
	e.StoreAppend = func(_ string, l StoreLoad) (float64, error) { return float64(l.Writers), nil }
	if rate, err := e.storeRate(t.Context(), "store-append", StoreLoad{Writers: 7}); err != nil || rate != 7 {
		t.Errorf("rate %v, %v; want 7", rate, err)
	}
}

// The table of goals asks for what the scenarios of All give: no row can be forever "not measured" by
// a slip in a name.
func TestGoalsNameWhatScenariosGive(t *testing.T) {
	given := map[string]bool{"ingest-smtp-source": true, "peer-postfix": true, "peer-exim": true, "turn": true, "wan": true, "mixed": true, "space": true, "idle-plain": true, "linger": true}
	for _, s := range All("") {
		switch s := s.(type) {
		case *Ingest:
			given[s.id()] = true
		case *Drain:
			given[s.id()] = true
		}
	}
	for _, g := range Goals() {
		if !given[g.Of[0]] || g.Per[0] != "" && !given[g.Per[0]] {
			t.Errorf("%s: %s: no scenario gives %v or %v", g.What, g.Want, g.Of, g.Per)
		}
	}
}

// Connections divide the customers, so that each customer's mail keeps to one of them.
func TestMixedConnections(t *testing.T) {
	for _, c := range [][3]int{{125, 2000, 125}, {128, 2000, 125}, {64, 100, 50}, {10, 7, 7}, {0, 5, 1}} {
		if got := (&Mixed{Connections: c[0], Customers: c[1]}).connections(); got != c[2] {
			t.Errorf("%d connections for %d customers: %d, want %d", c[0], c[1], got, c[2])
		}
	}
}

// inParallel does everything once, and stops at an error.
func TestInParallel(t *testing.T) {
	var sum atomic.Int64
	if err := inParallel(1000, 7, func(i int) error { sum.Add(int64(i)); return nil }); err != nil || sum.Load() != 999*1000/2 {
		t.Errorf("sum %d, %v", sum.Load(), err)
	}
	if err := inParallel(10, 3, func(i int) error { return errors.New("x") }); err == nil {
		t.Error("no error")
	}
}

func TestParseTarget(t *testing.T) {
	a, err := parseTarget([]string{"smtp=h:1", "odmr=h:2", "lmtp=h:3", "admin=h:4"})
	if err != nil || a.SMTP[0] != "h:1" || a.ODMR[0] != "h:2" || a.LMTP[0] != "h:3" || a.Admin[0] != "h:4" {
		t.Errorf("%+v, %v", a, err)
	}
	if a, err := parseTarget([]string{"h:1"}); err != nil || a.SMTP[0] != "h:1" || a.ODMR[0] != noAddress {
		t.Errorf("%+v, %v", a, err)
	}
	for _, wrong := range []string{"h", "smtp=h", "imap=h:1", ""} {
		if a, err := parseTarget([]string{wrong}); err == nil {
			t.Errorf("%q was taken for %+v", wrong, a)
		}
	}
}
