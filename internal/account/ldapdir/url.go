package ldapdir

import (
	"errors"
	"net"
	"net/url"
	"strings"

	"github.com/go-ldap/ldap/v3"
)

// target is what a URL says (RFC 4516; ldapi as OpenLDAP writes it): where the server is, and where in its tree accounts are.
type target struct {
	network, addr string // for net.Dial
	host          string // for the server's certificate
	tls           bool   // ldaps
	base          string
	scope         int
	filter        string // of all accounts; "" takes every entry
}

// parseURL reads ldap[s]://HOST[:PORT]/BASE[??SCOPE[?FILTER]] and ldapi://PATH-WITH-%2F/BASE… The attributes of the RFC's form stay
// empty: they are chosen otherwise.
func parseURL(text string) (*target, error) {
	bad := errors.New("not an LDAP URL: ldap://HOST:PORT/BASE??SCOPE?FILTER (RFC 4516), or ldapi://%2Frun%2Fslapd%2Fldapi/BASE")
	scheme, rest, ok := strings.Cut(text, "://")
	if !ok {
		return nil, bad
	}
	authority, rest, ok := strings.Cut(rest, "/")
	if !ok {
		return nil, errors.New("the URL has no base DN: ldap://HOST/dc=isp,dc=example")
	}
	parts := strings.Split(rest, "?")
	if len(parts) > 4 || len(parts) > 1 && parts[1] != "" {
		return nil, bad
	}
	for i := range parts {
		var err error
		if parts[i], err = url.PathUnescape(parts[i]); err != nil {
			return nil, bad
		}
	}
	parts = append(parts, "", "", "", "")
	t := &target{base: parts[0], filter: parts[3]}
	if _, err := ldap.ParseDN(t.base); err != nil || t.base == "" {
		return nil, errors.New("the URL has no base DN: ldap://HOST/dc=isp,dc=example")
	}
	switch parts[2] {
	case "", "sub": // RFC 4516 has base here, where no account would be
		t.scope = ldap.ScopeWholeSubtree
	case "one":
		t.scope = ldap.ScopeSingleLevel
	default:
		return nil, errors.New("the scope of the URL is neither sub nor one")
	}
	if t.filter != "" {
		if _, err := ldap.CompileFilter(t.filter); err != nil {
			return nil, errors.New("the filter of the URL is none (RFC 4515)")
		}
	}
	return t, t.place(scheme, authority)
}

// place finds the server.
func (t *target) place(scheme, authority string) error {
	port := map[string]string{"ldap": "389", "ldaps": "636"}[scheme]
	switch {
	case scheme == "ldapi":
		path, err := url.PathUnescape(authority)
		if err != nil || path == "" {
			return errors.New("ldapi:// is followed by the path of the socket, with %2F for each slash")
		}
		t.network, t.addr = "unix", path
		return nil
	case port == "":
		return errors.New("the URL is none of ldap, ldaps, ldapi")
	case strings.Contains(authority, "@"):
		return errors.New("an LDAP URL names no user: see --accounts-bind")
	}
	u, err := url.Parse("ldap://" + authority)
	if err != nil || u.Hostname() == "" {
		return errors.New("the URL names no host")
	}
	if u.Port() != "" {
		port = u.Port()
	}
	t.network, t.host, t.addr, t.tls = "tcp", u.Hostname(), net.JoinHostPort(u.Hostname(), port), scheme == "ldaps"
	return nil
}
