package main

import (
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"odmr/internal/admin"
	"odmr/internal/mail"
	"odmr/queue"
	"odmr/queue/pebblestore"
)

// A fixed moment for everything in the queue, and a later one at which it is looked at.
var (
	arrived = time.Unix(1_700_000_000, 0)
	looked  = arrived.Add(3*time.Hour + 7*time.Minute)
)

// dataDir is a data directory whose path leaves room for the control socket's name.
func dataDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "odmrctl-test-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

func open(t *testing.T, data string) *pebblestore.Store {
	t.Helper()
	store, err := pebblestore.Open(admin.QueueDir(data), pebblestore.Options{Now: func() time.Time { return arrived }})
	if err != nil {
		t.Fatal(err)
	}
	return store
}

// put queues body for box@ each domain.
func put(t *testing.T, store queue.Store, body string, domains ...string) mail.ID {
	t.Helper()
	in, err := store.Begin(0)
	if err != nil {
		t.Fatal(err)
	}
	var envelopes []mail.Envelope
	for _, d := range domains {
		envelopes = append(envelopes, mail.Envelope{
			Domain: d, Arrived: arrived.UnixNano(), ReversePath: "sender@isp.example", Client: "192.0.2.1", EnvID: "e1",
			Size: int64(len(body)) - 1, WireSize: int64(len(body)), Stuffed: true,
			Recipients: []mail.Recipient{{Address: "box@" + d}, {Address: "gone@" + d, Notify: mail.NotifyFailure, ORcpt: "rfc822;x@y.example"}},
		})
	}
	if err := in.Commit([]byte(body), envelopes); err != nil {
		t.Fatal(err)
	}
	return in.ID()
}

// failOne settles the second recipient of the first message of domain with a refusal that holds an
// escape sequence.
func failOne(t *testing.T, store queue.Store, domain string) {
	t.Helper()
	lease, err := store.Acquire([]string{domain})
	if err != nil {
		t.Fatal(err)
	}
	defer lease.Release()
	got, err := lease.Next(nil, queue.Limit{Messages: 1, Bytes: 1 << 20})
	if err != nil || len(got) != 1 {
		t.Fatalf("Next: %v, %v", got, err)
	}
	got[0].Body.Close()
	if err := lease.Settle([]queue.Settlement{{Key: got[0].Key, Outcomes: []mail.Outcome{
		{Status: mail.OutcomeDeferred, Reply: "451 4.2.0 later"}, {Status: mail.OutcomeFailed, Reply: "550 5.1.1 gone \x1b[2J"},
	}}}); err != nil {
		t.Fatal(err)
	}
}

func ctl(t *testing.T, data string, args ...string) (int, string, string) {
	t.Helper()
	return command(t, data, append([]string{"queue"}, args...)...)
}

// command runs odmrctl on data and returns its status and what it wrote.
func command(t *testing.T, data string, args ...string) (int, string, string) {
	t.Helper()
	var out, errs strings.Builder
	s := &surroundings{stdout: &out, stderr: &errs, now: func() time.Time { return looked }}
	code := run(append([]string{"--data=" + data}, args...), s)
	return code, out.String(), errs.String()
}

