package admin

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"odmr/internal/mail"
	"odmr/queue"
	"odmr/queue/pebblestore"
)

// shortDir is a directory whose path leaves room for a unix socket's name (108 octets).
func shortDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "odmr-admin-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

// running opens a store and its control socket, and returns both ends.
func running(t *testing.T) (dir string, store *pebblestore.Store, client *Client) {
	t.Helper()
	dir = shortDir(t)
	store, err := pebblestore.Open(QueueDir(dir), pebblestore.Options{Now: time.Now})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := store.Close(); err != nil {
			t.Error(err)
		}
	})
	s, err := ServeControl(dir, store, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Shutdown(context.Background()); err != nil {
			t.Error(err)
		}
	})
	if client, err = Dial(t.Context(), dir); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(client.Close)
	return dir, store, client
}

// put queues a message for one recipient in each of domains.
func put(t *testing.T, store queue.Store, body string, domains ...string) mail.ID {
	t.Helper()
	in, err := store.Begin(int64(len(body)))
	if err != nil {
		t.Fatal(err)
	}
	var envelopes []mail.Envelope
	for _, d := range domains {
		envelopes = append(envelopes, mail.Envelope{
			Domain: d, Arrived: 1700000000_123456789, ReversePath: "sender@isp.example", Size: int64(len(body)), WireSize: int64(len(body)),
			Body: mail.Body8BitMIME, EightBit: true, Ret: mail.ReturnHeaders, EnvID: "e1", Client: "127.0.0.1",
			Recipients: []mail.Recipient{{Address: "box@" + d, Notify: mail.NotifyFailure | mail.NotifyDelay, ORcpt: "rfc822;a@b.example"}},
		})
	}
	if err := in.Commit([]byte(body), envelopes); err != nil {
		t.Fatal(err)
	}
	return in.ID()
}

// collect gathers what an Admin shows, for comparing two of them.
func collect(t *testing.T, q queue.Admin) string {
	t.Helper()
	var b strings.Builder
	if err := q.Domains(func(d string, c queue.Counts) bool {
		fmt.Fprintln(&b, d, c)
		return true
	}); err != nil {
		t.Fatal(err)
	}
	for _, domain := range []string{"", "one.example", "none.example"} {
		if err := q.List(domain, func(e queue.Entry) bool {
			fmt.Fprintf(&b, "%q %+v\n", domain, e)
			return true
		}); err != nil {
			t.Fatal(err)
		}
	}
	return b.String()
}

// TestClientShowsWhatTheStoreShows compares both ends of the socket.
func TestClientShowsWhatTheStoreShows(t *testing.T) {
	_, store, client := running(t)
	big := strings.Repeat("0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcd\r\n", 8000)
	ids := []mail.ID{
		put(t, store, "Subject: a\r\n\r\na\r\n", "one.example", "two.example"),
		put(t, store, big[:200_000], "one.example"),
		put(t, store, "", "two.example"),
	}
	want := collect(t, store)
	if strings.Count(want, "\n") != 2+4+2 {
		t.Fatalf("the store shows\n%s", want)
	}
	if got := collect(t, client); got != want {
		t.Errorf("the client shows\n%s\nthe store\n%s", got, want)
	}
	for i, id := range ids {
		fromStore, err := store.Show(id)
		fromClient, err2 := client.Show(id)
		if err != nil || err2 != nil || !reflect.DeepEqual(fromStore, fromClient) {
			t.Errorf("message %d: %+v (%v), store %+v (%v)", i, fromClient, err2, fromStore, err)
		}
		if got, want := read(t, client, id), read(t, store, id); got != want {
			t.Errorf("message %d: body of %d octets, store's has %d", i, len(got), len(want))
		}
	}
	seen := 0
	if err := client.List("", func(queue.Entry) bool { seen++; return false }); err != nil || seen != 1 {
		t.Errorf("List went on after false: %d entries, %v", seen, err)
	}
}

func read(t *testing.T, q queue.Admin, id mail.ID) string {
	t.Helper()
	body, err := q.Open(id)
	if err != nil {
		t.Fatal(err)
	}
	defer body.Close()
	var b bytes.Buffer
	if err := CopyBody(&b, body); err != nil {
		t.Fatal(err)
	}
	if int64(b.Len()) != body.Size() {
		t.Errorf("%d octets, Size says %d", b.Len(), body.Size())
	}
	return b.String()
}

