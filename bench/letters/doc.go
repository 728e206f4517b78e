// Package letters makes the mail of the load harness and judges what arrives.
//
// Every message bears a number and a hash over its number and all octets behind the line that
// carries them, so that whoever receives it can tell, without having seen it go out, that it is
// the message of that number and unaltered. A Ledger remembers which numbers were
// acknowledged by the server and which arrived, and so knows the lost, the doubled and the strange.
//
// The hash is CRC-32C: the processor has an instruction for it, and at a gigabyte a second the
// judge must not be what is measured. It finds what software does to mail (lost, doubled, swapped or
// mixed pieces, a missing dot); it is no protection against somebody who means to deceive.
//
// Making a message costs one line and no pass over its content: contents come from a
// small Stock of texts whose hashes are known, some of them with dots at line starts.
//
// A Stock and a Ledger are safe for many goroutines at once; a Judge belongs to one.
// The package must never touch a socket or a clock.
package letters
