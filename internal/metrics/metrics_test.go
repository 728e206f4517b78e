package metrics

import (
	"bufio"
	"errors"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"odmr/engine"
	"odmr/queue"
)

// scrape returns the page that a collector would get.
func scrape(t *testing.T, m *Metrics) string {
	t.Helper()
	w := httptest.NewRecorder()
	m.Handler().ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/metrics", nil))
	if w.Code != http.StatusOK {
		t.Fatalf("status %d: %s", w.Code, w.Body)
	}
	return w.Body.String()
}

// value finds the sample of one series.
func value(t *testing.T, page, series string) string {
	t.Helper()
	for s := bufio.NewScanner(strings.NewReader(page)); s.Scan(); {
		if v, ok := strings.CutPrefix(s.Text(), series+" "); ok {
			return v
		}
	}
	t.Errorf("no series %s", series)
	return ""
}

// busy makes every method of m count something.
func busy(m *Metrics) {
	for i := 0; i < 3; i++ {
		m.SessionState(engine.StateNone, engine.StateLogin)
	}
	m.SessionState(engine.StateNone, engine.StateSMTP)
	m.SessionState(engine.StateLogin, engine.StateProvider)
	m.SessionState(engine.StateProvider, engine.StateReversed)
	m.SessionState(engine.StateLogin, engine.StateNone)
	m.SessionRefused()
	m.LimitHit(engine.LimitLockout)
	m.LimitHit(engine.LimitNone)
	m.LimitHit(engine.NumLimits + 1)
	m.ATRN(250)
	m.ATRN(453)
	m.ATRN(453)
	m.ATRN(299)
	m.Auth(235)
	m.Auth(535)
	m.MessageIn(engine.Accepted, 1000)
	m.MessageIn(engine.Accepted, 500)
	m.MessageIn(engine.Refused, 7)
	m.MessageOut(engine.Delivered, 1000)
	m.MessageOut(engine.Deferred, 20)
	m.MessageOut(engine.Failed, 3)
	m.MessageOut(engine.Held, 4)
	m.ShieldFired()
	m.Octets(11, 22)
	m.Commit(3 * time.Millisecond)
	m.Settle(2*time.Second, 5)
	m.LoopLag(1, time.Millisecond)
	m.Panic()
	m.BackgroundError(errors.New("x"))
	m.Corruption(errors.New("x"))
	m.DiskSlow("000001.log", 6*time.Second)
	m.StallBegan("memtables")
	m.Refusing("disk full")
	m.AccountsRead(nil, 10, 20)
	m.ShowCertificates(func() time.Time { return time.Unix(1700000000, 0) })
	m.AccountsRead(errors.New("line 3"), 10, 20)
}