func TestClientRemoves(t *testing.T) {
	_, store, client := running(t)
	id := put(t, store, "x\r\n", "one.example", "two.example")
	other := put(t, store, "y\r\n", "one.example")
	if n, err := client.Remove("one.example", id); n != 1 || err != nil {
		t.Errorf("Remove from one domain: %d, %v", n, err)
	}
	if got := store.Counts("one.example").Messages + 10*store.Counts("two.example").Messages; got != 11 {
		t.Errorf("counts after Remove: %d", got)
	}
	if n, err := client.Remove("", id); n != 1 || err != nil {
		t.Errorf("Remove from all: %d, %v", n, err)
	}
	if _, err := client.Remove("", id); !errors.Is(err, queue.ErrNotFound) {
		t.Errorf("Remove again: %v", err)
	}
	lease, err := store.Acquire([]string{"one.example"})
	if err != nil {
		t.Fatal(err)
	}
	defer lease.Release()
	if _, err := client.Remove("one.example", other); !errors.Is(err, queue.ErrBusy) {
		t.Errorf("Remove from a leased domain: %v", err)
	}
}

func TestClientErrors(t *testing.T) {
	_, _, client := running(t)
	if _, err := client.Show(77); !errors.Is(err, queue.ErrNotFound) {
		t.Errorf("Show: %v", err)
	}
	if _, err := client.Open(77); !errors.Is(err, queue.ErrNotFound) {
		t.Errorf("Open: %v", err)
	}
}

func TestClientChecks(t *testing.T) {
	_, store, client := running(t)
	for range 5 {
		put(t, store, "x\r\n", "one.example")
	}
	progressed := false
	report := func(v queue.Violation) { t.Errorf("violation %+v", v) }
	got, err := client.Check(t.Context(), func(done, total int64) { progressed = done <= total }, report)
	want, err2 := store.Check(t.Context(), nil, report)
	if err != nil || err2 != nil || got != want || got.Entries != 5 {
		t.Errorf("Check: %+v (%v), store %+v (%v)", got, err, want, err2)
	}
	if !progressed {
		t.Error("no progress was reported")
	}
}

// TestPaging uses the socket as a script would.
func TestPaging(t *testing.T) {
	dir, store, _ := running(t)
	var ids []string
	for i := range 5 {
		ids = append(ids, put(t, store, strings.Repeat("x", i)+"\r\n", "one.example").String())
	}
	for query, want := range map[string][]string{
		"?domain=one.example&limit=2":                 ids[:2],
		"?domain=one.example&limit=2&after=" + ids[1]: ids[2:4],
		"?domain=one.example&limit=9&after=" + ids[3]: ids[4:],
		"?domain=one.example&after=" + ids[4]:         nil,
		"?limit=0":                                    {"400 limit:"},
		"?after=" + ids[0]:                            {"400 after: needs domain"},
		"?domain=one.example&after=zz":                {"400 after:"},
	} {
		status, body := raw(t, dir, "/queue/messages"+query)
		if len(want) == 1 && strings.HasPrefix(want[0], "400 ") {
			if status != 400 || !strings.Contains(body, want[0][4:]) {
				t.Errorf("%s: %d %s", query, status, body)
			}
			continue
		}
		var got []string
		for _, l := range strings.Split(body, "\n") {
			if _, rest, ok := strings.Cut(l, `{"message":{"id":"`); ok {
				got = append(got, rest[:13])
			}
		}
		if status != 200 || !reflect.DeepEqual(got, want) || !strings.HasSuffix(body, "{\"end\":true}\n") {
			t.Errorf("%s: %d %v, want %v in\n%s", query, status, got, want, body)
		}
	}
}

// raw asks the control socket without Client.
func raw(t *testing.T, dir, path string) (int, string) {
	t.Helper()
	c := http.Client{Transport: &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", SocketPath(dir))
	}}}
	r, err := http.NewRequest(http.MethodGet, "http://x"+path, nil)
	if err != nil {
		t.Fatal(err)
	}
	status, _, body := reply(t, &c, r)
	return status, body
}

// TestBrokenAnswer: an answer without its last line is an error, not a short list.
func TestBrokenAnswer(t *testing.T) {
	dir := shortDir(t)
	l, err := net.Listen("unix", SocketPath(dir))
	if err != nil {
		t.Fatal(err)
	}
	s := Serve(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		io.WriteString(w, `{"domain":{"domain":"one.example","messages":1}}`+"\n")
	}), l)
	defer s.Shutdown(context.Background())
	client, err := Dial(t.Context(), dir)
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	seen := 0
	if err := client.Domains(func(string, queue.Counts) bool { seen++; return true }); !errors.Is(err, errBroken) || seen != 1 {
		t.Errorf("%d domains, %v", seen, err)
	}
	if _, err := client.Check(t.Context(), nil, func(queue.Violation) {}); !errors.Is(err, errBroken) {
		t.Errorf("Check: %v", err)
	}
}

