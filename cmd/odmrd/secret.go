package main

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"odmr/internal/account"
)

// secretFile, in the data directory, keys what is shown to those who ask for accounts that do not exist.
// Nothing depends on it but that they cannot tell; with a new one they could, once.
const secretFile = "auth-secret"

// authSecret reads the secret, and makes it if there is none.
func authSecret(dir string) ([]byte, error) {
	path := filepath.Join(dir, secretFile)
	secret, err := os.ReadFile(path)
	switch {
	case err == nil && len(secret) == account.SecretSize:
		return secret, nil
	case err == nil:
		return nil, fmt.Errorf("%s has %d octets instead of %d; remove it and a new one is made", path, len(secret), account.SecretSize)
	case !errors.Is(err, fs.ErrNotExist):
		return nil, err
	}
	secret = make([]byte, account.SecretSize)
	rand.Read(secret)
	if err := writeSecret(path, secret); err != nil {
		return nil, err
	}
	return secret, nil
}

// writeSecret writes it under another name first, that nobody can have laid a file or a link under: a crash leaves no half of it.
func writeSecret(path string, secret []byte) (err error) {
	f, err := os.CreateTemp(filepath.Dir(path), "."+secretFile+".*") // mode 0600
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, os.Remove(f.Name()))
		}
	}()
	_, err = f.Write(secret)
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return err
	}
	return os.Rename(f.Name(), path)
}
