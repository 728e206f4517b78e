package account

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"time"

	"odmr/internal/units"
)

// Off is a duration of a Policy that switches the thing off, whatever the server's flag says.
const Off time.Duration = -1

// Unlimited is a quota of a Policy that bounds nothing, whatever the server's flag says.
const Unlimited = -1

// Switch is a setting that is on, off, or as the server's flag says.
type Switch uint8

const (
	AsServer Switch = iota
	On
	SwitchedOff
)

// Or is the setting, given the server's.
func (s Switch) Or(server Switch) Switch {
	if s == AsServer {
		return server
	}
	return s
}

// Policy is what holds for one account otherwise than the server's flags say. A zero field leaves it to the flag.
type Policy struct {
	Retention      time.Duration // how long mail waits before it goes back to its sender
	DelayNotice    time.Duration // after which its sender is told that it still waits; Off
	Bounce         Switch        // whether senders are told of mail that failed
	MaxMessageSize int64         // octets of content
	QuotaMessages  int64         // messages held, all domains together; Unlimited
	QuotaBytes     int64         // octets held, all domains together; Unlimited
	Hold           Switch        // collecting is paused and mail kept (vacation)
	SmallFirst     Switch        // small messages go first, never across one sender's order
	Shield         Switch        // off: what its server refuses fails at once, however much
	Linger         time.Duration // how long a session stays open once all is collected; Off
	ATRNInterval   time.Duration // least time between two ATRN; Off
}

// Bounds of what a Policy may say.
const (
	minRetention = time.Minute // as --retention
	maxRetention = 365 * 24 * time.Hour
	maxInterval  = 24 * time.Hour
	minSize      = 64 << 10 // octets; less than the headers of mail that exists would be no setting but an outage
	maxSize      = 2 << 30
	maxQuota     = 1 << 50
)

// setting is one row of the settings' table: its name, and how its text form is read and written. get returns "" for
// what is left to the server.
type setting struct {
	name string
	set  func(p *Policy, value string) error
	get  func(p *Policy) string
}

// settings are all settings of a Policy in the order in which they are written.
var settings = []setting{
	durationSetting("retention", minRetention, maxRetention, false, func(p *Policy) *time.Duration { return &p.Retention }),
	durationSetting("delay-notice", time.Minute, maxRetention, true, func(p *Policy) *time.Duration { return &p.DelayNotice }),
	switchSetting("bounce", func(p *Policy) *Switch { return &p.Bounce }),
	sizeSetting("max-message-size", minSize, maxSize, false, func(p *Policy) *int64 { return &p.MaxMessageSize }),
	countSetting("quota-messages", func(p *Policy) *int64 { return &p.QuotaMessages }),
	sizeSetting("quota-bytes", minSize, maxQuota, true, func(p *Policy) *int64 { return &p.QuotaBytes }),
	switchSetting("hold", func(p *Policy) *Switch { return &p.Hold }),
	switchSetting("small-first", func(p *Policy) *Switch { return &p.SmallFirst }),
	switchSetting("shield", func(p *Policy) *Switch { return &p.Shield }),
	durationSetting("linger", time.Second, maxInterval, true, func(p *Policy) *time.Duration { return &p.Linger }),
	durationSetting("atrn-interval", time.Second, maxInterval, true, func(p *Policy) *time.Duration { return &p.ATRNInterval }),
}

// The words that stand for no number.
const (
	wordDefault   = "default"
	wordOff       = "off"
	wordOn        = "on"
	wordUnlimited = "unlimited"
)

// ErrSetting says that there is no setting of that name.
var ErrSetting = errors.New("account: no such setting")

// SettingNames are the names of all settings, as Set takes them.
func SettingNames() []string {
	names := make([]string, len(settings))
	for i := range settings {
		names[i] = settings[i].name
	}
	return names
}

