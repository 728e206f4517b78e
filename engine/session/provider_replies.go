package session

// providerReply is a reply of the Provider machine.
type providerReply struct {
	code     int
	enhanced string // RFC 3463; empty where the protocol's own document gives none
	text     string
}

// The replies of the Provider machine, all of them but the EHLO reply, what the driver's
// refusals say and what package codec says of broken syntax.
var (
	odmrAuthenticated = providerReply{235, "2.7.0", "Authentication successful"}  // RFC 4954 6
	odmrTurning       = providerReply{250, "", "OK now reversing the connection"} // RFC 2645 5.2.1: one line
	odmrOK            = providerReply{250, "2.0.0", "OK"}
	odmrBye           = providerReply{221, "2.0.0", "closing connection"} // behind the host name

	odmrNotImplemented = providerReply{502, "5.5.1", "Command not implemented"}      // RFC 2645 5.1
	odmrAuthRequired   = providerReply{530, "5.7.0", "Authentication required"}      // RFC 2645 5.2.1, RFC 4954 6
	odmrAuthAgain      = providerReply{503, "5.5.1", "Already authenticated"}        // RFC 4954 4
	odmrMechanism      = providerReply{504, "5.5.4", "Mechanism not offered"}        // RFC 4954 4
	odmrAuthCancelled  = providerReply{501, "5.7.0", "Authentication cancelled"}     // RFC 4954 4
	odmrNoArgument     = providerReply{501, "5.5.4", "No argument allowed"}          // RFC 5321 4.1.1.5, 4.1.1.10
	odmrAuthLineLong   = providerReply{500, "5.5.6", "Authentication line too long"} // RFC 4954 6
	odmrLineLong       = providerReply{500, "5.5.2", "Line too long"}                // RFC 5321 4.5.3.1.9
	odmrBareLF         = providerReply{500, "5.5.2", "Line ends in bare LF"}         // RFC 5321 2.3.8
	odmrBareCR         = providerReply{500, "5.5.2", "Bare CR in line"}
	odmrNUL            = providerReply{500, "5.5.2", "NUL in line"}

	// What ends the session.
	odmrEarlyAuth    = providerReply{554, "5.5.0", "Data behind AUTH before its reply; closing connection"}
	odmrEarlyATRN    = providerReply{554, "5.5.0", "Data behind ATRN before its reply; nothing is sent"}
	odmrErrors       = providerReply{421, "4.7.0", "Too many errors"}
	odmrAuthErrors   = providerReply{421, "4.7.0", "Too many failed logins"}
	odmrLoginTimeout = providerReply{421, "4.4.2", "No login in time"}
	odmrIdle         = providerReply{421, "4.4.2", "No command in time"}
	odmrStopping     = providerReply{421, "4.3.2", "Service is shutting down"}
)
