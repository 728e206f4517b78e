package session

import (
	"bytes"
	"fmt"
	"math/rand"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"odmr/codec"
	"odmr/internal/mail"
)

// ingressRig drives one Ingress in memory: it completes each action at once and keeps what was
// committed. Unlike scenarioDriver it writes nothing down, so that it can measure.
type ingressRig struct {
	m         *Ingress
	out       Output
	now       Time
	due       Action
	result    Result
	id        mail.ID
	replies   []byte
	body      []byte   // of the message on its way
	committed [][]byte // bodies, with the Received field
	closed    bool
	refuse    func(*Action) *mail.Refusal // nil: nothing is refused
	largest   int                         // the longest Reply of one call
	discards  bool                        // what is committed and said is not kept
}

func newIngressRig(cfg IngressConfig) *ingressRig {
	cfg.Hostname = "mail.isp.example"
	cfg = cfg.Defaults()
	r := &ingressRig{m: NewIngress(&cfg, IngressPeer{Client: "192.0.2.1", Trusted: true}), now: scenarioEpoch}
	r.m.Start(r.now, &r.out)
	r.perform()
	return r
}

func (r *ingressRig) input(b []byte) {
	for len(b) > 0 && !r.closed {
		r.out.Reset()
		n := r.m.Input(r.now, b, &r.out)
		b = b[n:]
		if !r.perform() && n == 0 {
			return
		}
	}
}

// perform carries Output out and reports whether anything was completed.
func (r *ingressRig) perform() (moved bool) {
	for {
		r.due = Action{}
		if !r.discards {
			r.replies = append(r.replies, r.out.Reply...)
		}
		r.largest = max(r.largest, len(r.out.Reply))
		for i := range r.out.Acts {
			switch a := &r.out.Acts[i]; a.Kind {
			case ActClose:
				r.closed = true
				return moved
			case ActDiscard:
				r.body = r.body[:0]
			default:
				r.due = *a
			}
		}
		if r.due.Ticket == 0 {
			return moved
		}
		moved = true
		r.result = Result{}
		if r.refuse != nil {
			r.result.Refusal = r.refuse(&r.due)
		}
		r.complete(&r.due)
		r.out.Reset()
		r.m.Done(r.now, r.due.Ticket, &r.result, &r.out)
	}
}

func (r *ingressRig) complete(a *Action) {
	switch a.Kind {
	case ActBegin:
		r.id++
		r.result.ID = r.id
		r.body = r.body[:0]
	case ActAppend:
		r.body = append(r.body, a.Data...)
	case ActCommit:
		if !r.discards && r.result.Refusal == nil {
			r.committed = append(r.committed, append(bytes.Clone(r.body), a.Data...))
		}
		r.body = r.body[:0]
	}
}

// said returns the replies since the last call, the codes of their last lines only.
func (r *ingressRig) said() string {
	var codes []string
	for _, l := range strings.Split(strings.TrimSuffix(string(r.replies), "\r\n"), "\r\n") {
		if len(l) > 3 && l[3] == ' ' {
			codes = append(codes, l[:3])
		}
	}
	r.replies = r.replies[:0]
	return strings.Join(codes, " ")
}

// ingressMessage is a session's steady work: one message of 4.6 kB.
func ingressMessage() []byte {
	var b bytes.Buffer
	b.WriteString("MAIL FROM:<alice@sender.example> SIZE=4600 BODY=8BITMIME\r\nRCPT TO:<bob@example.org> NOTIFY=FAILURE\r\nDATA\r\n")
	for b.Len() < 4600 {
		b.WriteString("a line of text as it stands in nearly every message there is, 78 octets......\r\n")
	}
	b.WriteString(".\r\n")
	return b.Bytes()
}

// What remains is one allocation per message: the envelope's texts become one string that nobody can change,
// so that the driver may keep and log them for as long as it likes.
func TestIngressAllocations(t *testing.T) {
	r := newIngressRig(IngressConfig{})
	r.discards = true
	r.input([]byte("EHLO mx.isp.example\r\n"))
	message := ingressMessage()
	if n := testing.AllocsPerRun(200, func() { r.input(message) }); n > 1 {
		t.Errorf("%v allocations per message", n)
	}
	if r.id != 201 {
		t.Fatalf("%d messages begun", r.id)
	}
	for _, line := range []string{"NOOP", "RSET", "VRFY bob", "HELP", "EHLO mx.isp.example", "MAIL FROM:<a@b.example> FOO=BAR", "RCPT", "DATA"} {
		line := []byte(line + "\r\n")
		r.m.errors = -1 << 40
		if n := testing.AllocsPerRun(100, func() { r.input(line) }); n > 0 {
			t.Errorf("%v allocations for %q", n, line)
		}
	}
}

