package bounce

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/rs/zerolog"

	"odmr/internal/clocktest"
	"odmr/internal/mail"
	"odmr/queue"
	"odmr/queue/conformance"
	"odmr/queue/pebblestore"
)

// world is a store, a Reporter and what it was told.
type world struct {
	t        *testing.T
	clock    *clocktest.Clock
	store    *pebblestore.Store
	reporter *Reporter
	holds    holds
	damaged  map[uint64]bool   // places of entries that a review passes over
	looked   int               // entries that were walked over
	stretch  int               // of the Reporter, if not 0
	each     time.Duration     // that looking at an entry takes
	policy   map[string]Policy // that differs from usual
	broken   error             // of the directory
	unknown  error             // of the policy
	counted  map[string]int
	woken    int
	largest  int // octets of the reports of one batch
	log      bytes.Buffer
}

var usual = Policy{Retention: 5 * 24 * time.Hour, DelayNotice: 4 * time.Hour, Bounce: true}

func newWorld(t *testing.T) *world {
	t.Helper()
	w := &world{t: t, clock: clocktest.At(time.Date(2026, 11, 24, 12, 0, 0, 0, time.UTC)), policy: map[string]Policy{}, counted: map[string]int{}}
	var err error
	w.store, err = pebblestore.Open(t.TempDir(), pebblestore.Options{Now: w.clock.Now, MemTableSize: 1 << 20, Ballast: -1, MinFreeSpace: 1 << 20})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		conformance.Clean(t, w.store)
		if err := w.store.Close(); err != nil {
			t.Error(err)
		}
	})
	w.restart()
	return w
}

// holds keeps what a Reporter has it keep.
type holds struct {
	kept   map[string]time.Time
	broken error
	saves  int
}

func (h *holds) Load() (map[string]time.Time, error)  { return h.kept, h.broken }
func (h *holds) Save(kept map[string]time.Time) error { h.kept, h.saves = kept, h.saves+1; return nil }

// damaged is a store of which some entries cannot be reviewed.
type damaged struct {
	Store
	w *world
}

func (d damaged) Review(domain string, stage queue.Stage, seqs []uint64, decide func(*queue.Reviewed) queue.Decision) error {
	sound := slices.DeleteFunc(slices.Clone(seqs), func(seq uint64) bool { return d.w.damaged[seq] })
	octets := 0
	defer func() { d.w.largest = max(d.w.largest, octets) }()
	return d.Store.Review(domain, stage, sound, func(e *queue.Reviewed) queue.Decision {
		v := decide(e)
		for i := range v.Messages {
			octets += len(v.Messages[i].Body)
		}
		return v
	})
}

func (d damaged) Walk(domain string, stage queue.Stage, from uint64, fn func(queue.Key, *mail.Envelope) bool) error {
	return d.Store.Walk(domain, stage, from, func(k queue.Key, env *mail.Envelope) bool {
		d.w.looked++
		d.w.clock.Add(d.w.each)
		return fn(k, env)
	})
}

// restart makes a Reporter that knows nothing.
func (w *world) restart() {
	w.reporter = New(Config{
		Store: damaged{w.store, w}, Hostname: "mail.isp.example", Now: w.clock.Now, Logger: zerolog.New(&w.log), Observer: w,
		Wake: func() { w.woken++ }, Holds: &w.holds,
		Policy: func(domain string) (Policy, error) {
			if p, ok := w.policy[domain]; ok {
				return p, w.unknown
			}
			return usual, w.unknown
		},
		Held: func(domain string) (bool, error) { return strings.HasSuffix(domain, "held.example"), w.broken },
	})
	if w.stretch > 0 {
		w.reporter.stretch = w.stretch
	}
}

func (w *world) Reported(kind string)    { w.counted[kind]++ }
func (w *world) Discarded(reason string) { w.counted[reason]++ }

// put hands a message in. recipients are "local NOTIFY"; NOTIFY is a number.
func (w *world) put(domain, sender string, recipients ...string) mail.ID {
	w.t.Helper()
	return w.putAged(0, domain, sender, recipients...)
}

