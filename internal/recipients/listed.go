package recipients

import (
	"slices"
	"strings"
)

// Entry is how an address stands in a list, which is sorted: the domain, a lower-case A-label domain, a blank and the local
// part in lower case, as far as it is ASCII, for a sender that writes it in another case must not be refused. An
// empty local part stands for every recipient of the domain.
func Entry(local, domain string) string { return domain + " " + lower(local) }

// Address is the address of an entry: "@domain" for every recipient.
func Address(entry string) string {
	domain, local, _ := strings.Cut(entry, " ")
	return local + "@" + domain
}

// Covers says whether list says anything of domain. One that does not leaves it open.
func Covers(list []string, domain string) bool {
	i, _ := slices.BinarySearch(list, domain+" ")
	return i < len(list) && strings.HasPrefix(list[i], domain+" ")
}

func lower(s string) string {
	return strings.Map(func(r rune) rune {
		if 'A' <= r && r <= 'Z' {
			return r + 'a' - 'A'
		}
		return r
	}, s)
}

// Query is a recipient that a list is asked for.
type Query struct {
	Address    string // as written
	Domain     string // the customer domain, lower-case A-labels
	Null       bool   // the mail has the null reverse-path: a bounce
	Delimiters string // characters behind which a local part is a detail: "+"; empty: none
}

// Listed says whether list has the recipient, or takes it all the same: postmaster
// (RFC 5321 4.5.1); a detail of a listed one (user+tag); a bounce to an address that was made of a listed one for its
// message (BATV, prvs=tag=user) or that only who made it can read (SRS).
func Listed(list []string, q *Query) bool {
	l := lower(local(q.Address))
	if l == "postmaster" || listed(list, "", q.Domain) || q.details(list, l) {
		return true
	}
	if !q.Null {
		return false
	}
	if rest, ok := strings.CutPrefix(l, "prvs="); ok {
		_, user, _ := strings.Cut(rest, "=")
		return q.details(list, user)
	}
	return isSRS(l)
}

// details looks for a local part, and for what stands before each of its delimiters.
func (q *Query) details(list []string, l string) bool {
	if l == "" {
		return false
	}
	if listed(list, l, q.Domain) {
		return true
	}
	for i := 1; i < len(l); i++ {
		if strings.IndexByte(q.Delimiters, l[i]) >= 0 && listed(list, l[:i], q.Domain) {
			return true
		}
	}
	return false
}

func listed(list []string, local, domain string) bool {
	_, ok := slices.BinarySearch(list, domain+" "+local)
	return ok
}
