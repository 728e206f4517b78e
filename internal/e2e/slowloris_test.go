package e2e

import (
	"bufio"
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/md5"
	"crypto/tls"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"odmr/internal/client"
)

// rawPeer is a connection of which every octet is the test's own.
type rawPeer struct {
	net.Conn
	r *bufio.Reader
}

func dialRaw(ctx context.Context, addr, from string) (*rawPeer, error) {
	d := net.Dialer{}
	if from != "" {
		d.LocalAddr = &net.TCPAddr{IP: net.ParseIP(from)}
	}
	c, err := d.DialContext(ctx, "tcp", addr)
	if err != nil {
		return nil, err
	}
	_ = c.SetDeadline(time.Now().Add(3 * patience))
	return &rawPeer{c, bufio.NewReaderSize(c, 1024)}, nil
}

// expect reads to the line that begins with want and is the last of its reply.
func (p *rawPeer) expect(want string) (string, error) {
	for {
		l, err := p.r.ReadString('\n')
		switch {
		case err != nil:
			return "", fmt.Errorf("waiting for %q: %w after %q", want, err, l)
		case len(l) > 3 && l[3] == '-' && l[0] >= '2' && l[0] <= '5':
		case strings.HasPrefix(l, want):
			return strings.TrimRight(l, "\r\n"), nil
		default:
			return "", fmt.Errorf("got %q, want %q", l, want)
		}
	}
}

func (p *rawPeer) ask(line, want string) (string, error) {
	if _, err := io.WriteString(p, line); err != nil {
		return "", err
	}
	return p.expect(want)
}

// login tries a password with CRAM-MD5 and returns the reply.
func (p *rawPeer) login(user, secret string) (string, error) {
	l, err := p.ask("AUTH CRAM-MD5\r\n", "334 ")
	if err != nil {
		return "", err
	}
	challenge, err := base64.StdEncoding.DecodeString(l[4:])
	if err != nil {
		return "", err
	}
	h := hmac.New(md5.New, []byte(secret))
	h.Write(challenge)
	return p.ask(base64.StdEncoding.EncodeToString(fmt.Appendf(nil, "%s %x", user, h.Sum(nil)))+"\r\n", "")
}

// stall is a state to hold a connection in: what is said to come there, in pairs of what is sent and what is awaited, the
// beginning of something that never ends, and the octet that is sent again and again then (0: none; 'r': one is read).
type stall struct {
	name   string
	role   string // odmr, odmrs, smtp, lmtp
	tls    string // "": clear; up: after the handshake; hello: after a whole ClientHello; half: after half of one
	script []string
	begun  string
	drip   byte
}

const signIn, atrn = "(login)", "(ATRN)"

