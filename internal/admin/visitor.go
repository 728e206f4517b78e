package admin

import (
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strings"
)

// A web browser of somebody who may reach this server is told by strangers' pages what to ask here. Two things keep what is shown
// from them: a page whose name was made to mean our address (DNS rebinding) gives itself away by that name in Host, and whatever else a
// page asks is marked by the browser (Fetch Metadata, Origin) and unreadable to it unless we say otherwise, which we never do. What is so marked is
// refused, too: it would tell by its size and time, and cost work. Only a link that somebody follows is not, for it shows him what he asked for.

// maxHostText is how much of a Host that is refused is told back, in octets.
const maxHostText = 100

// hosts are names of this server, lower case, without a final dot.
type hosts map[string]bool

func newHosts(names []string) hosts {
	h := hosts{"localhost": true}
	for _, name := range names {
		h[plainName(name)] = true
	}
	return h
}

func plainName(name string) string { return strings.ToLower(strings.TrimSuffix(name, ".")) }

// ours reports whether a request for that host (RFC 9110 7.2) may be meant for this server. An address cannot be made to mean another, and
// no browser leaves the field out.
func (h hosts) ours(host string) bool {
	if host == "" {
		return true
	}
	name := host
	if before, _, err := net.SplitHostPort(host); err == nil {
		name = before
	}
	if _, err := netip.ParseAddr(strings.TrimSuffix(strings.TrimPrefix(name, "["), "]")); err == nil {
		return true
	}
	return h[plainName(name)]
}

// guarded refuses what is asked under a name that is not ours, or by a page of another site.
func (h hosts) guarded(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("X-Content-Type-Options", "nosniff")
		w.Header().Set("Cross-Origin-Resource-Policy", "same-origin")
		w.Header().Set("X-Frame-Options", "DENY")
		if h.ours(r.Host) {
			if err := sameSite(r); err != nil && !followed(r) {
				http.Error(w, "Refused: "+err.Error()+".", http.StatusForbidden)
				return
			}
			next.ServeHTTP(w, r)
			return
		}
		host := r.Host[:min(len(r.Host), maxHostText)]
		// RFC 9110 15.5.20
		http.Error(w, fmt.Sprintf("This server does not go by the name %q: ask for its address, or name it in --admin-hosts.", host), http.StatusMisdirectedRequest)
	})
}

var errCrossSite = errors.New("asked by a page of another site")

// followed reports whether a link was followed, and what comes is shown in a window, not to the page that has the link.
func followed(r *http.Request) bool {
	return r.Header.Get("Sec-Fetch-Mode") == "navigate" && r.Header.Get("Sec-Fetch-Dest") == "document"
}

// sameSite returns an error for what another site's page has a browser ask for. Programs send neither field.
func sameSite(r *http.Request) error {
	switch r.Header.Get("Sec-Fetch-Site") {
	case "same-origin", "none": // a page of ours, the person in front of it
		return nil
	case "":
	default:
		return errCrossSite
	}
	origin := r.Header.Get("Origin") // of browsers that have nothing better
	if origin == "" {
		return nil
	}
	if u, err := url.Parse(origin); err != nil || u.Host != r.Host {
		return errCrossSite
	}
	return nil
}