// TestQueueOnlineAndOffline runs every command on a stopped server's queue and on a running
// one's: the output is the same, and what it should be.
func TestQueueOnlineAndOffline(t *testing.T) {
	t.Setenv("TZ", "UTC")
	for _, online := range []bool{false, true} {
		data := dataDir(t)
		store := open(t, data)
		first := put(t, store, "Subject: x\r\n\r\n..dot\r\n", "one.example", "two.example").String()
		second := put(t, store, "y\r\n", "one.example").String()
		failOne(t, store, "one.example")
		if online {
			defer serve(t, data, store)()
		} else if err := store.Close(); err != nil {
			t.Fatal(err)
		}
		entry := func(id, domain, size, second string) string {
			return id + "  " + domain + "  3h07m  " + size + "  from <sender@isp.example>\n    to <box@" + domain + ">  " + second
		}
		inOne := entry(first, "one.example", "21B", "waiting: 451 4.2.0 later\n    to <gone@one.example>  failed: 550 5.1.1 gone ?[2J\n")
		alsoOne := entry(second, "one.example", "3B", "waiting\n    to <gone@one.example>  waiting\n")
		inTwo := entry(first, "two.example", "21B", "waiting\n    to <gone@two.example>  waiting\n")
		for _, c := range []struct {
			args []string
			code int
			want string
			errs string
		}{
			{[]string{"domains"}, 0, "one.example  2 messages, 24B, 0 failed, 0 held\ntwo.example  1 message, 21B, 0 failed, 0 held\n", ""},
			{[]string{"list"}, 0, inOne + alsoOne + inTwo + "3 messages, 45B\n", ""},
			{[]string{"list", "--domain", "TWO.example"}, 0, inTwo + "1 message, 21B\n", ""},
			{[]string{"list", "--limit=1"}, 0, inOne + "1 message, 21B\n", ""},
			{[]string{"list", "--domain=none.example"}, 0, "0 messages, 0B\n", ""},
			{[]string{"list", "--domain=.."}, exitUsage, "", "odmrctl: "},
			{[]string{"show", first, "--body"}, 0, "Subject: x\r\n\r\n.dot\r\n", ""},
			{[]string{"show", "0000000000000"}, exitFailed, "", "0000000000000: "},
			{[]string{"show", "short"}, exitUsage, "", `"short" is not a queue id`},
			{[]string{"check"}, 0, "checked 2 domains, 3 entries, 2 bodies, 0 chunks: 0 problems\n", ""},
			{[]string{"remove", second, "0000000000000"}, exitFailed, second + " removed from 1 queue\n", "0000000000000: "},
			{[]string{"remove", first, "--domain=two.example"}, 0, first + " removed from 1 queue\n", ""},
			{[]string{"list"}, 0, inOne + "1 message, 21B\n", ""},
			{[]string{"remove"}, exitUsage, "", "odmrctl: "},
		} {
			code, out, errs := ctl(t, data, c.args...)
			if code != c.code || out != c.want || !strings.Contains(errs, c.errs) || (c.errs == "") != (errs == "") {
				t.Errorf("online %v, %v: status %d\n%s%s\nwant %d\n%s%s", online, c.args, code, out, errs, c.code, c.want, c.errs)
			}
		}
		checkJSON(t, data, first)
		_, out, _ := ctl(t, data, "show", first)
		for _, want := range []string{inOne, "arrived 2023-11-14T22:13:20Z from 192.0.2.1, 20 octets as 7BIT, sent 1 times in vain", "ENVID=e1",
			"<gone@one.example> NOTIFY=FAILURE ORCPT=rfc822;x@y.example"} {
			if !strings.Contains(out, want) {
				t.Errorf("show lacks %q:\n%s", want, out)
			}
		}
	}
}

// serve opens the control socket as a running server does; the function returned ends it.
func serve(t *testing.T, data string, store *pebblestore.Store) func() {
	t.Helper()
	s, err := admin.ServeControl(data, store, nil)
	if err != nil {
		t.Fatal(err)
	}
	return func() {
		if err := s.Shutdown(context.Background()); err != nil {
			t.Error(err)
		}
		if err := store.Close(); err != nil {
			t.Error(err)
		}
	}
}