// putAged hands in a message that arrived elsewhere so long ago, as an import does.
func (w *world) putAged(age time.Duration, domain, sender string, recipients ...string) mail.ID {
	w.t.Helper()
	body := "Subject: hello\r\n\r\nHello.\r\n"
	env := mail.Envelope{Domain: domain, Arrived: w.clock.Now().Add(-age).UnixNano(), ReversePath: sender, Size: int64(len(body)), WireSize: int64(len(body))}
	for _, r := range recipients {
		local, notify, _ := strings.Cut(r, " ")
		n, _ := strconv.Atoi(notify)
		env.Recipients = append(env.Recipients, mail.Recipient{Address: local + "@" + domain, Notify: mail.Notify(n)})
	}
	in, err := w.store.Begin(0)
	if err != nil {
		w.t.Fatal(err)
	}
	if err := in.Commit([]byte(body), []mail.Envelope{env}); err != nil {
		w.t.Fatal(err)
	}
	return in.ID()
}

// collect takes everything that waits for domain; outcomes are given in turns.
func (w *world) collect(domain string, outcomes ...mail.OutcomeStatus) (contents []string, envelopes []mail.Envelope) {
	w.t.Helper()
	l, err := w.store.Acquire([]string{domain})
	if err != nil {
		w.t.Fatal(err)
	}
	defer l.Release()
	ds, err := l.Next(nil, queue.Limit{Messages: 1 << 20, Bytes: 1 << 30})
	if err != nil {
		w.t.Fatal(err)
	}
	for _, d := range ds {
		b, err := conformance.ReadBody(d.Body)
		if err != nil {
			w.t.Fatal(err)
		}
		contents, envelopes = append(contents, string(b)), append(envelopes, d.Envelope)
		st := queue.Settlement{Key: d.Key}
		for i := range d.Envelope.Recipients {
			st.Outcomes = append(st.Outcomes, mail.Outcome{Status: outcomes[i%len(outcomes)], Reply: "550 5.1.1 no such user"})
		}
		if err := l.Settle([]queue.Settlement{st}); err != nil {
			w.t.Fatal(err)
		}
	}
	return contents, envelopes
}

// work has the Reporter do all that there is to do.
func (w *world) work() {
	w.t.Helper()
	for range 1000 {
		if !w.reporter.Pass(context.Background()) {
			return
		}
	}
	w.t.Fatal("the reporter does not come to an end")
}

// reports takes the reports for the outside.
func (w *world) reports() []string {
	w.t.Helper()
	contents, envelopes := w.collect(mail.OutboundDomain, mail.OutcomeDelivered)
	for _, env := range envelopes {
		if env.ReversePath != "" || len(env.Recipients) != 1 {
			w.t.Errorf("a report with envelope %+v", env)
		}
	}
	return contents
}

func (w *world) wantReports(want ...[]string) {
	w.t.Helper()
	got := w.reports()
	if len(got) != len(want) {
		w.t.Fatalf("%d reports, want %d\n%s", len(got), len(want), strings.Join(got, "\n=====\n"))
	}
	for i, texts := range want {
		for _, text := range texts {
			if not, ok := strings.CutPrefix(text, "!"); ok == strings.Contains(got[i], strings.TrimPrefix(text, "!")) {
				w.t.Errorf("report %d: %q, %v\n%s", i, not, ok, got[i])
			}
		}
	}
}

const (
	failed    = mail.OutcomeFailed
	delivered = mail.OutcomeDelivered
	deferred  = mail.OutcomeDeferred
)

// Each failed recipient gets the report that is due, once, and nothing else.
func TestFailedOnce(t *testing.T) {
	w := newWorld(t)
	w.put("one.example", "ann@elsewhere.example", "a", "b", fmt.Sprint("c ", mail.NotifyNever))
	w.put("one.example", "", "a")
	w.put("one.example", "bob@elsewhere.example", fmt.Sprint("a ", mail.NotifySuccess))
	w.put("one.example", "cid@elsewhere.example", fmt.Sprint("a ", mail.NotifyFailure), fmt.Sprint("b ", mail.NotifyNever))
	w.collect("one.example", failed, delivered, failed)
	w.work()
	w.wantReports(
		[]string{"To: <ann@elsewhere.example>", "Final-Recipient: rfc822; a@one.example", "!b@one.example", "!c@one.example", "550 5.1.1 no such user", "Subject: hello", "!Hello."},
		[]string{"To: <cid@elsewhere.example>", "a@one.example", "!b@one.example"},
	)
	if got := w.store.Totals(); got != (queue.Counts{}) {
		t.Errorf("left: %+v", got)
	}
	w.restart()
	w.work()
	w.wantReports()
	if w.counted["failed"] != 2 || w.counted["no-sender"] != 1 || w.counted["unasked"] != 1 || w.woken == 0 {
		t.Errorf("counted %v, woken %d", w.counted, w.woken)
	}
}

