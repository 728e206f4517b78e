package e2e

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"sort"
	"strings"
	"testing"

	"odmr/internal/client"
	"odmr/internal/mail"
)

// feeders are the MX hosts of README.md, each over both protocols.
var feeders = []struct {
	name     string
	protocol string
	start    func(t *testing.T, s *Server, protocol string) (addr string, waitEmpty func())
	behind   func(t *testing.T) *box // the customer's own server
}{
	{"Postfix", "LMTP", feedPostfix, eximBox},
	{"Postfix", "SMTP", feedPostfix, sendmailBox},
	{"Exim", "LMTP", feedExim, postfixBox},
	{"Exim", "SMTP", feedExim, eximBox},
	{"Sendmail", "LMTP", feedSendmail, sendmailBox},
	{"Sendmail", "SMTP", feedSendmail, postfixBox},
	{"OpenSMTPD", "SMTP", feedOpenSMTPD, sendmailBox}, // over LMTP it reads one reply for all recipients
}

// TestInteropMTAs: each of Debian's MTAs, set up as README.md says, hands mail of every odd kind in for the domains of two
// customers; fetchmail carries it on, for the one to a sink that remembers all of the envelope, for the other to one of the
// MTAs of README.md that deliver it for good.
func TestInteropMTAs(t *testing.T) {
	needProgram(t, "fetchmail")
	for _, f := range feeders {
		t.Run(f.name+" "+f.protocol, func(t *testing.T) {
			org, com := customer("tim", "example.org"), customer("tom", "example.com")
			s := startServer(t, []client.Account{org, com})
			addr, waitEmpty := f.start(t, s, f.protocol)
			letters := oddLetters()
			var messages []client.Message
			for i := range letters {
				messages = append(messages, client.Message{Envelope: letters[i].env, Content: bytes.NewReader(letters[i].content)})
			}
			handIn(t, addr, client.SenderOptions{Name: "sender.example"}, messages...)
			waitEmpty()
			last := startSink(t, client.FullOffer())
			if status, out := fetchmail(t, s, org, last.addr); status != 0 {
				t.Errorf("fetchmail (example.org): status %d\n%s", status, tail(out, 3000))
			}
			checkSunk(t, last, letters)
			b := f.behind(t)
			if status, out := fetchmail(t, s, com, b.addr); status != 0 {
				t.Errorf("fetchmail (example.com): status %d\n%s", status, tail(out, 3000))
			}
			checkBox(t, b, letters)
		})
	}
}

// parcel is a message and its envelope.
type parcel struct {
	env     mail.Envelope
	content []byte
}

// oddLetters are one of each kind, for recipients in both domains, with every odd envelope.
func oddLetters() []parcel {
	var all []parcel
	for i, kind := range []int{kindText, kindDots, kindEight, kindFull, kindEmpty, kindBlank, kindBinary, kindDots} {
		id, size := fmt.Sprintf("odd%d", i), 3000
		if kind == kindBinary {
			size = 400_000
		}
		l := parcel{content: content(id, kind, size), env: envelope("sender+"+id+"=v@mx.example", "a@example.org", "b.c+d@example.com", "Mixed.Case@example.org")}
		if kind == kindEight {
			l.env.Body = mail.Body8BitMIME
		}
		switch i {
		case 0: // OpenSMTPD gives the parameters of one recipient to those behind it, too
			l.env.Recipients = l.env.Recipients[:2]
			l.env.Ret, l.env.EnvID = mail.ReturnHeaders, "QQ+2B1"
			l.env.Recipients[0].Notify, l.env.Recipients[0].ORcpt = mail.NotifyFailure|mail.NotifyDelay, "rfc822;first+2Bone@old.example"
		case 3:
			l.env.EnvID = "never"
			l.env.Recipients = l.env.Recipients[1:]
			l.env.Recipients[1].Notify = mail.NotifyNever
		case 1: // a bounce has the null reverse-path
			l.env.ReversePath = ""
		case 2:
			l.env = envelope("o'neil_-_x@mx.example", "x@example.com", "y'z@example.com", "a@example.org")
			l.env.Body = mail.Body8BitMIME
		}
		l.env.Size = int64(len(l.content))
		all = append(all, l)
	}
	return all
}

// in are the recipients of a parcel in domain, sorted.
func (l *parcel) in(domain string) []string {
	var to []string
	for _, a := range addresses(&l.env) {
		if strings.HasSuffix(a, "@"+domain) {
			to = append(to, a)
		}
	}
	sort.Strings(to)
	return to
}

