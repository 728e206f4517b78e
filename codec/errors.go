package codec

// SyntaxError is a command argument that breaks its syntax, with the reply that it deserves.
// All values are made beforehand; compare by pointer.
type SyntaxError struct {
	Code     int    // RFC 5321 reply code: 501, or 555 for a parameter that is not known
	Enhanced string // RFC 3463 code
	Text     string // public, one line of printable ASCII
}

func (e *SyntaxError) Error() string { return e.Text }

// The syntax errors. 5.5.4 is an invalid argument, 5.1.7 a bad reverse-path and 5.1.3 a bad
// forward-path (RFC 3463 3.2, 3.6).
var (
	ErrMailSyntax = &SyntaxError{501, "5.5.4", "Syntax: MAIL FROM:<address> [parameters]"}
	ErrRcptSyntax = &SyntaxError{501, "5.5.4", "Syntax: RCPT TO:<address> [parameters]"}

	ErrReversePath     = &SyntaxError{501, "5.1.7", "Bad sender address syntax"}
	ErrReversePathLong = &SyntaxError{501, "5.1.7", "Sender address too long"}
	ErrForwardPath     = &SyntaxError{501, "5.1.3", "Bad recipient address syntax"}
	ErrForwardPathLong = &SyntaxError{501, "5.1.3", "Recipient address too long"}

	ErrParamSyntax    = &SyntaxError{501, "5.5.4", "Bad parameter syntax"}
	ErrParamDuplicate = &SyntaxError{501, "5.5.4", "Parameter given twice"}
	ErrParamCount     = &SyntaxError{501, "5.5.4", "Too many parameters"}

	ErrSize       = &SyntaxError{501, "5.5.4", "Bad SIZE parameter"}
	ErrBody       = &SyntaxError{501, "5.5.4", "Bad BODY parameter"}
	ErrBinaryMIME = &SyntaxError{555, "5.5.4", "BODY=BINARYMIME not supported"}
	ErrSMTPUTF8   = &SyntaxError{501, "5.5.4", "SMTPUTF8 takes no value"}
	ErrRet        = &SyntaxError{501, "5.5.4", "Bad RET parameter"}
	ErrEnvID      = &SyntaxError{501, "5.5.4", "Bad ENVID parameter"}
	ErrMailAuth   = &SyntaxError{501, "5.5.4", "Bad AUTH parameter"}
	ErrNotify     = &SyntaxError{501, "5.5.4", "Bad NOTIFY parameter"}
	ErrOrcpt      = &SyntaxError{501, "5.5.4", "Bad ORCPT parameter"}

	ErrXForward = &SyntaxError{501, "5.5.4", "Syntax: XFORWARD attribute=value [attribute=value...]"}

	ErrXtext  = &SyntaxError{501, "5.5.4", "Bad xtext"}
	ErrHello  = &SyntaxError{501, "5.5.4", "Syntax: EHLO hostname"}
	ErrBDAT   = &SyntaxError{501, "5.5.4", "Syntax: BDAT size [LAST]"}
	ErrAuth   = &SyntaxError{501, "5.5.4", "Syntax: AUTH mechanism [initial-response]"}
	ErrBase64 = &SyntaxError{501, "5.5.2", "Bad base64"} // RFC 4954 4

	ErrATRN = &SyntaxError{501, "5.5.4", "Syntax: ATRN [domain[,domain...]]"}
	// ErrATRNOneLabel says that the list is well-formed but for a name of one label, such as the
	// host name that fetchmail sends of itself. The list is returned along with it.
	ErrATRNOneLabel = &SyntaxError{501, "5.5.4", "ATRN domains have two labels at least"}
)
