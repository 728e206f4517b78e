package engine

import (
	"bytes"
	"encoding/json"
	"sync"
	"testing"
	"time"

	"github.com/rs/zerolog"
)

// logLines is a log that can be read while it is written.
type logLines struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *logLines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

// with returns the first line with that message; nil: there is none.
func (l *logLines) with(message string) map[string]any {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, line := range bytes.Split(l.b.Bytes(), []byte("\n")) {
		var fields map[string]any
		if json.Unmarshal(line, &fields) == nil && fields["message"] == message {
			return fields
		}
	}
	return nil
}

// The line of a message that was taken says how long that took, and not since when there is time. The memory
// of the message was given back, and its beginning forgotten, before the line was written.
func TestAcceptedMessageLogsItsDuration(t *testing.T) {
	var log logLines
	s := newServer(t, withAccount("a", "a.example"), func(_ *server, c *Config) { c.Logger = zerolog.New(&log) })
	s.feed(SMTP).deliver("s@x.example", "u@a.example", "Subject: x\r\n\r\nx\r\n")
	line := log.with("message accepted")
	took, ok := line["duration_ms"].(float64)
	if commit, _ := line["commit_ms"].(float64); !ok || took < commit || took > float64(time.Hour/time.Millisecond) {
		t.Fatalf("%v", line)
	}
}

// A session's last line says how the customer's server was served, or slow collecting could not be explained.
func TestSessionEndLogsExtensions(t *testing.T) {
	var log logLines
	s := newServer(t, withAccount("a", "a.example"), func(_ *server, c *Config) { c.Logger = zerolog.New(&log) })
	s.hold("a.example", "x\r\n")
	s.turned("a", "ATRN a.example", "PIPELINING", "8BITMIME").rest()
	eventually(t, "the session's line", func() bool { return log.with("session ended") != nil })
	if got := log.with("session ended")["extensions"]; got != "PIPELINING 8BITMIME" {
		t.Errorf("extensions %q", got)
	}
}
