package bench

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"odmr/bench/letters"
	"odmr/bench/result"
	"odmr/bench/server"
)

// Password is that of all accounts that the harness makes.
const Password = "bench-bench-bench"

// Settings are the flags that all scenarios share. The tags are those of internal/config's
// parser library, which the command uses.
type Settings struct {
	Server     string   `placeholder:"FILE" help:"odmrd to measure; without it the one beside this program."`
	ServerArgs []string `name:"server-arg" placeholder:"FLAG" sep:"none" help:"Further flag for the server, --server-arg=--loops=1; repeats."`
	LogLevel   string   `default:"warn" help:"Log level of the server. The peers log to nowhere, so warn is the like; info is the server's default and costs a line per message."`
	Dir        string   `placeholder:"DIR" help:"Where servers keep their data during the run, on the disk that is to be measured; emptied afterwards. Without it a new directory below the one for temporary files."`
	Target     []string `placeholder:"ADDR" help:"Drive a server that runs already: smtp=HOST:PORT (or HOST:PORT alone), odmr=HOST:PORT, lmtp=HOST:PORT, admin=HOST:PORT. Its accounts come from the command accounts; memory, disk and processor time are not known then."`
	NoCeilings bool     `help:"Do not measure the ceilings."`
	Profile    string   `placeholder:"DIR" help:"Fetch the server's CPU profile of each measured part, and its heap and metrics after it, into DIR, along with the harness's own CPU profile."`
	ProfileFor int      `default:"10" min:"1" placeholder:"SECONDS" help:"Seconds of the CPU profiles, at most; a shorter measured part ends them."`
}

// Customer is an account for the server.
type Customer struct {
	Name   string
	Domain string
}

// StoreLoad is what the bare store is asked to do.
type StoreLoad struct {
	Writers int           // goroutines; of a drain: leases at a time
	Size    int           // octets of each body
	For     time.Duration // appending
	Each    int           // of a drain: messages of each domain
}

// Deps is what the command knows and this package may not.
type Deps struct {
	// WriteAccounts makes an accounts file, all with Password.
	WriteAccounts func(file string, customers []Customer) error
	// StoreAppend returns how many synced messages per second the bare store takes in dir.
	StoreAppend func(dir string, load StoreLoad) (float64, error)
	// StoreDrain returns how many messages per second the bare store hands out and settles.
	StoreDrain func(dir string, load StoreLoad) (float64, error)
	// Part is the command line that runs ServePart; nil runs parts in this process.
	Part []string
}

// Env is what scenarios run in.
type Env struct {
	Settings
	Deps
	Stock *letters.Stock
	// Progress shows how far a measured part is: of total (0: unknown), what it counts, so many
	// so far. Show returns a function that takes the present state and one that ends it.
	Progress func(title string, total int64) (show func(done int64), end func())
	// Say is told what is going on besides.
	Say func(format string, args ...any)

	made bool // Dir was made by us
}

// Scenario is one thing to measure.
type Scenario interface {
	Run(ctx context.Context, e *Env) ([]*result.Result, error)
}

// NewEnv checks settings and makes the directory.
func NewEnv(s Settings, d Deps) (*Env, error) {
	e := &Env{Settings: s, Deps: d, Stock: letters.NewStock()}
	e.Progress = func(string, int64) (func(int64), func()) { return func(int64) {}, func() {} }
	e.Say = func(string, ...any) {}
	if e.Server == "" {
		if self, err := os.Executable(); err == nil {
			e.Server = filepath.Join(filepath.Dir(self), "odmrd")
		}
	}
	if len(e.Target) == 0 {
		if _, err := exec.LookPath(e.Server); err != nil {
			return nil, fmt.Errorf("no server to measure: %w (--server, or make build)", err)
		}
	}
	var err error
	if e.Dir == "" {
		e.made = true
		e.Dir, err = os.MkdirTemp("", "odmrbench.")
	} else if err = os.MkdirAll(e.Dir, 0o700); err == nil {
		var entries []os.DirEntry
		if entries, err = os.ReadDir(e.Dir); err == nil && len(entries) > 0 {
			err = fmt.Errorf("--dir %s is not empty", e.Dir)
		}
	}
	if err == nil && e.Profile != "" {
		err = os.MkdirAll(e.Profile, 0o755)
	}
	return e, err
}

// Close removes what the runs left.
func (e *Env) Close() error {
	if e.made {
		return os.RemoveAll(e.Dir)
	}
	entries, err := os.ReadDir(e.Dir)
	for _, entry := range entries {
		err = errors.Join(err, os.RemoveAll(filepath.Join(e.Dir, entry.Name())))
	}
	return err
}

