package client

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"odmr/internal/mail"
)

func files(t *testing.T, dir string) []string {
	t.Helper()
	names, err := filepath.Glob(filepath.Join(dir, "*"))
	if err != nil {
		t.Fatal(err)
	}
	return names
}

func TestMaildir(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "Mail", "dir")
	var told []string
	m, err := OpenMaildir(dir, func(path string, _ *mail.Envelope) { told = append(told, path) })
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	env := envelope("a@x.example", "b@example.org", "evil\r\nX: y@example.org")
	for range 2 {
		s, err := m.Begin(&env)
		if err != nil {
			t.Fatal(err)
		}
		for _, piece := range []string{"Subject: x\r", "\n\r\nbo\rdy\r", "\r\n", "end\r"} {
			if _, err := s.Write([]byte(piece)); err != nil {
				t.Fatal(err)
			}
		}
		if n := len(files(t, dir+"/new")); n != len(told) {
			t.Errorf("%d files in new before Commit", n)
		}
		if err := s.Commit(); err != nil {
			t.Fatal(err)
		}
	}
	if len(told) != 2 || len(files(t, dir+"/new")) != 2 || len(files(t, dir+"/tmp")) != 0 {
		t.Fatalf("told %q, new %q, tmp %q", told, files(t, dir+"/new"), files(t, dir+"/tmp"))
	}
	got, err := os.ReadFile(told[0])
	if err != nil {
		t.Fatal(err)
	}
	want := "Return-Path: <a@x.example>\nDelivered-To: b@example.org\nDelivered-To: evil??X: y@example.org\n" +
		"X-Envelope-To: b@example.org,\n\tevil??X: y@example.org\nSubject: x\n\nbo\rdy\r\nend\r"
	if string(got) != want {
		t.Errorf("got  %q\nwant %q", got, want)
	}
	if info, _ := os.Stat(told[0]); info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v", info.Mode())
	}
}

func TestMaildirAbort(t *testing.T) {
	dir := t.TempDir()
	m, err := OpenMaildir(dir, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	s, err := m.Begin(&mail.Envelope{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.Write([]byte(strings.Repeat("x", 100000))); err != nil {
		t.Fatal(err)
	}
	s.Abort()
	if n := len(files(t, dir+"/tmp")) + len(files(t, dir+"/new")); n != 0 {
		t.Errorf("%d files left", n)
	}
}

// TestMaildirFull checks that a disk that fills up makes 452 and leaves nothing: /dev/full
// stands in for the file.
func TestMaildirFull(t *testing.T) {
	full, err := os.OpenFile("/dev/full", os.O_WRONLY, 0)
	if err != nil {
		t.Skip("no /dev/full: ", err)
	}
	dir := t.TempDir()
	m, err := OpenMaildir(dir, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	s, err := m.Begin(&mail.Envelope{})
	if err != nil {
		t.Fatal(err)
	}
	d := s.(*delivery)
	_ = d.f.Close()
	d.f = full
	d.w.Reset(full)
	var r *mail.Refusal
	_, err = s.Write([]byte(strings.Repeat("x", 100000)))
	if !errors.As(err, &r) || r.Code != 452 || !errors.Is(err, syscall.ENOSPC) {
		t.Errorf("full disk: %v", err)
	}
	s.Abort()
	if n := len(files(t, dir+"/tmp")); n != 0 {
		t.Errorf("%d files left in tmp", n)
	}
}
