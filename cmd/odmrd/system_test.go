package main

import (
	"errors"
	"fmt"
	"io/fs"
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

	"odmr/internal/freeport"
)

// nobody is the user whom these tests become; only root can.
func nobody(t *testing.T) (uid, gid int) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("only root can become somebody else")
	}
	u, err := user.Lookup("nobody")
	if err != nil {
		t.Fatal(err)
	}
	uid, _ = strconv.Atoi(u.Uid)
	gid, _ = strconv.Atoi(u.Gid)
	return uid, gid
}

// give makes everything below a directory somebody's.
func give(t *testing.T, dir string, uid, gid int) {
	t.Helper()
	err := filepath.WalkDir(dir, func(path string, _ fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		return os.Lchown(path, uid, gid)
	})
	if err != nil {
		t.Fatal(err)
	}
}

// privilegedPort finds a port of loopback that only root may listen on.
func privilegedPort(t *testing.T) string {
	t.Helper()
	if text, err := os.ReadFile("/proc/sys/net/ipv4/ip_unprivileged_port_start"); err != nil || strings.TrimSpace(string(text)) < "1024" && len(text) < 5 {
		t.Logf("here everybody may listen on ports from %.5s: %v", text, err)
	}
	for port := 1023; port > 500; port-- {
		addr := fmt.Sprintf("127.0.0.1:%d", port)
		if l, err := net.Listen("tcp", addr); err == nil {
			l.Close()
			return addr
		}
	}
	t.Fatal("no port is free")
	return ""
}

// threads gives a field of /proc/PID/task/*/status, which must be the same for all.
func (d *daemon) threads(field string) string {
	d.t.Helper()
	files, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/status", d.cmd.Process.Pid))
	if err != nil || len(files) < 2 {
		d.t.Fatalf("threads %v, %v", files, err)
	}
	all := ""
	for _, name := range files {
		text, err := os.ReadFile(name)
		if errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ESRCH) {
			continue // it has ended
		}
		m := regexp.MustCompile(`(?m)^` + field + `:[ \t]*(.*)$`).FindSubmatch(text)
		if err != nil || m == nil {
			d.t.Fatalf("%s has no %s: %v", name, field, err)
		}
		value := strings.Join(strings.Fields(string(m[1])), " ")
		if all != "" && value != all {
			d.t.Errorf("%s is %q in one thread and %q in another", field, all, value)
		}
		all = value
	}
	return all
}

// TestUserGivesUpRoot: the port is open, and nothing else of root is left, in any thread; what is written is the user's
// alone; what is read can be read again.
func TestUserGivesUpRoot(t *testing.T) {
	uid, gid := nobody(t)
	d := prepare(t)
	give(t, d.dir, uid, gid)
	addr := privilegedPort(t)
	d.start("--user=nobody", "--odmr-listen=", "--odmr-listen="+addr)
	if len(d.lines.ODMR) != 1 || d.lines.ODMR[0] != addr {
		t.Errorf("listens on %q", d.lines.ODMR)
	}
	if c, err := net.Dial("tcp", addr); err != nil {
		t.Error(err)
	} else {
		c.Close()
	}
	c := d.dial()
	d.begin(c)
	d.say(c, 250, ".")
	for field, want := range map[string]string{
		"Uid": fmt.Sprintf("%d %[1]d %[1]d %[1]d", uid), "Gid": fmt.Sprintf("%d %[1]d %[1]d %[1]d", gid), "Groups": "",
		"CapPrm": "0000000000000000", "CapEff": "0000000000000000", "CapAmb": "0000000000000000", "Umask": "0077",
	} {
		if got := d.threads(field); got != want {
			t.Errorf("%s: %q, want %q", field, got, want)
		}
	}
	files := 0
	err := filepath.WalkDir(filepath.Join(d.dir, "data"), func(path string, e fs.DirEntry, err error) error {
		if err != nil {
			return nil // gone in the meantime
		}
		info, err := e.Info()
		if err != nil {
			return nil
		}
		files++
		want := fs.FileMode(0o600)
		if e.IsDir() {
			want = 0o700
		}
		if st := info.Sys().(*syscall.Stat_t); info.Mode().Perm() != want || int(st.Uid) != uid || int(st.Gid) != gid {
			t.Errorf("%s: mode %s of %d:%d, want %s of %d:%d", path, info.Mode(), st.Uid, st.Gid, want, uid, gid)
		}
		return nil
	})
	if err != nil || files < 5 {
		t.Errorf("%d files, %v", files, err)
	}
	d.addAccount("two", "two.example") // by root, as an operator may
	d.signal(syscall.SIGHUP)
	d.logged(`"accounts":2.*accounts read`)
	if strings.Contains(d.log(), "running as root") {
		t.Error("warns of root")
	}
	d.stop()
}

