package engine

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"net"
	"os"
	"time"

	"odmr/engine/session"
)

// TLS stands between a connection's plain octets and its socket. crypto/tls is driven on the event loop
// through a net.Conn that never blocks (wire): a Read that finds too little ciphertext returns errNoMore,
// which is temporary in the sense of net.Error, and crypto/tls then goes on where it was at the next Read. A
// handshake cannot be interrupted like that, so it runs on a goroutine of its own (tls_handshake.go) that
// the loop feeds, and which is gone when the handshake is over.

const (
	// maxRecord is how many octets of plain text one TLS record holds (RFC 8446 5.1).
	maxRecord = 16 << 10
	// maxPlain is how many decrypted octets a machine may leave before no more are decrypted: more than the
	// longest line of any machine, so that one that waits for the end of a line gets it.
	maxPlain = 16 << 10
	// sealOctets is how much ciphertext may wait for the kernel before no more is made (and at most
	// one record beyond it): enough for one writev, and all that a slow peer costs here.
	sealOctets = 64 << 10
	// longLine is how many octets of a line fetchmail 6 takes at a time, and some less (its MSGBUFSIZE is 8192).
	longLine = 4096
	// sealMost is how much ciphertext may wait before no more input is looked at: crypto/tls answers some of it
	// (key updates), and a peer that does not read the answers must not make them pile up.
	sealMost = 2*sealOctets + maxRecord
)

// tlsPhase is where TLS on a connection stands. It only moves forward.
type tlsPhase uint8

const (
	tlsWaiting tlsPhase = iota // for the first whole record
	tlsShaking                 // the handshake runs
	tlsUp
	tlsGone // the socket is closed, or TLS is broken
)

// secure is TLS on one connection. It belongs to the connection's loop; what the handshake's goroutine
// touches is in wire.
type secure struct {
	c        *conn
	phase    tlsPhase
	implicit bool // from the first octet: the dialogue begins afterwards
	dry      bool // crypto/tls holds no whole record
	ended    bool // nothing more will be read
	goodbye  bool // our close_notify was made
	version  uint16
	within   bool // the last record ended within a line
	wire     *wire
	tc       *tls.Conn
	by       session.Time // when the handshake must be complete
	queue    cipherQueue
	plain    []byte // decrypted octets; a large buffer of the loop's, nil while there are none
	taken    int    // how many of them the machine took
}

// errNoMore says that no more ciphertext has arrived yet. crypto/tls holds it for temporary.
var errNoMore net.Error = noMore{}

type noMore struct{}

func (noMore) Error() string   { return "engine: no more ciphertext yet" }
func (noMore) Timeout() bool   { return true }
func (noMore) Temporary() bool { return true }

// shaking reports whether the connection is between clear text and TLS: no machine runs.
func (s *secure) shaking() bool { return s != nil && s.phase < tlsUp }

// up reports whether octets are to be encrypted.
func (s *secure) up() bool { return s.phase == tlsUp }

// beginTLS ends clear text on c.
func (c *conn) beginTLS(now session.Time, implicit bool) {
	s := &secure{c: c, implicit: implicit, by: now + session.Time(c.lp.eng.cfg.Timeouts.Handshake)}
	s.queue.lp = c.lp
	c.tls, c.out.tls = s, s
}

// startTLS performs ActStartTLS. The machine has seen all that has arrived, so there is nothing
// behind the command; if there were, it would have come in clear and must not be used (CVE-2011-0411).
func (c *conn) startTLS(now session.Time) {
	switch {
	case c.lp.eng.tls == nil || c.tls != nil:
		c.abandon("TLS was asked for and is not offered")
	case c.gc.InboundBuffered() > 0:
		c.abandon("data behind STARTTLS")
	default:
		c.beginTLS(now, false)
	}
}

// secured goes on under TLS: a dialogue begins, or begins anew.
func (c *conn) secured(now session.Time, j *shakeJob) {
	s := c.tls
	s.phase = tlsUp
	s.version = j.state.Version
	s.wire.s = s // it reads from the socket from now on
	c.lp.eng.cfg.Observer.TLSBegan(j.state.Version)
	if !c.out.empty() { // cannot be: the peer has seen what we sent after that
		c.abandon("clear text is left after the handshake")
		return
	}
	if c.role == ODMR {
		c.identity.TLS, c.identity.ServerCertificate = &j.state, s.wire.certificate
	}
	if s.implicit {
		c.start(now)
		return
	}
	c.offer()
	c.sess.Done(now, 0, &session.Result{}, &c.lp.out)
	c.carryOut(now)
}

