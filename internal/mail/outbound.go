package mail

// OutboundDomain names the queue of what this server itself sends to the outside: reports to senders. It is no
// domain, so that no customer can have it, ask for it in ATRN or be sent mail for it; its recipients are anywhere.
const OutboundDomain = "*outbound"
