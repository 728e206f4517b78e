package e2e

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// mta is a private instance of one of Debian's mail servers, with a directory and a loopback port of its own. It
// runs in the foreground and ends, with all that it has started, when the test does.
type mta struct {
	t    *testing.T
	dir  string // other users can come in
	addr string
	log  string // file with what it wrote
	cmd  *exec.Cmd
}

// newMTA makes the directory; start starts it.
func newMTA(t *testing.T) *mta {
	t.Helper()
	if os.Geteuid() != 0 {
		unavailable(t, "mail servers are started by root only")
	}
	// t.TempDir is closed to other users, and the servers' processes are other users.
	dir, err := os.MkdirTemp("", "odmr-mta-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	return &mta{t: t, dir: dir, addr: freePort(t), log: filepath.Join(dir, "mail.log")}
}

// port is the one that it shall listen on.
func (m *mta) port() string {
	_, port, _ := net.SplitHostPort(m.addr)
	return port
}

// write writes a file that all may read; it returns its path.
func (m *mta) write(name, text string) string {
	m.t.Helper()
	path := filepath.Join(m.dir, name)
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		m.t.Fatal(err)
	}
	return path
}

// mkdir makes a directory that belongs to the user called owner; it returns its path.
func (m *mta) mkdir(name, owner string, mode os.FileMode) string {
	m.t.Helper()
	path := filepath.Join(m.dir, name)
	u, err := user.Lookup(owner)
	if err != nil {
		unavailable(m.t, "there is no user "+owner)
	}
	uid, _ := strconv.Atoi(u.Uid)
	gid, _ := strconv.Atoi(u.Gid)
	if err := os.Mkdir(path, mode); err != nil {
		m.t.Fatal(err)
	}
	if err := os.Chown(path, uid, gid); err != nil {
		m.t.Fatal(err)
	}
	return path
}

// run runs a program of the server's to its end.
func (m *mta) run(program string, args ...string) string {
	m.t.Helper()
	out, err := exec.Command(program, args...).CombinedOutput()
	if err != nil {
		m.t.Fatalf("%s %q: %v\n%s", filepath.Base(program), args, err, out)
	}
	return string(out)
}

// start starts the server in the foreground and waits until it listens.
func (m *mta) start(program string, args ...string) {
	m.t.Helper()
	out, err := os.OpenFile(m.log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o666)
	if err != nil {
		m.t.Fatal(err)
	}
	defer out.Close()
	m.cmd = exec.Command(program, args...)
	m.cmd.Dir = m.dir
	m.cmd.Env = append(os.Environ(), "MAIL_CONFIG="+m.dir)
	m.cmd.Stdout, m.cmd.Stderr = out, out
	m.cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Pdeathsig: syscall.SIGTERM} // its children are found by their group
	if err := m.cmd.Start(); err != nil {
		m.t.Fatal(err)
	}
	m.t.Cleanup(m.stop)
	until(m.t, filepath.Base(program)+" to listen", func() bool {
		conn, err := net.Dial("tcp", m.addr)
		if err == nil {
			_ = conn.Close()
		}
		return err == nil
	})
}

// stop ends it and waits until its children are gone.
func (m *mta) stop() {
	if m.cmd == nil {
		return
	}
	pid := m.cmd.Process.Pid
	_ = m.cmd.Process.Signal(syscall.SIGTERM)
	_ = m.cmd.Wait()
	m.cmd = nil
	for end := time.Now().Add(patience); syscall.Kill(-pid, 0) == nil; time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			_ = syscall.Kill(-pid, syscall.SIGKILL)
			break
		}
	}
	if m.t.Failed() {
		m.t.Logf("end of the log of %s:\n%s", filepath.Base(m.dir), tail(m.Log(), 6000))
	}
}

// Log is what it has written.
func (m *mta) Log() string {
	b, _ := os.ReadFile(m.log)
	return string(b)
}

// waitEmpty waits until there is no file below dirs, which are in its own directory.
func (m *mta) waitEmpty(dirs ...string) {
	m.t.Helper()
	until(m.t, fmt.Sprintf("%s of %s to be empty", strings.Join(dirs, ", "), filepath.Base(m.dir)), func() bool {
		n := 0
		for _, d := range dirs {
			_ = filepath.WalkDir(filepath.Join(m.dir, d), func(_ string, d os.DirEntry, err error) error {
				if err == nil && d.Type().IsRegular() {
					n++
				}
				return nil
			})
		}
		return n == 0
	})
}

