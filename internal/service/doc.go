// Package service is a server's side of the machine that runs it: sockets that were opened by
// whoever started it (sd_listen_fds(3)), what it tells a service manager (sd_notify(3)), and the user
// that it becomes once it has what only root may open (setresuid(2)).
//
// It serves one process, which calls it while it starts and from one goroutine; nothing here is
// kept. It must never open a file or a port itself.
package service
