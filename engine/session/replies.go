package session

import (
	"strconv"

	"odmr/codec"
	"odmr/internal/mail"
)

// reply is one reply line as it goes out. Its shape is codec.SyntaxError's, so that a pointer to
// one converts into a pointer to the other.
type reply struct {
	Code     int
	Enhanced string // RFC 3463; empty where none is sent
	Text     string
}

// appendTo appends the reply line to dst.
func (r *reply) appendTo(dst []byte) []byte {
	return codec.AppendReply(dst, r.Code, r.Enhanced, r.Text)
}

// replySyntax is the reply to a command that codec could not parse.
func replySyntax(err error) *reply {
	if e, ok := err.(*codec.SyntaxError); ok {
		return (*reply)(e)
	}
	return replyBadLine
}

// replyRefusal is the public part of a refusal.
func replyRefusal(r *mail.Refusal) reply {
	return reply{Code: r.Code, Enhanced: r.Enhanced, Text: r.Text}
}

// replyLine is the reply to a line that is none (codec.NextLine's errors).
func replyLine(err error) *reply {
	switch err {
	case codec.ErrLineTooLong:
		return replyLineTooLong
	case codec.ErrBareLF:
		return replyBareLF
	case codec.ErrBareCR:
		return replyBareCR
	case codec.ErrNUL:
		return replyNUL
	}
	return replyBadLine
}

// Replies that any server machine gives.
var (
	replyOK            = &reply{250, "2.0.0", "Ok"}
	replyBye           = &reply{221, "2.0.0", "Bye"}
	replyUnknown       = &reply{500, "5.5.1", "Unknown command"}
	replyBadLine       = &reply{500, "5.5.2", "Syntax error"}
	replyLineTooLong   = &reply{500, "5.5.2", "Line too long"}
	replyBareLF        = &reply{500, "5.5.2", "Bare LF: lines must end in CRLF (RFC 5321 2.3.8)"}
	replyBareCR        = &reply{500, "5.5.2", "Bare CR: lines must end in CRLF (RFC 5321 2.3.8)"}
	replyNUL           = &reply{500, "5.5.2", "NUL octet in command"}
	replyNoArgument    = &reply{501, "5.5.4", "This command takes no argument"}
	replyBadSequence   = &reply{503, "5.5.1", "Bad sequence of commands"}
	replyNotOffered    = &reply{502, "5.5.1", "Not offered here"}
	replyTooManyErrors = &reply{421, "4.7.0", "Too many errors, closing connection"}
	replyTimeout       = &reply{421, "4.4.2", "Timeout, closing connection"}
	replyTooSlow       = &reply{421, "4.4.2", "Too slow within a message, closing connection"}
	replyReadyForTLS   = &reply{220, "2.0.0", "Ready to start TLS"}
	replyTLSAlready    = &reply{503, "5.5.1", "TLS is active already"}
	replyTLSFirst      = &reply{530, "5.7.0", "Must issue a STARTTLS command first"}
	replyEarlyTLS      = &reply{554, "5.5.0", "Data behind STARTTLS before its reply, closing connection"}
	replyShutdown      = &reply{421, "4.3.2", "Server is shutting down, try again later"}
)

// Replies of the ingress machine.
var (
	replyHelp          = &reply{214, "2.0.0", "See RFC 5321; mail is held for collection over ATRN (RFC 2645)"}
	replyVerify        = &reply{252, "2.0.0", "Cannot verify the user, but will take mail for delivery"}
	replyVerifyWhom    = &reply{501, "5.5.4", "Syntax: VRFY address"}
	replySayLHLO       = &reply{500, "5.5.1", "This is LMTP: say LHLO (RFC 2033 4.1)"}
	replySayEHLO       = &reply{500, "5.5.1", "This is SMTP: say EHLO"}
	replyMailOK        = &reply{250, "2.1.0", "Sender ok"}
	replyRcptOK        = &reply{250, "2.1.5", "Recipient ok"}
	replyStartData     = &reply{354, "", "End data with <CR><LF>.<CR><LF>"}
	replyUntrusted     = &reply{550, "5.7.1", "Your address is not in a network that may hand in mail here"}
	replyTooBig        = &reply{552, "5.3.4", "Message exceeds the size limit"}
	replyUnknownParam  = &reply{555, "5.5.4", "Parameter not known or not offered"}
	replyNeedUTF8      = &reply{553, "5.6.7", "Address is not ASCII: SMTPUTF8 needed on MAIL (RFC 6531)"}
	replyLiteral       = &reply{550, "5.1.2", "No mail for address literals is held here"}
	replyTooManyRcpts  = &reply{452, "4.5.3", "Too many recipients, send the rest in another transaction"}
	replyNoRcpts       = &reply{554, "5.5.1", "No valid recipients"}
	replyNoRcptsLMTP   = &reply{503, "5.5.1", "No valid recipients"} // RFC 2033 4.2
	replyEarlyContent  = &reply{554, "5.5.0", "That is no command: content must not be sent before a 354 (RFC 2920 3.1)"}
	replyContentBareLF = &reply{554, "5.6.0", "Bare LF in message: lines must end in CRLF (RFC 5321 2.3.8)"}
	replyContentBareCR = &reply{554, "5.6.0", "Bare CR in message: lines must end in CRLF (RFC 5321 2.3.8)"}
	replyContentNUL    = &reply{554, "5.6.0", "NUL octet in message (RFC 6152 3, RFC 2045 2.8)"}
	replyLoop          = &reply{554, "5.4.6", "Too many Received fields: mail loop (RFC 5321 6.3)"}
)

