package e2e

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"math/rand/v2"
	"regexp"
	"strings"
	"testing"

	"odmr/internal/client"
	"odmr/internal/mail"
)

// Kinds of content that relays have got wrong.
const (
	kindText   = iota // short lines
	kindDots          // lines that begin with dots
	kindEight         // octets beyond ASCII, not all of them UTF-8
	kindLong          // lines of up to 20,000 octets
	kindEmpty         // no body
	kindBlank         // a body of empty lines
	kindBinary        // base64, as attachments are
	kinds
	kindFull = kinds // lines of 998 octets, the longest that RFC 5321 4.5.3.1.6 lets every relay pass
)

// content makes message id of about size octets, the same for the same arguments. Its first
// field names it.
func content(id string, kind, size int) []byte {
	seed := sha256.Sum256(fmt.Appendf(nil, "%s/%d/%d", id, kind, size))
	r := rand.New(rand.NewChaCha8(seed))
	var b bytes.Buffer
	fmt.Fprintf(&b, "X-Test-Id: %s\r\nFrom: sender@mx.example\r\nTo: undisclosed-recipients:;\r\nSubject: kind %d\r\n", id, kind)
	fmt.Fprintf(&b, "Date: Thu, 01 Jan 2026 00:00:00 +0000\r\nMessage-ID: <%s@test.example>\r\n", id)
	if kind == kindEight || kind == kindLong {
		b.WriteString("MIME-Version: 1.0\r\nContent-Type: text/plain; charset=iso-8859-1\r\nContent-Transfer-Encoding: 8bit\r\n")
	}
	b.WriteString("\r\n")
	if kind == kindEmpty {
		return b.Bytes()
	}
	for b.Len() < size {
		line(&b, r, kind)
	}
	return b.Bytes()
}

const base64Alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"

func line(b *bytes.Buffer, r *rand.Rand, kind int) {
	switch kind {
	case kindText:
		fmt.Fprintf(b, "line %d of some text %x\r\n", r.IntN(1000), r.Uint64())
	case kindDots:
		b.WriteString(strings.Repeat(".", r.IntN(4)))
		if r.IntN(3) == 0 {
			b.WriteString("\r\n")
		} else {
			fmt.Fprintf(b, "%x.\r\n", r.Uint32())
		}
	case kindEight:
		for range r.IntN(70) {
			c := byte(0x80 | r.IntN(0x80))
			if r.IntN(2) == 0 {
				c = byte(' ' + r.IntN(95))
			}
			b.WriteByte(c)
		}
		b.WriteString("\r\n")
	case kindLong:
		letters(b, r, 1+r.IntN(20000))
	case kindFull:
		letters(b, r, 998)
	case kindBlank:
		b.WriteString("\r\n")
	case kindBinary:
		letters(b, r, 76)
	}
}

// letters writes a line of n letters.
func letters(b *bytes.Buffer, r *rand.Rand, n int) {
	for n > 0 {
		for bits, i := r.Uint64(), 0; i < 10 && n > 0; i++ {
			b.WriteByte(base64Alphabet[bits&63])
			bits >>= 6
			n--
		}
	}
	b.WriteString("\r\n")
}

// message makes one to hand in.
func message(id string, kind, size int, to ...string) client.Message {
	c := content(id, kind, size)
	env := envelope("sender+"+id+"@mx.example", to...)
	env.Size = int64(len(c))
	if kind == kindEight {
		env.Body = mail.Body8BitMIME
	}
	return client.Message{Envelope: env, Content: bytes.NewReader(c)}
}

func envelope(from string, to ...string) mail.Envelope {
	env := mail.Envelope{ReversePath: from}
	for _, a := range to {
		env.Recipients = append(env.Recipients, mail.Recipient{Address: a})
	}
	return env
}

var testID = regexp.MustCompile(`(?m)^X-Test-Id: ([\w.-]+)\r?$`)

// idOf finds the name of a message that was received.
func idOf(t testing.TB, content []byte) string {
	t.Helper()
	m := testID.FindSubmatch(content[:min(len(content), 8192)])
	if m == nil {
		t.Errorf("a message without X-Test-Id: %.300q", content)
		return ""
	}
	return string(m[1])
}

// original cuts off the trace fields that relays put on top, and checks that there was one.
func original(t testing.TB, received []byte) []byte {
	t.Helper()
	i := bytes.Index(received, []byte("X-Test-Id: "))
	if i < 0 {
		t.Errorf("a message without X-Test-Id: %.300q", received)
		return nil
	}
	if !bytes.HasPrefix(received[:i], []byte("Received: ")) {
		t.Errorf("no Received field on top: %.300q", received)
	}
	return received[i:]
}

// addresses are the recipients of an envelope.
func addresses(env *mail.Envelope) []string {
	var to []string
	for _, r := range env.Recipients {
		to = append(to, r.Address)
	}
	return to
}

// handIn hands messages in over one connection; all must be accepted.
func handIn(t testing.TB, addr string, opts client.SenderOptions, messages ...client.Message) {
	t.Helper()
	opts.Timeout = patience
	s, err := client.DialSender(t.Context(), addr, opts)
	if err != nil {
		t.Fatal(err)
	}
	for i := range messages {
		r, err := s.Send(&messages[i])
		if err != nil {
			t.Fatal(err)
		}
		if !r.Accepted() {
			t.Fatal(r.Refusal())
		}
	}
	if err := s.Quit(); err != nil {
		t.Fatal(err)
	}
}

// collect runs one whole session of a well-behaved customer with every extension. While the session
// before it still holds its lease (451), which ends a moment after its connection, it tries again.
func collect(t testing.TB, s *Server, a client.Account, r client.Receiver) client.Stats {
	t.Helper()
	return collectAs(t, s, a, client.FullOffer(), r)
}

// collectAs is collect with other extensions.
func collectAs(t testing.TB, s *Server, a client.Account, offer client.Offer, r client.Receiver) (stats client.Stats) {
	t.Helper()
	until(t, "the lease to be given back", func() bool {
		var err error
		stats, err = client.Collect(t.Context(), s.ODMR, a, client.Options{Name: "customer.example", Timeout: patience, Offer: offer}, r)
		if client.Code(err) == 451 {
			return false
		}
		if err != nil {
			t.Fatal(err)
		}
		return true
	})
	for _, b := range stats.Breaches {
		t.Error("the server broke the protocol: ", b)
	}
	return stats
}
