// Package admin is how an operator looks into a running server and handles its queue.
//
// There are two doors. The HTTP server (Handler) on --admin-listen is for looking only:
// /metrics, /healthz, /readyz, /debug/pprof; it asks for no password, only (visitor.go) that it is no web page that asks, and must
// never be able to change or show mail. The control socket (Control), a unix socket in the data directory that only
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
	"sync"
	"time"
)

const (
	// headerTimeout bounds how long a client may take to send a request's header.
	headerTimeout = 10 * time.Second
	// idleTimeout is how long a connection is kept for the next request: longer than monitors usually wait between two.
	idleTimeout = 2 * time.Minute
	// writeTimeout bounds how long an answer for looking may take; package pprof adds what a profile takes.
	writeTimeout = time.Minute
	// readTimeout bounds how long a request for looking may take: net/http also ends what is being served then, so that it is longer than a profile.
	readTimeout = maxProfile + 30*time.Second
	// maxHeader is the most octets of a request's header, about.
	maxHeader = 64 << 10
	// maxBody is the most octets of what comes with a request for looking: addresses of which go tool pprof asks for the names.
	maxBody = 1 << 20
)

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
	Hosts   []string // names that the server is asked for by, besides localhost and any address; others get 421
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
	profiles{busy: make(chan struct{}, 1)}.handle(mux)
	mux.HandleFunc("GET /{$}", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/html; charset=utf-8")
		fmt.Fprintf(w, indexPage, html.EscapeString(o.Version))
	})
	return newHosts(o.Hosts).guarded(mux)
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

// Serve serves handler, which is for looking, on listeners, and owns them, until Shutdown. A whole request may take readTimeout, and
// there are at most maxConnections, as with ServeControl.
func Serve(handler http.Handler, listeners ...net.Listener) *Server {
	s := newServer(handler, listeners)
	s.http.Handler = whole(s.http.Handler)
	s.http.ReadTimeout, s.http.WriteTimeout = readTimeout, writeTimeout
	return s.serve()
}

// newServer makes a server whose requests may take for ever.
func newServer(handler http.Handler, listeners []net.Listener) *Server {
	crowd := newCrowd(maxConnections)
	return &Server{listeners: listeners, http: http.Server{
		Handler: crowd.counted(handler), ConnState: crowd.changed, ConnContext: withConn,
		ReadHeaderTimeout: headerTimeout, IdleTimeout: idleTimeout, MaxHeaderBytes: maxHeader,
	}}
}

func (s *Server) serve() *Server {
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