// checkSunk compares what the sink got for example.org: contents octet by octet, envelopes with all parameters.
func checkSunk(t *testing.T, last *sink, letters []parcel) {
	t.Helper()
	got := map[string][]*client.Received{}
	for _, m := range last.Messages() {
		id := idOf(t, m.Content)
		got[id] = append(got[id], m)
	}
	for i := range letters {
		l := &letters[i]
		id := idOf(t, l.content)
		var to []string
		for _, m := range got[id] {
			if o := original(t, m.Content); !bytes.Equal(o, l.content) {
				t.Errorf("%s came altered (%s)", id, difference(o, l.content))
			}
			if m.Envelope.ReversePath != l.env.ReversePath {
				t.Errorf("%s: reverse-path %q, want %q", id, m.Envelope.ReversePath, l.env.ReversePath)
			}
			to = append(to, addresses(&m.Envelope)...)
			if l.env.EnvID == "" {
				continue
			}
			if m.Envelope.Ret != l.env.Ret || m.Envelope.EnvID != l.env.EnvID {
				t.Errorf("%s: RET and ENVID %v %q, want %v %q", id, m.Envelope.Ret, m.Envelope.EnvID, l.env.Ret, l.env.EnvID)
			}
			for _, r := range m.Envelope.Recipients {
				w := l.env.Recipients[slices.IndexFunc(l.env.Recipients, func(w mail.Recipient) bool { return w.Address == r.Address })]
				if r.Notify != w.Notify || (w.ORcpt != "" && r.ORcpt != w.ORcpt) {
					t.Errorf("%s: <%s> has NOTIFY %b ORCPT %q, want %b %q", id, r.Address, r.Notify, r.ORcpt, w.Notify, w.ORcpt)
				}
			}
		}
		sort.Strings(to)
		if want := l.in("example.org"); !slices.Equal(to, want) {
			t.Errorf("%s: recipients %q, want %q", id, to, want)
		}
	}
	for _, b := range last.breaches {
		t.Error("the server broke the protocol: ", b)
	}
}

// box is a mailbox for example.com behind an MTA.
type box struct {
	addr string
	wait func()
	// read returns each message as it was delivered, with lines that end in LF, and its sender and recipients as the MTA had them.
	read func() []delivered
}

type delivered struct {
	content []byte
	sender  string
	to      []string
}

// checkBox compares what an MTA delivered for example.com.
func checkBox(t *testing.T, b *box, letters []parcel) {
	t.Helper()
	b.wait()
	type got struct {
		sender string
		to     []string
	}
	all := map[string]got{}
	for _, d := range b.read() {
		id := idOf(t, d.content)
		g := all[id]
		g.sender = d.sender
		g.to = append(g.to, d.to...)
		all[id] = g
		for i := range letters {
			want := bytes.ReplaceAll(letters[i].content, []byte("\r\n"), []byte("\n"))
			if !bytes.HasPrefix(want, []byte("X-Test-Id: "+id+"\n")) {
				continue
			}
			if at := bytes.Index(d.content, []byte("X-Test-Id: ")); at < 0 || !bytes.Equal(d.content[at:], want) {
				t.Errorf("%s was delivered altered (%s)", id, difference(d.content[max(at, 0):], want))
			}
		}
	}
	for i := range letters {
		id := idOf(t, letters[i].content)
		g := all[id]
		sort.Strings(g.to)
		if want := letters[i].in("example.com"); !slices.Equal(g.to, want) || g.sender != letters[i].env.ReversePath {
			t.Errorf("%s: delivered from %q to %q, want from %q to %q", id, g.sender, g.to, letters[i].env.ReversePath, want)
		}
	}
}

// mailboxDir is where a customer's mailbox is, open to whichever user delivers.
func (m *mta) mailboxDir() string { return m.mkdir("customer", "mail", 0o777) }

func feedPostfix(t *testing.T, s *Server, protocol string) (string, func()) {
	main := adapt(t, readmeBlock(t, "relay_domains = hash:"), "hash:/etc/postfix/odmr_domains", "example.org example.com")
	if protocol == "SMTP" {
		main = adapt(t, main, "lmtp:inet:127.0.0.1:2424", "smtp:"+bracketed(s.SMTP))
	} else {
		main = adapt(t, main, "127.0.0.1:2424", s.LMTP)
	}
	p := startPostfix(t, "mx.isp.example", main)
	return p.Addr, func() { p.waitEmpty(); p.checkAllSent() }
}

// over changes an example for LMTP into one for the protocol.
func over(t *testing.T, s *Server, protocol, example string, pairs ...string) string {
	t.Helper()
	if protocol == "SMTP" {
		example = adapt(t, example, pairs...)
		return adapt(t, example, "2525", s.SMTP[strings.LastIndexByte(s.SMTP, ':')+1:])
	}
	return adapt(t, example, "2424", s.LMTP[strings.LastIndexByte(s.LMTP, ':')+1:])
}

func feedExim(t *testing.T, s *Server, protocol string) (string, func()) {
	m := startExim(t, "mx.isp.example", "relay_to_domains", over(t, s, protocol, readmeBlock(t, "domainlist relay_to_domains"),
		"port = 2424", "port = 2525", "  protocol = lmtp\n", ""))
	return m.addr, func() { m.waitEmpty("spool/input") }
}

