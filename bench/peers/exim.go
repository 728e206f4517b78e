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
	"sync"
)

// exim is Debian's Exim 4. It cannot be installed beside Postfix, so that it is looked for among the
// unpacked packages too.
type exim struct{ root string }

// eximUser is compiled into Debian's Exim.
const eximUser = "Debian-exim"

func (exim) Name() string { return "Exim" }

func (x exim) program() (string, error) { return unpacked(x.root, "exim4") }

// unpacked finds a program in root's usr/sbin, or installed.
func unpacked(root, name string) (string, error) {
	for _, dir := range []string{filepath.Join(root, "usr/sbin"), "/usr/sbin"} {
		path := filepath.Join(dir, name)
		if _, err := os.Stat(path); err == nil {
			return filepath.Abs(path)
		}
	}
	return "", fmt.Errorf("%s is not installed (make bench-peers)", name)
}

func (x exim) Version() (string, error) {
	program, err := x.program()
	if err != nil {
		return "", err
	}
	if os.Getuid() != 0 {
		return "", errors.New("only root can start Exim on a configuration of its own")
	}
	if _, err := user.Lookup(eximUser); err != nil {
		return "", fmt.Errorf("there is no user %s (make bench-peers)", eximUser)
	}
	out, err := run(context.Background(), program, "-C", "/dev/null", "-bV")
	if err != nil {
		return "", err
	}
	_, version, ok := strings.Cut(out, "Exim version ") // 4.96 #2 built ...
	if !ok {
		return "", fmt.Errorf("%s does not say its version: %s", program, out)
	}
	version, _, _ = strings.Cut(version, " ")
	return version, nil
}

// eximRunners is how many queue runners work at once.
const eximRunners = 20

// eximConfig takes everything and only queues it. Each queue runner is a process; messages for the
// same host go over one connection as long as runners find some.
const eximConfig = `primary_hostname = exim.bench.example
spool_directory = %[1]s/spool
log_file_path = syslog
local_interfaces = 127.0.0.1
daemon_smtp_ports = %[2]d
tls_advertise_hosts =
acl_smtp_rcpt = all
queue_only = true
queue_run_max = %[4]d
split_spool_directory = true
smtp_accept_max = 0
smtp_accept_max_per_connection = 0
smtp_accept_queue_per_connection = 0
smtp_receive_timeout = 5m
rfc1413_query_timeout = 0s
host_lookup =
never_users = root
keep_environment =
remote_max_parallel = 20
message_size_limit = 0

begin acl
all:
  accept

begin routers
sink:
  driver = manualroute
  route_list = * 127.0.0.1
  transport = sink
  self = send

begin transports
sink:
  driver = smtp
  port = %[3]d
  allow_localhost
  hosts_avoid_tls = *
  connection_max_messages = 0

begin retry
* * F,1h,1s
`

type runningExim struct {
	*daemon
	program, config string
}

func (x exim) Start(ctx context.Context, dir string, port, sink int) (Running, error) {
	program, err := x.program()
	if err != nil {
		return nil, err
	}
	if err := os.Chmod(dir, 0o755); err != nil {
		return nil, err
	}
	spool := filepath.Join(dir, "spool")
	if err := os.MkdirAll(spool, 0o750); err != nil {
		return nil, err
	}
	if err := chown(spool, eximUser); err != nil {
		return nil, err
	}
	config := filepath.Join(dir, "exim.conf")
	if err := os.WriteFile(config, fmt.Appendf(nil, eximConfig, dir, port, sink, eximRunners), 0o644); err != nil {
		return nil, err
	}
	d, err := startDaemon(ctx, dir, port, program, "-C", config, "-bdf")
	if err != nil {
		return nil, err
	}
	return &runningExim{d, program, config}, nil
}

// Release starts the queue runners and waits for them.
func (x *runningExim) Release(ctx context.Context) error {
	errs := make([]error, eximRunners)
	var all sync.WaitGroup
	for i := range errs {
		all.Go(func() { errs[i] = exec.CommandContext(ctx, x.program, "-C", x.config, "-q").Run() })
	}
	all.Wait()
	return errors.Join(errs...)
}

func (x *runningExim) Stop() error { return x.stop() }

// chown gives a file to a user of that name.
func chown(path, name string) error {
	u, err := user.Lookup(name)
	if err != nil {
		return err
	}
	uid, err := strconv.Atoi(u.Uid)
	if err != nil {
		return err
	}
	gid, err := strconv.Atoi(u.Gid)
	if err != nil {
		return err
	}
	return os.Chown(path, uid, gid)
}