// TestUserCannotRead: what the user may not open is a clear error at the start, not at the next reload.
func TestUserCannotRead(t *testing.T) {
	uid, gid := nobody(t)
	for name, c := range map[string]struct {
		hide func(d *daemon) string // returns a flag more
		want string
	}{
		"accounts": {func(d *daemon) string { os.Chown(d.accounts, 0, 0); return "" }, `--accounts: .*accounts: permission denied: it is opened as nobody`},
		"data": {func(d *daemon) string {
			os.Chown(filepath.Join(d.dir, "data"), 0, 0)
			return ""
		}, `--data: .*permission denied: it is opened as nobody`},
		"data to be made": {func(d *daemon) string { os.Chmod(d.dir, 0o500); return "--data=" + d.dir + "/new" }, `--data: .*permission denied: it is opened as nobody`},
		"a key": {func(d *daemon) string {
			key := filepath.Join(d.dir, "key")
			if err := os.WriteFile(key, nil, 0o600); err != nil {
				t.Fatal(err)
			}
			return "--tls-cert=" + d.accounts + ",--tls-key=" + key
		}, `key: permission denied: it is opened as nobody`},
	} {
		t.Run(name, func(t *testing.T) {
			d := prepare(t)
			if err := os.Mkdir(filepath.Join(d.dir, "data"), 0o700); err != nil {
				t.Fatal(err)
			}
			give(t, d.dir, uid, gid)
			flags := []string{"--user=nobody"}
			if more := c.hide(d); more != "" {
				flags = append(flags, strings.Split(more, ",")...)
			}
			d.spawn(flags...)
			if code := d.exit(); code != exitFailure {
				t.Errorf("exit status %d", code)
			}
			d.logged(c.want)
		})
	}
}

// TestUserThatCannotBe: nobody to become, and nobody who may.
func TestUserThatCannotBe(t *testing.T) {
	for user, want := range map[string]string{
		"root": "drops nothing", "0": "drops nothing", "nobody:root": "drops nothing", "no such": "unknown user", "nobody:no such": "unknown group", "": "",
	} {
		d := prepare(t)
		if d.spawn("--user="+user, "--loops=-1"); d.exit() != exitConfig || !strings.Contains(d.log(), want) || (user != "") != strings.Contains(d.log(), "--user: ") {
			t.Errorf("%q: exit status %d\n%s", user, d.exit(), d.log())
		}
	}
	uid, gid := nobody(t)
	d := prepare(t)
	program := filepath.Join(d.dir, "odmrd") // where nobody can start it
	text, err := os.ReadFile(os.Args[0])
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(program, text, 0o700); err != nil {
		t.Fatal(err)
	}
	give(t, d.dir, uid, gid)
	d.as = &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}
	d.program = program
	d.spawn("--user=daemon")
	if code := d.exit(); code != exitFailure {
		t.Errorf("exit status %d", code)
	}
	d.logged("--user: only root can become daemon")
	d.start("--user=nobody") // who it is already
	d.stop()
}

// TestRootIsWarned: a server that stays root says so.
func TestRootIsWarned(t *testing.T) {
	nobody(t)
	d := prepare(t).start()
	d.logged(`"level":"warn".*running as root`)
	d.stop()
}

// handOver opens a socket of loopback as systemd would, for the daemon's next runs.
func (d *daemon) handOver(name string) *net.TCPListener {
	d.t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		d.t.Fatal(err)
	}
	d.t.Cleanup(func() { l.Close() })
	d.handOverFile(name, l.(*net.TCPListener))
	return l.(*net.TCPListener)
}

func (d *daemon) handOverFile(name string, of interface{ File() (*os.File, error) }) {
	d.t.Helper()
	f, err := of.File()
	if err != nil {
		d.t.Fatal(err)
	}
	d.t.Cleanup(func() { f.Close() })
	d.files, d.names = append(d.files, f), append(d.names, name)
}

