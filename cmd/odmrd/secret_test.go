package main

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"
)

func TestAuthSecretOutlivesTheProcess(t *testing.T) {
	dir := t.TempDir()
	first, err := authSecret(dir)
	if err != nil {
		t.Fatal(err)
	}
	again, err := authSecret(dir)
	if err != nil || !bytes.Equal(first, again) {
		t.Errorf("%x, then %x, %v", first, again, err)
	}
	info, err := os.Stat(filepath.Join(dir, secretFile))
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v", info.Mode(), err)
	}
	// A file that somebody has laid where the secret is written first must neither get it nor be what is read later.
	laid := t.TempDir()
	trap := filepath.Join(t.TempDir(), "trap")
	if err := os.Symlink(trap, filepath.Join(laid, secretFile+".new")); err != nil {
		t.Fatal(err)
	}
	if _, err := authSecret(laid); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(trap); err == nil {
		t.Error("the secret was written through a link")
	}
	if info, err := os.Lstat(filepath.Join(laid, secretFile)); err != nil || info.Mode() != 0o600 {
		t.Errorf("%v, %v", info, err)
	}
	if other, err := authSecret(t.TempDir()); err != nil || bytes.Equal(first, other) {
		t.Errorf("every server has the same: %v", err)
	}
	if err := os.WriteFile(filepath.Join(dir, secretFile), []byte("cut"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := authSecret(dir); err == nil {
		t.Error("a secret cut short was taken")
	}
}
