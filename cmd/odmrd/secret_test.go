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
