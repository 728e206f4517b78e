// Package codec is the wire: lines, commands, paths, parameters, replies, dot-stuffing
// and BDAT, as pure functions over []byte. No I/O, no clock, no allocation on the hot
// path; standard library only.
//
// Every NextX(b) has three outcomes: n == 0 and err == nil means that b does not hold a
// whole X yet; n > 0 and err == nil is an X that took n octets; err != nil is a breach of the
// protocol, and n octets (perhaps 0) are to be skipped. Returned slices alias the input:
// they are valid as long as it is. How the input was cut into reads never changes an outcome.
//
// ParseX(arg) reads the argument of a command; its errors are *SyntaxError, made beforehand,
// with the reply that they deserve. AppendX(dst, ...) appends to dst, which the caller owns.
//
// What walks over message content (DataScanner, Stuffer, Unstuffer, HeaderScanner) is a small value
// with a useful zero value, one per message, used by one goroutine at a time. It keeps no reference
// to what it has seen.
//
// Obeyed here: RFC 5321 (commands, paths, replies, transparency), RFC 1870 (SIZE), RFC 2034 and 3463
// (enhanced codes), RFC 2645 (ATRN), RFC 3030 (BDAT), RFC 3461 and 6533 (DSN parameters), RFC 4648
// (base64), RFC 4954 (AUTH), RFC 6152 (8BITMIME), RFC 6531 (SMTPUTF8), RFC 9422 (LIMITS); and Postfix's
// XFORWARD_README. Where it is
// more lenient than they are, the comment says for whose sake.
//
// It must never: judge what a session state allows, take CR or LF alone for a line end in what a
// client sends, repair content, keep memory between calls, or panic on any input.
package codec
