package engine

import (
	"container/list"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net/netip"
	"runtime/debug"
	"sync"
	"sync/atomic"

	"odmr/engine/session"
)

const (
	// maxHandshakes is how many handshakes may be under way. Each costs a goroutine that mostly waits for its
	// client; one more ends the oldest of those who have most, so that clients that stall cannot keep others out: an honest one
	// needs two exchanges and is done before so many have come after it.
	maxHandshakes = 1024
	// maxShakeInput is how many octets may wait for a handshake's goroutine.
	maxShakeInput = 32 << 10
	// maxClientChain is how many octets of certificates a client may show, which stay in memory as long as its session: a leaf
	// and two CAs with RSA keys of 4,096 bits have some 6 KiB. crypto/tls takes 256 KiB, from everybody who connects.
	maxClientChain = 16 << 10
	// recordHeader is the length of a record's header, and recordHandshake the type of the first record
	// that a client sends (RFC 8446 5.1).
	recordHeader    = 5
	recordHandshake = 22
)

// handshakes is the pool on which handshakes run: a goroutine each, of which only as many as there are
// CPUs compute at once. For that networks take turns, and addresses within them, as for passwords. A goroutine that waits for its
// client computes nothing and holds no place.
type handshakes struct {
	mu    sync.Mutex
	live  list.List // of *wire, oldest first
	max   int
	crowd map[addressKey]*headcount // what of live is each network's
	free  int                       // places to compute that nobody has
	line  shares[*pipe]             // who waits for one
}

// headcount is how many handshakes of a network, or of one address in it, are under way.
type headcount struct {
	live  int
	parts map[addressKey]*headcount // of a network: its addresses
}

// begin enters w, and ends a handshake if there are too many: the oldest of a network, and in it of an address, that has at least as many
// as are one's share. A flood ends its own.
func (h *handshakes) begin(w *wire) {
	var ended *wire
	h.mu.Lock()
	defer func() {
		h.mu.Unlock()
		if ended != nil {
			ended.kill(errCrowded)
		}
	}()
	if h.live.Len() >= h.max {
		at := h.live.Front()
		for !h.crowded(at.Value.(*wire)) {
			at = at.Next()
		}
		ended = at.Value.(*wire)
		h.remove(ended)
	}
	if h.crowd == nil {
		h.crowd = make(map[addressKey]*headcount)
	}
	network := oneMore(h.crowd, networkOf(w.from))
	if network.parts == nil {
		network.parts = make(map[addressKey]*headcount)
	}
	w.network, w.address = network, oneMore(network.parts, keyOf(w.from))
	w.place = h.live.PushBack(w)
}

func oneMore(of map[addressKey]*headcount, key addressKey) *headcount {
	c := of[key]
	if c == nil {
		c = new(headcount)
		of[key] = c
	}
	c.live++
	return c
}

// crowded reports whether w's network has the average of all networks or more, and its address that of the network's. Of each there is one
// that has.
func (h *handshakes) crowded(w *wire) bool {
	return w.network.live*len(h.crowd) >= h.live.Len() && w.address.live*len(w.network.parts) >= w.network.live
}

// remove takes w out, once; mu is held.
func (h *handshakes) remove(w *wire) {
	if w.network == nil {
		return
	}
	h.live.Remove(w.place)
	if w.address.live--; w.address.live == 0 {
		delete(w.network.parts, keyOf(w.from))
	}
	if w.network.live--; w.network.live == 0 {
		delete(h.crowd, networkOf(w.from))
	}
	w.network, w.address = nil, nil
}

func (h *handshakes) end(w *wire) {
	h.mu.Lock()
	h.remove(w)
	h.mu.Unlock()
}

// compute waits for a place to compute, computed gives it to who is next. Who is to end gets none, and waits no longer: he computes nothing.
func (h *handshakes) compute(p *pipe) {
	h.mu.Lock()
	switch {
	case p.quits:
	case h.free > 0:
		h.free--
		p.holds = true
	default:
		turn := make(chan struct{})
		p.turn = turn
		h.line.push(p.from, p)
		h.mu.Unlock()
		<-turn
		return
	}
	h.mu.Unlock()
}

func (h *handshakes) computed(p *pipe) {
	h.mu.Lock()
	defer h.mu.Unlock()
	p.holds = false
	if next, ok := h.line.pop(); ok {
		next.holds = true
		close(next.turn)
		next.turn = nil
	} else {
		h.free++
	}
}