func TestSocketIsPrivateAndReplacesADeadOne(t *testing.T) {
	dir := shortDir(t)
	if _, err := Dial(t.Context(), dir); !errors.Is(err, ErrNoServer) {
		t.Errorf("Dial without a server: %v", err)
	}
	dead, err := net.Listen("unix", SocketPath(dir))
	if err != nil {
		t.Fatal(err)
	}
	dead.(*net.UnixListener).SetUnlinkOnClose(false)
	dead.Close()
	if _, err := Dial(t.Context(), dir); !errors.Is(err, ErrNoServer) {
		t.Errorf("Dial of a dead socket: %v", err)
	}
	store, err := pebblestore.Open(filepath.Join(dir, "q"), pebblestore.Options{Now: time.Now})
	if err != nil {
		t.Fatal(err)
	}
	defer store.Close()
	s, err := ServeControl(dir, store, nil)
	if err != nil {
		t.Fatal(err)
	}
	if info, err := os.Stat(SocketPath(dir)); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("socket: %v %v", info.Mode(), err)
	}
	if err := s.Shutdown(t.Context()); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(SocketPath(dir)); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the socket was left behind: %v", err)
	}
}

// TestMessageRoundTrip: an entry is the same after its way through JSON's type.
// A path that is too long for a socket is named as what it is; the longest one works.
func TestSocketPathTooLong(t *testing.T) {
	dir, err := os.MkdirTemp("", "s") // of a known short path
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	for octets, good := range map[int]bool{maxSocketPath: true, maxSocketPath + 1: false} {
		data := filepath.Join(dir, strings.Repeat("x", octets-len(dir)-len("//"+SocketName)))
		if err := os.Mkdir(data, 0o700); err != nil {
			t.Fatal(err)
		}
		s, err := ServeControl(data, nil, nil)
		if good != (err == nil) || !good && !strings.Contains(err.Error(), "choose a shorter --data") {
			t.Errorf("%d octets: %v", octets, err)
		}
		if err == nil {
			if err := s.Shutdown(context.Background()); err != nil {
				t.Error(err)
			}
		}
	}
}

func TestMessageRoundTrip(t *testing.T) {
	text := rapid.String()
	rapid.Check(t, func(t *rapid.T) {
		recipient := rapid.Custom(func(t *rapid.T) mail.Recipient {
			return mail.Recipient{Address: text.Draw(t, "address"), Reply: text.Draw(t, "reply"), ORcpt: text.Draw(t, "orcpt"),
				Notify: mail.Notify(rapid.IntRange(0, 15).Draw(t, "notify")), State: mail.RecipientState(rapid.IntRange(0, 2).Draw(t, "state"))}
		})
		e := queue.Entry{Leased: rapid.Bool().Draw(t, "leased"), Envelope: mail.Envelope{
			ID: mail.ID(rapid.Uint64().Draw(t, "id")), Domain: text.Draw(t, "domain"), Arrived: rapid.Int64().Draw(t, "arrived"),
			ReversePath: text.Draw(t, "path"), Body: mail.BodyType(rapid.IntRange(0, 1).Draw(t, "body")), SMTPUTF8: rapid.Bool().Draw(t, "utf8"),
			Ret: mail.Return(rapid.IntRange(0, 2).Draw(t, "ret")), EnvID: text.Draw(t, "envid"), Client: text.Draw(t, "client"),
			Size: rapid.Int64().Draw(t, "size"), WireSize: rapid.Int64().Draw(t, "wire"), Stuffed: rapid.Bool().Draw(t, "stuffed"),
			EightBit: rapid.Bool().Draw(t, "8bit"), Attempts: rapid.Uint32().Draw(t, "attempts"), InDoubt: rapid.Bool().Draw(t, "doubt"),
			Recipients: rapid.SliceOfN(recipient, 1, 4).Draw(t, "recipients"),
		}}
		m := NewMessage(&e)
		back, err := m.Entry()
		if err != nil || !reflect.DeepEqual(back, e) {
			t.Fatalf("back %+v (%v)\nwant %+v", back, err, e)
		}
	})
}