// TestSocketActivation: sockets stand in for the flags of their kinds, and for no others; and whoever connects while
// no server runs is served by the next one.
func TestSocketActivation(t *testing.T) {
	d := prepare(t)
	want := map[string]string{}
	for _, name := range []string{"smtp", "odmr", "admin", "smtp"} {
		want[name] += d.handOver(name).Addr().String() + " "
	}
	d.start("--smtp-listen=192.0.2.1:25", "--odmr-listen=", "--admin-listen=192.0.2.1:80") // could not be opened
	check := func() {
		t.Helper()
		for name, addrs := range map[string][]string{"odmr": d.lines.ODMR, "smtp": d.lines.SMTP, "admin": d.lines.Admin} {
			if got := strings.Join(addrs, " ") + " "; got != want[name] {
				t.Errorf("%s listens on %q, want %q", name, got, want[name])
			}
		}
		if len(d.lines.LMTP) != 1 {
			t.Errorf("lmtp listens on %q", d.lines.LMTP)
		}
		if code, body := d.get("/readyz"); code != 200 {
			t.Errorf("%d %s", code, body)
		}
	}
	check()
	c := d.dial()
	d.begin(c)
	d.say(c, 250, ".")
	d.say(c, 221, "QUIT")
	d.stop()
	waiting, err := net.Dial("tcp", d.lines.SMTP[1])
	if err != nil {
		t.Fatal(err)
	}
	defer waiting.Close()
	d.start("--smtp-listen=192.0.2.1:25", "--odmr-listen=", "--admin-listen=192.0.2.1:80")
	check()
	var greeting [4]byte
	_ = waiting.SetReadDeadline(time.Now().Add(patience))
	if _, err := waiting.Read(greeting[:]); err != nil || string(greeting[:]) != "220 " {
		t.Errorf("%q, %v", greeting, err)
	}
	d.stop()
}

