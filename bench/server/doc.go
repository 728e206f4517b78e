// Package server starts the server that is measured and looks at it from outside: its addresses, the
// memory, processor time and disk traffic that the kernel accounts to it, its profiles.
//
// The process gets a directory of its own, loopback listeners on free ports and the flags that the
// run names; nothing else about it is known here. Whoever starts it stops it: SIGTERM, and
// SIGKILL only if it does not obey. The package must never touch a process that it did not start.
package server
