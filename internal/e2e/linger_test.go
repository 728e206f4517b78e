package e2e

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"odmr/internal/client"
)

// TestLinger: mail that comes goes out at once in a session that stays, NOOP keeps it, MAILMAX ends it, and the customer's own
// setting goes before the server's.
func TestLinger(t *testing.T) {
	a, short, off := customer("tim", "example.org"), customer("short", "short.example"), customer("off", "off.example")
	s := newServer(t, []client.Account{a, short, off}, "--linger", "1h", "--linger-noop", "1s", "--takeover-interval", "0s")
	for name, value := range map[string]string{"short": "1s", "off": "off"} {
		if out, err := s.odmrctl("account", "set", name, "--linger", value); err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
	}
	s.Start()
	noops := make(chan struct{}, 100)
	offer := client.FullOffer()
	offer.MailMax = 4
	rec := &client.Recorder{Keep: 1000}
	wait := background(t, s.ODMR, a, client.Options{Timeout: 2 * patience, Offer: offer, Hook: func(e client.Event) client.Response {
		if e.Point == client.AtNOOP {
			noops <- struct{}{}
		}
		return client.Response{}
	}}, rec)
	for i := range 4 {
		if i == 2 {
			<-noops
			<-noops
		}
		handIn(t, s.LMTP, client.SenderOptions{Protocol: client.LMTP}, message(fmt.Sprintf("m%d", i), kindText, 100, "a@example.org"))
		until(t, "the message", func() bool { return len(rec.Messages()) == i+1 })
	}
	if stats, err := wait(); err != nil || !stats.Quit || stats.Messages != 4 || len(stats.Breaches) > 0 {
		t.Errorf("%+v, %v", stats, err)
	}
	if stats := collect(t, s, short, &client.Recorder{}); !stats.Quit || stats.Messages != 0 {
		t.Errorf("short: %+v", stats)
	}
	if stats := collect(t, s, off, &client.Recorder{}); stats.Quit { // 453: there is no session after the turn
		t.Errorf("off: %+v", stats)
	}
}

// TestInteropLinger: fetchmail, blind as it is, passes on mail that comes, NOOP and QUIT.
func TestInteropLinger(t *testing.T) {
	needProgram(t, "fetchmail")
	a := customer("tim", "example.org", "example.com")
	s := startServer(t, []client.Account{a}, "--linger", "1h", "--linger-noop", "1s", "--takeover-interval", "0s")
	for name, offer := range offers {
		last := startSink(t, offer)
		ended := make(chan string, 1)
		go func() {
			status, out := fetchmail(t, s, a, last.addr)
			ended <- fmt.Sprintf("status %d\n%s", status, tail(out, 3000))
		}()
		until(t, "fetchmail to wait", func() bool { return s.metric("odmr_sessions", `state="linger"`) == 1 })
		for i := range 6 {
			if i == 3 {
				before := s.metric("odmr_network_receive_bytes_total")
				until(t, "NOOP to be answered", func() bool { return s.metric("odmr_network_receive_bytes_total") > before })
			}
			handIn(t, s.SMTP, client.SenderOptions{}, message(fmt.Sprintf("m%d", i), i%kinds, 100<<(2*i), "a@"+a.Domains[i%2]))
			until(t, fmt.Sprintf("%s: message %d", name, i), func() bool { return len(last.Messages()) == i+1 })
		}
		until(t, "fetchmail to wait again", func() bool { return s.metric("odmr_sessions", `state="linger"`) == 1 })
		if got := ids(t, &last.Recorder); !slices.Equal(got, []string{"m0", "m1", "m2", "m3", "m4", "m5"}) {
			t.Errorf("%s: received %q", name, got)
		}
		// Another session of the customer: fetchmail's MTA is told by QUIT, and it ends.
		_, _ = client.Collect(t.Context(), s.ODMR, a, client.Options{Timeout: 2 * patience, Hook: func(client.Event) client.Response {
			return client.Response{Cut: client.CutBefore}
		}}, &client.Recorder{})
		if out := <-ended; !strings.HasPrefix(out, "status 0\n") {
			t.Errorf("%s: fetchmail ended with %s", name, out)
		}
		for _, b := range last.breaches {
			t.Errorf("%s: the server broke the protocol: %s", name, b)
		}
		until(t, "all sessions to end", func() bool { return s.metric("odmr_sessions", `state="linger"`) == 0 })
	}
}

// TestInteropLingerPostfix: the same with postfix behind fetchmail, which counts NOOP; SIGTERM ends it in order.
func TestInteropLingerPostfix(t *testing.T) {
	needProgram(t, "fetchmail")
	a := customer("tim", "example.org")
	s := startServer(t, []client.Account{a}, "--linger", "1h", "--linger-noop", "1s")
	vmail := filepath.Join(os.TempDir(), fmt.Sprintf("odmr-linger-%d", os.Getpid()))
	if err := os.Mkdir(vmail, 0o777); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(vmail) })
	if err := os.Chmod(vmail, 0o777); err != nil {
		t.Fatal(err)
	}
	mta := startPostfix(t, "mta.customer.example", "virtual_mailbox_domains = example.org\nvirtual_mailbox_base = "+vmail+
		"\nvirtual_mailbox_maps = static:inbox/\nvirtual_minimum_uid = 1000\nvirtual_uid_maps = static:65534\nvirtual_gid_maps = static:65534\n")
	ended := make(chan string, 1)
	go func() {
		status, out := fetchmail(t, s, a, mta.Addr)
		ended <- fmt.Sprintf("status %d\n%s", status, tail(out, 3000))
	}()
	until(t, "fetchmail to wait", func() bool { return s.metric("odmr_sessions", `state="linger"`) == 1 })
	for i := range 5 {
		if i == 3 {
			for range 2 {
				before := s.metric("odmr_network_receive_bytes_total")
				until(t, "NOOP to be answered", func() bool { return s.metric("odmr_network_receive_bytes_total") > before })
			}
		}
		handIn(t, s.SMTP, client.SenderOptions{}, message(fmt.Sprintf("m%d", i), kindText, 1000, "a@example.org"))
		until(t, "the message", func() bool {
			found, _ := filepath.Glob(vmail + "/inbox/new/*")
			return len(found) == i+1
		})
	}
	s.Stop()
	if out := <-ended; !strings.HasPrefix(out, "status 0\n") {
		t.Errorf("fetchmail ended with %s", out)
	}
	mta.checkAllSent()
}

