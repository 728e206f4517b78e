package admin

import (
	"context"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"
)

func get(t *testing.T, url string) (status int, header http.Header, body string) {
	t.Helper()
	r, err := http.NewRequest(http.MethodGet, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	return reply(t, http.DefaultClient, r)
}

// reply is what c is answered.
func reply(t *testing.T, c *http.Client, r *http.Request) (status int, header http.Header, body string) {
	t.Helper()
	resp, err := c.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, resp.Header, string(b)
}

func local(t *testing.T) net.Listener {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func TestPages(t *testing.T) {
	var ready Conditions
	ready.Set("starting", "the queue is being opened")
	metrics := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "some_total 1\n") })
	s := Serve(Handler(Options{Version: "v1 <b>", Metrics: metrics, Ready: &ready}), local(t), local(t))
	addrs := s.Addrs()
	if len(addrs) != 2 || addrs[0] == addrs[1] || strings.HasSuffix(addrs[0], ":0") {
		t.Fatalf("Addrs = %v", addrs)
	}
	url := "http://" + addrs[1]
	for _, c := range []struct {
		path string
		code int
		want string
	}{
		{"/", 200, "odmrd v1 &lt;b&gt;"},
		{"/metrics", 200, "some_total 1"},
		{"/healthz", 200, "ok\n"},
		{"/readyz", 503, `{"ready":false,"reasons":{"starting":"the queue is being opened"}}`},
		{"/debug/pprof/", 200, "goroutine"},
		{"/debug/pprof/cmdline", 200, "admin.test"},
		{"/debug/pprof/heap?debug=1", 200, "heap profile"},
		{"/queue/domains", 404, ""}, // never through this door
		{"/nothing", 404, ""},
	} {
		if code, _, body := get(t, url+c.path); code != c.code || !strings.Contains(body, c.want) {
			t.Errorf("%s: %d %q, want %d with %q", c.path, code, body, c.code, c.want)
		}
	}
	ready.Clear("starting")
	ready.Set("refusing", "disk full")
	ready.Clear("refusing")
	code, header, body := get(t, url+"/readyz")
	if code != 200 || strings.TrimSpace(body) != `{"ready":true}` || header.Get("Content-Type") != "application/json" {
		t.Errorf("/readyz: %d %q %v", code, body, header)
	}
	if resp, err := http.Post(url+"/healthz", "text/plain", nil); err != nil || resp.StatusCode != http.StatusMethodNotAllowed {
		t.Errorf("POST /healthz: %v %v", resp, err)
	} else {
		resp.Body.Close()
	}
	if err := s.Shutdown(t.Context()); err != nil {
		t.Error(err)
	}
	if _, err := net.Dial("tcp", addrs[0]); err == nil {
		t.Error("still listening after Shutdown")
	}
}

// TestShutdownCutsWhatDoesNotEnd: a request that hangs must not keep the process alive.
func TestShutdownCutsWhatDoesNotEnd(t *testing.T) {
	entered := make(chan struct{})
	s := Serve(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		close(entered)
		<-r.Context().Done()
	}), local(t))
	failed := make(chan error, 1)
	go func() {
		resp, err := http.Get("http://" + s.Addrs()[0])
		if err == nil {
			resp.Body.Close()
		}
		failed <- err
	}()
	<-entered
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	if err := s.Shutdown(ctx); err != nil {
		t.Errorf("Shutdown: %v", err)
	}
	if err := <-failed; err == nil {
		t.Error("the hanging request was answered")
	}
}

func TestConditionsReasonsIsACopy(t *testing.T) {
	var c Conditions
	c.Set("a", "b")
	c.Reasons()["x"] = "y"
	got, _ := json.Marshal(c.Reasons())
	if string(got) != `{"a":"b"}` {
		t.Errorf("Reasons = %s", got)
	}
}
