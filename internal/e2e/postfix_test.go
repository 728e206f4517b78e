package e2e

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// Postfix is a private instance of postfix: its configuration, queue and log are in a directory
// of its own, and it listens on one loopback port. Debian's own instance is never touched.
type Postfix struct {
	t    *testing.T
	Dir  string
	Addr string
	cmd  *exec.Cmd
}

// postfixServices is master.cf without anything that this instance must not do.
const postfixServices = `%s inet n - n - - smtpd
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
	if os.Geteuid() != 0 {
		unavailable(t, "postfix runs as root only")
	}
	owner, err := user.Lookup("postfix")
	if err != nil {
		unavailable(t, "there is no user postfix")
	}
	// t.TempDir is closed to other users, and postfix' processes are other users.
	dir, err := os.MkdirTemp("", "odmr-postfix-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	p := &Postfix{t: t, Dir: dir, Addr: freePort(t)}
	uid, _ := strconv.Atoi(owner.Uid)
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	must(os.Chmod(dir, 0o755))
	must(os.Mkdir(dir+"/spool", 0o755))
	must(os.Mkdir(dir+"/lib", 0o700))
	must(os.Chown(dir+"/lib", uid, -1))
	must(os.WriteFile(dir+"/main.cf", fmt.Appendf(nil, postfixCommon+"%[3]s", dir, name, mainCF), 0o644))
	must(os.WriteFile(dir+"/master.cf", fmt.Appendf(nil, postfixServices, p.Addr), 0o644))
	if out, err := exec.Command(postfix, "-c", dir, "check").CombinedOutput(); err != nil {
		t.Fatalf("postfix check: %v\n%s", err, out)
	}
	p.cmd = exec.Command(master, "-c", dir, "-s")
	p.cmd.Env = append(os.Environ(), "MAIL_CONFIG="+dir)
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Pdeathsig: syscall.SIGTERM} // its children are found by their group
	must(p.cmd.Start())
	t.Cleanup(p.stop)
	until(t, name+" to listen", func() bool {
		conn, err := net.Dial("tcp", p.Addr)
		if err == nil {
			_ = conn.Close()
		}
		return err == nil
	})
	return p
}

// stop ends master and waits until its children are gone.
func (p *Postfix) stop() {
	pid := p.cmd.Process.Pid
	_ = p.cmd.Process.Signal(syscall.SIGTERM)
	_ = p.cmd.Wait()
	for end := time.Now().Add(patience); syscall.Kill(-pid, 0) == nil; time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			_ = syscall.Kill(-pid, syscall.SIGKILL)
			break
		}
	}
	if p.t.Failed() {
		p.t.Logf("end of postfix' log:\n%s", tail(p.Log(), 4000))
	}
}

// Log is what this instance has logged.
func (p *Postfix) Log() string {
	b, _ := os.ReadFile(p.Dir + "/mail.log")
	return string(b)
}

// waitEmpty waits until nothing is in the queue any more.
func (p *Postfix) waitEmpty() {
	p.t.Helper()
	until(p.t, "postfix' queue to be empty", func() bool {
		n := 0
		for _, q := range []string{"maildrop", "incoming", "active", "deferred"} {
			_ = filepath.WalkDir(filepath.Join(p.Dir, "spool", q), func(_ string, d os.DirEntry, err error) error {
				if err == nil && d.Type().IsRegular() {
					n++
				}
				return nil
			})
		}
		return n == 0
	})
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
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}
