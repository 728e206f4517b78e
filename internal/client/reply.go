package client

import (
	"bytes"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"odmr/internal/mail"
)

// Reply is one SMTP reply of one or more lines.
type Reply struct {
	Code  int      // three digits
	Lines []string // the text of each line, without code and separator
}

// Positive reports whether the command succeeded (2xx).
func (r Reply) Positive() bool { return r.Code >= 200 && r.Code < 300 }

// Temporary reports whether another try may help (4xx).
func (r Reply) Temporary() bool { return r.Code >= 400 && r.Code < 500 }

// Enhanced is the RFC 3463 status code at the start of the text, or "".
func (r Reply) Enhanced() string {
	if len(r.Lines) == 0 {
		return ""
	}
	word, _, _ := strings.Cut(r.Lines[len(r.Lines)-1], " ")
	parts := strings.Split(word, ".")
	if len(parts) != 3 || len(parts[0]) != 1 || !strings.Contains("245", parts[0]) {
		return ""
	}
	for _, p := range parts[1:] {
		if n, err := strconv.Atoi(p); err != nil || n < 0 || n > 999 {
			return ""
		}
	}
	return word
}

// String is the reply on one line, its lines joined by " / ".
func (r Reply) String() string {
	return fmt.Sprintf("%03d %s", r.Code, strings.Join(r.Lines, " / "))
}

// Error is a reply that refuses a command.
type Error struct {
	Command string // verb that was refused, or "greeting"
	Reply   Reply
}

func (e *Error) Error() string { return e.Command + " refused: " + e.Reply.String() }

// Code is the reply code if err is a refusal by the peer, else 0.
func Code(err error) int {
	var e *Error
	if errors.As(err, &e) {
		return e.Reply.Code
	}
	return 0
}

// ErrBadReply says that the peer's reply is none by RFC 5321 4.2.
var ErrBadReply = errors.New("not an SMTP reply")

// readReply reads exactly one reply and not an octet more.
func (w *wire) readReply() (Reply, error) {
	var r Reply
	for len(r.Lines) < maxReplyLines {
		line, err := w.readLine()
		if err != nil {
			return r, err
		}
		code, text, last, ok := cutReplyLine(line)
		if !ok || (r.Code != 0 && code != r.Code) {
			return r, fmt.Errorf("%w: %.80q", ErrBadReply, line)
		}
		r.Code = code
		r.Lines = append(r.Lines, text)
		if last {
			return r, nil
		}
	}
	return r, fmt.Errorf("%w: more than %d lines", ErrBadReply, maxReplyLines)
}

func cutReplyLine(line []byte) (code int, text string, last, ok bool) {
	if len(line) < 3 || bytes.IndexFunc(line[:3], func(r rune) bool { return r < '0' || r > '9' }) >= 0 {
		return 0, "", false, false
	}
	code, _ = strconv.Atoi(string(line[:3]))
	switch {
	case code < 200 || code > 599:
		return 0, "", false, false
	case len(line) == 3:
		return code, "", true, true
	case line[3] == ' ':
		return code, string(line[4:]), true, true
	case line[3] == '-':
		return code, string(line[4:]), false, true
	}
	return 0, "", false, false
}

// command sends one line and reads its reply; a reply other than want is an *Error.
func (w *wire) command(line string, want ...int) (Reply, error) {
	verb, _, _ := strings.Cut(line, " ")
	if err := w.writeLine(line); err != nil {
		return Reply{}, fmt.Errorf("%s: %w", verb, err)
	}
	return w.expect(verb, want...)
}

// expect flushes and reads the reply to verb; a reply other than want is an *Error.
func (w *wire) expect(verb string, want ...int) (Reply, error) {
	if err := w.flush(); err != nil {
		return Reply{}, fmt.Errorf("%s: %w", verb, err)
	}
	r, err := w.readReply()
	if err != nil {
		return r, fmt.Errorf("%s: %w", verb, err)
	}
	for _, code := range want {
		if r.Code == code {
			return r, nil
		}
	}
	return r, &Error{Command: verb, Reply: r}
}

// refusalText is what a server says about err: a mail.Refusal's own words, else 451.
func refusalText(err error) string {
	var r *mail.Refusal
	if !errors.As(err, &r) {
		return "451 4.3.0 local error, try again later"
	}
	if r.Enhanced == "" {
		return fmt.Sprintf("%03d %s", r.Code, r.Text)
	}
	return fmt.Sprintf("%03d %s %s", r.Code, r.Enhanced, r.Text)
}
