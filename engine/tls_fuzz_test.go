package engine

import (
	"crypto/tls"
	"io"
	"runtime"
	"testing"

	"odmr/internal/certtest"
)

// FuzzTLSHandshake feeds a handshake what a client never would, in pieces: it ends with an error, holds no more than it may,
// and gives back its place.
func FuzzTLSHandshake(f *testing.F) {
	ca := certtest.NewAuthority(f)
	cert := ca.Server(f, "mail.isp.example")
	server := tlsConfig(&TLS{Certificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return cert, nil }})
	hello := clientHello(f, trusting(ca))
	f.Add(hello, uint16(7))
	f.Add(append(hello, "\x14\x03\x03\x00\x01\x01\x17\x03\x03\x00\x10aaaaaaaaaaaaaaaa"...), uint16(len(hello)))
	old := trusting(ca)
	old.MaxVersion = tls.VersionTLS12
	f.Add(append(clientHello(f, old), "\x16\x03\x03\x00\x05\x10\x00\x00\x01\x00"...), uint16(500))
	f.Add([]byte("\x16\x03\x01\x00\x05\x01\x00\x00\x01\x00"), uint16(1))
	f.Fuzz(func(t *testing.T, in []byte, step uint16) {
		if whole, ok := helloArrived(in); !whole || !ok {
			return // never comes to a handshake
		}
		pool := &handshakes{max: 2, free: 1}
		w := &wire{pipe: pipe{pool: pool, posted: true}} // nobody is waiting for its posts
		w.fed.L = &w.mu
		j := &shakeJob{wire: w, tc: tls.Server(w, server)}
		pool.begin(w)
		done := make(chan struct{})
		go func() { j.run(); w.leave(); pool.end(w); close(done) }()
		for len(in) > 0 {
			n := w.feed(in[:min(len(in), 1+int(step))])
			in = in[n:]
			w.mu.Lock()
			if len(w.in) > maxShakeInput || len(w.out) > 64<<10 {
				t.Errorf("%d octets wait for the handshake, %d for the client", len(w.in), len(w.out))
			}
			w.mu.Unlock()
			select {
			case <-done:
				in = nil
			default:
			}
		}
		for taken := false; !taken; runtime.Gosched() {
			select {
			case <-done:
				taken = true
			default:
				w.mu.Lock()
				taken = len(w.in) == 0
				w.mu.Unlock()
			}
		}
		w.kill(io.ErrUnexpectedEOF)
		<-done
		if j.reason == nil {
			t.Error("a handshake without a client")
		}
		if pool.count() != 0 || pool.free != 1 || len(pool.crowd) != 0 {
			t.Errorf("%d handshakes, %d places are free", pool.count(), pool.free)
		}
	})
}
