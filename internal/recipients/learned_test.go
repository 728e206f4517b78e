package recipients

import (
	"fmt"
	"testing"
	"time"
)

const dom = "example.org"

func TestLearned(t *testing.T) {
	table := NewTable(Limits{Lifetime: time.Hour, PerDomain: 3})
	unknown := func(address string, now time.Duration) bool {
		return table.Unknown("c", dom, []byte(address), int64(now))
	}
	if table.Learn("c", dom, "gone@example.org", 0); !unknown("gone@EXAMPLE.org", time.Minute) || !table.Any(dom) {
		t.Error("not learned")
	}
	for _, other := range []string{"Gone@example.org", "gone+tag@example.org", "gon@example.org", "@example.org", "gone@example.org@example.org"} {
		if unknown(other, 0) {
			t.Errorf("%s is refused", other)
		}
	}
	if table.Unknown("c", "example.com", []byte("gone@example.com"), 0) {
		t.Error("refused in another domain")
	}
	// Its customer is there, and then away again.
	if table.Online([]string{dom, "example.com"}); unknown("gone@example.org", 0) {
		t.Error("refused while the customer is there")
	}
	if table.Offline([]string{dom, "example.com"}); !unknown("gone@example.org", 0) {
		t.Error("forgotten with the session")
	}
	// One acceptance, exactly of that one.
	if table.Accept(dom, "Gone@example.org"); !unknown("gone@example.org", 0) {
		t.Error("forgotten for another")
	}
	if table.Accept(dom, "gone@example.org"); unknown("gone@example.org", 0) || table.Any(dom) {
		t.Error("not forgotten")
	}
	// Time.
	table.Learn("c", dom, "gone@example.org", 0)
	if !unknown("gone@example.org", time.Hour-1) || unknown("gone@example.org", time.Hour) || table.Any(dom) || len(table.domains) != 0 {
		t.Error("the lifetime is not kept")
	}
	// What is never learned.
	for _, address := range []string{"postmaster@example.org", "PostMaster@example.org", "list-return-7-a=b.example@example.org",
		"prvs=123=a@example.org", "SRS0+abc=12=x.example=u@example.org", "srs1-x@example.org", "@example.org"} {
		if table.Learn("c", dom, address, 0); table.Any(dom) {
			t.Errorf("%s was learned", address)
		}
	}
	// The bound: the oldest goes.
	for i := range 4 {
		table.Learn("c", dom, fmt.Sprintf("u%d@example.org", i), int64(i))
	}
	if unknown("u0@example.org", 0) || !unknown("u1@example.org", 0) || !unknown("u3@example.org", 0) || len(table.domains[dom].until) != 3 {
		t.Error("the bound of a domain is not kept")
	}
}

func TestLearnedDomains(t *testing.T) {
	table := NewTable(Limits{Lifetime: time.Hour, Domains: 2})
	table.Learn("c", "a.example", "x@a.example", 0)
	table.Learn("c", "b.example", "x@b.example", int64(time.Minute))
	if table.Learn("c", "c.example", "x@c.example", int64(time.Minute)); table.Any("c.example") {
		t.Error("more domains than there may be")
	}
	// What is learned is learned in a session: those are no way around the bound.
	table.Online([]string{"c.example"})
	if table.Learn("c", "c.example", "x@c.example", int64(time.Minute)); table.Any("c.example") {
		t.Error("more domains than there may be, in a session")
	}
	table.Offline([]string{"c.example"})
	table.Online([]string{"d.example", "e.example"}) // nothing is known of their recipients
	if table.Learn("c", "c.example", "x@c.example", int64(time.Hour)); !table.Any("c.example") || table.Any("a.example") {
		t.Error("what is over does not make room")
	}
}

// TestDomainsAreShared: who has more domains than there is room for keeps nobody's out, and loses no more than that room.
func TestDomainsAreShared(t *testing.T) {
	const most = 100
	table := NewTable(Limits{Domains: most})
	known := func(owner string) (n int) {
		for i := range 5 * most {
			name := fmt.Sprintf("%s%d.example", owner, i)
			if table.Unknown(owner, name, []byte("gone@"+name), 1) {
				n++
			}
		}
		return n
	}
	learn := func(owner string, n int) {
		for i := range n {
			name := fmt.Sprintf("%s%d.example", owner, i)
			table.Learn(owner, name, "gone@"+name, 1)
		}
	}
	learn("many", 5*most)
	if n := known("many"); n != most {
		t.Errorf("%d of %d while nobody else has any", n, most)
	}
	learn("few", 3)
	learn("two", 2)
	learn("many", 5*most)
	if many, few, two := known("many"), known("few"), known("two"); many != most-5 || few != 3 || two != 2 {
		t.Errorf("%d, %d and %d", many, few, two)
	}
	learn("much", 5*most) // they share what is left, and push nobody out in turns
	learn("many", 5*most)
	if many, much, few, two := known("many"), known("much"), known("few"), known("two"); many+much != most-5 || max(many, much)-min(many, much) > 1 || few != 3 || two != 2 {
		t.Errorf("%d, %d, %d and %d", many, much, few, two)
	}
	// A domain that moves counts for whose it is, and what is forgotten for nobody.
	table.Learn("few", "two0.example", "gone@two0.example", 1)
	table.Accept("few0.example", "gone@few0.example")
	if table.owned["two"] != 1 || table.owned["few"] != 3 || table.known != most-1 {
		t.Errorf("%v, %d in all", table.owned, table.known)
	}
	table.sweep(1 + int64(DefaultLifetime))
	if table.known != 0 || len(table.owned) != 0 || len(table.domains) != 0 {
		t.Errorf("after all was forgotten: %d, %v, %d domains", table.known, table.owned, len(table.domains))
	}
}
