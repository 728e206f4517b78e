package account

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	"pgregory.net/rapid"
)

func TestEditKeepsTheRest(t *testing.T) {
	path := writeFile(t, goodFile)
	// Nothing changed: nothing is written, not even a tidier form.
	before, _ := os.Stat(path)
	if err := Edit(path, func(*Document) error { return nil }); err != nil {
		t.Fatal(err)
	}
	if after, _ := os.Stat(path); !os.SameFile(before, after) || readText(t, path) != goodFile {
		t.Error("the file was written without need")
	}
	// Another account changes: comments, order and spelling of the rest stay.
	if err := Edit(path, func(d *Document) error {
		return d.Replace(&Account{Name: "two words", Domains: []string{"zwei.example", "Bücher.example"}})
	}); err != nil {
		t.Fatal(err)
	}
	want := goodFile[:strings.Index(goodFile, "  domain bücher")] + "  domain xn--bcher-kva.example\n  domain zwei.example\n# the end\n"
	if got := readText(t, path); got != want {
		t.Errorf("got:\n%s\nwant:\n%s", got, want)
	}
	// The account itself changes: its comments stay, too.
	if err := Edit(path, func(d *Document) error {
		return d.Replace(&Account{Name: "tim", Domains: []string{"example.org"}})
	}); err != nil {
		t.Fatal(err)
	}
	if got := readText(t, path); !strings.HasPrefix(got, "# The customers\n# of the example ISP.\n\n# a small one\naccount tim\n\t# until March\n  domain example.org\naccount two words\n") {
		t.Errorf("got:\n%s", got)
	}
	// Adding comes last, removing takes the comment right above along and no other.
	if err := Edit(path, func(d *Document) error { return d.Add(&Account{Name: "new", Domains: []string{"new.example"}}) }); err != nil {
		t.Fatal(err)
	}
	if err := Edit(path, func(d *Document) error { return d.Remove("tim") }); err != nil {
		t.Fatal(err)
	}
	want = "# The customers\n# of the example ISP.\naccount two words\n  domain xn--bcher-kva.example\n  domain zwei.example\n# the end\n\naccount new\n  domain new.example\n"
	if got := readText(t, path); got != want {
		t.Errorf("got:\n%s\nwant:\n%s", got, want)
	}
}

func TestEditRefuses(t *testing.T) {
	path := writeFile(t, goodFile)
	for want, change := range map[string]func(*Document) error{
		`account "tim" exists already`:                                    func(d *Document) error { return d.Add(newAccount("tim", "x", "new.example")) },
		`domain example.org belongs to account "tim" already`:             func(d *Document) error { return d.Add(newAccount("new", "x", "new.example", "EXAMPLE.org")) },
		`domain example.com belongs to account "tim" already`:             func(d *Document) error { return d.Replace(newAccount("two words", "x", "example.com")) },
		`account "new" has no domain`:                                     func(d *Document) error { return d.Add(&Account{Name: "new"}) },
		`bad domain "new": fewer than two labels`:                         func(d *Document) error { return d.Add(newAccount("new", "x", "new")) },
		`account name "a\nb" contains a character that cannot be printed`: func(d *Document) error { return d.Add(newAccount("a\nb", "x", "new.example")) },
		`no such account: "new"`:                                          func(d *Document) error { return d.Replace(newAccount("new", "x", "new.example")) },
		`no such account: "gone"`:                                         func(d *Document) error { return d.Remove("gone") },
		`changed my mind`: func(d *Document) error {
			if err := d.Remove("tim"); err != nil {
				return err
			}
			return errors.New("changed my mind")
		},
	} {
		if err := Edit(path, change); err == nil || err.Error() != want {
			t.Errorf("got %v, want %s", err, want)
		}
	}
	if readText(t, path) != goodFile {
		t.Error("the file was changed")
	}
	os.WriteFile(path, []byte("broken\n"), 0o600)
	if err := Edit(path, func(d *Document) error { return d.Add(newAccount("x", "x", "x.example")) }); err == nil || readText(t, path) != "broken\n" {
		t.Errorf("a broken file was edited: %v", err)
	}
}

