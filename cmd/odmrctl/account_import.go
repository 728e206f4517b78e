package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"runtime"
	"sync"
	"syscall"

	"odmr/internal/account"
)

// accountImport is odmrctl account import.
type accountImport struct {
	File string `arg:"" placeholder:"FILE" help:"Accounts to be added, in the form of the accounts file, each with its password in a line of its own; - is standard input."`
}

func (accountImport) Help() string {
	return `Adds many accounts at once, all of them or none. FILE has for each account

  account tim
    domain example.org example.com
    password open sesame

and perhaps the settings that an account in the accounts file may have (retention 5d, recipient ADDRESS, own-hostname, network,
cert-dns and so on). The password is the rest of its line. In its place may stand the lines of stored secrets (account secrets),
or nothing where the account has a network or a certificate. All is checked before anything is changed, also against the accounts
that there are, and what is wrong is named with its line. Remove FILE afterwards: it has passwords in plain text.

Examples:
  odmrctl --accounts FILE account import new-customers
  awk -F, '{print "account " $1 "\n domain " $2 "\n password " $3}' customers.csv | odmrctl --accounts FILE account import -`
}

// maxAccounts bounds FILE, in octets: as the accounts file.
const maxAccounts = 1 << 30

func (a *accountImport) Run(c *cli, s *surroundings) error {
	path, err := c.accountsFile()
	if err != nil {
		return err
	}
	name, text, err := a.read(s)
	if err != nil {
		return err
	}
	drafts, err := account.ParseDrafts(name, text)
	if err != nil {
		return fmt.Errorf("nothing was added:\n%w", err)
	}
	if len(drafts) == 0 {
		return fmt.Errorf("%s: there is no account in it", name)
	}
	doc, err := c.loadOrBegin()
	if err != nil {
		return err
	}
	if err := doc.AddAll(name, drafts); err != nil {
		return fmt.Errorf("nothing was added:\n%w", err)
	}
	if err := derive(drafts, s); err != nil {
		return err
	}
	if err := account.Edit(path, func(d *account.Document) error { return d.AddAll(name, drafts) }); err != nil {
		return fmt.Errorf("nothing was added:\n%w", err)
	}
	_, err = fmt.Fprintf(s.stdout, "%s added\n", plural(int64(len(drafts)), "account"))
	return err
}

// read reads FILE, and returns what to call it.
func (a *accountImport) read(s *surroundings) (name string, text []byte, err error) {
	in, name := io.Reader(s.stdin), "standard input"
	if a.File != "-" {
		f, err := os.Open(a.File)
		if err != nil {
			return "", nil, err
		}
		defer f.Close()
		in, name = f, a.File
	}
	text, err = io.ReadAll(io.LimitReader(in, maxAccounts+1))
	if err == nil && len(text) > maxAccounts {
		err = fmt.Errorf("it is larger than %d MiB", maxAccounts>>20)
	}
	if err != nil {
		err = fmt.Errorf("%s: %w", name, err)
	}
	return name, text, err
}

// derive makes the secrets of all, which takes some milliseconds each, on all processors.
func derive(drafts []account.Draft, s *surroundings) error {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	bar := newProgress(s, "deriving keys", int64(len(drafts)))
	defer bar.done()
	var mu sync.Mutex // guards bar, next and failed
	var failed error
	next := 0
	var work sync.WaitGroup
	for range runtime.GOMAXPROCS(0) {
		work.Go(func() {
			for {
				mu.Lock()
				if next == len(drafts) || failed != nil || ctx.Err() != nil {
					mu.Unlock()
					return
				}
				d := &drafts[next]
				next++
				bar.add(1)
				mu.Unlock()
				if err := d.Derive(); err != nil {
					mu.Lock()
					failed = err
					mu.Unlock()
				}
			}
		})
	}
	work.Wait()
	if failed == nil && ctx.Err() != nil {
		failed = errors.New("interrupted, nothing was added")
	}
	return failed
}
