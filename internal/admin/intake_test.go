package admin

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"testing"
	"testing/iotest"
	"time"

	"odmr/internal/mail"
	"odmr/queue"
	"odmr/queue/pebblestore"
)

// door lets in what is for *.example but full.example, and remembers what came in.
type door struct {
	mu       sync.Mutex
	imported []string // domain and recipients
}

func (d *door) Admit(a *Asked) (string, *mail.Refusal) {
	domain := a.Recipient[strings.LastIndexByte(a.Recipient, '@')+1:]
	if domain == "full.example" && len(a.Waive) == 0 || !strings.HasSuffix(domain, ".example") {
		return "", &mail.Refusal{Code: 550, Enhanced: "5.1.2", Text: "not here"}
	}
	return domain, nil
}

func (d *door) Imported(envelopes []mail.Envelope) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, v := range envelopes {
		d.imported = append(d.imported, fmt.Sprint(v.Domain, len(v.Recipients)))
	}
}

// taking is running with an intake behind door.
func taking(t *testing.T) (*pebblestore.Store, *Client, *door) {
	t.Helper()
	return takingAt(t, new(Intake))
}

func takingAt(t *testing.T, intake *Intake) (*pebblestore.Store, *Client, *door) {
	t.Helper()
	dir := shortDir(t)
	store, err := pebblestore.Open(QueueDir(dir), pebblestore.Options{Now: time.Now})
	if err != nil {
		t.Fatal(err)
	}
	d := new(door)
	intake.Store, intake.Gate = store, d
	s, err := ServeControl(dir, store, intake)
	if err != nil {
		t.Fatal(err)
	}
	client, err := Dial(t.Context(), dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		client.Close()
		if err := errors.Join(s.Shutdown(context.Background()), store.Close()); err != nil {
			t.Error(err)
		}
	})
	return store, client, d
}

// letterFor is a letter with content for recipients, named by both.
func letterFor(content string, to ...string) *Letter {
	v := mail.Envelope{ReversePath: "s@x.example", Arrived: 1_700_000_000_000_000_000, Size: int64(len(content))}
	for _, a := range to {
		v.Recipients = append(v.Recipients, mail.Recipient{Address: a})
	}
	l := NewLetter(&v)
	sum := sha256.Sum256([]byte(content))
	l.Content = hex.EncodeToString(sum[:])
	for _, a := range to {
		stamp := sha256.Sum256([]byte(a + content))
		l.Stamps = append(l.Stamps, hex.EncodeToString(stamp[:]))
	}
	return &l
}

// verdicts is an answer in a word or two for each recipient.
func verdicts(a *Answer) string {
	if a == nil {
		return "no answer"
	}
	var all []string
	for _, v := range a.Recipients {
		text := v.Verdict
		if v.Reason != "" {
			text += " " + strings.Join(strings.Fields(v.Reason)[:2], " ")
		}
		all = append(all, text)
	}
	return strings.Join(all, ", ")
}

