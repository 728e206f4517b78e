package admin

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"
)

// pages serves all pages, asked for under names.
func pages(t *testing.T, names ...string) *Server {
	t.Helper()
	metrics := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "some_total 1\n") })
	s := Serve(Handler(Options{Metrics: metrics, Ready: new(Conditions), Hosts: names}), local(t))
	t.Cleanup(func() { s.Shutdown(t.Context()) })
	return s
}

// ask sends a request with fields (name, value, …) of which Host is one.
func ask(t *testing.T, s *Server, path string, fields ...string) (int, http.Header, string) {
	t.Helper()
	r, err := http.NewRequest(http.MethodGet, "http://"+s.Addrs()[0]+path, nil)
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i < len(fields); i += 2 {
		if r.Header.Set(fields[i], fields[i+1]); fields[i] == "Host" {
			r.Host = fields[i+1]
		}
	}
	return reply(t, http.DefaultClient, r)
}

// TestRebinding: a page whose name was made to mean this address reads nothing, and a monitor that asks by the server's name does.
func TestRebinding(t *testing.T) {
	s := pages(t, "Mail.ISP.example", "scrape")
	for host, want := range map[string]int{
		"127.0.0.1:8366": 200, "192.0.2.1": 200, "[::1]:8366": 200, "[2001:db8::1]": 200, "localhost": 200, "LOCALHOST:1": 200,
		"mail.isp.example:8366": 200, "mail.isp.example.": 200, "scrape": 200,
		"evil.example": 421, "evil.example:8366": 421, "localhost.evil.example": 421, "127.0.0.1.evil.example": 421,
		"mail.isp.example.evil.example:8366": 421, "xmail.isp.example": 421, "1": 421, "[evil.example]": 421,
	} {
		for _, path := range []string{"/", "/metrics", "/healthz", "/readyz", "/debug/pprof/", "/debug/pprof/cmdline", "/debug/pprof/heap", "/nothing"} {
			code, header, body := ask(t, s, path, "Host", host)
			if wanted := map[bool]int{true: 404, false: 200}[path == "/nothing"]; want == 200 && code != wanted || want == 421 && code != 421 {
				t.Errorf("%s of %s: %d, want %d", path, host, code, want)
			}
			if code == 421 && (!strings.Contains(body, "--admin-hosts") || strings.Contains(body, "some_total")) {
				t.Errorf("%s of %s: refused with %q", path, host, body)
			}
			if header.Get("Cross-Origin-Resource-Policy") != "same-origin" || header.Get("X-Content-Type-Options") != "nosniff" || header.Get("Access-Control-Allow-Origin") != "" {
				t.Errorf("%s of %s: %v", path, host, header)
			}
		}
	}
}

// TestWithoutHost: probes of HTTP/1.0 name no host, which no browser does.
func TestWithoutHost(t *testing.T) {
	conn, err := net.Dial("tcp", pages(t).Addrs()[0])
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	fmt.Fprint(conn, "GET /healthz HTTP/1.0\r\n\r\n")
	if answer, err := io.ReadAll(conn); err != nil || !strings.HasPrefix(string(answer), "HTTP/1.0 200 ") {
		t.Errorf("%q, %v", answer, err)
	}
}

