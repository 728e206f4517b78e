// Package admin is how an operator looks into a running server and handles its queue.
//
// There are two doors. The HTTP server (Handler) on --admin-listen is for looking only:
// /metrics, /healthz, /readyz, /debug/pprof; it asks for no password and must never be able to
// change or show mail. The control socket (Control), a unix socket in the data directory that only
// the server's own user can open, carries queue.Admin over HTTP and JSON; Client is its other end
// and is itself a queue.Admin, so that a command works alike on a running server and on an opened store.
//
// The package reads no clock and opens no store; whoever starts a Server stops it.
package admin

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"html"
	"io"
	"maps"
	"net"
	"net/http"
	"net/http/pprof"
	"sync"
	"time"
)

// headerTimeout bounds how long a client may take to send a request's header.
const headerTimeout = 10 * time.Second

// Conditions are the reasons for which a server is not ready. They are safe for concurrent use.
type Conditions struct {
	mu      sync.Mutex
	reasons map[string]string
}

// Set gives the reason under a name, until Clear.
func (c *Conditions) Set(name, reason string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.reasons == nil {
		c.reasons = map[string]string{}
	}
	c.reasons[name] = reason
}

// Clear takes back what Set gave under name.
func (c *Conditions) Clear(name string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.reasons, name)
}

// Reasons returns a copy of what is set; empty means ready.
func (c *Conditions) Reasons() map[string]string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return maps.Clone(c.reasons)
}

// Options is what Handler shows.
type Options struct {
	Version string
	Metrics http.Handler
	Ready   *Conditions
}

// Handler serves the pages for looking.
func Handler(o Options) http.Handler {
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", o.Metrics)
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/plain; charset=utf-8")
		io.WriteString(w, "ok\n")
	})
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, _ *http.Request) { ready(w, o.Ready.Reasons()) })
	mux.HandleFunc("GET /debug/pprof/", pprof.Index)
	mux.HandleFunc("GET /debug/pprof/cmdline", pprof.Cmdline)
	mux.HandleFunc("GET /debug/pprof/profile", pprof.Profile)
	mux.HandleFunc("GET /debug/pprof/symbol", pprof.Symbol)
	mux.HandleFunc("POST /debug/pprof/symbol", pprof.Symbol) // as go tool pprof asks
	mux.HandleFunc("GET /debug/pprof/trace", pprof.Trace)
	mux.HandleFunc("GET /{$}", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/html; charset=utf-8")
		fmt.Fprintf(w, indexPage, html.EscapeString(o.Version))
	})
	return mux
}

const indexPage = `<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><title>odmrd</title></head>
<body><h1>odmrd %s</h1>
<ul>
<li><a href="/metrics">/metrics</a>: figures for Prometheus</li>
<li><a href="/healthz">/healthz</a>: the process is up</li>
<li><a href="/readyz">/readyz</a>: mail is taken and handed out; 503 with the reasons if not</li>
<li><a href="/debug/pprof/">/debug/pprof/</a>: profiles</li>
</ul></body></html>
`

// readiness is the body of /readyz.
type readiness struct {
	Ready   bool              `json:"ready"`
	Reasons map[string]string `json:"reasons,omitempty"`
}

func ready(w http.ResponseWriter, reasons map[string]string) {
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	if len(reasons) > 0 {
		w.WriteHeader(http.StatusServiceUnavailable)
	}
	json.NewEncoder(w).Encode(readiness{Ready: len(reasons) == 0, Reasons: reasons})
}

// Server serves one handler on some listeners.
type Server struct {
	http      http.Server
	listeners []net.Listener
	serving   sync.WaitGroup
}

// Serve serves handler on listeners, and owns them, until Shutdown.
func Serve(handler http.Handler, listeners ...net.Listener) *Server {
	s := &Server{http: http.Server{Handler: handler, ReadHeaderTimeout: headerTimeout}, listeners: listeners}
	for _, l := range s.listeners {
		s.serving.Go(func() { s.http.Serve(l) }) // its error is always that of Shutdown
	}
	return s
}

// Addrs are the addresses listened on, with the ports that the system chose.
func (s *Server) Addrs() []string {
	addrs := make([]string, len(s.listeners))
	for i, l := range s.listeners {
		addrs[i] = l.Addr().String()
	}
	return addrs
}

// Shutdown stops listening and waits for requests in progress until ctx ends; those that are
// left then are cut.
func (s *Server) Shutdown(ctx context.Context) error {
	err := s.http.Shutdown(ctx)
	if errors.Is(err, context.DeadlineExceeded) || errors.Is(err, context.Canceled) {
		err = s.http.Close()
	}
	s.serving.Wait()
	return err
}
