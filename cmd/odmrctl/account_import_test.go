package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"odmr/internal/account"
)

// Many accounts are added at once, all or none; what is wrong is named with its line, and no password is in what is said or kept.
func TestAccountImport(t *testing.T) {
	dir := t.TempDir()
	accounts, list := filepath.Join(dir, "accounts"), filepath.Join(dir, "new")
	run := func(text string, want int) (string, string) {
		t.Helper()
		if err := os.WriteFile(list, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		code, out, errs := command(t, dir, "--accounts", accounts, "account", "import", list)
		if code != want {
			t.Fatalf("status %d, want %d: %s%s", code, want, out, errs)
		}
		if strings.Contains(out+errs, "sesame") {
			t.Errorf("a password was said: %s%s", out, errs)
		}
		return out, errs
	}
	one := "# new ones\naccount tim\n domain Example.org example.com\n password open sesame 1\n retention 3d\n"
	out, _ := run(one+"account eva\n domain example.net\n network 192.0.2.1/32\n", exitOK)
	if out != "2 accounts added\n" {
		t.Errorf("%q", out)
	}
	text, err := os.ReadFile(accounts)
	if err != nil || strings.Contains(string(text), "sesame") {
		t.Fatal(err, string(text))
	}
	f, err := account.OpenFile(accounts)
	if err != nil {
		t.Fatal(err)
	}
	if a, err := f.Lookup("tim"); err != nil || a.CRAMMD5 == nil || a.SCRAMSHA256 == nil || len(a.Domains) != 2 || a.Policy.Retention == 0 {
		t.Errorf("%+v, %v", a, err)
	}
	kept := string(text)
	for text, want := range map[string]string{
		"":                               "there is no account in it",
		"account x\n domain x.example\n": "new:1: account \"x\" has no password, and nothing else to log in by",
		"\naccount x\n domain x.example\n password sesame sesame\naccount y\n domain EXAMPLE.com\n password sesame sesame\n": "new:5: domain example.com belongs to account \"tim\" already",
		"account tim\n domain x.example\n password sesame sesame\n":                                                          "new:1: account \"tim\" exists already",
		"account x\n domain x.example\n password sesame sesame\n password sesame sesame\n":                                   "new:4: password is there twice",
		"account x\n domain x.example\n password\n":                                                                          "new:3: password needs a value",
		"account x\n domain x.example\n password sesame sesame\n colour red\n":                                               "new:4: unknown field \"colour\"",
		"password sesame sesame\n": "new:1: password stands before the first account line",
	} {
		if _, errs := run(text, exitFailed); !strings.Contains(errs, want) {
			t.Errorf("%q: %s, want %s", text, errs, want)
		}
		if now, err := os.ReadFile(accounts); err != nil || string(now) != kept {
			t.Errorf("%q: something was added", text)
		}
	}
	if _, err := account.Parse("accounts", []byte("account x\n domain x.example\n password sesame\n")); err == nil {
		t.Error("an accounts file may have a password")
	}
}