// forgetIdentity lets go of what logins rest on, once nobody logs in any more.
func (c *conn) forgetIdentity() { c.identity.TLS, c.identity.ServerCertificate = nil, nil }

// receiveTLS gives the machine what came in. It reports whether anything came of it.
func (c *conn) receiveTLS(now session.Time) bool {
	s := c.tls
	more, err := s.pull()
	acted := false
	if rest := s.plain[s.taken:]; len(rest) > 0 {
		n := c.sess.Input(now, rest, &c.lp.out)
		s.take(n)
		c.in.grew(c.lp.eng, int64(n))
		acted = c.carryOut(now) || n > 0
	}
	// Behind close_notify a client still hears the replies to what came before it: see throttle.
	if err != nil && !acted && (err != io.EOF || !c.ordering()) {
		c.endTLS(err)
	}
	return acted || more
}

// take notes that the machine took n octets.
func (s *secure) take(n int) {
	if s.taken += n; s.taken == len(s.plain) {
		s.drop()
	}
}

func (s *secure) drop() {
	if s.plain != nil {
		clear(s.plain) // passwords go this way
		s.c.lp.large.put(s.plain)
	}
	s.plain, s.taken = nil, 0
}

// pull decrypts a record's worth, if there is room and ciphertext. It reports whether anything came of
// it; an error says that nothing more will.
func (s *secure) pull() (more bool, err error) {
	switch {
	case s.ended:
		return false, io.EOF
	case len(s.plain)-s.taken >= maxPlain, s.queue.pending > sealMost, s.dry && !s.wire.ready():
		return false, nil
	}
	if s.plain == nil {
		s.plain = s.c.lp.large.get()
	}
	if s.taken > 0 {
		s.plain = s.plain[:copy(s.plain, s.plain[s.taken:])]
		s.taken = 0
	}
	n, err := s.tc.Read(s.plain[len(s.plain):cap(s.plain)])
	s.plain = s.plain[:len(s.plain)+n]
	s.dry = err == errNoMore
	if s.dry {
		err = nil
	}
	s.ended = err != nil
	if len(s.plain) == 0 {
		s.drop()
	}
	return n > 0, err
}

// endTLS ends the session because its peer said close_notify, or something that is not TLS. What crypto/tls has
// to say to that is sent as far as the socket takes it. Nothing else is: as after a closed
// connection, nobody listens.
func (c *conn) endTLS(err error) {
	s := c.tls
	if s.goodbyeOnce() || err != io.EOF {
		f := flushed{}
		s.queue.flush(c.fd, &f)
		c.sent(f.n)
	}
	if err == io.EOF {
		c.abandon("connection closed by peer")
	} else {
		c.abandon("TLS: " + err.Error())
	}
}

// goodbyeOnce makes our close_notify and reports whether there is one to be sent.
func (s *secure) goodbyeOnce() bool {
	if s == nil || s.phase != tlsUp || s.goodbye {
		return false
	}
	s.goodbye = true
	return s.tc.CloseWrite() == nil
}

// close gives back everything: the socket is gone.
func (s *secure) close() {
	if s == nil {
		return
	}
	obs := s.c.lp.eng.cfg.Observer
	switch s.phase {
	case tlsWaiting, tlsShaking:
		obs.TLSFailed()
	case tlsUp:
		obs.TLSEnded()
	}
	s.phase = tlsGone
	if s.wire != nil {
		s.wire.kill(net.ErrClosed)
	}
	s.queue.drop()
	s.drop()
	s.tc = nil
}

// flushTLS writes what it may to fd: what is left of clear text before the handshake, then ciphertext.
func (o *output) flushTLS(fd int, done func(*source)) flushed {
	var f flushed
	if !o.tls.up() && !o.empty() {
		if f = o.flushClear(fd, done); f.blocked || f.again || f.err != nil || !o.empty() {
			return f
		}
	}
	for f.n < flushOctets {
		if o.tls.up() && !o.tls.goodbye {
			if f.err = o.seal(done); f.err != nil {
				return f
			}
		}
		if o.tls.queue.empty() {
			return f
		}
		if o.tls.queue.flush(fd, &f); f.blocked || f.err != nil {
			return f
		}
	}
	f.again = !o.drained()
	return f
}

// drained reports whether the kernel has taken everything.
func (o *output) drained() bool { return o.empty() && (o.tls == nil || o.tls.queue.empty()) }