// TestNothingIsForOtherSites: what another site's page asks for is refused whatever it is. A link to what costs little may be followed from anywhere.
func TestNothingIsForOtherSites(t *testing.T) {
	s := pages(t)
	own := "http://" + s.Addrs()[0]
	for _, c := range []struct {
		fields []string
		want   int
		cheap  int // of what is no profile, if it differs
	}{
		{fields: nil, want: 200},
		{fields: []string{"Sec-Fetch-Site", "none"}, want: 200},
		{fields: []string{"Sec-Fetch-Site", "same-origin"}, want: 200},
		{fields: []string{"Sec-Fetch-Site", "same-origin", "Origin", own}, want: 200},
		{fields: []string{"Origin", own}, want: 200},
		{fields: []string{"Sec-Fetch-Site", "cross-site"}, want: 403},
		{fields: []string{"Sec-Fetch-Site", "same-site"}, want: 403}, // another port of this machine
		{fields: []string{"Sec-Fetch-Site", "cross-site", "Origin", own}, want: 403},
		{fields: []string{"Sec-Fetch-Site", "something-new"}, want: 403},
		{fields: []string{"Origin", "http://evil.example"}, want: 403},
		{fields: []string{"Origin", "null"}, want: 403},
		{fields: []string{"Origin", "http://127.0.0.1:1"}, want: 403},
		{fields: []string{"Origin", "::"}, want: 403},
		{fields: []string{"Sec-Fetch-Site", "cross-site", "Sec-Fetch-Mode", "navigate", "Sec-Fetch-Dest", "document"}, want: 403, cheap: 200},
		{fields: []string{"Sec-Fetch-Site", "cross-site", "Sec-Fetch-Mode", "navigate", "Sec-Fetch-Dest", "iframe"}, want: 403},
		{fields: []string{"Sec-Fetch-Site", "cross-site", "Sec-Fetch-Mode", "no-cors", "Sec-Fetch-Dest", "document"}, want: 403},
	} {
		for _, path := range []string{"/debug/pprof/", "/debug/pprof/cmdline", "/debug/pprof/allocs", "/", "/metrics", "/healthz", "/readyz"} {
			want := c.want
			if c.cheap != 0 && !strings.HasPrefix(path, "/debug/") {
				want = c.cheap
			}
			code, header, body := ask(t, s, path, c.fields...)
			if code != want || code == 403 && strings.Contains(body, "some_total") {
				t.Errorf("%s with %v: %d, want %d: %q", path, c.fields, code, want, body)
			}
			if header.Get("Access-Control-Allow-Origin") != "" || header.Get("Cross-Origin-Resource-Policy") != "same-origin" || header.Get("X-Frame-Options") != "DENY" {
				t.Errorf("%s with %v: %v", path, c.fields, header)
			}
		}
	}
}

// TestOneProfileAtATime: and none longer than a minute.
func TestOneProfileAtATime(t *testing.T) {
	s := pages(t)
	for _, seconds := range []string{"61", "1e9", "60.001", "-1", "NaN", "Inf", "x", "9223372036854775807"} {
		for _, path := range []string{"profile", "trace", "heap", "goroutine", "mutex"} {
			if code, _, body := ask(t, s, "/debug/pprof/"+path+"?seconds="+seconds); code != 400 || !strings.Contains(body, "from 0 to 60") {
				t.Errorf("%s of %s s: %d %q", path, seconds, code, body)
			}
		}
	}
	trace, err := http.Get("http://" + s.Addrs()[0] + "/debug/pprof/trace?seconds=60") // sends as it goes
	if err != nil || trace.StatusCode != 200 {
		t.Fatal(trace, err)
	}
	defer trace.Body.Close()
	for _, path := range []string{"profile?seconds=1", "trace", "heap", "goroutine?debug=2"} {
		if code, header, _ := ask(t, s, "/debug/pprof/"+path); code != 429 || header.Get("Retry-After") == "" {
			t.Errorf("%s beside a trace: %d %v, want 429", path, code, header)
		}
	}
	for _, path := range []string{"", "cmdline", "symbol?0x1"} {
		if code, _, _ := ask(t, s, "/debug/pprof/"+path); code != 200 {
			t.Errorf("%s beside a trace: %d", path, code)
		}
	}
	trace.Body.Close() // whoever goes away does not keep others waiting
	for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		code, _, _ := ask(t, s, "/debug/pprof/heap")
		if code == 200 {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("after a trace that nobody waited for: %d", code)
		}
	}
}

// TestCrowd: those who do nothing, or send half a request, make way; a request that is being served goes on.
func TestCrowd(t *testing.T) {
	entered, leave := make(chan struct{}), make(chan struct{})
	s := Serve(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/long" {
			close(entered)
			<-leave
		}
	}), local(t))
	t.Cleanup(func() { s.Shutdown(t.Context()) })
	dial := func(request string) net.Conn {
		conn, err := net.Dial("tcp", s.Addrs()[0])
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { conn.Close() })
		conn.SetDeadline(time.Now().Add(time.Minute))
		io.WriteString(conn, request)
		return conn
	}
	long := dial("GET /long HTTP/1.1\r\nHost: a\r\n\r\n")
	<-entered
	var crowd []net.Conn
	for i := range 3 * maxConnections {
		crowd = append(crowd, dial([]string{"", "GET / HTTP/1.1\r\nHo"}[i%2]))
	}
	answer := func(conn net.Conn) string {
		line, err := bufio.NewReader(conn).ReadString('\n')
		return fmt.Sprint(line, err)
	}
	if got := answer(dial("GET / HTTP/1.1\r\nHost: a\r\n\r\n")); !strings.HasPrefix(got, "HTTP/1.1 200 ") {
		t.Errorf("a monitor behind a crowd: %q", got)
	}
	// The last in is served by now, so all before it were let in or sent away.
	for i, conn := range crowd[:2*maxConnections] {
		if got := answer(conn); strings.HasPrefix(got, "HTTP") {
			t.Errorf("number %d of the crowd was answered: %q", i, got)
		}
	}
	close(leave)
	if got := answer(long); !strings.HasPrefix(got, "HTTP/1.1 200 ") {
		t.Errorf("the request that was being served: %q", got)
	}
}