// TestInteropATRNWait: fetchmail waits for the reply to ATRN, and gets mail that comes or is told that there is none.
// Within the interval it is told the same, or what it takes for an error.
func TestInteropATRNWait(t *testing.T) {
	needProgram(t, "fetchmail")
	a := customer("tim", "example.org")
	s := startServer(t, []client.Account{a}, "--atrn-wait", "20s")
	last := startSink(t, client.FullOffer())
	ended := make(chan string, 1)
	go func() {
		status, out := fetchmail(t, s, a, last.addr)
		ended <- fmt.Sprintf("status %d\n%s", status, tail(out, 3000))
	}()
	until(t, "fetchmail to wait", func() bool { return s.metric("odmr_sessions", `state="wait"`) == 1 })
	handIn(t, s.SMTP, client.SenderOptions{}, message("m0", kindText, 1000, "a@example.org"))
	if out := <-ended; !strings.HasPrefix(out, "status 0\n") || !slices.Equal(ids(t, &last.Recorder), []string{"m0"}) {
		t.Errorf("received %q, fetchmail ended with %s", ids(t, &last.Recorder), out)
	}
	s.Stop()

	for flags, want := range map[string]int{"--atrn-wait 1s": 0, "--atrn-interval 1h": 0, "--atrn-interval 1h --atrn-interval-reply 450": 4} {
		s := startServer(t, []client.Account{a}, strings.Fields(flags)...)
		collect(t, s, a, &client.Recorder{}) // 453
		if strings.Contains(flags, "interval") {
			handIn(t, s.SMTP, client.SenderOptions{}, message("m1", kindText, 1000, "a@example.org"))
		}
		if status, out := fetchmail(t, s, a, last.addr); status != want {
			t.Errorf("%s: fetchmail ended with status %d\n%s", flags, status, tail(out, 2000))
		}
		if n := len(last.Messages()); n != 1 {
			t.Errorf("%s: %d messages", flags, n)
		}
		s.Stop()
	}
}

// TestManyLinger has 2,000 customers wait for mail at once; each then gets its own. What a waiting session costs is printed.
func TestManyLinger(t *testing.T) {
	const (
		customers  = 2000
		perAccount = 100
	)
	needDescriptors(t, customers+500)
	accounts, domains := manyDomains(customers, perAccount)
	s := startServer(t, accounts, "--sessions-per-account", "0", "--sessions-per-address", "0", "--linger", "1h")
	fresh := s.Memory()
	ctx, cancel := context.WithTimeout(t.Context(), 4*patience)
	defer cancel()
	lines := make([]*client.Customer, customers)
	recs := make([]client.Recorder, customers)
	ended := make(chan error, customers)
	inParallel(t, 64, customers, func(i int) error {
		c, err := loggedIn(ctx, s, accounts[i/perAccount])
		lines[i] = c
		if err != nil {
			return err
		}
		if err := c.ATRN(domains[i]); err != nil {
			return err
		}
		go func() {
			stats, err := c.Serve(&recs[i])
			if err == nil && (!stats.Quit || stats.Messages != 1 || len(stats.Breaches) > 0) {
				err = fmt.Errorf("%s: %+v", domains[i], stats)
			}
			ended <- err
		}()
		return nil
	})
	if t.Failed() {
		return
	}
	until(t, "all to linger", func() bool { return s.metric("odmr_sessions", `state="linger"`) == customers })
	waiting := s.Memory()
	for at := 0; at < customers; at += 500 {
		var to []string
		for _, d := range domains[at : at+500] {
			to = append(to, "a@"+d)
		}
		handIn(t, s.SMTP, client.SenderOptions{}, message(fmt.Sprintf("m%d", at), kindText, 4000, to...))
	}
	until(t, "everybody to have mail and wait again", func() bool {
		return s.metric("odmr_queue_messages") == 0 && s.metric("odmr_sessions", `state="linger"`) == customers
	})
	after := s.Memory()
	s.Stop()
	for range customers {
		if err := <-ended; err != nil {
			t.Error(err)
		}
	}
	for i := range recs {
		m := recs[i].Messages()
		if len(m) != 1 || !slices.Equal(addresses(&m[0].Envelope), []string{"a@" + domains[i]}) {
			t.Fatalf("%s got %d messages", domains[i], len(m))
		}
		_ = lines[i].Close()
	}
	t.Logf("%d waiting sessions: started %v; waiting %v, %d octets each; after a message each %v", customers, fresh, waiting, (waiting.RSS-fresh.RSS)/customers, after)
}
