package e2e

import (
	"bytes"
	"os/exec"
	"strings"
	"testing"

	"odmr/internal/client"
)

// TestAdmin looks at every page of the admin server.
func TestAdmin(t *testing.T) {
	a := customer("tim", "example.org")
	s := startServer(t, []client.Account{a})
	for _, path := range []string{"/healthz", "/readyz", "/debug/pprof/", "/debug/pprof/goroutine?debug=1"} {
		if status, body := s.get(path); status != 200 {
			t.Errorf("%s: %d %.200s", path, status, body)
		}
	}
	if status, _ := s.get("/nowhere"); status != 404 {
		t.Errorf("/nowhere: %d", status)
	}
	handIn(t, s.SMTP, client.SenderOptions{}, message("one", kindText, 5000, "a@example.org"), message("two", kindText, 5000, "a@example.org"))
	if n := s.metric("odmr_queue_messages"); n != 2 {
		t.Errorf("%v messages queued", n)
	}
	if n := s.metric("odmr_queue_bytes"); n < 10_000 || n > 12_000 {
		t.Errorf("%v octets queued", n)
	}
	if stats := collect(t, s, a, &client.Recorder{}); stats.Messages != 2 {
		t.Errorf("%+v", stats)
	}
	until(t, "the session to end", func() bool { return s.metric("odmr_sessions") == 0 })
	_ = login(t, s, "tim", "wrong")
	for _, c := range []struct {
		name  string
		label []string
		want  float64
	}{
		{"odmr_queue_messages", nil, 0},
		{"odmr_queue_bytes", nil, 0},
		{"odmr_messages_in_total", []string{`"accepted"`}, 2},
		{"odmr_messages_out_total", []string{`"delivered"`}, 2},
		{"odmr_atrn_total", []string{`"250"`}, 1},
		{"odmr_auth_total", []string{`"235"`}, 1},
		{"odmr_auth_total", []string{`"535"`}, 1},
		{"odmr_commit_duration_seconds_count", nil, 2},
	} {
		if got := s.metric(c.name, c.label...); got != c.want {
			t.Errorf("%s%q is %v, want %v", c.name, c.label, got, c.want)
		}
	}
}

// TestInteropPromtool lets Prometheus' own tool judge the metrics page.
func TestInteropPromtool(t *testing.T) {
	promtool := needProgram(t, "promtool")
	a := customer("tim", "example.org")
	s := startServer(t, []client.Account{a})
	handIn(t, s.SMTP, client.SenderOptions{}, message("one", kindText, 5000, "a@example.org"))
	collect(t, s, a, &client.Recorder{})
	_, page := s.get("/metrics")
	cmd := exec.Command(promtool, "check", "metrics")
	cmd.Stdin = strings.NewReader(page)
	out, err := cmd.CombinedOutput()
	if err != nil || len(bytes.TrimSpace(out)) > 0 {
		t.Errorf("promtool check metrics: %v\n%s", err, out)
	}
}

// TestAdminOff: an empty --admin-listen switches it off.
func TestAdminOff(t *testing.T) {
	s := newServer(t, []client.Account{customer("tim", "example.org")}, "--admin-listen", "")
	s.Start()
	if s.Admin != "" {
		t.Errorf("admin server at %s", s.Admin)
	}
}
