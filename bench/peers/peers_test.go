package peers

import (
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"odmr/internal/freeport"
)

// Each peer that is installed takes mail from smtp-source, holds all of it, and hands all of it on when it is
// released, to smtp-sink.
func TestInteropPeers(t *testing.T) {
	if err := Tools(); err != nil {
		t.Skip(err)
	}
	for _, peer := range All("../../bin/peers") {
		t.Run(peer.Name(), func(t *testing.T) {
			version, err := peer.Version()
			if err != nil {
				t.Skip(err)
			}
			if version == "" || strings.ContainsAny(version, " \n") {
				t.Errorf("version %q", version)
			}
			sink, err := StartSink(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			defer sink.Stop()
			port, err := freeport.Loopback()
			if err != nil {
				t.Fatal(err)
			}
			running, err := peer.Start(t.Context(), visible(t), port, sink.Port)
			if err != nil {
				t.Fatal(err)
			}
			defer func() {
				if err := running.Stop(); err != nil {
					t.Error(err)
				}
			}()
			const messages = 30
			took, err := Source(t.Context(), fmt.Sprintf("127.0.0.1:%d", port), Load{Messages: messages, Size: 2000, Sessions: 3, To: "box@c.example"})
			if err != nil || took <= 0 {
				t.Fatal(took, err)
			}
			if n := sink.Count(); n != 0 {
				t.Errorf("%d messages went out before they were released", n)
			}
			released := make(chan error, 1)
			go func() { released <- running.Release(t.Context()) }()
			rate, err := sink.Await(t.Context(), messages, 5*time.Minute, 5*time.Minute)
			if err != nil || rate <= 0 {
				t.Errorf("rate %v, %v", rate, err)
			}
			if err := <-released; err != nil {
				t.Error(err)
			}
		})
	}
}

// A peer that is not there says so and is not measured.
func TestMissingPeersSaySo(t *testing.T) {
	for _, peer := range []Peer{exim{t.TempDir()}, openSMTPD{t.TempDir()}, openSMTPD{""}} {
		if _, isExim := peer.(exim); isExim {
			if _, err := unpacked("", "exim4"); err == nil {
				continue // installed here
			}
		}
		if version, err := peer.Version(); err == nil {
			t.Errorf("%s: version %q of nothing", peer.Name(), version)
		}
	}
}

// visible is a directory that peers' own users can come through to, which t.TempDir's parents are not.
func visible(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "peer.")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}
