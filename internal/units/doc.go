// Package units has the text forms of sizes and durations, which flags, the accounts file and directories
// share. It never reads a clock.
package units
