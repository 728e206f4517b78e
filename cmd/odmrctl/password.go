package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"

	"golang.org/x/term"

	"odmr/internal/account"
)

// passwordFlags say where a password comes from; without any it is asked for.
type passwordFlags struct {
	PasswordStdin bool `xor:"password" help:"Read the password from the first line of standard input."`
	Generate      bool `xor:"password" help:"Make a random password and write it to standard output, once."`
}

// password gets the password for the account of that name, already checked.
func (f *passwordFlags) password(name string, s *surroundings) (string, error) {
	switch {
	case f.Generate:
		return account.Generate(), nil
	case f.PasswordStdin:
		p, err := firstLine(s.stdin)
		if err != nil {
			return "", err
		}
		return p, account.CheckPassword(p)
	}
	return prompt(name, s)
}

// tell shows a password that the user cannot know otherwise. It is called before anything is changed: a password that
// nobody has seen must not take the place of one that works.
func (f *passwordFlags) tell(password string, s *surroundings) error {
	if !f.Generate {
		return nil
	}
	if _, err := fmt.Fprintln(s.stdout, password); err != nil {
		return fmt.Errorf("the new password cannot be shown, nothing was changed: %w", err)
	}
	return nil
}

// firstLine returns the first line of r without its end.
func firstLine(r io.Reader) (string, error) {
	const most = account.MaxPassword + len("\r\n") + 1 // octets: enough to tell that it is too long
	b, err := io.ReadAll(io.LimitReader(r, int64(most)))
	if err != nil {
		return "", fmt.Errorf("standard input: %w", err)
	}
	line, _, _ := strings.Cut(string(b), "\n")
	line = strings.TrimSuffix(line, "\r")
	if line == "" {
		return "", errors.New("standard input: no password in the first line")
	}
	return line, nil
}

// prompt asks on the terminal, twice, without echo.
func prompt(name string, s *surroundings) (string, error) {
	fd := int(s.stdin.Fd())
	if !term.IsTerminal(fd) {
		return "", usageError("no terminal to ask for the password on: use --password-stdin or --generate")
	}
	state, err := term.GetState(fd)
	if err != nil {
		return "", fmt.Errorf("terminal: %w", err)
	}
	// Ctrl-C must not leave a terminal behind that does not show what is typed.
	interrupts := make(chan os.Signal, 1)
	signal.Notify(interrupts, os.Interrupt)
	defer signal.Stop(interrupts)
	done := make(chan struct{})
	defer close(done)
	go func() {
		select {
		case <-interrupts:
			_ = term.Restore(fd, state)
			fmt.Fprintln(s.stderr)
			os.Exit(exitFailed)
		case <-done:
		}
	}()
	ask := func(what string) (string, error) {
		fmt.Fprint(s.stderr, what)
		b, err := term.ReadPassword(fd)
		fmt.Fprintln(s.stderr)
		if err != nil {
			return "", fmt.Errorf("no password was given: %w", err)
		}
		return string(b), nil
	}
	first, err := ask(fmt.Sprintf("Password for %s: ", name))
	if err != nil {
		return "", err
	}
	if err := account.CheckPassword(first); err != nil {
		return "", err
	}
	second, err := ask("Once more: ")
	if err != nil {
		return "", err
	}
	if first != second {
		return "", errors.New("the passwords differ; nothing was changed")
	}
	return first, nil
}
