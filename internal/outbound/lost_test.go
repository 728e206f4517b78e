package outbound

import (
	"bufio"
	"fmt"
	"net"
	"strings"
	"testing"

	"odmr/internal/mail"
)

// scripted is a smarthost that answers each command with the next of the replies, and hangs up after the last.
func scripted(t *testing.T, replies ...string) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	t.Cleanup(func() { l.Close(); <-done })
	go func() {
		defer close(done)
		conn, err := l.Accept()
		if err != nil {
			return
		}
		defer conn.Close()
		in := bufio.NewScanner(conn)
		for _, r := range replies {
			fmt.Fprintf(conn, "%s\r\n", r)
			if !in.Scan() {
				return
			}
		}
	}()
	return l.Addr().String()
}

// TestLostBeforeSMTPUTF8: a line that is lost says nothing about what the smarthost offers. go-smtp says EHLO once more after RSET.
func TestLostBeforeSMTPUTF8(t *testing.T) {
	w := newWorld(t, Smarthost{TLS: TLSNone, Addr: scripted(t, "220 sink.example", "250-sink.example\r\n250 SMTPUTF8", "250 ok", "450 4.2.0 not now", "250 reset")})
	w.put("ann@elsewhere.example", "Subject: 1\r\n\r\nx\r\n", 0)
	in, err := w.store.Begin(0)
	if err != nil {
		t.Fatal(err)
	}
	body := "Subject: 2\r\n\r\nx\r\n"
	env := mail.Envelope{
		Domain: mail.OutboundDomain, Size: int64(len(body)), WireSize: int64(len(body)), SMTPUTF8: true,
		Recipients: []mail.Recipient{{Address: "bjørn@elsewhere.example", Notify: mail.NotifyNever}},
	}
	if err := in.Commit([]byte(body), []mail.Envelope{env}); err != nil {
		t.Fatal(err)
	}
	w.pass()
	w.wantWaiting(2)
	if n := w.store.Counts(mail.OutboundDomain).Failed; n != 0 || w.seen["deferred"] != 2 || !strings.HasPrefix(w.first().Recipients[0].Reply, "450") {
		t.Errorf("%d failed, seen %v, first %+v", n, w.seen, w.first())
	}
}
