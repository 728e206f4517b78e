package engine

import (
	"bytes"
	"crypto/tls"
	"io"
	"math/rand/v2"
	"net"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/panjf2000/gnet/v2"

	"odmr/internal/certtest"
)

// tube is a socket whose ciphertext goes to and comes from a client of crypto/tls, without a network.
type tube struct {
	gnet.Conn
	in  []byte // for the server
	out []byte // for the client
}

func (f *tube) InboundBuffered() int       { return len(f.in) }
func (f *tube) Peek(int) ([]byte, error)   { return f.in, nil }
func (f *tube) Discard(n int) (int, error) { f.in = f.in[n:]; return n, nil }

// far is the client's side of a tube.
type far struct {
	net.Conn
	t *tube
}

func (f far) Read(b []byte) (int, error) {
	if len(f.t.out) == 0 {
		return 0, errNoMore
	}
	n := copy(b, f.t.out)
	f.t.out = f.t.out[n:]
	return n, nil
}

func (f far) Write(b []byte) (int, error)    { f.t.in = append(f.t.in, b...); return len(b), nil }
func (far) SetWriteDeadline(time.Time) error { return nil }

// switched is a connection that becomes another when the handshake is over.
type switched struct{ net.Conn }

// tunnel makes a connection under TLS without a socket, with its client. Nothing else may run on lp.
func tunnel(t testing.TB, ca *certtest.Authority, lp *loop, version uint16) (*conn, *tube, *tls.Conn) {
	t.Helper()
	cert := ca.Server(t, "mail.isp.example")
	return tunnelWith(t, tlsConfig(&TLS{Certificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return cert, nil }}), ca, lp, version)
}

func tunnelWith(t testing.TB, server *tls.Config, ca *certtest.Authority, lp *loop, version uint16) (*conn, *tube, *tls.Conn) {
	t.Helper()
	a, b := net.Pipe()
	ours, theirs := &switched{a}, &switched{b}
	cfg := trusting(ca)
	cfg.MaxVersion = version
	s, c := tls.Server(ours, server), tls.Client(theirs, cfg)
	var wg sync.WaitGroup
	wg.Go(func() {
		if err := s.Handshake(); err != nil {
			t.Error(err)
		}
	})
	if err := c.Handshake(); err != nil {
		t.Fatal(err)
	}
	wg.Wait()
	a.Close()
	b.Close()
	f := &tube{}
	cn := &conn{lp: lp, gc: f}
	cn.out.lp = lp
	sec := &secure{c: cn, phase: tlsUp, wire: &wire{pipe: pipe{pool: new(handshakes)}}, tc: s}
	sec.queue.lp, sec.wire.s = lp, sec
	cn.tls, cn.out.tls = sec, sec
	ours.Conn, theirs.Conn = sec.wire, far{t: f}
	return cn, f, c
}

func testLoop() *loop {
	eng := &Engine{}
	eng.cfg.Observer = NopObserver{}
	return &loop{eng: eng, small: buffers{size: bufferSize}, large: buffers{size: plainSize}, record: make([]byte, 0, maxRecord)}
}

// deliver moves all ciphertext to the client.
func (f *tube) deliver(q *cipherQueue) {
	for i, b := range q.bufs {
		if i == 0 {
			b = b[q.sent:]
		}
		f.out = append(f.out, b...)
	}
	q.took(q.pending)
}

