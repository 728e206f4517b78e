package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"odmr/bench/result"
)

// bin is where TestMain has built odmrbench and odmrd.
var bin string

func TestMain(m *testing.M) {
	os.Exit(func() int {
		var err error
		if bin, err = os.MkdirTemp("", "odmrbench-test."); err != nil {
			panic(err)
		}
		defer os.RemoveAll(bin)
		if out, err := exec.Command("go", "build", "-o", bin, "odmr/cmd/odmrbench", "odmr/cmd/odmrd").CombinedOutput(); err != nil {
			panic(string(out))
		}
		return m.Run()
	}())
}

// measured runs odmrbench and returns the results that it wrote as JSON.
func measured(t *testing.T, args ...string) *result.Run {
	t.Helper()
	cmd := exec.Command(filepath.Join(bin, "odmrbench"), append([]string{"--json", "--dir", filepath.Join(t.TempDir(), "data")}, args...)...)
	var out, people bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &people
	if err := cmd.Run(); err != nil {
		t.Fatalf("odmrbench %s: %v\n%s", strings.Join(args, " "), err, people.String())
	}
	run := new(result.Run)
	if err := json.Unmarshal(out.Bytes(), run); err != nil {
		t.Fatalf("%v\n%s", err, out.String())
	}
	return run
}

// Every scenario runs against a real odmrd, finds nothing lost, and gives the figures that the table of what
// was asked is made of.
func TestScenarios(t *testing.T) {
	for _, c := range []struct {
		args string
		want string // result/figure ...
	}{
		{"ingest --for 300ms --connections 4", "ingest-bdat-4/rate ingest-bdat-4/store ingest-bdat-4/sink ingest-bdat-4/loopback ingest-bdat-4/server_cpu ingest-bdat-4/rss_peak"},
		{"--no-ceilings ingest --for 300ms --connections 64 --transfer data --lmtp --size 1KiB:3,40KiB:1", "ingest-data-lmtp-1KiB:3,40KiB:1/rate"},
		{"--no-ceilings ingest --for 300ms --connections 2 --transfer lock-step", "ingest-lock-step-2/rate"},
		{"drain --customers 3 --each 100", "drain-chunking-3/rate drain-chunking-3/standin drain-chunking-3/loopback_look drain-chunking-3/store"},
		{"--no-ceilings drain --each 20 --offer pipelining --size mail", "drain-pipelining-mail/rate"},
		{"--no-ceilings drain --each 5 --offer data", "drain-data/rate"},
		{"--no-ceilings turn --backlogs 20,200 --others 20 --probes 10", "turn/p99_ratio turn/p99_20 turn/p99_200"},
		// Fewer sessions need less memory than a server may give back meanwhile.
		{"linger --sessions 1000 --rate 100 --for 500ms --rest 100ms", "linger/p50 linger/rss_per_session"},
		{"--no-ceilings idle --sessions 50 --rest 100ms", "idle-plain/rss idle-plain/logins"},
		{"wan --rtt 5ms --messages 20", "wan/rt_5ms_pipelining wan/rt_5ms_chunking wan/standin_5ms_chunking"},
		{"mixed --rate 200 --for 1s --customers 20 --connections 4 --think 50ms --stay 200ms", "mixed/p99 mixed/fdatasync mixed/p99_fdatasyncs mixed/arrived mixed/collected"},
		{"mixed --share 0.05 --peak-for 200ms --for 1s --customers 20 --connections 4 --think 50ms --stay 0s", "mixed/p99 mixed/p99_collecting mixed/peak_collecting mixed/p99_collecting_fdatasyncs mixed/sessions"},
		{"slow --customers 20 --for 1s --rate 20000 --size 32KiB", "slow/share slow/least"},
		{"space --messages 400 --customers 4 --hold 1s", "space/written space/back_seconds space/logs"},
	} {
		t.Run(strings.Fields(strings.TrimPrefix(c.args, "--no-ceilings "))[0], func(t *testing.T) {
			run := measured(t, strings.Fields(c.args)...)
			for _, path := range strings.Fields(c.want) {
				at := strings.LastIndexByte(path, '/')
				if v, ok := run.Value(path[:at], path[at+1:]); !ok || v <= 0 {
					t.Errorf("%s is %v (given: %v), want a figure above 0", path, v, ok)
				}
			}
			for _, r := range run.Results {
				if len(r.Checks) == 0 {
					t.Errorf("%s checked nothing", r.ID)
				}
			}
		})
	}
}

