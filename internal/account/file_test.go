package account

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const goodFile = `# The customers
# of the example ISP.

# a small one
account tim
	domain example.org   EXAMPLE.com
	# until March
	own-hostname
account two words
  domain bücher.example

  cram-md5 AAAAAAAAAAAAAAAAAAAAAA== AQEBAQEBAQEBAQEBAQEBAQ==
  scram-sha-256 4096 W22ZaJ0SNY7soEsUEjb6gQ== ` + zeroKey + ` ` + zeroKey + `
# the end
`

const zeroKey = "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA="

// writeFile puts an accounts file into a directory of its own.
func writeFile(t testing.TB, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "accounts")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func readText(t testing.TB, path string) string {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func TestFile(t *testing.T) {
	f, err := OpenFile(writeFile(t, goodFile))
	if err != nil {
		t.Fatal(err)
	}
	tim, err := f.Lookup("tim")
	if err != nil || strings.Join(tim.Domains, " ") != "example.com example.org" || !tim.OwnHostname || tim.CRAMMD5 != nil || tim.SCRAMSHA256 != nil {
		t.Errorf("tim is %+v, %v", tim, err)
	}
	two, err := f.Lookup("xn--bcher-kva.example")
	if err != nil || two.Name != "two words" || two.OwnHostname || two.CRAMMD5.Outer[15] != 1 || two.SCRAMSHA256.Iterations != 4096 || len(two.SCRAMSHA256.Salt) != 16 {
		t.Errorf("two words is %+v, %v", two, err)
	}
	if a, err := f.Lookup("bücher.example"); a != two {
		t.Errorf("U-labels: %v, %v", a, err)
	}
	if _, err := f.Lookup("Tim"); !errors.Is(err, ErrUnknown) {
		t.Errorf("Tim: %v", err)
	}
	for domain, want := range map[string]bool{"example.org": true, "xn--bcher-kva.example": true, "example.net": false, "": false} {
		if got, err := f.Collectable(domain); got != want || err != nil {
			t.Errorf("Collectable(%q) = %v, %v", domain, got, err)
		}
	}
	if names := f.Table().Accounts(); len(names) != 2 || names[0] != tim || f.Table().Domains() != 3 || !f.NonBlocking() {
		t.Errorf("%d accounts, %d domains", len(names), f.Table().Domains())
	}
}

func TestAuthorize(t *testing.T) {
	f, err := OpenFile(writeFile(t, "account a\n domain a1.example a2.example\naccount b\n domain b.example\n own-hostname\n"))
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct{ account, wanted, want string }{
		{"a", "", "a1.example a2.example"},
		{"a", "a2.example", "a2.example"},
		{"a", "a2.example a1.example", "a2.example a1.example"},
		{"a", "a1.example b.example", ErrNoAccess.Error() + ": b.example"}, // RFC 2645 5.2.1: none of them
		{"a", "b.example", ErrNoAccess.Error() + ": b.example"},
		{"a", "host", ErrNoAccess.Error() + ": host"},
		{"a", "sub.a1.example", ErrNoAccess.Error() + ": sub.a1.example"},
		{"b", "host", "b.example"},
		{"b", "host.local", "b.example"},
		{"b", "b.example", "b.example"},
		{"b", "host b.example", ErrNoAccess.Error() + ": host"},
		{"b", "a1.example", ErrNoAccess.Error() + ": a1.example"}, // never what is another's
		{"gone", "", ErrUnknown.Error()},
		{"a1.example", "", ErrUnknown.Error()}, // accounts' names only: who authenticated is known by that
	} {
		got, err := f.Authorize(c.account, strings.Fields(c.wanted))
		text := strings.Join(got, " ")
		if err != nil {
			text = err.Error()
		}
		if text != c.want {
			t.Errorf("%s asks for %q: %q, want %q", c.account, c.wanted, text, c.want)
		}
	}
}

func TestBrokenFiles(t *testing.T) {
	long := strings.Repeat("x", 64)
	for _, c := range []struct{ text, want string }{
		{"account a\n domain a.example\n domian b.example\n", `3: unknown field "domian"`},
		{"# x\n\ndomain a.example\n", `3: domain stands before the first account line`},
		{"account a\n domain a.example\naccount a\n domain b.example\n", `3: account "a" exists already, in line 1`},
		{"account a\n domain a.example\naccount b\n domain A.example\n", `4: domain a.example belongs to account "a" already`},
		{"account a\n domain a.example A.Example\n", `2: domain a.example is there twice`},
		{"account a\n domain\n", `2: domain needs a value`},
		{"account a\n\n# no domain\naccount b\n domain b.example", `1: account "a" has no domain`},
		{"account a\n domain example\n", `2: bad domain "example": fewer than two labels`},
		{"account a\n domain a..example\n", `2: bad domain "a..example": empty label`},
		{"account a\n domain a.example.\n", `2: bad domain "a.example.": empty label`},
		{"account a\n domain -a.example\n", `2: bad domain "-a.example": label begins or ends with a hyphen`},
		{"account a\n domain a_b.example\n", `2: bad domain "a_b.example": idna: disallowed rune U+005F`},
		{"account a\n domain 192.0.2.1\n", `2: bad domain "192.0.2.1": last label is a number`},
		{"account a\n domain " + long + ".example\n", `2: bad domain "` + long + `.example": label longer than 63 octets`},
		{"account a\n domain xn--a.example\n", `2: bad domain "xn--a.example": idna: invalid label "\u0080"`},
		{"account \n domain a.example\n", `1: account name is empty`},
		{"account a\x01b\n domain a.example\n", `1: account name "a\x01b" contains a character that cannot be printed`},
		{"account a  b\n domain a.example\n", `1: account name "a  b" has a leading or doubled blank`},
		{"account " + strings.Repeat("x", 256) + "\n domain a.example\n", `1: account name is longer than 255 octets`},
		{"account a\n domain a.example\xff\n", `2: not valid UTF-8`},
		{"account a\n domain a.example\n own-hostname yes\n", `3: own-hostname takes no value`},
		{"account a\n domain a.example\n own-hostname\n own-hostname\n", `4: own-hostname is there twice`},
		{"account a\n domain a.example\n cram-md5 AAAA\n", `3: cram-md5 needs 2 values, not 1`},
		{"account a\n domain a.example\n cram-md5 SECRET! AAAA\n", `3: cram-md5 inner state: bad base64`},
		{"account a\n domain a.example\n cram-md5 AAAAAAAAAAAAAAAAAAAAAA AAAA\n", `3: cram-md5 inner state: bad base64`},
		{"account a\n domain a.example\n cram-md5 AAAAAAAAAAAAAAAAAAAAAB== AAAA\n", `3: cram-md5 inner state: bad base64`},
		{"account a\n domain a.example\n cram-md5 AAAAAAAAAAAAAAAAAAAAAA== AAAA\n", `3: cram-md5 outer state: 3 octets instead of 16`},
		{"account a\n domain a.example\n scram-sha-256 100 AAAA AAAA AAAA\n", `3: scram-sha-256 iterations: not a number from 4096 to 10000000`},
		{"account a\n domain a.example\n scram-sha-256 4096 AAAA AAAA AAAA\n", `3: scram-sha-256 salt: 3 octets instead of 16 to 64`},
		{"account a\n domain a.example\n scram-sha-256 4096 W22ZaJ0SNY7soEsUEjb6gQ== AAAA AAAA\n", `3: scram-sha-256 stored key: 3 octets instead of 32`},
		{"account a\n domain a.example\n scram-sha-256 4096 W22ZaJ0SNY7soEsUEjb6gQ== " + zeroKey + " AAA\n", `3: scram-sha-256 server key: bad base64`},
	} {
		path := writeFile(t, c.text)
		_, err := OpenFile(path)
		if want := path + ":" + c.want; err == nil || err.Error() != want {
			t.Errorf("%q:\n got %v\nwant %s", c.text, err, want)
		}
		var p *ParseError
		if !errors.As(err, &p) || p.Path != path {
			t.Errorf("%q: no ParseError", c.text)
		}
		if err != nil && strings.Contains(err.Error(), "SECRET") {
			t.Errorf("quotes a secret: %v", err)
		}
	}
}

func TestAllProblemsAtOnce(t *testing.T) {
	_, err := OpenFile(writeFile(t, "account a\n domain a\n x\n cram-md5\naccount b\n"))
	if err == nil || len(strings.Split(err.Error(), "\n")) != 4 {
		t.Errorf("%v", err)
	}
	_, err = OpenFile(writeFile(t, strings.Repeat("what is this?\n", 1000)))
	if n := len(strings.Split(err.Error(), "\n")); n != maxProblems {
		t.Errorf("%d problems", n)
	}
}

func TestOpenFileWithoutFile(t *testing.T) {
	if _, err := OpenFile(filepath.Join(t.TempDir(), "none")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("missing: %v", err)
	}
	if _, err := OpenFile(t.TempDir()); err == nil {
		t.Error("a directory was read")
	}
	if f, err := OpenFile(writeFile(t, "")); err != nil || f.Table().Domains() != 0 {
		t.Errorf("empty: %v", err)
	}
}

// later is a clock by which no file was written just now.
func later() time.Time { return time.Now().Add(time.Hour) }

func TestReloadKeepsOldTable(t *testing.T) {
	path := writeFile(t, goodFile)
	f, err := OpenFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte("account tim\n domain example.org\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if ok, _ := f.Collectable("example.com"); !ok {
		t.Error("the table changed without a Reload")
	}
	if err := f.Reload(later); err != nil || f.Table().Domains() != 1 {
		t.Errorf("%d domains, %v", f.Table().Domains(), err)
	}
	os.WriteFile(path, []byte("account tim\n domain example.org\naccount x\n"), 0o600)
	if err := f.Reload(later); err == nil || !strings.HasSuffix(err.Error(), `:3: account "x" has no domain`) {
		t.Errorf("broken file: %v", err)
	}
	os.Remove(path)
	if err := f.Reload(later); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("missing file: %v", err)
	}
	if ok, _ := f.Collectable("example.org"); !ok {
		t.Error("the old table is gone")
	}
}