// quit takes p, which is to end, out of the line: else those that a flood leaves behind would wait there, each with its goroutine.
func (h *handshakes) quit(p *pipe) {
	h.mu.Lock()
	defer h.mu.Unlock()
	p.quits = true
	if p.turn != nil {
		h.line.drop(p.from, func(other *pipe) bool { return other == p })
		close(p.turn)
		p.turn = nil
	}
}

// pipe is a wire during the handshake: the goroutine reads what the loop feeds, and the loop fetches what
// the goroutine writes.
type pipe struct {
	mu     sync.Mutex
	fed    sync.Cond
	in     []byte
	out    []byte
	full   bool  // the loop has more input than it could feed
	posted bool  // evShake is on its way
	err    error // the handshake is to end
	holds  bool  // a place to compute; of the goroutine, and of who gives it while it waits
	pool   *handshakes
	from   netip.Addr // the client's

	turn  chan struct{} // closed when it waits in pool.line no more; nil: it does not; pool.mu
	quits bool          // it is to end; pool.mu

	network, address *headcount    // of pool, that it counts for; nil: for none any more
	place            *list.Element // in pool.live

	home *loop
	conn uint64
}

// wait is Read during the handshake.
func (p *pipe) wait(b []byte) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for len(p.in) == 0 && p.err == nil {
		p.mu.Unlock()
		p.leave()
		p.mu.Lock()
		for len(p.in) == 0 && p.err == nil {
			p.fed.Wait()
		}
		p.mu.Unlock()
		p.enter()
		p.mu.Lock()
	}
	if p.err != nil {
		return 0, p.err
	}
	n := copy(b, p.in)
	if p.in = p.in[n:]; len(p.in) == 0 && p.full {
		p.full = false
		p.post()
	}
	return n, nil
}

// say is Write during the handshake. crypto/tls writes a flight at once, and no second one before the
// client has answered.
func (p *pipe) say(b []byte) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.err != nil {
		return 0, p.err
	}
	p.out = append(p.out, b...)
	p.post()
	return len(b), nil
}

// post wakes the loop; mu is held.
func (p *pipe) post() {
	if !p.posted {
		p.posted = true
		p.home.inbox.post(event{kind: evShake, conn: p.conn})
	}
}

// enter waits for a place to compute, leave gives it up.
func (p *pipe) enter() { p.pool.compute(p) }

func (p *pipe) leave() {
	if p.holds {
		p.pool.computed(p)
	}
}

// kill makes the handshake end with err.
func (p *pipe) kill(err error) {
	p.mu.Lock()
	if p.err == nil {
		p.err = err
	}
	p.fed.Signal()
	p.mu.Unlock()
	p.pool.quit(p)
}

// feed takes octets from the loop and returns how many.
func (p *pipe) feed(b []byte) int {
	p.mu.Lock()
	defer p.mu.Unlock()
	n := min(len(b), maxShakeInput-len(p.in))
	p.in = append(p.in, b[:n]...)
	p.full = n < len(b)
	p.fed.Signal()
	return n
}

// fetch gives what the goroutine wrote to q.
func (p *pipe) fetch(q *cipherQueue) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.posted = false
	q.write(p.out)
	p.out = p.out[:0]
}

// shakeJob is a handshake.
type shakeJob struct {
	wire   *wire
	tc     *tls.Conn
	cas    func() *x509.CertPool
	state  tls.ConnectionState
	reason error
}

func (j *shakeJob) run() {
	j.wire.enter()
	if j.reason = j.tc.Handshake(); j.reason != nil {
		return
	}
	j.state = j.tc.ConnectionState()
	if j.cas != nil {
		verifyClient(&j.state, j.cas())
	}
}

func (j *shakeJob) fail(err error) { j.reason = err }
func (j *shakeJob) discard()       {}

// verifyClient sets VerifiedChains if the client's certificate is good for cas.
func verifyClient(cs *tls.ConnectionState, cas *x509.CertPool) {
	cs.VerifiedChains = nil
	if cas == nil || len(cs.PeerCertificates) == 0 {
		return
	}
	between := x509.NewCertPool()
	for _, cert := range cs.PeerCertificates[1:] {
		between.AddCert(cert)
	}
	chains, err := cs.PeerCertificates[0].Verify(x509.VerifyOptions{
		Roots: cas, Intermediates: between, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	})
	if err == nil {
		cs.VerifiedChains = chains
	}
}

// errLongChain ends a handshake whose client shows more than maxClientChain.
var errLongChain = errors.New("the client's certificates are too long")

// checkChainSize is tls.Config's VerifyPeerCertificate. Whether the certificates are good is verifyClient's to say.
func checkChainSize(chain [][]byte, _ [][]*x509.Certificate) error {
	total := 0
	for _, cert := range chain {
		total += len(cert)
	}
	if total > maxClientChain {
		return errLongChain
	}
	return nil
}