// Streams of replies and bodies come out as they went in, in full records, and a fetchmail that reads
// them never waits for more than there is.
func TestSealTakesAnyStream(t *testing.T) {
	ca := certtest.NewAuthority(t)
	lp := testLoop()
	for seed := range uint64(60) {
		r := rand.New(rand.NewPCG(seed, 3))
		c, f, client := tunnel(t, ca, lp, []uint16{tls.VersionTLS12, tls.VersionTLS13}[seed%2])
		retire := func(s *source) { c.out.retire(s); s.body.Close() }
		for range 5 { // flights
			var want strings.Builder
			line := func() string { // one line, long ones among them
				return strings.Repeat("x", r.IntN([]int{20, 70, 900, 9000, 40000}[r.IntN(5)])) + "\r\n"
			}
			for range 1 + r.IntN(6) {
				if r.IntN(2) == 0 {
					l := line()
					c.out.write([]byte(l))
					want.WriteString(l)
					continue
				}
				var segs []string
				for range 1 + r.IntN(4) {
					segs = append(segs, strings.Repeat(line(), 1+r.IntN(40)))
				}
				c.out.body(&source{body: newParts(1+r.IntN(len(segs)), segs...).shared()})
				want.WriteString(strings.Join(segs, ""))
			}
			sealed := want.Len() < sealOctets
			for !c.out.drained() {
				if err := c.out.seal(retire); err != nil {
					t.Fatal(err)
				}
				if c.tls.queue.pending > sealOctets+2*(maxRecord+64) {
					t.Fatalf("seed %d: %d octets of ciphertext wait", seed, c.tls.queue.pending)
				}
				f.deliver(&c.tls.queue)
				if s := c.out.wants(); s != nil { // a worker
					sealed = false // a record ended where the memory did
					s.fetch = true
					seg, err := s.body.Next()
					c.out.fetched(s, seg, err)
				}
			}
			records := readRecords(t, client)
			if got := strings.Join(records, ""); got != want.String() {
				t.Fatalf("seed %d: %d octets came as %d", seed, want.Len(), len(got))
			}
			for i, rec := range records {
				if sealed && i < len(records)-2 && len(rec) != maxRecord {
					t.Fatalf("seed %d: record %d of %d has %d octets", seed, i, len(records), len(rec))
				}
			}
			if left := fetchmailReads(records); left != "" {
				t.Fatalf("seed %d: fetchmail would wait with %d octets unseen: %.60q", seed, len(left), left)
			}
		}
		if c.out.held != 0 || c.out.pending != 0 || lp.eng.lent.Load() != 0 {
			t.Fatalf("seed %d: held %d, pending %d, lent %d", seed, c.out.held, c.out.pending, lp.eng.lent.Load())
		}
		c.tls.close()
	}
}

// readRecords reads what has come, record by record.
func readRecords(t *testing.T, client *tls.Conn) []string {
	t.Helper()
	var records []string
	b := make([]byte, maxRecord)
	for {
		n, err := client.Read(b)
		if err == errNoMore {
			return records
		}
		if err != nil {
			t.Fatal(err)
		}
		records = append(records, string(b[:n]))
	}
}

// fetchmailReads reads records as fetchmail 6 does after the turn: each time that the socket has something, one
// line, or 8191 octets of one. It returns what is left in its TLS library when the socket has nothing more.
func fetchmailReads(records []string) (unseen string) {
	const size = 8191
	for len(records) > 0 { // the socket is readable
		for room := size; room > 0; {
			if unseen == "" {
				if len(records) == 0 {
					break // it blocks within a line, and goes on when more comes
				}
				unseen, records = records[0], records[1:]
			}
			n := min(room, len(unseen))
			i := strings.IndexByte(unseen[:n], '\n')
			if i >= 0 {
				unseen = unseen[i+1:]
				break
			}
			unseen = unseen[n:]
			room -= n
		}
	}
	return unseen
}

// The model of fetchmail does hang where it should.
func TestFetchmailModel(t *testing.T) {
	for _, c := range []struct {
		records []string
		unseen  string
	}{
		{[]string{"a\r\n", "b\r\n"}, ""},
		{[]string{"a\r\nb\r\n"}, "b\r\n"},
		{[]string{"a\r\nb\r", "\n"}, ""},
		{[]string{"a\r\nb\r\n", "c\r\n"}, ""},
		{[]string{"a\r\n", "b\r\nc\r\n"}, "c\r\n"},
		{[]string{strings.Repeat("x", 8191) + "\n"}, "\n"},
		{[]string{strings.Repeat("x", 8191), "\n"}, ""},
	} {
		if got := fetchmailReads(c.records); got != c.unseen {
			t.Errorf("%.20q: left %.20q", c.records, got)
		}
	}
}