// Replies of the provider machine. Those to ATRN but for 530 have no enhanced code, as RFC 2645 5.2.1 has none.
var (
	replyAuthenticated   = &reply{235, "2.7.0", "Authentication successful"}
	replyTurning         = &reply{250, "", "OK now reversing the connection"}
	replyNoMail          = &reply{453, "", "You have no mail"}
	replyAuthRequired    = &reply{530, "5.7.0", "Authentication required"}
	replyTLSBeforeLogin  = &reply{503, "5.5.1", "STARTTLS comes before AUTH"}
	replyAuthAgain       = &reply{503, "5.5.1", "Already authenticated"}
	replyMechanism       = &reply{504, "5.5.4", "Mechanism not offered"}
	replyAuthCancelled   = &reply{501, "5.7.0", "Authentication cancelled"}
	replyAuthLineLong    = &reply{500, "5.5.6", "Authentication line too long"}
	replyTooManyCommands = &reply{421, "4.7.0", "Too many commands without a login, closing connection"}
	replyAuthFailures    = &reply{421, "4.7.0", "Too many failed logins, closing connection"}
	replyLoginTimeout    = &reply{421, "4.4.2", "No login in time, closing connection"}
	replyEarlyAuth       = &reply{554, "5.5.0", "Data behind AUTH before its reply, closing connection"}
	replyEarlyATRN       = &reply{554, "5.5.0", "Data behind ATRN before its reply: nothing is sent, closing connection"}
)

// appendGreeting appends the 220 of a connection; protocol is ESMTP or LMTP.
func appendGreeting(dst []byte, hostname, protocol string) []byte {
	dst = append(dst, "220 "...)
	dst = append(dst, hostname...)
	dst = append(dst, ' ')
	dst = append(dst, protocol...)
	return append(dst, "\r\n"...)
}

// appendIngressEHLO appends the reply to EHLO and LHLO (RFC 5321 4.1.1.1). Who may hand in mail may say where it has it from.
func appendIngressEHLO(dst []byte, hostname string, maxSize int64, startTLS, trusted bool) []byte {
	dst = append(dst, "250-"...)
	dst = append(dst, hostname...)
	dst = append(dst, "\r\n250-PIPELINING\r\n250-SIZE "...)
	dst = strconv.AppendInt(dst, maxSize, 10)
	if startTLS {
		dst = append(dst, "\r\n250-STARTTLS"...)
	}
	if trusted {
		dst = append(dst, "\r\n250-"+codec.XForwardOffer...)
	}
	return append(dst, "\r\n250-8BITMIME\r\n250-SMTPUTF8\r\n250-CHUNKING\r\n250-DSN\r\n250 ENHANCEDSTATUSCODES\r\n"...)
}

// appendQueued appends the reply to a message that is safe now.
func appendQueued(dst []byte, id mail.ID) []byte {
	dst = append(dst, "250 2.0.0 Ok: queued as "...)
	dst = id.Append(dst)
	return append(dst, "\r\n"...)
}

// appendChunkTaken appends the reply to a BDAT that is not the last (RFC 3030 2).
func appendChunkTaken(dst []byte, octets int64) []byte {
	dst = append(dst, "250 2.0.0 "...)
	dst = strconv.AppendInt(dst, octets, 10)
	return append(dst, " octets received\r\n"...)
}
