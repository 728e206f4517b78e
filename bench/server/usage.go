package server

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// ticksPerSecond is the unit of processor time in /proc (USER_HZ, 100 on every Linux that Go runs on).
const ticksPerSecond = 100

// Usage is what the kernel accounts to a process.
type Usage struct {
	RSS     int64         // octets
	CPU     time.Duration // user and system, since its start
	Written int64         // octets sent to the disk, since its start
}

// Usage looks at the server. A server that somebody else started has none.
func (p *Process) Usage() (Usage, error) {
	if p.Pid == 0 {
		return Usage{}, nil
	}
	return usageOf(strconv.Itoa(p.Pid))
}

// Own looks at this process.
func Own() (Usage, error) { return usageOf("self") }

func usageOf(pid string) (Usage, error) {
	var u Usage
	dir := filepath.Join("/proc", pid)
	status, err := os.ReadFile(filepath.Join(dir, "status"))
	if err != nil {
		return u, err
	}
	u.RSS = field(status, "VmRSS:") * 1024
	stat, err := os.ReadFile(filepath.Join(dir, "stat"))
	if err != nil {
		return u, err
	}
	// Behind the name in parentheses: state is field 3, utime 14, stime 15 (proc(5)).
	fields := bytes.Fields(stat[bytes.LastIndexByte(stat, ')')+1:])
	if len(fields) < 13 {
		return u, fmt.Errorf("%s/stat: too few fields", dir)
	}
	var ticks int64
	for _, f := range fields[11:13] {
		n, err := strconv.ParseInt(string(f), 10, 64)
		if err != nil {
			return u, err
		}
		ticks += n
	}
	u.CPU = time.Duration(ticks) * time.Second / ticksPerSecond
	if text, err := os.ReadFile(filepath.Join(dir, "io")); err == nil {
		u.Written = field(text, "write_bytes:")
	}
	return u, nil
}

// Files is how many descriptors the server has open.
func (p *Process) Files() int {
	if p.Pid == 0 {
		return 0
	}
	names, _ := os.ReadDir(filepath.Join("/proc", strconv.Itoa(p.Pid), "fd"))
	return len(names)
}

// field reads the number behind a name in a /proc file.
func field(text []byte, name string) int64 {
	for line := range bytes.Lines(text) {
		if rest, ok := bytes.CutPrefix(line, []byte(name)); ok {
			f := bytes.Fields(rest)
			if len(f) > 0 {
				n, _ := strconv.ParseInt(string(f[0]), 10, 64)
				return n
			}
		}
	}
	return 0
}

// DiskUse is how many octets the files of the server's data directory occupy on the disk, and how many of them are
// the store's logs (*.log): those are made in full beforehand and used again, whatever is queued.
func (p *Process) DiskUse() (sum, logs int64, err error) {
	err = filepath.WalkDir(p.DataDir(), func(name string, entry fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) {
			return nil // deleted while we look
		}
		if err != nil {
			return err
		}
		info, err := entry.Info()
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err != nil {
			return err
		}
		if st, ok := info.Sys().(*syscall.Stat_t); ok {
			sum += st.Blocks * 512
			if strings.HasSuffix(name, ".log") {
				logs += st.Blocks * 512
			}
		}
		return nil
	})
	return sum, logs, err
}

// Collect makes the server collect its garbage, where it has the pages for operators.
func (p *Process) Collect() error { return p.fetch("heap?gc=1", io.Discard) }

// Profile fetches a page of /debug/pprof into file; it takes as long as the page does.
func (p *Process) Profile(page, file string) error {
	f, err := os.Create(file)
	if err != nil {
		return err
	}
	return errors.Join(p.fetch(page, f), f.Close())
}

// SaveMetrics fetches /metrics, all of it, into file.
func (p *Process) SaveMetrics(file string) error {
	f, err := os.Create(file)
	if err != nil {
		return err
	}
	return errors.Join(p.get("/metrics", f), f.Close())
}

func (p *Process) fetch(page string, to io.Writer) error { return p.get("/debug/pprof/"+page, to) }

// get fetches a page for operators.
func (p *Process) get(path string, to io.Writer) error {
	if len(p.Admin) == 0 {
		return errors.New("the server has no --admin-listen")
	}
	resp, err := http.Get("http://" + p.Admin[0] + path)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("%s: %s", path, resp.Status)
	}
	_, err = io.Copy(to, resp.Body)
	return err
}

// Metric reads one number of /metrics, labels and all, as it stands in the text.
func (p *Process) Metric(name string) (float64, error) {
	var text bytes.Buffer
	if err := p.get("/metrics", &text); err != nil {
		return 0, err
	}
	for line := range strings.Lines(text.String()) {
		if rest, ok := strings.CutPrefix(line, name+" "); ok {
			return strconv.ParseFloat(strings.TrimSpace(rest), 64)
		}
	}
	return 0, fmt.Errorf("no metric %s", name)
}
