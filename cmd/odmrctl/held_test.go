package main

import (
	"strings"
	"testing"

	"odmr/internal/mail"
	"odmr/queue"
	"odmr/queue/pebblestore"
)

// holdAll settles every recipient of what waits in domain as held.
func holdAll(t *testing.T, store *pebblestore.Store, domain string) {
	t.Helper()
	lease, err := store.Acquire([]string{domain})
	if err != nil {
		t.Fatal(err)
	}
	defer lease.Release()
	got, err := lease.Next(nil, queue.Limit{Messages: 100, Bytes: 1 << 20})
	if err != nil {
		t.Fatal(err)
	}
	for _, d := range got {
		d.Body.Close()
		o := mail.Outcome{Status: mail.OutcomeHeld, Reply: "550 5.1.1 nobody"}
		if err := lease.Settle([]queue.Settlement{{Key: d.Key, Outcomes: []mail.Outcome{o, o}}}); err != nil {
			t.Fatal(err)
		}
	}
}

// TestHeldOnlineAndOffline decides about held mail on a stopped server's queue and on a running one's.
func TestHeldOnlineAndOffline(t *testing.T) {
	for _, online := range []bool{false, true} {
		data := dataDir(t)
		store := open(t, data)
		var ids []string
		for range 3 {
			ids = append(ids, put(t, store, "x\r\n", "one.example", "two.example").String())
		}
		holdAll(t, store, "one.example")
		holdAll(t, store, "two.example")
		waiting := put(t, store, "y\r\n", "one.example").String()
		if online {
			defer serve(t, data, store)()
		} else if err := store.Close(); err != nil {
			t.Fatal(err)
		}
		for _, c := range []struct {
			args []string
			code int
			want string // the output's end
			errs string
		}{
			{[]string{"domains"}, 0, "one.example  1 message, 3B, 0 failed, 3 held\ntwo.example  0 messages, 0B, 0 failed, 3 held\n", ""},
			{[]string{"held", "--domain=one.example"}, 0, "to <gone@one.example>  held: 550 5.1.1 nobody\n3 messages, 9B\n", ""},
			{[]string{"held"}, 0, "6 messages, 18B\n", ""},
			{[]string{"held", "--json", "--domain=none.example"}, 0, "", ""},
			{[]string{"release"}, exitUsage, "", "give queue ids, or --all"},
			{[]string{"release", ids[0], "--all"}, exitUsage, "", "give queue ids, or --all"},
			{[]string{"release", "--domain=one.example", ids[0]}, 0, ids[0] + " released in 1 queue\n", ""},
			{[]string{"release", "--domain=one.example", ids[0]}, exitFailed, "", ids[0] + ": nothing is held under this id"},
			{[]string{"bounce", waiting}, exitFailed, "", waiting + ": nothing is held under this id"},
			{[]string{"bounce", ids[1], ids[2], "--domain=two.example"}, 0, ids[1] + " failed in 1 queue\n" + ids[2] + " failed in 1 queue\n", ""},
			{[]string{"domains"}, 0, "one.example  2 messages, 6B, 0 failed, 2 held\ntwo.example  0 messages, 0B, 2 failed, 1 held\n", ""},
			{[]string{"release", "--all"}, 0, "3 messages released\n", ""},
			{[]string{"bounce", "--all"}, 0, "0 messages failed\n", ""},
			{[]string{"domains"}, 0, "one.example  4 messages, 12B, 0 failed, 0 held\ntwo.example  1 message, 3B, 2 failed, 0 held\n", ""},
			{[]string{"held"}, 0, "0 messages, 0B\n", ""},
			{[]string{"check"}, 0, "0 problems\n", ""},
		} {
			code, out, errs := ctl(t, data, c.args...)
			if code != c.code || !strings.HasSuffix(out, c.want) || c.want == "" && out != "" || !strings.Contains(errs, c.errs) || (c.errs == "") != (errs == "") {
				t.Errorf("online %v, %v: status %d\n%s%s\nwant %d\n%s%s", online, c.args, code, out, errs, c.code, c.want, c.errs)
			}
		}
		_, out, _ := ctl(t, data, "list", "--domain=one.example")
		at := -1
		for _, id := range append(ids, waiting) { // in their old place
			if i := strings.Index(out, id); i < at {
				t.Errorf("%s is out of line:\n%s", id, out)
			} else {
				at = i
			}
		}
	}
}
