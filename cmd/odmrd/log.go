package main

import (
	"io"
	"os"
	"time"

	"github.com/rs/zerolog"
	"golang.org/x/term"

	"odmr/internal/config"
)

// timeFormat has milliseconds, since several events fall within a second.
const timeFormat = "2006-01-02T15:04:05.000Z07:00"

// newLogger makes the logger that --log-level and --log-format ask for. It sets zerolog's time
// format, which is global.
func newLogger(cfg *config.Config, w io.Writer) zerolog.Logger {
	zerolog.TimeFieldFormat = timeFormat
	if cfg.LogFormat == "console" {
		f, isFile := w.(*os.File)
		w = zerolog.ConsoleWriter{Out: w, TimeFormat: time.DateTime, NoColor: !isFile || !term.IsTerminal(int(f.Fd()))}
	}
	level, err := zerolog.ParseLevel(cfg.LogLevel)
	if err != nil {
		level = zerolog.InfoLevel // cannot be: the flag's values are zerolog's names
	}
	return zerolog.New(zerolog.SyncWriter(w)).Level(level).With().Timestamp().Logger()
}
