// Package bench is the load harness: it drives a real odmrd over the network, as MXs and customers
// would, and says how fast that went, beside what the machine could have done.
//
// A scenario is a struct whose fields are its flags and whose Run does one thing and returns a
// result.Result. Each starts a server of its own in an empty directory, unless Settings.Target
// names a running one, and measures its ceilings in the same run: raw loopback with the
// same octets, the harness against a stand-in for the server, the store's own rate. The stand-ins
// run in a process of their own (a Part), as the server does, so that they get no more of the machine.
//
// Whatever is collected is compared message by message (package letters); a run in which a
// message was lost, doubled or altered is reported as broken, however fast it was. Latency in open-loop
// scenarios counts from when a message was to be sent, not from when the harness got to it.
//
// Packages below: letters (mail that knows itself), traffic (ends of the wire), delay (a long line), server
// (the process that is measured), peers (other MTAs), result (what came out, and how it is shown).
// What needs more of the server than its sockets (accounts, the bare store) is given by the
// command as Deps, because this room knows the codec and nothing else of the server.
package bench