// What is to be said of very many recipients does not fit into one report: each is in one of several, and the mail
// of others does not wait for it.
func TestManyRecipients(t *testing.T) {
	w := newWorld(t)
	many := make([]string, mail.MaxRecipients)
	for i := range many {
		many[i] = fmt.Sprintf("%0*d", mail.MaxLocalPart, i)
	}
	w.put("one.example", "ann@elsewhere.example", many...)
	w.put("one.example", "bob@elsewhere.example", "b")
	w.collect("one.example", failed)
	w.work()
	reports := w.reports()
	all, ids := strings.ReplaceAll(strings.Join(reports, ""), "\r\n ", " "), map[string]bool{} // unfolded
	for _, local := range append(many, "b") {
		if n := strings.Count(all, "Final-Recipient: rfc822; "+local+"@one.example\r\n"); n != 1 {
			t.Fatalf("%s is in %d reports", local, n)
		}
	}
	for _, report := range reports {
		_, rest, _ := strings.Cut(report, "\r\nMessage-Id: ")
		id, _, _ := strings.Cut(rest, "\r\n")
		ids[id] = true
	}
	if len(reports) < 3 || len(ids) != len(reports) {
		t.Errorf("%d reports with ids %v", len(reports), ids)
	}
	if got := w.store.Totals(); got != (queue.Counts{}) || w.counted["failed"] != 2 {
		t.Errorf("left: %+v, counted %v", got, w.counted)
	}
}

// While nobody can say what holds for a domain, nothing becomes of its mail: it may be on hold.
func TestPolicyUnknown(t *testing.T) {
	w := newWorld(t)
	w.put("one.example", "ann@elsewhere.example", "a")
	w.collect("one.example", failed)
	w.put("one.example", "bob@elsewhere.example", "b")
	w.unknown = errors.New("directory unavailable")
	w.clock.Add(usual.Retention + time.Hour)
	w.work()
	w.wantReports()
	if c := w.store.Counts("one.example"); c.Messages != 1 || c.Failed != 1 {
		t.Fatalf("%+v", c)
	}
	w.unknown = nil
	w.clock.Add(time.Minute)
	w.work()
	w.wantReports([]string{"To: <ann", "Status: 5.1.1"}, []string{"To: <bob", "Status: 4.4.7"})
}

// Mail that nobody collects expires at its time, not before; recipients that have failed before are not told of again.
func TestExpiry(t *testing.T) {
	w := newWorld(t)
	w.policy["one.example"] = Policy{Retention: 48 * time.Hour, Bounce: true}
	w.put("one.example", "ann@elsewhere.example", "a", "b", fmt.Sprint("c ", mail.NotifyDelay))
	w.collect("one.example", failed, deferred, deferred)
	w.work()
	w.wantReports([]string{"To: <ann", "a@one.example", "!b@one.example", "Status: 5.1.1", "!Status: 4.4.7"})
	w.clock.Add(time.Hour)
	w.put("one.example", "bob@elsewhere.example", "d")
	w.put("one.example", "", "e")
	w.work()
	w.clock.Add(47*time.Hour - time.Second)
	w.work()
	w.wantReports()
	w.clock.Add(time.Minute)
	w.work()
	w.wantReports([]string{"To: <ann", "!a@one.example", "b@one.example", "!c@one.example", "Status: 4.4.7", "!Status: 5.1.1", "waited for 2 days"})
	if got := w.store.Counts("one.example").Messages; got != 2 {
		t.Fatalf("%d messages left, want 2", got)
	}
	w.clock.Add(time.Hour)
	w.work()
	w.wantReports([]string{"To: <bob", "d@one.example"})
	if w.counted["failed"] != 1 || w.counted["expired"] != 2 || w.counted["no-sender"] != 1 {
		t.Errorf("counted %v", w.counted)
	}
}

