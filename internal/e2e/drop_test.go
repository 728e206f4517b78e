package e2e

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"odmr/internal/admin"
	"odmr/internal/client"
	"odmr/queue"
)

// direction is a way through a line, as the customer sees it.
type direction uint8

const (
	incoming direction = iota // commands and bodies
	outgoing                  // replies
)

// drop is where and how a line is cut: once so many octets have gone that way since the turn, counted inside of TLS or, with
// dropSessions.under, beneath it.
type drop struct {
	way   direction
	at    int
	reset bool // RST, by which octets on their way are lost; else FIN behind them
	where string
}

func (d drop) String() string {
	how := map[bool]string{true: "RST", false: "FIN"}[d.reset]
	return fmt.Sprintf("%s at %s", how, d.where)
}

var errDropped = errors.New("the line was cut")

// droppable is a customer's connection that records what goes through it since the turn, and can be cut there.
type droppable struct {
	net.Conn          // inside of TLS
	raw      net.Conn // the socket
	mu       sync.Mutex
	turned   bool
	seen     [2][]byte
	drop     *drop
	cut      bool
	under    *droppable // what is cut is the line beneath TLS, in the middle of its records; nil: this one
}

// turn begins the count.
func (c *droppable) turn(d *drop) {
	if c.under != nil {
		c.under.turn(d)
		d = nil
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.turned, c.drop = true, d
}

// line is the one that is cut.
func (c *droppable) line() *droppable {
	if c.under != nil {
		return c.under
	}
	return c
}

// room says how many of n octets may still go that way, and cuts the line if it is time.
func (c *droppable) room(way direction, n int) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.drop == nil {
		return n, nil
	}
	if !c.cut && len(c.seen[c.drop.way]) >= c.drop.at {
		c.cut = true
		c.strike()
	}
	if c.cut {
		return 0, errDropped
	}
	if way == c.drop.way {
		n = min(n, c.drop.at-len(c.seen[way]))
	}
	return n, nil
}

// strike cuts the line. After a FIN the socket is read on, for unread octets would turn it into a RST.
func (c *droppable) strike() {
	tcp := c.raw.(*net.TCPConn)
	if c.drop.reset {
		_ = tcp.SetLinger(0)
		_ = tcp.Close()
		return
	}
	_ = tcp.CloseWrite()
	_ = tcp.SetReadDeadline(time.Now().Add(patience))
	_, _ = io.Copy(io.Discard, tcp)
	_ = tcp.Close()
}

func (c *droppable) note(way direction, b []byte) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.turned {
		c.seen[way] = append(c.seen[way], b...)
	}
}

// Read implements net.Conn.
func (c *droppable) Read(b []byte) (int, error) {
	n, err := c.room(incoming, len(b))
	if err != nil {
		return 0, io.EOF
	}
	n, err = c.Conn.Read(b[:n])
	c.note(incoming, b[:n])
	return n, err
}

// Write implements net.Conn.
func (c *droppable) Write(b []byte) (int, error) {
	for done := 0; ; {
		n, err := c.room(outgoing, len(b)-done)
		if done == len(b) { // it went whole, even if the line was cut right behind it: of a TLS record the server has all
			return done, nil
		}
		if err != nil {
			return done, err
		}
		if n, err = c.Conn.Write(b[done : done+n]); err != nil {
			return done, err
		}
		c.note(outgoing, b[done:done+n])
		done += n
	}
}

// dropSessions makes sessions that are cut, of one kind of customer.
type dropSessions struct {
	t     *testing.T
	s     *Server
	addr  string
	tls   *tls.Config // nil: in clear
	a     client.Account
	offer client.Offer
	admin *admin.Client
	under bool // lines are cut beneath TLS
}

