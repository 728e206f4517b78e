package codec

import (
	"bytes"
	"encoding/base64"
	"math"
	"unicode/utf8"
)

// Param is one parameter of MAIL or RCPT (RFC 5321 4.1.2 esmtp-param). The slices alias the command line.
type Param struct {
	Key      []byte // as written; compare with Is
	Value    []byte // never empty if HasValue
	HasValue bool
}

// Is reports whether the parameter's keyword is key, which must be in upper case.
func (p Param) Is(key string) bool { return isFold(p.Key, key) }

// Params is the list of parameters of one command, in the order written, without duplicates. It holds
// no memory of its own: reuse one per session. It is valid as long as the command line is.
type Params struct {
	n    int
	list [MaxParams]Param
}

// Len is how many parameters there are.
func (p *Params) Len() int { return p.n }

// At returns the i-th parameter, 0 <= i < Len().
func (p *Params) At(i int) Param { return p.list[:p.n][i] }

// Get returns the parameter whose keyword is key, which must be in upper case.
func (p *Params) Get(key string) (Param, bool) {
	for i := range p.list[:p.n] {
		if p.list[i].Is(key) {
			return p.list[i], true
		}
	}
	return Param{}, false
}

// MailValues are the parameters of MAIL that are known here. EnvID aliases the command line.
type MailValues struct {
	Size     int64 // octets (RFC 1870); 0 where nothing was said
	EightBit bool  // BODY=8BITMIME (RFC 6152)
	SMTPUTF8 bool  // RFC 6531
	Ret      RetValue
	EnvID    []byte // xtext (RFC 3461 4.4); nil where nothing was said
}

// Mail reads the parameters that ParseMail has judged.
func (p *Params) Mail() (v MailValues) {
	for i := range p.list[:p.n] {
		switch p := &p.list[i]; {
		case p.Is("SIZE"):
			v.Size, _ = ParseSize(p.Value)
		case p.Is("BODY"):
			v.EightBit, _ = ParseBody(p.Value)
		case p.Is("SMTPUTF8"):
			v.SMTPUTF8 = true
		case p.Is("RET"):
			v.Ret, _ = ParseRet(p.Value)
		case p.Is("ENVID"):
			v.EnvID = p.Value
		}
	}
	return v
}

// RcptValues are the parameters of RCPT that are known here. Orcpt aliases the command line.
type RcptValues struct {
	Notify NotifyBits // 0 where nothing was said
	Orcpt  []byte     // as written (RFC 3461 4.2); nil where nothing was said
}

// Rcpt reads the parameters that ParseRcpt has judged.
func (p *Params) Rcpt() (v RcptValues) {
	for i := range p.list[:p.n] {
		switch p := &p.list[i]; {
		case p.Is("NOTIFY"):
			v.Notify, _ = ParseNotify(p.Value)
		case p.Is("ORCPT"):
			v.Orcpt = p.Value
		}
	}
	return v
}

// parse reads the parameters behind a path; check judges the values. The first fault in the line counts.
func (p *Params) parse(b []byte, check func(Param) *SyntaxError) error {
	for {
		var word []byte
		if word, b = cutWord(b); len(word) == 0 {
			return nil
		}
		param, ok := parseParam(word)
		if !ok {
			return ErrParamSyntax
		}
		for i := range p.list[:p.n] {
			if EqualFold(p.list[i].Key, param.Key) {
				return ErrParamDuplicate
			}
		}
		if p.n == MaxParams {
			return ErrParamCount
		}
		if err := check(param); err != nil {
			return err
		}
		p.list[p.n] = param
		p.n++
	}
}

