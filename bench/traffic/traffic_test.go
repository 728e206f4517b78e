package traffic

import (
	"context"
	"errors"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"

	"odmr/bench/letters"
)

// pair is two ends of a TCP connection.
func pair(t *testing.T) (near, far net.Conn) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if near, err = net.Dial("tcp", l.Addr().String()); err != nil {
		t.Fatal(err)
	}
	if far, err = l.Accept(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { near.Close(); far.Close() })
	return near, far
}

// Each way of sending reaches a server of each kind, whole and in order, and small and large messages
// with dots go through unaltered.
func TestSenderAndServer(t *testing.T) {
	sizes, err := letters.ParseSizes("400B:5,4KiB:5,40KiB:2,300KiB:1")
	if err != nil {
		t.Fatal(err)
	}
	const messages = 200
	for transfer := LockStep; transfer <= Chunks; transfer++ {
		for _, protocol := range []Protocol{SMTP, LMTP} {
			near, far := pair(t)
			ledger := letters.NewLedger(messages)
			var in, out Counter
			served := make(chan error, 1)
			go func() {
				c := newWire(t.Context(), far, 1000) // smaller than messages and most batches
				c.out = append(c.out, "220 here\r\n"...)
				served <- c.serve(ServeOptions{Offer: OfferChunking, Ledger: ledger, Counter: &in, Divide: 1})
			}()
			latency := hdrhistogram.New(1, 1e9, 3)
			s := newSender(newWire(t.Context(), near, 512), SenderOptions{
				Protocol: protocol, Transfer: transfer, Stock: letters.NewStock(), Sizes: sizes, Ledger: ledger, Counter: &out, Latency: latency,
			})
			if _, err := s.want("greeting", 220); err != nil {
				t.Fatal(err)
			}
			if _, err := s.ask([]string{"EHLO a", "LHLO a"}[protocol], 250); err != nil {
				t.Fatal(err)
			}
			id := uint64(0)
			err := s.Run(func() (Letter, bool) {
				id++
				return Letter{ID: id - 1, Recipient: "box@c.example"}, id <= messages
			})
			if err := errors.Join(err, s.Quit(), <-served); err != nil {
				t.Fatalf("%v: %v", transfer, err)
			}
			if v := ledger.Verdict(); !v.Clean() || v.Arrived != messages {
				t.Errorf("%v: %v", transfer, v)
			}
			if in.Messages.Load() != messages || out.Messages.Load() != messages || in.Octets.Load() != out.Octets.Load() || latency.TotalCount() != messages {
				t.Errorf("%v: counted %d in, %d out, %d latencies", transfer, in.Messages.Load(), out.Messages.Load(), latency.TotalCount())
			}
		}
	}
}

// However DATA is cut into reads, dots included, the server sees the same message.
func TestServerDataInPieces(t *testing.T) {
	stock := letters.NewStock()
	var id uint64
	for len(stock.Text(id, 700).Wire) == len(stock.Text(id, 700).Plain) { // one with dots
		id++
	}
	text := stock.Text(id, 700)
	dialogue := "EHLO a\r\nMAIL FROM:<>\r\nRCPT TO:<a@b>\r\nDATA\r\n" + string(text.AppendFirst(nil, id)) + string(text.Wire) + ".\r\nQUIT\r\n"
	for _, piece := range []int{1, 2, 3, 7, 64, len(dialogue)} {
		near, far := pair(t)
		ledger := letters.NewLedger(1000)
		served := make(chan error, 1)
		go func() {
			served <- newWire(t.Context(), far, 4096).serve(ServeOptions{Ledger: ledger})
		}()
		go func() {
			for rest := dialogue; rest != ""; {
				n := min(piece, len(rest))
				if _, err := io.WriteString(near, rest[:n]); err != nil {
					return
				}
				rest = rest[n:]
			}
		}()
		if err := <-served; err != nil {
			t.Fatal(err)
		}
		if v := ledger.Verdict(); v.Arrived != 1 || !v.Clean() {
			t.Errorf("pieces of %d: %v", piece, v)
		}
	}
}

// The server's order check sees a message that overtook another of its customer, and only that.
func TestServerChecksOrder(t *testing.T) {
	near, far := pair(t)
	ledger := letters.NewLedger(100)
	served := make(chan error, 1)
	go func() { served <- newWire(t.Context(), far, 4096).serve(ServeOptions{Ledger: ledger, Divide: 10}) }()
	s := newSender(newWire(t.Context(), near, 512), SenderOptions{Transfer: Chunks, Stock: letters.NewStock(), Sizes: letters.Fixed(400)})
	for _, id := range []uint64{1, 11, 2, 31, 21, 12} { // 21 behind 31
		if err := s.Send(Letter{ID: id, Recipient: "a@b"}); err != nil {
			t.Fatal(err)
		}
	}
	if err := errors.Join(s.Quit(), <-served); err != nil {
		t.Fatal(err)
	}
	if v := ledger.Verdict(); v.Disordered != 1 {
		t.Errorf("%v, want one out of order", v)
	}
}