// run collects one domain over a line that is cut at d, or not at all if it is nil.
func (k *dropSessions) run(domain string, d *drop) (*droppable, error) {
	raw, err := (&net.Dialer{}).DialContext(k.t.Context(), "tcp", k.addr)
	if err != nil {
		return nil, err
	}
	conn := &droppable{Conn: raw, raw: raw}
	switch {
	case k.under:
		conn.under = &droppable{Conn: raw, raw: raw}
		conn.Conn = tls.Client(conn.under, k.tls)
	case k.tls != nil:
		conn.Conn = tls.Client(raw, k.tls)
	}
	c, err := client.New(k.t.Context(), conn, client.Options{Timeout: patience, Offer: k.offer})
	if err != nil {
		return nil, err
	}
	defer c.Close()
	if err = c.Hello(); err == nil {
		err = c.Login(k.a.User, k.a.Password)
	}
	if err == nil {
		err = c.ATRN(domain)
	}
	if err != nil {
		return nil, err
	}
	conn.turn(d)
	stats, err := c.Serve(&client.Recorder{})
	for _, b := range stats.Breaches {
		if d == nil {
			k.t.Error("the server broke the protocol: ", b)
		}
	}
	return conn, err
}

// dropMessages are handed in for each cut: the middle one has lines with dots and some length.
const dropMessages = 3

func dropID(i int) string { return fmt.Sprintf("m%d", i) }

// lineStarts are the places where lines begin, and behind the last.
func lineStarts(b []byte) []int {
	l := []int{0}
	for i := range b {
		if b[i] == '\n' {
			l = append(l, i+1)
		}
	}
	return l
}

// drops enumerates every point of a session that took its whole course: before and after each line of each direction and in
// the middle of it, and for bodies, each of which is one thing, before, within, at each octet of the end, and behind.
func drops(c *droppable) []drop {
	var l []drop
	seen := map[string]bool{}
	add := func(way direction, at int, format string, args ...any) {
		key := fmt.Sprint(way, at)
		if at < 0 || at > len(c.seen[way]) || seen[key] {
			return
		}
		seen[key] = true
		for _, reset := range []bool{false, true} {
			l = append(l, drop{way, at, reset, fmt.Sprintf(format, args...)})
		}
	}
	starts := lineStarts(c.seen[outgoing])
	for i := range len(starts) - 1 {
		name := string(c.seen[outgoing][starts[i] : starts[i+1]-2])
		add(outgoing, starts[i], "reply %d, %.20q, before", i, name)
		add(outgoing, starts[i]+2, "reply %d, %.20q, within", i, name)
		add(outgoing, starts[i+1]-1, "reply %d, %.20q, before its LF", i, name)
		add(outgoing, starts[i+1], "reply %d, %.20q, after", i, name)
	}
	in, at, chunk := c.seen[incoming], 0, 0
	for n := 0; at < len(in); n++ {
		end := bytes.IndexByte(in[at:], '\n')
		if end < 0 {
			break
		}
		end += at + 1
		name := string(in[at : end-2])
		if strings.HasPrefix(name, "Received: ") { // a body: as long as its chunk, or up to its dot
			if end = at + chunk; chunk == 0 {
				end = at + bytes.Index(in[at:], []byte("\r\n.\r\n")) + 5
			}
			for _, p := range []int{at, at + 1, (at + end) / 2, end - 6, end - 5, end - 4, end - 3, end - 2, end - 1, end} {
				add(incoming, p, "body %d, octet %d of %d", n, p-at, end-at)
			}
			at = end
			continue
		}
		chunk = 0
		_, _ = fmt.Sscanf(name, "BDAT %d LAST", &chunk)
		add(incoming, at, "command %d, %.12q, before", n, name)
		add(incoming, (at+end)/2, "command %d, %.12q, within", n, name)
		add(incoming, end-1, "command %d, %.12q, before its LF", n, name)
		add(incoming, end, "command %d, %.12q, after", n, name)
		at = end
	}
	return l
}

// acknowledged counts the final replies that are whole in what the customer has sent: behind greeting and EHLO each
// message has a run of replies of which the last counts.
func (k *dropSessions) acknowledged(out []byte) int {
	replies := 0
	starts := lineStarts(out)
	for i := range len(starts) - 1 {
		if line := out[starts[i]:starts[i+1]]; len(line) > 3 && line[3] == ' ' {
			replies++
		}
	}
	each := 4 // MAIL, RCPT, DATA, the dot
	if k.offer.Chunking {
		each = 3 // MAIL, RCPT, BDAT
	}
	return min(max(replies-2, 0)/each, dropMessages)
}