// parseParam reads keyword ["=" value]. The value may hold UTF-8 (RFC 6531 3.3).
func parseParam(word []byte) (p Param, ok bool) {
	eq := bytes.IndexByte(word, '=')
	if p.Key = word; eq >= 0 {
		p.Key, p.Value, p.HasValue = word[:eq:eq], word[eq+1:], true
		if len(p.Value) == 0 {
			return p, false
		}
		high := false
		for _, c := range p.Value {
			if c >= utf8.RuneSelf {
				high = true
			} else if classes[c]&classValue == 0 {
				return p, false
			}
		}
		if high && !utf8.Valid(p.Value) {
			return p, false
		}
	}
	if len(p.Key) == 0 || p.Key[0] == '-' || !all(p.Key, classLDH) {
		return p, false
	}
	return p, true
}

// checkMailParam checks the values of the MAIL parameters that are known here.
func checkMailParam(p Param) *SyntaxError {
	var err error
	switch {
	case p.Is("SIZE"):
		_, err = ParseSize(p.Value)
	case p.Is("BODY"):
		_, err = ParseBody(p.Value)
	case p.Is("RET"):
		_, err = ParseRet(p.Value)
	case p.Is("SMTPUTF8"):
		if p.HasValue {
			return ErrSMTPUTF8
		}
	case p.Is("ENVID"):
		if !ValidXtext(p.Value, MaxEnvID) {
			return ErrEnvID
		}
	case p.Is("AUTH"):
		if !ValidMailAuth(p.Value) {
			return ErrMailAuth
		}
	}
	if err != nil {
		return err.(*SyntaxError)
	}
	return nil
}

// checkRcptParam checks the values of the RCPT parameters that are known here.
func checkRcptParam(p Param) *SyntaxError {
	switch {
	case p.Is("NOTIFY"):
		if _, err := ParseNotify(p.Value); err != nil {
			return ErrNotify
		}
	case p.Is("ORCPT"):
		if !ValidOrcpt(p.Value) {
			return ErrOrcpt
		}
	}
	return nil
}

// parseNumber reads 1 to maxDigits digits; what exceeds an int64 is the largest one, and big.
func parseNumber(v []byte) (number int64, big, ok bool) {
	if len(v) == 0 || len(v) > maxDigits {
		return 0, false, false
	}
	for _, c := range v {
		if c < '0' || c > '9' {
			return 0, false, false
		}
		digit := int64(c - '0')
		if big = big || number > (math.MaxInt64-digit)/10; !big {
			number = number*10 + digit
		}
	}
	if big {
		number = math.MaxInt64
	}
	return number, big, true
}

// ParseSize reads a SIZE value (RFC 1870 3), octets. A number beyond int64 is the largest int64:
// such a message is too big, but its command is no syntax error. The error is ErrSize.
func ParseSize(v []byte) (int64, error) {
	size, _, ok := parseNumber(v)
	if !ok {
		return 0, ErrSize
	}
	return size, nil
}

// ParseBody reads a BODY value (RFC 6152): eight is true for 8BITMIME. The error is ErrBody, or
// ErrBinaryMIME (RFC 3030), which is not offered.
func ParseBody(v []byte) (eight bool, err error) {
	switch {
	case isFold(v, "7BIT"):
		return false, nil
	case isFold(v, "8BITMIME"):
		return true, nil
	case isFold(v, "BINARYMIME"):
		return false, ErrBinaryMIME
	}
	return false, ErrBody
}

// RetValue is a RET value; the numbers are those of mail.Return.
type RetValue uint8

const (
	RetUnset RetValue = iota
	RetFull
	RetHeaders
)

// ParseRet reads a RET value (RFC 3461 4.3). The error is ErrRet.
func ParseRet(v []byte) (RetValue, error) {
	switch {
	case isFold(v, "FULL"):
		return RetFull, nil
	case isFold(v, "HDRS"):
		return RetHeaders, nil
	}
	return RetUnset, ErrRet
}

// NotifyBits is a NOTIFY value; the bits are those of mail.Notify.
type NotifyBits uint8

const (
	NotifyNever NotifyBits = 1 << iota
	NotifySuccess
	NotifyFailure
	NotifyDelay
)