// TestSocketActivationRefuses what would serve nobody.
func TestSocketActivationRefuses(t *testing.T) {
	for name, c := range map[string]struct {
		give func(d *daemon)
		want string
	}{
		"unknown name":        {func(d *daemon) { d.handOver("odmrd.socket") }, `as \\"odmrd.socket\\": FileDescriptorName= must be one of odmr, odmrs, smtp, lmtp, admin`},
		"no name":             {func(d *daemon) { d.handOver("") }, `as \\"LISTEN_FD_3\\"`},
		"without certificate": {func(d *daemon) { d.handOver("odmrs") }, `needs --tls-cert`},
		"a datagram socket": {func(d *daemon) {
			c, err := net.ListenUDP("udp", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			d.handOverFile("odmr", c)
		}, `as \\"odmr\\": does not listen`},
		"a connection": {func(d *daemon) {
			c, err := net.Dial("tcp", d.handOver("smtp").Addr().String())
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			d.handOverFile("odmr", c.(*net.TCPConn))
		}, `as \\"odmr\\": does not listen`},
		"a unix socket": {func(d *daemon) {
			l, err := net.Listen("unix", filepath.Join(d.dir, "s"))
			if err != nil {
				t.Fatal(err)
			}
			defer l.Close()
			d.handOverFile("lmtp", l.(*net.UnixListener))
		}, `as \\"lmtp\\": unix is no TCP socket`},
	} {
		t.Run(name, func(t *testing.T) {
			d := prepare(t)
			c.give(d)
			d.spawn()
			if code := d.exit(); code != exitFailure {
				t.Errorf("exit status %d", code)
			}
			d.logged(c.want)
		})
	}
	t.Run("for another process", func(t *testing.T) {
		d := prepare(t)
		d.handOver("smtp")
		d.env = []string{"LISTEN_PID=1", "LISTEN_FDS=1", "LISTEN_FDNAMES=smtp"}
		d.names = nil
		d.start()
		if strings.Contains(d.log(), "handed over") {
			t.Error("took what was not for it")
		}
		d.stop()
	})
}

// TestServiceManagerIsTold when the server serves, reads files again and ends.
func TestServiceManagerIsTold(t *testing.T) {
	d := prepare(t)
	path := filepath.Join(d.dir, "notify")
	manager, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer manager.Close()
	expect := func(want string) {
		t.Helper()
		var b [512]byte
		_ = manager.SetReadDeadline(time.Now().Add(patience))
		n, err := manager.Read(b[:])
		if err != nil || !regexp.MustCompile("^"+want+"$").Match(b[:n]) {
			t.Errorf("told %q, want %q: %v", b[:n], want, err)
		}
	}
	d.env = []string{"NOTIFY_SOCKET=" + path}
	d.start()
	expect("READY=1")
	d.signal(syscall.SIGHUP)
	expect(`RELOADING=1\nMONOTONIC_USEC=\d+\n`)
	expect("READY=1")
	d.signal(syscall.SIGTERM)
	expect("STOPPING=1")
	if code := d.exit(); code != exitOK {
		t.Errorf("exit status %d", code)
	}
	os.Remove(path)
	d.start()
	d.logged(`"level":"warn".*the service manager does not listen`)
	d.stop()
}

// freeAddress is one that somebody else is to listen on.
func freeAddress(t *testing.T) string {
	t.Helper()
	port, err := freeport.Loopback()
	if err != nil {
		t.Fatal(err)
	}
	return fmt.Sprintf("127.0.0.1:%d", port)
}

// TestInteropSystemdSocketActivate has systemd's own program hand over the sockets.
func TestInteropSystemdSocketActivate(t *testing.T) {
	activate := needSystemd(t, "systemd-socket-activate")
	d := prepare(t)
	smtp, odmr := freeAddress(t), freeAddress(t)
	d.spawnCommand(activate, "--listen="+smtp, "--listen="+odmr, "--fdname=smtp:odmr", "--setenv="+asServer,
		os.Args[0], "--hostname=mail.isp.example", "--data="+filepath.Join(d.dir, "data"), "--accounts="+d.accounts, "--min-free-space=1MiB", "--lmtp-listen=", "--admin-listen=")
	d.lines.SMTP = []string{smtp}
	d.logged("Listening on") // and starts odmrd at the first connection
	d.dial()
	c, err := net.Dial("tcp", odmr)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	var greeting [4]byte
	if _, err := c.Read(greeting[:]); err != nil || string(greeting[:]) != "220 " {
		t.Errorf("%q, %v", greeting, err)
	}
	d.stop() // it has become odmrd
}

// TestInteropSystemdUnits has systemd read the README's units.
func TestInteropSystemdUnits(t *testing.T) {
	analyze := needSystemd(t, "systemd-analyze")
	readme, err := os.ReadFile("../../README.md")
	if err != nil {
		t.Fatal(err)
	}
	dir := workDir(t)
	units := regexp.MustCompile(`(?m)^    # /etc/systemd/system/(\S+)\n((?:    .*\n)+)`).FindAllStringSubmatch(string(readme), -1)
	if len(units) < 2 {
		t.Fatalf("%d units", len(units))
	}
	args := []string{"verify", "--man=no"}
	for _, u := range units {
		text := strings.ReplaceAll(strings.ReplaceAll(u[2], "    ", ""), "/usr/local/bin/odmrd", os.Args[0])
		path := filepath.Join(dir, u[1])
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		args = append(args, path)
	}
	if out, err := exec.Command(analyze, args...).CombinedOutput(); err != nil || len(out) > 0 {
		t.Errorf("%v\n%s", err, out)
	}
}

// TestInteropWritesItsDataOnly: where nothing but the data directory can be written to, as README's unit has it, mail is taken, and
// kept over a restart.
func TestInteropWritesItsDataOnly(t *testing.T) {
	nobody(t) // or not root
	if out, err := exec.Command("unshare", "--mount", "true").CombinedOutput(); err != nil {
		t.Skipf("no mounts of a process's own here: %v %s", err, out)
	}
	d := prepare(t)
	if err := os.Mkdir(filepath.Join(d.dir, "data"), 0o700); err != nil {
		t.Fatal(err)
	}
	d.program = filepath.Join(d.dir, "confined")
	script := fmt.Sprintf(`#!/bin/sh
exec unshare --mount sh -ec '
for d in /etc /usr /var %[1]s %[1]s/data; do mount --bind $d $d; done
for d in /etc /usr /var %[1]s; do mount -o remount,bind,ro $d; done
if touch /etc/odmr-test /var/odmr-test %[1]s/test; then echo not confined; exit 9; fi
exec "$0" "$@"' %[2]s "$@"
`, d.dir, os.Args[0])
	if err := os.WriteFile(d.program, []byte(script), 0o700); err != nil {
		t.Fatal(err)
	}
	d.start()
	c := d.dial()
	d.begin(c)
	d.say(c, 250, ".")
	d.stop()
	d.start()
	d.logged(`"messages":1,`)
	d.stop()
}

// needSystemd finds a program of systemd's, or skips the test by its name.
func needSystemd(t *testing.T, program string) string {
	t.Helper()
	path, err := exec.LookPath(program)
	switch {
	case err == nil:
	case os.Getenv("ODMR_INTEROP") == "required":
		t.Fatal(err, ", and ODMR_INTEROP=required")
	default:
		t.Skip(err)
	}
	return path
}
