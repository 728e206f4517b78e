package codec

// Limits of this package, in octets where nothing else is said. Those that the peer's
// line lengths depend on are arguments (NextLine, NextReply), for they differ by state.
const (
	// MaxParams is how many parameters one MAIL or RCPT command may have; RFC 1870, 3461, 4954, 6152,
	// 6531 together define 7 for MAIL.
	MaxParams = 16
	// MaxPath is the longest path without its angle brackets (RFC 5321 4.5.3.1.3: 256 with them).
	MaxPath = 254
	// MaxLocalPart is RFC 5321 4.5.3.1.1's 64, widened for the VERP and SRS senders that exceed it in practice.
	MaxLocalPart = 128
	// MaxDomain is the longest domain: RFC 5321 4.5.3.1.2 says 255 with the root's dot, DNS 253 without.
	MaxDomain = 253
	// MaxLabel is the longest label of a domain (RFC 1035 2.3.4).
	MaxLabel = 63
	// MaxEnvID is the longest ENVID value, as xtext (RFC 3461 4.4).
	MaxEnvID = 100
	// MaxOrcpt is the longest ORCPT value with its addr-type (RFC 3461 4.2).
	MaxOrcpt = 500
	// MaxMailAuth is the longest AUTH value of MAIL FROM, as xtext (RFC 4954 3 adds 500 to the line).
	MaxMailAuth = 500
	// MaxMechanism is the longest name of a SASL mechanism (RFC 4422 3.1).
	MaxMechanism = 20
	// MaxReply is the longest reply, all lines together. RFC 5321 gives none; the EHLO replies
	// of well-known servers stay below 2 KiB.
	MaxReply = 64 << 10

	// maxDigits is the longest number in a parameter (RFC 1870 3: size-value = 1*20DIGIT).
	maxDigits = 20
)