// whole counts the messages that came whole, by the ends of their content.
func (k *dropSessions) whole(in []byte) (ids []string) {
	for i := range dropMessages {
		_, rest, ok := bytes.Cut(in, []byte("X-Test-Id: "+dropID(i)+"\r\n"))
		end := "\r\n.\r\n"
		if k.offer.Chunking {
			end = "\r\nMAIL FROM:" // behind a chunk, so that the last one is not counted, and need not be
		}
		if ok && bytes.Contains(rest, []byte(end)) {
			ids = append(ids, dropID(i))
		}
	}
	return ids
}

// queued lists what is queued for domain once its lease was given back: the ids, and which of them are in doubt.
func (k *dropSessions) queued(domain string) (all, doubtful []string) {
	until(k.t, "the lease of "+domain+" to be given back", func() bool {
		all, doubtful = nil, nil
		leased := false
		if err := k.admin.List(domain, func(e queue.Entry) bool {
			leased = leased || e.Leased
			id := strings.TrimSuffix(strings.TrimPrefix(e.Envelope.ReversePath, "sender+"), "@mx.example")
			all = append(all, id)
			if e.Envelope.InDoubt {
				doubtful = append(doubtful, id)
			}
			return true
		}); err != nil {
			k.t.Fatal(err)
		}
		return !leased
	})
	return all, doubtful
}

// once cuts one session and looks at what the server made of it.
func (k *dropSessions) once(domain string, d drop) {
	conn, err := k.run(domain, &d)
	if conn == nil {
		k.t.Errorf("%v: %v", d, err)
		return
	}
	// The last reply, that to QUIT, is not waited for by anybody. Beneath TLS the same octets may come in fewer records another time, each of which
	// has octets of its own: then the session must have come to its end.
	if line := conn.line(); !line.cut && len(line.seen[d.way]) < d.at && (!k.under || err != nil) {
		k.t.Errorf("%v: the session was not cut: %v", d, err)
	}
	var want []string
	for i := k.acknowledged(conn.seen[outgoing]); i < dropMessages; i++ {
		want = append(want, dropID(i))
	}
	left, doubtful := k.queued(domain)
	if d.reset {
		// Replies may have been lost with the connection: more may be left, never less.
		if n := len(left); n < len(want) || n > dropMessages || !slices.Equal(left[n-len(want):], want) {
			k.t.Errorf("%v: left are %q, not acknowledged were %q", d, left, want)
		}
		return
	}
	if !slices.Equal(left, want) {
		k.t.Errorf("%v: left are %q, not acknowledged were %q", d, left, want)
	}
	for _, id := range k.whole(conn.seen[incoming]) {
		if slices.Contains(want, id) && !slices.Contains(doubtful, id) {
			k.t.Errorf("%v: %s came whole and was not acknowledged, and is not in doubt", d, id)
		}
	}
}

// TestDrop cuts the line of a reversed session at every protocol point, in both directions, by FIN and by RST, in clear and under
// TLS, in lock-step, pipelined and in chunks. Nothing is lost: what the customer has not acknowledged is left in the queue.
// What it acknowledged, as far as that has reached the server, is not, and so was not recorded as deferred; what came whole
// without a final reply is in doubt. At the end all domains are collected, and what was left comes.
func TestDrop(t *testing.T) {
	const domains = 320
	eachDropSessions(t, domains, []string{"clear", "tls"}, func(k *dropSessions) {
		uncut, err := k.run(k.a.Domains[0], nil)
		if err != nil {
			k.t.Fatal(err)
		}
		points := drops(uncut)
		if len(points) < 100 || len(points) >= domains {
			k.t.Fatalf("%d points", len(points))
		}
		k.cutAll(points)
	})
}

