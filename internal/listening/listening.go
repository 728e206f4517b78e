// Package listening reads the line in which odmrd says where it listens, for whoever starts one and waits for it: make run, the
// load harness, tests. The line is the same for scripts, so its form is a promise: see README.md, Operations.
//
// It never starts, reads or waits for anything; the log is the caller's.
package listening

import (
	"bytes"
	"encoding/json"
)

// Message is the line's message.
const Message = "listening"

// Addrs are a server's addresses (host:port), by listener; none where one is off.
type Addrs struct {
	ODMR  []string `json:"odmr"`
	ODMRS []string `json:"odmrs"`
	SMTP  []string `json:"smtp"`
	LMTP  []string `json:"lmtp"`
	Admin []string `json:"admin"`
}

// Line is what the line says.
type Line struct {
	Addrs
	PID int `json:"pid"`
}

// Find returns the first such line of a log in JSON. Whatever else is in the log is passed over.
func Find(log []byte) (l Line, ok bool) {
	for text := range bytes.Lines(log) {
		var seen struct {
			Message string `json:"message"`
			Line
		}
		if json.Unmarshal(text, &seen) == nil && seen.Message == Message {
			return seen.Line, true
		}
	}
	return Line{}, false
}
