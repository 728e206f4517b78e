package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"strings"
	"testing"

	"odmr/internal/config"
)

// TestLogInjection: what a peer chose stands in the log so that it neither begins a line of its own nor moves a terminal's cursor.
func TestLogInjection(t *testing.T) {
	const evil = "x\r\n{\"level\":\"info\"}\x1b[2J\x1b]0;t\a\u009b31m\u202e\x00"
	for _, format := range []string{"json", "console"} {
		var b bytes.Buffer
		log := newLogger(&config.Config{LogFormat: format, LogLevel: "info"}, &b)
		log.Info().Str("from", evil).Strs("domains", []string{evil}).Err(errors.New(evil)).AnErr("cause", errors.New(evil)).Msg("static")
		text := strings.TrimSuffix(b.String(), "\n")
		if i := strings.IndexFunc(text, func(r rune) bool { return r < ' ' || misleads(r) }); i >= 0 || text == "" {
			t.Errorf("%s: octet %d of %q", format, i, text)
		}
		var fields struct{ From string }
		if err := json.Unmarshal([]byte(text), &fields); format == "json" && (err != nil || fields.From != evil) {
			t.Errorf("%q, %v", fields.From, err)
		}
	}
}