// 10,000 idle sessions have to fit into 6 KiB each with everything else that a connection needs.
func TestIngressIdleMemory(t *testing.T) {
	const sessions = 2000
	message := ingressMessage()
	rigs := make([]*ingressRig, sessions)
	perSession := func() int64 {
		var before, after runtime.MemStats
		machines := make([]*Ingress, len(rigs))
		runtime.GC()
		runtime.GC()
		runtime.ReadMemStats(&before)
		for i, r := range rigs {
			machines[i], r.m = r.m, nil
		}
		clear(machines)
		runtime.GC()
		runtime.GC()
		runtime.ReadMemStats(&after)
		return (int64(before.HeapAlloc) - int64(after.HeapAlloc)) / sessions
	}
	for name, work := range map[string]func(*ingressRig){
		"after EHLO": func(r *ingressRig) { r.input([]byte("EHLO mx.isp.example\r\n")) },
		"ten seconds after a message": func(r *ingressRig) {
			r.input([]byte("EHLO mx.isp.example\r\n"))
			r.input(message)
			if d := r.m.Deadline(); d != r.now+Time(ingressIdleRelease) {
				t.Fatalf("Deadline is %v away", time.Duration(d-r.now))
			}
			r.now = r.m.Deadline()
			r.m.Tick(r.now, &r.out)
		},
	} {
		for i := range rigs {
			rigs[i] = newIngressRig(IngressConfig{})
			work(rigs[i])
			rigs[i].out, rigs[i].replies, rigs[i].body, rigs[i].committed = Output{}, nil, nil, nil
		}
		n := perSession()
		t.Logf("%s: %d octets", name, n)
		if n > 1024 {
			t.Errorf("%s: a session holds %d octets", name, n)
		}
	}
}

// memory is how many octets of content and envelope a machine holds.
func (s *Ingress) memory() (n int) {
	all := append([]*ingressTransaction{s.tx, s.spare}, s.commits.txs...)
	for i := range s.commits.list {
		all = append(all, s.commits.list[i].tx)
		n += cap(s.commits.list[i].behind)
	}
	for _, tx := range all {
		if tx != nil {
			n += cap(tx.filling) + cap(tx.lent) + cap(tx.free) + cap(tx.text)
			n += 32*cap(tx.recipients) + 64*(cap(tx.routes)+cap(tx.slab)) + 200*cap(tx.envelopes)
			for _, name := range tx.names {
				n += len(name) + 16
			}
		}
	}
	return n
}

func TestIngressContentMemoryIsBounded(t *testing.T) {
	line := bytes.Repeat([]byte("a line of some octets that goes on and on and on\r\n"), 37)
	for _, command := range []string{"DATA\r\n", "BDAT 40000000 LAST\r\n"} {
		r := newIngressRig(IngressConfig{MaxMessageSize: 30 << 20})
		r.discards = true
		r.input([]byte("EHLO a.example\r\nMAIL FROM:<a@b.example>\r\nRCPT TO:<c@d.example>\r\n" + command))
		for sent := 0; sent < 40_000_000-len(line); sent += len(line) {
			r.input(line)
			r.body = r.body[:0]
			if n := r.m.memory(); n > 2*ingressBuffer+8<<10 {
				t.Fatalf("%q: %d octets held after %d", command, n, sent)
			}
		}
		if r.m.tx.broken && r.m.memory() > 8<<10 {
			t.Errorf("%q: %d octets held for a message that will be refused", command, r.m.memory())
		}
	}
}