func checkJSON(t *testing.T, data, id string) {
	t.Helper()
	for _, args := range [][]string{{"list", "--json"}, {"show", id, "--json"}} {
		_, out, _ := ctl(t, data, args...)
		var m admin.Message
		if err := json.Unmarshal([]byte(out), &m); err != nil || m.ID != id || m.Sender != "sender@isp.example" ||
			m.Recipients[1].State != "failed" || m.Recipients[1].Reply != "550 5.1.1 gone \x1b[2J" || !m.Arrived.Equal(arrived) {
			t.Errorf("%v: %+v (%v) from\n%s", args, m, err, out)
		}
	}
	_, out, _ := ctl(t, data, "domains", "--json")
	if want := `{"domain":"one.example","messages":1,"bytes":21,"failed":0,"held":0,"kept_bytes":0,"untold":1}` + "\n"; out != want {
		t.Errorf("domains: %s, want %s", out, want)
	}
	_, out, _ = ctl(t, data, "check", "--json")
	var r checkResult
	if err := json.Unmarshal([]byte(out), &r); err != nil || r.Entries != 1 || r.Problems == nil || len(r.Problems) != 0 {
		t.Errorf("check: %+v (%v) from\n%s", r, err, out)
	}
}

func TestQueueCannotBeOpened(t *testing.T) {
	if code, _, errs := ctl(t, dataDir(t), "list"); code != exitFailed || !strings.Contains(errs, "there is no queue in") {
		t.Errorf("empty directory: %d %s", code, errs)
	}
	if code, _, errs := ctl(t, "", "list"); code != exitUsage || !strings.Contains(errs, "--data DIR") {
		t.Errorf("no directory: %d %s", code, errs)
	}
	data := dataDir(t)
	store := open(t, data)
	defer store.Close()
	if code, _, errs := ctl(t, data, "list"); code != exitFailed || !strings.Contains(errs, "in use") {
		t.Errorf("locked: %d %s", code, errs)
	}
	if os.Geteuid() == 0 {
		if err := os.Chown(admin.QueueDir(data), 65534, 65534); err != nil {
			t.Fatal(err)
		}
		if code, _, errs := ctl(t, data, "list"); code != exitFailed || !strings.Contains(errs, "run this as that user") {
			t.Errorf("another user's queue: %d %s", code, errs)
		}
	}
}

// TestQueueCheckFindsDamage: a check that cannot fail is none.
func TestQueueCheckFindsDamage(t *testing.T) {
	data := dataDir(t)
	store := open(t, data)
	put(t, store, strings.Repeat("0123456789\r\n", 100_000), "one.example")
	// The log says in a later record up to where it was synced. Damage behind the last such place cannot be told from a
	// write that power was lost in.
	for range 3 {
		put(t, store, "x\r\n", "two.example")
	}
	if err := store.Close(); err != nil {
		t.Fatal(err)
	}
	damaged := false
	files, err := filepath.Glob(filepath.Join(admin.QueueDir(data), "*.log"))
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range files {
		content, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		if at := strings.Index(string(content), "0123456789\r\n"); at > 0 {
			content[at+3] ^= 1
			damaged = true
			if err := os.WriteFile(name, content, 0o600); err != nil {
				t.Fatal(err)
			}
		}
	}
	if !damaged {
		t.Fatalf("no file to damage among %v", files)
	}
	code, out, errs := ctl(t, data, "check")
	if code != exitFailed || !strings.Contains(errs, "invalid chunk") {
		t.Errorf("check of a damaged store: %d\n%s%s", code, out, errs)
	}
}

func TestTexts(t *testing.T) {
	for d, want := range map[time.Duration]string{
		-time.Second: "0s", 59 * time.Second: "59s", 61 * time.Second: "1m01s", 25 * time.Hour: "1d01h", 90 * time.Minute: "1h30m",
	} {
		if got := ageText(d); got != want {
			t.Errorf("ageText(%v) = %s, want %s", d, got, want)
		}
	}
	for n, want := range map[int64]string{0: "0B", 1023: "1023B", 1536: "1.5KiB", 50 << 20: "50.0MiB", 3 << 40: "3.0TiB"} {
		if got := sizeText(n); got != want {
			t.Errorf("sizeText(%d) = %s, want %s", n, got, want)
		}
	}
}
