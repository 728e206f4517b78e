package service

import (
	"errors"
	"fmt"
	"os/user"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// User is whom a server becomes.
type User struct {
	Name     string // as it was given
	UID, GID int
}

// FindUser reads NAME or NAME:GROUP, names or numbers of a user and a group that exist. Without a group it is
// the user's own. Root is nobody to become.
func FindUser(text string) (*User, error) {
	name, group, grouped := strings.Cut(text, ":")
	u, err := user.Lookup(name)
	if errors.As(err, new(user.UnknownUserError)) && isNumber(name) {
		u, err = user.LookupId(name)
	}
	if err != nil {
		return nil, err
	}
	gid := u.Gid
	if grouped {
		g, err := user.LookupGroup(group)
		if errors.As(err, new(user.UnknownGroupError)) && isNumber(group) {
			g, err = user.LookupGroupId(group)
		}
		if err != nil {
			return nil, err
		}
		gid = g.Gid
	}
	found := &User{Name: text}
	if found.UID, err = strconv.Atoi(u.Uid); err != nil {
		return nil, err
	}
	if found.GID, err = strconv.Atoi(gid); err != nil {
		return nil, err
	}
	if found.UID == 0 || found.GID == 0 {
		return nil, errors.New("is root, or of root's group: that drops nothing")
	}
	return found, nil
}

func isNumber(s string) bool {
	_, err := strconv.ParseUint(s, 10, 31)
	return err == nil
}

// Become makes every thread of the process u's, for good: real, effective and saved ids, no
// supplementary groups, no capabilities. Who is u already stays what it is; else it takes root. An error may
// leave things half done, and the process is to end.
func (u *User) Become() error {
	if syscall.Geteuid() != 0 {
		if u.is() {
			return nil
		}
		return fmt.Errorf("only root can become %s", u.Name)
	}
	// Groups first: afterwards nobody may change them. These reach all threads, unlike x/sys/unix's.
	if err := syscall.Setgroups(nil); err != nil {
		return fmt.Errorf("setgroups: %w", err)
	}
	if err := syscall.Setresgid(u.GID, u.GID, u.GID); err != nil {
		return fmt.Errorf("setresgid: %w", err)
	}
	if err := syscall.Setresuid(u.UID, u.UID, u.UID); err != nil {
		return fmt.Errorf("setresuid: %w", err)
	}
	return u.check()
}

// is reports whether all ids are u's.
func (u *User) is() bool {
	ruid, euid, suid := unix.Getresuid()
	rgid, egid, sgid := unix.Getresgid()
	return [...]int{ruid, euid, suid, rgid, egid, sgid} == [...]int{u.UID, u.UID, u.UID, u.GID, u.GID, u.GID}
}

// check makes sure that nothing of root is left: securebits that whoever started us may have set keep the
// capabilities of a process that changes its user.
func (u *User) check() error {
	if !u.is() {
		return errors.New("the ids are not those of the user")
	}
	groups, err := syscall.Getgroups()
	if err != nil {
		return fmt.Errorf("getgroups: %w", err)
	}
	if slices.ContainsFunc(groups, func(g int) bool { return g != u.GID }) {
		return fmt.Errorf("supplementary groups %v are left", groups)
	}
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var caps [2]unix.CapUserData
	if err := unix.Capget(&header, &caps[0]); err != nil {
		return fmt.Errorf("capget: %w", err)
	}
	for _, c := range caps {
		if c.Effective|c.Permitted != 0 {
			return errors.New("capabilities are left (securebits?)")
		}
	}
	if syscall.Setuid(0) == nil {
		return errors.New("the process can become root again")
	}
	return nil
}
