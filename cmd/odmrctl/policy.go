package main

import (
	"odmr/internal/account"
)

// policyFlags are the settings of an account. Their names are those of account.SettingNames.
type policyFlags struct {
	Retention      *string `placeholder:"DURATION" group:"policy" help:"How long mail waits before it goes back to its sender: 5d."`
	DelayNotice    *string `placeholder:"DURATION" group:"policy" help:"After how long senders are told that their mail still waits: 4h, or off."`
	Bounce         *string `placeholder:"ON" group:"policy" help:"Whether senders are told of mail that failed: on or off."`
	MaxMessageSize *string `placeholder:"SIZE" group:"policy" help:"Largest message taken for this account."`
	QuotaMessages  *string `placeholder:"N" group:"policy" help:"Messages held for this account, or unlimited."`
	QuotaBytes     *string `placeholder:"SIZE" group:"policy" help:"Octets held for this account, or unlimited."`
	Hold           *string `placeholder:"ON" group:"policy" help:"Vacation: on pauses collecting, and mail is kept."`
	SmallFirst     *string `placeholder:"ON" group:"policy" help:"Small messages first: on or off. The order of each sender's mail stays."`
	Shield         *string `placeholder:"ON" group:"policy" help:"The bounce shield: off for a customer whose server rightly refuses nearly everything."`
	Linger         *string `placeholder:"DURATION" group:"policy" help:"How long a session stays open once all is collected: 10m, or off."`
	ATRNInterval   *string `name:"atrn-interval" placeholder:"DURATION" group:"policy" help:"Least time between two collections: 5m, or off."`
}

// values are the values given, by the settings' names.
func (f *policyFlags) values() map[string]*string {
	return map[string]*string{
		"retention": f.Retention, "delay-notice": f.DelayNotice, "bounce": f.Bounce, "max-message-size": f.MaxMessageSize,
		"quota-messages": f.QuotaMessages, "quota-bytes": f.QuotaBytes, "hold": f.Hold, "small-first": f.SmallFirst,
		"shield": f.Shield, "linger": f.Linger, "atrn-interval": f.ATRNInterval,
	}
}

// any reports whether one was given.
func (f *policyFlags) any() bool {
	for _, v := range f.values() {
		if v != nil {
			return true
		}
	}
	return false
}

// apply gives p what the flags say.
func (f *policyFlags) apply(p *account.Policy) error {
	values := f.values()
	for _, name := range account.SettingNames() { // in order: of several mistakes always the same is reported
		if v := values[name]; v != nil {
			if err := p.Set(name, *v); err != nil {
				return usageError("--" + err.Error())
			}
		}
	}
	return nil
}
