// Package traffic is the lean ends of the wire that the load harness works with: the MX that hands
// mail in (Sender), the customer that collects it (Customer), and what stands in for the
// server where the harness itself is measured (Sink, Provider).
//
// internal/client has the same ends, built to be strict, to misbehave and to be looked into; these
// are built to cost as little as they can, because they share two cores with the server that
// is measured: no allocation per message, messages made of prepared pieces, one write for as much as
// may go out at once, one read for as much as has come. They speak RFC 5321 with PIPELINING
// (RFC 2920), CHUNKING (RFC 3030) and LMTP (RFC 2033), and RFC 2645.
//
// Each value belongs to one goroutine at a time; a context's end closes the connection and so ends
// whatever waits on it. Octets are counted in atomic counters that others may read at any time.
//
// It must never skip the look at a message (letters.Judge): a rate of mail that nobody
// compared is not a rate of mail.
package traffic