// TestCrowdOfHalfBodies: those whose request's header has come make way, too, while its body has not.
func TestCrowdOfHalfBodies(t *testing.T) {
	s := pages(t)
	for i := range maxConnections {
		conn, err := net.Dial("tcp", s.Addrs()[0])
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		conn.SetDeadline(time.Now().Add(time.Minute))
		fmt.Fprint(conn, "POST /debug/pprof/symbol HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\nExpect: 100-continue\r\n\r\n")
		if line, err := bufio.NewReader(conn).ReadString('\n'); err != nil || line != "HTTP/1.1 100 Continue\r\n" {
			t.Fatalf("number %d of the crowd: %q, %v", i, line, err)
		}
		fmt.Fprint(conn, "0x1")
	}
	if code, _, body := ask(t, s, "/healthz"); code != 200 {
		t.Errorf("a monitor behind a crowd: %d %q", code, body)
	}
}

// TestSymbols: go tool pprof asks for names so, within bounds.
func TestSymbols(t *testing.T) {
	s := pages(t)
	for body, want := range map[string]string{"0x1": "200 num_symbols: 1\n", strings.Repeat("0", maxBody+1): "413 What comes with the request: http: request body too large.\n"} {
		for _, length := range []int64{int64(len(body)), -1} {
			r, err := http.NewRequest(http.MethodPost, "http://"+s.Addrs()[0]+"/debug/pprof/symbol", io.NopCloser(strings.NewReader(body)))
			if err != nil {
				t.Fatal(err)
			}
			r.ContentLength = length
			if code, _, got := reply(t, http.DefaultClient, r); fmt.Sprint(code, " ", got) != want {
				t.Errorf("%d octets: %d %q, want %q", len(body), code, got, want)
			}
		}
	}
}

// TestCrowdOfRequests: with all connections being served the new one is closed.
func TestCrowdOfRequests(t *testing.T) {
	c := newCrowd(2)
	var ours, theirs [3]net.Conn
	for i := range ours {
		ours[i], theirs[i] = net.Pipe()
		defer theirs[i].Close()
		c.changed(ours[i], http.StateNew)
		c.serving(ours[i])
	}
	theirs[2].SetDeadline(time.Now().Add(time.Minute))
	if _, err := theirs[2].Read(make([]byte, 1)); err != io.EOF {
		t.Errorf("the third: %v", err)
	}
	c.changed(ours[2], http.StateClosed)
	c.served(ours[0])
	c.changed(ours[1], http.StateClosed)
	if len(c.all) != 1 || c.waiting.Len() != 1 {
		t.Errorf("%d connections, %d wait", len(c.all), c.waiting.Len())
	}
	c.served(ours[1]) // after its end
	c.changed(ours[0], http.StateClosed)
	if len(c.all) != 0 || c.waiting.Len() != 0 {
		t.Errorf("after the last: %d, %d wait", len(c.all), c.waiting.Len())
	}
}

// TestBoundsOfServers: no connection is kept for ever, at either door.
func TestBoundsOfServers(t *testing.T) {
	looking := pages(t)
	control, err := ServeControl(t.TempDir(), nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer control.Shutdown(t.Context())
	for what, s := range map[string]*Server{"looking": looking, "control": control} {
		if s.http.IdleTimeout != idleTimeout || s.http.ReadHeaderTimeout != headerTimeout || s.http.MaxHeaderBytes != maxHeader || s.http.ConnState == nil {
			t.Errorf("%s: %v, %v, %d", what, s.http.IdleTimeout, s.http.ReadHeaderTimeout, s.http.MaxHeaderBytes)
		}
	}
	if looking.http.ReadTimeout <= maxProfile || looking.http.WriteTimeout == 0 {
		t.Errorf("looking: %v to read, %v to write", looking.http.ReadTimeout, looking.http.WriteTimeout)
	}
	if control.http.ReadTimeout != 0 || control.http.WriteTimeout != 0 {
		t.Errorf("control: %v, %v: an import may take for ever, and guards itself", control.http.ReadTimeout, control.http.WriteTimeout)
	}
}