func TestEditCreates(t *testing.T) {
	path := filepath.Join(t.TempDir(), "accounts")
	if err := Edit(path, func(d *Document) error { return d.Remove("x") }); !errors.Is(err, ErrUnknown) {
		t.Errorf("%v", err)
	}
	if _, err := os.Stat(path); err == nil {
		t.Error("a file was created for nothing")
	}
	for _, name := range []string{"b", "a"} {
		if err := Edit(path, func(d *Document) error { return d.Add(newAccount(name, "x", name+".example")) }); err != nil {
			t.Fatal(err)
		}
	}
	info, err := os.Stat(path)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%v %v", info.Mode(), err)
	}
	if text := readText(t, path); !strings.HasPrefix(text, fileHeader+"\naccount b\n") || !strings.Contains(text, "\n\naccount a\n") {
		t.Errorf("%s", text)
	}
	// The last account may go and leaves the header.
	for _, name := range []string{"b", "a"} {
		if err := Edit(path, func(d *Document) error { return d.Remove(name) }); err != nil {
			t.Fatal(err)
		}
	}
	if text := readText(t, path); text != fileHeader {
		t.Errorf("%q", text)
	}
	entries, _ := os.ReadDir(filepath.Dir(path))
	if len(entries) != 1 {
		t.Errorf("left behind: %v", entries)
	}
}

// The server, under its own user, must be able to read what root edited: owner and the group's right
// to read stay; others lose theirs.
func TestEditKeepsOwnerAndMode(t *testing.T) {
	for given, want := range map[os.FileMode]os.FileMode{0o600: 0o600, 0o640: 0o640, 0o644: 0o640, 0o666: 0o640, 0o400: 0o400} {
		path := writeFile(t, goodFile)
		if err := os.Chmod(path, given); err != nil {
			t.Fatal(err)
		}
		owner := uint32(os.Geteuid())
		if owner == 0 { // only root can give files away
			owner = 12345
			if err := os.Chown(path, int(owner), int(owner)); err != nil {
				t.Fatal(err)
			}
		}
		if err := Edit(path, func(d *Document) error { return d.Remove("tim") }); err != nil {
			t.Fatal(err)
		}
		var st unix.Stat_t
		if err := unix.Stat(path, &st); err != nil || st.Uid != owner || os.FileMode(st.Mode).Perm() != want {
			t.Errorf("%v became %v, owner %d, %v", given, os.FileMode(st.Mode).Perm(), st.Uid, err)
		}
	}
}

func TestEditFollowsLinks(t *testing.T) {
	path := writeFile(t, goodFile)
	link := filepath.Join(t.TempDir(), "link")
	if err := os.Symlink(path, link); err != nil {
		t.Fatal(err)
	}
	if err := Edit(link, func(d *Document) error { return d.Remove("tim") }); err != nil {
		t.Fatal(err)
	}
	if info, err := os.Lstat(link); err != nil || info.Mode()&os.ModeSymlink == 0 || strings.Contains(readText(t, path), "tim") {
		t.Errorf("%v %v", info, err)
	}
}

