package config

import (
	"fmt"
	"slices"
	"strings"

	"odmr/internal/account"
)

// check finds what no single value shows.
func (l *loader) check() {
	l.checkServer()
	l.checkAccounts()
	l.checkListeners()
	l.checkMechanisms()
	l.checkTLS()
	if l.cfg.ShieldRefusals >= l.cfg.ShieldWindow && !l.refused("shield-refusals", "shield-window") {
		l.problem("shield-refusals", fmt.Sprintf("%d is not less than --shield-window, %d: it would never be exceeded", l.cfg.ShieldRefusals, l.cfg.ShieldWindow))
	}
	l.checkSmarthost()
	l.checkDelimiters()
}

// refused says whether one of flags has a problem already: what it leads to is none of its own.
func (l *loader) refused(flags ...string) bool {
	return slices.ContainsFunc(l.problems, func(p Problem) bool { return slices.Contains(flags, p.Flag) })
}

// checkDelimiters refuses what is part of ordinary names: with a letter as delimiter a list of recipients would take many that are not
// on it.
func (l *loader) checkDelimiters() {
	for _, c := range l.cfg.RecipientDelimiters {
		if !strings.ContainsRune("!#$%&'*+-/=?^_`{|}~", c) { // RFC 5321 4.1.2: atext, without letters and digits
			l.problem("recipient-delimiters", fmt.Sprintf("%q has %q in it, which is no delimiter: give characters as + or -", l.cfg.RecipientDelimiters, c))
			return
		}
	}
}

func (l *loader) checkServer() {
	if l.cfg.Hostname != "" && !isHostname(l.cfg.Hostname) {
		l.problem("hostname", fmt.Sprintf("%q is not a host name (RFC 5321 2.3.5)", l.cfg.Hostname))
	}
	if l.cfg.Data == "" {
		l.problem("data", "is empty")
	}
}

// checkListeners reports addresses given twice, and a server that would listen nowhere.
func (l *loader) checkListeners() {
	_, handed := l.Getenv("LISTEN_FDS") // sockets are handed over, and their kinds show later
	if !handed && len(l.cfg.ODMRListen)+len(l.cfg.ODMRSListen)+len(l.cfg.SMTPListen)+len(l.cfg.LMTPListen) == 0 {
		l.problem("odmr-listen", "nothing to serve: --odmr-listen, --odmrs-listen, --smtp-listen and --lmtp-listen are all empty")
	}
	taken := map[Listen]string{}
	for _, f := range []struct {
		flag  string
		addrs []Listen
	}{
		{"odmr-listen", l.cfg.ODMRListen},
		{"odmrs-listen", l.cfg.ODMRSListen},
		{"smtp-listen", l.cfg.SMTPListen},
		{"lmtp-listen", l.cfg.LMTPListen},
		{"admin-listen", l.cfg.AdminListen},
	} {
		for _, addr := range f.addrs {
			if other, ok := taken[addr]; ok && !addr.Any() {
				l.problem(f.flag, fmt.Sprintf("%q is taken by --%s already", addr, other))
			}
			taken[addr] = f.flag
		}
	}
}

func (l *loader) checkMechanisms() {
	seen := map[string]bool{}
	known := account.Implemented()
	for _, m := range l.cfg.SASLMechanisms {
		if !slices.Contains(known, m) {
			l.problem("sasl-mechanisms", fmt.Sprintf("%q is none of %s", m, strings.Join(known, ", ")))
		}
		if seen[m] {
			l.problem("sasl-mechanisms", fmt.Sprintf("%q is named twice", m))
		}
		seen[m] = true
	}
	if len(l.cfg.SASLMechanisms) == 0 && len(l.cfg.ODMRListen)+len(l.cfg.ODMRSListen) > 0 {
		l.problem("sasl-mechanisms", "is empty: no customer could log in")
	}
}