// A refused message is counted as refused, whatever came of its neighbours, and the reply is told.
func TestSenderCountsRefusals(t *testing.T) {
	for transfer, replies := range map[Transfer]string{
		Chunks:   "250 a\r\n250 b\r\n250 c\r\n250 a\r\n452 4.3.1 full\r\n503 no\r\n250 a\r\n250 b\r\n250 c\r\n",
		Data:     "250 a\r\n250 b\r\n354 c\r\n250 d\r\n250 a\r\n452 4.3.1 full\r\n503 no\r\n250 a\r\n250 b\r\n354 c\r\n250 d\r\n",
		LockStep: "250 a\r\n250 b\r\n354 c\r\n250 d\r\n250 a\r\n452 4.3.1 full\r\n503 no\r\n250 a\r\n250 b\r\n354 c\r\n250 d\r\n",
	} {
		near, far := pair(t)
		go func() {
			_, _ = io.WriteString(far, replies)
			_, _ = io.Copy(io.Discard, far)
		}()
		var counter Counter
		ledger := letters.NewLedger(3)
		s := newSender(newWire(t.Context(), near, 512), SenderOptions{
			Transfer: transfer, Stock: letters.NewStock(), Sizes: letters.Fixed(400), Counter: &counter, Ledger: ledger,
		})
		id := uint64(0)
		if err := s.Run(func() (Letter, bool) { id++; return Letter{ID: id - 1, Recipient: "a@b"}, id <= 3 }); err != nil {
			t.Fatalf("%v: %v", transfer, err)
		}
		if counter.Messages.Load() != 2 || counter.Refused.Load() != 1 || !strings.Contains(s.Refusal(), "4.3.1") || ledger.AckedCount() != 2 {
			t.Errorf("%v: %d accepted, %d refused, %q", transfer, counter.Messages.Load(), counter.Refused.Load(), s.Refusal())
		}
	}
}

// A message is sent when it is due, be those before it answered or not, as far as the window goes; and what was half of a reply when the next
// was due is whole later.
func TestPostDoesNotWait(t *testing.T) {
	near, far := pair(t)
	var counter Counter
	s := newSender(newWire(t.Context(), near, 512), SenderOptions{
		Transfer: Chunks, Window: 3, Stock: letters.NewStock(), Sizes: letters.Fixed(400), Counter: &counter,
	})
	go io.Copy(io.Discard, far)
	for id := range uint64(3) {
		if err := errors.Join(s.Post(Letter{ID: id, Recipient: "a@b"}), s.Until(time.Now().Add(-time.Second))); err != nil {
			t.Fatal(err)
		}
	}
	if n := counter.Messages.Load(); n != 0 || s.room() {
		t.Fatalf("%d messages are said to be answered, and there is room %v", n, s.room())
	}
	if _, err := io.WriteString(far, "250 a\r\n250 b\r\n250 c\r\n250 a\r\n2"); err != nil {
		t.Fatal(err)
	}
	for counter.Messages.Load() == 0 {
		if err := s.Until(time.Now().Add(10 * time.Millisecond)); err != nil {
			t.Fatal(err)
		}
	}
	if !s.room() {
		t.Error("no room where one of three is answered")
	}
	if _, err := io.WriteString(far, "50 b\r\n250 c\r\n250 a\r\n250 b\r\n250 c\r\n"); err != nil {
		t.Fatal(err)
	}
	if err := s.Until(time.Time{}); err != nil {
		t.Fatal(err)
	}
	if n := counter.Messages.Load(); n != 3 {
		t.Errorf("%d messages were answered, want 3", n)
	}
}

// A customer collects from the stand-in what it says it has, by each of its offers.
func TestCustomerAndProvider(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	provided := make(chan error, 1)
	go func() {
		provided <- Provider(ctx, l, Plan{Messages: 50, Sizes: letters.Fixed(3000), Stock: letters.NewStock()})
	}()
	ledger := letters.NewLedger(150)
	for offer := OfferNothing; offer <= OfferChunking; offer++ {
		c, err := DialCustomer(ctx, l.Addr().String(), CustomerOptions{Buffer: 2048, Receive: 16 << 10})
		if err != nil {
			t.Fatal(err)
		}
		if err := c.Login("a", "b"); err != nil {
			t.Fatal(err)
		}
		if waiting, err := c.ATRN(); err != nil || !waiting {
			t.Fatal(waiting, err)
		}
		mails := 0
		if err := c.Serve(ServeOptions{Offer: offer, Ledger: ledger, OnMail: func(first bool) {
			if first != (mails == 0) {
				t.Errorf("first is %v at MAIL number %d", first, mails)
			}
			mails++
		}}); err != nil {
			t.Fatal(err)
		}
		c.Close()
		if mails != 50 {
			t.Errorf("%v: %d messages, want 50", offer, mails)
		}
	}
	cancel()
	if err := <-provided; err != nil {
		t.Fatal(err)
	}
	if v := ledger.Verdict(); v.Arrived != 150 || !v.Clean() {
		t.Error(v)
	}
}

// A throttle gives pieces, and asks for the waits that its rate demands.
func TestThrottle(t *testing.T) {
	th := &Throttle{Rate: 1 << 20, Piece: 1 << 10}
	room := make([]byte, 4096)
	began := time.Now()
	const pieces = 20
	for range pieces {
		n := len(th.take(room))
		if n != 1024 {
			t.Fatalf("a piece of %d octets", n)
		}
		th.took(n)
	}
	if th.Taken() != pieces*1024 {
		t.Errorf("%d octets taken", th.Taken())
	}
	// The first piece is free. That the rest takes at least so long is a promise, not a measurement.
	if took, least := time.Since(began), (pieces-2)*time.Second/1024; took < least {
		t.Errorf("%d pieces of 1 KiB at 1 MiB/s took %v, which is faster than %v", pieces, took, least)
	}
}
