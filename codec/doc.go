// Package codec is the wire: lines, commands, paths, parameters, replies, dot-stuffing
// and BDAT, as pure functions over []byte. No I/O, no clock, no allocation on the hot
// path; standard library only.
//
// Every NextX(b) has three outcomes: n == 0 and err == nil means that b does not hold a
// whole X yet; n > 0 and err == nil is an X that took n octets; err != nil is a breach of the
// protocol, and n octets (perhaps 0) are to be skipped. Returned slices alias the input:
// they are valid as long as it is.
package codec