func TestSeries(t *testing.T) {
	m := New("v1", func() queue.Counts { return queue.Counts{Messages: 4, Bytes: 5000, Failed: 6, Held: 7} })
	busy(m)
	page := scrape(t, m)
	for series, want := range map[string]string{
		`odmr_tls_certificate_expiry_timestamp_seconds`:    "1.7e+09",
		`odmr_sessions{state="login"}`:                     "1",
		`odmr_sessions{state="smtp"}`:                      "1",
		`odmr_sessions{state="provider"}`:                  "0",
		`odmr_sessions{state="reversed"}`:                  "1",
		`odmr_sessions{state="closing"}`:                   "0",
		`odmr_sessions_total{state="login"}`:               "3",
		`odmr_sessions_total{state="smtp"}`:                "1",
		`odmr_sessions_total{state="lmtp"}`:                "0",
		`odmr_sessions_refused_total`:                      "1",
		`odmr_limit_hits_total{limit="lockout"}`:           "1",
		`odmr_limit_hits_total{limit="rate"}`:              "0",
		`odmr_atrn_total{code="250"}`:                      "1",
		`odmr_atrn_total{code="453"}`:                      "2",
		`odmr_atrn_total{code="450"}`:                      "0",
		`odmr_atrn_total{code="other"}`:                    "1",
		`odmr_auth_total{code="235"}`:                      "1",
		`odmr_auth_total{code="535"}`:                      "1",
		`odmr_messages_in_total{outcome="accepted"}`:       "2",
		`odmr_messages_in_total{outcome="refused"}`:        "1",
		`odmr_messages_in_bytes_total{outcome="accepted"}`: "1500",
		`odmr_messages_out_total{outcome="delivered"}`:     "1",
		`odmr_messages_out_bytes_total{outcome="failed"}`:  "3",
		`odmr_messages_out_total{outcome="held"}`:          "1",
		`odmr_shield_alarms_total`:                         "1",
		`odmr_network_receive_bytes_total`:                 "11",
		`odmr_network_transmit_bytes_total`:                "22",
		`odmr_commit_duration_seconds_sum`:                 "0.003",
		`odmr_settle_duration_seconds_sum`:                 "2",
		`odmr_settle_batch_messages_sum`:                   "5",
		`odmr_loop_lag_seconds_count`:                      "1",
		`odmr_panics_recovered_total`:                      "1",
		`odmr_queue_messages`:                              "4",
		`odmr_queue_bytes`:                                 "5000",
		`odmr_queue_failed_messages`:                       "6",
		`odmr_queue_held_messages`:                         "7",
		`odmr_store_background_errors_total`:               "1",
		`odmr_store_corruptions_total`:                     "1",
		`odmr_store_disk_slow_total`:                       "1",
		`odmr_store_stalls_total`:                          "1",
		`odmr_store_stalled`:                               "1",
		`odmr_store_refusing`:                              "1",
		`odmr_accounts`:                                    "10",
		`odmr_account_domains`:                             "20",
		`odmr_accounts_reads_total{result="ok"}`:           "1",
		`odmr_accounts_reads_total{result="broken"}`:       "1",
	} {
		if got := value(t, page, series); got != want {
			t.Errorf("%s = %s, want %s", series, got, want)
		}
	}
	if !strings.Contains(page, `odmr_build_info{goversion="go`) || !strings.Contains(page, "process_resident_memory_bytes") ||
		!strings.Contains(page, "go_goroutines") {
		t.Error("build, process or Go figures are missing")
	}
	m.StallEnded()
	m.Accepting()
	page = scrape(t, m)
	if value(t, page, "odmr_store_stalled") != "0" || value(t, page, "odmr_store_refusing") != "0" {
		t.Error("stall or refusal did not end")
	}
}

// TestUnknownValues gives values that no engine gives today: they must not panic.
func TestUnknownValues(t *testing.T) {
	m := New("v1", func() queue.Counts { return queue.Counts{} })
	m.SessionState(engine.NumStates, engine.NumStates+9)
	m.MessageIn(engine.Delivered, 1)
	m.MessageOut(engine.NumOutcomes+1, -5)
	m.Octets(-1, -1)
	if got := value(t, scrape(t, m), "odmr_network_receive_bytes_total"); got != "0" {
		t.Errorf("received %s octets", got)
	}
}

// TestObserverDoesNotAllocate: the observer is called on event loops for every message.
func TestObserverDoesNotAllocate(t *testing.T) {
	m := New("v1", func() queue.Counts { return queue.Counts{} })
	if n := testing.AllocsPerRun(100, func() {
		m.SessionState(engine.StateLogin, engine.StateProvider)
		m.ATRN(250)
		m.ATRN(299)
		m.MessageIn(engine.Accepted, 1)
		m.MessageOut(engine.Delivered, 1)
		m.Octets(1, 1)
		m.LoopLag(0, 1)
		m.Commit(1)
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

// TestInteropPromtool holds the page to the conventions as Prometheus' own tool knows them.
func TestInteropPromtool(t *testing.T) {
	promtool, err := exec.LookPath("promtool")
	if err != nil {
		if os.Getenv("ODMR_INTEROP") == "required" {
			t.Fatal("promtool (Debian package prometheus) is not installed")
		}
		t.Skip("promtool (Debian package prometheus) is not installed")
	}
	m := New("v1", func() queue.Counts { return queue.Counts{Messages: 1} })
	busy(m)
	page := scrape(t, m)
	cmd := exec.Command(promtool, "check", "metrics")
	cmd.Stdin = strings.NewReader(page)
	if out, err := cmd.CombinedOutput(); err != nil || len(out) > 0 {
		t.Errorf("promtool check metrics: %v\n%s", err, out)
	}
	// And the tool does object to a page that breaks the conventions.
	cmd = exec.Command(promtool, "check", "metrics")
	cmd.Stdin = strings.NewReader("# TYPE odmr_wrong counter\nodmr_wrong 1\n")
	if out, err := cmd.CombinedOutput(); err == nil {
		t.Errorf("promtool took a counter without _total and help: %s", out)
	}
}
