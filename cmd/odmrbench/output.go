package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"reflect"
	"strings"
	"time"

	"github.com/schollz/progressbar/v3"
	"golang.org/x/term"

	"odmr/bench"
	"odmr/bench/report"
	"odmr/bench/result"
)

// output is where results go.
type output struct {
	JSON     bool   `name:"json" help:"Results as JSON on standard output; what people read goes to standard error."`
	Save     string `placeholder:"FILE" help:"Save the results as JSON, for --baseline."`
	Report   string `placeholder:"FILE" help:"Write one self-contained HTML page with plots."`
	Baseline string `placeholder:"FILE" help:"Compare with a run that was saved before."`
}

// plan is what is to be measured, and what is asked of it: goals hold for the sizes of `all` only.
type plan struct {
	scenarios []bench.Scenario
	goals     []result.Goal
}

// measure runs scenarios one after another and shows what came of them.
func (o *output) measure(ctx context.Context, s *bench.Settings, todo plan) (err error) {
	var baseline *result.Run
	if o.Baseline != "" { // before an hour of measuring, not after it
		if baseline, err = result.Load(o.Baseline); err != nil {
			return fmt.Errorf("--baseline: %w", err)
		}
	}
	if err := o.writable(); err != nil {
		return err
	}
	people := os.Stdout
	if o.JSON {
		people = os.Stderr
	}
	env, err := bench.NewEnv(*s, deps())
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, env.Close()) }()
	env.Progress = progress
	env.Say = func(format string, args ...any) { fmt.Fprintf(os.Stderr, format+"\n", args...) }

	run := &result.Run{Version: version, Began: time.Now()}
	if run.Machine, err = env.Machine(); err != nil {
		return err
	}
	fmt.Fprintf(people, "%d × %s · Linux %s · %s · lone fdatasync %s (median) · %s\n", run.Machine.CPUs, run.Machine.CPU,
		run.Machine.Kernel, run.Machine.FileSystem, result.Micros(run.Machine.Fdatasync), run.Machine.Go)
	var failed error
	for _, scenario := range todo.scenarios {
		results, err := scenario.Run(ctx, env)
		for _, r := range results {
			run.Results = append(run.Results, r)
			if err := r.Print(people); err != nil {
				return err
			}
		}
		if ctx.Err() != nil {
			failed = errors.New("interrupted")
			break
		}
		if err != nil {
			name := nameOf(scenario)
			failed = errors.Join(failed, fmt.Errorf("%s: %w", name, err))
			fmt.Fprintf(people, "\n%s: FAILED: %v\n", name, err)
		}
	}
	run.Seconds = time.Since(run.Began).Seconds()
	run.Asked = run.Ask(todo.goals)
	return errors.Join(failed, o.show(run, baseline, people))
}

// nameOf is what the command line calls a scenario.
func nameOf(s bench.Scenario) string { return strings.ToLower(reflect.TypeOf(s).Elem().Name()) }

// writable finds out whether the files can be written, which is better known before an hour of measuring.
func (o *output) writable() error {
	for flag, name := range map[string]string{"--save": o.Save, "--report": o.Report} {
		if name == "" {
			continue
		}
		f, err := os.OpenFile(name, os.O_WRONLY|os.O_CREATE, 0o644)
		if err == nil {
			err = f.Close()
		}
		if err != nil {
			return fmt.Errorf("%s: %w", flag, err)
		}
	}
	return nil
}

// show writes everything that was asked for, and fails if something did not hold.
func (o *output) show(run, baseline *result.Run, people *os.File) error {
	if len(run.Results) > 1 {
		if err := run.PrintAsked(people); err != nil {
			return err
		}
		fmt.Fprintf(people, "\n%d results in %.0f s\n", len(run.Results), run.Seconds)
	}
	var changes []result.Change
	if baseline != nil {
		run.Baseline = o.Baseline
		changes = run.Compare(baseline)
		if err := result.PrintChanges(people, changes); err != nil {
			return err
		}
	}
	if err := o.write(run, changes); err != nil {
		return err
	}
	for _, r := range run.Results {
		if !r.OK() {
			return fmt.Errorf("%s: something did not hold, see above", r.ID)
		}
	}
	return nil
}

// write writes the files that were asked for.
func (o *output) write(run *result.Run, changes []result.Change) error {
	text, err := run.JSON()
	if err != nil {
		return err
	}
	if o.JSON {
		if _, err := os.Stdout.Write(text); err != nil {
			return err
		}
	}
	if o.Save != "" {
		if err := os.WriteFile(o.Save, text, 0o644); err != nil {
			return err
		}
	}
	if o.Report == "" {
		return nil
	}
	var page bytes.Buffer
	if err := report.Write(&page, run, changes); err != nil {
		return err
	}
	return os.WriteFile(o.Report, page.Bytes(), 0o644)
}

// progress draws a bar where standard error is a terminal.
func progress(title string, total int64) (func(int64), func()) {
	if !term.IsTerminal(int(os.Stderr.Fd())) {
		return func(int64) {}, func() {}
	}
	if total == 0 {
		total = -1 // a spinner
	}
	bar := progressbar.NewOptions64(total, progressbar.OptionSetDescription(title), progressbar.OptionSetWriter(os.Stderr),
		progressbar.OptionShowIts(), progressbar.OptionShowCount(), progressbar.OptionClearOnFinish(), progressbar.OptionThrottle(100*time.Millisecond))
	return func(done int64) { _ = bar.Set64(done) }, func() { _ = bar.Finish() }
}

// allCommand runs everything.
type allCommand struct {
	Root string `default:"bin/peers" placeholder:"DIR" help:"Where make bench-peers has unpacked what cannot be installed side by side."`
}

func (a *allCommand) plan() plan { return plan{bench.All(a.Root), bench.Goals()} }