var stalls = []stall{
	{"silence", "odmr", "", nil, "", 0},
	{"EHLO", "odmr", "", nil, "EHLO ", 'x'},
	{"after EHLO", "odmr", "", []string{"EHLO x\r\n", "250"}, "", 0},
	{"AUTH", "odmr", "", []string{"EHLO x\r\n", "250"}, "AUTH ", 'x'},
	{"exchange", "odmr", "", []string{"AUTH CRAM-MD5\r\n", "334"}, "", 'x'},
	{"authenticated", "odmr", "", []string{signIn, "235"}, "", 0},
	{"ATRN", "odmr", "", []string{signIn, "235"}, "ATRN ", 'x'},
	{"turned", "odmr", "", []string{signIn, "235", atrn, "250"}, "", 0},
	{"greeting", "odmr", "", []string{signIn, "235", atrn, "250"}, "220-", 'x'},
	{"reply to EHLO", "odmr", "", []string{signIn, "235", atrn, "250", "220 x\r\n", "EHLO"}, "250-", 'x'},
	{"reply to MAIL", "odmr", "", []string{signIn, "235", atrn, "250", "220 x\r\n", "EHLO", "250 x\r\n", "MAIL"}, "2", '5'},
	{"reply to DATA", "odmr", "", []string{signIn, "235", atrn, "250", "220 x\r\n", "EHLO", "250 x\r\n", "MAIL", "250 x\r\n", "RCPT", "250 x\r\n", "DATA"}, "", 0},
	{"body", "odmr", "", []string{signIn, "235", atrn, "250", "220 x\r\n", "EHLO", "250 x\r\n", "MAIL", "250 x\r\n", "RCPT", "250 x\r\n", "DATA", "354 x\r\n", "Received"}, "", 'r'},
	{"STARTTLS", "odmr", "", []string{"STARTTLS\r\n", "220"}, "", 0},
	{"no ClientHello", "odmrs", "half", nil, "", 0},
	{"ClientHello", "odmrs", "half", nil, "\x16\x03\x01\x01", 1},
	{"handshake", "odmrs", "hello", nil, "", 0},
	{"TLS", "odmrs", "up", []string{"EHLO x\r\n", "250"}, "", 0},
	{"record", "odmrs", "up", []string{signIn, "235"}, "\x17\x03\x03\x20\x00", 'x'}, // under the TLS connection
	{"turned under TLS", "odmrs", "up", []string{signIn, "235", atrn, "250", "220 x\r\n", "EHLO"}, "", 0},
	{"silence", "smtp", "", nil, "", 0},
	{"EHLO", "smtp", "", nil, "EHLO ", 'x'},
	{"RCPT", "smtp", "", []string{"EHLO x\r\n", "250", "MAIL FROM:<>\r\n", "250"}, "RCPT TO:<", 'x'},
	{"DATA", "smtp", "", []string{"EHLO x\r\n", "250", "MAIL FROM:<>\r\n", "250", "RCPT TO:<x@honest.example>\r\n", "250", "DATA\r\n", "354"}, "Subject: ", 'x'},
	{"BDAT", "smtp", "", []string{"EHLO x\r\n", "250", "MAIL FROM:<>\r\n", "250", "RCPT TO:<x@honest.example>\r\n", "250"}, "BDAT 1000000\r\n", 'x'},
	{"LHLO", "lmtp", "", nil, "LHLO ", 'x'},
	{"DATA", "lmtp", "", []string{"LHLO x\r\n", "250", "MAIL FROM:<>\r\n", "250", "RCPT TO:<x@honest.example>\r\n", "250", "DATA\r\n", "354"}, "\r\n", '.'},
}

// hold brings a connection into the state, as a customer of account for domain.
func (l *stall) hold(ctx context.Context, addr string, trust *tls.Config, account, domain string) (*rawPeer, error) {
	p, err := dialRaw(ctx, addr, "")
	if err != nil {
		return nil, err
	}
	_ = p.Conn.(*net.TCPConn).SetReadBuffer(4096)
	under := p.Conn // what drips goes there
	switch l.tls {
	case "hello":
		go func() { // waits for an answer that it gets and does not read
			_ = tls.Client(deaf{under}, trust).Handshake()
		}()
		return p, nil
	case "half":
		_, err := io.WriteString(p, l.begun)
		return p, err
	case "up":
		t := tls.Client(p.Conn, trust)
		if err := t.HandshakeContext(ctx); err != nil {
			return p, err
		}
		p.Conn, p.r = t, bufio.NewReader(t)
	}
	if _, err := p.expect("220"); err != nil {
		return p, err
	}
	for i := 0; i < len(l.script); i += 2 {
		switch l.script[i] {
		case signIn:
			var reply string
			if reply, err = p.login(account, password); err == nil && !strings.HasPrefix(reply, "235") {
				err = errors.New(reply)
			}
		case atrn:
			_, err = p.ask("ATRN "+domain+"\r\n", l.script[i+1])
		default:
			_, err = p.ask(l.script[i], l.script[i+1])
		}
		if err != nil {
			return p, err
		}
	}
	p.Conn = under
	_, err = io.WriteString(p, l.begun)
	return p, err
}

// deaf is a connection on which nothing is read.
type deaf struct{ net.Conn }

