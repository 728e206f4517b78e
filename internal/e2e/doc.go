// Package e2e holds no code but tests: the built programs odmrd, odmrctl and odmrget, end to
// end over loopback, and the programs that they meet in the field (fetchmail, Postfix, Exim, Sendmail, OpenSMTPD, swaks,
// promtool).
//
// Tests named TestInterop… need one of those programs and are skipped by name where it is
// missing, unless ODMR_INTEROP=required. Tests with Crash in their names kill the server; ODMR_CRASH=long makes
// them run many more rounds, ODMR_CRASH_ROUNDS=N exactly N. ODMR_E2E_RACE=1 builds the programs with the race detector.
//
// Every server of a test has its own directory, listens on ports that the system chose, is
// ended by its process id, must exit with status 0 when it is asked to, must not have logged a
// panic, and leaves a store that `odmrctl queue check` finds in order: Server sees to all of that.
package e2e