// ParseNotify reads a NOTIFY value (RFC 3461 4.1): NEVER alone, or a list of SUCCESS, FAILURE and
// DELAY. Naming one twice is forgiven. The error is ErrNotify.
func ParseNotify(v []byte) (NotifyBits, error) {
	var bits NotifyBits
	for {
		item, rest, more := bytes.Cut(v, comma)
		switch {
		case isFold(item, "NEVER"):
			bits |= NotifyNever
		case isFold(item, "SUCCESS"):
			bits |= NotifySuccess
		case isFold(item, "FAILURE"):
			bits |= NotifyFailure
		case isFold(item, "DELAY"):
			bits |= NotifyDelay
		default:
			return 0, ErrNotify
		}
		if !more {
			break
		}
		v = rest
	}
	if bits&NotifyNever != 0 && bits != NotifyNever {
		return 0, ErrNotify
	}
	return bits, nil
}

// ValidXtext reports whether v is xtext (RFC 3461 4) of 1 to max octets; the hexadecimal digits
// behind a "+" are in upper case, for there are servers that take no others.
func ValidXtext(v []byte, max int) bool {
	if len(v) == 0 || len(v) > max {
		return false
	}
	for i := 0; i < len(v); i++ {
		if classes[v[i]]&classXchar != 0 {
			continue
		}
		if v[i] != '+' || len(v)-i < 3 || !all(v[i+1:i+3], classUpHex) {
			return false
		}
		i += 2
	}
	return true
}

const hexDigits = "0123456789ABCDEF"

// AppendXtext appends s as xtext to dst.
func AppendXtext(dst, s []byte) []byte {
	for _, c := range s {
		if classes[c]&classXchar != 0 {
			dst = append(dst, c)
		} else {
			dst = append(dst, '+', hexDigits[c>>4], hexDigits[c&15])
		}
	}
	return dst
}

// DecodeXtext appends what the xtext s stands for to dst; hexadecimal digits count in either case.
// The error is ErrXtext, and dst comes back as it was.
func DecodeXtext(dst, s []byte) ([]byte, error) {
	out := dst
	for i := 0; i < len(s); i++ {
		switch c := s[i]; {
		case classes[c]&classXchar != 0:
			out = append(out, c)
		case c == '+' && len(s)-i >= 3 && isHex(s[i+1]) && isHex(s[i+2]):
			out = append(out, hexValue(s[i+1])<<4|hexValue(s[i+2]))
			i += 2
		default:
			return dst, ErrXtext
		}
	}
	return out, nil
}

// hexValue is the value of a hexadecimal digit.
func hexValue(c byte) byte {
	if c <= '9' {
		return c - '0'
	}
	return c&^0x20 - 'A' + 10
}

// ValidMailAuth reports whether v is an AUTH value of MAIL (RFC 4954 5): xtext, of which "<>" is one.
// A lone "+" is none.
func ValidMailAuth(v []byte) bool { return ValidXtext(v, MaxMailAuth) }

// ValidOrcpt reports whether v is an ORCPT value: addr-type ";" xtext (RFC 3461 4.2), which may be empty (4; Postfix
// takes it and sends it on), or the address type "utf-8" with RFC 6533 3's own escapes \x{...}; at most MaxOrcpt octets.
func ValidOrcpt(v []byte) bool {
	kind, addr, ok := bytes.Cut(v, semicolon)
	if !ok || len(v) > MaxOrcpt || len(kind) == 0 || !all(kind, classAtext) {
		return false
	}
	if isFold(kind, "UTF-8") {
		return validUTF8Addr(addr)
	}
	return len(addr) == 0 || ValidXtext(addr, MaxOrcpt)
}

var semicolon = []byte{';'}

