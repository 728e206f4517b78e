package dsn

import (
	"bufio"
	"bytes"
	"io"
	"log/slog"
	"mime"
	"mime/multipart"
	"mime/quotedprintable"
	netmail "net/mail"
	"net/textproto"
	"strings"
	"testing"
	"time"

	moxdsn "github.com/mjl-/mox/dsn"

	"odmr/codec"
	"odmr/internal/mail"
)

// now is the time of every report here.
var now = time.Date(2026, 11, 24, 12, 0, 0, 0, time.UTC)

const original = "From: Ann <ann@elsewhere.example>\r\nSubject: hello\r\nMessage-ID: <1@elsewhere.example>\r\n\r\nHello.\r\n.dot\r\n"

func sample() *Report {
	return &Report{
		Hostname: "mail.isp.example", Now: now, Waited: 5 * 24 * time.Hour, RetryUntil: now.Add(24 * time.Hour),
		Envelope: &mail.Envelope{
			ID: 4711, Domain: "one.example", Arrived: now.Add(-5 * 24 * time.Hour).UnixNano(), ReversePath: "ann@elsewhere.example",
			EnvID: "QQ+2B314159", Client: "192.0.2.7",
		},
		Recipients: []Recipient{{Address: "tim@one.example", ORcpt: "rfc822;Tim+2Bx@elsewhere.example", Reply: "550 5.1.1 no such user"}},
		Original:   []byte(original), Whole: true,
	}
}

// parsed is a report as the standard library sees it.
type parsed struct {
	header netmail.Header
	types  []string
	parts  []string
	groups []textproto.MIMEHeader // of the second part
}

// read takes a report apart with the standard library, and lets mox's parser look at it too.
func read(t *testing.T, r *Report) (mail.Envelope, parsed, *moxdsn.Message) {
	t.Helper()
	env, wire, err := Build(r)
	if err != nil {
		t.Fatal(err)
	}
	var un codec.Unstuffer
	content := un.Append(nil, wire)
	if env.WireSize != int64(len(wire)) || env.Size != int64(len(content)) || env.Stuffed != (len(wire) != len(content)) {
		t.Errorf("sizes: %+v of %d and %d octets", env, len(wire), len(content))
	}
	if env.ReversePath != "" || len(env.Recipients) != 1 || env.Recipients[0].Address != r.Envelope.ReversePath || env.Recipients[0].Notify != mail.NotifyNever {
		t.Errorf("envelope %+v", env)
	}
	if bytes.Contains(bytes.ReplaceAll(content, []byte("\r\n"), nil), []byte("\n")) || bytes.Contains(bytes.ReplaceAll(content, []byte("\r\n"), nil), []byte("\r")) {
		t.Error("bare CR or LF")
	}
	if env.EightBit == isASCII(content) {
		t.Errorf("EightBit %v", env.EightBit)
	}
	mox, _, err := moxdsn.Parse(slog.New(slog.DiscardHandler), bytes.NewReader(content))
	if err != nil {
		t.Errorf("mox: %v\n%s", err, content)
	}
	return env, split(t, content), mox
}

func split(t *testing.T, content []byte) parsed {
	t.Helper()
	m, err := netmail.ReadMessage(bytes.NewReader(content))
	if err != nil {
		t.Fatalf("%v\n%s", err, content)
	}
	p := parsed{header: m.Header}
	kind, params, err := mime.ParseMediaType(m.Header.Get("Content-Type"))
	if err != nil || kind != "multipart/report" || params["report-type"] != "delivery-status" { // RFC 6522 3
		t.Fatalf("%s %v %v", kind, params, err)
	}
	mr := multipart.NewReader(m.Body, params["boundary"])
	for {
		part, err := mr.NextRawPart()
		if err == io.EOF {
			break
		}
		if err != nil {
			t.Fatalf("%v\n%s", err, content)
		}
		var from io.Reader = part
		if part.Header.Get("Content-Transfer-Encoding") == "quoted-printable" {
			from = quotedprintable.NewReader(part)
		}
		b, err := io.ReadAll(from)
		if err != nil {
			t.Fatal(err)
		}
		kind, _, err := mime.ParseMediaType(part.Header.Get("Content-Type"))
		if err != nil {
			t.Fatal(err)
		}
		p.types, p.parts = append(p.types, kind), append(p.parts, string(b))
	}
	if len(p.parts) < 2 {
		t.Fatalf("%d parts\n%s", len(p.parts), content)
	}
	for group := range strings.SplitSeq(p.parts[1], "\r\n\r\n") {
		h, err := textproto.NewReader(bufio.NewReader(strings.NewReader(strings.TrimSuffix(group, "\r\n") + "\r\n\r\n"))).ReadMIMEHeader()
		if err != nil {
			t.Fatalf("%v in %q", err, group)
		}
		p.groups = append(p.groups, h)
	}
	return p
}

