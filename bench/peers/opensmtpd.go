package peers

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
)

// openSMTPD is Debian's OpenSMTPD. Its paths are compiled in; it runs in a mount namespace of its own in which they
// are directories of ours.
type openSMTPD struct{ root string }

// openSMTPDUsers are compiled into Debian's OpenSMTPD.
var openSMTPDUsers = []string{"opensmtpd", "opensmtpq"}

// openSMTPDPaths are compiled in too: where it looks, and the directory of ours that is put there.
var openSMTPDPaths = []struct{ path, own string }{
	{"/var/spool/smtpd", "spool"},
	{"/var/lib/opensmtpd/empty", "empty"},
	{"/run", "run"},
}

const openSMTPDLibexec = "/usr/libexec/opensmtpd"

func (openSMTPD) Name() string { return "OpenSMTPD" }

func (o openSMTPD) Version() (string, error) {
	if o.root == "" {
		return "", errors.New("OpenSMTPD is not unpacked (make bench-peers)")
	}
	program := filepath.Join(o.root, "usr/sbin/smtpd") // an installed smtpd may be anybody's
	if _, err := os.Stat(program); err != nil {
		return "", errors.New("OpenSMTPD is not unpacked (make bench-peers)")
	}
	if os.Getuid() != 0 {
		return "", errors.New("only root can start OpenSMTPD")
	}
	for _, name := range openSMTPDUsers {
		if _, err := user.Lookup(name); err != nil {
			return "", fmt.Errorf("there is no user %s (make bench-peers)", name)
		}
	}
	for _, p := range append(openSMTPDPaths, struct{ path, own string }{openSMTPDLibexec, ""}) {
		if _, err := os.Stat(p.path); err != nil {
			return "", fmt.Errorf("%s is needed as a place to mount on (make bench-peers)", p.path)
		}
	}
	if err := exec.Command("unshare", "--mount", "true").Run(); err != nil {
		return "", errors.New("no mount namespaces here")
	}
	out, _ := exec.Command(program, "-h").CombinedOutput() // "version: OpenSMTPD 6.8.0p2", and a status that is no success
	_, version, ok := strings.Cut(string(out), "OpenSMTPD ")
	if !ok {
		return "", fmt.Errorf("%s does not run: %s", program, out)
	}
	version, _, _ = strings.Cut(version, "\n")
	return version, nil
}

// openSMTPDConfig relays everything to the sink; the relaying half is paused until it is released. Limits on
// sessions and on messages of one session are out of the way.
const openSMTPDConfig = `listen on 127.0.0.1 port %[1]d no-dsn
smtp max-message-size 100M
smtp limit max-mails 1000000
smtp limit max-rcpt 1000000
queue ttl 1d
action "sink" relay host smtp://127.0.0.1:%[2]d
match from any for any action "sink"
`

type runningOpenSMTPD struct {
	*daemon
	root string
}

func (o openSMTPD) Start(ctx context.Context, dir string, port, sink int) (Running, error) {
	root, err := filepath.Abs(o.root)
	if err != nil {
		return nil, err
	}
	if err := os.Chmod(dir, 0o755); err != nil {
		return nil, err
	}
	script := "set -e\n"
	for _, p := range openSMTPDPaths {
		own := filepath.Join(dir, p.own)
		if err := os.Mkdir(own, 0o711); err != nil {
			return nil, err
		}
		script += fmt.Sprintf("mount --bind %q %q\n", own, p.path)
	}
	script += fmt.Sprintf("mount --bind %q %q\nexec %q -d -P mta -f %q\n", filepath.Join(root, openSMTPDLibexec), openSMTPDLibexec,
		filepath.Join(root, "usr/sbin/smtpd"), filepath.Join(dir, "smtpd.conf"))
	if err := os.WriteFile(filepath.Join(dir, "smtpd.conf"), fmt.Appendf(nil, openSMTPDConfig, port, sink), 0o600); err != nil {
		return nil, err
	}
	d, err := startDaemon(ctx, dir, port, "unshare", "--mount", "--propagation", "private", "sh", "-c", script)
	if err != nil {
		return nil, err
	}
	return &runningOpenSMTPD{d, root}, nil
}

func (r *runningOpenSMTPD) Release(ctx context.Context) error {
	_, err := run(ctx, "nsenter", "--mount", "--target", strconv.Itoa(r.cmd.Process.Pid), "--",
		filepath.Join(r.root, "usr/sbin/smtpctl"), "resume", "mta")
	return err
}

func (r *runningOpenSMTPD) Stop() error { return r.stop() }
