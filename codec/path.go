package codec

import (
	"bytes"
	"unicode/utf8"
)

// Path is a reverse-path or forward-path (RFC 5321 4.1.2). The slices alias the command line.
type Path struct {
	Addr   []byte // between the angle brackets, a source route stripped; empty is the null path
	Local  []byte // before the "@", as written, quotes included
	Domain []byte // behind it: a domain or an address literal with brackets; empty for <postmaster>
}

// Null reports whether p is the null path <>.
func (p Path) Null() bool { return len(p.Addr) == 0 }

// NonASCII reports whether p needs SMTPUTF8 (RFC 6531 3.4). It is valid UTF-8 then.
func (p Path) NonASCII() bool { return hasHigh(p.Addr) }

// ParseMail reads the argument of MAIL, "FROM:<path> parameters", and sets params to its parameters,
// whose values it has checked where they are SIZE, BODY, SMTPUTF8, RET, ENVID or AUTH. Blanks
// after the colon are forgiven. An error is a *SyntaxError: the one of the first fault in the line.
func ParseMail(arg []byte, params *Params) (Path, error) {
	params.n = 0
	rest, ok := cutPrefixFold(arg, "FROM:")
	if !ok {
		return Path{}, ErrMailSyntax
	}
	p, rest, fault := parsePath(rest)
	switch {
	case fault == pathMissing:
		return Path{}, ErrMailSyntax
	case fault == pathLong:
		return Path{}, ErrReversePathLong
	case fault != pathOK, !p.Null() && len(p.Domain) == 0:
		return Path{}, ErrReversePath
	}
	if err := params.parse(rest, checkMailParam); err != nil {
		return Path{}, err
	}
	return p, nil
}

// ParseRcpt reads the argument of RCPT, "TO:<path> parameters", and sets params to its parameters,
// whose values it has checked where they are NOTIFY or ORCPT. Blanks after the colon are forgiven.
// The path is never null; <postmaster> without domain is taken (RFC 5321 4.1.1.3), Domain is empty then.
// An error is a *SyntaxError: the one of the first fault in the line.
func ParseRcpt(arg []byte, params *Params) (Path, error) {
	params.n = 0
	rest, ok := cutPrefixFold(arg, "TO:")
	if !ok {
		return Path{}, ErrRcptSyntax
	}
	p, rest, fault := parsePath(rest)
	switch {
	case fault == pathMissing:
		return Path{}, ErrRcptSyntax
	case fault == pathLong:
		return Path{}, ErrForwardPathLong
	case fault != pathOK, p.Null(), len(p.Domain) == 0 && !isFold(p.Local, "POSTMASTER"):
		return Path{}, ErrForwardPath
	}
	if err := params.parse(rest, checkRcptParam); err != nil {
		return Path{}, err
	}
	return p, nil
}

// cutPrefixFold cuts an upper-case prefix, written in any case, and the blanks behind it.
func cutPrefixFold(b []byte, prefix string) ([]byte, bool) {
	if len(b) < len(prefix) || !isFold(b[:len(prefix)], prefix) {
		return b, false
	}
	return skipBlanks(b[len(prefix):]), true
}

type pathFault uint8

const (
	pathOK      pathFault = iota
	pathMissing           // no "<...>" followed by a blank or the end
	pathBad               // what is in the brackets is no path
	pathLong              // it is too long
)

// parsePath reads "<path>" at the start of b and returns what follows. A local part without
// domain is left for the caller to judge.
func parsePath(b []byte) (p Path, rest []byte, fault pathFault) {
	if len(b) == 0 || b[0] != '<' {
		return p, b, pathMissing
	}
	b = b[1:]
	if len(b) > 0 && b[0] == '@' {
		route, ok := skipRoute(b)
		if !ok {
			return p, b, pathBad
		}
		if b = b[route:]; len(b) > 0 && b[0] == '>' {
			return p, b, pathBad
		}
	}
	if len(b) > 0 && b[0] == '>' { // the null path
		p.Addr, p.Local, p.Domain = b[:0], b[:0], b[:0]
		return p, b[1:], afterPath(b[1:])
	}
	local := scanLocal(b)
	if local == 0 || local == len(b) {
		return p, b, pathBad
	}
	end := local // of the address
	if b[local] == '@' {
		// No domain and no address literal holds a ">".
		length := bytes.IndexByte(b[local:], '>')
		if length < 0 {
			return p, b, pathBad
		}
		end = local + length
		p.Domain = b[local+1 : end : end]
	}
	if b[end] != '>' {
		return p, b, pathBad
	}
	p.Addr, p.Local = b[:end:end], b[:local:local]
	rest = b[end+1:]
	switch {
	case len(p.Addr) > MaxPath, len(p.Local) > MaxLocalPart, len(p.Domain) > MaxDomain:
		return p, rest, pathLong
	case end > local && !validMailDomain(p.Domain) && !validLiteral(p.Domain):
		return p, rest, pathBad
	case hasHigh(p.Local) && !utf8.Valid(p.Local):
		return p, rest, pathBad
	}
	return p, rest, afterPath(rest)
}

// afterPath judges what follows the closing bracket: a blank or nothing.
func afterPath(rest []byte) pathFault {
	if len(rest) > 0 && !isBlank(rest[0]) {
		return pathMissing
	}
	return pathOK
}

// skipRoute measures a source route with its colon, "@one.example,@two.example:"; it is to be
// accepted and ignored (RFC 5321 4.1.1.3, appendix C).
func skipRoute(b []byte) (int, bool) {
	i := 0
	for i < len(b) && b[i] == '@' {
		start := i + 1
		for i = start; i < len(b) && b[i] != ',' && b[i] != ':' && b[i] != '>'; i++ {
		}
		if i == len(b) || b[i] == '>' || !validMailDomain(b[start:i]) {
			return 0, false
		}
		i++
		if b[i-1] == ':' {
			return i, true
		}
	}
	return 0, false
}

// scanLocal measures the local part at the start of b; 0 means that there is none. Dots may stand
// anywhere: large mobile providers gave out addresses such as "a..b.", and a relay that refuses
// them only loses mail. RFC 6531 3.3 adds the octets beyond ASCII.
func scanLocal(b []byte) int {
	if len(b) > 0 && b[0] == '"' {
		return scanQuoted(b)
	}
	i := 0
	for i < len(b) && (classes[b[i]]&classAtext != 0 || b[i] == '.' || b[i] >= utf8.RuneSelf) {
		i++
	}
	return i
}

// scanQuoted measures a Quoted-string (RFC 5321 4.1.2); 0 means that it has no end.
func scanQuoted(b []byte) int {
	for i := 1; i < len(b); i++ {
		switch c := b[i]; {
		case c == '"':
			return i + 1
		case c == '\\':
			if i++; i == len(b) || b[i] < ' ' || b[i] >= 0x7f {
				return 0
			}
		case c < ' ' || c == 0x7f:
			return 0
		}
	}
	return 0
}