// Everything that RFC 3464 and RFC 3461 want stands in a report of a failure.
func TestFailed(t *testing.T) {
	_, p, mox := read(t, sample())
	for field, want := range map[string]string{
		"To": "<ann@elsewhere.example>", "From": "Mail Delivery System <MAILER-DAEMON@mail.isp.example>",
		"Auto-Submitted": "auto-replied", "Subject": "Undelivered mail returned to sender", "Mime-Version": "1.0",
		"Date": "Tue, 24 Nov 2026 12:00:00 +0000",
	} {
		if got := p.header.Get(field); got != want {
			t.Errorf("%s: %q, want %q", field, got, want)
		}
	}
	if id := p.header.Get("Message-Id"); !strings.HasSuffix(id, "@mail.isp.example>") {
		t.Errorf("Message-ID %q", id)
	}
	if got := strings.Join(p.types, " "); got != "text/plain message/delivery-status text/rfc822-headers" {
		t.Errorf("parts: %s", got)
	}
	if !strings.Contains(p.parts[0], "<tim@one.example>") || !strings.Contains(p.parts[0], "550 5.1.1 no such user") {
		t.Errorf("text: %s", p.parts[0])
	}
	if p.parts[2] != original[:strings.Index(original, "\r\n\r\n")+2] {
		t.Errorf("header: %q", p.parts[2])
	}
	want := []map[string]string{
		{
			"Original-Envelope-Id": "QQ+314159", "Reporting-Mta": "dns; mail.isp.example",
			"Arrival-Date": "19 Nov 2026 12:00:00 +0000",
		},
		{
			"Original-Recipient": "rfc822; Tim+x@elsewhere.example", "Final-Recipient": "rfc822; tim@one.example", "Action": "failed",
			"Status": "5.1.1", "Diagnostic-Code": "smtp; 550 5.1.1 no such user",
		},
	}
	wantGroups(t, p, want)
	if mox == nil || len(mox.Recipients) != 1 || mox.Recipients[0].Action != moxdsn.Failed || mox.Recipients[0].Status != "5.1.1" ||
		mox.OriginalEnvelopeID != "QQ+314159" || mox.ReportingMTA != "mail.isp.example" {
		t.Errorf("mox reads %+v", mox)
	}
}

func wantGroups(t *testing.T, p parsed, want []map[string]string) {
	t.Helper()
	if len(p.groups) != len(want) {
		t.Fatalf("%d groups, want %d: %q", len(p.groups), len(want), p.parts[1])
	}
	for i, w := range want {
		for k, v := range w {
			if got := p.groups[i].Get(k); got != v {
				t.Errorf("group %d: %s: %q, want %q", i, k, got, v)
			}
		}
		for k := range p.groups[i] {
			if _, ok := w[k]; !ok {
				t.Errorf("group %d has %s: %q", i, k, p.groups[i].Get(k))
			}
		}
	}
}

// One report says all that there is to say of one message.
func TestSeveralRecipients(t *testing.T) {
	r := sample()
	r.Envelope.EnvID = ""
	r.Recipients = []Recipient{
		{Address: "a@one.example", Action: Relayed, Reply: "250 ok"},
		{Address: "b@one.example", Expired: true},
		{Address: "c@one.example", Action: Delayed, Reply: "451 4.7.1 come later"},
		{Address: "d@one.example", Reply: "554 no"},
		{Address: "e@one.example", Action: Delayed},
		{Address: "f@one.example", Expired: true, Reply: "450 4.2.0 later"},
	}
	_, p, mox := read(t, r)
	until := "25 Nov 2026 12:00:00 +0000"
	wantGroups(t, p, []map[string]string{
		{"Reporting-Mta": "dns; mail.isp.example", "Arrival-Date": "19 Nov 2026 12:00:00 +0000"},
		{"Final-Recipient": "rfc822; a@one.example", "Action": "relayed", "Status": "2.1.9"},
		{"Final-Recipient": "rfc822; b@one.example", "Action": "failed", "Status": "4.4.7"},
		{"Final-Recipient": "rfc822; c@one.example", "Action": "delayed", "Status": "4.7.1", "Diagnostic-Code": "smtp; 451 4.7.1 come later", "Will-Retry-Until": until},
		{"Final-Recipient": "rfc822; d@one.example", "Action": "failed", "Status": "5.0.0", "Diagnostic-Code": "smtp; 554 no"},
		{"Final-Recipient": "rfc822; e@one.example", "Action": "delayed", "Status": "4.4.1", "Will-Retry-Until": until},
		{"Final-Recipient": "rfc822; f@one.example", "Action": "failed", "Status": "4.4.7", "Diagnostic-Code": "smtp; 450 4.2.0 later"},
	})
	if !strings.Contains(p.parts[0], "waited for 5 days") {
		t.Errorf("text: %s", p.parts[0])
	}
	if mox == nil || len(mox.Recipients) != 6 {
		t.Errorf("mox reads %+v", mox)
	}
}

