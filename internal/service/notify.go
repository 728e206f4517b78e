package service

import "github.com/coreos/go-systemd/v22/daemon"

// Ready tells the service manager that the server serves, or serves again after Reloading. Without one
// (NOTIFY_SOCKET is not set) this and the others do nothing.
func Ready() error { return notify(daemon.SdNotifyReady) }

// Reloading tells it that files are being read again; Ready must follow.
func Reloading() error {
	return notify(daemon.SdNotifyReloading + "\n" + daemon.SdNotifyMonotonicUsec())
}

// Stopping tells it that the server is about to end.
func Stopping() error { return notify(daemon.SdNotifyStopping) }

func notify(state string) error {
	_, err := daemon.SdNotify(false, state)
	return err
}