// customerOf is the n-th account.
func customerOf(n int) Customer {
	name := fmt.Sprintf("c%06d", n)
	return Customer{Name: name, Domain: name + ".bench.example"}
}

// address is the recipient in the n-th account's domain.
func address(n int) string { return "box@" + customerOf(n).Domain }

// start brings up a server with so many accounts and further flags, and returns how to take it down,
// which removes its data and gives the errors that it logged as a failed check.
func (e *Env) start(ctx context.Context, customers int, flags ...string) (srv *server.Process, stop func(*result.Result), err error) {
	if len(e.Target) > 0 {
		addrs, err := parseTarget(e.Target)
		return server.Attach(addrs), func(*result.Result) {}, err
	}
	dir, err := os.MkdirTemp(e.Dir, "server.")
	if err != nil {
		return nil, nil, err
	}
	list := make([]Customer, customers)
	for i := range list {
		list[i] = customerOf(i)
	}
	accounts := filepath.Join(dir, "accounts")
	if err := e.WriteAccounts(accounts, list); err != nil {
		return nil, nil, err
	}
	srv, err = server.Start(ctx, server.Options{Binary: e.Server, Dir: dir, Accounts: accounts, LogLevel: e.LogLevel, Args: slices.Concat(flags, e.ServerArgs)})
	if err != nil {
		return nil, nil, errors.Join(err, os.RemoveAll(dir))
	}
	return srv, func(r *result.Result) {
		err := srv.Stop()
		if r != nil {
			n, first := srv.Alarms()
			text := "the server logged no error and stopped in order"
			if err != nil {
				n, first = n+1, err.Error()
			}
			if n > 0 {
				text = fmt.Sprintf("%d errors, the first: %s", n, first)
			}
			r.Expect("the server's log", int64(n), text)
		}
		if err := os.RemoveAll(dir); err != nil {
			e.Say("not removed: %v", err)
		}
	}, nil
}

// noAddress stands where --target names no address; a scenario that needs it fails with it in the error.
const noAddress = "not-given-with-target.invalid:1"

// parseTarget reads --target. An address without a kind is one for SMTP.
func parseTarget(list []string) (server.Addrs, error) {
	a := server.Addrs{SMTP: []string{noAddress}, ODMR: []string{noAddress}}
	for _, entry := range list {
		kind, addr, named := strings.Cut(entry, "=")
		if _, _, err := net.SplitHostPort(addr); named && err != nil {
			return a, fmt.Errorf("--target %q: %w", entry, err)
		}
		if _, _, err := net.SplitHostPort(entry); !named && err == nil {
			kind, addr = "smtp", entry
		}
		switch kind {
		case "smtp":
			a.SMTP = []string{addr}
		case "lmtp":
			a.LMTP = []string{addr}
		case "odmr":
			a.ODMR = []string{addr}
		case "admin":
			a.Admin = []string{addr}
		default:
			return a, fmt.Errorf("--target %q: want smtp=, lmtp=, odmr= or admin= and an address", entry)
		}
	}
	return a, nil
}

// Machine describes where the run takes place; it times some hundred fdatasyncs.
func (e *Env) Machine() (result.Machine, error) {
	m := result.Machine{CPUs: runtime.NumCPU(), Go: runtime.Version(), CPU: cpuName()}
	var uts unix.Utsname
	if unix.Uname(&uts) == nil {
		m.Kernel = unix.ByteSliceToString(uts.Release[:])
	}
	var fs unix.Statfs_t
	if unix.Statfs(e.Dir, &fs) == nil {
		m.FileSystem = fsName(int64(fs.Type))
	}
	median, err := e.fdatasync()
	m.Fdatasync = median
	return m, err
}

func cpuName() string {
	text, _ := os.ReadFile("/proc/cpuinfo")
	for line := range strings.Lines(string(text)) {
		if name, value, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(name) == "model name" {
			return strings.TrimSpace(value)
		}
	}
	return runtime.GOARCH
}

func fsName(magic int64) string {
	switch magic {
	case unix.EXT4_SUPER_MAGIC:
		return "ext4"
	case unix.XFS_SUPER_MAGIC:
		return "xfs"
	case unix.BTRFS_SUPER_MAGIC:
		return "btrfs"
	case unix.OVERLAYFS_SUPER_MAGIC:
		return "overlayfs"
	case unix.TMPFS_MAGIC:
		return "tmpfs, on which nothing is durable and fsync costs nothing"
	}
	return fmt.Sprintf("%#x", magic)
}

// discard closes what failed on the way; the error that matters is another.
func discard(c io.Closer) { _ = c.Close() }
