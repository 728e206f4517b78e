package config

import (
	"errors"
	"fmt"
	"net"
	"strconv"
	"time"

	"odmr/internal/trust"
	"odmr/internal/units"
)

// OffDuration is a duration of a minute at least, or "off", which is 0.
type OffDuration time.Duration

var errOffDuration = errors.New("neither off nor a duration of 1m at least, as 4h")

// UnmarshalText reads the text form.
func (d *OffDuration) UnmarshalText(text []byte) error {
	if string(text) == "off" {
		*d = 0
		return nil
	}
	v, err := units.ParseDuration(string(text))
	if err != nil || v < time.Minute {
		return errOffDuration
	}
	*d = OffDuration(v)
	return nil
}

func (d OffDuration) String() string {
	if d == 0 {
		return "off"
	}
	return units.FormatDuration(time.Duration(d))
}

// checkSmarthost reports what of the smarthost does not go together.
func (l *loader) checkSmarthost() {
	c := l.cfg
	if c.Smarthost == "" {
		for flag, value := range map[string]string{
			"smarthost-user": c.SmarthostUser, "smarthost-password-file": c.SmarthostPasswordFile, "smarthost-ca": c.SmarthostCA,
		} {
			if value != "" {
				l.problem(flag, "is of no use without --smarthost")
			}
		}
		return
	}
	host, port, err := net.SplitHostPort(c.Smarthost)
	if n, bad := strconv.ParseUint(port, 10, 16); err != nil || host == "" || bad != nil || n == 0 {
		l.problem("smarthost", fmt.Sprintf("%q is not host:port with a port from 1 to 65535", c.Smarthost))
	}
	if (c.SmarthostUser == "") != (c.SmarthostPasswordFile == "") {
		l.problem("smarthost-user", "goes with --smarthost-password-file, and the other way round")
	}
	if verified := c.SmarthostTLS == "required" || c.SmarthostTLS == "implicit"; c.SmarthostUser != "" && !verified && !trust.Local(host) {
		l.problem("smarthost-tls", fmt.Sprintf("%s would give the password to whoever answers in the smarthost's place: use required or implicit", c.SmarthostTLS))
	}
}
