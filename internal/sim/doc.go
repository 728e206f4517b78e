// Package sim runs the whole server but the kernel in virtual time, from one seed: MXs that hand mail in, customers
// that collect it and take over from each other, the session machines of engine/session, the directory and the logins
// of internal/account, the reporter of internal/bounce with a smarthost behind it, what internal/recipients learns, an operator who
// decides about held mail, changes the accounts (domains that go from one customer to another, vacations, quotas), imports mail (by
// internal/admin's client and intake, interrupted and run again) and stops the server in order, and the store of queue/pebblestore on a
// disk that loses power and fails (queue/pebblestore/crashfs).
//
// Contract: one seed takes one course. Everything runs on one goroutine, in the order of one queue of events, and every
// decision comes from one source of random numbers; calls of the store are waited for. Result.Hash is a hash over the
// whole course, and a test compares that of two runs.
//
// What stands in for package engine is conn: it keeps the driver's side of the session contract with all that this allows,
// and more often than a real day would bring it: completions that are late and out of order, input cut at any octet, writes
// that go out by halves, lines that break in any of three ways, a store that is short of memory, does not read, has no room,
// is slow to sync, or dies in the middle of a commit. What package engine decides itself (whose turn it is, quotas, who comes too soon,
// who may go on after a reload) conn decides by rules of its own, so that engine's tests have to show that engine follows the same ones.
//
// The ledger knows what everybody promised and did, and looks at each step for what must never happen; its rules are the
// Rule constants. A Bug is planted to prove that the rule that it breaks is looked at. At the end the weather clears, all customers
// collect until nothing is left, and every message must have come to one of its legal ends.
//
// It holds no code but tests. It never reads the clock, touches no file and opens no socket.
package sim