// validUTF8Addr checks utf-8-addr-xtext and utf-8-addr-unitext of RFC 6533 3.
func validUTF8Addr(b []byte) bool {
	if len(b) == 0 || !utf8.Valid(b) {
		return false
	}
	for len(b) > 0 {
		switch c := b[0]; {
		case c >= utf8.RuneSelf, classes[c]&classQchar != 0:
			b = b[1:]
		case c == '\\':
			n := scanEmbedded(b)
			if n == 0 {
				return false
			}
			b = b[n:]
		default:
			return false
		}
	}
	return true
}

// scanEmbedded measures an EmbeddedUnicodeChar: \x{HEXPOINT}, 2 to 6 digits that name a character.
func scanEmbedded(b []byte) int {
	const open = `\x{`
	if len(b) < len(open) || string(b[:len(open)]) != open {
		return 0
	}
	i, r := len(open), rune(0)
	for i < len(b) && i < len(open)+6 && classes[b[i]]&classUpHex != 0 {
		r = r<<4 | rune(hexValue(b[i]))
		i++
	}
	if i < len(open)+2 || i == len(b) || b[i] != '}' || r == 0 || !utf8.ValidRune(r) {
		return 0
	}
	return i + 1
}

// ParseHello returns the name in the argument of EHLO, HELO or LHLO: its first word, a domain or an
// address literal (RFC 5321 4.1.1.1). Underscores are forgiven. The error is ErrHello.
func ParseHello(arg []byte) (name []byte, err error) {
	name, _ = cutWord(arg)
	if !validMailDomain(name) && !validLiteral(name) {
		return nil, ErrHello
	}
	return name, nil
}

// ParseBDAT reads the argument of BDAT (RFC 3030 2): octets of the chunk, and whether it is the last.
// After the error, ErrBDAT, nobody knows how many octets are content: the connection must be closed.
func ParseBDAT(arg []byte) (size int64, last bool, err error) {
	word, rest := cutWord(arg)
	size, big, ok := parseNumber(word)
	if !ok || big {
		return 0, false, ErrBDAT
	}
	if word, rest = cutWord(rest); len(word) > 0 {
		last = true
		if !isFold(word, "LAST") || len(rest) > 0 {
			return 0, false, ErrBDAT
		}
	}
	return size, last, nil
}

// ParseAuth reads the argument of AUTH (RFC 4954 4): the mechanism as written, and the initial response
// if there is one, in base64, not decoded. "=" is an initial response that is there and empty.
// The error is ErrAuth.
func ParseAuth(arg []byte) (mech, initial []byte, hasInitial bool, err error) {
	mech, rest := cutWord(arg)
	if len(mech) == 0 || len(mech) > MaxMechanism {
		return nil, nil, false, ErrAuth
	}
	for _, c := range mech { // RFC 4422 3.1 sasl-mech
		if classes[c]&classLDH == 0 && c != '_' {
			return nil, nil, false, ErrAuth
		}
	}
	if initial, rest = cutWord(rest); len(rest) > 0 {
		return nil, nil, false, ErrAuth
	}
	hasInitial = len(initial) > 0
	if len(initial) == 1 && initial[0] == '=' {
		initial = initial[:0]
	}
	return mech, initial, hasInitial, nil
}

var strictBase64 = base64.StdEncoding.Strict()

// DecodeBase64 appends what src stands for to dst: RFC 4648 4 with padding, no line breaks, no other
// octets, no stray bits. The error is ErrBase64, and dst comes back as it was. It needs room
// for (len(src)/4)*3 octets in dst not to allocate.
func DecodeBase64(dst, src []byte) ([]byte, error) {
	// The standard decoder skips CR and LF.
	if bytes.IndexByte(src, '\r') >= 0 || bytes.IndexByte(src, '\n') >= 0 {
		return dst, ErrBase64
	}
	out, err := strictBase64.AppendDecode(dst, src)
	if err != nil {
		return dst, ErrBase64
	}
	return out, nil
}

// AppendBase64 appends src in base64 to dst.
func AppendBase64(dst, src []byte) []byte { return strictBase64.AppendEncode(dst, src) }