func (deaf) Read([]byte) (int, error) { return 0, io.EOF }

// TestSlowloris holds 5,000 connections in every state that there is, most of which get or take an octet now and then; an honest
// customer is served all the while, and an honest MTA.
func TestSlowloris(t *testing.T) {
	const connections, perAccount = 5000, 100
	needDescriptors(t, connections+500)
	each := connections/len(stalls) + 1
	domain := func(i int) string { return fmt.Sprintf("c%d.example", i) }
	honest := customer("honest", "honest.example")
	accounts := []client.Account{honest}
	n := each * len(stalls)
	for at := 0; at < n; at += perAccount {
		a := customer(fmt.Sprintf("account%d", at/perAccount))
		for i := range perAccount {
			a.Domains = append(a.Domains, domain(at+i))
		}
		accounts = append(accounts, a)
	}
	s, secure, ca := startTLSServer(t, accounts, "--sessions-per-account", "0", "--login-timeout", "10m", "--tls-handshake-timeout", "10m", "--auth-delay", "0s")
	for at := 0; at < n; at += 500 {
		var to []string
		for i := range min(500, n-at) {
			to = append(to, "a@"+domain(at+i))
		}
		handIn(t, s.SMTP, client.SenderOptions{}, message(fmt.Sprintf("m%d", at), kindText, 300_000, to...))
	}

	ctx, cancel := context.WithTimeout(t.Context(), 4*patience)
	defer cancel()
	addrs := map[string]string{"odmr": s.ODMR, "odmrs": secure, "smtp": s.SMTP, "lmtp": s.LMTP}
	cfg := trust(t, ca)
	held := make([]*rawPeer, n)
	begun := time.Now()
	inParallel(t, 64, n, func(i int) error {
		l := &stalls[i%len(stalls)]
		var err error
		if held[i], err = l.hold(ctx, addrs[l.role], cfg, fmt.Sprintf("account%d", i/perAccount), domain(i)); err != nil {
			err = fmt.Errorf("%s, %s: %w", l.role, l.name, err)
		}
		return err
	})
	defer func() {
		for _, p := range held {
			if p != nil {
				p.Close()
			}
		}
	}()
	if t.Failed() {
		return
	}
	t.Logf("%d connections in %d states after %v", n, len(stalls), time.Since(begun).Round(time.Millisecond))

	var rounds, lost atomic.Int64
	dripping, stop := context.WithCancel(ctx)
	dripped := make(chan struct{})
	go func() {
		defer close(dripped)
		for dripping.Err() == nil {
			lost.Store(0)
			for i, p := range held {
				var err error
				switch c := stalls[i%len(stalls)].drip; c {
				case 0:
				case 'r':
					_, err = p.r.ReadByte()
				default:
					_, err = p.Conn.Write([]byte{c})
				}
				if err != nil {
					lost.Add(1)
				}
			}
			rounds.Add(1)
			time.Sleep(100 * time.Millisecond)
		}
	}()
	for i := range 5 {
		until(t, "another octet for each", func() bool { return rounds.Load() >= int64(2*i+2) })
		begun := time.Now()
		handIn(t, s.SMTP, client.SenderOptions{}, message(fmt.Sprintf("h%d", i), kindText, 20_000, "a@honest.example"))
		in := time.Since(begun)
		rec := &client.Recorder{}
		addr, opts := s.ODMR, client.Options{Timeout: patience, Offer: client.FullOffer()}
		if i%2 == 1 {
			addr, opts.Security, opts.TLS = secure, client.ImplicitTLS, cfg
		}
		stats, err := client.Collect(ctx, addr, honest, opts, rec)
		if err != nil || stats.Messages != 1 {
			t.Errorf("the honest customer: %+v, %v", stats, err)
		}
		t.Logf("an honest message was taken in %v and the customer served in %v (TLS: %v)", in.Round(time.Millisecond), (time.Since(begun) - in).Round(time.Millisecond), i%2 == 1)
	}
	stop()
	<-dripped
	if got := s.Descriptors(); got < n || lost.Load() > 0 {
		t.Errorf("%d descriptors with %d connections, %d of which were lost", got, n, lost.Load())
	}
	if m := s.Memory(); m.Peak > 1<<30 {
		t.Errorf("memory: %v", m)
	} else {
		t.Logf("after %d octets for each: %v", rounds.Load(), m)
	}
}

