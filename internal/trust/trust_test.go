package trust

import (
	"crypto/tls"
	"errors"
	"os"
	"path/filepath"
	"testing"
)

func TestReadPassword(t *testing.T) {
	for text, want := range map[string]string{"secret": "secret", "se cret \r\n": "se cret ", "\n": "", "": "", "two\nlines\n": ""} {
		file := filepath.Join(t.TempDir(), "f")
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if got, err := ReadPassword(file); got != want || (err == nil) != (want != "") {
			t.Errorf("%q: %q, %v", text, got, err)
		}
	}
	if _, err := ReadRoots(filepath.Join(t.TempDir(), "none")); !errors.Is(err, os.ErrNotExist) {
		t.Error(err)
	}
}

func TestCheckSecrecy(t *testing.T) {
	verified, any := &tls.Config{}, &tls.Config{InsecureSkipVerify: true}
	for _, host := range []string{"localhost", "127.0.0.1", "127.3.2.1", "::1", "::ffff:127.0.0.1"} {
		if err := CheckSecrecy(host, nil); err != nil {
			t.Error(err)
		}
	}
	for _, host := range []string{"", "192.0.2.1", "localhost.example", "::", "0.0.0.0", "db.example"} {
		if CheckSecrecy(host, verified) != nil || !errors.Is(CheckSecrecy(host, nil), ErrUnverified) || !errors.Is(CheckSecrecy(host, any), ErrUnverified) {
			t.Errorf("%q is taken for this machine, or no other is asked for TLS", host)
		}
	}
}
