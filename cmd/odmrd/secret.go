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
	// Under another name first: a crash leaves no half of it.
	if err := os.WriteFile(path+".new", secret, 0o600); err != nil {
		return nil, err
	}
	if err := os.Rename(path+".new", path); err != nil {
		return nil, err
	}
	return secret, nil
}
