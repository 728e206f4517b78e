package account

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// LockWait is how long Edit waits for another editor of the file.
	LockWait  = 10 * time.Second
	lockRetry = 20 * time.Millisecond

	filePerm = 0o600
	// permKept are the permissions that an existing file keeps: its group may have been given the
	// right to read (the server under its own user), others are never left with any.
	permKept = 0o640
)

// ErrLocked says that another program was changing the file for longer than LockWait.
var ErrLocked = errors.New("account: accounts file is locked by another program")

// Load reads the accounts file at path, for looking at it.
func Load(path string) (*Document, error) {
	data, _, err := readFile(path, nil)
	if err != nil {
		return nil, err
	}
	return Parse(path, data)
}

// Edit changes the accounts file at path: it reads it under an advisory lock, lets change work
// on it and, unless that returns an error, puts the new file in its place atomically and
// durably. A file that does not exist yet is an empty Document and is created if change adds
// to it. Readers see the old or the new file, never a part; two Edits never lose each other's change.
//
// The lock is flock(2) on the file's directory, so that nothing is left behind and the lock
// survives the renaming of the file itself.
func Edit(path string, change func(*Document) error) error {
	target, err := resolve(path)
	if err != nil {
		return err
	}
	dir, err := lockDir(filepath.Dir(target))
	if err != nil {
		return err
	}
	defer dir.Close() // which unlocks

	old, _, err := readFile(target, nil)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	doc, err := Parse(path, old)
	if err != nil {
		return err
	}
	if err := change(doc); err != nil {
		return err
	}
	text := doc.Append(make([]byte, 0, len(old)+1024))
	if bytes.Equal(text, old) {
		return nil
	}
	if _, err := Parse(path, text); err != nil { // never write what would not be read
		return fmt.Errorf("refusing to write a file that cannot be read back: %w", err)
	}
	return replaceFile(dir, target, text)
}

// resolve follows symbolic links, so that the file behind them is replaced and not the link.
func resolve(path string) (string, error) {
	target, err := filepath.EvalSymlinks(path)
	if errors.Is(err, fs.ErrNotExist) {
		return filepath.Abs(path)
	}
	if err != nil {
		return "", fmt.Errorf("accounts file: %w", err)
	}
	return filepath.Abs(target)
}

// lockDir opens and locks the directory at path.
func lockDir(path string) (*os.File, error) {
	dir, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("accounts file: %w", err)
	}
	for waited := time.Duration(0); ; waited += lockRetry {
		err = unix.Flock(int(dir.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if err == nil {
			return dir, nil
		}
		if err != unix.EWOULDBLOCK && err != unix.EINTR {
			dir.Close()
			return nil, fmt.Errorf("locking %s: %w", path, err)
		}
		if waited >= LockWait {
			dir.Close()
			return nil, ErrLocked
		}
		time.Sleep(lockRetry)
	}
}

// replaceFile writes text beside target, makes it durable and renames it over target.
func replaceFile(dir *os.File, target string, text []byte) (err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("writing accounts file: %w", err)
		}
	}()
	tmp, err := os.CreateTemp(filepath.Dir(target), "."+filepath.Base(target)+".*") // mode 0600
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			tmp.Close()
			os.Remove(tmp.Name())
		}
	}()
	if err := inherit(tmp, target); err != nil {
		return err
	}
	if _, err := tmp.Write(text); err != nil {
		return err
	}
	if err := tmp.Sync(); err != nil {
		return err
	}
	if err := tmp.Close(); err != nil {
		return err
	}
	if err := os.Rename(tmp.Name(), target); err != nil {
		return err
	}
	return dir.Sync()
}

// inherit gives tmp the owner and the permissions of the file that it is to replace: a server
// under its own user must still be able to read what root has edited.
func inherit(tmp *os.File, target string) error {
	info, err := os.Stat(target)
	if errors.Is(err, fs.ErrNotExist) {
		return tmp.Chmod(filePerm)
	}
	if err != nil {
		return err
	}
	if st, ok := info.Sys().(*syscall.Stat_t); ok && (int(st.Uid) != os.Geteuid() || int(st.Gid) != os.Getegid()) {
		if err := tmp.Chown(int(st.Uid), int(st.Gid)); err != nil {
			return err
		}
	}
	return tmp.Chmod(info.Mode().Perm() & permKept)
}
