package peers

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	services "odmr/internal/postfix"
)

// postfix is Debian's Postfix.
type postfix struct{}

func (postfix) Name() string { return "Postfix" }

func (postfix) Version() (string, error) {
	program, err := tool("postconf")
	if err != nil {
		return "", err
	}
	if os.Getuid() != 0 {
		return "", errors.New("only root can start Postfix")
	}
	out, err := run(context.Background(), program, "-d", "-h", "mail_version")
	return strings.TrimSpace(out), err
}

// postfixMain is main.cf. Mail is put on hold as it arrives: the queue manager does not see it, so that taking mail has
// the machine to itself. No name is looked up, nobody is limited, the queue manager may fill
// twenty connections to the sink at once and keeps them open (as is the default for busy destinations).
const postfixMain = `compatibility_level = 3.6
queue_directory = %[1]s/spool
data_directory = %[1]s/data
mail_owner = postfix
setgid_group = postdrop
myhostname = postfix.bench.example
mydestination =
local_recipient_maps =
alias_maps =
inet_interfaces = 127.0.0.1
inet_protocols = ipv4
mynetworks = 127.0.0.0/8
smtpd_peername_lookup = no
smtp_dns_support_level = disabled
smtpd_client_restrictions = check_client_access static:HOLD
smtpd_relay_restrictions = permit_mynetworks, reject
smtpd_client_connection_count_limit = 0
smtpd_client_connection_rate_limit = 0
default_process_limit = 100
in_flow_delay = 0
relayhost = [127.0.0.1]:%[2]d
initial_destination_concurrency = 20
default_destination_concurrency_limit = 20
`

type runningPostfix struct {
	*daemon
	config string
}

func (postfix) Start(ctx context.Context, dir string, port, sink int) (Running, error) {
	config := filepath.Join(dir, "etc")
	if err := os.Chmod(dir, 0o755); err != nil { // Postfix's own users must come through
		return nil, err
	}
	for _, sub := range []string{"etc", "spool", "data"} {
		if err := os.MkdirAll(filepath.Join(dir, sub), 0o755); err != nil {
			return nil, err
		}
	}
	for name, text := range map[string]string{
		"main.cf":   fmt.Sprintf(postfixMain, dir, sink),
		"master.cf": services.Services(fmt.Sprintf("127.0.0.1:%d", port)),
	} {
		if err := os.WriteFile(filepath.Join(config, name), []byte(text), 0o644); err != nil {
			return nil, err
		}
	}
	if err := chown(filepath.Join(dir, "data"), "postfix"); err != nil {
		return nil, err
	}
	program, err := tool("postfix")
	if err != nil {
		return nil, err
	}
	if _, err := run(ctx, program, "-c", config, "check"); err != nil { // makes the queue's directories
		return nil, err
	}
	directory, err := run(ctx, "/usr/sbin/postconf", "-c", config, "-h", "daemon_directory")
	if err != nil {
		return nil, err
	}
	d, err := startDaemon(ctx, dir, port, filepath.Join(strings.TrimSpace(directory), "master"), "-c", config, "-d")
	if err != nil {
		return nil, err
	}
	return &runningPostfix{d, config}, nil
}

func (p *runningPostfix) Release(ctx context.Context) error {
	if _, err := run(ctx, "/usr/sbin/postsuper", "-c", p.config, "-H", "ALL"); err != nil {
		return err
	}
	_, err := run(ctx, "/usr/sbin/postqueue", "-c", p.config, "-f")
	return err
}

func (p *runningPostfix) Stop() error { return p.stop() }