// peersDir is where `make interop-packages` unpacks the servers that cannot be installed beside Postfix.
const peersDir = "../../bin/peers"

// needUnpacked finds a file of theirs, or skips the test by its name.
func needUnpacked(t *testing.T, name string) string {
	t.Helper()
	path, err := filepath.Abs(filepath.Join(peersDir, name))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(path); err != nil {
		unavailable(t, filepath.Base(name)+" is not unpacked in bin/peers (make interop-packages)")
	}
	return path
}

// between puts text in front of each line of block that marks it.
func between(t *testing.T, block string, marks ...string) string {
	t.Helper()
	for i := 0; i < len(marks); i += 2 {
		if !strings.Contains(block, marks[i]+"\n") {
			t.Fatalf("README.md's example has no line %q any more:\n%s", marks[i], block)
		}
		block = strings.Replace(block, marks[i]+"\n", marks[i+1], 1)
	}
	return block
}

// eximTop is the part of a test's exim.conf that has nothing to do with us.
const eximTop = `exim_path = %[4]s
primary_hostname = %[2]s
spool_directory = %[1]s/spool
pid_file_path = %[1]s/spool/exim-daemon.pid
log_file_path = %[1]s/log/%%slog
local_interfaces = 127.0.0.1
daemon_smtp_ports = %[3]s
tls_advertise_hosts =
dsn_advertise_hosts = *
acl_smtp_rcpt = acl_check_rcpt
rfc1413_query_timeout = 0s
host_lookup =
keep_environment =
message_size_limit = 60M
never_users = root
`

// eximACL takes mail for the domains that concern the example, as Debian's own does.
const eximACL = `begin acl
acl_check_rcpt:
  accept domains = +%s
  deny
`

// eximScript runs it in a mount namespace of its own, in which the configuration that is compiled in is ours: with any
// other it would give up the privileges that it needs to deliver.
const eximScript = `set -e
mount --bind %[1]s/etc /var/lib/exim4
exec %[2]s -bdf -q1h
`

// startExim starts an instance on the README's example; domains is the list that it defines.
func startExim(t *testing.T, name, domains, example string) *mta {
	t.Helper()
	program := needUnpacked(t, "usr/sbin/exim4")
	m := newMTA(t)
	m.mkdir("spool", "Debian-exim", 0o750)
	m.mkdir("log", "Debian-exim", 0o750)
	m.mkdir("etc", "root", 0o755)
	if _, err := os.Stat("/var/lib/exim4"); err != nil {
		unavailable(t, "/var/lib/exim4 is needed as a place to mount on (make interop-packages)")
	}
	m.write("etc/config.autogenerated", fmt.Sprintf(eximTop, m.dir, name, m.port(), program)+
		between(t, example, "begin routers", fmt.Sprintf(eximACL, domains)+"begin routers\n")+
		"begin retry\n* * F,1h,2s\n")
	m.start(needProgram(t, "unshare"), "--mount", "--propagation", "private", "sh", "-c", fmt.Sprintf(eximScript, m.dir, program))
	m.log = filepath.Join(m.dir, "log", "mainlog")
	return m
}

// openSMTPDScript runs it in a mount namespace of its own, in which the paths that are compiled in are ours.
const openSMTPDScript = `set -e
mount --bind %[1]s/spool /var/spool/smtpd
mount --bind %[1]s/empty /var/lib/opensmtpd/empty
mount --bind %[1]s/run /run
mount --bind %[2]s/usr/libexec/opensmtpd /usr/libexec/opensmtpd
exec %[2]s/usr/sbin/smtpd -d -f %[1]s/smtpd.conf
`