// The sender of mail that waits hears of it once, even if the server is started anew; the mail stays.
func TestDelayNotice(t *testing.T) {
	w := newWorld(t)
	for i, n := range []mail.Notify{0, mail.NotifyDelay, mail.NotifyFailure, mail.NotifyNever, mail.NotifySuccess | mail.NotifyDelay} {
		w.put("one.example", fmt.Sprintf("s%d@elsewhere.example", i), fmt.Sprint("a ", n))
	}
	w.put("one.example", "", "a")
	w.work()
	w.clock.Add(4*time.Hour - time.Minute)
	w.work()
	w.wantReports()
	w.clock.Add(2 * time.Minute)
	w.work()
	w.wantReports([]string{"To: <s0@", "Action: delayed", "Will-Retry-Until: 29 Nov 2026 12:00:00 +0000"}, []string{"To: <s1@"}, []string{"To: <s4@"})
	for range 3 {
		w.clock.Add(time.Hour)
		w.restart()
		w.work()
	}
	w.wantReports()
	if _, envs := w.collect("one.example", delivered); len(envs) != 6 || !envs[0].DelayNotified || envs[2].DelayNotified {
		t.Errorf("collected %+v", envs)
	}
}

// While nobody can say where a report belongs the sender is not forgotten: it hears of the delay afterwards.
func TestDelayNoticeLater(t *testing.T) {
	w := newWorld(t)
	w.put("one.example", "", "a")
	w.put("one.example", "ann@elsewhere.example", "a")
	w.put("one.example", "bob@elsewhere.example", "a")
	w.clock.Add(usual.DelayNotice)
	w.broken = errors.New("directory unavailable")
	w.work()
	w.wantReports()
	w.broken = nil
	w.clock.Add(again)
	w.work()
	w.wantReports([]string{"To: <ann", "Action: delayed"}, []string{"To: <bob", "Action: delayed"})
}

// A report for a domain that is held here waits for that customer, and what that customer refuses of it is the end.
func TestHeldSender(t *testing.T) {
	w := newWorld(t)
	w.put("one.example", "ann@HELD.example", "a")
	w.put("one.example", "bob@[192.0.2.1]", "a")
	w.collect("one.example", failed)
	w.broken = errors.New("the directory is down")
	w.work()
	if got := w.store.Totals(); got.Failed != 1 || got.Messages != 1 { // the other's is for no domain
		t.Fatalf("without a directory: %+v", got)
	}
	w.broken = nil
	w.clock.Add(again)
	w.work()
	w.wantReports([]string{"To: <bob@[192.0.2.1]>"})
	contents, envs := w.collect("held.example", failed)
	if len(contents) != 1 || !strings.Contains(contents[0], "To: <ann@HELD.example>") || envs[0].ReversePath != "" {
		t.Fatalf("in held.example: %q %+v", contents, envs)
	}
	w.work()
	w.wantReports()
	if got := w.store.Totals(); got != (queue.Counts{}) {
		t.Errorf("left: %+v", got)
	}
}

// With bounces off, what failed is kept for who looks until its time is over; then it goes, and the log says so.
func TestBounceOff(t *testing.T) {
	w := newWorld(t)
	w.policy["one.example"] = Policy{Retention: 24 * time.Hour}
	w.put("one.example", "ann@elsewhere.example", "a")
	w.put("one.example", "ann@elsewhere.example", "b", "c")
	w.collect("one.example", failed, deferred)
	w.work()
	w.clock.Add(23 * time.Hour)
	w.work()
	if got := w.store.Counts("one.example"); got.Failed != 1 || got.Messages != 1 {
		t.Fatalf("before its time: %+v", got)
	}
	w.clock.Add(2 * time.Hour)
	w.work()
	w.wantReports()
	if got := w.store.Totals(); got != (queue.Counts{}) {
		t.Errorf("left: %+v", got)
	}
	if w.counted["bounce-off"] != 2 || !strings.Contains(w.log.String(), "message discarded") {
		t.Errorf("counted %v, log %s", w.counted, w.log.String())
	}
}