// What is taken, what not and why; and what is in the queue in the end.
func TestIntake(t *testing.T) {
	store, client, d := taking(t)
	large := strings.Repeat(".line of a large message\r\n", 50_000)
	changed := letterFor("Subject: changed\r\n", "a@one.example")
	loop := strings.Repeat("Received: x\r\n", mail.MaxReceived+1) + "\r\n"
	for _, c := range []struct {
		letter  *Letter
		content string
		want    string
	}{
		{letterFor(".one\r\n", "a@one.example", "b@two.example", "c@one.example", "d@elsewhere.invalid"), ".one\r\n", "taken, taken, taken, refused 550 5.1.2"},
		{letterFor(".one\r\n", "a@one.example", "e@one.example"), ".one\r\n", "here, taken"},
		{letterFor(".one\r\n", "a@one.example"), ".one\r\n", "here"},
		{letterFor(large, "a@one.example", "a@one.example"), large, "taken, here"},
		{letterFor("", "a@one.example"), "", "taken"},
		{changed, "Subject: changes\r\n", "refused 451 4.3.0"},
		{changed, "Subject: changed\r\nmore\r\n", "refused 451 4.3.0"},
		{letterFor("bare\rcr\r\n", "a@one.example"), "bare\rcr\r\n", "refused 554 5.6.0"},
		{letterFor("bare\nlf\r\n", "a@one.example"), "bare\nlf\r\n", "refused 554 5.6.0"},
		{letterFor("nul\x00\r\n", "a@one.example"), "nul\x00\r\n", "refused 554 5.6.0"},
		{letterFor("no end", "a@one.example"), "no end", "refused 554 5.6.0"},
		{letterFor(loop, "a@one.example"), loop, "refused 554 5.4.6"},
		{letterFor("x\r\n", "a@full.example"), "x\r\n", "refused 550 5.1.2"},
		{func() *Letter { l := letterFor("y\r\n", "a@full.example"); l.Waive = []string{"quota"}; return l }(), "y\r\n", "taken"},
	} {
		asked, err := client.Ask(t.Context(), []Letter{*c.letter})
		if err != nil {
			t.Fatal(err)
		}
		if got := verdicts(&asked[0]); !strings.HasPrefix(c.want, "refused 4") && !strings.HasPrefix(c.want, "refused 554") && got != c.want {
			t.Errorf("asked about %.20q: %s, want %s", c.content, got, c.want)
		}
		var answer *Answer
		i := client.Import(t.Context(), func(a *Answer) { answer = a })
		if err := i.Send(c.letter, iotest.OneByteReader(strings.NewReader(c.content))); err != nil {
			t.Fatal(err)
		}
		if err := i.Close(); err != nil {
			t.Fatal(err)
		}
		if got := verdicts(answer); got != c.want {
			t.Errorf("%.20q: %s, want %s", c.content, got, c.want)
		}
	}
	if got, want := fmt.Sprint(d.imported), "[one.example2 two.example1 one.example1 one.example1 one.example1 full.example1]"; got != want {
		t.Errorf("imported %s, want %s", got, want)
	}
	var bodies []string
	if err := store.List("one.example", func(e queue.Entry) bool {
		b, err := store.Open(e.Envelope.ID)
		if err != nil {
			t.Fatal(err)
		}
		defer b.Close()
		var text bytes.Buffer
		if err := CopyBody(&text, b); err != nil {
			t.Fatal(err)
		}
		bodies = append(bodies, text.String())
		if e.Envelope.Arrived != 1_700_000_000_000_000_000 || e.Envelope.WireSize != int64(text.Len()) {
			t.Errorf("envelope %+v", e.Envelope)
		}
		return true
	}); err != nil {
		t.Fatal(err)
	}
	if want := []string{"..one\r\n", "..one\r\n", strings.ReplaceAll(large, ".line", "..line"), ""}; len(bodies) != 4 || strings.Join(bodies, "|") != strings.Join(want, "|") {
		t.Errorf("%d bodies: %.60q", len(bodies), bodies)
	}
}

