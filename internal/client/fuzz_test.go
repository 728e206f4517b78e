package client

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"strings"
	"testing"
	"time"
)

// script is a peer that says the same whatever it is told, a few octets at a time.
type script struct {
	net.Conn // nil: nothing else is called
	in       []byte
	step     int
	out      bytes.Buffer
}

func (s *script) Read(b []byte) (int, error) {
	if len(s.in) == 0 {
		return 0, io.EOF
	}
	n := copy(b[:min(len(b), s.step)], s.in)
	s.in = s.in[n:]
	return n, nil
}

func (s *script) Write(b []byte) (int, error)    { return s.out.Write(b) }
func (*script) Close() error                     { return nil }
func (*script) SetDeadline(time.Time) error      { return nil }
func (*script) SetReadDeadline(time.Time) error  { return nil }
func (*script) SetWriteDeadline(time.Time) error { return nil }

// FuzzServe has a provider say anything after the turn: the customer ends, keeps within bounds, has answered 250 to what it
// counts as received, and cuts the octets make no difference.
func FuzzServe(f *testing.F) {
	for _, offer := range []bool{true, false} {
		f.Add("EHLO a\r\nMAIL FROM:<a@b.example> SIZE=3 BODY=8BITMIME\r\nRCPT TO:<c@d.example>\r\nDATA\r\nx\r\n.\r\nQUIT\r\n", uint8(3), offer)
		f.Add("EHLO a\r\nMAIL FROM:<>\r\nRCPT TO:<c@d.example>\r\nBDAT 3\r\nx\r\nBDAT 0 LAST\r\nRSET\r\nNOOP\r\nHELO x\r\nQUIT\r\n", uint8(1), offer)
		f.Add("EHLO a\nMAIL FROM:<\xff> SMTPUTF8\nRCPT TO:<c>\nDATA\n\r\n.\r\r\n.\n.\r\n..\r\n.\r\n", uint8(200), offer)
		f.Add("EHLO a\r\nMAIL FROM:<> \xff\x00=\r\n", uint8(200), offer) // was echoed as it came
		f.Add("BDAT 99999999999999999999\r\nMAIL\r\nRCPT\r\nDATA\r\n", uint8(7), offer)
	}
	f.Fuzz(func(t *testing.T, text string, step uint8, full bool) {
		serve := func(step int) (said string, got []*Received) {
			var opts Options
			if full {
				opts.Offer = FullOffer()
			}
			peer, rec := &script{in: []byte(text), step: step}, &Recorder{Keep: len(text)}
			stats, err := Answer(context.Background(), peer, opts, rec)
			got = rec.Messages()
			if stats.Messages != len(got) || stats.Quit != (err == nil) || len(stats.Breaches) > maxBreaches {
				t.Fatalf("%+v, %d messages, %v", stats, len(got), err)
			}
			octets := int64(0)
			for _, m := range got {
				octets += m.Size
				if len(m.Envelope.Recipients) == 0 || len(m.Content) != int(m.Size) {
					t.Fatalf("%+v", m)
				}
			}
			if octets != stats.Octets || octets > int64(len(text)) {
				t.Fatalf("%d octets of %d, counted as %d", octets, len(text), stats.Octets)
			}
			said = peer.out.String()
			for line := range strings.SplitSeq(strings.TrimSuffix(said, "\r\n"), "\r\n") {
				if _, _, _, ok := cutReplyLine([]byte(line)); (!ok && line[:min(3, len(line))] != "354") || strings.ContainsAny(line, "\r\n\x00") {
					t.Fatalf("said %q", line)
				}
			}
			return said, got
		}
		said, got := serve(1 + int(step))
		again, same := serve(len(text) + 1)
		// Replies that were not flushed when the line was lost are lost with it.
		if !strings.HasPrefix(said, again) && !strings.HasPrefix(again, said) || len(got) != len(same) {
			t.Fatalf("in pieces %q, at once %q", said, again)
		}
		for i := range got {
			if got[i].Sum != same[i].Sum {
				t.Fatalf("message %d depends on the cutting", i)
			}
		}
	})
}

// FuzzProvider has a provider say anything before the turn: the customer ends, and its password has not been told.
func FuzzProvider(f *testing.F) {
	f.Add("220 a\r\n250-a\r\n250-AUTH CRAM-MD5\r\n250 ATRN\r\n334 PDE+\r\n235 ok\r\n250 ok\r\nQUIT\r\n", uint8(3))
	f.Add("220 a\r\n250-a\r\n250 STARTTLS\r\n334 \r\n235 ok\r\n453 none\r\n221 bye\r\n", uint8(1))
	f.Add("220-\r\n220\r\n250 a\r\n504 no\r\n221 bye\r\n", uint8(9))
	f.Add("220 a\r\n250 a\r\n334 =\r\n\xff\r\n", uint8(9))
	f.Fuzz(func(t *testing.T, text string, step uint8) {
		peer, rec := &script{in: []byte(text), step: 1 + int(step)}, &Recorder{}
		c, err := New(context.Background(), peer, Options{})
		if err == nil {
			_, err = c.Collect(Account{User: "tim", Password: "never told", Domains: []string{"example.org"}}, rec)
		}
		var refused *Error
		switch {
		case err == nil, errors.Is(err, ErrLost), errors.Is(err, ErrBadReply), errors.Is(err, ErrLineTooLong), errors.As(err, &refused):
		default:
			t.Fatal(err)
		}
		if strings.Contains(peer.out.String(), "never told") {
			t.Fatalf("said %q", peer.out.String())
		}
	})
}