// handshake runs j on a goroutine of its own, which ends with it.
func (e *Engine) handshake(c *conn, j *shakeJob) {
	c.inflight++
	e.shakes.begin(j.wire)
	home, id := c.lp, c.id
	go func() {
		defer func() {
			if p := recover(); p != nil {
				e.cfg.Observer.Panic()
				e.panics.Add(1)
				e.log.Error().Interface("panic", p).Bytes("stack", debug.Stack()).Msg("panic in a TLS handshake")
				j.fail(fmt.Errorf("panic in a handshake: %v", p))
			}
			j.wire.leave()
			e.shakes.end(j.wire)
			home.inbox.post(event{kind: evDone, conn: id, job: j})
		}()
		j.run()
	}()
}

// shake brings a handshake forward with what has arrived. It begins once the first record is whole, so
// that clients which send less than that cost no goroutine.
func (c *conn) shake() {
	s := c.tls
	if s.phase == tlsWaiting {
		b, _ := c.gc.Peek(-1)
		whole, ok := helloArrived(b)
		switch {
		case !ok:
			c.shakeFailed(errNotTLS)
			return
		case !whole:
			return
		}
		e := c.lp.eng
		s.phase = tlsShaking
		s.wire = &wire{pipe: pipe{pool: &e.shakes, from: c.remote.Addr(), home: c.lp, conn: c.id}}
		s.wire.fed.L = &s.wire.mu
		s.tc = tls.Server(s.wire, e.tls)
		e.handshake(c, &shakeJob{wire: s.wire, tc: s.tc, cas: e.cfg.TLS.ClientCAs})
	}
	if n := c.gc.InboundBuffered(); n > 0 {
		b, _ := c.gc.Peek(-1)
		if n = s.wire.feed(b); n > 0 {
			_, _ = c.gc.Discard(n)
			c.received(n)
		}
	}
}

// helloArrived reports whether b begins with a whole record, and whether it can become one that a handshake
// begins with.
func helloArrived(b []byte) (whole, ok bool) {
	if len(b) > 0 && b[0] != recordHandshake || len(b) > 1 && b[1] != 3 {
		return false, false
	}
	if len(b) < recordHeader {
		return false, true
	}
	n := int(b[3])<<8 | int(b[4])
	ok = n > 0 && n <= maxRecord
	return ok && len(b) >= recordHeader+n, ok
}

// shaken takes back a handshake.
func (c *conn) shaken(now session.Time, j *shakeJob) {
	s := c.tls
	if c.phase != phaseOpen || s.phase != tlsShaking {
		return
	}
	s.wire.fetch(&s.queue)
	if j.reason != nil {
		c.shakeFailed(j.reason)
		return
	}
	c.secured(now, j)
}

// shakeFailed ends the session. The alert that says why goes out as far as the socket takes it.
func (c *conn) shakeFailed(err error) {
	f := flushed{}
	c.tls.queue.flush(c.fd, &f)
	c.sent(f.n)
	c.abandon("TLS handshake: " + err.Error())
}

// tlsConfig makes the server's side of crypto/tls from cfg; nil if there is no certificate. TLS says
// what is decided here.
func tlsConfig(cfg *TLS) *tls.Config {
	if cfg.Certificate == nil {
		return nil
	}
	t := &tls.Config{
		MinVersion:                  max(cfg.MinVersion, tls.VersionTLS12),
		CipherSuites:                authenticating(),
		SessionTicketsDisabled:      true,
		DynamicRecordSizingDisabled: true, // full records from the first
		GetCertificate: func(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
			cert, err := cfg.Certificate(hello)
			if w, ok := hello.Conn.(*wire); ok && cert != nil {
				w.certificate = cert.Leaf
			}
			return cert, err
		},
	}
	if cfg.ClientCAs == nil {
		return t
	}
	// The CAs may have changed; they stand in the request for a certificate.
	var last atomic.Pointer[tls.Config]
	t.GetConfigForClient = func(*tls.ClientHelloInfo) (*tls.Config, error) {
		cas := cfg.ClientCAs()
		if cas == nil {
			return nil, nil
		}
		asking := last.Load()
		if asking == nil || asking.ClientCAs != cas {
			asking = t.Clone()
			asking.GetConfigForClient = nil
			asking.ClientAuth, asking.ClientCAs = tls.RequestClientCert, cas
			asking.VerifyPeerCertificate = checkChainSize
			last.Store(asking)
		}
		return asking, nil
	}
	return t
}