// A server that somebody else started can be driven too, report and baseline are written and read, and a scenario
// that cannot run says why, with a status that is no success.
func TestFilesAndFailures(t *testing.T) {
	dir := t.TempDir()
	save, page := filepath.Join(dir, "run.json"), filepath.Join(dir, "run.html")
	measured(t, "--save", save, "--report", page, "--no-ceilings", "ingest", "--for", "200ms", "--connections", "2")
	again := measured(t, "--baseline", save, "--no-ceilings", "--profile", filepath.Join(dir, "profiles"), "--profile-for", "1", "ingest", "--for", "200ms", "--connections", "2")
	if again.Baseline != save {
		t.Errorf("baseline %q", again.Baseline)
	}
	if text, err := os.ReadFile(page); err != nil || !bytes.Contains(text, []byte("ingest-bdat-2")) {
		t.Errorf("the page lacks the result: %v", err)
	}
	if files, _ := filepath.Glob(filepath.Join(dir, "profiles", "*.pprof")); len(files) != 3 {
		t.Errorf("profiles %v, want the server's CPU and memory and the harness's CPU", files)
	}
	for _, args := range [][]string{
		{"--baseline", filepath.Join(dir, "none.json"), "ingest"},
		{"--server", filepath.Join(dir, "none"), "ingest"},
		{"--target", "smtp=127.0.0.1:1", "space"},
		{"--server-arg=--max-message-size=nonsense", "ingest"},
		{"nonsense"},
		{"--report", filepath.Join(dir, "none", "run.html"), "ingest"},
	} {
		var exit *exec.ExitError
		out, err := exec.Command(filepath.Join(bin, "odmrbench"), args...).CombinedOutput()
		if !errors.As(err, &exit) || exit.ExitCode() == 0 || len(out) == 0 {
			t.Errorf("odmrbench %v: %v, %q; want a failure that says why", args, err, out)
		}
	}
}

// Sizes with which nothing would be measured are refused before anything is started.
func TestBounds(t *testing.T) {
	for args, want := range map[string]string{
		"ingest --connections=0":   "--connections: 0 is less than 1",
		"ingest --for=0s":          "--for: 0s is less than 100ms",
		"slow --rate=-1":           "--rate: -1 is less than 1",
		"mixed --share=7":          "--share: 7 is more than 1",
		"wan --rtt=5ms,-5ms":       "--rtt: -5ms is less than 0s",
		"turn --backlogs=5,-1":     "--backlogs: -1 is less than 0",
		"accounts x --customers=0": "--customers: 0 is less than 1",
	} {
		command, _, _ := strings.Cut(args, " ")
		want = "odmrbench: " + want + "\nodmrbench: see odmrbench " + command + " --help\n"
		var exit *exec.ExitError
		out, err := exec.Command(filepath.Join(bin, "odmrbench"), strings.Fields(args)...).CombinedOutput()
		if !errors.As(err, &exit) || exit.ExitCode() != 2 || string(out) != want {
			t.Errorf("odmrbench %s: %v, %q, want %q", args, err, out, want)
		}
	}
}

// Accounts for a server of one's own are accounts that it takes.
func TestAccounts(t *testing.T) {
	file := filepath.Join(t.TempDir(), "accounts")
	if out, err := exec.Command(filepath.Join(bin, "odmrbench"), "accounts", "--customers", "3", file).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	text, err := os.ReadFile(file)
	if err != nil || bytes.Count(text, []byte("account c00000")) != 3 {
		t.Errorf("%v\n%s", err, text)
	}
}
