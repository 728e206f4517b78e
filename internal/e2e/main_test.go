package e2e

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"testing"
)

// bin is where the programs are.
var bin string

func TestMain(m *testing.M) {
	dir, err := os.MkdirTemp("", "odmr-e2e-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	bin = filepath.Join(dir, "bin")
	code := 1
	if err := build("./cmd/odmrd", "./cmd/odmrctl", "./cmd/odmrget", "./internal/demo"); err != nil {
		fmt.Fprintln(os.Stderr, err)
	} else {
		code = m.Run()
	}
	_ = os.RemoveAll(dir)
	os.Exit(code)
}

func build(packages ...string) error {
	args := []string{"build", "-o", bin + "/"}
	if os.Getenv("ODMR_E2E_RACE") == "1" {
		args = append(args, "-race")
	}
	cmd := exec.Command("go", append(args, packages...)...)
	cmd.Dir = filepath.Join("..", "..")
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("go build: %w\n%s", err, out)
	}
	return nil
}

// needProgram finds a program that an interop test needs, or skips the test by its name.
func needProgram(t *testing.T, name string) string {
	t.Helper()
	for _, dir := range append(filepath.SplitList(os.Getenv("PATH")), "/usr/sbin", "/sbin") {
		path := filepath.Join(dir, name)
		if info, err := os.Stat(path); err == nil && info.Mode().IsRegular() && info.Mode()&0o111 != 0 {
			return path
		}
	}
	unavailable(t, name+" is not installed")
	return ""
}

// unavailable skips an interop test, or fails it where interop is required.
func unavailable(t *testing.T, why string) {
	t.Helper()
	if os.Getenv("ODMR_INTEROP") == "required" {
		t.Fatal(why, ", and ODMR_INTEROP=required")
	}
	t.Skip(why)
}

// crashRounds is how often a crash test kills the server: usual in make test.
func crashRounds(t *testing.T, usual int) int {
	if s := os.Getenv("ODMR_CRASH_ROUNDS"); s != "" {
		n, err := strconv.Atoi(s)
		if err != nil || n < 1 {
			t.Fatalf("ODMR_CRASH_ROUNDS=%s is not a number of rounds", s)
		}
		return n
	}
	if os.Getenv("ODMR_CRASH") == "long" {
		return 15 * usual
	}
	return usual
}
