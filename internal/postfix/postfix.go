// Package postfix has what the private instances of Postfix share that the interoperability tests and the load harness start:
// the services of master.cf. Each instance's main.cf stands where it is used, for it says what is tested or measured.
//
// Nothing here starts a process, and the server must never import it.
package postfix

import "fmt"

// Services is a master.cf for an instance that takes mail at addr (host:port) and passes it on by SMTP or LMTP, or puts it into a
// virtual mailbox. It is Debian's without chroot, and without what such an instance must not do: local delivery, pipes, QMQP.
func Services(addr string) string { return fmt.Sprintf(services, addr) }

const services = `%s inet n - n - - smtpd
pickup unix n - n 60 1 pickup
cleanup unix n - n - 0 cleanup
qmgr unix n - n 300 1 qmgr
rewrite unix - - n - - trivial-rewrite
bounce unix - - n - 0 bounce
defer unix - - n - 0 bounce
trace unix - - n - 0 bounce
verify unix - - n - 1 verify
flush unix n - n 1000? 0 flush
proxymap unix - - n - - proxymap
smtp unix - - n - - smtp
relay unix - - n - - smtp
showq unix n - n - - showq
error unix - - n - - error
retry unix - - n - - error
discard unix - - n - - discard
virtual unix - n n - - virtual
lmtp unix - - n - - lmtp
anvil unix - - n - 1 anvil
scache unix - - n - 1 scache
postlog unix-dgram n - n - 1 postlogd
`