// startWatch watches f until the test ends and returns what is reported.
func startWatch(t *testing.T, f *File, poll time.Duration) <-chan Change {
	t.Helper()
	return startWatchAt(t, f, poll, time.Now)
}

func startWatchAt(t *testing.T, f *File, poll time.Duration, now func() time.Time) <-chan Change {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	changes := make(chan Change, 100)
	var wg sync.WaitGroup
	wg.Go(func() { f.watch(ctx, poll, now, func(c Change) { changes <- c }) })
	t.Cleanup(func() { cancel(); wg.Wait() })
	return changes
}

// await returns the next report for which ok holds.
func await(t *testing.T, changes <-chan Change, ok func(Change) bool) Change {
	t.Helper()
	deadline := time.After(5 * time.Minute)
	for {
		select {
		case c := <-changes:
			if ok(c) {
				return c
			}
		case <-deadline:
			t.Fatal("no such report within five minutes")
		}
	}
}

func TestWatch(t *testing.T) {
	for name, poll := range map[string]time.Duration{"events": time.Hour, "polling": 20 * time.Millisecond} {
		t.Run(name, func(t *testing.T) {
			path := writeFile(t, goodFile)
			if name == "polling" { // a link whose target changes elsewhere sends no event
				link := filepath.Join(t.TempDir(), "link")
				if err := os.Symlink(path, link); err != nil {
					t.Fatal(err)
				}
				f, err := OpenFile(link)
				if err != nil {
					t.Fatal(err)
				}
				testWatch(t, f, path, poll)
				return
			}
			f, err := OpenFile(path)
			if err != nil {
				t.Fatal(err)
			}
			testWatch(t, f, path, poll)
		})
	}
}