// TestDrippingIsNoWayAround: who sends an octet now and then is ended as who sends none.
func TestDrippingIsNoWayAround(t *testing.T) {
	s, secure, _ := startTLSServer(t, []client.Account{customer("tim", "example.org")}, "--login-timeout", "1s", "--command-timeout", "1s", "--tls-handshake-timeout", "1s")
	for _, c := range []struct{ name, addr, begun string }{
		{"odmr", s.ODMR, "EHLO "}, {"odmr, commands", s.ODMR, "NOOP\r\n"}, {"smtp", s.SMTP, "EHLO "}, {"lmtp", s.LMTP, "LHLO "}, {"odmrs", secure, "\x16\x03\x01\x01"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			p, err := dialRaw(t.Context(), c.addr, "")
			if err != nil {
				t.Fatal(err)
			}
			defer p.Close()
			over := make(chan []byte, 1)
			go func() { all, _ := io.ReadAll(p.r); over <- all }()
			drip := []byte(c.begun)
			for sent := 0; ; sent++ {
				_, _ = p.Write(drip)
				if !bytes.HasSuffix(drip, []byte("\n")) {
					drip = []byte("\x01")
				}
				select {
				case all := <-over:
					if !bytes.Contains(all, []byte("\r\n421 4.4.2 ")) && c.addr != secure {
						t.Errorf("it said %q", tail(string(all), 300))
					}
					return
				case <-time.After(50 * time.Millisecond):
				}
				if sent > 1200 { // a minute
					t.Fatal("it goes on")
				}
			}
		})
	}
}

// TestDrippingWithinAMessage: an octet now and then keeps no message open for ever; a line that is slow and steady does. (For customers see
// engine: their sockets take octets in large lumps.)
func TestDrippingWithinAMessage(t *testing.T) {
	s := startServer(t, []client.Account{customer("tim", "honest.example")}, "--least-rate", "10000", "--rate-window", "2s")
	addrs := map[string]string{"smtp": s.SMTP, "lmtp": s.LMTP}
	ended := 0
	for i := range stalls {
		l := &stalls[i]
		if l.name != "DATA" && l.name != "BDAT" {
			continue
		}
		ended++
		p, err := l.hold(t.Context(), addrs[l.role], nil, "", "")
		if err != nil {
			t.Fatal(l.name, err)
		}
		defer p.Close()
		over := make(chan []byte, 1)
		go func() { all, _ := io.ReadAll(p.r); over <- all }()
		until(t, l.role+" "+l.name+" to end", func() bool {
			_, _ = p.Write([]byte{l.drip})
			select {
			case all := <-over:
				if !bytes.HasPrefix(all, []byte("421 4.4.2 Too slow")) {
					t.Errorf("%s %s: it said %q", l.role, l.name, all)
				}
				return true
			default:
				return false
			}
		})
	}
	if n := s.metric("odmr_limit_hits_total", `limit="too_slow"`); ended != 3 || n != float64(ended) {
		t.Errorf("%v of %d were counted", n, ended)
	}
	p, err := stalls[slices.IndexFunc(stalls, func(l stall) bool { return l.name == "DATA" })].hold(t.Context(), s.SMTP, nil, "", "")
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	for range 60 { // three windows at many times the least rate: a busy machine makes it slower, and less steady
		_, _ = io.WriteString(p, strings.Repeat("\r\n"+strings.Repeat("x", 298), 100))
		time.Sleep(100 * time.Millisecond)
	}
	if _, err := p.ask("\r\n.\r\n", "250"); err != nil {
		t.Error("slow and steady:", err)
	}
}
