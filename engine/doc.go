// Package engine is the server's body: gnet event loops, connections, the output queue,
// timers, and the hand-off of everything that blocks to workers. It drives the pure state
// machines of engine/session against real sockets, a queue.Store and an account.Directory.
//
// Ownership and concurrency:
//
//   - A connection (conn) belongs to exactly one event loop and is touched on that loop
//     only; nothing in it is locked. Its id is a counter, never the file descriptor.
//   - Work that blocks crosses to a worker as a value (job) that names the connection by its
//     id, and comes back as a value (event) through the loop's inbox: the only way back.
//     Workers never hold a connection.
//   - A connection's record outlives its socket until every call in flight for it has come
//     back, so that each lease, delivery, body and incoming message has one owner at every moment
//     and is given back exactly once.
//   - Plain octets come in through conn.receive and go out through output, and nowhere else:
//     TLS stands between these two and the socket (tls.go). A handshake runs on a goroutine that
//     ends with it; an idle session under TLS has none.
//
// Memory is bounded by configuration: input that a session does not take is left in the kernel
// (pause.go), output is a queue of lent segments of which one body segment per session is
// in memory (output.go), messages held ready are charged to PrefetchMemory and
// bodies on their way in to IngestMemory.
//
// What strangers may take is bounded, too (limits.go): sessions and connections by address and account,
// failed logins by the pair of both, in tables of bounded size. Delays are timers of the wheel. Behind
// a balancer the address is the one in the PROXY header (proxy.go).
//
// See reclaim.go for what becomes of the memory held for a peer that does not read.
//
// RFCs obeyed here: RFC 2645 (which refusal ATRN gets), RFC 5321 3.8 and 4.1.1.4 (how a
// connection may end), RFC 1870 (size), RFC 3207 (nothing from before STARTTLS is used after it). Everything else about protocols is the machines' business.
//
// The package must never block on an event loop, call gnet's Write, Writev or AsyncWrite (they
// buffer without a bound), or let a panic in one session end the process. It is the only
// room that imports gnet.
package engine
