package engine

import (
	"errors"
	"io"
	"math/rand/v2"
	"net/netip"
	"strings"
	"testing"
	"time"

	"odmr/codec"
	"odmr/engine/session"
	"odmr/queue"
)

func TestValidateReportsEveryProblem(t *testing.T) {
	cfg := Config{
		Listeners:      []Listener{{Role: SMTP, Addr: "nonsense"}, {Role: ODMR, Addr: "127.0.0.1:366"}, {Role: LMTP, Addr: "127.0.0.1:366"}, {Role: 9, Addr: ":0"}},
		Trusted:        []netip.Prefix{{}},
		Loops:          maxLoops + 1,
		MaxMessageSize: -1, MaxSessions: -1, Workers: -1, PrefetchMemory: 1, IngestMemory: 1,
		Timeouts: Timeouts{Quit: -1},
	}
	err := cfg.Validate()
	if err == nil {
		t.Fatal("no problem found")
	}
	for _, want := range []string{"Hostname", "Store", "Directory", `"nonsense"`, "Authenticator", "listed twice", "role 9",
		"Trusted[0]", "Loops", "MaxMessageSize", "MaxSessions", "Workers", "PrefetchMemory", "IngestMemory", "Timeouts"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("nothing is said about %s:\n%v", want, err)
		}
	}
	if _, err := New(cfg); err == nil {
		t.Error("New took it")
	}
}

// TestWheel compares the wheel with a plain list of deadlines.
func TestWheel(t *testing.T) {
	const n = 500
	seed := rand.Uint64()
	r := rand.New(rand.NewPCG(seed, 1))
	var w wheel
	clock := session.Time(1_700_000_000_000_000_000)
	w.init(clock)
	timers := make([]timer, n)
	want := make([]session.Time, n)
	set := func(i int, in time.Duration) {
		want[i] = clock + session.Time(in)
		w.set(&timers[i], want[i])
	}
	for i := range timers {
		set(i, time.Duration(r.Int64N(int64(3*time.Minute))))
	}
	fired := make([]bool, n)
	for range 20_000 {
		step := time.Duration(r.Int64N(int64(300 * time.Millisecond)))
		if r.IntN(1000) == 0 {
			step = 2 * time.Minute // the machine slept
		}
		clock += session.Time(step)
		w.advance(clock, func(tm *timer) {
			i := indexOf(timers, tm)
			if want[i] > clock { // set later meanwhile, or never
				w.set(tm, want[i])
				return
			}
			fired[i] = true
			want[i] = session.Never
		})
		for i := range want {
			if want[i] != session.Never && want[i] <= clock-session.Time(tickInterval) {
				t.Fatalf("seed %d: timer %d is late by %s", seed, i, time.Duration(clock-want[i]))
			}
		}
		for range 5 {
			i := r.IntN(n)
			switch r.IntN(4) {
			case 0:
				want[i] = session.Never
			default:
				set(i, time.Duration(r.Int64N(int64(2*time.Minute))))
			}
		}
	}
	for i, f := range fired {
		if !f {
			t.Errorf("seed %d: timer %d never fired", seed, i)
		}
	}
}

func indexOf(timers []timer, tm *timer) int {
	for i := range timers {
		if &timers[i] == tm {
			return i
		}
	}
	return -1
}

// parts is a body in given segments, of which the first so many are ready.
type parts struct {
	segs   []string
	all    []string
	ready  int
	size   int64
	lent   int
	closed int
}

func newParts(ready int, segs ...string) *parts {
	p := &parts{segs: segs, all: segs, ready: ready}
	for _, s := range segs {
		p.size += int64(len(s))
	}
	return p
}

func (p *parts) Size() int64 { return p.size }
func (p *parts) Close()      { p.closed++ }
func (p *parts) Release()    { p.lent-- }

// Rewind cuts the rest otherwise than before: into ever longer pieces.
func (p *parts) Rewind(offset int64) {
	p.ready, p.segs = 0, nil
	rest := strings.Join(p.all, "")[offset:]
	for n := 1; rest != ""; n += 3 {
		k := min(n, len(rest))
		p.segs = append(p.segs, rest[:k])
		rest = rest[k:]
	}
}

// shared makes p what a source has.
func (p *parts) shared() *sharedBody { return &sharedBody{LeasedBody: p, users: 1} }

