package main

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"time"
	"unicode/utf8"

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
	plain := w
	w = harmless{w}
	if cfg.LogFormat == "console" {
		f, isFile := plain.(*os.File)
		w = zerolog.ConsoleWriter{Out: w, TimeFormat: time.DateTime, NoColor: !isFile || !term.IsTerminal(int(f.Fd()))}
	}
	level, err := zerolog.ParseLevel(cfg.LogLevel)
	if err != nil {
		level = zerolog.InfoLevel // cannot be: the flag's values are zerolog's names
	}
	return zerolog.New(zerolog.SyncWriter(w)).Level(level).With().Timestamp().Logger()
}

// harmless writes lines so that they do nothing to a terminal: what zerolog leaves as it is of a peer's text, C1 controls (of which U+009B
// begins a sequence like ESC), DEL and marks that turn the direction of writing, becomes \u and four digits. In JSON
// that is the same text.
type harmless struct{ io.Writer }

func (h harmless) Write(p []byte) (int, error) {
	if bytes.IndexFunc(p, misleads) < 0 {
		return h.Writer.Write(p)
	}
	clean := make([]byte, 0, len(p)+64)
	for _, r := range string(p) {
		if misleads(r) {
			clean = fmt.Appendf(clean, `\u%04x`, r)
		} else {
			clean = utf8.AppendRune(clean, r)
		}
	}
	if _, err := h.Writer.Write(clean); err != nil {
		return 0, err
	}
	return len(p), nil
}

func misleads(r rune) bool {
	return r >= 0x7f && r < 0xa0 || r >= 0x202a && r <= 0x202e || r >= 0x2066 && r <= 0x2069
}
