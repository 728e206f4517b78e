package account

import (
	"slices"
	"strings"
	"testing"
)

// A list of recipients is read from the file in any order, and written back so that it reads the same.
func TestRecipientsInFile(t *testing.T) {
	text := "account tim\n  domain example.org b\u00fccher.example\n  recipient Tim@example.org anna@EXAMPLE.org\n  recipient @b\u00fccher.example tim@example.org a@example.org b@example.org c@example.org\n"
	want := []string{"example.org a", "example.org anna", "example.org b", "example.org c", "example.org tim", "xn--bcher-kva.example "}
	for round := range 2 {
		d, err := Parse("accounts", []byte(text))
		if err != nil {
			t.Fatal(err)
		}
		a, err := d.Lookup("tim")
		if err != nil || !slices.Equal(a.Recipients, want) {
			t.Fatalf("round %d: %q, %v", round, a.Recipients, err)
		}
		b := *a
		if err := d.Replace(&b); err != nil {
			t.Fatal(err)
		}
		text = string(d.Append(nil))
	}
	if !strings.Contains(text, "  recipient a@example.org anna@example.org b@example.org c@example.org tim@example.org\n  recipient @xn--bcher-kva.example\n") {
		t.Errorf("written as\n%s", text)
	}
	for _, bad := range []string{"recipient", "recipient tim", "recipient tim@", "recipient tim@..", "recipient " + strings.Repeat("x", 300) + "@example.org"} {
		if _, err := Parse("accounts", []byte("account tim\n domain example.org\n "+bad+"\n")); err == nil {
			t.Errorf("%.40q was taken", bad)
		}
	}
}

// What cannot stand in the file is refused as an address, where the list can name its line, and nothing is listed as something else.
func TestRecipientsThatCannotBeListed(t *testing.T) {
	for _, local := range []string{"a b", "a\tb", "a\vb", "a\u00a0b", "a\u0085b", "a\x1b[31mb", "a\x00b", "a\xffb", "\u2028"} {
		if entry, err := ParseRecipient(local + "@example.org"); err == nil {
			t.Errorf("%q is listed as %q", local, entry)
		}
	}
}
