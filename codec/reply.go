package codec

import (
	"bytes"
	"errors"
	"iter"
)

// Breaches of the reply syntax (RFC 5321 4.2).
var (
	// ErrReplySyntax says that a line does not begin with a reply code followed by a blank, a hyphen or the line's end.
	ErrReplySyntax = errors.New("not a reply line")
	// ErrReplyMixed says that the lines of one reply have different codes.
	ErrReplyMixed = errors.New("different codes in one reply")
	// ErrReplyTooLong says that a line, or the reply, is longer than allowed.
	ErrReplyTooLong = errors.New("reply too long")
	// ErrReplyTooMany says that the reply has more lines than allowed.
	ErrReplyTooMany = errors.New("too many lines in one reply")
)

// Reply is a whole reply of a server. The slices alias the input.
type Reply struct {
	Code  int    // 200 to 599
	Lines int    // at least 1
	Text  []byte // of the last line, behind code and blank; may be empty
	Raw   []byte // all lines, with their line ends
}

// NextReply returns the first reply of b and its length. maxLine is the longest line in octets with its
// CRLF, maxLines the most lines; all of them may not exceed MaxReply octets. Two liberties that
// customers' servers take are granted: lines that end in LF alone, and a code without text or blank.
// An error means that nothing that follows can be relied on: end the session. n is then the
// length up to the end of the offending line if that was seen, else 0.
func NextReply(b []byte, maxLine, maxLines int) (r Reply, n int, err error) {
	for pos := 0; ; {
		window := b[pos:]
		limit := min(maxLine, MaxReply-pos)
		if len(window) > limit {
			window = window[:limit]
		}
		lf := bytes.IndexByte(window, '\n')
		if lf < 0 {
			if len(window) >= limit {
				return Reply{}, 0, ErrReplyTooLong
			}
			return Reply{}, 0, nil
		}
		code, text, last, ok := parseReplyLine(window[:lf])
		pos += lf + 1
		switch r.Lines++; {
		case !ok:
			return Reply{}, pos, ErrReplySyntax
		case r.Lines > 1 && code != r.Code:
			return Reply{}, pos, ErrReplyMixed
		case r.Lines > maxLines:
			return Reply{}, pos, ErrReplyTooMany
		}
		r.Code = code
		if last {
			r.Text, r.Raw = text, b[:pos:pos]
			return r, pos, nil
		}
	}
}

// parseReplyLine splits a line without its LF: code, hyphen or blank, text.
func parseReplyLine(line []byte) (code int, text []byte, last, ok bool) {
	if len(line) > 0 && line[len(line)-1] == '\r' {
		line = line[:len(line)-1]
	}
	// RFC 5321 4.2 Reply-code, but for the second digit, which some servers have beyond 5.
	if len(line) < 3 || line[0] < '2' || line[0] > '5' || !isDigit(line[1]) || !isDigit(line[2]) {
		return 0, nil, false, false
	}
	code = int(line[0]-'0')*100 + int(line[1]-'0')*10 + int(line[2]-'0')
	if len(line) == 3 {
		return code, line[3:], true, true
	}
	switch line[3] {
	case ' ', '\t':
		return code, line[4:], true, true
	case '-':
		return code, line[4:], false, true
	}
	return 0, nil, false, false
}

func isDigit(c byte) bool { return '0' <= c && c <= '9' }

// Line returns the text of the i-th line, 0 <= i < Lines; nil beyond. It searches from the first:
// use All for many.
func (r Reply) Line(i int) []byte {
	for text := range r.All() {
		if i == 0 {
			return text
		}
		i--
	}
	return nil
}

// All yields the text of each line, behind code and blank or hyphen.
func (r Reply) All() iter.Seq[[]byte] {
	return func(yield func([]byte) bool) {
		for raw := r.Raw; len(raw) > 0; {
			lf := bytes.IndexByte(raw, '\n')
			if lf < 0 {
				return
			}
			_, text, _, _ := parseReplyLine(raw[:lf])
			if raw = raw[lf+1:]; !yield(text) {
				return
			}
		}
	}
}

