package codec

// Verb is the command of a command line.
type Verb uint8

const (
	VerbUnknown Verb = iota
	VerbEHLO
	VerbHELO
	VerbLHLO
	VerbMAIL
	VerbRCPT
	VerbDATA
	VerbBDAT
	VerbRSET
	VerbNOOP
	VerbVRFY
	VerbEXPN
	VerbHELP
	VerbQUIT
	VerbAUTH
	VerbSTARTTLS
	VerbATRN
	VerbETRN
	VerbTURN
	VerbXFORWARD

	// NumVerbs is how many there are, VerbUnknown included: for tables indexed by Verb.
	NumVerbs = int(VerbXFORWARD) + 1
)

var verbNames = [NumVerbs]string{
	"unknown", "EHLO", "HELO", "LHLO", "MAIL", "RCPT", "DATA", "BDAT", "RSET", "NOOP", "VRFY",
	"EXPN", "HELP", "QUIT", "AUTH", "STARTTLS", "ATRN", "ETRN", "TURN",
	"XFORWARD",
}

// String returns the verb in capitals, or "unknown".
func (v Verb) String() string {
	if int(v) < len(verbNames) {
		return verbNames[v]
	}
	return verbNames[VerbUnknown]
}

// longestVerb is the length of STARTTLS and XFORWARD.
const longestVerb = 8

// ParseCommand splits a line as it comes from NextLine into verb and argument. The verb counts
// in any case (RFC 5321 2.4) and ends at the first blank or the end of the line, so that
// STARTTLSJUNK is VerbUnknown. arg has no blanks around it; it is empty if there is none.
func ParseCommand(line []byte) (v Verb, arg []byte) {
	end := 0
	for end < len(line) && line[end] != ' ' && line[end] != '\t' {
		end++
	}
	return lookupVerb(line[:end]), trimBlanks(line[end:])
}

func lookupVerb(word []byte) Verb {
	var upper [longestVerb]byte
	if len(word) > len(upper) {
		return VerbUnknown
	}
	for i, c := range word {
		if 'a' <= c && c <= 'z' {
			c -= 'a' - 'A'
		}
		upper[i] = c
	}
	switch string(upper[:len(word)]) {
	case "EHLO":
		return VerbEHLO
	case "HELO":
		return VerbHELO
	case "LHLO":
		return VerbLHLO
	case "MAIL":
		return VerbMAIL
	case "RCPT":
		return VerbRCPT
	case "DATA":
		return VerbDATA
	case "BDAT":
		return VerbBDAT
	case "RSET":
		return VerbRSET
	case "NOOP":
		return VerbNOOP
	case "VRFY":
		return VerbVRFY
	case "EXPN":
		return VerbEXPN
	case "HELP":
		return VerbHELP
	case "QUIT":
		return VerbQUIT
	case "AUTH":
		return VerbAUTH
	case "STARTTLS":
		return VerbSTARTTLS
	case "ATRN":
		return VerbATRN
	case "ETRN":
		return VerbETRN
	case "TURN":
		return VerbTURN
	case "XFORWARD":
		return VerbXFORWARD
	}
	return VerbUnknown
}

func isBlank(c byte) bool { return c == ' ' || c == '\t' }

// trimBlanks cuts blanks off both ends.
func trimBlanks(b []byte) []byte {
	b = skipBlanks(b)
	for len(b) > 0 && isBlank(b[len(b)-1]) {
		b = b[:len(b)-1]
	}
	return b
}

// skipBlanks cuts blanks off the beginning.
func skipBlanks(b []byte) []byte {
	for len(b) > 0 && isBlank(b[0]) {
		b = b[1:]
	}
	return b
}

// cutWord splits b behind its first word; both parts have no blanks in front.
func cutWord(b []byte) (word, rest []byte) {
	b = skipBlanks(b)
	end := 0
	for end < len(b) && !isBlank(b[end]) {
		end++
	}
	return b[:end], skipBlanks(b[end:])
}
