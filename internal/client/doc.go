// Package client is the other end of the line: the customer of an On-Demand Mail Relay
// (RFC 2645) and the MX host that hands mail to one (RFC 5321, RFC 2033).
//
// A Customer connects, greets, authenticates with CRAM-MD5 (RFC 2195) and sends ATRN. After
// the provider's 250 the roles reverse: Serve answers as an SMTP server on the same
// connection and gives what comes to a Receiver, streaming, with a fixed amount of memory
// per connection. A Sender hands messages in over SMTP or LMTP.
//
// Who owns what: a Customer and a Sender each own their connection and belong to one
// goroutine at a time; the context given to Dial ends the connection when it is cancelled.
// A Sink belongs to the Serve that began it and sees exactly one of Commit and Abort.
//
// The package serves odmrget, the tests and the load harness. So a Customer can be told
// to misbehave (Hook) and notes every breach of the protocol by its peer (Stats.Breaches)
// instead of failing on it. It has its own reading of the wire on purpose: what the server
// writes is judged by other code than the server's.
//
// It must never answer 250 to a message before its Sink's Commit has returned nil, and never
// hold a whole message in memory.
package client