// RET says how much comes back (RFC 3461 4.3), and never more than mail.MaxReturned.
func TestReturned(t *testing.T) {
	head, _, _ := strings.Cut(original, "\r\n\r\n")
	head += "\r\n"
	long := strings.Repeat("X-Long: "+strings.Repeat("x", 90)+"\r\n", 1000)
	for _, c := range []struct {
		name     string
		change   func(*Report)
		kind     string
		want     string
		eightBit bool
	}{
		{name: "RET absent", kind: "text/rfc822-headers", want: head},
		{"RET=HDRS", func(r *Report) { r.Envelope.Ret = mail.ReturnHeaders }, "text/rfc822-headers", head, false},
		{"RET=FULL", func(r *Report) { r.Envelope.Ret = mail.ReturnFull }, "message/rfc822", original, false},
		{"FULL, not failed", func(r *Report) { r.Envelope.Ret, r.Recipients[0].Action = mail.ReturnFull, Delayed }, "text/rfc822-headers", head, false},
		{"FULL, not all of it at hand", func(r *Report) { r.Envelope.Ret, r.Whole = mail.ReturnFull, false }, "text/rfc822-headers", head, false},
		{"FULL, too large", func(r *Report) {
			r.Envelope.Ret, r.Original = mail.ReturnFull, []byte(original+strings.Repeat("x\r\n", mail.MaxReturned/3))
		}, "text/rfc822-headers", head, false},
		{"a header that never ends", func(r *Report) { r.Original = []byte(long) }, "text/rfc822-headers", long[:mail.MaxReturned/100*100], false},
		{"8-bit content", func(r *Report) { r.Envelope.Ret, r.Original = mail.ReturnFull, []byte("Subject: x\r\n\r\n\xe4\r\n") }, "message/rfc822", "Subject: x\r\n\r\n\xe4\r\n", true},
		{"8-bit header", func(r *Report) { r.Original = []byte("Subject: \xe4\r\n\r\n") }, "text/rfc822-headers", "Subject: \xe4\r\n", false},
		{"SMTPUTF8", func(r *Report) { r.Envelope.SMTPUTF8, r.Original = true, []byte("Subject: ä\r\n\r\nx\r\n") }, "message/global-headers", "Subject: ä\r\n", false},
		{"SMTPUTF8, FULL", func(r *Report) {
			r.Envelope.SMTPUTF8, r.Envelope.Ret, r.Original = true, mail.ReturnFull, []byte("Subject: ä\r\n\r\nx\r\n")
		}, "message/global", "Subject: ä\r\n\r\nx\r\n", false},
		{"a lone line", func(r *Report) { r.Original = []byte("\r\nbody\r\n") }, "text/rfc822-headers", "", false},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := sample()
			if c.change != nil {
				c.change(r)
			}
			env, p, _ := read(t, r)
			if len(p.parts) != 3 || p.types[2] != c.kind || strings.TrimSuffix(p.parts[2], "\r\n") != strings.TrimSuffix(c.want, "\r\n") {
				t.Errorf("%v %q, want %s %q", p.types, p.parts[2:], c.kind, c.want)
			}
			if env.EightBit != c.eightBit || env.EightBit != (env.Body == mail.Body8BitMIME) || env.SMTPUTF8 {
				t.Errorf("EightBit %v, Body %v, SMTPUTF8 %v", env.EightBit, env.Body, env.SMTPUTF8)
			}
			if env.WireSize > mail.MaxReturned*4 {
				t.Errorf("%d octets", env.WireSize)
			}
		})
	}
	r := sample()
	r.Original = nil
	if _, p, _ := read(t, r); len(p.parts) != 2 {
		t.Errorf("%d parts where there is nothing to return", len(p.parts))
	}
}

// RFC 6533: an internationalized sender gets the report in its own terms, an ASCII one within ASCII.
func TestSMTPUTF8(t *testing.T) {
	for _, sender := range []string{"jörg@elsewhere.example", "ann@elsewhere.example"} {
		r := sample()
		r.Envelope.SMTPUTF8, r.Envelope.ReversePath = true, sender
		r.Recipients[0].Address, r.Recipients[0].ORcpt = "grüße@bücher.example", `utf-8;gr\x{FC}\x{DF}e@b\x{FC}cher.example`
		env, p, mox := read(t, r)
		wide := !isASCII([]byte(sender))
		if env.SMTPUTF8 != wide || env.EightBit != wide {
			t.Errorf("%s: SMTPUTF8 %v, EightBit %v", sender, env.SMTPUTF8, env.EightBit)
		}
		if p.types[1] != "message/global-delivery-status" || p.types[2] != "message/global-headers" {
			t.Errorf("%s: %v", sender, p.types)
		}
		if g := p.groups[1]; g.Get("Final-Recipient") != "utf-8; grüße@bücher.example" || g.Get("Original-Recipient") != "utf-8; grüße@bücher.example" {
			t.Errorf("%s: %v", sender, g)
		}
		if !strings.Contains(p.parts[0], "<grüße@bücher.example>") || p.header.Get("To") != "<"+sender+">" {
			t.Errorf("%s: %s, To %s", sender, p.parts[0], p.header.Get("To"))
		}
		if mox == nil || string(mox.Recipients[0].FinalRecipient.Localpart) != "grüße" {
			t.Errorf("%s: mox reads %+v", sender, mox)
		}
	}
}