// Octets of any kind in place of ciphertext, before the handshake and after it: an error in the end or
// nothing, but no panic, and bounded memory.
func FuzzTLSInput(f *testing.F) {
	ca := certtest.NewAuthority(f)
	lp := testLoop()
	cert := ca.Server(f, "mail.isp.example")
	server := tlsConfig(&TLS{Certificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return cert, nil }})
	f.Add([]byte("\x17\x03\x03\x00\x10aaaaaaaaaaaaaaaa"), uint16(3), true)
	f.Add([]byte("\x15\x03\x03\x00\x02\x01\x00"), uint16(0), false)
	f.Add([]byte("\x16\x03\x01\x00\x05\x01\x00\x00\x01\x00"), uint16(1), true)
	f.Add([]byte("NOOP\r\n"), uint16(2), false)
	f.Add(bytes.Repeat([]byte("\x14\x03\x03\x00\x01\x01"), 40), uint16(7), true)
	f.Fuzz(func(t *testing.T, junk []byte, step uint16, valid bool) {
		if whole, ok := helloArrived(junk); whole && (!ok || len(junk) < recordHeader) {
			t.Fatalf("a whole record of %d octets that cannot be one", len(junk))
		}
		c, tb, client := tunnelWith(t, server, ca, lp, []uint16{tls.VersionTLS12, tls.VersionTLS13}[step%2])
		defer c.tls.close()
		want := ""
		if valid { // good octets in front of the junk are delivered
			want = "NOOP\r\n"
			if _, err := client.Write([]byte(want)); err != nil {
				t.Fatal(err)
			}
		}
		tb.in = append(tb.in, junk...)
		all, got := tb.in, ""
		tb.in = nil
		for at, broken := 0, false; at < len(all) && !broken; {
			n := min(1+int(step), len(all)-at)
			tb.in = append(tb.in, all[at:at+n]...)
			at += n
			for {
				more, err := c.tls.pull()
				got += string(c.tls.plain[c.tls.taken:])
				c.tls.take(len(c.tls.plain) - c.tls.taken)
				broken = err != nil
				if !more {
					break
				}
			}
			if c.tls.queue.pending > sealMost {
				t.Fatalf("%d octets of answers wait", c.tls.queue.pending)
			}
		}
		if got != want {
			t.Errorf("junk was taken for %q", got)
		}
	})
}

// Key updates are answered while crypto/tls reads; answers that the peer does not take stop the reading.
func TestTLSAnswersAreBounded(t *testing.T) {
	ca := certtest.NewAuthority(t)
	c, _, _ := tunnel(t, ca, testLoop(), tls.VersionTLS13)
	defer c.tls.close()
	c.tls.queue.write(make([]byte, sealMost+1))
	c.gc.(*tube).in = []byte("x")
	if more, err := c.tls.pull(); more || err != nil || len(c.gc.(*tube).in) != 1 {
		t.Errorf("input is read while %d octets wait: %v %v", c.tls.queue.pending, more, err)
	}
}

// TestTLSMemory says what an idle session under TLS takes beyond one in clear.
func TestTLSMemory(t *testing.T) {
	ca := certtest.NewAuthority(t)
	lp := testLoop()
	cert := ca.Server(t, "mail.isp.example")
	server := tlsConfig(&TLS{Certificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return cert, nil }})
	heap := func() uint64 {
		runtime.GC()
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return m.HeapAlloc
	}
	const n = 500
	for _, version := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
		kept := make([]*secure, n)
		before := heap()
		for i := range kept {
			c, f, client := tunnelWith(t, server, ca, lp, version)
			for range 3 { // a dialogue, before it idles
				if _, err := io.WriteString(client, "NOOP\r\n"); err != nil {
					t.Fatal(err)
				}
				for more := true; more; more, _ = c.tls.pull() {
					c.tls.take(len(c.tls.plain) - c.tls.taken)
				}
				c.out.write([]byte("250 ok\r\n"))
				if err := c.out.seal(nil); err != nil {
					t.Fatal(err)
				}
				f.deliver(&c.tls.queue)
			}
			kept[i] = c.tls
			f.in, f.out = nil, nil
		}
		each := int64(heap()-before) / n
		t.Logf("%s: %d octets each", tls.VersionName(version), each)
		if each > 32<<10 {
			t.Errorf("%s: %d octets of heap for an idle session", tls.VersionName(version), each)
		}
		runtime.KeepAlive(kept)
	}
}