// Many editors at once lose nobody's change.
func TestEditsAtOnce(t *testing.T) {
	path := filepath.Join(t.TempDir(), "accounts")
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			for j := range 5 {
				name := fmt.Sprintf("a%d-%d", i, j)
				if err := Edit(path, func(d *Document) error { return d.Add(newAccount(name, "x", name+".example")) }); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	doc, err := Load(path)
	if err != nil || len(doc.Accounts()) != 40 {
		t.Errorf("%d accounts, %v", len(doc.Accounts()), err)
	}
}

// A reader that comes at any moment finds a whole file.
func TestReadersDuringEdits(t *testing.T) {
	path := writeFile(t, goodFile)
	done := make(chan struct{})
	go func() {
		defer close(done)
		for i := range 40 {
			if err := Edit(path, func(d *Document) error { return d.Add(newAccount(fmt.Sprint(i), "x", fmt.Sprintf("d%d.example", i))) }); err != nil {
				t.Error(err)
			}
		}
	}()
	for last := 0; ; {
		doc, err := Load(path)
		if err != nil || len(doc.Accounts()) < last {
			t.Errorf("%v", err)
			break
		}
		if last = len(doc.Accounts()); last == 42 {
			break
		}
	}
	<-done
}

// drawAccounts makes accounts with distinct names and domains.
func drawAccounts(t *rapid.T) []*Account {
	names := rapid.SliceOfNDistinct(rapid.StringMatching(`[#a-zA-Zäöü0-9@._-]{1,12}( [a-z#]{1,5})?`), 1, 8, rapid.ID).Draw(t, "names")
	label := rapid.StringMatching(`[a-z0-9]([a-z0-9-]{0,8}[a-z0-9])?`).Filter(func(s string) bool {
		return len(s) < 4 || s[2:4] != "--"
	})
	domain := rapid.Custom(func(t *rapid.T) string {
		return label.Draw(t, "label") + "." + rapid.SampledFrom([]string{"example", "org", "test"}).Draw(t, "tld")
	})
	domains := rapid.SliceOfNDistinct(domain, len(names), 3*len(names), rapid.ID).Draw(t, "domains")
	out := make([]*Account, len(names))
	for i, n := range names {
		out[i] = &Account{Name: n, OwnHostname: rapid.Bool().Draw(t, "own-hostname")}
		if rapid.Bool().Draw(t, "settings") {
			out[i].Policy = Policy{
				Retention: time.Duration(rapid.Int64Range(int64(minRetention), int64(maxRetention)).Draw(t, "retention")),
				Linger:    Off, Bounce: Switch(rapid.IntRange(0, 2).Draw(t, "bounce")), QuotaMessages: rapid.Int64Range(Unlimited, maxQuota).Draw(t, "quota"),
			}
		}
		if rapid.Bool().Draw(t, "cram-md5") {
			out[i].CRAMMD5 = DeriveCRAMMD5(rapid.String().Draw(t, "password"))
		}
		if rapid.Bool().Draw(t, "scram") {
			k := &SCRAMKeys{Salt: rapid.SliceOfN(rapid.Byte(), SCRAMSaltSize, maxSalt).Draw(t, "salt")}
			k.Iterations = rapid.IntRange(minIterations, maxIterations).Draw(t, "iterations")
			copy(k.StoredKey[:], rapid.SliceOfN(rapid.Byte(), 32, 32).Draw(t, "key"))
			out[i].SCRAMSHA256 = k
		}
	}
	for i, d := range domains {
		a := out[i%len(out)]
		a.Domains = append(a.Domains, d)
	}
	return out
}

// What is added, replaced and removed is what is read back; what is written parses; a file
// that is parsed and written again is the same.
func TestDocumentProperties(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		doc := newDocument(0)
		if rapid.Bool().Draw(t, "comments only") {
			var err error
			if doc, err = Parse("x", []byte("# comment\n\n# other")); err != nil {
				t.Fatal(err)
			}
		}
		want := make(map[string]*Account)
		for _, a := range drawAccounts(t) {
			if err := doc.Add(a); err != nil {
				t.Fatal(err)
			}
			want[a.Name], _ = doc.Lookup(a.Name)
		}
		for step := range rapid.IntRange(0, 6).Draw(t, "steps") {
			text := doc.Append(nil)
			again, err := Parse("x", text)
			if err != nil {
				t.Fatalf("cannot be read back: %v\n%s", err, text)
			}
			if got := again.Append(nil); !bytes.Equal(got, text) {
				t.Fatalf("changed by reading:\n%s\n%s", text, got)
			}
			got := make(map[string]*Account)
			for _, a := range again.Accounts() {
				got[a.Name] = a
			}
			if !reflect.DeepEqual(got, want) {
				t.Fatalf("read back %v, want %v\n%s", got, want, text)
			}
			doc = again
			accounts := doc.Accounts()
			if len(accounts) == 0 {
				break
			}
			a := *rapid.SampledFrom(accounts).Draw(t, "victim")
			if rapid.Bool().Draw(t, "remove") {
				err = doc.Remove(a.Name)
				delete(want, a.Name)
			} else {
				a.Domains = append([]string{fmt.Sprintf("step%d.invalid", step)}, a.Domains...)
				a.OwnHostname = !a.OwnHostname
				err = doc.Replace(&a)
				want[a.Name], _ = doc.Lookup(a.Name)
			}
			if err != nil {
				t.Fatal(err)
			}
		}
	})
}

// FuzzParse: no file makes the parser panic; what it takes is consistent and survives being written.
func FuzzParse(f *testing.F) {
	for _, s := range []string{goodFile, "", "\n", "#", "account a\r\n\tdomain a.example\r\n", "account a\ndomain a.example b.example",
		"account # x\n#\n#\n\n domain xn--bcher-kva.example\n#\naccount b\n domain b.example\n#", "account a\ndomain a.example\naccount a\n", "account\n\x00domain"} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		doc, err := Parse("x", bytes.Clone(data))
		if err != nil {
			var p *ParseError
			if !errors.As(err, &p) || p.Line < 1 || p.Line > bytes.Count(data, []byte("\n"))+1 || p.Reason == "" {
				t.Fatalf("%v", err)
			}
			return
		}
		if _, err := NewTable(doc.Accounts()...); err != nil {
			t.Fatalf("an inconsistent table: %v", err)
		}
		if text := doc.Append(nil); !bytes.Equal(bytes.TrimSuffix(text, []byte("\n")), bytes.TrimSuffix(data, []byte("\n"))) {
			t.Fatalf("not kept: %q became %q", data, text)
		}
		for _, a := range doc.Accounts() { // written anew, it says the same
			if err := doc.Replace(a); err != nil {
				t.Fatal(err)
			}
		}
		again, err := Parse("x", doc.Append(nil))
		if err != nil || !reflect.DeepEqual(again.table(), doc.table()) {
			t.Fatalf("%q became %q: %v", data, doc.Append(nil), err)
		}
	})
}
