package delay

import (
	"bytes"
	"io"
	"math/rand/v2"
	"net"
	"testing"
	"time"
)

// echo answers with what it gets, until its peer has ended.
func echo(t *testing.T) string {
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
			go func() {
				defer conn.Close()
				_, _ = io.Copy(conn, conn)
			}()
		}
	}()
	return l.Addr().String()
}

func dial(t *testing.T, rtt time.Duration) net.Conn {
	t.Helper()
	r, err := Listen(t.Context(), echo(t), rtt)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(r.Close)
	conn, err := net.Dial("tcp", r.Addr())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return conn
}

// No octet is back before a round trip has passed. (How much later it may be is the machine's affair.)
func TestNothingIsEarly(t *testing.T) {
	const rtt = 30 * time.Millisecond
	conn := dial(t, rtt)
	for range 5 {
		began := time.Now()
		if _, err := conn.Write([]byte("x")); err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadFull(conn, make([]byte, 1)); err != nil {
			t.Fatal(err)
		}
		if took := time.Since(began); took < rtt {
			t.Errorf("a round trip took %v, less than %v", took, rtt)
		}
	}
}

// Delay is not throughput: many pieces are on the line at once. 200 of them would take 40 s if they waited
// for each other, and are given 20. They come back whole, in order, and the end is passed on.
func TestManyAreOnTheLine(t *testing.T) {
	const rtt = 200 * time.Millisecond
	conn := dial(t, rtt)
	sent := make([]byte, 2<<20)
	random := rand.NewChaCha8([32]byte{1})
	_, _ = random.Read(sent)
	if err := conn.SetDeadline(time.Now().Add(20 * time.Second)); err != nil {
		t.Fatal(err)
	}
	go func() {
		for i := 0; i < len(sent); i += len(sent) / 200 {
			if _, err := conn.Write(sent[i:min(len(sent), i+len(sent)/200)]); err != nil {
				return
			}
		}
		_ = conn.(*net.TCPConn).CloseWrite()
	}()
	got, err := io.ReadAll(conn)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, sent) {
		t.Error("what came back differs from what was sent")
	}
}