// A letter with two names is here by either of them, also where two imports bring it by different ones at the same moment.
func TestIntakeTwoNames(t *testing.T) {
	store, client, _ := taking(t)
	const content = "x\r\n"
	named := func(names ...string) Letter {
		l := letterFor(content, "a@one.example", "b@two.example")
		all := [][]string{nil, nil}
		for i, n := range names {
			for _, r := range l.Recipients {
				stamp := sha256.Sum256([]byte(n + r.Address))
				all[i] = append(all[i], hex.EncodeToString(stamp[:]))
			}
		}
		l.Stamps, l.Also = all[0], all[1]
		return *l
	}
	bring := func(l ...Letter) []string {
		t.Helper()
		answers := make([]string, len(l))
		i := client.Import(t.Context(), func(a *Answer) { answers[a.N] = verdicts(a) })
		for n := range l {
			if err := i.Send(&l[n], strings.NewReader(content)); err != nil {
				t.Fatal(err)
			}
		}
		if err := i.Close(); err != nil {
			t.Fatal(err)
		}
		return answers
	}
	for _, c := range []struct {
		letters []Letter
		want    string
	}{
		{[]Letter{named("mbox 1", "common 1")}, "taken, taken"},
		{[]Letter{named("maildir 1", "common 1")}, "here, here"},
		{[]Letter{named("common 1")}, "here, here"},
		{[]Letter{named("mbox 1")}, "here, here"},
		{[]Letter{named("mbox 2")}, "taken, taken"}, // by an older version
		{[]Letter{named("mbox 2", "common 2")}, "here, here"},
		{[]Letter{named("mbox 3", "common 3"), named("maildir 3", "common 3"), named("common 3")}, "taken, taken; here, here; here, here"},
	} {
		if got := strings.Join(bring(c.letters...), "; "); got != c.want {
			t.Errorf("%v: %s, want %s", c.letters, got, c.want)
		}
	}
	if n := store.Totals().Messages; n != 6 {
		t.Errorf("%d messages, want 6", n)
	}
}

