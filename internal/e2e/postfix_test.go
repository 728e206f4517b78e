package e2e

import (
	"fmt"
	"os"
	"regexp"
	"strings"
	"testing"

	"odmr/internal/freeport"
	services "odmr/internal/postfix"
)

// Postfix is a private instance of postfix: its configuration, queue and log are in a directory
// of its own, and it listens on one loopback port. Debian's own instance is never touched.
type Postfix struct {
	*mta
	Dir  string
	Addr string
}

// postfixCommon keeps postfix from altering what it relays: no adding or rewriting of header fields, no folding of
// long lines, no conversion of 8-bit content. What it still does is drop Bcc and Return-Path and add Received.
const postfixCommon = `compatibility_level = 3.6
queue_directory = %[1]s/spool
data_directory = %[1]s/lib
maillog_file = %[1]s/mail.log
maillog_file_prefixes = %[1]s
inet_interfaces = 127.0.0.1
inet_protocols = ipv4
myhostname = %[2]s
myorigin = %[2]s
mydestination =
mynetworks = 127.0.0.0/8
alias_maps =
alias_database =
local_recipient_maps =
local_header_rewrite_clients =
smtp_line_length_limit = 0
lmtp_line_length_limit = 0
disable_mime_output_conversion = yes
message_size_limit = 60000000
mailbox_size_limit = 0
virtual_mailbox_limit = 0
smtpd_recipient_limit = 1000
smtpd_client_connection_count_limit = 0
smtp_tls_security_level = none
smtpd_tls_security_level = none
smtp_dns_support_level = disabled
smtp_host_lookup = native
lmtp_dns_support_level = disabled
default_process_limit = 20
minimal_backoff_time = 2s
maximal_backoff_time = 5s
queue_run_delay = 2s
`

// startPostfix starts an instance with more lines of main.cf; it needs root.
func startPostfix(t *testing.T, name string, mainCF string) *Postfix {
	t.Helper()
	master := ""
	for _, dir := range []string{"/usr/lib/postfix/sbin", "/usr/libexec/postfix"} {
		if _, err := os.Stat(dir + "/master"); err == nil {
			master = dir + "/master"
		}
	}
	postfix := needProgram(t, "postfix")
	if master == "" {
		unavailable(t, "postfix' master is not where it usually is")
	}
	m := newMTA(t)
	p := &Postfix{mta: m, Dir: m.dir, Addr: m.addr}
	m.mkdir("spool", "root", 0o755)
	m.mkdir("lib", "postfix", 0o700)
	m.write("main.cf", joinMainCF(fmt.Sprintf(postfixCommon, m.dir, name), mainCF))
	m.write("master.cf", services.Services(m.addr))
	m.run(postfix, "-c", m.dir, "check")
	m.start(master, "-c", m.dir, "-s")
	return p
}

// joinMainCF is common with more behind it, without those lines of common that more has another value for. Where a parameter is set twice, each process of
// Postfix warns of it as it starts, postlogd too: it hangs for ever, and all others with it, if the socket that it is about to read from is full by then
// (net.unix.max_dgram_qlen: 10 warnings).
func joinMainCF(common, more string) string {
	given := map[string]bool{}
	for line := range strings.Lines(more) {
		if name, _, ok := strings.Cut(line, "="); ok && !strings.HasPrefix(line, " ") {
			given[strings.TrimSpace(name)] = true
		}
	}
	var b strings.Builder
	for line := range strings.Lines(common) {
		if name, _, _ := strings.Cut(line, "="); !given[strings.TrimSpace(name)] {
			b.WriteString(line)
		}
	}
	return b.String() + more
}

// waitEmpty waits until nothing is in the queue any more.
func (p *Postfix) waitEmpty() {
	p.t.Helper()
	p.mta.waitEmpty("spool/maildrop", "spool/incoming", "spool/active", "spool/deferred")
}

var bounced = regexp.MustCompile(`status=(bounced|deferred|undeliverable)[^\n]*`)

// checkAllSent fails the test if postfix did not get rid of each message at once.
func (p *Postfix) checkAllSent() {
	p.t.Helper()
	if bad := bounced.FindAllString(p.Log(), 5); bad != nil {
		p.t.Errorf("postfix: %s", strings.Join(bad, "\n"))
	}
}

// freePort finds a loopback port for a program that cannot let the system choose one itself.
func freePort(t *testing.T) string {
	t.Helper()
	port, err := freeport.Loopback()
	if err != nil {
		t.Fatal(err)
	}
	return fmt.Sprintf("127.0.0.1:%d", port)
}
