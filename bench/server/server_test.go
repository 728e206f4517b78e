package server

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// script is a program in place of odmrd; its arguments are the flags that odmrd would get.
func script(t *testing.T, text string) Options {
	t.Helper()
	dir := t.TempDir()
	file := filepath.Join(dir, "odmrd")
	if err := os.WriteFile(file, []byte("#!/bin/sh\n"+text), 0o700); err != nil {
		t.Fatal(err)
	}
	return Options{Binary: file, Dir: filepath.Join(dir, "run"), Accounts: "accounts", LogLevel: "warn"}
}

const listeningLine = `echo '{"level":"info","odmr":["127.0.0.1:1"],"smtp":["127.0.0.1:2"],"lmtp":[],"admin":["127.0.0.1:3"],"message":"listening"}' >&2` + "\n"

// obedient ends on SIGTERM.
const obedient = "trap 'exit 0' TERM\n" + listeningLine + "while :; do sleep 0.05; done\n"

func TestStartAndStop(t *testing.T) {
	p, err := Start(t.Context(), script(t, obedient))
	if err != nil {
		t.Fatal(err)
	}
	if p.ODMR[0] != "127.0.0.1:1" || p.SMTP[0] != "127.0.0.1:2" || len(p.LMTP) != 0 || p.Admin[0] != "127.0.0.1:3" {
		t.Errorf("addresses %+v", p.Addrs)
	}
	u, err := p.Usage()
	if err != nil || u.RSS <= 0 {
		t.Errorf("usage %+v, %v", u, err)
	}
	if p.Files() < 3 {
		t.Errorf("%d descriptors", p.Files())
	}
	pid := p.Pid
	if err := p.Restart(t.Context()); err != nil {
		t.Fatal(err)
	}
	if p.Pid == pid {
		t.Error("the process is the same after Restart")
	}
	if err := p.Stop(); err != nil {
		t.Error(err)
	}
	if err := syscall.Kill(p.Pid, 0); err == nil {
		t.Error("the process is there after Stop")
	}
}

// A server that ends instead of listening is an error that shows what it said; a cancelled start leaves nothing.
func TestFailedStarts(t *testing.T) {
	if _, err := Start(t.Context(), script(t, "echo the disk is on fire >&2; exit 3\n")); err == nil || !strings.Contains(err.Error(), "on fire") {
		t.Errorf("%v", err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	if _, err := Start(ctx, script(t, "trap 'exit 0' TERM\nwhile :; do sleep 0.05; done\n")); err == nil {
		t.Error("a server that never listens was started")
	}
	if _, err := Start(t.Context(), Options{Binary: filepath.Join(t.TempDir(), "none"), Dir: t.TempDir()}); err == nil {
		t.Error("a missing program was started")
	}
}

// Errors in the log, plain text from a crash included, are alarms; warnings are not.
func TestAlarms(t *testing.T) {
	p, err := Start(t.Context(), script(t, `echo '{"level":"warn","message":"slow"}' >&2; echo '{"level":"error","message":"first"}' >&2; echo 'panic: second' >&2`+"\n"+obedient))
	if err != nil {
		t.Fatal(err)
	}
	defer p.Stop()
	if n, first := p.Alarms(); n != 2 || !strings.Contains(first, "first") {
		t.Errorf("%d alarms, %q", n, first)
	}
}

// A stop that is not in order is told.
func TestStopTellsTheStatus(t *testing.T) {
	p, err := Start(t.Context(), script(t, "trap 'exit 7' TERM\n"+listeningLine+"while :; do sleep 0.05; done\n"))
	if err != nil {
		t.Fatal(err)
	}
	if err := p.Stop(); err == nil || !strings.Contains(err.Error(), "7") {
		t.Errorf("%v", err)
	}
}

// Processor time, memory and disk traffic are this process's own, and grow as they must.
func TestOwnUsage(t *testing.T) {
	before, err := Own()
	if err != nil || before.RSS < 1<<20 {
		t.Fatalf("%+v, %v", before, err)
	}
	for deadline := time.Now().Add(time.Minute); ; {
		after, err := Own()
		if err != nil {
			t.Fatal(err)
		}
		if after.CPU > before.CPU {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("a busy loop used no processor time")
		}
	}
}

func TestDiskUse(t *testing.T) {
	p := &Process{Pid: 1, dir: t.TempDir()}
	data := p.DataDir()
	if err := os.MkdirAll(filepath.Join(data, "queue"), 0o700); err != nil {
		t.Fatal(err)
	}
	for name, size := range map[string]int{"queue/1.sst": 1 << 20, "queue/2.log": 2 << 20} {
		if err := os.WriteFile(filepath.Join(data, name), make([]byte, size), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	sum, logs, err := p.DiskUse()
	if err != nil || logs < 2<<20 || logs > 2<<20+1<<16 || sum-logs < 1<<20 || sum-logs > 1<<20+1<<16 {
		t.Errorf("%d in all, %d in logs, %v", sum, logs, err)
	}
}

func TestAttachedServerHasNoProcess(t *testing.T) {
	p := Attach(Addrs{SMTP: []string{"h:1"}})
	if u, err := p.Usage(); err != nil || u != (Usage{}) || p.DataDir() != "" || p.Stop() != nil || p.Restart(t.Context()) != nil {
		t.Errorf("%+v, %v", u, err)
	}
	if err := p.Collect(); err == nil {
		t.Error("a server without pages for operators collected its garbage")
	}
}