// TestDropAnywhere is TestDrop with lines that are cut at any octet, under TLS in the middle of its records: ODMR_DROP_CUTS of them for each
// kind of session, or 40, from the seed ODMR_DROP_SEED, or 1.
func TestDropAnywhere(t *testing.T) {
	cuts, seed := number(t, "ODMR_DROP_CUTS", 40), number(t, "ODMR_DROP_SEED", 1)
	eachDropSessions(t, cuts+1, []string{"clear", "tls", "records"}, func(k *dropSessions) {
		uncut, err := k.run(k.a.Domains[0], nil)
		if err != nil {
			k.t.Fatal(err)
		}
		seen := uncut.line().seen
		rng := rand.New(rand.NewPCG(uint64(seed), 0))
		var points []drop
		for range cuts {
			d := drop{way: direction(rng.IntN(2)), reset: rng.IntN(2) == 0}
			// The last octets may be fewer another time: dates and ids are in it. That end TestDrop looks at.
			d.at = rng.IntN(max(len(seen[d.way])-64, 1))
			d.where = fmt.Sprintf("octet %d of %d, direction %d", d.at, len(seen[d.way]), d.way)
			points = append(points, d)
		}
		k.cutAll(points)
	})
}

// number is that of an environment variable, or usual.
func number(t *testing.T, name string, usual int) int {
	t.Helper()
	v := os.Getenv(name)
	if v == "" {
		return usual
	}
	n, err := strconv.Atoi(v)
	if err != nil || n <= 0 {
		t.Fatalf("%s: %q", name, v)
	}
	return n
}

// eachDropSessions runs do for each kind of session over each kind of line, with an account of so many domains; there is
// mail for the first of them.
func eachDropSessions(t *testing.T, domains int, lines []string, do func(*dropSessions)) {
	var accounts []client.Account
	for _, kind := range []string{"lock-step", "pipelined", "chunked"} {
		for _, line := range lines {
			a := customer(kind + "-" + line)
			for i := range domains {
				a.Domains = append(a.Domains, fmt.Sprintf("d%03d.%s.%s.example", i, kind, line))
			}
			accounts = append(accounts, a)
		}
	}
	s, secure, ca := startTLSServer(t, accounts)
	trusted := trust(t, ca)
	for _, a := range accounts {
		t.Run(a.User, func(t *testing.T) {
			t.Parallel()
			at := strings.LastIndexByte(a.User, '-')
			k := &dropSessions{t: t, s: s, addr: s.ODMR, a: a, offer: offers[a.User[:at]]}
			if line := a.User[at+1:]; line != "clear" {
				k.addr, k.tls, k.under = secure, trusted, line == "records"
			}
			var err error
			if k.admin, err = admin.Dial(context.Background(), s.Data); err != nil {
				t.Fatal(err)
			}
			defer k.admin.Close()
			k.handIn(a.Domains[:1])
			do(k)
		})
	}
}

// cutAll cuts a session at each of points, and collects at the end what was left.
func (k *dropSessions) cutAll(points []drop) {
	k.handIn(k.a.Domains[1 : len(points)+1])
	for i, d := range points {
		k.once(k.a.Domains[i+1], d)
	}
	k.t.Logf("%d points", len(points))
	k.collectAll()
}

// handIn brings the messages of a cut for each of domains.
func (k *dropSessions) handIn(domains []string) {
	var messages []client.Message
	for _, d := range domains {
		for i := range dropMessages {
			messages = append(messages, message(dropID(i), i%2, []int{200, 20_000, 300}[i], "a@"+d))
		}
	}
	handIn(k.t, k.s.SMTP, client.SenderOptions{}, messages...)
}

// collectAll collects what was left in all domains at once: as many messages as are queued.
func (k *dropSessions) collectAll() {
	want := 0
	for _, d := range k.a.Domains {
		if err := k.admin.List(d, func(queue.Entry) bool { want++; return true }); err != nil {
			k.t.Fatal(err)
		}
	}
	rec := &client.Recorder{}
	all := k.a
	all.Domains = nil
	collect(k.t, k.s, all, rec)
	if got := len(rec.Messages()); got != want || want == 0 {
		k.t.Errorf("%d messages came in the end, %d were left", got, want)
	}
	for _, d := range k.a.Domains {
		if left, _ := k.queued(d); len(left) > 0 {
			k.t.Errorf("%s: %q are left for ever", d, left)
		}
	}
}