// What a stranger wrote cannot add a field, end a part, or bring in what a terminal obeys.
func TestHostile(t *testing.T) {
	r := sample()
	r.Envelope.Ret, r.Envelope.EnvID = mail.ReturnFull, "a+0D+0ABcc:+20x@y.example"
	r.Recipients[0].Reply = "550 no\r\nAction: delivered\r\n\r\n--x\x1b[31m\x00" + strings.Repeat("y", 400)
	r.Recipients[0].ORcpt = "rfc822;a+0D+0AStatus@x.example"
	_, wire, err := Build(r)
	if err != nil {
		t.Fatal(err)
	}
	_, boundary, _ := strings.Cut(string(wire), "boundary=\"")
	boundary, _, _ = strings.Cut(boundary, "\"")
	if boundary == "" {
		t.Fatalf("no boundary in %s", wire)
	}
	r.Original = []byte("Subject: x\r\n\r\n--" + boundary + "\r\n\r\nforged\r\n--" + boundary + "--\r\n")
	_, p, _ := read(t, r)
	if len(p.parts) != 3 || !strings.Contains(p.parts[2], "forged") {
		t.Errorf("parts %v: %q", p.types, p.parts)
	}
	if len(p.groups) != 2 || p.groups[1].Get("Action") != "failed" || p.groups[1].Get("Status") != "5.0.0" || p.header.Get("Bcc") != "" || p.groups[0].Get("Bcc") != "" {
		t.Errorf("fields %v", p.groups)
	}
	if strings.ContainsAny(strings.Join(p.parts[:2], ""), "\x1b\x00") {
		t.Errorf("control characters: %q", p.parts)
	}
}

// No report begets another (RFC 5321 6.1).
func TestNeverToNobody(t *testing.T) {
	r := sample()
	r.Envelope.ReversePath = ""
	if _, _, err := Build(r); err != ErrNoSender {
		t.Errorf("error %v", err)
	}
	r = sample()
	r.Recipients = nil
	if _, _, err := Build(r); err == nil {
		t.Error("a report about nobody")
	}
}

// RFC 3461 4.1, each value of NOTIFY with each event.
func TestDue(t *testing.T) {
	const s, f, d, n = mail.NotifySuccess, mail.NotifyFailure, mail.NotifyDelay, mail.NotifyNever
	for notify, want := range map[mail.Notify]string{0: "FD", n: "", f: "F", d: "D", s: "R", f | d: "FD", s | f: "FR", s | d: "DR", s | f | d: "FDR"} {
		got := ""
		for a, letter := range []string{"F", "D", "R"} {
			if Due(notify, Action(a)) {
				got += letter
			}
		}
		if got != want {
			t.Errorf("NOTIFY %b: %q, want %q", notify, got, want)
		}
	}
}

// The same report gives the same octets, so that a second try is not another message.
func TestSameAgain(t *testing.T) {
	_, a, _ := Build(sample())
	_, b, _ := Build(sample())
	if !bytes.Equal(a, b) {
		t.Error("two builds differ")
	}
}

func FuzzBuild(f *testing.F) {
	f.Add("550 no", "rfc822;x", "tim@one.example", []byte(original), true)
	f.Fuzz(func(t *testing.T, reply, orcpt, address string, content []byte, full bool) {
		r := sample()
		if full {
			r.Envelope.Ret = mail.ReturnFull
		}
		r.Recipients[0] = Recipient{Address: address, ORcpt: orcpt, Reply: reply[:min(len(reply), mail.MaxReplyKept)]}
		r.Original = content
		_, wire, err := Build(r)
		if err != nil {
			t.Fatal(err)
		}
		if m, err := netmail.ReadMessage(bytes.NewReader(wire)); err != nil || len(m.Header) != 8 {
			t.Errorf("%v, header %v", err, m.Header)
		}
		var un codec.Unstuffer
		p := split(t, un.Append(nil, wire))
		if len(p.groups) != 2 || p.groups[1].Get("Action") != "failed" {
			t.Errorf("groups %v", p.groups)
		}
	})
}
