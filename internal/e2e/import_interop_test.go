package e2e

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"odmr/internal/client"
	"odmr/internal/mail"
)

// deferredMail is what is handed to a server that cannot get rid of it: every kind of content, and every parameter.
func deferredMail() (all []client.Message) {
	for i := range kinds {
		if i == kindLong { // Exim refuses lines over 998 octets
			continue
		}
		m := message(fmt.Sprintf("m%d", i), i, 3000, "a@example.org", "B@example.com")
		switch i {
		case kindText:
			m.Envelope.EnvID, m.Envelope.Ret = "QQ+2B3141", mail.ReturnHeaders
			m.Envelope.Recipients[0].ORcpt, m.Envelope.Recipients[0].Notify = "rfc822;x+2By@elsewhere.example", mail.NotifySuccess|mail.NotifyFailure
			m.Envelope.Recipients[1].Notify = mail.NotifyNever
		case kindDots:
			m.Envelope.ReversePath = ""
			m.Envelope.Ret = mail.ReturnFull
			m.Envelope.Recipients[1].ORcpt, m.Envelope.Recipients[1].Notify = "rfc822;q@elsewhere.example", mail.NotifyDelay
		case kindBinary:
			m.Envelope.SMTPUTF8 = true
			m.Envelope.Recipients[0].Address = "bücher@example.org"
		case kindBlank:
			m.Envelope.Recipients = append(m.Envelope.Recipients, mail.Recipient{Address: "done@discard.example"})
		}
		all = append(all, m)
	}
	return all
}

// importAll imports a stopped server's queue, twice, and checks that both customers get all of it as it was handed in.
func importAll(t *testing.T, s *Server, source string) {
	t.Helper()
	if out, err := s.odmrctl("import", "--dry-run", source); err != nil || !strings.Contains(out, fmt.Sprintf("%d messages to be taken", kinds-1)) {
		t.Fatalf("dry run: %v\n%s", err, out)
	}
	for range 2 {
		if out, err := s.odmrctl("import", source); err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
	}
	out, err := s.odmrctl("import", "--remove", source)
	if err != nil || !strings.HasPrefix(out, fmt.Sprintf("0 messages taken (for 0 recipients), %d here already, 0 left", kinds-1)) {
		t.Errorf("again: %v\n%s", err, out)
	}
	if out, err := s.odmrctl("import", source); err != nil || !strings.HasPrefix(out, "0 messages taken (for 0 recipients), 0 here already, 0 left\n") {
		t.Errorf("after all was removed: %v\n%s", err, out)
	}
	for n, a := range []client.Account{customer("tim", "example.org"), customer("eva", "example.com")} {
		got := &client.Recorder{Keep: 1 << 20}
		collect(t, s, a, got)
		if len(got.Messages()) != kinds-1 {
			t.Errorf("%s got %d messages, want %d", a.User, len(got.Messages()), kinds-1)
		}
		byID := map[string]*client.Received{}
		for _, r := range got.Messages() {
			byID[idOf(t, r.Content)] = r
		}
		for i := range kinds {
			if i == kindLong {
				continue
			}
			id := fmt.Sprintf("m%d", i)
			r := byID[id]
			if r == nil {
				t.Errorf("%s did not get %s", a.User, id)
				continue
			}
			if body, want := original(t, r.Content), content(id, i, 3000); !bytes.Equal(body, want) {
				t.Errorf("%s was altered: %s", id, difference(body, want))
			}
			wantEnvelope(t, &r.Envelope, id, n)
		}
	}
}

// wantEnvelope compares the envelope of message id, as recipient n got it, with what was handed in.
func wantEnvelope(t *testing.T, got *mail.Envelope, id string, n int) {
	t.Helper()
	for _, m := range deferredMail() {
		want := m.Envelope
		if m.Envelope.ReversePath != "sender+"+id+"@mx.example" && (id != fmt.Sprintf("m%d", kindDots) || m.Envelope.ReversePath != "") {
			continue
		}
		rcpt := want.Recipients[n]
		added := []string{"rfc822;" + rcpt.Address, strings.ReplaceAll("utf-8;"+rcpt.Address, "ü", `\x{FC}`)}
		if got.ReversePath != want.ReversePath || got.Body != want.Body || got.SMTPUTF8 != want.SMTPUTF8 || got.Ret != want.Ret || got.EnvID != want.EnvID {
			t.Errorf("%s: envelope %+v, want %+v", id, *got, want)
		}
		if len(got.Recipients) != 1 || got.Recipients[0].Address != rcpt.Address || got.Recipients[0].Notify != rcpt.Notify {
			t.Errorf("%s: recipients %+v, want %+v", id, got.Recipients, rcpt)
		} else if o := got.Recipients[0].ORcpt; rcpt.ORcpt != "" && o != rcpt.ORcpt || o != "" && o != rcpt.ORcpt && !slices.Contains(added, o) {
			t.Errorf("%s: ORCPT %q, want %q", id, o, rcpt.ORcpt) // a server may add the recipient itself
		}
		return
	}
	t.Errorf("%s was not handed in", id)
}

