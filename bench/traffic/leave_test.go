package traffic

import (
	"errors"
	"io"
	"testing"
	"time"

	"odmr/bench/letters"
)

// A customer that leaves takes what it has answered with 250 and nothing else, says 421 to the next MAIL, and reads until
// the server has closed, however much was on its way.
func TestCustomerLeaves(t *testing.T) {
	near, far := pair(t)
	ledger := letters.NewLedger(100)
	served := make(chan error, 1)
	c := newWire(t.Context(), far, 4096)
	go func() {
		served <- c.serve(ServeOptions{Offer: OfferChunking, Ledger: ledger, OnLetter: func(id uint64) {
			if id == 4 {
				(&Customer{c}).Leave()
			}
		}})
	}()
	s := newSender(newWire(t.Context(), near, 512), SenderOptions{Transfer: Chunks, Window: 50, Stock: letters.NewStock(), Sizes: letters.Fixed(40_000), Ledger: ledger})
	id := uint64(0)
	err := s.Run(func() (Letter, bool) { id++; return Letter{ID: id - 1, Recipient: "a@b"}, id <= 50 })
	var refused *Error
	if !errors.As(err, &refused) || refused.Code != 421 {
		t.Errorf("the sender ended with %v, want 421", err)
	}
	select {
	case err := <-served:
		t.Errorf("the customer went (%v) before the server had closed", err)
	default:
	}
	s.Close()
	if err := <-served; err != nil {
		t.Error(err)
	}
	if v := ledger.Verdict(); v.Acked != 5 || v.Arrived != 5 || !v.Clean() {
		t.Errorf("%+v, want the 5 that were answered", v)
	}
}

// A customer that waits for mail leaves when its time has come, or when it is told to.
func TestCustomerLeavesIdle(t *testing.T) {
	for name, o := range map[string]ServeOptions{"told": {}, "due": {Until: time.Now().Add(20 * time.Millisecond)}} {
		near, far := pair(t)
		served := make(chan error, 1)
		c := newWire(t.Context(), far, 4096)
		go func() { served <- c.serve(o) }()
		if name == "told" {
			(&Customer{c}).Leave()
		}
		said, err := io.ReadAll(near) // until it closes its side
		if name == "told" {
			(&Customer{c}).Leave() // once more, as if the server were slow
		}
		if string(said) != "421 4.3.2 customer.bench.example shutting down\r\n" || err != nil {
			t.Errorf("%s: %q, %v", name, said, err)
		}
		near.Close()
		if err := <-served; err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// A message that is being sent when the time comes is taken whole.
func TestCustomerStaysForTheMessage(t *testing.T) {
	near, far := pair(t)
	ledger := letters.NewLedger(10)
	served := make(chan error, 1)
	until := time.Now().Add(2 * time.Second) // by when a busy machine, too, has come to DATA
	go func() {
		served <- newWire(t.Context(), far, 4096).serve(ServeOptions{Offer: OfferChunking, Ledger: ledger, Until: until})
	}()
	text := letters.NewStock().Text(3, 700)
	begin := "MAIL FROM:<>\r\nRCPT TO:<a@b>\r\nDATA\r\n"
	if _, err := io.WriteString(near, begin); err != nil {
		t.Fatal(err)
	}
	answers := make([]byte, len(ok+ok+"354 go on\r\n"))
	if _, err := io.ReadFull(near, answers); err != nil {
		t.Fatal(err)
	}
	time.Sleep(time.Until(until) + 30*time.Millisecond)
	if _, err := io.WriteString(near, string(text.AppendFirst(nil, 3))+string(text.Wire)+".\r\n"); err != nil {
		t.Fatal(err)
	}
	said, err := io.ReadAll(near)
	said = append(answers, said...)
	if want := ok + ok + "354 go on\r\n" + ok + "421 4.3.2 customer.bench.example shutting down\r\n"; string(said) != want || err != nil {
		t.Errorf("%q, %v; want %q", said, err, want)
	}
	near.Close()
	if err := <-served; err != nil {
		t.Error(err)
	}
	if v := ledger.Verdict(); v.Arrived != 1 {
		t.Errorf("%+v, want the message", v)
	}
}
