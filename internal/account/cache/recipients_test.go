package cache

import (
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"odmr/internal/account"
)

// TestRecipients: a list is remembered; one that a refusal rests on is no older than NegativeTTL; and an outage, or a list that cannot be used, is
// no list at all.
func TestRecipients(t *testing.T) {
	f := newFixture(t, tim())
	d, s, seen := f.Directory, f.shop, f.seen
	s.lists = map[string][]string{"tim": {"a@example.org", " B@Example.org"}}
	list := []string{"example.org a", "example.org b"}
	wants := func(what string, got, want []string, asked int) {
		t.Helper()
		if !slices.Equal(got, want) || s.times("recipients tim") != asked {
			t.Errorf("%s: %q after %d questions, want %q after %d", what, got, s.times("recipients tim"), want, asked)
		}
	}
	wants("first", d.Recipients("tim"), list, 1)
	wants("again", d.RecentRecipients("tim"), list, 1)
	f.clock.Add(11 * time.Second)
	wants("later", d.Recipients("tim"), list, 1)
	s.mu.Lock()
	s.lists["tim"] = append(s.lists["tim"], "c@example.org")
	s.mu.Unlock()
	longer := append(slices.Clone(list), "example.org c")
	wants("for a refusal", d.RecentRecipients("tim"), longer, 2)
	wants("which others have, too", d.Recipients("tim"), longer, 2)
	if got := d.Recipients("nobody"); len(got) != 0 {
		t.Errorf("nobody's: %q", got)
	}
	f.clock.Add(2 * time.Minute)
	s.fail(errors.New("gone"))
	wants("while it is down", d.Recipients("tim"), nil, 3)
	wants("for a refusal, while it is down", d.RecentRecipients("tim"), nil, 3)
	s.fail(nil)
	if err := d.Check(t.Context()); err != nil {
		t.Fatal(err)
	}
	s.mu.Lock()
	s.lists["tim"] = []string{"a@example.org", "not an address"}
	s.mu.Unlock()
	wants("one that cannot be used", d.RecentRecipients("tim"), nil, 4)
	if seen.of(&seen.unusable) != 1 || seen.of(&seen.down) != 1 {
		t.Errorf("unusable %d times, down %d times", seen.of(&seen.unusable), seen.of(&seen.down))
	}
	s.mu.Lock()
	s.lists["tim"] = []string{"d@example.org"}
	s.mu.Unlock()
	d.Drop()
	wants("after Drop", d.Recipients("tim"), []string{"example.org d"}, 5)
}

// TestRecipientsTakeBoundedRoom: many lists that are long push each other out.
func TestRecipientsTakeBoundedRoom(t *testing.T) {
	f := newFixture(t)
	d, s := f.Directory, f.shop
	s.lists = map[string][]string{}
	const each, fit = 100, 50
	for i := range 3 * fit {
		var list []string
		for n := range each {
			list = append(list, fmt.Sprintf("u%d@x%d.example", n, i))
		}
		s.lists[fmt.Sprint("a", i)] = list
	}
	if d.lists.room < account.MaxRecipients {
		t.Errorf("no room for the longest list: %d", d.lists.room)
	}
	d.lists.room = fit*each + 1
	for name := range s.lists {
		if n := len(d.Recipients(name)); n != each {
			t.Fatalf("%s has %d", name, n)
		}
		if d.lists.used > d.lists.room {
			t.Fatalf("%d recipients are remembered, and %d may be", d.lists.used, d.lists.room)
		}
	}
	if d.lists.used != d.lists.lru.Len()*each || d.lists.used != fit*each {
		t.Errorf("%d recipients are said to be remembered, in %d lists", d.lists.used, d.lists.lru.Len())
	}
}
