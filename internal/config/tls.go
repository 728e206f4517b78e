package config

import (
	"errors"
	"fmt"
	"slices"
	"strings"
)

// TLSRule says what one role refuses in clear text.
type TLSRule struct {
	Role string // odmr, smtp, lmtp
	When string // none, auth, all
}

var errTLSRule = errors.New("not a rule: write odmr, smtp or lmtp, and then =none, =auth or =all, or nothing for =all")

// UnmarshalText reads ROLE=WHEN, or ROLE alone, which means all.
func (r *TLSRule) UnmarshalText(text []byte) error {
	role, when, given := strings.Cut(string(text), "=")
	if !given {
		when = "all"
	}
	if !slices.Contains([]string{"odmr", "smtp", "lmtp"}, role) || !slices.Contains([]string{"none", "auth", "all"}, when) {
		return errTLSRule
	}
	if when == "auth" && role != "odmr" {
		return fmt.Errorf("without meaning: there is no login over %s; use %s=all", role, role)
	}
	*r = TLSRule{role, when}
	return nil
}

func (r TLSRule) String() string { return r.Role + "=" + r.When }

// checkTLS reports what does not go together.
func (l *loader) checkTLS() {
	c := l.cfg
	if len(c.TLSCert) != len(c.TLSKey) {
		l.problem("tls-key", fmt.Sprintf("%d keys for %d certificates: each --tls-cert needs its --tls-key, in the same order",
			len(c.TLSKey), len(c.TLSCert)))
	}
	for flag, files := range map[string][]string{"tls-cert": c.TLSCert, "tls-key": c.TLSKey} {
		if slices.Contains(files, "") {
			l.problem(flag, "has an empty file name")
		}
	}
	seen := map[string]bool{}
	for _, r := range c.TLSRequired {
		if seen[r.Role] {
			l.problem("tls-required", fmt.Sprintf("%s is named twice", r.Role))
		}
		seen[r.Role] = true
	}
	if len(c.TLSCert) > 0 {
		return
	}
	if len(c.ODMRSListen) > 0 {
		l.problem("odmrs-listen", "needs a certificate: --tls-cert and --tls-key")
	}
	for _, r := range c.TLSRequired {
		if r.When != "none" {
			l.problem("tls-required", fmt.Sprintf("%q needs a certificate: --tls-cert and --tls-key", r))
		}
	}
	if c.TLSClientCA != "" {
		l.problem("tls-client-ca", "needs a certificate: --tls-cert and --tls-key")
	}
}
