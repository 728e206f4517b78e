package client

import (
	"crypto/sha256"
	"hash"
	"io"
	"sync"
	"time"

	"odmr/internal/mail"
)

// Receiver takes the messages of a reversed session. Envelope.Size is what MAIL declared
// (0: nothing); ID, Domain, Arrived and the like stay empty. The envelope may be kept.
type Receiver interface {
	// Begin is called when the content of a message is about to come, with at least one
	// accepted recipient. An error refuses the message: with a *mail.Refusal's own reply, else 451.
	Begin(env *mail.Envelope) (Sink, error)
}

// RecipientChecker may be implemented by a Receiver that judges each recipient.
type RecipientChecker interface {
	// Recipient is called for each RCPT with the envelope so far (without r). nil accepts.
	Recipient(env *mail.Envelope, r mail.Recipient) error
}

// Sink takes one message. Write gets its content as the sender wrote it, dot-stuffing
// undone, in pieces that are valid during the call only.
type Sink interface {
	io.Writer
	// Commit takes responsibility for the message; after nil the peer is told 250.
	Commit() error
	// Abort forgets the message. It is also called after Write has failed.
	Abort()
}

// Stats is what came of one reversed session.
type Stats struct {
	Messages int   // answered 250
	Refused  int   // messages answered 4xx or 5xx after their content, or at DATA
	Octets   int64 // content of the messages answered 250
	Quit     bool  // the provider ended the session with QUIT
	// Breaches says where the provider broke the protocol (RFC 5321, 2920, 3030, 1870, 9422), at
	// most maxBreaches of them.
	Breaches []string
}

// maxBreaches bounds Stats.Breaches.
const maxBreaches = 50

// Point is a place in the reversed session, from the customer's view.
type Point uint8

// The points, in the order in which a session passes them.
const (
	AtGreeting  Point = iota + 1 // before our 220
	AtEHLO                       // EHLO has come
	AtHELO                       // HELO has come
	AtMAIL                       // MAIL has come
	AtRCPT                       // RCPT has come
	AtDATA                       // DATA has come
	AtBDAT                       // BDAT has come, before its octets are taken
	AtBody                       // content has come; Event.Octets of this message so far
	AtChunk                      // a chunk that is not the last has been taken
	AtDot                        // the whole message has come, not committed yet
	AtCommitted                  // the message is committed and not yet answered
	AtRSET                       // RSET has come
	AtNOOP                       // NOOP has come
	AtQUIT                       // QUIT has come
)

var pointNames = [...]string{"", "greeting", "EHLO", "HELO", "MAIL", "RCPT", "DATA", "BDAT", "body", "chunk", "dot", "committed", "RSET", "NOOP", "QUIT"}

func (p Point) String() string { return pointNames[p] }

// Event is what a Hook is told.
type Event struct {
	Point       Point
	Transaction int    // MAIL commands accepted so far
	Line        string // the command, where there is one
	Octets      int64  // content octets of this message so far
}

// Cut says whether and when a Hook drops the connection.
type Cut uint8

const (
	CutNone   Cut = iota
	CutBefore     // in order (FIN), before anything is answered; earlier answers arrive
	CutAfter      // in order (FIN), right after the answer
	CutReset      // by a reset (RST), before anything is answered; answers on their way may be lost
)

// Response is what a Hook wants done. The zero value: the usual.
type Response struct {
	// Reply is sent instead of the usual reply, in lines separated by "\n". At AtDot a Reply that is
	// not positive refuses the message. Where the usual would refuse, a positive reply does not help
	// the command; but "354 ..." at AtDATA takes the content in any case. Ignored at AtBody, and
	// at AtBDAT unless it refuses.
	Reply string
	// Delay is waited for before the answer.
	Delay time.Duration
	Cut   Cut
}

// Hook lets a Customer misbehave. It is called on the goroutine that called Serve.
type Hook func(Event) Response

// Received is one message as a Recorder took it.
type Received struct {
	Envelope mail.Envelope
	Size     int64    // octets of content
	Sum      [32]byte // SHA-256 of the content
	Content  []byte   // only if Recorder.Keep allows
}

// Recorder is a Receiver that remembers everything in memory. It is safe for several
// sessions at once.
type Recorder struct {
	// Keep is how many octets of each message's content are kept.
	Keep int
	// OnCommit, if set, is called with each message before it is answered; an error refuses it.
	OnCommit func(*Received) error

	mu  sync.Mutex
	all []*Received
}

// Messages returns what has been committed so far, in order.
func (r *Recorder) Messages() []*Received {
	r.mu.Lock()
	defer r.mu.Unlock()
	return append([]*Received(nil), r.all...)
}

// Begin implements Receiver.
func (r *Recorder) Begin(env *mail.Envelope) (Sink, error) {
	return &recording{rec: r, msg: &Received{Envelope: *env}, hash: sha256.New()}, nil
}

type recording struct {
	rec  *Recorder
	msg  *Received
	hash hash.Hash
}

func (s *recording) Write(p []byte) (int, error) {
	s.hash.Write(p)
	s.msg.Size += int64(len(p))
	if room := s.rec.Keep - len(s.msg.Content); room > 0 {
		s.msg.Content = append(s.msg.Content, p[:min(room, len(p))]...)
	}
	return len(p), nil
}

func (s *recording) Commit() error {
	s.hash.Sum(s.msg.Sum[:0])
	if f := s.rec.OnCommit; f != nil {
		if err := f(s.msg); err != nil {
			return err
		}
	}
	s.rec.mu.Lock()
	s.rec.all = append(s.rec.all, s.msg)
	s.rec.mu.Unlock()
	return nil
}

func (s *recording) Abort() {}

// Discard is a Receiver that accepts everything and keeps nothing: for load.
type Discard struct{}

// Begin implements Receiver.
func (Discard) Begin(*mail.Envelope) (Sink, error) { return discarding{}, nil }

type discarding struct{}

func (discarding) Write(p []byte) (int, error) { return len(p), nil }
func (discarding) Commit() error               { return nil }
func (discarding) Abort()                      {}