func feedSendmail(t *testing.T, s *Server, protocol string) (string, func()) {
	m := newMTA(t)
	m.write("mailertable", readmeBlock(t, "example.org   odmr:"))
	m.write("relay-domains", "example.org\nexample.com\n")
	example := adapt(t, readmeBlock(t, "Modmr, P=[IPC]"), "/etc/mail/", m.dir+"/")
	startSendmail(m, "mx.isp.example", over(t, s, protocol, example, "2424", "2525", "F=mDFMuXz,", "F=mDFMuX,"), "mailertable")
	return m.addr, func() { m.waitEmpty("mqueue") }
}

func feedOpenSMTPD(t *testing.T, s *Server, protocol string) (string, func()) {
	m := startOpenSMTPD(t, "mx.isp.example", over(t, s, protocol, readmeBlock(t, `action "odmr" relay`)))
	return m.addr, func() { m.waitEmpty("spool/incoming", "spool/queue") }
}

func postfixBox(t *testing.T) *box {
	m := newMTA(t) // only for the mailbox, whose name stands in postfix' configuration
	dir := m.mailboxDir()
	p := startPostfix(t, "mta.customer.example", adapt(t, readmeBlock(t, "virtual_mailbox_maps = static:"), "/var/mail/customer", dir))
	return &box{addr: p.Addr, wait: func() { p.waitEmpty(); p.checkAllSent() },
		read: func() []delivered { return readMaildir(t, dir, "X-Original-To") }}
}

func eximBox(t *testing.T) *box {
	m := newMTA(t)
	dir := m.mailboxDir()
	x := startExim(t, "mta.customer.example", "local_domains", adapt(t, readmeBlock(t, "domainlist local_domains"), "/var/mail/customer", dir))
	return &box{addr: x.addr, wait: func() { x.waitEmpty("spool/input") }, read: func() []delivered { return readMaildir(t, dir, "Envelope-to") }}
}

// readMaildir reads the envelopes from the fields that the MTA has put on top.
func readMaildir(t *testing.T, dir, toField string) []delivered {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(dir, "inbox", "new", "*"))
	if err != nil {
		t.Fatal(err)
	}
	var all []delivered
	for _, name := range files {
		b, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		top := append([]byte("\n"), b[:max(0, bytes.Index(b, []byte("X-Test-Id: ")))]...)
		d := delivered{content: b, sender: strings.Trim(field(top, "Return-Path")+field(top, "Return-path"), "<>")}
		for _, a := range strings.Split(field(top, toField), ",") {
			d.to = append(d.to, strings.TrimSpace(a))
		}
		all = append(all, d)
	}
	return all
}

func sendmailBox(t *testing.T) *box {
	m := newMTA(t)
	dir := m.mailboxDir()
	inbox := filepath.Join(dir, "inbox")
	m.write("virtusertable", readmeBlock(t, "@example.org   inbox"))
	m.write("aliases", adapt(t, readmeBlock(t, "inbox: /var/mail"), "/var/mail/customer", dir))
	startSendmail(m, "mta.customer.example", adapt(t, readmeBlock(t, "FEATURE(`virtusertable'"), "/etc/mail/", m.dir+"/"), "virtusertable")
	return &box{addr: m.addr, wait: func() { m.waitEmpty("mqueue") }, read: func() []delivered {
		b, err := os.ReadFile(inbox)
		if err != nil {
			t.Fatal(err)
		}
		return readTraffic(t, b, m.Log())
	}}
}

var (
	mailTraffic = regexp.MustCompile(`^\d+ <<< MAIL [Ff][Rr][Oo][Mm]:<([^>]*)>`)
	rcptTraffic = regexp.MustCompile(`^\d+ <<< RCPT [Tt][Oo]:<([^>]*)>`)
)

// readTraffic reads an mbox that Sendmail wrote, and the envelopes from its record of what it was told: it puts several
// recipients that share a mailbox into it once, and says in the message for none of them. Every sender is another.
func readTraffic(t *testing.T, mbox []byte, traffic string) []delivered {
	t.Helper()
	to, sender := map[string][]string{}, ""
	for line := range strings.Lines(traffic) {
		if m := mailTraffic.FindStringSubmatch(line); m != nil {
			sender = m[1]
		}
		if m := rcptTraffic.FindStringSubmatch(line); m != nil {
			to[sender] = append(to[sender], m[1])
		}
	}
	var all []delivered
	for one := range bytes.SplitSeq(bytes.TrimSuffix(mbox, []byte("\n\n")), []byte("\n\nFrom ")) {
		_, content, _ := bytes.Cut(append(bytes.Clone(one), '\n'), []byte("\n"))
		sender := strings.Trim(field(append([]byte("\n"), content...), "Return-Path"), "<>")
		all = append(all, delivered{content, sender, to[sender]})
	}
	return all
}