// seal encrypts what may be written until sealOctets of ciphertext wait, in records as full as they can be.
// The end of a flight (all that there is to write for now) is a record of its own; see flightEnd.
func (o *output) seal(done func(*source)) error {
	s, lp := o.tls, o.lp
	for s.queue.pending < sealOctets {
		rec := lp.record[:0]
		for len(rec) < maxRecord {
			o.trim(done)
			total, err := o.gather()
			if err != nil {
				return err
			}
			if total == 0 {
				break
			}
			if len(rec) == 0 && len(o.iov[0]) >= maxRecord && total > maxRecord {
				// A record from the middle of a body is encrypted from where it lies.
				if err := s.encrypt(o.iov[0][:maxRecord]); err != nil {
					return err
				}
				clear(o.iov)
				o.took(maxRecord)
				if s.queue.pending >= sealOctets {
					return nil
				}
				continue
			}
			before := len(rec)
			for _, b := range o.iov {
				rec = append(rec, b[:min(len(b), maxRecord-len(rec))]...)
			}
			clear(o.iov)
			o.took(int64(len(rec) - before))
		}
		o.trim(done)
		if len(rec) == 0 {
			return nil
		}
		if o.empty() {
			if i := s.flightEnd(rec); i > 0 {
				if err := s.encrypt(rec[:i]); err != nil {
					return err
				}
				rec = rec[i:]
			}
		}
		if err := s.encrypt(rec); err != nil {
			return err
		}
	}
	return nil
}

// flightEnd returns where the last record of a flight begins, of which rec is what has not been encrypted.
//
// fetchmail takes one line, or longLine octets of one, each time that its socket has something to read, and
// does not see what crypto has decrypted beyond that. So the record that it reads last must hold nothing
// behind what it takes then: a line that begins with the record, or else, since where it stands within a long
// line is not known here, the last octet alone.
func (s *secure) flightEnd(rec []byte) int {
	i := bytes.LastIndexByte(rec[:len(rec)-1], '\n') + 1
	if len(rec)-i > longLine || i == 0 && s.within {
		return len(rec) - 1
	}
	return i
}

// encrypt makes one record of b, of maxRecord octets at most.
func (s *secure) encrypt(b []byte) error {
	s.within = b[len(b)-1] != '\n'
	_, err := s.tc.Write(b)
	return err
}

// wire is the net.Conn under a tls.Conn. During the handshake it blocks, and is fed by the loop
// (tls_handshake.go); afterwards it belongs to the loop and never blocks.
type wire struct {
	pipe
	s           *secure // nil during the handshake
	certificate *x509.Certificate
}

// ready reports whether a Read would find anything.
func (w *wire) ready() bool { return len(w.in) > 0 || w.s.c.gc.InboundBuffered() > 0 }

// Read gives crypto/tls what has arrived: first what the handshake left.
func (w *wire) Read(p []byte) (int, error) {
	if w.s == nil {
		return w.wait(p)
	}
	if len(w.in) > 0 {
		n := copy(p, w.in)
		if w.in = w.in[n:]; len(w.in) == 0 {
			w.in = nil
		}
		return n, nil
	}
	c := w.s.c
	if c.gc == nil || c.gc.InboundBuffered() == 0 {
		return 0, errNoMore
	}
	b, err := c.gc.Peek(-1)
	if err != nil {
		return 0, err
	}
	n := copy(p, b)
	if n == 0 { // gnet's Discard(0) would discard everything
		return 0, errNoMore
	}
	_, _ = c.gc.Discard(n)
	c.received(n)
	return n, nil
}

// Write takes all ciphertext that crypto/tls makes: never more than sealOctets and a record wait (seal).
func (w *wire) Write(p []byte) (int, error) {
	if w.s == nil {
		return w.say(p)
	}
	w.s.queue.write(p)
	return len(p), nil
}

func (w *wire) Close() error                     { return nil }
func (w *wire) LocalAddr() net.Addr              { return wireAddr{} }
func (w *wire) RemoteAddr() net.Addr             { return wireAddr{} }
func (w *wire) SetDeadline(time.Time) error      { return nil } // deadlines are the loop's
func (w *wire) SetReadDeadline(time.Time) error  { return nil }
func (w *wire) SetWriteDeadline(time.Time) error { return nil }

type wireAddr struct{}

func (wireAddr) Network() string { return "tcp" }
func (wireAddr) String() string  { return "" }

var (
	_ net.Conn = (*wire)(nil)
	// errCrowded ends a handshake in whose place another begins, errNotTLS one that never was any.
	errCrowded = errors.New("too many handshakes at once")
	errNotTLS  = errors.New("what came is no ClientHello")
	errSlow    = os.ErrDeadlineExceeded
)