// Set gives the setting of that name a value in text form; "default" leaves it to the server's flag. The error is
// ErrSetting where there is no such setting, else it says what the value should look like. p is unchanged then.
func (p *Policy) Set(name, value string) error {
	i := slices.IndexFunc(settings, func(s setting) bool { return s.name == name })
	if i < 0 {
		return fmt.Errorf("%w: %q", ErrSetting, clip(name))
	}
	if err := settings[i].set(p, value); err != nil {
		return fmt.Errorf("%s: %q is %w", name, clip(value), err)
	}
	return nil
}

// Settings are the name and the value of each setting that is not left to the server, in a fixed order.
func (p *Policy) Settings() [][2]string {
	var out [][2]string
	for i := range settings {
		if v := settings[i].get(p); v != "" {
			out = append(out, [2]string{settings[i].name, v})
		}
	}
	return out
}

// has reports whether the setting of that name is not left to the server.
func (p *Policy) has(name string) bool {
	return slices.ContainsFunc(settings, func(s setting) bool { return s.name == name && s.get(p) != "" })
}

func switchSetting(name string, field func(*Policy) *Switch) setting {
	return setting{name: name,
		set: func(p *Policy, value string) error {
			switch value {
			case wordDefault:
				*field(p) = AsServer
			case wordOn:
				*field(p) = On
			case wordOff:
				*field(p) = SwitchedOff
			default:
				return errors.New("none of on, off, default")
			}
			return nil
		},
		get: func(p *Policy) string { return [...]string{"", wordOn, wordOff}[*field(p)] },
	}
}

// durationSetting is a duration within min..max, which may be switched off if off.
func durationSetting(name string, min, max time.Duration, off bool, field func(*Policy) *time.Duration) setting {
	return setting{name: name,
		set: func(p *Policy, value string) error {
			if value == wordDefault {
				*field(p) = 0
				return nil
			}
			if value == wordOff && off {
				*field(p) = Off
				return nil
			}
			d, err := units.ParseDuration(value)
			if err != nil {
				return err
			}
			if d < min || d > max {
				return fmt.Errorf("out of range: %s to %s", units.FormatDuration(min), units.FormatDuration(max))
			}
			*field(p) = d
			return nil
		},
		get: func(p *Policy) string {
			switch d := *field(p); d {
			case 0:
				return ""
			case Off:
				return wordOff
			default:
				return units.FormatDuration(d)
			}
		},
	}
}

// sizeSetting is a number of octets within min..max, which may be unlimited if so.
func sizeSetting(name string, min, max int64, unlimited bool, field func(*Policy) *int64) setting {
	return setting{name: name,
		set: func(p *Policy, value string) error {
			if setWord(field(p), value, unlimited) {
				return nil
			}
			var s units.Size
			if err := s.UnmarshalText([]byte(value)); err != nil {
				return err
			}
			if int64(s) < min || int64(s) > max {
				return fmt.Errorf("out of range: %s to %s", units.Size(min), units.Size(max))
			}
			*field(p) = int64(s)
			return nil
		},
		get: func(p *Policy) string {
			return quotaText(*field(p), func(n int64) string { return units.Size(n).String() })
		},
	}
}

// countSetting is a number of messages, or unlimited.
func countSetting(name string, field func(*Policy) *int64) setting {
	return setting{name: name,
		set: func(p *Policy, value string) error {
			if setWord(field(p), value, true) {
				return nil
			}
			n, err := strconv.ParseInt(value, 10, 64)
			if err != nil || n < 1 || n > maxQuota {
				return fmt.Errorf("not a number from 1 to %d", int64(maxQuota))
			}
			*field(p) = n
			return nil
		},
		get: func(p *Policy) string {
			return quotaText(*field(p), func(n int64) string { return strconv.FormatInt(n, 10) })
		},
	}
}

// setWord takes the words that stand for no number.
func setWord(n *int64, value string, unlimited bool) bool {
	switch {
	case value == wordDefault:
		*n = 0
	case value == wordUnlimited && unlimited:
		*n = Unlimited
	default:
		return false
	}
	return true
}

func quotaText(n int64, text func(int64) string) string {
	switch n {
	case 0:
		return ""
	case Unlimited:
		return wordUnlimited
	}
	return text(n)
}