// While a customer is away nothing expires and nobody is told of delays; the clock goes on when it is back.
func TestHold(t *testing.T) {
	w := newWorld(t)
	away := usual
	away.Hold = true
	w.policy["one.example"] = away
	w.put("one.example", "ann@elsewhere.example", "a")
	for range 20 {
		w.clock.Add(24 * time.Hour)
		w.work()
	}
	w.wantReports()
	delete(w.policy, "one.example")
	w.clock.Add(3 * time.Hour)
	w.work()
	w.wantReports()
	w.clock.Add(2 * time.Hour)
	w.work()
	w.wantReports([]string{"Action: delayed", "Will-Retry-Until: 19 Dec 2026"})
	w.clock.Add(5 * 24 * time.Hour)
	w.work()
	w.wantReports([]string{"Status: 4.4.7"})
}

// The clock that stood still while a customer was away is not set back by a restart: neither while it is away, nor once
// it is back. Where it cannot be known any more, that of all mail begins anew.
func TestHoldOverARestart(t *testing.T) {
	for _, broken := range []error{nil, errors.New("cannot be read")} {
		w := newWorld(t)
		away := usual
		away.Hold, away.DelayNotice = true, 0
		w.policy["one.example"], w.policy["two.example"] = away, Policy{Retention: usual.Retention, Bounce: true}
		w.put("one.example", "ann@elsewhere.example", "a")
		for range 20 {
			w.clock.Add(24 * time.Hour)
			w.work()
			w.restart()
		}
		w.work()
		w.put("two.example", "ann@elsewhere.example", "a")
		w.work()
		if saves := w.holds.saves; saves == 0 || len(w.holds.kept) != 1 {
			t.Fatalf("kept %v, %d times", w.holds.kept, saves)
		}
		w.policy["one.example"] = w.policy["two.example"]
		w.clock.Add(time.Minute)
		w.holds.broken = broken
		w.restart() // just when it is back
		w.holds.broken = nil
		w.work()
		w.wantReports()
		w.clock.Add(usual.Retention - time.Hour)
		w.restart()
		w.work()
		w.wantReports()
		w.clock.Add(2 * time.Hour)
		w.work()
		w.wantReports([]string{"Status: 4.4.7", "one.example"}, []string{"Status: 4.4.7", "two.example"})
	}
}

// Who wanted to hear of success hears of it from us, where the customer's server will not tell; with what failed in one report.
func TestRelayed(t *testing.T) {
	w := newWorld(t)
	w.put("one.example", "ann@elsewhere.example", fmt.Sprint("a ", mail.NotifySuccess), "b")
	l, err := w.store.Acquire([]string{"one.example"})
	if err != nil {
		t.Fatal(err)
	}
	ds, err := l.Next(nil, queue.Limit{Messages: 1, Bytes: 1 << 20})
	if err != nil {
		t.Fatal(err)
	}
	ds[0].Body.Close()
	outcomes := []mail.Outcome{{Reply: "250 ok", Relayed: true}, {Status: failed, Reply: "550 no"}}
	if err := l.Settle([]queue.Settlement{{Key: ds[0].Key, Outcomes: outcomes}}); err != nil {
		t.Fatal(err)
	}
	l.Release()
	w.work()
	w.wantReports([]string{"Final-Recipient: rfc822; a@one.example\r\nAction: relayed", "Final-Recipient: rfc822; b@one.example\r\nAction: failed"})
}

// Mail of a domain that is being collected is the session's.
func TestLeasedIsLeftAlone(t *testing.T) {
	w := newWorld(t)
	w.put("one.example", "ann@elsewhere.example", "a")
	w.clock.Add(6 * 24 * time.Hour)
	l, err := w.store.Acquire([]string{"one.example"})
	if err != nil {
		t.Fatal(err)
	}
	w.work()
	if got := w.store.Counts("one.example").Messages; got != 1 {
		t.Fatalf("%d messages", got)
	}
	l.Release()
	w.clock.Add(sweep)
	w.work()
	w.wantReports([]string{"Status: 4.4.7"})
}