func (p *parts) Ready() (queue.Segment, bool, error) {
	if len(p.segs) > 0 && p.ready == 0 {
		return queue.Segment{}, false, nil
	}
	p.ready--
	s, err := p.Next()
	return s, true, err
}

func (p *parts) Next() (queue.Segment, error) {
	if len(p.segs) == 0 {
		return queue.Segment{}, io.EOF
	}
	s := p.segs[0]
	p.segs = p.segs[1:]
	p.lent++
	return queue.Segment{Data: []byte(s), Released: p}, nil
}

// TestOutputTakesAnyCutting writes streams of replies and bodies through kernels that take any number of octets.
func TestOutputTakesAnyCutting(t *testing.T) {
	for seed := range uint64(300) {
		r := rand.New(rand.NewPCG(seed, 2))
		lp := &loop{eng: &Engine{}, small: buffers{size: 64}, large: buffers{size: plainSize}}
		o := output{lp: lp}
		var want strings.Builder
		var bodies []*parts
		retired := 0
		retire := func(s *source) { o.retire(s); s.body.Close(); retired++ }
		got := drainBy(t, &o, r, retire, func() bool { // called between writes: adds something
			if r.IntN(3) > 0 && len(bodies) < 8 {
				var segs []string
				for range r.IntN(5) {
					segs = append(segs, strings.Repeat(string(rune('a'+r.IntN(26))), 1+r.IntN(300))+"\r\n..x\r\n")
				}
				all := strings.Join(segs, "")
				for segs = nil; len(segs)*150 < len(all); { // cut anywhere, even between a line's end and its dot
					at := min(150, len(all)-len(segs)*150)
					segs = append(segs, all[len(segs)*150:][:at])
				}
				p := newParts(r.IntN(len(segs)+1), segs...)
				plain := r.IntN(2) == 0
				bodies = append(bodies, p)
				if plain {
					var u codec.Unstuffer
					all = string(u.Append(nil, []byte(all)))
				}
				want.WriteString(all)
				o.body(&source{body: p.shared(), plain: plain})
			}
			reply := strings.Repeat("r", r.IntN(200))
			want.WriteString(reply)
			o.write([]byte(reply))
			return len(bodies) < 8
		})
		if got != want.String() {
			t.Fatalf("seed %d: %d octets, want %d", seed, len(got), want.Len())
		}
		if o.held != 0 || o.pending != 0 || o.bodies != 0 || lp.eng.lent.Load() != 0 || retired != len(bodies) {
			t.Fatalf("seed %d: held %d pending %d bodies %d lent %d retired %d of %d", seed, o.held, o.pending, o.bodies, lp.eng.lent.Load(), retired, len(bodies))
		}
		for i, p := range bodies {
			if p.lent != 0 || p.closed != 1 {
				t.Fatalf("seed %d: body %d: %d segments lent, closed %d times", seed, i, p.lent, p.closed)
			}
		}
	}
}

// drainBy plays kernel and worker until more says that nothing is added any more and the output is empty.
func drainBy(t *testing.T, o *output, r *rand.Rand, retire func(*source), more func() bool) string {
	var got strings.Builder
	adding := true
	for turns := 0; adding || !o.empty(); turns++ {
		if turns > 100_000 {
			t.Fatal("no end")
		}
		if adding && r.IntN(2) == 0 {
			adding = more()
		}
		o.trim(retire)
		total, err := o.gather()
		if err != nil {
			t.Fatal(err)
		}
		n := 0
		if total > 0 {
			n = r.IntN(total + 1)
		}
		left := n
		for _, b := range o.iov {
			k := min(left, len(b))
			got.Write(b[:k])
			left -= k
		}
		o.took(int64(n))
		o.trim(retire)
		for i := o.head; i < len(o.pieces); i++ { // memory is wanted by others
			if s := o.pieces[i].src; s != nil && r.IntN(4) == 0 {
				o.giveUp(s)
				s.body.Rewind(s.body.Size() - s.left)
			}
		}
		if s := o.wants(); s != nil {
			s.fetch = true
			seg, err := s.body.Next()
			o.fetched(s, seg, err)
		}
	}
	return got.String()
}