func testWatch(t *testing.T, f *File, path string, poll time.Duration) {
	changes := startWatch(t, f, poll)
	for i := range 3 {
		add := func(d *Document) error {
			return d.Add(newAccount(fmt.Sprint("new", i), "x", fmt.Sprintf("new%d.example", i)))
		}
		if err := Edit(path, add); err != nil {
			t.Fatal(err)
		}
		await(t, changes, func(c Change) bool { return c.Err == nil && c.Accounts == 3+i && c.Domains == 4+i })
		if ok, _ := f.Collectable(fmt.Sprintf("new%d.example", i)); !ok {
			t.Error("reported, but not in effect")
		}
	}
	if err := os.WriteFile(path, []byte("account x\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	c := await(t, changes, func(c Change) bool { return c.Err != nil })
	if !strings.HasSuffix(c.Err.Error(), `:1: account "x" has no domain`) || c.Accounts != 5 {
		t.Errorf("%+v", c)
	}
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	await(t, changes, func(c Change) bool { return errors.Is(c.Err, fs.ErrNotExist) && c.Accounts == 5 })
	if err := Edit(path, func(d *Document) error { return d.Add(newAccount("back", "x", "back.example")) }); err != nil {
		t.Fatal(err)
	}
	await(t, changes, func(c Change) bool { return c.Err == nil && c.Accounts == 1 })
}

// A file that is being written in place is not read before it has been left alone for a while: half of it is without fault, too.
func TestWatchWaitsForTheWholeFile(t *testing.T) {
	path := writeFile(t, "account a\n domain a.example\naccount b\n domain b.example\n")
	f, err := OpenFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte("account a\n domain a.example\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	var clock atomic.Int64 // since the file was written to
	changes := startWatchAt(t, f, 20*time.Millisecond, func() time.Time { return info.ModTime().Add(time.Duration(clock.Load())) })
	clock.Store(int64(settle - 1))
	time.Sleep(3 * settle) // in which it is looked at
	select {
	case c := <-changes:
		t.Errorf("read while it was written: %+v", c)
	default:
	}
	clock.Store(int64(settle))
	await(t, changes, func(c Change) bool { return c.Err == nil && c.Accounts == 1 })
}

// TestReloadWaitsForTheWholeFile: neither does Reload read half a file. It says so and does not wait; Watch reads the file when it is whole, and reports that even if
// nothing has changed.
func TestReloadWaitsForTheWholeFile(t *testing.T) {
	const one, both = "account a\n domain a.example\n", "account a\n domain a.example\naccount b\n domain b.example\n"
	path := writeFile(t, both)
	f, err := OpenFile(path)
	if err != nil {
		t.Fatal(err)
	}
	written := time.Unix(1e9, 0)
	half := func(text string) {
		t.Helper()
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Chtimes(path, written, written); err != nil {
			t.Fatal(err)
		}
	}
	var clock atomic.Int64 // since the file was written to
	at := func() time.Time { return written.Add(time.Duration(clock.Load())) }
	half(one)
	clock.Store(int64(settle - 1))
	if err := f.Reload(at); err != ErrUnsettled || f.Table().Domains() != 2 {
		t.Errorf("half a file: %v, %d domains", err, f.Table().Domains())
	}
	half(both)
	changes := startWatchAt(t, f, time.Hour, at)
	clock.Store(int64(settle))
	await(t, changes, func(c Change) bool { return c.Err == nil && c.Accounts == 2 })
	if err := f.Reload(at); err != nil {
		t.Errorf("a whole file: %v", err)
	}
	clock.Store(int64(settle - 1))
	if err := f.Reload(at); err != ErrUnsettled {
		t.Errorf("a file that was just written, and read: %v", err)
	}
	clock.Store(int64(settle))
	await(t, changes, func(c Change) bool { return c.Err == nil && c.Accounts == 2 })
}

// TestPipeIsNotWaitedFor: a name that leads to a pipe is an error, not a server that stands still.
func TestPipeIsNotWaitedFor(t *testing.T) {
	path := filepath.Join(t.TempDir(), "pipe")
	if err := syscall.Mkfifo(path, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := OpenFile(path); err == nil || !strings.Contains(err.Error(), "not a regular file") {
		t.Error(err)
	}
}

// TestReloadDuringAWrite: a write that begins while the file is being looked at is noticed.
func TestReloadDuringAWrite(t *testing.T) {
	path := writeFile(t, goodFile)
	f, err := OpenFile(path)
	if err != nil {
		t.Fatal(err)
	}
	before := f.Table()
	err = f.Reload(func() time.Time { // asked between opening the file and reading it
		if err := os.Truncate(path, 0); err != nil {
			t.Error(err)
		}
		return later()
	})
	if err != ErrUnsettled || f.Table() != before {
		t.Errorf("%v; %d accounts are left", err, len(f.Table().Accounts()))
	}
}

// One that is written to without end is read all the same.
func TestWatchOfARestlessFile(t *testing.T) {
	path := writeFile(t, goodFile)
	f, err := OpenFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte("account a\n domain a.example\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	now := time.Unix(1e9, 0) // used by the watch alone
	changes := startWatchAt(t, f, time.Hour, func() time.Time {
		now = now.Add(restless / 4)
		if err := os.Chtimes(path, now, now); err != nil {
			t.Error(err)
		}
		return now
	})
	await(t, changes, func(c Change) bool { return c.Err == nil && c.Accounts == 1 })
}

// A change made between OpenFile and Watch is not missed.
func TestWatchSeesEarlierChange(t *testing.T) {
	path := writeFile(t, goodFile)
	f, err := OpenFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := Edit(path, func(d *Document) error { return d.Remove("tim") }); err != nil {
		t.Fatal(err)
	}
	await(t, startWatch(t, f, time.Hour), func(c Change) bool { return c.Err == nil && c.Accounts == 1 })
}

// Readers see whole tables while the file is reloaded under them.
func TestReadersDuringReload(t *testing.T) {
	path := writeFile(t, "account a\n domain a0.example b0.example\n")
	f, err := OpenFile(path)
	if err != nil {
		t.Fatal(err)
	}
	stop := make(chan struct{})
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				ds, err := f.Authorize("a", nil)
				if err != nil || len(ds) != 2 || ds[0][1:] != ds[1][1:] {
					t.Errorf("a torn table: %v %v", ds, err)
					return
				}
			}
		})
	}
	for i := range 50 {
		err := Edit(path, func(d *Document) error {
			return d.Replace(&Account{Name: "a", Domains: []string{fmt.Sprintf("a%d.example", i), fmt.Sprintf("b%d.example", i)}})
		})
		if err == nil {
			err = f.Reload(later)
		}
		if err != nil {
			t.Error(err)
			break
		}
	}
	close(stop)
	wg.Wait()
}

func TestLoad100000Accounts(t *testing.T) {
	if testing.Short() {
		t.Skip("short")
	}
	var b strings.Builder
	secrets := "  cram-md5 AAAAAAAAAAAAAAAAAAAAAA== AQEBAQEBAQEBAQEBAQEBAQ==\n" +
		"  scram-sha-256 10000 W22ZaJ0SNY7soEsUEjb6gQ== " + zeroKey + " " + zeroKey + "\n"
	for i := range 100_000 {
		fmt.Fprintf(&b, "account customer%06d\n  domain customer%06d.example\n  domain mail.customer%06d.example\n%s", i, i, i, secrets)
	}
	path := writeFile(t, b.String())
	f, err := OpenFile(path)
	if err != nil {
		t.Fatal(err)
	}
	start, cpu := time.Now(), processorTime(t)
	if err := f.Reload(later); err != nil { // hot: the file is in the page cache, as with every reload of a server that runs
		t.Fatal(err)
	}
	t.Logf("%d accounts with %d domains, %d MiB, loaded in %v, processor time %v", len(f.Table().Accounts()), f.Table().Domains(), b.Len()>>20,
		time.Since(start), processorTime(t)-cpu)
	start = time.Now()
	if err := Edit(path, func(d *Document) error { return d.Remove("customer050000") }); err != nil {
		t.Fatal(err)
	}
	t.Logf("one account removed in %v", time.Since(start))
	if err := f.Reload(later); err != nil || len(f.Table().Accounts()) != 99_999 || f.Table().Domains() != 199_998 {
		t.Errorf("%d accounts, %v", len(f.Table().Accounts()), err)
	}
}

// processorTime is what the process has used so far: on a machine that others use, too, it says more than a clock.
func processorTime(t *testing.T) time.Duration {
	t.Helper()
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		t.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
