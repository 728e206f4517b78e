package engine

import (
	"fmt"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"odmr/internal/mail"
)

// A client that pipelines has several messages on their way to the disk at once; whatever is over first, replies
// come in the order of the messages.
func TestCommitsOfOneSessionSideBySide(t *testing.T) {
	const messages = 5
	s := newServer(t, withAccount("a", "a.example"))
	mx := s.feed(SMTP)
	s.gate.commits.close()
	var all strings.Builder
	for i := range messages {
		fmt.Fprintf(&all, "MAIL FROM:<s%d@b.example>\r\nRCPT TO:<u@a.example>\r\nBDAT 3 LAST\r\n%d\r\n", i, i)
	}
	mx.send(all.String() + "QUIT")
	eventually(t, "all are under way", func() bool { return s.gate.commits.waiters() == messages })
	s.gate.commits.open()
	var ids []string
	for range messages {
		mx.expect("250 2.1.0")
		mx.expect("250 2.1.5")
		_, id, _ := strings.Cut(mx.expect("250 2.0.0"), "queued as ")
		ids = append(ids, id)
	}
	mx.expect("221")
	for i := 1; i < len(ids); i++ {
		if ids[i] <= ids[i-1] {
			t.Errorf("ids %v are not in order", ids)
		}
	}
	if n := s.store.Counts("a.example").Messages; n != messages {
		t.Errorf("%d messages in the queue, want %d", n, messages)
	}
	s.ingest.mu.Lock()
	n := s.ingest.used
	s.ingest.mu.Unlock()
	if n != 0 {
		t.Errorf("%d octets of ingest memory are still charged", n)
	}
}

// What the last piece of a long message lies in is charged as it is, and not as far as it is full: there may be many such
// messages on their way to the disk at once.
func TestLongMessagesAreChargedDuringTheirCommit(t *testing.T) {
	s := newServer(t, withAccount("a", "a.example"))
	mx := s.feed(SMTP)
	s.gate.commits.close()
	const messages, size = 3, mail.LastPiece + 1000
	for range messages {
		mx.send("MAIL FROM:<s@b.example>", "RCPT TO:<u@a.example>", fmt.Sprintf("BDAT %d LAST", size))
		mx.send(strings.Repeat("x", size-2))
	}
	eventually(t, "all are under way", func() bool { return s.gate.commits.waiters() == messages })
	s.ingest.mu.Lock()
	n := s.ingest.used
	s.ingest.mu.Unlock()
	if n < messages*mail.ChunkSize {
		t.Errorf("%d octets of ingest memory are charged", n)
	}
	s.gate.commits.open()
	for range messages {
		mx.expect("250 2.1.0")
		mx.expect("250 2.1.5")
		mx.expect("250 2.0.0")
	}
}

// Content that the protocol refuses counts as a message refused, once.
func TestRefusedContentIsCounted(t *testing.T) {
	s := newServer(t, withAccount("a", "a.example"), func(_ *server, c *Config) { c.MaxMessageSize = 1000 })
	mx := s.feed(SMTP)
	for i, body := range []string{"bare\nLF\r\n", strings.Repeat("too large\r\n", 100)} {
		mx.ask("MAIL FROM:<>", "250")
		mx.ask("RCPT TO:<u@a.example>", "250")
		mx.ask("DATA", "354")
		mx.send(body + ".")
		mx.expect("55")
		eventually(t, "it is counted", func() bool { return s.seen.get(func(r *recorder) int { return r.in[Refused] }) == i+1 })
	}
	mx.deliver("", "u@a.example", "good\r\n")
	if n := s.seen.get(func(r *recorder) int { return r.in[Refused] }); n != 2 {
		t.Errorf("%d messages were refused, want 2", n)
	}
}

// Replies that a client has pipelined past come in one piece with that to its message (RFC 2920 3.2): until then nothing is written.
func TestRepliesBeforeACommitWaitForIt(t *testing.T) {
	s := newServer(t, withAccount("a", "a.example"))
	mx := s.feed(SMTP)
	s.gate.commits.close()
	said := func() (n int64) {
		inspect(s, func(c *conn) bool { n = c.stats.out; return true })
		return n
	}
	before := said()
	for n := range 3 { // one behind the other: what is said to those behind the first waits for it anyway
		mx.send("MAIL FROM:<s@b.example>\r\nRCPT TO:<u@a.example>\r\nBDAT 6 LAST\r\ntext")
		eventually(t, "it is under way", func() bool { return s.gate.commits.waiters() == n+1 })
		if n := said(); n != before {
			t.Errorf("%d octets of replies went out", n-before)
		}
	}
	s.gate.commits.open()
	for range 3 {
		mx.expect("250 2.1.0")
		mx.expect("250 2.1.5")
		mx.expect("250 2.0.0")
	}

	// Who has yet to send the rest of the content may wait for the replies before that.
	mx.send("MAIL FROM:<s@b.example>\r\nRCPT TO:<u@a.example>\r\nBDAT 8 LAST\r\nte")
	mx.expect("250 2.1.0")
	mx.expect("250 2.1.5")
	mx.send("xt")
	mx.expect("250 2.0.0")
}

// What became of a message does not wait for what becomes of the next, where the line takes only part of it at first.
func TestAnswerOnAFullLineDoesNotWaitForTheNextCommit(t *testing.T) {
	s := newServer(t, withAccount("a", "a.example"))
	mx := s.feed(SMTP)
	var before int64
	inspect(s, func(c *conn) bool {
		before = c.stats.in
		return unix.SetsockoptInt(c.fd, unix.SOL_SOCKET, unix.SO_SNDBUF, 16<<10) == nil
	})
	commands := 0
	for full := false; !full; {
		mx.send(strings.Repeat("NOOP\r\n", 99) + "NOOP")
		commands += 100
		eventually(t, "they are answered", func() bool {
			return inspect(s, func(c *conn) bool { full = c.blocked; return c.stats.in == before+6*int64(commands) })
		})
	}
	const message = "MAIL FROM:<s@b.example>\r\nRCPT TO:<u@a.example>\r\nBDAT 6 LAST\r\ntext"
	mx.send(message)
	eventually(t, "it is taken", func() bool { return inspect(s, func(c *conn) bool { return c.stats.accepted == 1 }) })
	inspect(s, func(c *conn) bool { c.blocked = false; c.flush(now()); return true }) // there was room for a moment, and is none
	s.gate.commits.close()
	mx.send(message)
	eventually(t, "the next is under way", func() bool { return s.gate.commits.waiters() == 1 })
	for range commands {
		mx.expect("250 2.0.0")
	}
	for range 2 {
		mx.expect("250 2.1.0")
		mx.expect("250 2.1.5")
		mx.expect("250 2.0.0")
		s.gate.commits.open()
	}
}