// TestInteropImportPostfix: what a Postfix could not deliver is taken over from its queue.
func TestInteropImportPostfix(t *testing.T) {
	s := startServer(t, []client.Account{customer("tim", "example.org"), customer("eva", "example.com")})
	mx := startPostfix(t, "mx.isp.example", "relay_domains = example.org example.com discard.example\nrelay_recipient_maps =\n"+
		"relay_transport = smtp:[127.0.0.1]:1\ntransport_maps = inline:{discard.example=discard:}\nsmtputf8_enable = yes\n"+
		"minimal_backoff_time = 1h\nmaximal_backoff_time = 1h\n")
	handIn(t, mx.Addr, client.SenderOptions{Name: "sender.example"}, deferredMail()...)
	waitDeferred(t, mx.mta, filepath.Join(mx.Dir, "spool", "deferred"), "", "status=deferred")
	if out, err := s.odmrctl("import", "--remove", "--waive=quota", "postfix:"+filepath.Join(mx.Dir, "spool")); err == nil || !strings.Contains(out, "Postfix is running") {
		t.Errorf("a running Postfix' mail was removed: %v\n%s", err, out)
	}
	mx.stop()
	dropped := filepath.Join(mx.Dir, "spool", "maildrop", "localmail") // not before: pickup would find it
	if err := os.WriteFile(dropped, []byte("x"), 0o744); err != nil {
		t.Fatal(err)
	}
	s2 := startServer(t, []client.Account{customer("tim", "example.org"), customer("eva", "example.com")})
	if out, err := s2.odmrctl("import", "--dry-run", filepath.Join(mx.Dir, "spool")); err == nil || !strings.Contains(out, "left: maildrop/localmail: cannot be read: Postfix has not taken it in yet") {
		t.Errorf("maildrop: %v\n%s", err, out)
	}
	if err := os.Remove(dropped); err != nil {
		t.Fatal(err)
	}
	importAll(t, s2, filepath.Join(mx.Dir, "spool"))
}

// TestInteropImportExim: the same with Exim's spool, in both forms that it keeps bodies in.
func TestInteropImportExim(t *testing.T) {
	for form, transfer := range map[string]client.Transfer{"": client.ByDATA, "spool_wireformat = true\n": client.ByBDAT} {
		t.Run(form, func(t *testing.T) { importExim(t, form, transfer) })
	}
}

func importExim(t *testing.T, form string, transfer client.Transfer) {
	s := startServer(t, []client.Account{customer("tim", "example.org"), customer("eva", "example.com")})
	mx := startExim(t, "mx.isp.example", "relay_to_domains", form+`smtputf8_advertise_hosts = *
split_spool_directory = true
domainlist relay_to_domains = example.org : example.com : discard.example
begin routers
none:
  driver = redirect
  domains = discard.example
  data = :blackhole:
odmr:
  driver = manualroute
  domains = +relay_to_domains
  caseful_local_part
  route_list = * 127.0.0.1
  self = send
  transport = odmr
begin transports
odmr:
  driver = smtp
  port = 1
`)
	handIn(t, mx.addr, client.SenderOptions{Name: "sender.example", Transfer: transfer}, deferredMail()...)
	spool := filepath.Join(mx.dir, "spool")
	waitDeferred(t, mx, filepath.Join(spool, "input"), "-H", " defer (")
	until(t, "the discarded recipient to be settled", func() bool { return strings.Contains(mx.Log(), "=> :blackhole:") })
	if out, err := s.odmrctl("import", "--remove", "--waive=quota", "exim:"+spool); err == nil || !strings.Contains(out, "Exim's daemon is running") {
		t.Errorf("a running Exim's mail was removed: %v\n%s", err, out)
	}
	mx.stop()
	if wire := grepFiles(t, filepath.Join(spool, "input"), "-spool_file_wireformat\n"); (wire == kinds-1) != (form != "") {
		t.Fatalf("%d messages are in wire format", wire)
	}
	importAll(t, startServer(t, []client.Account{customer("tim", "example.org"), customer("eva", "example.com")}), spool)
}

// grepFiles counts the files below dir with text in them.
func grepFiles(t *testing.T, dir, text string) (n int) {
	t.Helper()
	if err := filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		b, err := os.ReadFile(path)
		if bytes.Contains(b, []byte(text)) {
			n++
		}
		return err
	}); err != nil {
		t.Fatal(err)
	}
	return n
}

// waitDeferred waits until all of deferredMail stands below dir, and the log has mark for both recipients of each.
func waitDeferred(t *testing.T, m *mta, dir, suffix, mark string) {
	t.Helper()
	until(t, "mail to be deferred", func() bool {
		files := 0
		_ = filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
			if err == nil && d.Type().IsRegular() && strings.HasSuffix(path, suffix) {
				files++
			}
			return nil
		})
		return files == kinds-1 && strings.Count(m.Log(), mark) >= 2*(kinds-1)
	})
}
