package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"

	"odmr/internal/config"
	"odmr/internal/service"
)

// userProblems says if --user names nobody to become.
func userProblems(cfg *config.Config) config.Problems {
	if cfg.User == "" {
		return nil
	}
	if _, err := service.FindUser(cfg.User); err != nil {
		return config.Problems{{Flag: "user", Text: fmt.Sprintf("%q: %v", cfg.User, err)}}
	}
	return nil
}

// becomeUser gives up root, now that every port is open. All files are opened afterwards, so that what can be
// read now can be read again when it has changed.
func (s *server) becomeUser() error {
	if s.cfg.User == "" {
		if os.Geteuid() == 0 {
			s.log.Warn().Msg("running as root, which the server needs for nothing once it listens: give it a user of its own with --user")
		}
		return nil
	}
	u, err := service.FindUser(s.cfg.User)
	if err == nil {
		err = u.Become()
	}
	if err != nil {
		return fmt.Errorf("--user: %w", err)
	}
	s.log.Info().Str("user", u.Name).Int("uid", u.UID).Int("gid", u.GID).Msg("root is given up")
	return nil
}

// asUser explains an error of opening a file that the user may not open.
func (s *server) asUser(err error) error {
	if s.cfg.User == "" || !errors.Is(err, fs.ErrPermission) {
		return err
	}
	return fmt.Errorf("%w: it is opened as %s, whom --user names", err, s.cfg.User)
}
