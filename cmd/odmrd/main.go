// Command odmrd is an On-Demand Mail Relay server (RFC 2645): it takes mail for customers'
// domains over SMTP and LMTP, holds it durably, and hands it to customers who ask with ATRN.
//
// This package holds wiring and nothing clever: flags (internal/config), the store
// (queue/pebblestore), the accounts (internal/account), the engine, the doors for the operator
// (internal/admin), signals and exit statuses.
//
// Signals: SIGTERM and SIGINT stop accepting and let running transactions finish, bounded by
// --shutdown-grace; a second one ends the process at once. SIGHUP reads the accounts and the certificates again.
//
// Root is given up between opening ports and opening files: see server.start.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"

	"github.com/rs/zerolog"

	"odmr/internal/config"
	"odmr/internal/processors"
)

// Exit statuses.
const (
	exitOK      = 0 // orderly end, or --help and the like
	exitFailure = 1 // could not start, or the storage failed, or a second signal
	exitConfig  = 2 // the configuration is wrong: see standard error
)

// version is set by the linker.
var version = "unversioned"

func main() { os.Exit(run(os.Args[1:], os.Stdout, os.Stderr)) }

// run is main with its surroundings as arguments. It returns the exit status.
func run(args []string, stdout, stderr io.Writer) int {
	cfg, err := config.Load(config.Source{Args: args, Getenv: os.LookupEnv})
	var problems config.Problems
	switch {
	case err != nil && !errors.As(err, &problems):
		fmt.Fprintln(stderr, "odmrd:", err)
		return exitFailure
	case cfg.Help:
		return show(stderr, config.Usage(stdout))
	case cfg.Version:
		_, err := fmt.Fprintln(stdout, "odmrd", version)
		return show(stderr, err)
	}
	if cfg.PrintConfig && len(problems) == 0 {
		return show(stderr, config.WriteYAML(stdout, cfg))
	}
	if problems = append(append(problems, limitProblems(cfg)...), userProblems(cfg)...); len(problems) > 0 {
		fmt.Fprint(stderr, "odmrd: ", problems)
		return exitConfig
	}

	syscall.Umask(0o077) // held mail and its socket are nobody else's business
	log := newLogger(cfg, stderr)
	processors.Widen()
	processors.Relax()
	if cfg.Scheduling == "batch" {
		if err := processors.Batch(); err != nil { // slower, no more
			log.Warn().Err(err).Msg("--scheduling: it is normal")
		}
	}
	hangup := make(chan os.Signal, 1)
	signal.Notify(hangup, syscall.SIGHUP)
	defer signal.Stop(hangup)
	stop := stopSignal(log)

	s := newServer(cfg, log, stop)
	if err := s.start(); err != nil {
		log.Error().Err(err).Msg("not started")
		if err := s.close(context.Background()); err != nil {
			log.Error().Err(err).Msg("not stopped in order")
		}
		return exitFailure
	}
	return s.serve(stop, hangup)
}

// stopSignal returns where the first SIGTERM or SIGINT comes out. The second ends the process,
// whatever it is doing.
func stopSignal(log zerolog.Logger) <-chan os.Signal {
	signals := make(chan os.Signal, 2)
	signal.Notify(signals, syscall.SIGTERM, syscall.SIGINT)
	first := make(chan os.Signal, 1)
	go func() {
		first <- <-signals
		sig := <-signals
		log.Warn().Stringer("signal", sig).Msg("second signal, ending at once")
		os.Exit(exitFailure)
	}()
	return first
}

// show turns the error of printing something into an exit status.
func show(stderr io.Writer, err error) int {
	if err != nil {
		fmt.Fprintln(stderr, "odmrd:", err)
		return exitFailure
	}
	return exitOK
}