// startOpenSMTPD starts an instance on the README's example.
func startOpenSMTPD(t *testing.T, name, example string) *mta {
	t.Helper()
	needUnpacked(t, "usr/sbin/smtpd")
	root := needUnpacked(t, ".")
	m := newMTA(t)
	for _, u := range []string{"opensmtpd", "opensmtpq"} {
		if _, err := user.Lookup(u); err != nil {
			unavailable(t, "there is no user "+u)
		}
	}
	for _, d := range []string{"spool", "empty", "run"} {
		m.mkdir(d, "root", 0o711)
	}
	m.write("smtpd.conf", fmt.Sprintf("listen on 127.0.0.1 port %s hostname %s\nsmtp max-message-size 60M\n%s", m.port(), name, example))
	m.start(needProgram(t, "unshare"), "--mount", "--propagation", "private", "sh", "-c", fmt.Sprintf(openSMTPDScript, m.dir, root))
	return m
}

// sendmailTop is the part of a test's sendmail.mc that has nothing to do with us: paths, ports, no names looked up.
const sendmailTop = "include(`%[2]s/usr/share/sendmail/cf/m4/cf.m4')dnl\n" +
	"OSTYPE(`linux')dnl\n" +
	"define(`confDOMAIN_NAME', `%[3]s')dnl\n" +
	"define(`QUEUE_DIR', `%[1]s/mqueue')dnl\n" +
	"define(`STATUS_FILE', `%[1]s/status')dnl\n" +
	"define(`confPID_FILE', `%[1]s/pid')dnl\n" +
	"define(`ALIAS_FILE', `%[1]s/aliases')dnl\n" +
	"define(`confCR_FILE', `-o %[1]s/relay-domains')dnl\n" +
	"define(`confCW_FILE', `-o %[1]s/local-host-names')dnl\n" +
	"define(`confSERVICE_SWITCH_FILE', `%[1]s/switch')dnl\n" +
	"define(`confDONT_BLAME_SENDMAIL', `TrustStickyBit')dnl\n" +
	"define(`confDONT_PROBE_INTERFACES', `True')dnl\n" +
	"define(`confTO_IDENT', `0')dnl\n" +
	"define(`confDEF_USER_ID', `mail:mail')dnl\n" +
	"define(`confQUEUE_LA', `10000')dnl\ndefine(`confREFUSE_LA', `10000')dnl\n" + // the machine may be busy
	"FEATURE(`no_default_msa')dnl\n" +
	"FEATURE(`accept_unresolvable_domains')dnl\n" +
	"DAEMON_OPTIONS(`Port=%[4]s, Addr=127.0.0.1, Name=MTA')dnl\n"

// sendmailScript gives it a host name with a dot: without one it waits for a minute.
const sendmailScript = `set -e
hostname %[1]s
[ ! -e %[3]s/aliases ] || %[2]s -C %[3]s/sendmail.cf -bi
exec %[2]s -C %[3]s/sendmail.cf -bD -X %[3]s/traffic
`

// startSendmail starts an instance on the README's example, whose tables must have been written into m's directory
// before; makemap makes them.
func startSendmail(m *mta, name, example string, tables ...string) {
	t := m.t
	t.Helper()
	program := needUnpacked(t, "usr/libexec/sendmail/sendmail")
	root := needUnpacked(t, ".")
	m.mkdir("mqueue", "root", 0o700)
	m.write("switch", "hosts files\naliases files\n")
	m.write("status", "")
	mc := m.write("sendmail.mc", fmt.Sprintf(sendmailTop, m.dir, root, name, m.port())+example)
	cf, err := exec.Command(needProgram(t, "m4"), "-D_CF_DIR_="+root+"/usr/share/sendmail/cf/", mc).Output()
	if err != nil {
		t.Fatalf("m4: %v", err)
	}
	m.write("sendmail.cf", string(cf))
	for _, table := range tables {
		f, err := os.Open(filepath.Join(m.dir, table))
		if err != nil {
			t.Fatal(err)
		}
		cmd := exec.Command(filepath.Join(root, "usr/libexec/sendmail/makemap"), "-C", filepath.Join(m.dir, "sendmail.cf"), "hash", filepath.Join(m.dir, table))
		cmd.Stdin = f
		out, err := cmd.CombinedOutput()
		_ = f.Close()
		if err != nil {
			t.Fatalf("makemap %s: %v\n%s", table, err, out)
		}
	}
	m.log = filepath.Join(m.dir, "traffic")
	m.start(needProgram(t, "unshare"), "--uts", "sh", "-c", fmt.Sprintf(sendmailScript, name, program, m.dir))
}