// Enhanced returns the enhanced status code that the last line begins with (RFC 2034, RFC 3463 2).
// One whose class contradicts the reply code counts as none.
func (r Reply) Enhanced() (class, subject, detail int, ok bool) {
	t := r.Text
	if len(t) < 5 || t[1] != '.' || int(t[0]-'0') != r.Code/100 || t[0] == '3' {
		return 0, 0, 0, false
	}
	class = int(t[0] - '0')
	subject, t, ok = cutNumber3(t[2:])
	if !ok || len(t) == 0 || t[0] != '.' {
		return 0, 0, 0, false
	}
	detail, t, ok = cutNumber3(t[1:])
	if !ok || len(t) > 0 && !isBlank(t[0]) {
		return 0, 0, 0, false
	}
	return class, subject, detail, true
}

// cutNumber3 cuts a number of 1 to 3 digits off the front.
func cutNumber3(b []byte) (number int, rest []byte, ok bool) {
	i := 0
	for i < len(b) && i < 3 && isDigit(b[i]) {
		number = number*10 + int(b[i]-'0')
		i++
	}
	return number, b[i:], i > 0
}

// CutKeyword splits the text of an EHLO line into keyword, to be compared by EqualFold, and
// parameters (RFC 5321 4.1.1.1).
func CutKeyword(text []byte) (keyword, params []byte) {
	keyword, params = cutWord(text)
	return keyword, trimBlanks(params)
}

// ParseLimits reads the LIMITS keyword of an EHLO reply (RFC 9422), with or without the keyword in
// front. What is absent, malformed or unknown is 0, which means no limit.
func ParseLimits(text []byte) (mailMax, rcptMax, rcptDomainMax int64) {
	for {
		var word []byte
		if word, text = cutWord(text); len(word) == 0 {
			return mailMax, rcptMax, rcptDomainMax
		}
		eq := bytes.IndexByte(word, '=')
		if eq < 0 {
			continue
		}
		value, _, ok := parseNumber(word[eq+1:])
		if !ok {
			continue
		}
		switch name := word[:eq]; {
		case isFold(name, "MAILMAX"):
			mailMax = value
		case isFold(name, "RCPTMAX"):
			rcptMax = value
		case isFold(name, "RCPTDOMAINMAX"):
			rcptDomainMax = value
		}
	}
}

// AppendReply appends a reply of one line: code, the enhanced code unless empty, text, CRLF. Octets
// of text that are not printable ASCII become "?", so that no text can make a second line.
func AppendReply(dst []byte, code int, enhanced, text string) []byte {
	dst = appendCode(dst, code, ' ')
	if enhanced != "" {
		dst = append(dst, enhanced...)
		dst = append(dst, ' ')
	}
	return appendText(dst, text)
}

// AppendReplyLines appends a reply of len(lines) lines, all with the same code; without lines, of one
// empty line. Texts are treated as AppendReply does.
func AppendReplyLines(dst []byte, code int, lines ...string) []byte {
	for i, line := range lines {
		separator := byte('-')
		if i == len(lines)-1 {
			separator = ' '
		}
		dst = appendText(appendCode(dst, code, separator), line)
	}
	if len(lines) == 0 {
		dst = appendText(appendCode(dst, code, ' '), "")
	}
	return dst
}

func appendCode(dst []byte, code int, separator byte) []byte {
	return append(dst, byte('0'+code/100%10), byte('0'+code/10%10), byte('0'+code%10), separator)
}

func appendText(dst []byte, text string) []byte {
	start := len(dst)
	dst = append(dst, text...)
	for i := start; i < len(dst); i++ {
		if dst[i] < ' ' || dst[i] > '~' {
			dst[i] = '?'
		}
	}
	return append(dst, '\r', '\n')
}