// Many letters on one import are answered each by its number; one that is given up has no answer and disturbs no other; two imports of
// the same at once bring each once.
func TestIntakeMany(t *testing.T) {
	store, client, _ := taking(t)
	const letters = 200
	var wg sync.WaitGroup
	var mu sync.Mutex
	count := map[string]int{}
	for range 2 {
		wg.Go(func() {
			i := client.Import(t.Context(), func(a *Answer) {
				mu.Lock()
				defer mu.Unlock()
				count[verdicts(a)]++
				if a.N%10 == 3 {
					t.Errorf("letter %d was given up and is answered", a.N)
				}
			})
			for n := range letters {
				content := io.Reader(strings.NewReader(fmt.Sprintf("letter %d\r\n", n)))
				l := letterFor(fmt.Sprintf("letter %d\r\n", n), "a@one.example")
				switch n % 20 {
				case 3:
					content = io.MultiReader(strings.NewReader("lett"), iotest.ErrReader(io.ErrClosedPipe))
				case 13:
					if err := i.Skip(); err != nil {
						t.Error(err)
					}
					continue
				}
				if err := i.Send(l, content); (err != nil) != (n%20 == 3) {
					t.Errorf("letter %d: %v", n, err)
				}
			}
			if err := i.Close(); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if n := letters - letters/10; count["taken"] != n || count["here"] != n || store.Counts("one.example").Messages != int64(n) {
		t.Errorf("answers %v, %d messages, want %d", count, store.Counts("one.example").Messages, n)
	}
}

// Clients that were stopped do not keep others out for ever.
func TestIntakeStandsStill(t *testing.T) {
	intake := &Intake{Stall: 20 * time.Millisecond}
	_, client, _ := takingAt(t, intake)
	for n := range 2 * maxImports {
		in, stopped := io.Pipe()
		if n%2 == 1 {
			go stopped.Write([]byte{frameLetter, 0, 0})
		}
		err := client.receive(t.Context(), in, func(*Answer) {})
		if !errors.Is(err, ErrStill) || !strings.Contains(err.Error(), "nothing came for 20ms") {
			t.Error(err)
		}
		in.CloseWithError(ErrEnded)
	}
	intake.Stall = 0 // whoever asks now may be slow
	if _, err := client.Ask(t.Context(), []Letter{*letterFor("x\r\n", "a@one.example")}); err != nil {
		t.Error(err)
	}
}

// quota lets one message into full.example, whatever else is there or coming, and all into others.
type quota struct {
	door
	store *pebblestore.Store
}

func (q *quota) Admit(a *Asked) (string, *mail.Refusal) {
	domain := a.Recipient[strings.LastIndexByte(a.Recipient, '@')+1:]
	if domain != "full.example" {
		return domain, nil
	}
	if n, placed := a.Ahead(domain); !placed && q.store.Counts(domain).Messages+n.Messages > 0 {
		return "", &mail.Refusal{Code: 452, Enhanced: "4.2.2", Text: "full"}
	}
	return domain, nil
}

// TestIntakeWaitsForItsOwn: whether a quota is full is not said before what is coming for that account is there or is not to be, and then
// whatever comes for others, by somebody who stands still.
func TestIntakeWaitsForItsOwn(t *testing.T) {
	intake := new(Intake)
	store, client, _ := takingAt(t, intake)
	intake.Gate = &quota{store: store}
	begin := func(l *Letter, domain string) (giveUp func()) {
		in, out := io.Pipe()
		ended := make(chan error, 1)
		go func() { ended <- client.receive(t.Context(), in, func(*Answer) {}) }()
		head, err := json.Marshal(l)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := out.Write(append(binary.BigEndian.AppendUint32([]byte{frameLetter}, uint32(len(head))), head...)); err != nil {
			t.Fatal(err)
		}
		for end := time.Now().Add(time.Minute); intake.coming.now()[domain].Messages == 0; time.Sleep(time.Millisecond) {
			if time.Now().After(end) {
				t.Fatalf("nothing is coming for %s", domain)
			}
		}
		return func() {
			out.Write([]byte{frameGiveUp, 0, 0, 0, 0})
			out.Close()
			if err := <-ended; err != nil {
				t.Error(err)
			}
		}
	}
	bring := func(content string) chan string {
		said := make(chan string, 1)
		i := client.Import(t.Context(), func(a *Answer) { said <- verdicts(a) })
		go func() {
			err := i.Send(letterFor(content, "a@full.example"), strings.NewReader(content))
			if err := errors.Join(err, i.Close()); err != nil {
				t.Error(err)
			}
			close(said)
		}()
		return said
	}
	await := func(said chan string, want string) {
		t.Helper()
		select {
		case got := <-said:
			if got != want {
				t.Errorf("%s, want %s", got, want)
			}
			<-said // the import is over: no more than two may be
		case <-time.After(time.Minute):
			t.Error("it waits for somebody else")
		}
	}
	giveUp := begin(letterFor("y\r\n", "b@full.example"), "full.example")
	said := bring("x\r\n")
	time.Sleep(20 * time.Millisecond) // for it to come to its quota; sooner would be no failure
	select {
	case got := <-said:
		t.Errorf("%s, while it is not known", got)
	default:
	}
	giveUp()
	await(said, "taken")
	giveUp = begin(letterFor("z\r\n", "b@slow.example"), "slow.example")
	await(bring("more\r\n"), "refused 452 4.2.2")
	giveUp()
}

// An import too many is told so, however much it has begun to send, and there is room for it as soon as another has ended.
func TestIntakeIsBounded(t *testing.T) {
	intake := new(Intake)
	_, client, _ := takingAt(t, intake)
	var others []*Import
	for range maxImports {
		others = append(others, client.Import(t.Context(), func(*Answer) {}))
	}
	for end := time.Now().Add(time.Minute); ; time.Sleep(time.Millisecond) {
		intake.running.Lock()
		n := intake.imports
		intake.running.Unlock()
		if n == maxImports {
			break
		}
		if time.Now().After(end) {
			t.Fatalf("%d imports are under way", n)
		}
	}
	large := strings.Repeat("a line of a large message\r\n", 100_000)
	try := func() error {
		i := client.Import(t.Context(), func(*Answer) {})
		_ = i.Send(letterFor(large, "a@one.example"), strings.NewReader(large))
		return i.Close()
	}
	for range 20 {
		if err := try(); !errors.Is(err, ErrNoImport) {
			t.Errorf("one too many: %v", err)
		}
	}
	for _, i := range others {
		if err := i.Close(); err != nil {
			t.Error(err)
		}
		if err := try(); err != nil {
			t.Errorf("once another has ended: %v", err)
		}
	}
}

// What no client of ours would send ends the import with an error, and takes nothing.
func TestIntakeRefusesNonsense(t *testing.T) {
	store, client, _ := taking(t)
	bad := func(change func(*Letter)) *Letter {
		l := letterFor("x\r\n", "a@one.example")
		change(l)
		return l
	}
	for name, l := range map[string]*Letter{
		"no recipients":  letterFor("x\r\n"),
		"no stamps":      bad(func(l *Letter) { l.Stamps = nil }),
		"bad stamp":      bad(func(l *Letter) { l.Stamps[0] = "xyz" }),
		"one name less":  bad(func(l *Letter) { l.Also = make([]string, 2) }),
		"bad other name": bad(func(l *Letter) { l.Also = []string{"xyz"} }),
		"bad content":    bad(func(l *Letter) { l.Content = "00" }),
		"negative size":  bad(func(l *Letter) { l.Size = -1 }),
		"injected":       bad(func(l *Letter) { l.Sender = "a@x.example> RET=FULL ENVID=<" }),
		"injected too":   bad(func(l *Letter) { l.EnvID = "a RET=FULL" }),
		"no address":     bad(func(l *Letter) { l.Recipients[0].Address = "postmaster" }),
		"injected rcpt":  bad(func(l *Letter) { l.Recipients[0].ORcpt = "rfc822;x NOTIFY=NEVER" }),
		"not ASCII":      bad(func(l *Letter) { l.Sender = "ü@x.example" }),
		"two things":     bad(func(l *Letter) { l.Recipients[0].Notify = []string{"NEVER", "DELAY"} }),
		"too many":       letterFor("x\r\n", make([]string, mail.MaxRecipients+1)...),
		"line end in it": bad(func(l *Letter) { l.Recipients[0].Address = "a\r\n@one.example" }),
	} {
		if l.Check() == nil {
			t.Errorf("%s is found sound", name)
		}
		if _, err := client.Ask(t.Context(), []Letter{*l}); !errors.Is(err, errRequest) {
			t.Errorf("%s, asked: %v", name, err)
		}
		i := client.Import(t.Context(), func(a *Answer) { t.Errorf("%s: %s", name, verdicts(a)) })
		_ = i.Send(l, strings.NewReader("x\r\n"))
		if err := i.Close(); !errors.Is(err, errRequest) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if err := bad(func(l *Letter) { l.Sender = "\xff@x.example"; l.SMTPUTF8 = true }).Check(); err == nil { // JSON would make it another address
		t.Error("a sender that is not UTF-8 is found sound")
	}
	if n := store.Totals(); n != (queue.Counts{}) {
		t.Errorf("in the queue: %+v", n)
	}
	_, _, closed := running(t)
	if _, err := closed.Ask(t.Context(), nil); !errors.Is(err, ErrNoImport) {
		t.Errorf("a server without intake: %v", err)
	}
}

// FuzzIntake: whatever the frames, nothing is taken that was not whole.
func FuzzIntake(f *testing.F) {
	f.Add([]byte("L\x00\x00\x00\x02{}E\x00\x00\x00\x00"))
	f.Add([]byte("X\x00\x00\x00\x00"))
	f.Add([]byte("D\xff\xff\xff\xff"))
	store, err := pebblestore.Open(f.TempDir(), pebblestore.Options{Now: time.Now})
	if err != nil {
		f.Fatal(err)
	}
	f.Cleanup(func() { _ = store.Close() })
	l, err := net.Listen("unix", f.TempDir()+"/s")
	if err != nil {
		f.Fatal(err)
	}
	s := Serve(Control(store, &Intake{Store: store, Gate: new(door)}), l)
	f.Cleanup(func() { _ = s.Shutdown(context.Background()) })
	f.Fuzz(func(t *testing.T, b []byte) {
		conn, err := net.Dial("unix", l.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		fmt.Fprintf(conn, "POST /import HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: %d\r\n\r\n%s", len(b), b)
		answer, _ := io.ReadAll(conn)
		if bytes.Contains(answer, []byte(`"taken"`)) && !bytes.Contains(b, []byte(`"stamps"`)) {
			t.Fatalf("%q: %q", b, answer)
		}
	})
}
