package main

import (
	"fmt"

	"golang.org/x/sys/unix"

	"odmr/engine"
	"odmr/internal/config"
)

// limitProblems raises the limit of open files as far as it goes, and says if --max-sessions
// does not fit under it. Without that flag there are as many sessions as fit, up to the engine's default.
func limitProblems(cfg *config.Config) config.Problems {
	var lim unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &lim); err != nil {
		return nil
	}
	if lim.Cur < lim.Max {
		raised := unix.Rlimit{Cur: lim.Max, Max: lim.Max}
		if unix.Setrlimit(unix.RLIMIT_NOFILE, &raised) == nil {
			lim = raised
		}
	}
	if cfg.MaxSessions == 0 {
		cfg.MaxSessions = int(min(engine.DefaultMaxSessions, engine.SessionRoom(lim.Cur)))
		return nil
	}
	if room := engine.SessionRoom(lim.Cur); int64(cfg.MaxSessions) > room {
		return config.Problems{{Flag: "max-sessions", Text: fmt.Sprintf(
			"%d does not fit under the limit of open files, %d of which %d remain for sessions: raise the limit (ulimit -Hn, systemd's LimitNOFILE)",
			cfg.MaxSessions, lim.Cur, room)}}
	}
	return nil
}