// Bodies that end just before, at and behind the end of a last piece, plain and with every line stuffed: all octets
// arrive, no piece is longer than it may be and no buffer grows beyond its bound.
func TestIngressChunkBoundaries(t *testing.T) {
	received := len(checkIngressBody(t, nil, "DATA\r\n.\r\n")) // our own field is in the first chunk, too
	for _, line := range []string{strings.Repeat("x", 62) + "\r\n", "..\r\n"} {
		for _, chunks := range []int{1, 2} {
			for off := -4; off <= ingressSlack+4; off += chunks {
				end := (chunks-1)*mail.ChunkSize + mail.LastPiece
				wire := bytes.Repeat([]byte(line), end/len(line)) // as in DATA
				size := end - received + off
				lines := (size - 1) / len(line) * len(line)
				wire = append(wire[:lines], bytes.Repeat([]byte("y"), size-lines)...) // no line's end: one has to be added
				checkIngressBody(t, append(wire, "\r\n"...), "DATA\r\n"+string(wire)+"\r\n.\r\n")
				var u codec.Unstuffer
				plain := u.Append(nil, wire)
				checkIngressBody(t, append(wire, "\r\n"...), fmt.Sprintf("BDAT 7\r\n%sBDAT %d LAST\r\n%s", plain[:7], len(plain)-7, plain[7:]))
			}
		}
	}
}

// checkIngressBody hands content in, expects it to be kept as wire and returns all that was kept.
func checkIngressBody(t *testing.T, wire []byte, content string) []byte {
	t.Helper()
	r := newIngressRig(IngressConfig{})
	r.refuse = func(a *Action) *mail.Refusal {
		if len(a.Data) > mail.LastPiece || a.Kind == ActAppend && len(a.Data) != mail.ChunkSize {
			t.Fatalf("a piece of %d octets, body of %d", len(a.Data), len(wire))
		}
		if n := r.m.memory(); n > 2*ingressBuffer+8<<10 {
			t.Fatalf("%d octets held, body of %d", n, len(wire))
		}
		return nil
	}
	r.input([]byte("EHLO a.example\r\nMAIL FROM:<a@b.example>\r\nRCPT TO:<c@d.example>\r\n" + content))
	if len(r.committed) != 1 {
		t.Fatalf("%s for a body of %d", r.said(), len(wire))
	}
	_, body, _ := bytes.Cut(r.committed[0], []byte(" +0000\r\n"))
	if !bytes.Equal(body, wire) {
		t.Fatalf("a body of %d octets came out as %d", len(wire), len(body))
	}
	return r.committed[0]
}

// Refused recipients in an endless transaction leave nothing behind.
func TestIngressRefusedRecipientsLeaveNothing(t *testing.T) {
	r := newIngressRig(IngressConfig{})
	r.discards = true
	r.input([]byte("EHLO a.example\r\nMAIL FROM:<a@b.example>\r\n"))
	r.refuse = func(a *Action) *mail.Refusal { return &mail.Refusal{Code: 451, Enhanced: "4.4.3", Text: "later"} }
	for i := range 20_000 {
		r.input(fmt.Appendf(nil, "RCPT TO:<a@%d.example>\r\n", i))
	}
	if n := r.m.memory(); n > 4<<10 {
		t.Errorf("%d octets held", n)
	}
}

// A peer that pipelines without reading cannot make one call's Reply grow.
func TestIngressReplyBurst(t *testing.T) {
	r := newIngressRig(IngressConfig{})
	r.input(bytes.Repeat([]byte("EHLO a.example\r\n"), 10_000))
	if r.largest > ingressReplyBurst+1<<10 {
		t.Errorf("a Reply of %d octets", r.largest)
	}
	if n := strings.Count(r.said(), "250"); n != 10_000 {
		t.Errorf("%d of 10,000 were answered", n)
	}
}

// ingressReference says what is to become of octets that follow a 354, by searching for text: body is the
// content in wire form, bad that it must be refused, and rest what comes behind its end.
func ingressReference(b []byte) (body []byte, bad bool, rest []byte) {
	all := append([]byte("\r\n"), b...) // the CRLF of the DATA command
	end := bytes.Index(all, []byte("\r\n.\r\n"))
	body, rest = all[2:max(end+2, 2)], all[end+5:]
	plain := bytes.ReplaceAll(body, []byte("\r\n"), nil)
	return body, bytes.ContainsAny(plain, "\r\n\x00"), rest
}

// eachText calls f with all texts of so many letters.
func eachText(letters string, length int, f func([]byte)) {
	text := make([]byte, length)
	var fill func(int)
	fill = func(i int) {
		if i == length {
			f(text)
			return
		}
		for j := range len(letters) {
			text[i] = letters[j]
			fill(i + 1)
		}
	}
	fill(0)
}

