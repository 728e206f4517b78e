package main

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"odmr/internal/account"
)

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"odmrctl": main})
}

func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir:                 "testdata/script",
		RequireExplicitExec: true,
		RequireUniqueNames:  true,
	})
}

// odmrctl runs the program with stdin and returns what it did.
func odmrctl(t *testing.T, stdin string, args ...string) (status int, stdout, stderr string) {
	t.Helper()
	in := filepath.Join(t.TempDir(), "stdin")
	if err := os.WriteFile(in, []byte(stdin), 0o600); err != nil {
		t.Fatal(err)
	}
	f, err := os.Open(in)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var out, errs bytes.Buffer
	status = run(args, &surroundings{stdin: f, stdout: &out, stderr: &errs, now: time.Now})
	return status, out.String(), errs.String()
}

type brokenPipe struct{}

func (brokenPipe) Write([]byte) (int, error) { return 0, syscall.ENOSPC }

// A generated password that cannot be shown changes nothing.
func TestGeneratedPasswordIsSeenOrNotUsed(t *testing.T) {
	path := filepath.Join(t.TempDir(), "accounts")
	if status, _, stderr := odmrctl(t, "", "--accounts", path, "account", "add", "tim", "--domain", "example.org", "--generate"); status != exitOK {
		t.Fatal(stderr)
	}
	before, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for _, args := range [][]string{{"passwd", "tim"}, {"add", "tom", "--domain", "example.com"}} {
		var errs bytes.Buffer
		status := run(append([]string{"--accounts", path, "account", args[0], "--generate"}, args[1:]...), &surroundings{stdout: brokenPipe{}, stderr: &errs, now: time.Now})
		if after, err := os.ReadFile(path); err != nil || status != exitFailed || !strings.Contains(errs.String(), "nothing was changed") || !bytes.Equal(before, after) {
			t.Errorf("%v: status %d, %q, %v\n%s", args, status, &errs, err, after)
		}
	}
}

// What was typed is what logs in, by every mechanism, and stands nowhere in the file.
func TestPasswordIsTheOneGiven(t *testing.T) {
	path := filepath.Join(t.TempDir(), "accounts")
	check := func(password string) {
		t.Helper()
		f, err := account.OpenFile(path)
		if err != nil {
			t.Fatal(err)
		}
		a, err := f.Lookup("tim")
		if err != nil {
			t.Fatal(err)
		}
		if *a.CRAMMD5 != *account.DeriveCRAMMD5(password) {
			t.Errorf("%q does not log in with CRAM-MD5", password)
		}
		keys, err := account.DeriveSCRAM(password, a.SCRAMSHA256.Salt, a.SCRAMSHA256.Iterations)
		if err != nil || keys.StoredKey != a.SCRAMSHA256.StoredKey || keys.ServerKey != a.SCRAMSHA256.ServerKey {
			t.Errorf("%q does not log in with SCRAM-SHA-256: %v", password, err)
		}
		text, _ := os.ReadFile(path)
		if strings.Contains(string(text), password) {
			t.Errorf("the password stands in the file:\n%s", text)
		}
	}
	accounts := "--accounts=" + path
	if status, out, errs := odmrctl(t, "tanstaaf tanstaaf \r\nmore", accounts, "account", "add", "tim", "--domain", "example.org", "--password-stdin"); status != 0 || out+errs != "" {
		t.Fatal(status, out, errs)
	}
	check("tanstaaf tanstaaf ")
	status, out, errs := odmrctl(t, "", accounts, "account", "passwd", "tim", "--generate")
	if status != 0 || errs != "" || strings.Count(out, "\n") != 1 {
		t.Fatal(status, out, errs)
	}
	check(strings.TrimSuffix(out, "\n"))
	// Settings and domains leave the secrets alone.
	password := strings.TrimSuffix(out, "\n")
	for _, args := range [][]string{{"set", "tim", "--own-hostname"}, {"domain", "add", "tim", "example.com"}, {"domain", "remove", "tim", "example.org"}} {
		if status, _, errs := odmrctl(t, "", append([]string{accounts, "account"}, args...)...); status != 0 {
			t.Fatal(args, errs)
		}
		check(password)
	}
}
