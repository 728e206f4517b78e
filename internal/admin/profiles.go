package admin

import (
	"fmt"
	"net/http"
	"net/http/pprof"
	"strconv"
	"time"
)

// maxProfile is the longest that a profile or trace may take: it costs all sessions, and a trace grows without bound.
const maxProfile = time.Minute

// profiles serves /debug/pprof, one profile at a time: each may stop the world, or make everything slower while it lasts.
type profiles struct{ busy chan struct{} }

func (p profiles) handle(mux *http.ServeMux) {
	serve := func(pattern string, h http.HandlerFunc) { mux.HandleFunc(pattern, checked(h)) }
	serve("GET /debug/pprof/{$}", pprof.Index)
	serve("GET /debug/pprof/", p.alone(pprof.Index)) // heap, goroutine and the like
	serve("GET /debug/pprof/cmdline", pprof.Cmdline)
	serve("GET /debug/pprof/profile", p.alone(pprof.Profile))
	serve("GET /debug/pprof/symbol", pprof.Symbol)
	serve("POST /debug/pprof/symbol", pprof.Symbol) // as go tool pprof asks
	serve("GET /debug/pprof/trace", p.alone(pprof.Trace))
}

// checked has h serve what is within bounds, and not asked by strangers.
func checked(h http.HandlerFunc) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		if err := sameSite(r); err != nil {
			http.Error(w, "Profiles: "+err.Error()+".", http.StatusForbidden)
			return
		}
		if text := r.URL.Query().Get("seconds"); text != "" {
			if n, err := strconv.ParseFloat(text, 64); err != nil || !(n >= 0 && n <= maxProfile.Seconds()) { // NaN is neither
				http.Error(w, fmt.Sprintf("seconds: a number from 0 to %v.", maxProfile.Seconds()), http.StatusBadRequest)
				return
			}
		}
		h(w, r)
	}
}

// alone has h serve if no other profile is being taken.
func (p profiles) alone(h http.HandlerFunc) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		select {
		case p.busy <- struct{}{}:
			defer func() { <-p.busy }()
			h(w, r)
		default:
			w.Header().Set("Retry-After", strconv.Itoa(int(maxProfile.Seconds())))
			http.Error(w, "Another profile is being taken: one at a time.", http.StatusTooManyRequests)
		}
	}
}