// All contents of CR, LF, dot and a letter up to 7 octets: where DATA ends, what is refused, what is
// kept, is what a search for CRLF.CRLF says.
func TestIngressDataEndsWhereItShould(t *testing.T) {
	const envelope = "EHLO a.example\r\nMAIL FROM:<a@b.example>\r\nRCPT TO:<c@d.example>\r\nDATA\r\n"
	cuts := rand.New(rand.NewSource(1))
	for length := range 8 {
		eachText("\r\n.a", length, func(text []byte) {
			sent := append(bytes.Clone(text), "\r\n.\r\n"...)
			body, bad, rest := ingressReference(sent)
			sent = sent[:len(sent)-len(rest)] // what is behind the end are commands
			r := newIngressRig(IngressConfig{})
			r.input([]byte(envelope))
			r.said()
			r.out.Reset()
			n := r.m.Input(r.now, sent[:1+cuts.Intn(len(sent))], &r.out)
			r.perform()
			r.input(sent[n:])
			want, kept := "250", 1
			if bad {
				want, kept = "554", 0
			}
			if got := r.said(); got != want || len(r.committed) != kept {
				t.Fatalf("%q: replies %q and %d kept, want %q and %d", sent, got, len(r.committed), want, kept)
			}
			if kept == 1 && !bytes.HasSuffix(r.committed[0], append([]byte(" +0000\r\n"), body...)) {
				t.Fatalf("%q: kept %q, want it to end in %q", sent, r.committed[0], body)
			}
			if r.m.state != ingressReady || r.m.tx != nil {
				t.Fatalf("%q: state %d after the end", sent, r.m.state)
			}
		})
	}
}

// The same for chunks: whatever is in them and wherever they are cut, it is content.
func TestIngressChunksAreContent(t *testing.T) {
	for length := range 7 {
		eachText("\r\n.a", length, func(text []byte) {
			for cut := range length + 1 {
				r := newIngressRig(IngressConfig{MaxErrors: 1000})
				r.input([]byte("EHLO a.example\r\nMAIL FROM:<a@b.example>\r\nRCPT TO:<c@d.example>\r\n"))
				r.said()
				r.input(fmt.Appendf(nil, "BDAT %d\r\n%sBDAT %d LAST\r\n%sNOOP\r\n", cut, text[:cut], length-cut, text[cut:]))
				plain := bytes.ReplaceAll(text, []byte("\r\n"), nil)
				want, kept := "250 250 250", 1
				if bytes.ContainsAny(plain, "\r\n") {
					want, kept = "250 554 250", 0
				}
				if got := r.said(); got != want || len(r.committed) != kept {
					t.Fatalf("%q cut at %d: replies %q and %d kept, want %q and %d", text, cut, got, len(r.committed), want, kept)
				}
				if kept == 0 {
					continue
				}
				whole := bytes.Clone(text)
				if len(text) > 0 && !bytes.HasSuffix(text, []byte("\r\n")) {
					whole = append(whole, "\r\n"...)
				}
				var u codec.Unstuffer
				_, content, _ := bytes.Cut(r.committed[0], []byte(" +0000\r\n"))
				if got := u.Append(nil, content); !bytes.Equal(got, whole) {
					t.Fatalf("%q cut at %d: kept %q", text, cut, got)
				}
			}
		})
	}
}

// A text of an envelope outlives its session's memory.
func TestIngressEnvelopeTextsAreTheirOwn(t *testing.T) {
	r := newIngressRig(IngressConfig{})
	r.input([]byte("EHLO a.example\r\n"))
	var kept []mail.Envelope
	r.refuse = func(a *Action) *mail.Refusal {
		if a.Kind == ActCommit {
			for _, e := range a.Envelopes {
				e.Recipients = slices.Clone(e.Recipients)
				kept = append(kept, e)
			}
		}
		return nil
	}
	for i := range 10 {
		r.input(fmt.Appendf(nil, "MAIL FROM:<a%d@b.example> ENVID=e%d\r\nRCPT TO:<c%d@d.example> ORCPT=rfc822;o%d\r\nDATA\r\n.\r\n", i, i, i, i))
	}
	if len(kept) != 10 {
		t.Fatalf("%d messages", len(kept))
	}
	for i, e := range kept {
		want := fmt.Sprintf("a%d@b.example e%d c%d@d.example rfc822;o%d", i, i, i, i)
		if got := strings.Join([]string{e.ReversePath, e.EnvID, e.Recipients[0].Address, e.Recipients[0].ORcpt}, " "); got != want {
			t.Errorf("message %d is now %q, was %q", i, got, want)
		}
	}
}