// What is left when the socket goes is given back, whatever stands where.
func TestOutputDrop(t *testing.T) {
	lp := &loop{eng: &Engine{}, small: buffers{size: 64}, large: buffers{size: plainSize}}
	o := output{lp: lp}
	p, q := newParts(1, "one\r\n", "two\r\n"), newParts(1, "three\r\n")
	o.write([]byte("before"))
	o.body(&source{body: p.shared(), plain: true})
	o.body(&source{body: q.shared()})
	if _, err := o.gather(); err != nil {
		t.Fatal(err)
	}
	o.took(8)
	s := o.wants()
	if s == nil {
		t.Fatal("the second segment is not wanted")
	}
	seg, err := p.Next()
	o.fetched(s, seg, err)
	if p.lent != 2 || lp.eng.lent.Load() != 10 {
		t.Fatalf("%d segments, %d octets lent before the end", p.lent, lp.eng.lent.Load())
	}
	o.drop(func(s *source) { o.retire(s); s.body.Close() })
	if p.lent+q.lent != 0 || p.closed != 1 || q.closed != 1 || lp.eng.lent.Load() != 0 || !o.empty() {
		t.Errorf("lent %d %d, closed %d %d, %d octets", p.lent, q.lent, p.closed, q.closed, lp.eng.lent.Load())
	}
}

// A body that is shorter or longer than it says must not pass for a whole one.
func TestOutputBodyOfWrongSize(t *testing.T) {
	for name, p := range map[string]*parts{"short": newParts(1, "abc\r\n"), "long": newParts(1, "abc\r\n")} {
		lp := &loop{eng: &Engine{}, small: buffers{size: 64}, large: buffers{size: plainSize}}
		o := output{lp: lp}
		p.size += map[string]int64{"short": 1, "long": -1}[name]
		p.ready = 9
		o.body(&source{body: p.shared()})
		var err error
		for range 3 {
			if err == nil {
				var n int
				n, err = o.gather()
				o.took(int64(n))
			}
		}
		if !errors.Is(err, errBodyShort) {
			t.Errorf("%s: %v", name, err)
		}
		o.drop(func(s *source) { o.retire(s); s.body.Close() })
		if p.lent != 0 {
			t.Errorf("%s: %d segments are lent", name, p.lent)
		}
	}
}

func TestPrefetchBudget(t *testing.T) {
	woken := 0
	lp := &loop{}
	lp.inbox.wake = func() error { woken++; return nil }
	b := prefetchBudget{limit: 1 << 20}
	for range 4 {
		b.join()
	}
	if got := b.share(10 << 20); got != 256<<10 {
		t.Errorf("share %d", got)
	}
	if got := b.share(100); got != minShare {
		t.Errorf("least share %d", got)
	}
	if !b.reserve(waiter{lp, 1, evGrant, 5 << 20}) {
		t.Error("a wish larger than all must be granted when nothing is in use")
	}
	if b.reserve(waiter{lp, 2, evGrant, 1}) || b.reserve(waiter{lp, 3, evRoom, 1 << 20}) || b.reserve(waiter{lp, 4, evGrant, 1}) {
		t.Error("granted beyond the limit")
	}
	b.charge(-(5<<20 - 1<<20 + 1)) // room for one octet
	b.charge(-1)                   // for one more; but the line is kept
	if events := lp.inbox.take(nil); len(events) != 1 || events[0].conn != 2 || events[0].n != 1 {
		t.Fatalf("granted %+v", events)
	}
	b.charge(-b.used)
	if events := lp.inbox.take(nil); len(events) != 1 || events[0].conn != 3 || events[0].kind != evRoom {
		t.Fatalf("granted %+v", events)
	}
	b.charge(-1 << 20)
	if events := lp.inbox.take(nil); len(events) != 1 || events[0].conn != 4 {
		t.Fatalf("granted %+v", events)
	}
	if woken != 3 {
		t.Errorf("%d wake-ups for 3 grants", woken)
	}
}

func TestInboxAfterClose(t *testing.T) {
	lp := &loop{}
	wakes := 0
	lp.inbox.wake = func() error { wakes++; return nil }
	var gone [3]bool
	for i := range 2 {
		lp.inbox.post(event{kind: evDone, job: &goneJob{&gone[i]}})
	}
	if wakes != 1 {
		t.Errorf("%d wake-ups for two events", wakes)
	}
	lp.inbox.close()
	lp.inbox.post(event{kind: evDone, job: &goneJob{&gone[2]}})
	if gone != [3]bool{true, true, true} || wakes != 1 {
		t.Errorf("discarded %v, wake-ups %d", gone, wakes)
	}
}

type goneJob struct{ gone *bool }

func (j *goneJob) run()       {}
func (j *goneJob) fail(error) {}
func (j *goneJob) discard()   { *j.gone = true }