// Reports that nobody takes off our hands go too when their time is over.
func TestReportsExpire(t *testing.T) {
	w := newWorld(t)
	w.put("one.example", "ann@elsewhere.example", "a")
	w.collect("one.example", failed)
	w.work()
	w.clock.Add(6 * 24 * time.Hour)
	w.work()
	if got := w.store.Totals(); got != (queue.Counts{}) || w.counted["no-sender"] != 1 {
		t.Errorf("left: %+v, counted %v", got, w.counted)
	}
}

// A Reporter that ends before it has seen the queue keeps nothing: it would say that nobody was on hold.
func TestHoldsOfAnEarlyEnd(t *testing.T) {
	w := newWorld(t)
	w.put("one.example", "ann@elsewhere.example", "a")
	w.holds.broken = errors.New("cannot be read")
	w.restart()
	over, cancel := context.WithCancel(context.Background())
	cancel()
	if w.reporter.Run(over); w.holds.saves != 0 {
		t.Errorf("kept %v", w.holds.kept)
	}
	if w.reporter.Pass(context.Background()); w.holds.saves != 1 || len(w.holds.kept) != 1 {
		t.Errorf("kept %v, %d times", w.holds.kept, w.holds.saves)
	}
}

// Reports that are very large are spread over several batches, and none is lost or written twice.
func TestLargeReports(t *testing.T) {
	w := newWorld(t)
	const messages, each = 24, mail.MaxRecipients
	recipients := make([]string, each)
	for i := range recipients {
		recipients[i] = fmt.Sprintf("%0*d", mail.MaxLocalPart, i)
	}
	for range messages {
		w.put(strings.Repeat("long.", 45)+"example", "ann@elsewhere.example", recipients...)
	}
	w.clock.Add(6 * 24 * time.Hour)
	w.work()
	total, told := 0, 0
	contents, _ := w.collect(mail.OutboundDomain, delivered)
	for _, text := range contents {
		total += len(text)
		told += strings.Count(text, "Final-Recipient:")
	}
	if told != messages*each {
		t.Errorf("%d recipients were told of, want %d", told, messages*each)
	}
	if total <= batchOctets || w.largest > batchOctets+total/messages*2 || w.largest == total {
		t.Errorf("%d octets in all, %d in a batch", total, w.largest)
	}
}

// manyExpired is how many messages expire at once; ODMR_EXPIRED=1000000 for the size that was asked for.
func manyExpired(t *testing.T) int {
	text := os.Getenv("ODMR_EXPIRED")
	if text == "" {
		return 5000
	}
	n, err := strconv.Atoi(text)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// Very many messages that expire at once do not keep a customer from collecting: mail that comes in meanwhile goes out all
// along, one message for 500 that expire at the least.
func TestManyExpired(t *testing.T) {
	w := newWorld(t)
	n := manyExpired(t)
	var putting sync.WaitGroup
	for part := range 16 {
		putting.Go(func() {
			for i := part; i < n; i += 16 {
				w.put(fmt.Sprintf("d%d.example", i%7), "ann@elsewhere.example", "a")
			}
		})
	}
	putting.Wait()
	began := time.Now()
	w.clock.Add(6 * 24 * time.Hour)
	ctx, cancel := context.WithCancel(t.Context())
	var running sync.WaitGroup
	running.Go(func() { w.reporter.Run(ctx) })
	live, alive := 0, make([]int, 11)
	for {
		left := 0
		for i := range 7 {
			left += int(w.store.Counts(fmt.Sprintf("d%d.example", i)).Messages)
		}
		w.put("live.example", "ann@elsewhere.example", "a")
		contents, _ := w.collect("live.example", delivered)
		live += len(contents)
		alive[10-left*10/n] += len(contents)
		if left == 0 {
			break
		}
	}
	cancel()
	running.Wait()
	t.Logf("%d expired in %v, %d live messages meanwhile, by tenths %v", n, time.Since(began).Round(time.Second), live, alive)
	// Not by tenths: on a busy machine one may be over before a single message has gone through.
	if live-alive[10] < n/500 {
		t.Errorf("%d live messages while there was work, want %d", live-alive[10], n/500)
	}
	if got := w.store.Counts(mail.OutboundDomain).Messages; got != int64(n) || w.store.Totals().Failed != 0 {
		t.Errorf("%d reports for %d expired messages; %+v", got, n, w.store.Totals())
	}
}
